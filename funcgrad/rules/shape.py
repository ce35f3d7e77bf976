"""Shape and layout: every map here moves elements about, so each rule is the transpose and keeps nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.registry import joint, linear
from funcgrad.rules.placement import ct_sharding
from funcgrad.zeros import MOVES

Array = Any
Aval = Any


def _zero(ct: Array) -> np.ndarray:
    return np.zeros((), ct.dtype)


def _zeros(x: Aval, axis: int, size: int) -> Array:
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return lax.full(shape, 0, x.dtype, sharding=ct_sharding(x))


def _padded_along(ct: Array, axis: int, before: int, after: int) -> Array:
    """Zeros on both sides of `ct` along one axis."""
    config = [(0, 0, 0)] * ct.ndim
    config[axis] = (before, after, 0)
    return lax.pad(ct, _zero(ct), config)


def _only(active: Sequence[bool], cts: Sequence[Array]) -> list[Array | None]:
    return [ct if flag else None for ct, flag in zip(cts, active, strict=True)]


# ---- broadcast, reshape, reorder ----


def broadcast_in_dim_operand(ct: Array, _x: Aval, *, shape: tuple, broadcast_dimensions: tuple,
                             sharding: Any) -> Array:
    """Sum over the new dimensions and over the stretched ones."""
    stretched = [i for i, dim in enumerate(broadcast_dimensions) if _x.shape[i] == 1 and shape[dim] != 1]
    kept = sorted((i for i in range(_x.ndim) if i not in stretched), key=broadcast_dimensions.__getitem__)
    kept_in_output = {broadcast_dimensions[i] for i in kept}
    axes = tuple(dim for dim in range(len(shape)) if dim not in kept_in_output)
    wanted = ct_sharding(_x, kept)
    summed = lax.reduce_sum(ct, axes, out_sharding=wanted) if axes or sharding is not None else ct
    if kept != sorted(kept):  # broadcast_dimensions need not increase: then the broadcast transposes as well
        summed = lax.transpose(summed, np.argsort(kept).tolist())
    return lax.expand_dims(summed, stretched) if stretched else summed


def reshape_operand(ct: Array, _x: Aval, *, new_sizes: tuple, dimensions: Any, sharding: Any) -> Array:
    """Reshape back. With `dimensions`, the operand was transposed first."""
    del new_sizes, sharding
    if dimensions is None:
        return lax.reshape(ct, _x.shape, out_sharding=ct_sharding(_x))
    sizes = tuple(_x.shape[i] for i in dimensions)
    permuted = lax.reshape(ct, sizes, out_sharding=ct_sharding(_x, dimensions))
    return lax.transpose(permuted, np.argsort(dimensions).tolist())


def squeeze_operand(ct: Array, _x: Aval, *, dimensions: tuple) -> Array:
    """Put the unit dimensions back."""
    return lax.expand_dims(ct, dimensions) if dimensions else ct


def transpose_operand(ct: Array, _x: Aval, *, permutation: tuple) -> Array:
    """The inverse permutation."""
    return lax.transpose(ct, np.argsort(permutation).tolist())


def rev_operand(ct: Array, _x: Aval, *, dimensions: tuple) -> Array:
    """Reversal is its own transpose."""
    return lax.rev(ct, dimensions)


def tile_operand(ct: Array, _x: Aval, *, reps: tuple) -> Array:
    """Give each repeated dimension its repeats as a dimension, and sum over those."""
    sizes: list[int] = []
    sources: list[int] = []  # for each dimension the operand's, or -1 for repeats
    for dim, (rep, size) in enumerate(zip(reps, _x.shape, strict=True)):
        sizes += [size] if rep == 1 else [rep, size]
        sources += [dim] if rep == 1 else [-1, dim]
    axes = tuple(i for i, source in enumerate(sources) if source < 0)
    return lax.reduce_sum(lax.reshape(ct, sizes), axes, out_sharding=ct_sharding(_x)) if axes else ct


# ---- cut and join ----


def concatenate_operands(active: tuple, ct: Array, _out: Aval, *_operands: Aval, dimension: int) -> list:
    """Cut the cotangent at the seams."""
    sizes = [x.shape[dimension] for x in _operands]
    if len(sizes) == 1:
        return [ct]
    if sum(active) > 1:
        return _only(active, lax.split(ct, sizes, dimension))
    which = active.index(True)
    start = sum(sizes[:which])
    pieces: list[Array | None] = [None] * len(sizes)
    pieces[which] = lax.slice_in_dim(ct, start, start + sizes[which], axis=dimension)
    return pieces


def split_operand(cts: tuple, _x: Aval, *, sizes: tuple, axis: int) -> Array:
    """Join the pieces' cotangents, zeros where there is none."""
    present = [i for i, ct in enumerate(cts) if ct is not None]
    if len(present) == 1:
        (only,) = present
        if len(sizes) == 1:
            return cts[only]
        return _padded_along(cts[only], axis, int(sum(sizes[:only])), int(sum(sizes[only + 1 :])))
    pieces = [_zeros(_x, axis, size) if ct is None else ct for ct, size in zip(cts, sizes, strict=True)]
    return lax.concatenate(pieces, axis)


