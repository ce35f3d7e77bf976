"""Floor 3: what a pullback keeps, and what it computes again.

The rules say which values the backward sweep reads. A plan says which of them are saved; the rest is recomputed from
saved ones. The policy `minimal` is a minimum cut over the recorded graph: an edge inside each value weighs its bytes,
the sources are inputs and results too dear to recompute, the sinks are the values that rules read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import jaxprs_in_params
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from funcgrad.graph import Graph, Node
from funcgrad.rule import MapClass, lookup

#: "everything", "minimal", or a predicate ``(primitive, *avals, **params) -> saveable`` as in JAX's
#: ``checkpoint_policies``.
Policy = str | Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a pullback does with a graph's values.

    Attributes:
      saved: numbers of the values that are kept, in order; some may be inputs or outputs of the graph.
      recomputed: indices of the nodes that run again before the backward sweep, in order.
    """

    saved: tuple[int, ...]
    recomputed: tuple[int, ...]


def node_reads(node: Node) -> tuple[int, ...]:
    """Numbers of the values that a node's backward step reads."""
    if node.pullback is not None:
        return tuple(leaf for leaf in node.pullback.leaves if isinstance(leaf, int))
    rule = lookup(node.primitive)
    if rule is None or rule.kind in (MapClass.CONSTANT, MapClass.UNSUPPORTED, MapClass.HIGHER_ORDER):
        return ()
    reads_out, reads_operands = rule.keeps(node.active)
    operands = tuple(v for v, read in zip(node.operands, reads_operands, strict=True) if read and isinstance(v, int))
    return operands + (node.outputs if reads_out else ())


def backward_nodes(graph: Graph) -> list[int]:
    """Indices of the nodes that the backward sweep visits, in forward order."""
    wanted = {v for v in graph.outputs if isinstance(v, int)}
    visited = []
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        moving = (v for v, active in zip(node.outputs, node.out_active, strict=True) if active)
        if any(node.active) and any(v in wanted for v in moving):
            visited.append(index)
            wanted.update(v for v, active in zip(node.operands, node.active, strict=True)
                          if active and isinstance(v, int))
    return visited[::-1]


def make_plan(graph: Graph, policy: Policy = "minimal", free: Iterable[int] = ()) -> Plan:
    """Decide which values to save.

    Args:
      graph: the recorded program.
      policy: "everything" saves each value that a rule reads; "minimal" saves the fewest bytes without recomputing
        contractions, linear algebra or loops; a callable saves what it says, and inputs.
      free: values that cost nothing to save because somebody holds them anyway.

    Raises:
      ValueError: for an unknown policy.
    """
    needed = {v for index in backward_nodes(graph) for v in node_reads(graph.nodes[index])}
    if policy == "everything":
        return Plan(tuple(sorted(needed)), ())
    free = frozenset(free)
    if policy == "minimal":
        saved = _minimum_cut(graph, needed, free)
    elif callable(policy):
        saved = _saved_by_policy(graph, needed, free, policy)
    else:
        raise ValueError(f"unknown policy {policy!r}.\nTo fix: use 'everything', 'minimal' or a callable of "
                         "jax.checkpoint_policies.")
    return _completed(graph, needed, saved)


def _completed(graph: Graph, needed: set[int], saved: set[int]) -> Plan:
    """The plan that saves `saved` as far as it is used, and recomputes what else is needed."""
    used, recomputed, pending = set(), set(), list(needed)
    while pending:
        value = pending.pop()
        if value in used:
            continue
        used.add(value)
        index = graph.producers.get(value)
        if value not in saved and index is not None and index not in recomputed:
            recomputed.add(index)
            pending.extend(v for v in graph.nodes[index].operands if isinstance(v, int))
    kept = {v for v in used if v in saved or v not in graph.producers}
    return Plan(tuple(sorted(kept)), tuple(sorted(recomputed)))


def _saved_by_policy(graph: Graph, needed: set[int], free: frozenset[int], policy: Callable[..., Any]) -> set[int]:
    """Values that the user's policy calls saveable, with those that cannot be computed twice."""
    saved = set(free)
    for node in graph.nodes:
        avals = [graph.avals[v] if isinstance(v, int) else v.aval for v in node.operands]
        if not node.rerunnable or _says_save(policy(node.primitive, *avals, **node.params)):
            saved.update(node.outputs)
            saved.update(node.hidden)
    return saved


