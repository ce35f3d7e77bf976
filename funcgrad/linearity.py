"""Floor 4: tangents are values that nobody knows. What else is unknown then, and is a program linear in them?

A rule of `jax.custom_jvp` that calls `jax.jvp` puts a function and its tangent into the same programs: the carry of one
`scan` is ``(y, dy)``. Of such a program the outputs that depend on no tangent are computed as ever, and only the others
are unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import Literal, Primitive
from jax.extend.core import primitives as p

from funcgrad import _compat, errors
from funcgrad.graph import carries_gradient
from funcgrad.registry import lookup
from funcgrad.rule import MapClass, VJPRule

Flags = Sequence[bool]


class Place(NamedTuple):
    """What should be linear, by its name, and an operation's place in the user's code: for the message."""

    function: str
    source: Any

    def at(self, source: Any) -> Place:
        """The place of an operation inside; that of the operation around it where a library wrote the program."""
        return Place(self.function, source) if _compat.has_user_frame(source) else self

    def refused(self, primitive: Primitive) -> Exception:
        """The error for an operation here that is not linear."""
        return errors.nonlinear(str(primitive), self.function, _compat.source_line(self.source))


def check_linear(rule: VJPRule, active: Flags, unknown: Flags, place: Place) -> None:
    """Raise NonlinearError when the derivative of an operation would read a value that is unknown.

    Args:
      rule: of the operation, one of first order.
      active: for each operand, whether it can have a cotangent.
      unknown: for each operand, whether its value depends on a tangent.
      place: where it is, for the message.
    """
    if rule.kind is MapClass.CONSTANT or not any(unknown):
        return
    reads_out, reads = rule.reads(tuple(active))
    if rule.kind is MapClass.JOINT:
        # one function for all operands reads what any of them needs, and `triangular_solve` is linear in one of two:
        # what is known to be needed are predicates and indices
        reads_out, unknown = False, [flag and not moves for flag, moves in zip(unknown, active, strict=True)]
    if reads_out or any(read and flag for read, flag in zip(reads, unknown, strict=True)):
        raise place.refused(rule.primitive)


def unknown_outputs(primitive: Primitive, params: dict[str, Any], unknown: Flags,
                    place: Place) -> tuple[bool, ...] | None:
    """For each output of an operation that runs programs, whether it depends on an unknown operand.

    None, all of them, where what it runs is not a program, or one of another signature.

    Raises:
      NonlinearError: where a derivative inside would read an unknown value, or an unknown value says which branch is
        taken or how often a loop runs.
    """
    decided, flags = _flow(primitive, params, unknown, place)
    if not decided:
        raise place.refused(primitive)
    return flags


def _flow(primitive: Primitive, params: dict[str, Any], unknown: Flags,
          place: Place) -> tuple[bool, tuple[bool, ...] | None]:
    """(is what it does independent of unknown values, which outputs are not)."""
    if primitive is p.scan_p:
        return True, _of_loop(params["jaxpr"].jaxpr, unknown, params["num_consts"], params["num_carry"], place)
    if primitive is p.while_p:
        return _of_while(params, unknown, place)
    if primitive is p.cond_p:
        branches = [_of_program(branch.jaxpr, unknown[1:], place) for branch in params["branches"]]
        return not unknown[0], tuple(map(any, zip(*branches, strict=True)))
    inner = next((params[name] for name in ("jaxpr", "call_jaxpr") if name in params), None)
    inner = getattr(inner, "jaxpr", inner)
    if inner is None or len(inner.invars) != len(unknown):
        return True, None
    return True, _of_program(inner, unknown, place)


def _of_program(jaxpr: Any, unknown: Flags, place: Place) -> tuple[bool, ...]:
    touched = {v for v, flag in zip(jaxpr.invars, unknown, strict=True) if flag}
    for eqn in jaxpr.eqns:
        flags = tuple(not isinstance(atom, Literal) and atom in touched for atom in eqn.invars)
        if any(flags):
            touched.update(v for v, flag in zip(eqn.outvars, _of_equation(eqn, flags, place), strict=True) if flag)
    return tuple(not isinstance(atom, Literal) and atom in touched for atom in jaxpr.outvars)


def _of_equation(eqn: Any, unknown: Flags, place: Place) -> Flags:
    rule, everything, place = lookup(eqn.primitive), (True,) * len(eqn.outvars), place.at(eqn.source_info)
    if rule is None or rule.kind in (MapClass.HIGHER_ORDER, MapClass.UNSUPPORTED, MapClass.MUTABLE):
        flags = unknown_outputs(eqn.primitive, eqn.params, unknown, place)
        return flags if flags is not None and len(flags) == len(everything) else everything
    active = tuple(flag and carries_gradient(atom.aval) for flag, atom in zip(unknown, eqn.invars, strict=True))
    check_linear(rule, active, unknown, place)
    return everything


def _of_loop(body: Any, unknown: Flags, consts: int, carry: int, place: Place) -> tuple[bool, ...]:
    """Of a `scan`: what an iteration makes unknown is so in the next one."""
    while True:
        outputs = _of_program(body, unknown, place)
        carried = tuple(map(any, zip(unknown[consts:consts + carry], outputs[:carry], strict=True)))
        if carried == tuple(unknown[consts:consts + carry]):
            return carried + outputs[carry:]
        unknown = (*unknown[:consts], *carried, *unknown[consts + carry:])


def _of_while(params: dict[str, Any], unknown: Flags, place: Place) -> tuple[bool, tuple[bool, ...]]:
    of_cond, consts = params["cond_nconsts"], params["body_nconsts"]
    carry = len(unknown) - of_cond - consts
    carried = _of_loop(params["body_jaxpr"].jaxpr, unknown[of_cond:], consts, carry, place)
    (stops,) = _of_program(params["cond_jaxpr"].jaxpr, (*unknown[:of_cond], *carried), place)
    return not stops, carried
