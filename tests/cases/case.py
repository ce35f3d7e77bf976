"""The record that drives every test of a rule: one `Case` for each operation and setting (as PyTorch's OpInfo)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Args = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Boundary:
    """Arguments at a tie, a kink, an edge of the domain; and what the cotangents must be there.

    Attributes:
      label: what is special, for the test's name ("tie", "-0.0", "index out of range", "empty").
      args: the arguments; float arrays are cast to the dtype under test.
      expected: cotangents of the differentiated arguments for an all-ones cotangent, where JAX's own value is wrong or
        JAX has none; None: must equal `jax.vjp`'s (equal NaN count as equal only if `nan` is True).
      nan: NaN is the right answer somewhere.
      why: the proof, where `expected` differs from JAX.
    """

    label: str
    args: Args
    expected: tuple[Any, ...] | None = None
    nan: bool = False
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation in one setting.

    Attributes:
      name: unique; starts with the primitive's name ("dot_general[batch,preferred]").
      primitives: names of the primitives whose rules the case exercises.
      fun: a function of the arguments that returns an array or a pytree of arrays. `lax` calls, all params spelled out.
      args: ``args(rng) -> arguments``; draws points inside the domain, away from kinks, as numpy arrays in float64 or
        complex128 (cast to the dtype under test), int32, bool.
      argnums: the differentiated arguments; None: every inexact one.
      dtypes: real dtypes under test; complex arguments become the complex type of the same precision.
      boundary: special points.
      orders: highest derivative order that is tested against finite differences and `jax.grad`.
      jax_agrees: False where `jax.vjp` is no oracle (JAX refuses, or is wrong); say why in `note`.
      numeric: False where finite differences are no oracle (kinks everywhere, random numbers); say why in `note`.
      scale: factor on the tolerance for ill-conditioned maps; say why in `note`.
    """

    name: str
    primitives: tuple[str, ...]
    fun: Callable[..., Any]
    args: Callable[[np.random.Generator], Args]
    argnums: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16", "float16")
    boundary: tuple[Boundary, ...] = ()
    orders: int = 2
    jax_agrees: bool = True
    numeric: bool = True
    scale: float = 1.0
    note: str = ""


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Args]:
    """Arguments of these shapes from the standard normal distribution."""
    return lambda rng: tuple(rng.standard_normal(shape) for shape in shapes)


def uniform(low: float, high: float, *shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Args]:
    """Arguments of these shapes from the uniform distribution on [low, high)."""
    return lambda rng: tuple(rng.uniform(low, high, shape) for shape in shapes)
