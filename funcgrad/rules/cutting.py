"""How a loop is cut into parts of equal length, and a rest.

    xs[n]  ->  xs[k, m] and xs[r]        n = k m + r; the r iterations run last
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jax import lax

Array = Any


class Cut(NamedTuple):
    """Where a loop is cut: `segments` of `segment` iterations, and the `rest`, which runs last."""

    segments: int
    segment: int
    rest: int
    reverse: bool

    @classmethod
    def of(cls, length: int, segment: int, reverse: bool) -> Cut:
        """A loop of `length` iterations in segments of `segment`."""
        return cls(length // segment, segment, length % segment, reverse)

    def main(self, x: Array) -> Array:
        """The part of a stacked array that the segments have, a row for each."""
        start = self.rest if self.reverse else 0
        part = lax.slice_in_dim(x, start, start + self.segments * self.segment) if self.rest else x
        return lax.reshape(part, (self.segments, self.segment, *x.shape[1:]))

    def last(self, x: Array) -> Array:
        """The part of a stacked array that the rest has."""
        return lax.slice_in_dim(x, 0, self.rest) if self.reverse else lax.slice_in_dim(
            x, self.segments * self.segment, x.shape[0])

    def joined(self, main: Array, last: Array | None) -> Array:
        """The whole array from both parts."""
        flat = lax.reshape(main, (self.segments * self.segment, *main.shape[2:]))
        if last is None:
            return flat
        return lax.concatenate([last, flat] if self.reverse else [flat, last], 0)


def near_divisor(length: int, wanted: int) -> int:
    """The divisor of `length` nearest to `wanted` within a factor of two, so that there is no rest; else `wanted`."""
    divisors = [m for m in range(max(2, wanted // 2), min(length // 2, 2 * wanted) + 1) if length % m == 0]
    return min(divisors, key=lambda m: abs(math.log(m / wanted)), default=wanted)
