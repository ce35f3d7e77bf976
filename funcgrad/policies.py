"""Floor 2: policies say what a pullback keeps; the one in force is a context that JAX's caches know.

    "auto"          the cheapest by a cost model: bytes against operations, no contraction or loop twice (the default)
    "everything"    each value that a rule reads: nothing is computed twice
    "minimal"       the fewest bytes, whatever has to be computed again
    budget(bytes)   the fewest operations that fit
    a callable      ``(primitive, *avals, **params) -> saveable``, as in `jax.checkpoint_policies`
"""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax

NAMED = ("auto", "everything", "minimal")


@dataclasses.dataclass(frozen=True)
class Budget:
    """The policy of `budget`."""

    bytes: int


@dataclasses.dataclass(frozen=True)
class Segments:
    """Policy of the outer one of two loops that a long loop was cut into: it keeps the fewest bytes.

    Attributes:
      inner: the policy within a segment.
    """

    inner: Budget


Policy = str | Budget | Segments | Callable[..., Any]

_IN_FORCE = jax.make_user_context("auto")


def budget(number: Any) -> Budget:
    """The policy that keeps at most so many bytes, at the fewest operations.

    A loop whose states alone would take more is cut into segments: the state is kept at the start of each, and a
    segment runs again before its backward pass (Griewank and Walther 2000, "Revolve", with two levels or more). When
    even that does not fit, what is kept is the fewest bytes possible. Arguments of the differentiated function do not
    count, nor do the inputs and outputs of a loop: somebody holds them anyway.

    Args:
      number: bytes, for each pullback, and each loop on its own.

    Raises:
      ValueError: when it is negative or no number.

    >>> import jax.numpy as jnp, funcgrad
    >>> def last(x):
    ...     return jax.lax.scan(lambda y, _: (jnp.sin(y), None), x, length=10_000)[0]
    >>> bool(funcgrad.grad(last, policy=budget(1000))(1.0) == funcgrad.grad(last)(1.0))
    True
    """
    known = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not known or not 0 <= float(number) < float("inf"):
        raise ValueError(f"a budget is a number of bytes, 0 or more, got {number!r}.\n"
                         "To fix: give it a number, as in `funcgrad.budget(2e9)` for 2 GB.")
    return Budget(int(number))


def policy(value: Policy) -> AbstractContextManager[None]:
    """A context in which gradients keep what a policy says.

    Args:
      value: "auto", "everything", "minimal", a `budget`, or a callable of `jax.checkpoint_policies`.

    Raises:
      ValueError: for another name.
      TypeError: for what is no policy.

    >>> import funcgrad
    >>> with policy("minimal"):
    ...     float(funcgrad.grad(lambda x: x**3)(2.0))
    12.0
    """
    return _IN_FORCE(checked(value))


def given(value: Policy | None) -> AbstractContextManager[None]:
    """As `policy`; None leaves in force what is."""
    if value is None or value == _IN_FORCE.value:
        return contextlib.nullcontext()
    return policy(value)


def in_force() -> Policy:
    """The policy of the innermost context."""
    return _IN_FORCE.value


def checked(value: Any) -> Policy:
    """`value` if it is a policy; raises ValueError or TypeError."""
    if isinstance(value, str) and value not in NAMED:
        raise ValueError(f"unknown policy {value!r}.\nTo fix: use one of {', '.join(map(repr, NAMED))}, "
                         "funcgrad.budget(bytes), or a callable of jax.checkpoint_policies.")
    if not (isinstance(value, str | Budget | Segments) or callable(value)):
        raise TypeError(f"a policy is a name, a budget or a callable, got {value!r}.\n"
                        f"To fix: use one of {', '.join(map(repr, NAMED))}, funcgrad.budget(bytes), or a callable of "
                        "jax.checkpoint_policies.")
    return value


def own_policy(value: Policy, repetitions: int) -> Policy:
    """The policy for the body itself of a loop that runs so often, when `value` is in force around it."""
    return Budget(value.bytes // max(1, repetitions)) if isinstance(value, Budget) else value


def check_policy(value: Any) -> None:
    """Raises ValueError or TypeError for what is neither a policy nor None."""
    if value is not None:
        checked(value)


def inside(value: Policy, repetitions: int) -> Policy:
    """The policy for what is in the body of a loop that runs so often."""
    return value.inner if isinstance(value, Segments) else own_policy(value, repetitions)


def says_save(answer: Any) -> bool:
    """What the answer of a callable policy means: a bool, or one of JAX's markers; an offloaded value is a saved one.

    Raises:
      TypeError: for anything else, such as the function that an uncalled `save_only_these_names` gives back: read as
        true it would save everything.
    """
    kind = type(answer).__name__
    if isinstance(answer, bool) or kind == "bool_":
        return bool(answer)
    if kind in ("SaveableType", "RecomputeType", "Offloadable"):
        return kind != "RecomputeType"
    raise TypeError(f"a checkpoint policy answered with {answer!r}, which is neither a bool nor one of JAX's markers.\n"
                    "To fix: some entries of jax.checkpoint_policies make a policy and must be called first, as in "
                    "`save_only_these_names('weights')`.")
