"""Floor 8: eager gradients without an operation-by-operation sweep.

Outside `jit` the forward pass runs as the user wrote it. The backward sweep of a small graph is one compiled program,
made when a graph of this structure is first seen; so the same input gives the same bits from the first call on. A
function whose graph keeps changing (a Python loop until convergence) would compile again and again: after a few
structures its further ones are swept operation by operation, and stay so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import jax

from funcgrad import _compat
from funcgrad.graph import Graph, Literal, Node, Operand, carries_gradient
from funcgrad.planning import Plan, make_plan
from funcgrad.pullback import FlatPullback, sweep
from funcgrad.rules.staging import spread
from funcgrad.vjp import Recording

Array = Any

#: Graphs with more nodes are swept operation by operation: compile time would not come back.
LARGEST_COMPILED = 400
#: Fused loops round otherwise than operation by operation does; whoever compares with eager `jax.grad` would see it.
#: Small programs lose no time by it, and compile faster. Nor is the program simplified: that re-orders arithmetic, too,
#: and where copies are not fused it is wrong (jaxlib 0.10.2): of a transpose and a reshape of complex numbers it drops
#: the copy between. Other backends than the CPU's compile as ever; nothing of this was seen there.
AS_WRITTEN = {"cpu": {"xla_disable_hlo_passes": "fusion,algsimp"}}
#: What a custom rule raises that branches on a value or hands it to NumPy, as it may outside of `jit`.
ASKS_FOR_VALUE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError,
                  jax.errors.TracerIntegerConversionError, jax.errors.NonConcreteBooleanIndexError)
#: So many structures of one function are compiled.
STRUCTURES_PER_FUNCTION = 8
#: So many partials, jits and other wrappings are looked through for a function's code.
DEEPEST_WRAPPING = 8


def backward(recording: Recording, cts: Sequence[Array | None], fun: Callable[..., Any]) -> list[Array | None]:
    """The backward sweep of a run: compiled when we are outside `jit` and it pays, else operation by operation.

    Args:
      recording: the run.
      cts: cotangents of its outputs, None for zero.
      fun: the user's function, whose structures are counted.
    """
    graph = recording.graph
    if 1 < len(graph.nodes) <= LARGEST_COMPILED and _compat.executes_at_once():
        # by code, not by function: a closure made anew in each step is one function, and its arrays must not be kept
        program = _program(graph, _code(fun))
        if program is not None:
            return program(recording, cts)
    return sweep(graph, recording.read, cts)


def _code(fun: Callable[..., Any]) -> Hashable:
    """The code that a callable runs in the end: of what it wraps, of its class; its type's name where there is none."""
    for _ in range(DEEPEST_WRAPPING):
        inner = getattr(fun, "func", None) or getattr(fun, "__wrapped__", None)
        if not callable(inner):
            break
        fun = inner
    found = getattr(fun, "__code__", None) or getattr(type(fun).__call__, "__code__", None)
    return str(type(fun)) if found is None else found


@lru_cache(maxsize=4096)
def _program(graph: Graph, owner: Hashable) -> Callable[[Recording, Sequence[Array | None]], list[Array | None]] | None:
    """The compiled sweep of a graph, or None when its owner has had its share."""
    lifted, scalars = lift_scalars(graph)
    seen = _structures(owner)
    if lifted not in seen:
        if len(seen) >= STRUCTURES_PER_FUNCTION:
            return None
        seen.append(lifted)
    plan = make_plan(lifted, "everything")
    asks: list[Graph] = []  # this one, once a custom rule in it has asked

    def run(recording: Recording, cts: Sequence[Array | None]) -> list[Array | None]:
        given = tuple(i for i, ct in enumerate(cts) if ct is not None)
        values = recording.values + scalars
        residuals = tuple(values[v] for v in plan.saved)
        if not asks:
            try:
                return _compiled(lifted, plan, given, jax.default_backend())(residuals, tuple(cts[i] for i in given))
            except ASKS_FOR_VALUE:
                asks.append(lifted)
        return sweep(graph, recording.read, cts)

    return run


def lift_scalars(graph: Graph) -> tuple[Graph, list[Array]]:
    """The graph with its real and complex literals as captured values, and those values.

    A rate or a temperature that is a number of Python has another value in each step; the program is the same. What a
    custom rule keeps stays a number.
    """
    places: dict[Literal, int] = {}

    def lift(operand: Operand) -> Operand:
        if isinstance(operand, int) or not carries_gradient(operand.aval) or type(operand.value) in (float, complex):
            return operand
        return places.setdefault(operand, len(graph.avals) + len(places))

    nodes = tuple(_lift_node(node, lift) for node in graph.nodes)
    if not places:
        return graph, []
    lifted = dataclasses.replace(graph, captured=graph.captured + tuple(places.values()), nodes=nodes,
                                 avals=graph.avals + tuple(literal.aval for literal in places))
    return lifted, [literal.value for literal in places]


def _lift_node(node: Node, lift: Callable[[Operand], Operand]) -> Node:
    pullback = node.pullback
    if pullback is not None:
        pullback = dataclasses.replace(pullback, leaves=tuple(map(lift, pullback.leaves)))
    elif all(isinstance(operand, int) for operand in node.operands):
        return node
    return dataclasses.replace(node, operands=tuple(map(lift, node.operands)), pullback=pullback)


@lru_cache(maxsize=4096)
def _structures(owner: Hashable) -> list[Graph]:
    """The structures of `owner` that were compiled. Two threads may add one at once: then there is one more."""
    del owner
    return []


@lru_cache(maxsize=4096)
def _compiled(graph: Graph, plan: Plan, given: tuple[int, ...],
              backend: str) -> Callable[..., list[Array | None]]:
    def pull(residuals: tuple[Array, ...], cts: tuple[Array, ...]) -> list[Array | None]:
        return FlatPullback(graph, plan, residuals)(spread(cts, given, len(graph.outputs)))

    pull.__name__ = f"pullback({graph.name})"
    return jax.jit(pull, compiler_options=AS_WRITTEN.get(backend))
