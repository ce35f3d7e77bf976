"""Floor 3: what a pullback keeps, and what it computes again.

The rules say which values the backward sweep reads. A plan says which of them are saved; the rest is recomputed from
saved ones. Policies (`funcgrad.policies`) decide; all but "everything" and callables are minimum cuts (`funcgrad.cut`)
that differ in what running an operation again costs (`funcgrad.cost`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from funcgrad import cost
from funcgrad.budgeting import LEAST_PRICE, Search, flops_of_nodes
from funcgrad.cut import cheapest_set, kept_and_repeated
from funcgrad.detours import Detours
from funcgrad.graph import Graph, Node
from funcgrad.policies import Budget, Policy, Segments, checked, in_force, says_save
from funcgrad.registry import lookup
from funcgrad.rule import MapClass

#: Operations that are worth one byte, for operations that XLA fuses: nearly free, but not without end.
FLOPS_PER_BYTE = 512.0
#: In bytes: an operation more must be traced, compiled and started, however small its arrays are. Not in loops, where
#: the values kept multiply and the operations to compile do not.
OVERHEAD = 4096.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a pullback does with a graph's values.

    Attributes:
      saved: numbers of the values that are kept, in order; some may be inputs or outputs of the graph.
      recomputed: indices of the nodes that run again before the backward sweep, in order.
      nested: the policy that was in force when the graph was recorded: programs inside programs that run again keep
        what they kept then.
    """

    saved: tuple[int, ...]
    recomputed: tuple[int, ...]
    nested: Policy = "auto"


def node_reads(node: Node) -> tuple[int, ...]:
    """Numbers of the values that a node's backward step reads."""
    if node.pullback is not None:
        return tuple(leaf for leaf in node.pullback.leaves if isinstance(leaf, int))
    rule = lookup(node.primitive)
    if rule is None or rule.kind in (MapClass.CONSTANT, MapClass.UNSUPPORTED, MapClass.HIGHER_ORDER):
        return ()
    reads_out, reads_operands = rule.reads(node.active)
    operands = tuple(v for v, read in zip(node.operands, reads_operands, strict=True) if read and isinstance(v, int))
    return operands + (node.outputs if reads_out else ())


def backward_nodes(graph: Graph) -> list[int]:
    """Indices of the nodes that the backward sweep visits, in forward order."""
    wanted = {v for v in graph.outputs if isinstance(v, int)}
    visited = []
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        for output, active in zip(node.outputs, node.out_active, strict=True):
            if active and output in wanted:
                visited.append(index)
                for operand, flag in zip(node.operands, node.active, strict=True):
                    if flag and isinstance(operand, int):
                        wanted.add(operand)
                break
    return visited[::-1]


def backward_reads(graph: Graph) -> dict[int, tuple[int, ...]]:
    """By the index of each node that the backward sweep visits, the numbers of the values that it reads there."""
    softmaxes = Detours(graph).softmaxes
    passed = {index for softmax in softmaxes.values() for index in softmax.inside}
    return {index: graph.nodes[index].outputs if index in softmaxes else node_reads(graph.nodes[index])
            for index in backward_nodes(graph) if index not in passed}


def make_plan(graph: Graph, policy: Policy = "auto", free: Iterable[int] = (), repetitions: int = 1) -> Plan:
    """Decide which values to save.

    Args:
      graph: the recorded program.
      policy: see `funcgrad.policies`.
      free: values that cost nothing to save because somebody holds them anyway.
      repetitions: how often the program runs, keeping as much each time.

    Raises:
      ValueError: for an unknown policy.
    """
    policy = checked(policy)
    needed = {v for read in backward_reads(graph).values() for v in read}
    if policy == "everything":
        return Plan(tuple(sorted(needed)), (), in_force())
    return _completed(graph, needed, _saved(graph, needed, frozenset(free), policy, repetitions))


def _saved(graph: Graph, needed: set[int], free: frozenset[int], policy: Policy, repetitions: int) -> set[int]:
    if isinstance(policy, Budget):
        saved = cheapest_set(graph, needed, free, _auto_price(graph, repetitions))
        search = Search(graph, needed, free, flops_of_nodes(graph, repetitions), policy.bytes)
        return saved if search.fits(saved) else search.within()
    if policy == "auto":
        return cheapest_set(graph, needed, free, _auto_price(graph, repetitions))
    if policy == "minimal" or isinstance(policy, Segments):
        return Search(graph, needed, free, flops_of_nodes(graph, repetitions), 0).cut(LEAST_PRICE)
    assert callable(policy)
    return _saved_by_policy(graph, free, policy)


def _auto_price(graph: Graph, repetitions: int) -> Callable[[int], float]:
    """Nothing dear twice; what XLA fuses into its neighbours costs a little."""
    overhead = OVERHEAD if repetitions == 1 else 0.0

    def price(index: int) -> float:
        node = graph.nodes[index]
        return cost.NEVER if cost.node_is_dear(node) else overhead + cost.node_flops(node, graph) / FLOPS_PER_BYTE

    return price


def _completed(graph: Graph, needed: set[int], saved: set[int]) -> Plan:
    """The plan that saves `saved` as far as it is used, and recomputes what else is needed."""
    kept, recomputed = kept_and_repeated(graph, needed, saved)
    return Plan(tuple(sorted(kept)), tuple(sorted(recomputed)), in_force())


def _saved_by_policy(graph: Graph, free: frozenset[int], policy: Callable[..., object]) -> set[int]:
    """Values that the user's policy calls saveable, with those that cannot be computed twice."""
    saved, decided_inside = set(free), policy == in_force()
    for node in graph.nodes:
        if decided_inside:  # what a program inside keeps, it keeps by this same policy
            saved.update(node.hidden)
        avals = [graph.avals[v] if isinstance(v, int) else v.aval for v in node.operands]
        if not node.rerunnable or says_save(policy(node.primitive, *avals, **node.params)):
            saved.update(node.outputs)
            saved.update(node.hidden)
    return saved
