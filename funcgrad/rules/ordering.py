"""Sorting and selection: a permutation moves the operands; its transpose puts the cotangents back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.registry import closed_form, higher_order
from funcgrad.rules.placement import sharding_of
from funcgrad.trees import pytree, static
from funcgrad.zeros import MOVES

Array = Any
Aval = Any


def put_back(ct: Array, indices: Array, axis: int, like: Aval, *, unique: bool) -> Array:
    """Add each element of `ct` at its index along an axis of zeros with the shape of `like`.

    The transpose of taking along an axis; linear in `ct`, so its own transpose is a gather. Indices out of range count
    for nothing unless `unique`, which promises that there are none.
    """
    others = tuple(i for i in range(ct.ndim) if i != axis)
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(), inserted_window_dims=(axis,), scatter_dims_to_operand_dims=(axis,),
        operand_batching_dims=others, scatter_indices_batching_dims=others,
    )
    mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS if unique else lax.GatherScatterMode.FILL_OR_DROP
    zeros = lax.full(like.shape, 0, ct.dtype, sharding=sharding_of(like))
    positions = lax.expand_dims(indices, (ct.ndim,))
    return lax.scatter_add(zeros, positions, ct, numbers, unique_indices=unique, mode=mode)


@pytree
class SortPullback:
    """The pullback of a sort: for each sorted place, where its element came from."""

    permutation: Array
    dimension: int = static()
    active: tuple[bool, ...] = static()

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        like = jax.typeof(self.permutation)
        return [
            put_back(ct, self.permutation, self.dimension, like, unique=True) if flag and ct is not None else None
            for flag, ct in zip(self.active, cts, strict=True)
        ]


def sort_forward(active: Sequence[bool], *operands: Array, dimension: int, is_stable: bool,
                 num_keys: int) -> tuple[list[Array], SortPullback]:
    """Sort positions along with the operands: one sort gives the outputs and the permutation."""
    shape = operands[0].shape
    dtype = np.int32 if shape[dimension] <= np.iinfo(np.int32).max else np.int64
    positions = lax.broadcasted_iota(dtype, shape, dimension, out_sharding=sharding_of(operands[0]))
    *outputs, permutation = lax.sort((*operands, positions), dimension=dimension, is_stable=is_stable,
                                     num_keys=num_keys)
    return outputs, SortPullback(permutation, dimension, tuple(active))


def top_k_operand(cts: tuple, outs: tuple, _x: Aval, *, k: int, axis: int) -> Array | None:
    """Each selected value's cotangent goes to the element it was, by the indices that `top_k` gives."""
    del k
    return None if cts[0] is None else put_back(cts[0], outs[1], axis, _x, unique=True)


def approx_top_k_operand(cts: tuple, outs: tuple, _x: Aval, *, k: int, reduction_dimension: int,
                         recall_target: float, is_max_k: bool, reduction_input_size_override: int,
                         aggregate_to_topk: bool) -> Array | None:
    """As `top_k_operand`; places that found no candidate have index -1, and no element to go to."""
    del k, recall_target, is_max_k, reduction_input_size_override, aggregate_to_topk
    return None if cts[0] is None else put_back(cts[0], outs[1], reduction_dimension % _x.ndim, _x, unique=False)


higher_order(p.sort_p, sort_forward, dear=True)
closed_form(p.top_k_p, top_k_operand, dear=True, mixes=MOVES)
closed_form(p.approx_top_k_p, approx_top_k_operand, dear=True, mixes=MOVES)