def _says_save(answer: Any) -> bool:
    # A policy answers with a bool or with one of JAX's marker classes; an offloaded value is a saved one here.
    return bool(answer) if isinstance(answer, bool) else type(answer).__name__ != "RecomputeType" and (
        getattr(answer, "__name__", "") != "RecomputeType")


def is_dear(node: Node) -> bool:
    """True when running a node again costs more than keeping its outputs: contractions, loops, effects."""
    if not node.rerunnable:
        return True
    return primitive_is_dear(node.primitive, node.params)


def primitive_is_dear(primitive: Any, params: dict[str, Any]) -> bool:
    """Whether a primitive, or one in the programs among its params, is registered as dear or has effects."""
    pending = [(primitive, params)]
    while pending:
        primitive, params = pending.pop()
        rule = lookup(primitive)
        if rule is None or rule.dear:
            return True
        for jaxpr in jaxprs_in_params(params):
            if jaxpr.effects:
                return True
            pending.extend((eqn.primitive, eqn.params) for eqn in jaxpr.eqns)
    return False


def value_bytes(aval: Any) -> int:
    """Bytes of one value."""
    size, dtype = getattr(aval, "size", 0), getattr(aval, "dtype", None)
    return int(size) * int(getattr(dtype, "itemsize", 8))


# ---- the cut ----


def _minimum_cut(graph: Graph, needed: set[int], free: frozenset[int]) -> set[int]:
    """The values to save so that all of `needed` can be computed from them and from `free`, with the fewest bytes."""
    edges, sources = _recompute_edges(graph, needed, free)
    values = sorted({v for edge in edges for v in edge} | sources | (needed - free))
    if not sources:
        return set(free)
    fixed = {v for v in needed if v in sources}
    if fixed == sources and not edges:
        return fixed | free
    return _cut(values, edges, sources, needed - free, [value_bytes(graph.avals[v]) for v in values]) | free


def _recompute_edges(graph: Graph, needed: set[int], free: frozenset[int]) -> tuple[list[tuple[int, int]], set[int]]:
    """Edges operand -> value over all that recomputing `needed` may run, and the values that only saving can give."""
    edges: dict[tuple[int, int], None] = {}  # a set in insertion order: an operand may be read twice
    sources: set[int] = set()
    seen: set[int] = set()
    dear: dict[int, bool] = {}
    pending = [v for v in needed if v not in free]
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        index = graph.producers.get(value)
        if index is not None and index not in dear:
            dear[index] = is_dear(graph.nodes[index])
        if index is None or dear[index]:
            sources.add(value)
            continue
        for operand in graph.nodes[index].operands:
            if isinstance(operand, int) and operand not in free:
                edges[operand, value] = None
                pending.append(operand)
    return list(edges), sources


def _cut(values: Sequence[int], edges: Sequence[tuple[int, int]], sources: set[int], sinks: set[int],
         sizes: Sequence[int]) -> set[int]:
    """Minimum vertex cut between `sources` and `sinks`, as near to the sinks as possible (less to recompute)."""
    position = {v: i for i, v in enumerate(values)}
    count = len(values)
    source, sink = 2 * count, 2 * count + 1
    weights = _scaled(sizes)
    infinite = int(weights.sum()) + 1
    inner = np.arange(count)
    tails = [2 * inner, np.array([2 * position[u] + 1 for u, _ in edges], int),
             np.full(len(sources), source), np.array([2 * position[v] + 1 for v in sorted(sinks)], int)]
    heads = [2 * inner + 1, np.array([2 * position[v] for _, v in edges], int),
             np.array([2 * position[v] for v in sorted(sources)], int), np.full(len(sinks), sink)]
    capacity = np.concatenate([weights, np.full(len(edges) + len(sources) + len(sinks), infinite)])
    network = csr_array((capacity.astype(np.int32), (np.concatenate(tails), np.concatenate(heads))),
                        shape=(2 * count + 2,) * 2)
    flow = maximum_flow(network, source, sink).flow
    left = (network - flow).tocsr()
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reaches_sink = breadth_first_order(left.T.tocsr(), sink, return_predecessors=False)
    beyond = np.zeros(2 * count + 2, bool)
    beyond[reaches_sink] = True
    return {v for v, i in position.items() if beyond[2 * i + 1] and not beyond[2 * i]}


def _scaled(sizes: Sequence[int]) -> np.ndarray:
    """Positive integer weights whose sum fits the 32 bits of scipy's flow."""
    weights = np.maximum(np.asarray(sizes, np.int64), 1)
    limit = 2**29
    unit = max(1, -(-int(weights.sum()) // limit))
    return np.maximum(weights // unit, 1)
