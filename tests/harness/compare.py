"""Comparison per element, in units of the last place times the map's own conditioning; never scaled by array size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad.crosscheck import compare
from funcgrad.crosscheck.compare import numbers, rounding, tiny

#: How often the inputs are moved by one unit in the last place to learn the conditioning.
NUDGES = 4


class Mismatch(AssertionError):
    """Two results differ; the message says where and by how much."""


def same_type(given: Any, wanted: Any, where: str) -> None:
    """Structure, shape, dtype and weak type agree."""
    if jax.tree.structure(given) != jax.tree.structure(wanted):
        raise Mismatch(f"{where}: structure {jax.tree.structure(given)}, wanted {jax.tree.structure(wanted)}")
    for (path, leaf), other in zip(jax.tree.leaves_with_path(given), jax.tree.leaves(wanted), strict=True):
        if _type_of(leaf) != _type_of(other):
            raise Mismatch(f"{where}{jax.tree_util.keystr(path)}: type {_type_of(leaf)}, wanted {_type_of(other)}")


def _type_of(leaf: Any) -> tuple[Any, ...]:
    aval = jax.typeof(leaf)
    return aval.shape, aval.dtype, aval.weak_type


def same_values(given: Sequence[Any], wanted: Sequence[Any], where: str, *, spread: Sequence[Any] | None = None,
                eps: float = 0.0, scale: float = 1.0, nan: bool = False) -> None:
    """Every element of every leaf agrees.

    Args:
      given: leaves under test.
      wanted: leaves of the oracle.
      where: what is compared, for the message.
      spread: how far each element of the oracle moves when the inputs move by one unit in the last place.
      eps: the machine epsilon of the dtype under test; a leaf's own counts when it is larger.
      scale: factor on the tolerance.
      nan: NaN is allowed where the oracle has NaN.
    """
    if len(given) != len(wanted):
        raise Mismatch(f"{where}: {len(given)} leaves, wanted {len(wanted)}")
    for i, (leaf, other) in enumerate(zip(given, wanted, strict=True)):
        moved = None if spread is None else spread[i]
        _same_leaf(_numpy(leaf), _numpy(other), f"{where}, leaf {i}", moved, eps, scale, nan)


def _same_leaf(given: np.ndarray, wanted: np.ndarray, where: str, spread: np.ndarray | None, eps: float,
               scale: float, nan: bool) -> None:
    if given.shape != wanted.shape or given.dtype != wanted.dtype:
        raise Mismatch(f"{where}: {given.dtype}{given.shape}, wanted {wanted.dtype}{wanted.shape}")
    if wanted.dtype == jax.dtypes.float0:
        return
    if not jnp.issubdtype(wanted.dtype, jnp.inexact):
        wrong = given != wanted
    else:
        wrong = ~_close(numbers(given), numbers(wanted), tolerance(wanted, spread, eps, scale), nan)
    if np.any(wrong):
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        allowed = tolerance(wanted, spread, eps, scale)
        raise Mismatch(
            f"{where}: {int(np.sum(wrong))} of {wanted.size} elements differ, first at {list(index)}: "
            f"given {given[index]!r}, wanted {wanted[index]!r}, allowed {allowed[index]:.3g}")


def _close(given: np.ndarray, wanted: np.ndarray, allowed: np.ndarray, nan: bool) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        close = (given == wanted) | (np.abs(given - wanted) <= allowed)
    both_nan = np.isnan(given) & np.isnan(wanted)
    return close | both_nan if nan else close & ~np.isnan(wanted)


def tolerance(wanted: np.ndarray, spread: np.ndarray | None, eps: float, scale: float) -> np.ndarray:
    """The error allowed in each element."""
    if not jnp.issubdtype(wanted.dtype, jnp.inexact):
        return np.zeros(wanted.shape)
    # XLA flushes subnormal numbers to zero, or not, as it likes: below `tiny` everything is equal.
    return scale * rounding(numbers(wanted), max(eps, float(jnp.finfo(wanted.dtype).eps)), tiny(wanted.dtype),
                            0.0 if spread is None else spread)


def conditioning(run: Callable[..., Sequence[Any]], inputs: Any, rng: np.random.Generator,
                 draws: int = NUDGES) -> list[np.ndarray]:
    """How far each element of ``run(inputs)`` moves when all inexact inputs move by one unit in the last place."""
    return compare.conditioning(lambda moved: list(map(_numpy, run(moved))), inputs, rng, draws)


def _numpy(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    # A Python number stands for the array that JAX would make of it.
    return np.asarray(jnp.asarray(leaf) if isinstance(leaf, bool | int | float | complex) else leaf)
