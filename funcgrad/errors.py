"""Floor 0: exception classes and their messages: what failed, both sides, how to mend it.

What a transform refuses with one of Python's own exceptions is in `funcgrad.checks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax


class MissingRuleError(NotImplementedError):
    """A primitive on the gradient's path has no VJP rule (JAX raises NotImplementedError there too)."""


class MissingRuleValueError(MissingRuleError, ValueError):
    """The same, for primitives where JAX raises ValueError: callbacks and foreign functions."""


class DuplicateRuleError(ValueError):
    """A second rule was registered for a primitive."""


class RuleError(TypeError):
    """A rule gave the wrong number of cotangents, or one of the wrong shape or dtype."""


class GradientCutError(jax.errors.ConcretizationTypeError):
    """A traced value was turned into a Python or NumPy number, which would cut the gradient silently."""

    def __init__(self, message: str):
        TypeError.__init__(self, message)


class ArrayCutError(jax.errors.TracerArrayConversionError):
    """A traced value was turned into a NumPy array, which would cut the gradient silently."""

    def __init__(self, message: str):
        TypeError.__init__(self, message)


class NonlinearError(ValueError):
    """A custom rule read a tangent or cotangent in which it must be linear."""


class ReferenceCutError(TypeError):
    """A value with a gradient was written into a mutable array from outside, which would cut the gradient silently."""


class WrongGradientError(AssertionError):
    """A check found a derivative that is wrong or not finite; the message says which, where and by how much."""


class TapError(ValueError):
    """A tap was not met, gave something that is no cotangent of its value, or stands where its value cannot leave."""


def describe(avals: Sequence[Any], active: Sequence[bool]) -> str:
    """``float32[3,3] (active), int32[]`` for a list of avals."""
    words = [aval.str_short() + (" (active)" if flag else "") for aval, flag in zip(avals, active, strict=True)]
    return ", ".join(words) or "none"


def missing_rule(primitive: Any, avals: Sequence[Any], active: Sequence[bool], params: dict[str, Any], source: str,
                 reason: str, kind: type[Exception] = NotImplementedError) -> MissingRuleError:
    """The error for a primitive that has no rule, or one that says it is unsupported."""
    shown = ", ".join(f"{key}={shortened(value, 60)}" for key, value in params.items()) or "none"
    error = MissingRuleValueError if kind is ValueError else MissingRuleError
    return error(
        f"Differentiation rule for '{primitive}' not implemented: no VJP rule for the primitive `{primitive}`.\n"
        f"  operands: {describe(avals, active)}\n"
        f"  params:   {shown}\n"
        f"  at:       {source}\n"
        f"  reason:   {reason}\n"
        "To fix: make the operand inactive with `jax.lax.stop_gradient`, or register a rule with `funcgrad.extend`."
    )


def duplicate_rule(primitive: Any, kind: str) -> DuplicateRuleError:
    """The error for a second rule; `kind` is the class of the map in the first."""
    return DuplicateRuleError(f"the primitive `{primitive}` has a rule already ({kind}).\n"
                              "To fix: remove one of the two registrations.")


def wrong_cotangent(rule: str, operand: int, wanted: str, given: str, source: str) -> RuleError:
    """The error for a cotangent that does not fit its operand."""
    return RuleError(
        f"the VJP rule of `{rule}` gave a cotangent that does not fit operand {operand}.\n"
        f"  given:  {given}\n"
        f"  wanted: {wanted}\n"
        f"  at:     {source}\n"
        "To fix: give back an array of exactly the operand's shape and dtype, or None for no cotangent."
    )


def wrong_count(rule: str, wanted: int, given: int, source: str) -> RuleError:
    """The error for a rule that gave too many or too few cotangents."""
    return RuleError(
        f"the VJP rule of `{rule}` gave {given} cotangents for {wanted} operands (at {source}).\n"
        "To fix: give back one cotangent for each operand, None where there is none."
    )


