"""Floor 3: the cheapest set of values from which others can be computed, as a minimum cut.

The backward sweep needs some values. Each can be kept, which costs its bytes, or computed again, which costs a run of
its operation and needs the operands in turn. A value has two vertices: `had`, and `again` for computed again. For
``c = a * b``, of which `c` is needed, where `a` and `b` are inputs:

    SOURCE ──∞──> (a again) ──bytes of a──> (a had) ──∞──┐
    SOURCE ──∞──> (b again) ──bytes of b──> (b had) ──∞──┼──> (c again) ──bytes of c──> (c had) ──∞──> SINK
    SOURCE ──price of running `mul` again────────────────┘

A cut parts the vertices into a source's side and a sink's side, and weighs as much as the edges that lead from the one
to the other. Read the sink's side as what there is when the sweep begins. `(c had)` is there, or an unlimited edge
would be cut. If `(c again)` is not, the cut goes through the bytes of c: it is kept. If it is, the cut goes through the
price of `mul`, which runs again; then `(a had)` and `(b had)` must be there too. They are inputs, which nothing
computes, so the cut goes through their bytes.

So the weight of a cut is bytes kept plus prices of what runs again, and the cheapest plan is a minimum cut. (An
operation with several results has a vertex of its own, with an unlimited edge to the `again` of each.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import inf
from typing import NamedTuple

import numpy as np

from funcgrad.cost import value_bytes
from funcgrad.graph import Graph

#: Sum of all weights in scipy's 32 bits; an unlimited edge weighs a little more.
LIMIT = 2**29
SOURCE, SINK = 0, 1


def cheapest_set(graph: Graph, needed: set[int], free: frozenset[int], price: Callable[[int], float]) -> set[int]:
    """The values to keep so that all of `needed` can be had; `free` is among them.

    Args:
      graph: the recorded program.
      needed: values that must be had.
      free: values that cost nothing to keep.
      price: what running the node of an index again costs, in bytes; infinite when it must not.
    """
    network = _Network(graph, free, price)
    for value in needed - free:
        network.edges[network.vertices(value).had, SINK] = inf
    while network.pending:
        network.connect(network.pending.pop())
    if not network.can_run():
        return needed | free
    there = _sink_side(network)
    return {v for v, (again, had) in network.values.items() if there[had] and not there[again]} | free


class _Vertices(NamedTuple):
    """The two vertices of a value; the edge between them weighs its bytes."""

    again: int
    had: int


@dataclasses.dataclass
class _Network:
    """All that may be kept or run, back from the needed values to the free ones and the inputs.

    Attributes:
      graph, free, price: see `cheapest_set`.
      edges: weight of the edge from one vertex to another.
      values: by number of a value.
      operations: by index of a node, its vertex; None where it must not run again.
      pending: values whose origin is not connected yet.
      size: number of vertices.
    """

    graph: Graph
    free: frozenset[int]
    price: Callable[[int], float]
    edges: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    values: dict[int, _Vertices] = dataclasses.field(default_factory=dict)
    operations: dict[int, int | None] = dataclasses.field(default_factory=dict)
    pending: list[int] = dataclasses.field(default_factory=list)
    size: int = 2

    def vertices(self, value: int) -> _Vertices:
        """The vertices of a value, made when it is met for the first time."""
        found = self.values.get(value)
        if found is None:
            found = self.values[value] = _Vertices(self.size, self.size + 1)
            self.size += 2
            self.edges[found.again, found.had] = value_bytes(self.graph.avals[value])
            self.pending.append(value)
        return found

    def connect(self, value: int) -> None:
        """The edge to a value from where it comes from: its operation, or the source if it can only be kept."""
        again = self.values[value].again
        index = self.graph.producers.get(value)
        if index is not None and index not in self.operations:
            self.operations[index] = self._operation(index, again)
        operation = None if index is None else self.operations[index]
        if operation is None:
            self.edges[SOURCE, again] = inf
        elif operation != again:
            self.edges[operation, again] = inf

    def _operation(self, index: int, again: int) -> int | None:
        """The vertex of an operation, with its price and operands; of a single result it is that one's `again`."""
        node, price = self.graph.nodes[index], self.price(index)
        if price == inf:
            return None
        operation = again
        if len(node.outputs) + len(node.hidden) > 1:
            operation = self.size
            self.size += 1
        self.edges[SOURCE, operation] = price
        for operand in node.operands:
            if isinstance(operand, int) and operand not in self.free:
                self.edges[self.vertices(operand).had, operation] = inf
        return operation

    def can_run(self) -> bool:
        """Whether any operation may run again."""
        return any(operation is not None for operation in self.operations.values())


def _sink_side(network: _Network) -> np.ndarray:
    """For each vertex, whether it can still reach the sink when the flow is at its maximum.

    Of several minimum cuts that is the one nearest to the sink: it repeats least.
    """
    from scipy.sparse import csr_array  # only who plans pays for scipy
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    ends = np.array(list(network.edges), np.int32)
    shape = (network.size, network.size)
    flowing = csr_array((_capacities(network, ends), (ends[:, 0], ends[:, 1])), shape=shape)
    left = (flowing - maximum_flow(flowing, SOURCE, SINK).flow).tocsr()
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reaching = np.zeros(network.size, bool)
    reaching[breadth_first_order(left.T.tocsr(), SINK, return_predecessors=False)] = True
    return reaching


def _capacities(network: _Network, ends: np.ndarray) -> np.ndarray:
    """The weights as scipy wants them, whole numbers of 32 bits: scaled, and without infinity."""
    weights = np.fromiter(network.edges.values(), float, len(network.edges))
    unlimited = np.isinf(weights)
    scale = LIMIT / max(1.0, float(weights[~unlimited].sum()))
    capacities = np.rint(np.where(unlimited, 0.0, weights) * scale).astype(np.int64)
    of_values = ~unlimited & (ends[:, 0] != SOURCE)
    capacities = np.where(of_values, np.maximum(capacities, 1), capacities)  # no value is free by rounding
    return np.where(unlimited, capacities.sum() + 1, capacities).astype(np.int32)


def kept_and_repeated(graph: Graph, needed: set[int], saved: set[int]) -> tuple[set[int], set[int]]:
    """Of `saved` the values that are used when all of `needed` is had, and the nodes that run again for it."""
    used, repeated, pending = set(), set(), list(needed)
    while pending:
        value = pending.pop()
        if value in used:
            continue
        used.add(value)
        index = graph.producers.get(value)
        if value not in saved and index is not None and index not in repeated:
            repeated.add(index)
            pending.extend(v for v in graph.nodes[index].operands if isinstance(v, int))
    return {v for v in used if v in saved or v not in graph.producers}, repeated
