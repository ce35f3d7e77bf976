"""Where a value lies on a mesh, for rules that make an array of its shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.core import ShapedArray

Array = Any
Aval = Any


def sharding_of(x: Array | Aval) -> Any:
    """Sharding of a value; None where there is no mesh."""
    sharding = (x if isinstance(x, ShapedArray) else jax.typeof(x)).sharding
    return None if sharding.mesh.empty else sharding


def ct_sharding(x: Aval, dims: Sequence[int] | None = None) -> Any:
    """Sharding of the cotangent of `x`, or of these dimensions of it; None where there is no mesh."""
    if x.sharding.mesh.empty:
        return None
    sharding = x.to_ct_aval().sharding
    if dims is None:
        return sharding
    spec = sharding.spec
    return sharding.update(spec=spec.update(partitions=tuple(spec.partitions[i] for i in dims)))
