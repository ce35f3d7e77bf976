"""Rules of the reductions over windows.

A window has, in each dimension, a size and a stride, low and high padding of the operand (also negative), and
dilations: `base_dilation` puts holes into the operand, `window_dilation` into the window. Window o reads the padded
operand at ``o stride + k window_dilation`` for k below the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.extend.core import primitives as p

from funcgrad.registry import closed_form, joint, linear, unsupported
from funcgrad.rules.backend import on_one_cpu
from funcgrad.rules.contraction import dilated
from funcgrad.vjp import vjp

Array = Any
Aval = Any
Masked = tuple[list[Array], np.ndarray]

#: Windows of more elements than this are not written out element by element.
MOST_POSITIONS = 16


# ---- sums ----


def window_sum_transpose(ct: Array, _x: Aval, *, window_dimensions: Any, window_strides: Any, padding: Any,
                         base_dilation: Any, window_dilation: Any) -> Array | None:
    """A sum over windows again, stride and base dilation exchanged.

    Element i is in the windows o with ``o stride + k window_dilation = i base_dilation + low``.
    """
    if 0 in (ct.size, _x.size):
        return None
    config = []
    for n, o, w, s, (low, _), b, d in zip(_x.shape, ct.shape, window_dimensions, window_strides, padding,
                                          base_dilation, window_dilation, strict=True):
        before = dilated(w, d) - 1 - low
        config.append((before, dilated(n, b) + dilated(w, d) - 1 - before - dilated(o, s), s - 1))
    spread = ct if all(c == (0, 0, 0) for c in config) else lax.pad(ct, np.zeros((), ct.dtype), config)
    if math.prod(window_dimensions) == 1 and math.prod(base_dilation) == 1:
        return spread
    ones = (1,) * ct.ndim
    return p.reduce_window_sum_p.bind(spread, window_dimensions=window_dimensions,
                                      window_strides=base_dilation, padding=((0, 0),) * ct.ndim,
                                      base_dilation=ones, window_dilation=window_dilation)


linear(p.reduce_window_sum_p, window_sum_transpose)


# ---- the element that a window selects ----
# Of several equal ones it is the first in row-major order, padding being -inf (+inf) as any other element.


def scatter_to_selected(ct: Array, operand: Array, *, select_prim: Any, window_dimensions: Any,
                        window_strides: Any, padding: Any, base_dilation: Any,
                        window_dilation: Any) -> Array | None:
    """Each window's `ct` added at the element of `operand` that the window selects."""
    if 0 in (ct.size, operand.size):
        return None
    plain = (
        math.prod(base_dilation) == 1 == math.prod(window_dilation) and min(map(min, padding), default=0) >= 0
    )
    apart = plain and tuple(window_dimensions) == tuple(window_strides) and not any(map(any, padding))
    if apart and math.prod(window_dimensions) <= MOST_POSITIONS and on_one_cpu(ct, operand):
        return _scatter_in_tiles(ct, operand, select_prim, window_dimensions)
    if plain:
        return p.select_and_scatter_add_p.bind(ct, operand, select_prim=select_prim, padding=padding,
                                               window_dimensions=window_dimensions,
                                               window_strides=window_strides)
    config = [(low, high, b - 1) for (low, high), b in zip(padding, base_dilation, strict=True)]
    padded = lax.pad(operand, _worst(select_prim, operand.dtype), config)
    if 0 in padded.shape:
        return None
    if math.prod(window_dilation) == 1:
        out = p.select_and_scatter_add_p.bind(ct, padded, select_prim=select_prim,
                                              padding=((0, 0),) * ct.ndim,
                                              window_dimensions=window_dimensions,
                                              window_strides=window_strides)
    else:
        out = _scatter_by_residue(ct, padded, select_prim, window_dimensions, window_strides, window_dilation)
    cropped = lax.pad(out, np.zeros((), out.dtype), [(-low, -high, 0) for low, high in padding])
    return lax.slice(cropped, (0,) * ct.ndim, cropped.shape, base_dilation)


