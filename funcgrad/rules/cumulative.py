"""Cumulative reductions along an axis, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.registry import closed_form, linear
from funcgrad.vjp import vjp
from funcgrad.zeros import AXES

Array = Any
Aval = Any


def _along(axis: int, ndim: int, low: int, high: int) -> list[tuple[int, int, int]]:
    """A padding configuration for one axis."""
    config = [(0, 0, 0)] * ndim
    config[axis] = (low, high, 0)
    return config


def _delayed(x: Array, fill: float, axis: int, reverse: bool) -> Array:
    """Each element's predecessor in the order of accumulation; `fill` has none before it."""
    low, high = (-1, 1) if reverse else (1, -1)
    return lax.pad(x, np.array(fill, x.dtype), _along(axis, x.ndim, low, high))


def linear_recurrence(decay: Array, increment: Array, axis: int, reverse: bool) -> Array:
    """``s[i] = increment[i] + decay[i] * s[i - 1]`` along an axis (``s[i + 1]`` for `reverse`).

    The composition of affine maps is associative, so this is a parallel prefix sum (Blelloch 1990).
    """

    def compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.mul(second[0], first[0]), lax.add(lax.mul(second[0], first[1]), second[1])

    return lax.associative_scan(compose, (decay, increment), reverse=reverse, axis=axis)[1]


def cumsum_operand(ct: Array, _x: Aval, *, axis: int, reverse: bool) -> Array:
    """Each element counts in all sums after it."""
    return lax.cumsum(ct, axis, reverse=not reverse)


def cumprod_operand(ct: Array, out: Array, x: Array, *, axis: int, reverse: bool) -> Array:
    """``ct_x[j] = (product before j) * sum over i >= j of ct[i] * (product of x[j + 1 .. i])``.

    A polynomial of the operand, without a division: zeros are right at every order.
    """
    before = _delayed(out, 1, axis, reverse)
    next_factor = _delayed(x, 1, axis, not reverse)
    return lax.mul(before, linear_recurrence(next_factor, ct, axis, not reverse))


def _log_ratio(smaller: Array, larger: Array) -> Array:
    """``smaller - larger`` of logarithms, 0 where both are the same infinity."""
    difference = lax.sub(smaller, larger)
    if np.issubdtype(larger.dtype, np.complexfloating):
        return difference
    usual = lax.bitwise_or(lax.is_finite(larger), lax.ne(smaller, larger))
    return lax.select(usual, difference, lax.full_like(difference, 0))


def cumlogsumexp_operand(ct: Array, out: Array, x: Array, *, axis: int, reverse: bool) -> Array:
    """``ct_x[j] = exp(x[j] - out[j]) * s[j]`` with ``s[j] = ct[j] + exp(out[j] - out[j + 1]) * s[j + 1]``.

    Every exponent is at most zero, so nothing overflows.
    """
    size = x.shape[axis]
    weight = lax.exp(_log_ratio(x, out))
    if size < 2:
        return lax.mul(ct, weight)
    first = lax.slice_in_dim(out, 0, size - 1, axis=axis)
    second = lax.slice_in_dim(out, 1, size, axis=axis)
    steps = lax.exp(_log_ratio(second, first) if reverse else _log_ratio(first, second))
    low, high = (1, 0) if reverse else (0, 1)
    decay = lax.pad(steps, np.zeros((), x.dtype), _along(axis, x.ndim, low, high))
    return lax.mul(linear_recurrence(decay, ct, axis, not reverse), weight)


def _cumulative_extremum(combine: Callable, x: Array, *, axis: int, reverse: bool) -> Array:
    return lax.associative_scan(combine, x, axis=axis, reverse=reverse)


def cummax_operand(ct: Array, _out: Aval, x: Array, *, axis: int, reverse: bool) -> Array:
    """The vjp of the prefix scan: how ties share depends on its tree, and JAX's convention is this tree's."""
    scan = partial(_cumulative_extremum, lax.max, axis=axis, reverse=reverse)
    return vjp(scan, x, policy="everything")[1](ct)[0]


def cummin_operand(ct: Array, _out: Aval, x: Array, *, axis: int, reverse: bool) -> Array:
    """As `cummax_operand`."""
    scan = partial(_cumulative_extremum, lax.min, axis=axis, reverse=reverse)
    return vjp(scan, x, policy="everything")[1](ct)[0]


linear(p.cumsum_p, cumsum_operand)
closed_form(p.cumprod_p, cumprod_operand, mixes=AXES)
closed_form(p.cumlogsumexp_p, cumlogsumexp_operand, mixes=AXES)
closed_form(p.cummax_p, cummax_operand, mixes=AXES)
closed_form(p.cummin_p, cummin_operand, mixes=AXES)
