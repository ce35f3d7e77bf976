"""Floor 3: the cotangents that wait in a backward sweep until the operation that made their value is pulled.

Where several paths meet, their cotangents are summed. Those of slices cover a part of the value each: n of them, padded
with zeros and summed, would cost n times the value. Disjoint ones wait as pieces instead, and are put side by side
once: a loop over the rows of an array costs no more backward than forward.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.graph import Node
from funcgrad.watching import pulling

Array = Any
Aval = Any


def add_cotangents(first: Array | None, second: Array | None) -> Array | None:
    """The sum of two contributions, None being zero."""
    if first is None or second is None:
        return second if first is None else first
    aval = _compat.typeof(first)
    return aval.vspace_add(first, second) if isinstance(aval, _compat.HiType) else p.add_p.bind(first, second)


class Piece(NamedTuple):
    """The cotangent of `value` from one of its slices: `ct` from `start` on along `axis`, zero elsewhere.

    `node` is the slice, and `number` its place in the graph.
    """

    value: int
    axis: int
    start: int
    ct: Array
    node: Node
    number: int

    @property
    def stop(self) -> int:
        """Where zeros begin again."""
        return self.start + self.ct.shape[self.axis]


def piece_of(node: Node, number: int, avals: Sequence[Aval], ct: Array) -> Piece | None:
    """What a slice in unit steps along one axis contributes to its operand; None for other operations.

    Not on a mesh, where a piece of one shard put next to another's would move it.
    """
    if node.primitive is not p.slice_p or node.setting is not None:
        return None
    (operand,) = node.operands
    assert isinstance(operand, int)
    aval = avals[operand]
    if not aval.sharding.mesh.empty or any(step != 1 for step in node.params["strides"] or ()):
        return None
    cut = [axis for axis, (size, taken) in enumerate(zip(aval.shape, ct.shape, strict=True)) if size != taken]
    if len(cut) != 1 or not isinstance(aval.shape[cut[0]], int):
        return None
    return Piece(operand, cut[0], node.params["start_indices"][cut[0]], ct, node, number)


def joined(pieces: Sequence[Piece], aval: Aval) -> Array:
    """The cotangent of type `aval` that has these pieces, sorted and disjoint, and zeros between them."""
    axis = pieces[0].axis
    stops = [*(piece.start for piece in pieces[1:]), aval.shape[axis]]
    last = min(pieces, key=lambda piece: piece.number)  # the one that was pulled last
    with pulling(last.node, last.number):
        parts = [_padded(piece, piece.start if piece is pieces[0] else 0, stop - piece.stop)
                 for piece, stop in zip(pieces, stops, strict=True)]
        return parts[0] if len(parts) == 1 else lax.concatenate(parts, axis)


def _padded(piece: Piece, before: int, after: int) -> Array:
    if before == after == 0:
        return piece.ct
    config = [(before, after, 0) if axis == piece.axis else (0, 0, 0) for axis in range(piece.ct.ndim)]
    return lax.pad(piece.ct, np.zeros((), piece.ct.dtype), config)


class Pending:
    """The cotangents that wait in one sweep over a graph whose values have these avals; nobody else sees it."""

    def __init__(self, avals: Sequence[Aval]):
        self._avals = avals
        self._whole: dict[int, Array] = {}
        self._pieces: dict[int, list[Piece]] = {}

    def add(self, values: Iterable[Any], cts: Iterable[Array | None], active: Sequence[bool] | None = None) -> None:
        """Add contributions to the cotangents of values, literals and inactive operands aside."""
        for position, (value, ct) in enumerate(zip(values, cts, strict=True)):
            if ct is not None and isinstance(value, int) and (active is None or active[position]):
                self._whole[value] = add_cotangents(self._whole.get(value), ct)

    def place(self, piece: Piece) -> None:
        """Put a piece among those that wait; add it if it overlaps one of them or lies along another axis."""
        pieces = self._pieces.setdefault(piece.value, [])
        at = bisect(pieces, piece.start, key=lambda other: other.start)
        fits = (not pieces or pieces[0].axis == piece.axis) and (at == 0 or pieces[at - 1].stop <= piece.start) and (
            at == len(pieces) or piece.stop <= pieces[at].start)
        if fits:
            pieces.insert(at, piece)
        else:
            self.add([piece.value], [joined([piece], self._avals[piece.value])])

    def take(self, value: int) -> Array | None:
        """The cotangent of a value, which waits no longer; None for zero."""
        pieces = self._pieces.pop(value, None)
        return add_cotangents(self._whole.pop(value, None), joined(pieces, self._avals[value]) if pieces else None)
