"""Rules of the scatter family.

A scatter combines windows of `updates` into `operand` where `indices` say. Windows may overlap, and those out
of range are clamped or dropped (the table in `indexing.py`). The transpose with respect to `updates` is a
gather that reads back the windows which were hit, and zero for those that were dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.pullback import zeros_like_aval
from funcgrad.registry import closed_form, joint, linear

Array = Any
Aval = Any
Mode = lax.GatherScatterMode


class ScatterParams(NamedTuple):
    """The params that all scatters share. ``ScatterParams(**params)`` refuses one that it does not know."""

    update_jaxpr: Any
    update_consts: tuple
    dimension_numbers: lax.ScatterDimensionNumbers
    indices_are_sorted: bool
    unique_indices: bool
    mode: Mode

    def scatter(self, function: Callable[..., Array], operand: Array, indices: Array,
                updates: Array) -> Array:
        """One of `lax.scatter`, `lax.scatter_add`, … with these params."""
        return function(operand, indices, updates, self.dimension_numbers, mode=self.mode,
                        indices_are_sorted=self.indices_are_sorted, unique_indices=self.unique_indices)

    def windows(self, operand: Array, indices: Array, updates_shape: tuple[int, ...],
                missing: int = 0) -> Array:
        """Gather from `operand` the windows that the scatter hits; `missing` where it drops one."""
        numbers = self.dimension_numbers
        sizes = [1] * operand.ndim
        for dim, window_dim in self.window_dims(operand.ndim):
            sizes[dim] = updates_shape[window_dim]
        if any(size > length for size, length in zip(sizes, operand.shape, strict=True)):
            # A scatter drops all windows when none fits, into an empty array say; a gather would refuse.
            return lax.full(updates_shape, missing, operand.dtype)
        inverse = lax.GatherDimensionNumbers(
            offset_dims=tuple(numbers.update_window_dims),
            collapsed_slice_dims=tuple(numbers.inserted_window_dims),
            start_index_map=tuple(numbers.scatter_dims_to_operand_dims),
            operand_batching_dims=tuple(numbers.operand_batching_dims),
            start_indices_batching_dims=tuple(numbers.scatter_indices_batching_dims),
        )
        # A scatter drops what a gather would clamp when indices break the promise to be in bounds.
        mode = Mode.CLIP if self.mode is Mode.CLIP else Mode.FILL_OR_DROP
        return lax.gather(operand, indices, inverse, tuple(sizes), indices_are_sorted=self.indices_are_sorted,
                          unique_indices=self.unique_indices, mode=mode, fill_value=missing)

    def window_dims(self, ndim: int) -> list[tuple[int, int]]:
        """Pairs of a dimension of the operand and the dimension of the updates that runs along it."""
        numbers = self.dimension_numbers
        absent = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
        return list(zip((d for d in range(ndim) if d not in absent), numbers.update_window_dims, strict=True))


# ---- scatter_add, scatter_sub: linear in both ----


def scatter_add_operand(ct: Array, _operand: Aval, _indices: Aval, _updates: Aval, **params: Any) -> Array:
    """The operand passes through."""
    ScatterParams(**params)
    return ct


def scatter_add_updates(ct: Array, _operand: Aval, indices: Array, _updates: Aval, **params: Any) -> Array:
    """Each update reads the cotangent of where it was added."""
    return ScatterParams(**params).windows(ct, indices, _updates.shape)


def scatter_sub_updates(ct: Array, _operand: Aval, indices: Array, _updates: Aval, **params: Any) -> Array:
    """As `scatter_add_updates`, negated."""
    return lax.neg(ScatterParams(**params).windows(ct, indices, _updates.shape))


# ---- scatter: replaces ----


def _replacing(params: dict[str, Any]) -> ScatterParams:
    """The params of a plain `scatter`."""
    how = ScatterParams(**params)
    if how.update_jaxpr is not None:
        raise NotImplementedError(
            "no VJP rule for `scatter` with a function (`lax.scatter_apply`, `x.at[i].apply`); jax.grad "
            "refuses it too.\n"
            "To fix: write `x.at[i].set(function(x[i]))`, which is the same for indices without duplicates."
        )
    return how


def scatter_operand(ct: Array, _operand: Aval, indices: Array, _updates: Aval, **params: Any) -> Array:
    """What was overwritten gets nothing."""
    return _replacing(params).scatter(lax.scatter, ct, indices, zeros_like_aval(_updates))


def scatter_updates(ct: Array, _operand: Aval, indices: Array, _updates: Aval, **params: Any) -> Array:
    """Each update reads the cotangent of where it was written, unless another one was written over it."""
    how = _replacing(params)
    ct_updates = how.windows(ct, indices, _updates.shape)
    if how.unique_indices:
        return ct_updates
    standing = _standing(how, _operand.shape, indices, _updates.shape)
    return lax.select(standing, ct_updates, lax.full_like(ct_updates, 0))


def _standing(how: ScatterParams, shape: tuple[int, ...], indices: Array,
              updates_shape: tuple[int, ...]) -> Array:
    """Which elements of the updates are left in the result: scatter the windows' numbers, read them back.

    It is up to the backend which of several updates of one element stands, so the same operation has to be
    asked. Along a dimension that windows fill they cannot overlap in part, and one number is enough for it.
    """
    shape_of_numbers, windows = list(shape), list(updates_shape)
    for dim, window_dim in how.window_dims(len(shape)):
        if windows[window_dim] == shape[dim]:
            shape_of_numbers[dim] = windows[window_dim] = 1
    grid = [1 if d in how.dimension_numbers.update_window_dims else n for d, n in enumerate(updates_shape)]
    numbers = lax.reshape(lax.iota(np.int32, int(np.prod(grid))), grid)
    numbers = lax.broadcast_in_dim(numbers, windows, range(len(windows)))
    written = how.scatter(lax.scatter, lax.full(shape_of_numbers, -1, np.int32), indices, numbers)
    standing = lax.eq(numbers, how.windows(written, indices, tuple(windows), missing=-1))
    return lax.broadcast_in_dim(standing, updates_shape, range(len(windows)))


# ---- scatter_mul ----


def scatter_mul_operand(ct: Array, _out: Aval, _operand: Aval, indices: Array, updates: Array,
                        **params: Any) -> Array:
    """Every factor that went into an element."""
    return ScatterParams(**params).scatter(lax.scatter_mul, ct, indices, updates)


def scatter_mul_updates(ct: Array, _out: Aval, operand: Array, indices: Array, updates: Array,
                        **params: Any) -> Array:
    """The product of the operand's element and of the other updates that went into it."""
    how = ScatterParams(**params)
    read = how.windows(operand, indices, updates.shape)
    ct_updates = lax.mul(how.windows(ct, indices, updates.shape), read)
    if how.unique_indices:
        return ct_updates
    places = lax.reshape(lax.iota(np.int32, operand.size), operand.shape)
    places = how.windows(places, indices, updates.shape, missing=-1)
    return lax.mul(ct_updates, _product_of_others(places, updates))


