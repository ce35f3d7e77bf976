"""Comparison per element, in units of the last place times the map's own conditioning; never scaled by array size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: Rounding errors allowed: of the element itself, and of what one last place of every input does to it.
ROUNDINGS = 8.0
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
        wrong = ~_close(_wide(given), _wide(wanted), tolerance(wanted, spread, eps, scale), nan)
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
    info = jnp.finfo(wanted.dtype)
    size = np.where(np.isfinite(_wide(wanted)), np.abs(_wide(wanted)), 0.0)
    moved = 0.0 if spread is None else spread
    # XLA flushes subnormal numbers to zero, or not, as it likes: below `tiny` everything is equal.
    return scale * ROUNDINGS * (max(eps, float(info.eps)) * size + moved + float(info.tiny))


def conditioning(run: Callable[..., Sequence[Any]], inputs: Any, rng: np.random.Generator,
                 draws: int = NUDGES) -> list[np.ndarray]:
    """How far each element of ``run(inputs)`` moves when all inexact inputs move by one unit in the last place."""
    centre = [_wide(_numpy(leaf)) for leaf in run(inputs)]
    moved = [np.zeros(leaf.shape) for leaf in centre]
    for _draw in range(draws):
        near = [_wide(_numpy(leaf)) for leaf in run(jax.tree.map(lambda leaf: _nudged(leaf, rng), inputs))]
        with np.errstate(invalid="ignore"):
            moved = [np.fmax(m, np.abs(a - b)) for m, a, b in zip(moved, near, centre, strict=True)]
    return [np.where(np.isfinite(m), m, 0.0) for m in moved]


def _nudged(leaf: Any, rng: np.random.Generator) -> Any:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    values = np.asarray(leaf)
    signs = rng.choice([-1.0, 1.0], values.shape)
    wide = _wide(values)
    return jnp.asarray(wide * (1 + signs * float(jnp.finfo(leaf.dtype).eps)), dtype=leaf.dtype)


def _numpy(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    # A Python number stands for the array that JAX would make of it.
    return np.asarray(jnp.asarray(leaf) if isinstance(leaf, bool | int | float | complex) else leaf)


def _wide(values: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(values.dtype, jnp.inexact):
        return values
    return values.astype(np.complex128 if jnp.issubdtype(values.dtype, jnp.complexfloating) else np.float64)
