"""Floor 3: the cheapest set of values from which others can be computed, as a minimum cut.

Each value is an edge that weighs its bytes, each operation hangs on the source by an edge that weighs what running it
again costs. Whatever lies on the sink's side is there for the backward sweep: a value by being kept (its edge is cut)
or by its operation running again (that edge is cut, and then all operands must be on the sink's side too). So the
weight of the cut is bytes kept plus operations repeated, and the cheapest plan is a minimum cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import inf

import numpy as np

from funcgrad.cost import value_bytes
from funcgrad.graph import Graph

#: Sum of all weights in scipy's 32 bits; an unlimited edge weighs a little more.
LIMIT = 2**29
SOURCE, SINK = 0, 1


@dataclasses.dataclass
class _Network:
    """The edges while they are collected, and the vertices of each value: (before its edge, behind it)."""

    places: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    edges: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    size: int = 2

    def vertex(self) -> int:
        """A new vertex."""
        self.size += 1
        return self.size - 1

    def value(self, value: int, weight: int) -> tuple[int, int]:
        """The vertices of a value that is met for the first time."""
        place = self.places[value] = (self.size, self.size + 1)
        self.size += 2
        self.edges[place] = weight
        return place


def cheapest_set(graph: Graph, needed: set[int], free: frozenset[int], price: Callable[[int], float]) -> set[int]:
    """The values to keep so that all of `needed` can be had; `free` is among them.

    Args:
      graph: the recorded program.
      needed: values that must be had.
      free: values that cost nothing to keep.
      price: what running the node of an index again costs, in bytes; infinite when it must not.
    """
    network, limited = _network(graph, needed, free, price)
    if not limited:  # nothing can be computed again
        return {v for v in needed if v in network.places} | free
    beyond = _sink_side(network)
    return {v for v, (before, behind) in network.places.items() if beyond[behind] and not beyond[before]} | free


def _network(graph: Graph, needed: set[int], free: frozenset[int],
             price: Callable[[int], float]) -> tuple[_Network, bool]:
    """All that computing `needed` may read or run, and whether it may run anything."""
    network = _Network()
    edges, places, limited = network.edges, network.places, False
    operations: dict[int, int] = {}  # node index -> vertex, -1 for those that never run again
    pending = [v for v in needed if v not in free]
    for value in pending:
        edges[network.value(value, value_bytes(graph.avals[value]))[1], SINK] = inf
    while pending:
        value = pending.pop()
        before = places[value][0]
        index = graph.producers.get(value)
        if index is None:
            edges[SOURCE, before] = inf
            continue
        operation = operations.get(index)
        if operation is None:
            node, cost = graph.nodes[index], price(index)
            if cost == inf:
                operation = operations[index] = -1
            else:
                limited = True
                alone = len(node.outputs) + len(node.hidden) == 1
                operation = operations[index] = before if alone else network.vertex()
                edges[SOURCE, operation] = cost
                for operand in node.operands:
                    if isinstance(operand, int) and operand not in free:
                        if operand not in places:
                            network.value(operand, value_bytes(graph.avals[operand]))
                            pending.append(operand)
                        edges[places[operand][1], operation] = inf
        if operation < 0:
            edges[SOURCE, before] = inf
        elif operation != before:
            edges[operation, before] = inf
    return network, limited


def _sink_side(network: _Network) -> np.ndarray:
    """For each vertex, whether it can still reach the sink when the flow is at its maximum.

    Of several minimum cuts that is the one nearest to the sink: it repeats least.
    """
    from scipy.sparse import csr_array  # only who plans pays for scipy
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    weights = np.fromiter(network.edges.values(), float, len(network.edges))
    ends = np.array(list(network.edges), np.int32)
    unlimited = np.isinf(weights)
    scale = LIMIT / max(1.0, float(weights[~unlimited].sum()))
    capacity = np.rint(np.where(unlimited, 0.0, weights) * scale).astype(np.int64)
    kept = ends[:, 0] + 1 == ends[:, 1]  # a value's own edge is never weightless
    capacity = np.where(kept & ~unlimited, np.maximum(capacity, 1), capacity)
    capacity = np.where(unlimited, capacity.sum() + 1, capacity)
    flowing = csr_array((capacity.astype(np.int32), (ends[:, 0], ends[:, 1])), shape=(network.size,) * 2)
    left = (flowing - maximum_flow(flowing, SOURCE, SINK).flow).tocsr()
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    beyond = np.zeros(network.size, bool)
    beyond[breadth_first_order(left.T.tocsr(), SINK, return_predecessors=False)] = True
    return beyond


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
