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

    Raises ValueError when `argnums` is empty or falls outside the positional arguments.
    """
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    if not numbers:
        raise ValueError("argnums is empty: there is nothing to differentiate with respect to.")
    if any(not -len(args) <= n < len(args) for n in numbers):
        raise ValueError(f"argnums={argnums} falls outside the {len(args)} positional arguments that were passed.")
    positions = tuple(n % len(args) for n in numbers)

    def partial(*chosen: Any) -> Any:
        full = list(args)
        for position, value in zip(positions, chosen, strict=True):
            full[position] = value
        return fun(*full, **kwargs)

    partial.__name__ = getattr(fun, "__name__", type(fun).__name__)
    return partial, tuple(args[i] for i in positions)


def check_enough_arguments(argnums: int | tuple[int, ...], args: tuple) -> None:
    """Raises TypeError when there are fewer positional arguments than `argnums` asks for, as JAX's `grad` does."""
    largest = argnums if isinstance(argnums, int) else max(argnums, default=-1)
    if largest >= len(args):
        raise TypeError(
            f"differentiating with respect to argnums={argnums} requires at least {largest + 1} positional arguments "
            f"to be passed by the caller, but got only {len(args)} positional arguments."
        )


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
