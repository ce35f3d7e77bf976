"""Reductions: sums, products, extrema, logical ones, and `reduce` with any reducer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jax.extend.core import primitives as p

from funcgrad.registry import closed_form, constant, joint, linear
from funcgrad.rules.placement import ct_sharding, sharding_of
from funcgrad.vjp import vjp
from funcgrad.zeros import AXES

Array = Any
Aval = Any


def _spread(value: Array, like: Aval, axes: Sequence[int], sharding: Any = None) -> Array:
    """A reduced value at each element of `like` that went into it."""
    kept = [i for i in range(like.ndim) if i not in axes]
    return lax.broadcast_in_dim(value, like.shape, kept, out_sharding=sharding)


def reduce_sum_operand(ct: Array, _x: Aval, *, axes: tuple, out_sharding: Any) -> Array:
    """Every summand has the cotangent of its sum."""
    if not axes and out_sharding is None:
        return ct
    return _spread(ct, _x, axes, ct_sharding(_x))


# ---- products: a polynomial of the operand, so zeros are right at every order ----


def product_of_the_others(x: Array, axis: int) -> Array:
    """For each element the product of all others along an axis, without a division."""
    if x.shape[axis] == 2:
        return lax.rev(x, (axis,))
    one = np.ones((), x.dtype)
    shift_right = [(0, 0, 0)] * x.ndim
    shift_left = list(shift_right)
    shift_right[axis], shift_left[axis] = (1, -1, 0), (-1, 1, 0)
    before = lax.cumprod(lax.pad(x, one, shift_right), axis)
    after = lax.cumprod(lax.pad(x, one, shift_left), axis, reverse=True)
    return lax.mul(before, after)


def reduce_prod_operand(ct: Array, _out: Aval, x: Array, *, axes: tuple) -> Array:
    """One axis after the other: the chain rule over partial products."""
    stages = [x]
    for axis in axes[:-1]:
        stages.append(lax.expand_dims(lax.reduce_prod(stages[-1], (axis,)), (axis,)))
    ct_x = lax.expand_dims(ct, sorted(axes)) if axes else ct
    for stage, axis in zip(reversed(stages), reversed(axes), strict=False):
        if stage.shape[axis] == 1:  # a product of one: nothing to multiply with
            continue
        spread = lax.broadcast_in_dim(ct_x, stage.shape, range(x.ndim), out_sharding=sharding_of(stage))
        ct_x = lax.mul(spread, product_of_the_others(stage, axis))
    return ct_x


# ---- extrema: ties share evenly ----


def extremum_operand(ct: Array, out: Array, x: Array, *, axes: tuple) -> Array:
    """The elements that attain the extremum share its cotangent evenly; NaN where the extremum is NaN."""
    if not axes:
        return ct
    sharding = sharding_of(x)
    attained = lax.eq(x, _spread(out, x, axes, sharding))
    ties = lax.reduce_sum(lax.convert_element_type(attained, x.dtype), axes)
    # No element equals a NaN: `ties` is 0 then, and 0 / 0 says that there is no gradient. Otherwise this is 0.
    nothing = lax.div(lax.full_like(ties, 0), ties)
    share = _spread(lax.div(ct, ties), x, axes, sharding)
    return lax.select(attained, share, _spread(nothing, x, axes, sharding))


# ---- the general reduction ----


def _reduce_in_order(reducer: Callable, xs: Sequence[Array], inits: Sequence[Array]) -> list[Array]:
    """Fold along the first axis by halves, neighbours first, then the initial values once."""
    while (size := xs[0].shape[0]) > 1:
        even = [lax.slice_in_dim(x, 0, size - size % 2, stride=2) for x in xs]
        odd = [lax.slice_in_dim(x, 1, size, stride=2) for x in xs]
        pairs = reducer(*even, *odd)
        if size % 2:
            last = [lax.slice_in_dim(x, size - 1, size) for x in xs]
            pairs = [lax.concatenate([pair, end], 0) for pair, end in zip(pairs, last, strict=True)]
        xs = pairs
    if not size:
        return [lax.broadcast(init, x.shape[1:]) for init, x in zip(inits, xs, strict=True)]
    starts = [lax.full_like(x, init) for init, x in zip(inits, xs, strict=True)]
    return [lax.squeeze(result, (0,)) for result in reducer(*starts, *xs)]


def reduce_operands(active: tuple, cts: tuple, _outs: tuple, *operands: Array, computation: Any, jaxpr: Any,
                    dimensions: tuple) -> list:
    """The vjp of the same reduction written as a tree of the reducer's calls.

    The reducer is a program, so its derivative comes from the rules of what it calls. Any associative reducer is right,
    also one that does not commute; the initial values count once, as they do on the CPU.
    """
    del computation
    half = len(operands) // 2
    rank = operands[0].ndim
    kept = [i for i in range(rank) if i not in dimensions]
    count = int(np.prod([operands[0].shape[i] for i in dimensions], dtype=np.int64))
    flat_shape = (count, *(operands[0].shape[i] for i in kept))
    reducer = jaxpr_as_fun(jaxpr)
    for _level in range(len(flat_shape)):  # the jaxpr is one of scalars
        reducer = jax.vmap(reducer)
    live = [i for i, flag in enumerate(active) if flag]
    reached = [i for i, ct in enumerate(cts) if ct is not None]

    def fold(*differentiated: Array) -> list[Array]:
        values = list(operands)
        for position, value in zip(live, differentiated, strict=True):
            values[position] = value
        xs = [lax.reshape(x, flat_shape, (*dimensions, *kept)) for x in values[:half]]
        outs = _reduce_in_order(reducer, xs, values[half:])
        return [outs[i] for i in reached]

    _, pullback = vjp(fold, *(operands[i] for i in live), policy="everything")
    results: list[Array | None] = [None] * len(operands)
    for position, ct in zip(live, pullback([cts[i] for i in reached]), strict=True):
        results[position] = ct
    return results


linear(p.reduce_sum_p, reduce_sum_operand)
closed_form(p.reduce_prod_p, reduce_prod_operand, mixes=AXES)
closed_form(p.reduce_max_p, extremum_operand, mixes=AXES)
closed_form(p.reduce_min_p, extremum_operand, mixes=AXES)
joint(p.reduce_p, reduce_operands)
constant(p.reduce_and_p, p.reduce_or_p, p.reduce_xor_p, p.argmax_p, p.argmin_p)