def _scatter_in_tiles(ct: Array, operand: Array, select_prim: Any, sizes: Sequence[int]) -> Array:
    """`scatter_to_selected` for windows that do not overlap, in elementwise steps over the positions in a window.

    XLA's CPU backend computes indices and scatters, which takes 2 to 40 times as long, channels being many
    (`python -m experiments.bench.products`). The order of the steps is its own, so NaN is treated alike.
    """
    covered = [n * size for n, size in zip(ct.shape, sizes, strict=True)]
    size = math.prod(sizes)
    ends = (np.subtract(covered, sizes) + position + 1 for position in np.ndindex(*sizes))
    values = [lax.slice(operand, position, tuple(map(int, end)), sizes)
              for position, end in zip(np.ndindex(*sizes), ends, strict=True)]
    best, chosen = values[0], lax.full(ct.shape, 0, np.int32)
    for k in range(1, size):
        kept = select_prim.bind(best, values[k])
        chosen = lax.select(kept, chosen, lax.full(ct.shape, k, np.int32))
        if k < size - 1:
            best = lax.select(kept, best, values[k])
    tiles = _interleaved(ct.shape, sizes)
    along, within = range(0, len(tiles), 2), range(1, len(tiles), 2)
    places = np.arange(size, dtype=np.int32).reshape(sizes)
    here = lax.eq(lax.broadcast_in_dim(chosen, tiles, along), lax.broadcast_in_dim(places, tiles, within))
    out = lax.select(here, lax.broadcast_in_dim(ct, tiles, along), lax.full(tiles, 0, ct.dtype))
    rest = [(0, n - done, 0) for n, done in zip(operand.shape, covered, strict=True)]
    out = lax.reshape(out, covered)
    return out if out.shape == operand.shape else lax.pad(out, np.zeros((), ct.dtype), rest)


