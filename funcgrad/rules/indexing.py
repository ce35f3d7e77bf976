"""Rules of gather and of dynamic slices.

A gather reads elements, its transpose adds cotangents to where they were read. Which element an index out of
range reads or hits is part of the operation's meaning, so each transpose uses the mode that repeats what the
forward operation did:

    mode                 gather out of range       scatter out of range
    clip                 nearest window            nearest window
    fill / drop          the fill value            dropped
    promise_in_bounds    nearest window            dropped            (XLA's own semantics)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import lax
from jax.extend.core import primitives as p

from funcgrad.pullback import zeros_like_aval
from funcgrad.registry import joint, linear
from funcgrad.zeros import MOVES

Array = Any
Aval = Any
Mode = lax.GatherScatterMode


def scatter_mode(mode: Mode) -> Mode:
    """The mode in which a scatter hits the windows that a gather in `mode` read."""
    return Mode.CLIP if mode is Mode.PROMISE_IN_BOUNDS else mode


def gather_operand(ct: Array, _operand: Aval, indices: Array, *,
                   dimension_numbers: lax.GatherDimensionNumbers, slice_sizes: Sequence[int],
                   indices_are_sorted: bool, unique_indices: bool, mode: Mode, fill_value: Any) -> Array:
    """Transpose of `gather`: duplicates add up, what was filled gets nothing."""
    del slice_sizes, fill_value
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=dimension_numbers.offset_dims,
        inserted_window_dims=dimension_numbers.collapsed_slice_dims,
        scatter_dims_to_operand_dims=dimension_numbers.start_index_map,
        operand_batching_dims=dimension_numbers.operand_batching_dims,
        scatter_indices_batching_dims=dimension_numbers.start_indices_batching_dims,
    )
    return lax.scatter_add(zeros_like_aval(_operand), indices, ct, numbers, unique_indices=unique_indices,
                           indices_are_sorted=indices_are_sorted, mode=scatter_mode(mode))


def dynamic_slice_vjp(active: tuple[bool, ...], ct: Array, _out: Aval, _operand: Aval, *starts: Array,
                      slice_sizes: Sequence[int]) -> list[Array | None]:
    """Both operations clamp the start, so the cotangent lands where the slice was read."""
    del active, slice_sizes
    return [p.dynamic_update_slice_p.bind(zeros_like_aval(_operand), ct, *starts), *[None] * len(starts)]


def dynamic_update_slice_vjp(active: tuple[bool, ...], ct: Array, _out: Aval, _operand: Aval, _update: Aval,
                             *starts: Array) -> list[Array | None]:
    """What was overwritten gets nothing; the update gets what was written."""
    ct_operand = ct_update = None
    if active[0]:
        ct_operand = p.dynamic_update_slice_p.bind(ct, zeros_like_aval(_update), *starts)
    if active[1]:
        ct_update = p.dynamic_slice_p.bind(ct, *starts, slice_sizes=_update.shape)
    return [ct_operand, ct_update, *[None] * len(starts)]


linear(p.gather_p, gather_operand, None)
joint(p.dynamic_slice_p, dynamic_slice_vjp, mixes=MOVES)
joint(p.dynamic_update_slice_p, dynamic_update_slice_vjp, mixes=MOVES)
