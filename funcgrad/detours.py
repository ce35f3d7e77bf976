"""Floor 3: short ways through the backward sweep, where two rules one after the other do what one operation can do.

* A bias of shape (n,) is added to (m, n) by way of (1, n). Backward that is a sum, axes put in, axes taken out; here it
  is the sum.
* A mean over the last axis is summed to (m,) and broadcast to (m, 1) before it meets (m, n). Backward that is axes
  taken out, then a broadcast; here it is the broadcast.
* ``y = exp(x) / sum(exp(x))`` is one step backward, ct_x = y (ct - sum(ct y)), which reads y alone (Bridle,
  Probabilistic Interpretation of Feedforward Classification Network Outputs, 1990). Step by step the exponentials
  would be read, too, another array of that size.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any, NamedTuple

from jax import lax
from jax.extend.core import primitives as p

from funcgrad.graph import Graph, Node
from funcgrad.rule import Spread
from funcgrad.zeros import product, zeros_are_strong

Array = Any
#: By position of an operand: what stands for it, and the value that gets the cotangent in its place.
Around = dict[int, tuple[Spread, int]]

_STRETCHING = frozenset({p.add_p, p.sub_p, p.mul_p})


class Softmax(NamedTuple):
    """A division of exponentials by their sum.

    Attributes:
      operand: what the exponential is of.
      exponential: the numerator.
      inside: indices of the nodes between the operand and the division, which are not pulled.
      axes: of the sum.
      dtype: in which it was summed.
    """

    operand: int
    exponential: int
    inside: tuple[int, ...]
    axes: tuple[int, ...]
    dtype: Any

    def cotangent(self, ct: Array, out: Array) -> Array:
        """The operand's cotangent, from the division's result and its cotangent."""
        times = product if zeros_are_strong() else lax.mul
        weighted = lax.convert_element_type(times(ct, out), self.dtype)
        total = lax.convert_element_type(lax.reduce_sum(weighted, self.axes), ct.dtype)
        return times(lax.sub(ct, lax.expand_dims(total, self.axes)), out)


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

    @cached_property
    def softmaxes(self) -> dict[int, Softmax]:
        """By the index of the division."""
        found = ((index, self._softmax(node)) for index, node in enumerate(self.graph.nodes)
                 if node.primitive is p.div_p and all(node.active) and node.setting is None)
        return {index: softmax for index, softmax in found if softmax is not None}

    def _softmax(self, division: Node) -> Softmax | None:
        exponential, total = division.operands
        made = self._made_of(exponential)
        if made is None or self.graph.nodes[made[0]].primitive is not p.exp_p or self.uses[exponential] != 2:
            return None
        summed = self._sum_of(exponential, total)
        if summed is None or self.graph.avals[made[1]].shape != self.graph.avals[division.outputs[0]].shape:
            return None
        inside, axes, dtype = summed
        return Softmax(made[1], made[2], (made[0], *inside), axes, dtype)

    def _sum_of(self, summand: Any, total: Any) -> tuple[list[int], tuple[int, ...], Any] | None:
        """The operations that sum a value, over all axes or over some that are put in again, and that nobody else uses.

        Returns:
          Their indices, the axes, and the dtype of the sum; None if that is not how `total` was made.
        """
        inside: list[int] = []
        kept: tuple[int, ...] | None = None
        found: tuple[tuple[int, ...], Any] | None = None
        while total != summand:
            made = self._made_of(total)
            if made is None or self.uses[total] != 1:
                return None
            node, inserted = self.graph.nodes[made[0]], self._inserted(total)
            if node.primitive is p.reduce_sum_p and found is None:
                axes, before = tuple(map(int, node.params["axes"])), self.graph.avals[made[1]]
                if axes != (tuple(range(before.ndim)) if kept is None else kept):
                    return None
                found = axes, before.dtype
            elif inserted is not None and kept is None and found is None:
                kept = inserted[0]
            elif node.primitive is not p.convert_element_type_p:
                return None
            inside.append(made[0])
            total = made[1]
        return None if found is None else (inside, *found)

    def _made_of(self, value: Any) -> tuple[int, int, int] | None:
        """The operation of one active operand that makes a value: its index, the operand, and the value again."""
        index = self.graph.producers.get(value) if isinstance(value, int) else None
        node = None if index is None else self.graph.nodes[index]
        if index is None or node is None or node.setting is not None or node.active != (True,):
            return None
        (operand,) = node.operands
        return (index, operand, value) if isinstance(operand, int) else None

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