def _scatter_by_residue(ct: Array, operand: Array, select_prim: Any, sizes: Sequence[int],
                        strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """`scatter_to_selected` for windows with holes.

    A window of dilation d reads one residue class modulo d. So each dimension of `operand` becomes two, quotient and
    residue; windows without holes run over the quotients, one from each start; and `ct` is spread over the starts.
    """
    rows = [-(-n // d) for n, d in zip(operand.shape, dilations, strict=True)]
    starts = [r - w + 1 for r, w in zip(rows, sizes, strict=True)]
    fill = [(0, r * d - n, 0) for n, r, d in zip(operand.shape, rows, dilations, strict=True)]
    spread = [
        (0, r * d - dilated(o, s), s - 1)
        for o, r, s, d in zip(ct.shape, starts, strides, dilations, strict=True)
    ]
    ones = (1,) * (2 * ct.ndim)
    out = p.select_and_scatter_add_p.bind(
        lax.reshape(lax.pad(ct, np.zeros((), ct.dtype), spread), _interleaved(starts, dilations)),
        lax.reshape(
            lax.pad(operand, _worst(select_prim, operand.dtype), fill), _interleaved(rows, dilations)
        ),
        select_prim=select_prim,
        window_dimensions=_interleaved(sizes, (1,) * ct.ndim),
        window_strides=ones,
        padding=((0, 0),) * len(ones),
    )
    out = lax.reshape(out, [r * d for r, d in zip(rows, dilations, strict=True)])
    return lax.slice(out, (0,) * ct.ndim, operand.shape)


def _interleaved(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for pair in zip(first, second, strict=True) for n in pair)


def _worst(select_prim: Any, dtype: Any) -> np.ndarray:
    """The value that a window selects last."""
    return np.array(-np.inf if select_prim is lax.ge_p else np.inf, dtype)


def window_max_vjp(ct: Array, _out: Aval, x: Array, **window: Any) -> Array | None:
    """All of a window's cotangent goes to the first of its largest elements."""
    return scatter_to_selected(ct, x, select_prim=lax.ge_p, **window)


def window_min_vjp(ct: Array, _out: Aval, x: Array, **window: Any) -> Array | None:
    """All of a window's cotangent goes to the first of its smallest elements."""
    return scatter_to_selected(ct, x, select_prim=lax.le_p, **window)


def selected_gather_transpose(ct: Array, _tangents: Aval, operand: Array, **params: Any) -> Array | None:
    """Gathering one element a window transposes to adding each window's `ct` there."""
    return scatter_to_selected(ct, operand, **params)


def selected_scatter_transpose(ct: Array, _source: Aval, operand: Array, *, select_prim: Any,
                               window_dimensions: Any, window_strides: Any, padding: Any) -> Array:
    """Adding at one element a window transposes to gathering `ct` there."""
    ones = (1,) * ct.ndim
    return p.select_and_gather_add_p.bind(ct, operand, select_prim=select_prim,
                                          window_dimensions=window_dimensions, window_strides=window_strides,
                                          padding=padding, base_dilation=ones, window_dilation=ones)


closed_form(p.reduce_window_max_p, window_max_vjp)
closed_form(p.reduce_window_min_p, window_min_vjp)
linear(p.select_and_gather_add_p, selected_gather_transpose, None)
linear(p.select_and_scatter_add_p, selected_scatter_transpose, None)
unsupported(
    p.select_and_scatter_p,
    reason="its two programs choose and combine elements as they like, and JAX has no "
    "derivative of it; jax.grad refuses it too",
)


# ---- any associative reduction ----


def reduce_window_vjp(
    active: tuple[bool, ...], cts: Sequence[Array | None], _outs: Any, *operands: Array, **params: Any
) -> Sequence[Array | None]:
    """The pullback of the same reduction, written as elementwise steps over slices. JAX has no reverse mode of it."""
    if all(ct is None or ct.size == 0 for ct in cts):
        return [None] * len(operands)
    chosen = [x for x, flag in zip(operands, active, strict=True) if flag]

    def reduction(*values: Array) -> list[Array]:
        remaining = iter(values)
        full = [next(remaining) if flag else x for x, flag in zip(operands, active, strict=True)]
        outs = _reduced_by_slices(full, **params)
        return [out for out, ct in zip(outs, cts, strict=True) if ct is not None]

    _, pullback = vjp(reduction, *chosen)
    found = iter(pullback([ct for ct in cts if ct is not None]))
    return [next(found) if flag else None for flag in active]


def _reduced_by_slices(operands: Sequence[Array], *, jaxpr: Any, consts: Any, window_dimensions: Any,
                       window_strides: Any, padding: Any, base_dilation: Any,
                       window_dilation: Any) -> list[Array]:
    """Windows reduced a dimension at a time, the last first, which keeps row-major order; then the initial value.

    XLA steps over the padding and the holes of the operand, so each array goes with a mask of what is there.
    """
    half = len(operands) // 2
    xs, inits = list(operands[:half]), operands[half:]
    combine = _elementwise(ClosedJaxpr(jaxpr, consts))
    there = _mask(xs[0].shape, padding, base_dilation)
    config = [(low, high, b - 1) for (low, high), b in zip(padding, base_dilation, strict=True)]
    xs = [lax.pad(x, init, config) for x, init in zip(xs, inits, strict=True)]
    for axis in reversed(range(xs[0].ndim)):
        extent = dilated(window_dimensions[axis], window_dilation[axis])
        slices = [_shifted(xs, there, axis, k * window_dilation[axis], window_strides[axis], extent)
                  for k in range(window_dimensions[axis])]
        while len(slices) > 1:  # neighbours in pairs: as many steps in a row as the logarithm of the size
            paired = [_merged(combine, *pair) for pair in zip(slices[::2], slices[1::2], strict=False)]
            slices = paired + slices[len(slices) - len(slices) % 2 :]
        xs, there = slices[0]
    first = [lax.broadcast(init, x.shape) for init, x in zip(inits, xs, strict=True)]
    return _merged(combine, (first, np.ones_like(there)), (xs, there))[0]


def _mask(shape: Sequence[int], padding: Any, base_dilation: Sequence[int]) -> np.ndarray:
    """Where the padded operand has elements of its own."""
    mask = np.ones((), bool)
    for n, (low, high), b in zip(shape, padding, base_dilation, strict=True):
        place = np.arange(dilated(n, b) + low + high) - low
        mask = np.logical_and.outer(mask, (place >= 0) & (place < dilated(n, b)) & (place % b == 0))
    return mask


def _shifted(xs: Sequence[Array], there: np.ndarray, axis: int, start: int, stride: int, extent: int) -> Masked:
    """What each window reads at `start`, for windows of `extent` elements."""
    stop = start + (there.shape[axis] - extent) // stride * stride + 1
    read = (slice(None),) * axis + (slice(start, stop, stride),)
    return [lax.slice_in_dim(x, start, stop, stride, axis) for x in xs], there[read]


def _merged(combine: Callable[[Sequence[Array], Sequence[Array]], list[Array]], left: Masked, right: Masked) -> Masked:
    """Two arrays combined where both have an element, the one that has it elsewhere."""
    (xs, in_x), (ys, in_y) = left, right
    both = combine(xs, ys)
    if not (in_x.all() and in_y.all()):
        both = [lax.select(in_y, lax.select(in_x, z, y), x) for x, y, z in zip(xs, ys, both, strict=True)]
    return both, in_x | in_y


def _elementwise(program: ClosedJaxpr) -> Callable[[Sequence[Array], Sequence[Array]], list[Array]]:
    """A program of scalars, applied to arrays."""
    scalar = jaxpr_as_fun(program)

    def combine(left: Sequence[Array], right: Sequence[Array]) -> list[Array]:
        flat = [lax.reshape(x, (x.size,)) for x in (*left, *right)]
        return [lax.reshape(x, left[0].shape) for x in jax.vmap(scalar)(*flat)]

    return combine


joint(p.reduce_window_p, reduce_window_vjp)
