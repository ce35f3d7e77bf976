"""Floor 3: the plan that repeats the fewest operations and keeps no more bytes than allowed.

The price of an operation is a Lagrange multiplier: of all plans that keep as many bytes, the cut for a price repeats
least. The highest price at which a plan fits is found by halving; operations of equal price change sides all at once,
so what is left of the budget is then filled one by one, from both sides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

from funcgrad import cost
from funcgrad.cut import cheapest_set, kept_and_repeated
from funcgrad.graph import Graph

#: In bytes for an operation: next to nothing, but of two plans with equal bytes the shorter is taken.
LEAST_PRICE, HIGHEST_PRICE = 1e-9, 1.0
#: How finely a price is sought, and how many operations are tried apart.
STEPS, TRIED = 24, 16


def flops_of_nodes(graph: Graph, repetitions: int) -> Callable[[int], float]:
    """Operations of each node. Outside of loops no loop runs twice: it would need its residuals at once."""

    def flops(index: int) -> float:
        node = graph.nodes[index]
        return cost.NEVER if repetitions == 1 and cost.runs_loop(node) else cost.node_flops(node, graph)

    return cache(flops)


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """One search.

    Attributes:
      graph: the recorded program.
      needed: values that must be had.
      free: values that cost nothing to keep.
      flops: operations of each node, infinite when it must not run again.
      limit: bytes.
    """

    graph: Graph
    needed: set[int]
    free: frozenset[int]
    flops: Callable[[int], float]
    limit: int

    def size(self, saved: set[int]) -> int:
        """Bytes of what is kept."""
        return sum(cost.value_bytes(self.graph.avals[v]) for v in saved - self.free)

    def fits(self, saved: set[int]) -> bool:
        """Whether that is allowed."""
        return self.size(saved) <= self.limit

    def repeated(self, saved: set[int]) -> set[int]:
        """Nodes that run again."""
        return kept_and_repeated(self.graph, self.needed, saved)[1]

    def work(self, saved: set[int]) -> float:
        """Operations that run again."""
        return sum(map(self.flops, self.repeated(saved)))

    def cut(self, price: float, once: frozenset[int] = frozenset(), again: frozenset[int] = frozenset()) -> set[int]:
        """The cheapest plan when an operation costs so many bytes, nodes in `once` run once, and `again` are free."""

        def priced(index: int) -> float:
            return cost.NEVER if index in once else 0.0 if index in again else self.flops(index) * price

        return cheapest_set(self.graph, self.needed, self.free, priced)

    def within(self) -> set[int]:
        """What to keep: within the limit, or the fewest bytes when nothing fits."""
        low, high = LEAST_PRICE, HIGHEST_PRICE
        best, over = self.cut(low), self.cut(high)
        if not self.fits(best):
            return best
        for _step in range(STEPS):
            middle = (low * high) ** 0.5
            saved = self.cut(middle)
            if self.fits(saved):
                low, best = middle, saved
            else:
                high, over = middle, saved
        filled = self.filled(low, best)
        emptied = self.emptied(high, over)
        return filled if emptied is None else min(filled, emptied, key=self.work)

    def filled(self, price: float, best: set[int]) -> set[int]:
        """A plan that fits, with the dearest operations run once as long as it still fits."""
        once: frozenset[int] = frozenset()
        for node in sorted(self.repeated(best), key=lambda index: (-self.flops(index), index))[:TRIED]:
            trial = self.cut(price, once=once | {node})
            if self.fits(trial) and self.work(trial) < self.work(best):
                once, best = once | {node}, trial
        return best

    def emptied(self, price: float, over: set[int]) -> set[int] | None:
        """A plan that is too large with the cheapest dear operations run again until it fits; None if it never does."""
        again, found, repeated = frozenset[int](), over, self.repeated(over)
        dear = [index for index, node in enumerate(self.graph.nodes)
                if index not in repeated and cost.node_is_dear(node) and self.flops(index) < cost.NEVER]
        for node in sorted(dear, key=lambda index: (self.flops(index), index))[:TRIED]:
            trial = self.cut(price, again=again | {node})
            if self.size(trial) < self.size(found):
                again, found = again | {node}, trial
            if self.fits(found):
                return found
        return None
