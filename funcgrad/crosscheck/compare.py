"""Comparison per element. A tolerance comes from the dtype, from the conditioning and from the length of reductions.

It never comes from the size of an array: an element is judged by itself, or by the largest of its array where rounding
mixes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any

#: Rounding errors allowed: of the element itself, and of what one last place of every input does to it.
ROUNDINGS = 8.0
#: The same for a program of many operations, times the root of its longest chain of additions.
ROUNDINGS_OF_PROGRAM = 32.0
#: The most that rounding explains, relative to the largest element: half-precision programs come near it.
LARGEST_NOISE = 0.4
#: How often inputs are moved by one last place to learn the conditioning.
NUDGES = 3


def numbers(value: Any) -> np.ndarray:
    """An array in double precision on the host; anything but floats and complex numbers as it is."""
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return array
    return array.astype(np.complex128 if jnp.issubdtype(array.dtype, jnp.complexfloating) else np.float64)


def is_inexact(value: Any) -> bool:
    """Whether a value is floating or complex."""
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.inexact))


def epsilon(values: Sequence[Any]) -> float:
    """The machine epsilon of the least precise of some arrays; that of float64 for none."""
    return max((float(jnp.finfo(v.dtype).eps) for v in values if jnp.issubdtype(v.dtype, jnp.inexact)),
               default=float(np.finfo(np.float64).eps))


def tiny(dtype: Any) -> float:
    """Below this everything is equal: XLA flushes subnormal numbers to zero, or not, as it likes."""
    return float(jnp.finfo(dtype).tiny)


def rounding(wanted: np.ndarray, eps: float, least: float, spread: np.ndarray | float = 0.0,
             roundings: float = ROUNDINGS) -> np.ndarray:
    """What rounding explains of a difference of one operation's derivative, for each element."""
    size = np.where(np.isfinite(wanted), np.abs(wanted), 0.0)
    return roundings * (eps * size + spread + least)


def noise_of_program(eps: float, reductions: float, value_noise: float) -> float:
    """What rounding explains in a program, relative to the largest element of an array."""
    return min(max(ROUNDINGS_OF_PROGRAM * eps * reductions**0.5, ROUNDINGS * value_noise), LARGEST_NOISE)


def largest(array: np.ndarray) -> float:
    """The largest finite magnitude, 0 for none."""
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def differs(given: np.ndarray, wanted: np.ndarray, allowed: np.ndarray | float) -> np.ndarray:
    """Where two arrays differ; NaN differs from everything, an infinity from all but itself."""
    with np.errstate(invalid="ignore"):
        return ~((np.abs(given - wanted) <= allowed) | ((given == wanted) & np.isinf(given)))


def worst(given: np.ndarray, wanted: np.ndarray, allowed: np.ndarray | float, most: int = 1) -> list[tuple[int, ...]]:
    """The indices of the elements that differ by most, in units of what is allowed; NaN first."""
    with np.errstate(all="ignore"):
        excess = np.abs(given - wanted) / np.fmax(allowed, np.finfo(np.float64).tiny)
    excess = np.where(np.isnan(excess), np.inf, excess)
    excess = np.where((given == wanted) & np.isinf(given), 0.0, excess)
    order = np.argsort(-excess, axis=None, kind="stable")[: min(most, int(np.sum(excess > 1)))]
    return [tuple(int(i) for i in np.unravel_index(int(flat), given.shape)) for flat in order]


def ulp_error(given: complex, wanted: complex, dtype: Any) -> float:
    """The distance in units of the last place of `wanted`, in this dtype."""
    info = jnp.finfo(dtype)
    size = abs(wanted)
    unit = 2.0 ** np.floor(np.log2(size)) * float(info.eps) if size > float(info.tiny) else float(
        info.smallest_subnormal)
    return float(abs(given - wanted) / unit)


def relative_error(given: complex, wanted: complex) -> float:
    """The distance relative to `wanted`."""
    return float(abs(given - wanted) / abs(wanted)) if wanted != 0 else float("inf")


def nudged(leaf: Any, rng: np.random.Generator, eps: float | None = None) -> Any:
    """An array whose elements moved up or down by `eps`, relative to their size; default: by their last place."""
    if isinstance(leaf, float | complex):
        leaf = jnp.asarray(leaf)
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    wide, step = numbers(leaf), epsilon([leaf]) if eps is None else eps
    with np.errstate(invalid="ignore", over="ignore"):
        return jnp.asarray((wide * (1 + rng.choice([-step, step], wide.shape))).astype(leaf.dtype))


def farthest(centre: Sequence[Any], runs: Iterable[Sequence[Any]]) -> list[np.ndarray]:
    """How far each element of `centre` is at most from the same element of other runs; NaN says nothing."""
    middle = [numbers(leaf) for leaf in centre]
    moved = [np.zeros(leaf.shape) for leaf in middle]
    for near in runs:
        with np.errstate(invalid="ignore", over="ignore"):
            moved = [np.fmax(m, np.abs(numbers(a) - b)) for m, a, b in zip(moved, near, middle, strict=True)]
    return moved


def conditioning(run: Callable[..., Sequence[Any]], inputs: Any, rng: np.random.Generator, draws: int = NUDGES,
                 nudge: Callable[[Any], Any] | None = None) -> list[np.ndarray]:
    """How far each element of ``run(inputs)`` moves when all leaves of the inputs move by their last place.

    Args:
      run: gives arrays.
      inputs: a pytree.
      rng: decides which way each element moves.
      draws: how often they are moved.
      nudge: moves the inputs; default: each leaf by its own last place.
    """
    moved = nudge or (lambda tree: jax.tree.map(lambda leaf: nudged(leaf, rng), tree))
    return [np.where(np.isfinite(m), m, 0.0)
            for m in farthest(run(inputs), (run(moved(inputs)) for _draw in range(draws)))]


def spread_of(run: Callable[..., Sequence[Any]], inputs: Sequence[Any], eps: Sequence[float],
              rng: np.random.Generator) -> list[np.ndarray]:
    """How far each element of ``run(*inputs)`` moves when each input moves by its `eps`."""
    return conditioning(lambda leaves: run(*leaves), inputs, rng,
                        nudge=lambda leaves: [nudged(leaf, rng, e) for leaf, e in zip(leaves, eps, strict=True)])


def pairing(first: Sequence[Any], second: Sequence[Any]) -> tuple[float, float, float]:
    """The real inner product of two lists of arrays, the sum of its terms' sizes, and the root of their squares' sum.

    Without conjugation, as cotangents are paired with tangents.
    """
    total = size = squares = 0.0
    for a, b in zip(first, second, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            terms = np.real(numbers(a) * numbers(b))
        total += float(np.sum(terms))
        size += float(np.sum(np.abs(terms)))
        squares += float(np.sum(np.square(terms)))
    return total, size, squares**0.5


def describe(value: Any, most: int = 6) -> str:
    """``float32[3] = [1, 2, 3]``, shortened where it is long."""
    aval = jax.typeof(value)
    name = aval.str_short()
    if not isinstance(aval, jax.core.ShapedArray) or jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return name
    flat = numbers(value).reshape(-1)
    shown = ", ".join(f"{x:.6g}" for x in flat[:most])
    if not aval.shape:
        return f"{name} = {shown}"
    return f"{name} = [{shown}{', ...' if flat.size > most else ''}]"