def _product_of_others(places: Array, factors: Array) -> Array:
    """For each factor the product of all others at the same place; dropped factors have a negative place.

    Sorted by place, it is the product of what stands before and what stands after. A polynomial without
    division: right for zeros, and at every order.
    """
    count = factors.size
    if count == 0:
        return factors
    dropped = lax.lt(places, lax.full_like(places, 0))
    factors = lax.select(dropped, lax.full_like(factors, 1), factors)
    places, flat_factors = lax.reshape(places, (count,)), lax.reshape(factors, (count,))
    place, position, factor = lax.sort((places, lax.iota(np.int32, count), flat_factors), num_keys=1)
    changes = lax.ne(lax.slice(place, (1,), (count,)), lax.slice(place, (0,), (count - 1,)))
    first = lax.concatenate([np.ones(1, bool), changes], 0)
    last = lax.concatenate([changes, np.ones(1, bool)], 0)
    after = lax.rev(_product_before(lax.rev(last, (0,)), lax.rev(factor, (0,))), (0,))
    _, others = lax.sort((position, lax.mul(_product_before(first, factor), after)), num_keys=1)
    return lax.reshape(others, factors.shape)


def _product_before(first: Array, factor: Array) -> Array:
    """Product of the elements before each one in its segment; `first` marks where segments begin."""

    def join(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.bitwise_or(left[0], right[0]), lax.select(right[0], right[1], lax.mul(left[1], right[1]))

    _, inclusive = lax.associative_scan(join, (first, factor))
    shifted = lax.pad(inclusive, np.ones((), factor.dtype), [(1, -1, 0)])
    return lax.select(first, lax.full_like(factor, 1), shifted)


# ---- scatter_min, scatter_max ----


def scatter_extremum(active: tuple[bool, ...], ct: Array, out: Array, operand: Array, indices: Array,
                     updates: Array, **params: Any) -> list[Array | None]:
    """All that reach the extremum share its cotangent: equal updates, and the operand if it is as good."""
    how = ScatterParams(**params)
    # A NaN differs from itself, but nothing moved it.
    moved = lax.bitwise_and(lax.ne(out, operand), lax.eq(operand, operand))
    reach = lax.eq(updates, how.windows(out, indices, updates.shape))
    # Counted in integers, for bfloat16 has no 257. A count of 0 comes from an update that is NaN.
    ties = how.scatter(lax.scatter_add, lax.convert_element_type(lax.bitwise_not(moved), np.int32), indices,
                       lax.convert_element_type(reach, np.int32))
    share = lax.div(ct, lax.convert_element_type(lax.max(ties, lax.full_like(ties, 1)), ct.dtype))
    ct_operand = ct_updates = None
    if active[0]:
        ct_operand = lax.select(moved, lax.full_like(share, 0), share)
    if active[2]:
        ct_updates = how.windows(share, indices, updates.shape)
        ct_updates = lax.select(reach, ct_updates, lax.full_like(ct_updates, 0))
    return [ct_operand, None, ct_updates]


linear(p.scatter_add_p, scatter_add_operand, None, scatter_add_updates)
linear(lax.scatter_sub_p, scatter_add_operand, None, scatter_sub_updates)
linear(p.scatter_p, scatter_operand, None, scatter_updates)
closed_form(p.scatter_mul_p, scatter_mul_operand, None, scatter_mul_updates)
joint(p.scatter_min_p, scatter_extremum)
joint(p.scatter_max_p, scatter_extremum)
