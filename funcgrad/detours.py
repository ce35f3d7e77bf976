"""Floor 3: short ways through the backward sweep, where two rules one after the other do what one operation can do.

* A bias of shape (n,) is added to (m, n) by way of (1, n). Backward that is a sum, axes put in, axes taken out; here it
  is the sum.
* A mean over the last axis is summed to (m,) and broadcast to (m, 1) before it meets (m, n). Backward that is axes
  taken out, then a broadcast; here it is the broadcast.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any

from jax import lax
from jax.extend.core import primitives as p

from funcgrad.graph import Graph, Node
from funcgrad.rule import Spread

Array = Any
#: By position of an operand: what stands for it, and the value that gets the cotangent in its place.
Around = dict[int, tuple[Spread, int]]

_STRETCHING = frozenset({p.add_p, p.sub_p, p.mul_p})


class Detours:
    """The short ways of one graph."""

    def __init__(self, graph: Graph):
        self.graph = graph

    @cached_property
    def uses(self) -> Counter[Any]:
        """How often each value is read or returned."""
        counts: Counter[Any] = Counter(v for v in self.graph.outputs if isinstance(v, int))
        for node in self.graph.nodes:
            counts.update(v for v in node.operands if isinstance(v, int))
        return counts

    def around(self, node: Node) -> Around:
        """Operands of an elementwise operation that are another value with axes of size 1 put in."""
        if node.primitive not in _STRETCHING or node.setting is not None:
            return {}
        avals = self.graph.avals
        shape = avals[node.outputs[0]].shape
        found: Around = {}
        for position, (operand, active) in enumerate(zip(node.operands, node.active, strict=True)):
            if active and isinstance(operand, int) and avals[operand].shape != shape:
                inserted = self._inserted(operand)
                if inserted is not None:
                    found[position] = Spread(avals[operand], inserted[0]), inserted[1]
        return found

    def past_sum(self, node: Node, ct: Array) -> tuple[Array, int] | None:
        """Of axes that are put in where a sum took them away: the summand's cotangent, and the summand."""
        inserted = self._inserted(node.outputs[0]) if node.primitive in (p.broadcast_in_dim_p, p.reshape_p) else None
        if inserted is None:
            return None
        axes, total = inserted
        index = self.graph.producers.get(total)
        summing = None if index is None else self.graph.nodes[index]
        if summing is None or summing.primitive is not p.reduce_sum_p or summing.setting is not None:
            return None
        (summand,) = summing.operands
        if summing.params["axes"] != axes or self.uses[total] != 1 or not isinstance(summand, int):
            return None
        shape = self.graph.avals[summand].shape
        return lax.broadcast_in_dim(ct, shape, range(len(shape))), summand

    def _inserted(self, value: int) -> tuple[tuple[int, ...], int] | None:
        """(axes of size 1 put in, the active value that they were put into), or None."""
        index = self.graph.producers.get(value)
        node = None if index is None else self.graph.nodes[index]
        if node is None or node.setting is not None or not node.active[0]:
            return None
        shape, source = self.graph.avals[value].shape, node.operands[0]
        if not isinstance(source, int):
            return None
        before = self.graph.avals[source].shape
        if node.primitive is p.broadcast_in_dim_p:
            kept = node.params["broadcast_dimensions"]
            if list(kept) != sorted(kept):
                return None
        elif node.primitive is p.reshape_p and node.params["dimensions"] is None and before and 1 not in before:
            kept = tuple(i for i, size in enumerate(shape) if size != 1)
        else:
            return None
        axes = tuple(i for i in range(len(shape)) if i not in kept)
        if not axes or before != tuple(shape[i] for i in kept) or any(shape[i] != 1 for i in axes):
            return None
        return axes, source
