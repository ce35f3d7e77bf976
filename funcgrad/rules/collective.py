"""Rules of collectives, of casts between types of mesh axes, and of changes of sharding.

A collective is a linear map on the values of all devices together, and each rule below is its transpose. Two
accounts of the mesh exist. With ``check_vma`` a type says along which axes a value may vary, sums and copies come
in pairs (`psum_invariant` and `pvary`), and each is the other's transpose. Without it, and under ``vmap(axis_name=)``,
`psum` stands for a sum and a copy to all devices at once, and is its own transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad._compat import primitives as private
from funcgrad.pullback import zeros_like_aval
from funcgrad.registry import closed_form, joint, linear, unsupported

Array = Any
Aval = Any
Axes = tuple[Any, ...]
Groups = Any


def _named(axes: Axes) -> Axes:
    """Axes of the mesh or of `vmap`, without dimensions of the array."""
    return tuple(axis for axis in axes if not isinstance(axis, int))


def _restore_dimensions(value: Array, _x: Aval, axes: Axes) -> Array:
    """Repeat a value along the array's own dimensions that were reduced."""
    if len(_named(axes)) == len(axes):
        return value
    return lax.broadcast_in_dim(value, _x.shape, [d for d in range(_x.ndim) if d not in axes])


# ---- sums, extrema ----


def psum_operand(ct: Array, _x: Aval, *, axes: Axes, axis_index_groups: Groups) -> Array:
    """Each device's value went to all devices."""
    ct = _restore_dimensions(ct, _x, axes)
    named = _named(axes)
    return p.psum_p.bind(ct, axes=named, axis_index_groups=axis_index_groups) if named else ct


def pextremum_operand(ct: Array, out: Array, x: Array, *, axes: Axes, axis_index_groups: Groups) -> Array:
    """All that reach the extremum share its cotangent evenly. JAX has no rule."""
    named = _named(axes)
    counted_axes = tuple(axis for axis in named if axis in _compat.varying_axes(x))
    reach = lax.eq(x, _compat.pvary(_restore_dimensions(out, x, axes), counted_axes))
    reached = lax.reduce_sum(lax.convert_element_type(reach, np.int32), [a for a in axes if isinstance(a, int)])
    if counted_axes:  # the result is one value for all devices, and so is its cotangent
        ties = private.psum_invariant_p.bind(reached, axes=named)
    else:
        ties = p.psum_p.bind(reached, axes=named, axis_index_groups=axis_index_groups) if named else reached
        ct = p.psum_p.bind(ct, axes=named, axis_index_groups=axis_index_groups) if named else ct
    share = lax.div(ct, lax.convert_element_type(lax.max(ties, lax.full_like(ties, 1)), ct.dtype))
    share = _compat.pvary(_restore_dimensions(share, x, axes), counted_axes)
    return lax.select(reach, share, lax.full_like(share, 0))


linear(p.psum_p, psum_operand, dear=True)
linear(private.psum_invariant_p, lambda ct, _x, *, axes: private.pvary_p.bind(ct, axes=axes), dear=True)
linear(private.pvary_p, lambda ct, _x, *, axes: private.psum_invariant_p.bind(ct, axes=axes))
linear(private.unreduced_psum_p, lambda ct, _x, *, axes: private.preduced_p.bind(ct, axes=axes), dear=True)
linear(private.preduced_p, lambda ct, _x, *, axes: private.unreduced_psum_p.bind(ct, axes=axes))
linear(private.vary_unreduced_cast_p, lambda ct, _x, *, axes: private.reduced_vary_cast_p.bind(ct, axes=axes))
linear(private.reduced_vary_cast_p, lambda ct, _x, *, axes: private.vary_unreduced_cast_p.bind(ct, axes=axes))
closed_form(p.pmax_p, pextremum_operand, dear=True)
closed_form(p.pmin_p, pextremum_operand, dear=True)

# ---- gathers and scatters over devices ----


