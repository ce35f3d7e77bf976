"""Small words for matrices in the last two dimensions, in `lax`; rules of linear algebra are written in them.

Cotangents follow JAX's convention (no conjugation): for a real loss the cotangent is the conjugate of the gradient that
papers write. Names end in `t` for a transpose and in `h` for a conjugate transpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

from funcgrad.rules.elementwise import is_complex
from funcgrad.rules.placement import sharding_of

Array = Any


def conj(x: Array) -> Array:
    """The conjugate; a real array as it is."""
    return lax.conj(x) if is_complex(x) else x


def transposed(x: Array) -> Array:
    """xᵀ."""
    return lax.transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def adjoint(x: Array) -> Array:
    """xᴴ."""
    return conj(transposed(x))


def _dot(a: Array, b: Array, contract_a: int, contract_b: int) -> Array:
    batch = tuple(range(a.ndim - 2))
    numbers = (((a.ndim - contract_a,), (b.ndim - contract_b,)), (batch, batch))
    return lax.dot_general(a, b, numbers, precision=lax.Precision.HIGHEST)


def matmul(a: Array, b: Array) -> Array:
    """a b."""
    return _dot(a, b, 1, 2)


def matmul_tn(a: Array, b: Array) -> Array:
    """aᵀ b."""
    return _dot(a, b, 2, 2)


def matmul_nt(a: Array, b: Array) -> Array:
    """a bᵀ."""
    return _dot(a, b, 1, 1)


# ---- triangles and diagonals ----


def _iota(like: Array, axis: int) -> Array:
    """Positions along one axis, with the shape and sharding of `like`."""
    return lax.broadcasted_iota(np.int32, like.shape, axis, out_sharding=sharding_of(like))


def where(compare: Callable[[Array, Array], Array], x: Array, otherwise: Array | None = None) -> Array:
    """Elements of x at which ``compare(row, column)`` holds; zero, or `otherwise`, at the rest.

    A selection, not a product with zeros: what is ignored may be NaN.
    """
    rows, columns = (_iota(x, x.ndim - i) for i in (2, 1))
    return lax.select(compare(rows, columns), x, lax.full_like(x, 0) if otherwise is None else otherwise)


def lower(x: Array) -> Array:
    """The lower triangle."""
    return where(lax.ge, x)


def strictly_lower(x: Array) -> Array:
    """The lower triangle without the diagonal."""
    return where(lax.gt, x)


def upper(x: Array) -> Array:
    """The upper triangle."""
    return where(lax.le, x)


def strictly_upper(x: Array) -> Array:
    """The upper triangle without the diagonal."""
    return where(lax.lt, x)


def half_diagonal(x: Array, in_lower: bool = True) -> Array:
    """One triangle, with half of the diagonal."""
    return where(lax.gt if in_lower else lax.lt, x, where(lax.eq, lax.mul(x, np.array(0.5, x.dtype))))


def folded(x: Array, in_lower: bool = True) -> Array:
    """Cotangent of the one triangle that is read, from the cotangent of the Hermitian matrix that it stands for.

    The imaginary part of the diagonal is not read either, and has none.
    """
    return half_diagonal(lax.add(x, adjoint(x)), in_lower)


def diagonal(x: Array) -> Array:
    """The diagonal of square matrices."""
    return lax.reduce_sum(where(lax.eq, x), (x.ndim - 1,))


def along_columns(values: Array, like: Array) -> Array:
    """``values[..., j]`` at each (i, j) of an array shaped and typed as `like`."""
    values = lax.convert_element_type(values, like.dtype)
    return lax.broadcast_in_dim(values, like.shape, (*range(like.ndim - 2), like.ndim - 1))


def along_rows(values: Array, like: Array) -> Array:
    """``values[..., i]`` at each (i, j) of an array shaped and typed as `like`."""
    values = lax.convert_element_type(values, like.dtype)
    return lax.broadcast_in_dim(values, like.shape, tuple(range(like.ndim - 1)))


# ---- rows and columns ----


def columns(x: Array, start: int, stop: int) -> Array:
    """``x[..., start:stop]``."""
    return x if (start, stop) == (0, x.shape[-1]) else lax.slice_in_dim(x, start, stop, axis=x.ndim - 1)


def rows(x: Array, start: int, stop: int) -> Array:
    """``x[..., start:stop, :]``."""
    return x if (start, stop) == (0, x.shape[-2]) else lax.slice_in_dim(x, start, stop, axis=x.ndim - 2)


def widened(x: Array, width: int) -> Array:
    """Zeros to the right of x."""
    if x.shape[-1] == width:
        return x
    return lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1], 0)])


def take_rows(x: Array, order: Array) -> Array:
    """``x[order]`` for a permutation of the rows of each matrix."""
    batch = tuple(range(x.ndim - 2))
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(x.ndim - 1,), collapsed_slice_dims=(x.ndim - 2,), start_index_map=(x.ndim - 2,),
        operand_batching_dims=batch, start_indices_batching_dims=batch)
    return lax.gather(x, lax.expand_dims(order, (order.ndim,)), numbers, (1,) * (x.ndim - 1) + x.shape[-1:],
                      unique_indices=True, mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def inverse_order(order: Array) -> Array:
    """The inverse of each permutation."""
    return lax.sort((order, _iota(order, order.ndim - 1)), dimension=order.ndim - 1, num_keys=1)[1]


# ---- solves ----


def solve(a: Array, b: Array, *, left: bool = True, low: bool, trans: bool = False, unit: bool = False) -> Array:
    """op(a)⁻¹ b, or b op(a)⁻¹, for a triangular a and its plain transpose."""
    return lax.linalg.triangular_solve(a, b, left_side=left, lower=low, transpose_a=trans, unit_diagonal=unit)


def factored(a: Array) -> tuple[Array, Array]:
    """A general square matrix, ready for `solve_factored`."""
    packed, _, order = lax.linalg.lu(a)
    return packed, order


def solve_factored(factors: tuple[Array, Array], b: Array, trans: bool = False) -> Array:
    """a⁻¹ b or a⁻ᵀ b, by LU with pivots."""
    packed, order = factors
    if trans:
        y = solve(packed, solve(packed, b, low=False, trans=True), low=True, trans=True, unit=True)
        return take_rows(y, inverse_order(order))
    return solve(packed, solve(packed, take_rows(b, order), low=True, unit=True), low=False)
