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


def structure_difference(wanted: Any, given: Any) -> str:
    """One line for each place where two tree structures differ."""
    lines = [
        f"  at {jax.tree_util.keystr(path) or 'the root'}: {mine} in the output, {theirs} in the cotangent ({why})"
        for path, mine, theirs, why in jax.tree_util.equality_errors_pytreedef(wanted, given)
    ] if hasattr(jax.tree_util, "equality_errors_pytreedef") else []
    return "\n".join(lines) or f"  output:    {wanted}\n  cotangent: {given}"