def all_gather_operand(ct: Array, _x: Aval, *, all_gather_dimension: int, axis_name: Axes, axis_index_groups: Groups,
                       axis_size: int, tiled: bool) -> Array:
    """Every device holds a copy of the shard: add the cotangents of all copies."""
    return private.reduce_scatter_p.bind(ct, scatter_dimension=all_gather_dimension, axis_name=axis_name,
                                             axis_index_groups=axis_index_groups, axis_size=axis_size, tiled=tiled)


def reduce_scatter_operand(ct: Array, _x: Aval, *, scatter_dimension: int, axis_name: Axes,
                           axis_index_groups: Groups, axis_size: int, tiled: bool) -> Array:
    """Each part of a sum went to one device: collect the cotangents."""
    return p.all_gather_p.bind(ct, all_gather_dimension=scatter_dimension, axis_name=axis_name,
                               axis_index_groups=axis_index_groups, axis_size=axis_size, tiled=tiled)


def all_gather_invariant_operand(ct: Array, _x: Aval, *, all_gather_dimension: int, axis_name: Axes, axis_size: int,
                                 tiled: bool) -> Array:
    """The gathered array is one value for all devices: each takes its own shard of the cotangent."""
    size = ct.shape[all_gather_dimension] // axis_size
    start = lax.mul(lax.axis_index(axis_name), np.int32(size))
    shard = lax.dynamic_slice_in_dim(_compat.pvary(ct, axis_name), start, size, all_gather_dimension,
                                     allow_negative_indices=False)
    return shard if tiled else lax.squeeze(shard, [all_gather_dimension])


def all_gather_reduced_operand(ct: Array, _x: Aval, *, all_gather_dimension: int, axis_name: Axes, axis_size: int,
                               tiled: bool) -> Array:
    """The cotangent is a sum that is not done yet: each device sums its own shard."""
    return private.unreduced_reduce_scatter_p.bind(ct, scatter_dimension=all_gather_dimension, axis_name=axis_name,
                                                       axis_size=axis_size, tiled=tiled)


def unreduced_reduce_scatter_operand(ct: Array, _x: Aval, *, scatter_dimension: int, axis_name: Axes, axis_size: int,
                                     tiled: bool) -> Array:
    """As `reduce_scatter`, for a sum that was not done yet."""
    return private.all_gather_reduced_p.bind(ct, all_gather_dimension=scatter_dimension, axis_name=axis_name,
                                                 axis_size=axis_size, tiled=tiled)


linear(p.all_gather_p, all_gather_operand, dear=True)
linear(private.reduce_scatter_p, reduce_scatter_operand, dear=True)
linear(private.all_gather_invariant_p, all_gather_invariant_operand, dear=True)
linear(private.all_gather_reduced_p, all_gather_reduced_operand, dear=True)
linear(private.unreduced_reduce_scatter_p, unreduced_reduce_scatter_operand, dear=True)

# ---- exchanges ----


def ppermute_operand(ct: Array, _x: Aval, *, axis_name: Any, perm: Sequence[tuple[int, int]]) -> Array:
    """Send back; who sent to nobody gets zeros, as who received from nobody got them."""
    return p.ppermute_p.bind(ct, axis_name=axis_name, perm=tuple((to, source) for source, to in perm))


def pbroadcast_operand(ct: Array, _x: Aval, *, axis_name: Any, source: int) -> Array:
    """The source gets the sum over all devices, the others nothing."""
    axes = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    total = _compat.pvary(lax.psum(ct, axes), axes)
    here = lax.eq(lax.axis_index(axis_name), np.int32(source))
    return lax.select(lax.broadcast(here, total.shape), total, lax.full_like(total, 0))


