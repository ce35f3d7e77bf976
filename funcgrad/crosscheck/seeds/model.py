"""What a seed is: a function, its arguments, the gradient that is right, and where the wrong one was born."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


class Born(enum.StrEnum):
    """Where the fault was born.

    RULE: in the derivative rule of a primitive, or in how JAX handles calls and loops; funcgrad's own must be right.
    FORWARD: in the forward code of a library function: its program really has this derivative.
    CUSTOM: in a custom rule of a library function, which any autodiff runs as it is.
    """

    RULE = "primitive rule"
    FORWARD = "forward code"
    CUSTOM = "custom rule"


@dataclasses.dataclass(frozen=True)
class Seed:
    """One wrong gradient.

    Attributes:
      name: unique.
      issues: numbers of jax-ml/jax.
      what: what was, or is, wrong.
      fun: a function of arrays; all its floating arguments are differentiated, its outputs summed.
      args: the arguments, as NumPy arrays.
      expected: the gradient, one entry for each floating argument.
      how: how the expected value is known.
      born: where the fault was born.
      order: 1, or 2 for the gradient of the summed gradient.
      rtol: relative error that is not called wrong.
    """

    name: str
    issues: tuple[int, ...]
    what: str
    fun: Callable[..., Any]
    args: tuple[np.ndarray, ...]
    expected: tuple[Any, ...]
    how: str
    born: Born
    order: int = 1
    rtol: float = 1e-4

    @property
    def x64(self) -> bool:
        """Whether 64-bit types are needed."""
        return any(np.asarray(a).dtype in (np.float64, np.complex128) for a in self.args)

    def differentiated(self, grad: Callable[..., Any]) -> Callable[..., Any]:
        """The gradient of the seed's function as a function of `args`, made by this ``grad``."""
        fun = self.total
        numbers = self.argnums
        if self.order == 2:
            first = grad(fun, argnums=numbers)
            fun = lambda *args: _sum(first(*args))  # noqa: E731
        return grad(fun, argnums=numbers)

    @property
    def argnums(self) -> tuple[int, ...]:
        """The differentiated arguments."""
        return tuple(i for i, a in enumerate(self.args) if np.asarray(a).dtype.kind in "fcV")

    def total(self, *args: Array) -> Array:
        """The real sum of what the function returns."""
        return _sum(self.fun(*args))


def _sum(tree: Any) -> Array:
    leaves = [leaf.real if jnp.iscomplexobj(leaf) else leaf for leaf in map(jnp.asarray, jax.tree.leaves(tree))]
    return sum((jnp.sum(leaf) for leaf in leaves[1:]), jnp.sum(leaves[0]))


def close(given: Sequence[Array], wanted: Sequence[Any], rtol: float) -> bool:
    """Whether two gradients agree element by element; NaN agrees with nothing."""
    pairs = [(np.asarray(g, np.complex128), np.asarray(w, np.complex128)) for g, w in zip(given, wanted, strict=True)]
    # where the right value is zero, rounding of terms that cancel is let pass
    return all(g.shape == w.shape and bool(np.all(np.abs(g - w) <= rtol * np.where(w == 0, 1e-2, np.abs(w))))
               for g, w in pairs)
