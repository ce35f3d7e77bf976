"""Do two gradients agree at first sight? In numpy on the host, or in `jnp` as a part of a compiled program.

What passes is no different by more than a few roundings. What does not pass may still be right, and is looked at again
with the function's own conditioning; so this may be narrow, and costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad.crosscheck.compare import numbers

Array = Any

#: Roundings of each element, relative to itself; and, because sums are rounded relative to their largest terms,
#: relative to the largest element of the array.
OF_ELEMENT, OF_LARGEST = 8.0, 4.0


def is_compared(leaf: Array) -> bool:
    """Real and complex arrays; the float0 of an integer argument says nothing."""
    return leaf.dtype != jax.dtypes.float0 and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def first_sight(found: Sequence[Array], wanted: Sequence[Array], xp: Any) -> tuple[Array, Array]:
    """Whether any element differs, and whether any is NaN or infinite.

    Args:
      found, wanted: arrays of equal shapes and dtypes.
      xp: numpy for arrays on the host, `jax.numpy` for tracers.
    """
    differs, nonfinite = xp.asarray(False), xp.asarray(False)
    for mine, theirs in zip(found, wanted, strict=True):
        if is_compared(theirs):
            wrong, odd = _leaf(mine, theirs, xp)
            differs, nonfinite = differs | wrong, nonfinite | odd
    return differs, nonfinite


def _leaf(found: Array, wanted: Array, xp: Any) -> tuple[Array, Array]:
    info = jnp.finfo(wanted.dtype)
    found, wanted = widened(found, xp), widened(wanted, xp)
    finite = xp.isfinite(wanted)
    size = xp.where(finite, xp.abs(wanted), 0.0)
    largest = xp.max(size, initial=0.0)
    allowed = float(info.eps) * (OF_ELEMENT * size + OF_LARGEST * largest) + float(info.tiny)
    with np.errstate(invalid="ignore", over="ignore"):
        same = (found == wanted) | (xp.abs(found - wanted) <= allowed) | (xp.isnan(found) & xp.isnan(wanted))
    return xp.any(~same), xp.any(~(finite & xp.isfinite(found)))


def widened(values: Array, xp: Any) -> Array:
    """Low precision in a dtype in which differences are exact enough."""
    if xp is np:
        return numbers(values)
    return values.astype(jnp.float32) if values.dtype.itemsize < 4 else values