def all_to_all_operand(ct: Array, _x: Aval, *, axis_name: Any, split_axis: int, concat_axis: int,
                       axis_index_groups: Groups, tiled: bool) -> Array:
    """The same exchange with both axes swapped is the inverse, and the transpose of a permutation is its inverse."""
    return p.all_to_all_p.bind(ct, axis_name=axis_name, split_axis=concat_axis, concat_axis=split_axis,
                               axis_index_groups=axis_index_groups, tiled=tiled)


def ragged_all_to_all_vjp(active: tuple[bool, ...], ct: Array, _out: Aval, _operand: Aval, _output: Aval,
                          input_offsets: Array, send_sizes: Array, output_offsets: Array, recv_sizes: Array, *,
                          axis_name: Any, axis_index_groups: Groups) -> list[Array | None]:
    """Send the slices back; what was received replaced rows of `output`, which get nothing.

    `output_offsets` says where the slices lie at their receivers. After an exchange of the offsets each device knows
    where the slices lie that it received, and where they came from.
    """

    def exchanged(offsets: Array) -> Array:
        return p.all_to_all_p.bind(offsets, axis_name=axis_name, split_axis=0, concat_axis=0,
                                   axis_index_groups=axis_index_groups, tiled=True)

    received = exchanged(output_offsets)
    ct_operand = ct_output = None
    if active[0]:
        ct_operand = p.ragged_all_to_all_p.bind(
            ct, zeros_like_aval(_operand), received, recv_sizes, exchanged(input_offsets), send_sizes,
            axis_name=axis_name, axis_index_groups=axis_index_groups)
    if active[1]:
        row = lax.broadcasted_iota(received.dtype, (*received.shape, _output.shape[0]), 1)
        start = lax.broadcast_in_dim(received, row.shape, [0])
        stop = lax.broadcast_in_dim(lax.add(received, recv_sizes), row.shape, [0])
        replaced = lax.reduce_or(lax.bitwise_and(lax.ge(row, start), lax.lt(row, stop)), [0])
        ct_output = lax.select(lax.broadcast_in_dim(replaced, ct.shape, [0]), lax.full_like(ct, 0), ct)
    return [ct_operand, ct_output, None, None, None, None]


linear(p.ppermute_p, ppermute_operand, dear=True)
linear(private.pbroadcast_p, pbroadcast_operand, dear=True)
linear(p.all_to_all_p, all_to_all_operand, dear=True)
joint(p.ragged_all_to_all_p, ragged_all_to_all_vjp, dear=True)

# ---- where a value lies ----


def sharding_constraint_operand(ct: Array, _x: Aval, *, sharding: Any, layout: Any, context_mesh: Any,
                                unconstrained_dims: Any) -> Array:
    """The cotangent lies as the value does."""
    return p.sharding_constraint_p.bind(ct, sharding=sharding, layout=layout, context_mesh=context_mesh,
                                        unconstrained_dims=unconstrained_dims)


def reshard_operand(ct: Array, _x: Aval, *, dst_sharding: Any, concrete_mesh: Any) -> Array:
    """Back to where the operand lies."""
    del dst_sharding
    sharding = _x.to_ct_aval().sharding
    with jax.sharding.use_abstract_mesh(sharding.mesh):
        return private.reshard_p.bind(ct, dst_sharding=sharding, concrete_mesh=concrete_mesh)


def shard_alike_vjp(active: tuple[bool, ...], cts: Sequence[Array | None], _outs: tuple, _x: Aval,
                    _y: Aval) -> Sequence[Array | None]:
    """The cotangents lie alike too."""
    return cts if None in cts or not all(active) else private.shard_alike_p.bind(*cts)


linear(p.sharding_constraint_p, sharding_constraint_operand)
linear(private.layout_constraint_p,
       lambda ct, _x, *, layout: private.layout_constraint_p.bind(ct, layout=layout))
linear(private.reshard_p, reshard_operand)
joint(private.shard_alike_p, shard_alike_vjp)

for primitive in private.COLLECTIVE_HALVES:
    unsupported(primitive, reason="it is one half of a collective; jax.grad refuses it too. Use the whole collective")
