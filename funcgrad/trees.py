"""Floor 0: pytrees and argnums."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax

Argnums = int | Sequence[int]


def canonical_argnums(argnums: Argnums) -> int | tuple[int, ...]:
    """`argnums` as an int or a tuple of ints; raises TypeError for anything else, as JAX does."""
    try:
        return operator.index(argnums)  # type: ignore[arg-type]
    except TypeError:
        return tuple(map(operator.index, argnums))  # type: ignore[arg-type]


def split_arguments(fun: Callable, argnums: int | tuple[int, ...], args: tuple, kwargs: dict) -> tuple[Callable, tuple]:
    """``(f, chosen)`` where ``f(*chosen) == fun(*args, **kwargs)`` and `chosen` are the arguments at `argnums`.

    Raises TypeError when there are too few positional arguments, ValueError when argnums fall outside them.
    """
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    largest = max(numbers, default=-1)
    if largest >= len(args):
        raise TypeError(
            f"differentiating with respect to argnums={argnums} requires at least {largest + 1} positional arguments "
            f"to be passed by the caller, but got only {len(args)} positional arguments."
        )
    if any(n < -len(args) for n in numbers):
        raise ValueError(f"argnums={argnums} points before the first of {len(args)} positional arguments.")
    positions = tuple(n % len(args) for n in numbers)

    def partial(*chosen: Any) -> Any:
        full = list(args)
        for position, value in zip(positions, chosen, strict=True):
            full[position] = value
        return fun(*full, **kwargs)

    partial.__name__ = getattr(fun, "__name__", type(fun).__name__)
    return partial, tuple(args[i] for i in positions)


def check_callable(fun: Any) -> None:
    """Raises TypeError for what cannot be called, or is a generator function."""
    if not callable(fun):
        raise TypeError(f"Expected a callable value, got {fun}")
    if jax.tree_util.all_leaves([fun]) and getattr(getattr(fun, "__code__", None), "co_flags", 0) & 0x20:
        raise TypeError(f"Expected a function, got a generator function: {fun}")


def structure_difference(wanted: Any, given: Any) -> str:
    """One line for each place where two tree structures differ."""
    lines = [
        f"  at {jax.tree_util.keystr(path) or 'the root'}: {mine} in the output, {theirs} in the cotangent ({why})"
        for path, mine, theirs, why in jax.tree_util.equality_errors_pytreedef(wanted, given)
    ] if hasattr(jax.tree_util, "equality_errors_pytreedef") else []
    return "\n".join(lines) or f"  output:    {wanted}\n  cotangent: {given}"
