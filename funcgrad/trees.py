"""Floor 0: pytrees and argnums."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, dataclass_transform

import jax

Argnums = int | Sequence[int]
T = TypeVar("T")


def static(**options: Any) -> Any:
    """A field of a `pytree` that belongs to its structure: it must compare and hash. Options of `dataclasses.field`."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree: the leaves are those of its fields, except `static` ones.

    Two of them are never equal, because arrays are not equal or unequal as a whole; their structures are compared.
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls))


def canonical_argnums(argnums: Argnums) -> int | tuple[int, ...]:
    """`argnums` as an int or a tuple of ints; raises TypeError for anything else, as JAX does."""
    try:
        return operator.index(argnums)  # type: ignore[arg-type]
    except TypeError:
        return tuple(map(operator.index, argnums))  # type: ignore[arg-type]


def name_of(fun: Callable) -> str:
    """A function's name; of a `functools.partial` that of the function in it, of an object that of its class."""
    while isinstance(fun, functools.partial):
        fun = fun.func
    return str(getattr(fun, "__name__", type(fun).__name__))


def named_after(fun: Callable, what: str, argnums: int | tuple[int, ...]) -> Callable[[Callable], Callable]:
    """A decorator for the derivative of `fun`: its name, its attribute ``__wrapped__`` and a sentence on what it is."""
    def name(derivative: Callable) -> Callable:
        vars(derivative).update(getattr(fun, "__dict__", {}))  # an object's attributes, too, as JAX has it
        functools.update_wrapper(derivative, fun, updated=())
        derivative.__name__ = name_of(fun)
        derivative.__doc__ = (f"{what} of {name_of(fun)} with respect to positional argument(s) {argnums}. Takes the "
                              f"same arguments as {name_of(fun)}.")
        return derivative

    return name


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

    partial.__name__ = name_of(fun)
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