def stack_operands(active: tuple, ct: Array, _out: Aval, *_operands: Aval, axis: int) -> list:
    """The slice that each operand became."""
    if sum(active) > 1:
        return _only(active, lax.unstack(ct, axis))
    return [lax.index_in_dim(ct, i, axis, keepdims=False) if flag else None for i, flag in enumerate(active)]


def unstack_operand(cts: tuple, _x: Aval, *, axis: int) -> Array:
    """Stack the slices' cotangents, zeros where there is none."""
    present = [i for i, ct in enumerate(cts) if ct is not None]
    first = cts[present[0]]
    if len(present) == 1:
        (only,) = present
        return _padded_along(lax.expand_dims(first, (axis,)), axis, only, len(cts) - 1 - only)
    return lax.stack([lax.full_like(first, 0) if ct is None else ct for ct in cts], axis)


def slice_operand(ct: Array, _x: Aval, *, start_indices: tuple, limit_indices: tuple, strides: Any) -> Array:
    """Zeros around the slice, and between its elements for a stride."""
    del limit_indices
    steps = (1,) * _x.ndim if strides is None else strides
    config = []
    for start, step, taken, size in zip(start_indices, steps, ct.shape, _x.shape, strict=True):
        reach = 1 + (taken - 1) * step if taken else 0
        config.append((start, size - start - reach, step - 1))
    return lax.pad(ct, _zero(ct), config)


def pad_operand(ct: Array, _x: Aval, _value: Aval, *, padding_config: tuple) -> Array:
    """The places where the operand's elements went; zeros for those that negative padding cropped."""
    interior = [inner for _, _, inner in padding_config]
    if all(low >= 0 and high >= 0 for low, high, _ in padding_config):
        starts = [low for low, _, _ in padding_config]
        limits = [size - high for size, (_, high, _) in zip(ct.shape, padding_config, strict=True)]
        return lax.slice(ct, starts, limits, [inner + 1 for inner in interior])
    uncropped = lax.pad(ct, _zero(ct), [(-low, -high, 0) for low, high, _ in padding_config])
    if not any(interior):
        return uncropped
    return lax.slice(uncropped, [0] * ct.ndim, uncropped.shape, [inner + 1 for inner in interior])


def pad_value(ct: Array, _x: Aval, _value: Aval, *, padding_config: tuple) -> Array:
    """The sum over the padding alone: a difference of two sums would cancel, and spread infinities."""
    operand_went_here = lax.pad(lax.full(_x.shape, True, sharding=ct_sharding(_x)), np.False_, padding_config)
    return lax.reduce_sum(lax.select(operand_went_here, lax.full_like(ct, 0), ct), range(ct.ndim))


# ---- placement ----


def device_put_operands(active: tuple, cts: tuple, _outs: tuple, *_operands: Aval, devices: tuple,
                        srcs: tuple, copy_semantics: tuple) -> list:
    """Back to where the operand was, if that is known; a `device_put` to nowhere does nothing."""
    del copy_semantics
    results: list[Array | None] = []
    for flag, ct, out, x, device, src in zip(active, cts, _outs, _operands, devices, srcs, strict=True):
        if src is None and out.memory_space != x.memory_space:
            src = x.memory_space
        moved = flag and ct is not None and device is not None and src is not None
        results.append(jax.device_put(ct, src) if moved else ct if flag else None)
    return results


linear(p.broadcast_in_dim_p, broadcast_in_dim_operand)
linear(p.reshape_p, reshape_operand)
linear(p.squeeze_p, squeeze_operand)
linear(p.transpose_p, transpose_operand)
linear(p.rev_p, rev_operand)
linear(lax.tile_p, tile_operand)
linear(p.slice_p, slice_operand)
linear(p.pad_p, pad_operand, pad_value)
linear(lax.split_p, split_operand)
linear(lax.unstack_p, unstack_operand)
joint(p.concatenate_p, concatenate_operands, mixes=MOVES)
joint(lax.stack_p, stack_operands, mixes=MOVES)
joint(p.device_put_p, device_put_operands, mixes=MOVES)
