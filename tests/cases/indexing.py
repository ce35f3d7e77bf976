"""Cases of gather and of dynamic slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from tests.cases.case import Args, Boundary, Case

Numbers = lax.GatherDimensionNumbers
ROWS = Numbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))
WINDOWS = Numbers(offset_dims=(1, 2), collapsed_slice_dims=(), start_index_map=(0, 1))
SWAPPED = Numbers(offset_dims=(0, 2), collapsed_slice_dims=(), start_index_map=(1, 0))
COLUMNS = Numbers(offset_dims=(0,), collapsed_slice_dims=(1,), start_index_map=(1,))
BATCHED = Numbers(offset_dims=(2,), collapsed_slice_dims=(1,), start_index_map=(1,),
                  operand_batching_dims=(0,), start_indices_batching_dims=(0,))
BATCHED_LATE = Numbers(offset_dims=(0,), collapsed_slice_dims=(0,), start_index_map=(0,),
                       operand_batching_dims=(2,), start_indices_batching_dims=(1,))
WHOLE = Numbers(offset_dims=(1,), collapsed_slice_dims=(), start_index_map=())


def gather(numbers: Numbers, sizes: Sequence[int], mode: str | None, *, is_sorted: bool = False,
           unique: bool = False, fill: float | None = None) -> Callable[..., Any]:
    """`lax.gather` with every param spelled out."""
    return lambda x, i: lax.gather(x, i, numbers, tuple(sizes), unique_indices=unique,
                                   indices_are_sorted=is_sorted, mode=mode, fill_value=fill)


def at(shape: tuple[int, ...], indices: Any, dtype: Any = np.int32) -> Callable[[np.random.Generator], Args]:
    """A normal operand of this shape, and these indices."""
    return lambda rng: (rng.standard_normal(shape), np.asarray(indices, dtype))


def hits(shape: tuple[int, ...], starts: Sequence[Sequence[int]], sizes: Sequence[int]) -> np.ndarray:
    """How often each element is read by clamped windows: the truth, by counting."""
    count = np.zeros(shape)
    for start in starts:
        low = [min(max(s, 0), n - size) for s, n, size in zip(start, shape, sizes, strict=True)]
        count[tuple(slice(s, s + size) for s, size in zip(low, sizes, strict=True))] += 1
    return count


FAR_ROWS = [[-2], [1], [4], [9]]
FAR_WINDOWS = [[-1, 4], [2, 2], [9, -9]]
PROMISED = ("XLA clamps a gather out of range, so the clamped element is what the result depends on; JAX "
            "transposes to a scatter in the same mode, which drops it")
GRID = np.arange(15.0).reshape(5, 3)
FIELD = np.arange(30.0).reshape(5, 6)

GATHER = (
    Case("gather[rows,clip]", ("gather",), gather(ROWS, (1, 3), "clip"), at((5, 3), [[3], [0], [3], [1]]),
         boundary=(
             Boundary("out of range", (GRID, np.array(FAR_ROWS))),
             Boundary("int8", (GRID, np.array([[-128], [127], [2], [2]], np.int8))),
             Boundary("uint8", (GRID, np.array([[255], [127], [2], [4]], np.uint8))),
             Boundary("no index", (GRID, np.zeros((0, 1), np.int32))),
         )),
    Case("gather[rows,fill]", ("gather",), gather(ROWS, (1, 3), "fill", fill=7.0),
         at((5, 3), [[3], [0], [3], [1]]), boundary=(
             Boundary("out of range", (GRID, np.array(FAR_ROWS))),
             Boundary("all out of range", (GRID, np.array([[-1], [5], [-9], [70]]))),
             Boundary("uint8", (GRID, np.array([[255], [127], [2], [4]], np.uint8))),
             Boundary("infinite operand", (np.where(GRID == 3, np.inf, GRID), np.array(FAR_ROWS))),
         )),
    Case("gather[rows,nan]", ("gather",), gather(ROWS, (1, 3), "fill"), at((5, 3), [[3], [0], [3], [1]]),
         boundary=(Boundary("out of range", (GRID, np.array(FAR_ROWS))),)),
    Case("gather[rows,promise]", ("gather",), gather(ROWS, (1, 3), "promise_in_bounds"),
         at((5, 3), [[3], [0], [3], [1]]), boundary=(
             Boundary("out of range", (GRID, np.array(FAR_ROWS)),
                      expected=(hits((5, 3), [(-2, 0), (1, 0), (4, 0), (9, 0)], (1, 3)),), why=PROMISED),)),
    Case("gather[rows,sorted,unique]", ("gather",),
         gather(ROWS, (1, 3), "promise_in_bounds", is_sorted=True, unique=True), at((5, 3), [[0], [1], [3]])),
    Case("gather[windows,clip]", ("gather",), gather(WINDOWS, (2, 3), "clip"),
         at((5, 6), [[0, 1], [3, 2], [1, 1]]), boundary=(
             Boundary("out of range", (FIELD, np.array(FAR_WINDOWS)),
                      expected=(hits((5, 6), [tuple(s) for s in FAR_WINDOWS], (2, 3)),)),)),
    Case("gather[windows,fill]", ("gather",), gather(WINDOWS, (2, 3), "fill", fill=-1.0),
         at((5, 6), [[0, 1], [3, 2], [1, 1]]), boundary=(
             Boundary("partly out of range", (FIELD, np.array([[4, 0], [0, 4], [3, 3]])),
                      expected=(hits((5, 6), [(3, 3)], (2, 3)),)),)),
    Case("gather[windows,promise]", ("gather",), gather(WINDOWS, (2, 3), "promise_in_bounds"),
         at((5, 6), [[0, 1], [3, 2], [1, 1]]), boundary=(
             Boundary("out of range", (FIELD, np.array(FAR_WINDOWS)),
                      expected=(hits((5, 6), [tuple(s) for s in FAR_WINDOWS], (2, 3)),), why=PROMISED),)),
    Case("gather[swapped start_index_map]", ("gather",), gather(SWAPPED, (2, 3), "clip"),
         at((5, 6), [[1, 0], [2, 3], [9, -4]])),
    Case("gather[offset first]", ("gather",), gather(COLUMNS, (3, 1), "fill"),
         at((3, 5), [[4], [0], [4], [2]])),
    Case("gather[batching dims,clip]", ("gather",), gather(BATCHED, (1, 1, 2), "clip"),
         at((3, 5, 2), [[[0], [4]], [[9], [2]], [[3], [3]]])),
    Case("gather[batching dims,fill]", ("gather",), gather(BATCHED, (1, 1, 2), "fill", fill=0.0),
         at((3, 5, 2), [[[0], [4]], [[9], [2]], [[3], [3]]])),
    Case("gather[batching dims,last]", ("gather",), gather(BATCHED_LATE, (1, 2, 1), "promise_in_bounds"),
         at((4, 2, 3), [[[0], [3], [2]], [[1], [3], [2]]])),
    Case("gather[no start index]", ("gather",), gather(WHOLE, (2,), "clip"), at((2,), np.zeros((3, 0)))),
    Case("gather[complex]", ("gather",), gather(ROWS, (1, 3), "fill", fill=0.0),
         lambda rng: (rng.standard_normal((5, 3)) + 1j * rng.standard_normal((5, 3)),
                      np.array([[3], [0], [7], [3]])), dtypes=("float32", "float64")),
    Case("gather[empty operand]", ("gather",), gather(ROWS, (1, 0), "fill"), at((5, 0), [[3], [0]])),
)


def dynamic_slice(*sizes: int) -> Callable[..., Any]:
    """The primitive itself: `lax.dynamic_slice` counts negative starts from the end first."""
    return lambda x, *starts: p.dynamic_slice_p.bind(x, *starts, slice_sizes=sizes)


def dynamic_update_slice(x: Any, update: Any, *starts: Any) -> Any:
    """The primitive itself."""
    return p.dynamic_update_slice_p.bind(x, update, *starts)


def starting(shapes: Sequence[tuple[int, ...]], *starts: int) -> Callable[[np.random.Generator], Args]:
    """Normal arrays and the start indices."""
    return lambda rng: (*(rng.standard_normal(s) for s in shapes), *(np.int32(i) for i in starts))


def _int8(*starts: int) -> tuple[np.int8, ...]:
    return tuple(np.int8(i) for i in starts)


DYNAMIC = (
    Case("dynamic_slice", ("dynamic_slice",), dynamic_slice(2, 3), starting([(5, 6)], 1, 2), boundary=(
        Boundary("clamped above", (FIELD, np.int32(4), np.int32(99)),
                 expected=(hits((5, 6), [(4, 99)], (2, 3)),)),
        Boundary("clamped below", (FIELD, np.int32(-1), np.int32(-99)),
                 expected=(hits((5, 6), [(-1, -99)], (2, 3)),)),
        Boundary("int8", (FIELD, *_int8(3, 127))),
    )),
    Case("dynamic_slice[whole]", ("dynamic_slice",), dynamic_slice(4), starting([(4,)], 1)),
    Case("dynamic_slice[empty]", ("dynamic_slice",), dynamic_slice(2, 0), starting([(4, 3)], 1, 1)),
    Case("dynamic_slice[scalar]", ("dynamic_slice",), dynamic_slice(), starting([()])),
    Case("dynamic_slice[complex]", ("dynamic_slice",), dynamic_slice(2),
         lambda rng: (rng.standard_normal(5) + 1j * rng.standard_normal(5), np.int32(2)),
         dtypes=("float32", "float64")),
    Case("dynamic_update_slice", ("dynamic_update_slice",), dynamic_update_slice,
         starting([(5, 6), (2, 3)], 1, 2), boundary=(
             Boundary("clamped above", (FIELD, np.ones((2, 3)), np.int32(4), np.int32(99)),
                      expected=(1 - hits((5, 6), [(4, 99)], (2, 3)), np.ones((2, 3)))),
             Boundary("clamped below", (FIELD, np.ones((2, 3)), np.int32(-1), np.int32(-99)),
                      expected=(1 - hits((5, 6), [(-1, -99)], (2, 3)), np.ones((2, 3)))),
             Boundary("int8", (FIELD, np.ones((2, 3)), *_int8(3, 127))),
         )),
    Case("dynamic_update_slice[operand only]", ("dynamic_update_slice",), dynamic_update_slice,
         starting([(5, 6), (2, 3)], 1, 2), argnums=(0,)),
    Case("dynamic_update_slice[update only]", ("dynamic_update_slice",), dynamic_update_slice,
         starting([(5, 6), (2, 3)], 1, 2), argnums=(1,)),
    Case("dynamic_update_slice[whole]", ("dynamic_update_slice",), dynamic_update_slice,
         starting([(4,), (4,)], 1)),
    Case("dynamic_update_slice[empty]", ("dynamic_update_slice",), dynamic_update_slice,
         starting([(4, 3), (2, 0)], 1, 1)),
)

CASES: tuple[Case, ...] = GATHER + DYNAMIC
