"""Floor 0: pytrees and argnums."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

Argnums = int | Sequence[int]


def canonical_argnums(argnums: Argnums) -> int | tuple[int, ...]:
    """`argnums` as an int or a tuple of ints; raises TypeError for anything else, as JAX does."""
    try:
        return operator.index(argnums)  # type: ignore[arg-type]
    except TypeError:
        return tuple(map(operator.index, argnums))  # type: ignore[arg-type]


def split_arguments(fun: Callable, argnums: int | tuple[int, ...], args: tuple, kwargs: dict) -> tuple[Callable, tuple]:
    """``(f, chosen)`` where ``f(*chosen) == fun(*args, **kwargs)`` and `chosen` are the arguments at `argnums`.

    Raises ValueError when `argnums` is empty or falls outside the positional arguments, TypeError when it names one
    twice.
    """
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    if not numbers:
        raise ValueError("argnums is empty: there is nothing to differentiate with respect to.")
    if any(not -len(args) <= n < len(args) for n in numbers):
        raise ValueError(f"Positional argument indices must lie between -{len(args)} and {len(args) - 1}, because "
                         f"{len(args)} were passed, but got argnums={argnums}.")
    positions = tuple(n % len(args) for n in numbers)
    if len(set(positions)) < len(positions):
        raise TypeError(f"argnums={argnums} names the same argument more than once.\nTo fix: name each once.")

    def partial(*chosen: Any) -> Any:
        full = list(args)
        for position, value in zip(positions, chosen, strict=True):
            full[position] = value
        return fun(*full, **kwargs)

    partial.__name__ = getattr(fun, "__name__", type(fun).__name__)
    return partial, tuple(args[i] for i in positions)


def structure_difference(wanted: Any, given: Any, where: str = "out") -> str:
    """One line for each place where the tree structure of a cotangent is not that of the output."""
    mine, theirs = wanted.node_data(), given.node_data()
    if wanted == given:
        return ""
    if mine is None or mine != theirs or wanted.num_nodes == 1 or len(wanted.children()) != len(given.children()):
        return f"  at {where}: {wanted} in the output, {given} here"
    keys = mine[1] if mine[0] is dict else range(len(wanted.children()))
    lines = [structure_difference(child, other, f"{where}[{key!r}]")
             for key, child, other in zip(keys, wanted.children(), given.children(), strict=True)]
    return "\n".join(filter(None, lines))