def nonlinear(primitive: str, function: str, source: str) -> NonlinearError:
    """The error for a custom rule that multiplies tangents, clips cotangents, …"""
    return NonlinearError(
        f"`{function}` must be linear in its tangents (or cotangents), but `{primitive}` at {source} is not.\n"
        "To fix: write the rule so that it is linear in them, or use reverse mode only."
    )


def gradient_cut(what: str, source: str, instead: str) -> GradientCutError:
    """The error for ``float(x)`` and its like."""
    return GradientCutError("Abstract tracer value encountered where concrete value is expected: "
                            + _cut_message(what, source, instead))


def array_cut(what: str, source: str, instead: str) -> ArrayCutError:
    """The error for ``np.asarray(x)`` and its like."""
    return ArrayCutError("The numpy.ndarray conversion method __array__() was called on a traced array: "
                         + _cut_message(what, source, instead))


def reference_cut(primitive: str, aval: str, source: str) -> ReferenceCutError:
    """The error for writing a value with a gradient into a mutable array from outside the differentiated function."""
    return ReferenceCutError(
        f"`{primitive}` at {source} writes a value with a gradient into a mutable array of type {aval} that was made "
        "outside the differentiated function, which would cut the gradient silently.\n"
        "To fix: make the array inside the function; or, if no gradient should flow here, write "
        "`jax.lax.stop_gradient(x)`, or make the array with `jax.new_ref(x, kind=\"no_grad_no_remat\")`."
    )


def mutable_operand(primitive: str, reason: str, source: str) -> NotImplementedError:
    """The error for a mutable array handed to an operation that cannot be traced with it."""
    return NotImplementedError(
        f"`{primitive}` at {source} is handed a mutable array that was made inside the differentiated function: "
        f"{reason}.\n"
        "To fix: hand it the array's value, `ref[...]`, and write what it returns."
    )


def _cut_message(what: str, source: str, instead: str) -> str:
    return (
        f"{what} of a traced value would cut the gradient silently, at {source}.\n"
        f"To fix: {instead}; or, if no gradient should flow here, say so with `jax.lax.stop_gradient(x)` first."
    )


# ---- taps ----

_LIKE_THE_COTANGENT = "To fix: return an array of the cotangent's shape and dtype"


def tap_gave_no_array(name: str, given: str, wanted: str) -> TapError:
    """The error for a tap that gave something that is no array."""
    return TapError(f"the tap {name!r} gave a {given} for a cotangent {wanted}.\n"
                    f"{_LIKE_THE_COTANGENT}; `ct` itself, where the function only looks at it.")


def tap_gave_another_type(name: str, given: str, wanted: str) -> TapError:
    """The error for a tap that gave an array of another shape or dtype."""
    return TapError(f"the tap {name!r} gave {given} for a cotangent {wanted}.\n"
                    f"{_LIKE_THE_COTANGENT}; jnp.zeros_like(ct) for zero.")


def tap_not_met(name: str, function: str, met: Sequence[str]) -> TapError:
    """The error for a name in `taps` that no value on the gradient's way has."""
    return TapError(f"`{function}` has no tap named {name!r} on the way of the gradient.\n"
                    f"  met: {', '.join(map(repr, met)) or 'none'}\n"
                    "To fix: mark the value with funcgrad.tap(x, name), under the name that `taps` has. What does not "
                    "depend on the differentiated arguments (`argnums`) has no cotangent, marked or not.")


def tap_inside(name: str, primitive: str, runs_often: bool) -> TapError:
    """The error for `return_taps` when a tap stands where its value cannot leave."""
    return TapError(f"what passes the tap {name!r} cannot be returned: it stands in the body of `{primitive}`"
                    + (", which runs a number of times that nobody knows beforehand.\nTo fix: use lax.scan or "
                       "lax.fori_loop with fixed bounds, or" if runs_often else ".\nTo fix:")
                    + " leave out return_taps and look at it with a function in `taps`, such as one that calls "
                    "jax.debug.print.")


def shortened(value: Any, length: int) -> str:
    """A value as text on one line, of at most so many characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= length else text[: length - 3] + "..."
