"""`residuals`: what a pullback keeps and what it computes again, with names, bytes, lines and readers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad import _compat, policies
from funcgrad.checks import check_callable
from funcgrad.cost import node_flops, value_bytes
from funcgrad.graph import Graph, Node, carries_gradient
from funcgrad.inspection.naming import argument_names, operation_name, value_names
from funcgrad.inspection.residual_table import Residual, Residuals
from funcgrad.planning import Plan, backward_reads
from funcgrad.policies import Policy
from funcgrad.vjp import Recording, record_call, vjp

#: What an input is called: of the function, of a program inside it.
_INPUT = ("argument", "carry")


def residuals(fun: Callable[..., Any], *, policy: Policy | None = None,
              compiled: bool = True) -> Callable[..., Residuals]:
    """A function that tells what the pullback of `fun` keeps, what it computes again, and how much memory that is.

    Args:
      fun: a function of arrays and pytrees of arrays.
      policy: as for `funcgrad.vjp`.
      compiled: whether value and pullback are compiled together, to put XLA's own figure beside the estimate.

    Returns:
      A function of the same arguments (or `jax.ShapeDtypeStruct`s), whose result is a `Residuals`. Nothing is executed.

    >>> import jax.numpy as jnp
    >>> print(residuals(lambda x: jnp.exp(jnp.sin(x)), compiled=False)(1.0))  # doctest: +ELLIPSIS
    <lambda> under policy 'auto': ...
    """
    check_callable(fun)
    policies.check_policy(policy)

    def report(*args: Any, **kwargs: Any) -> Residuals:
        call = partial(fun, **kwargs) if kwargs else fun
        found: list[tuple[Recording, Plan, Policy]] = []

        def traced(*values: Any) -> None:
            with policies.given(policy):
                recording, _ = record_call(call, values)
                found.append((recording, recording.pullback(policies.in_force()).plan, policies.in_force()))

        jax.eval_shape(traced, *args)
        ((recording, plan, chosen),) = found
        rows = tuple(_rows(recording.graph, plan, argument_names(fun, args)))
        name = getattr(fun, "__name__", type(fun).__name__)
        return Residuals(name, chosen, rows, _temporary_bytes(call, policy, args) if compiled else None)

    return report


def _temporary_bytes(fun: Callable[..., Any], policy: Policy | None, args: Sequence[Any]) -> int | None:
    """What XLA allocates besides arguments and results when value and pullback are one program."""

    def both(*args: Any) -> Any:
        out, pullback = vjp(fun, *args, policy=policy)
        return out, pullback(jax.tree.map(_one, out))

    memory = jax.jit(both).lower(*args).compile().memory_analysis()
    return getattr(memory, "temp_size_in_bytes", None)


def _one(leaf: Any) -> Any:
    aval = _compat.typeof(leaf)
    return lax.full_like(leaf, 1) if carries_gradient(aval) else np.zeros(aval.shape, _compat.float0)


# ---- one program ----


def _rows(graph: Graph, plan: Plan, arguments: Sequence[str], place: str = "", times: int = 1,
          own: Collection[int] | None = None) -> Iterator[Residual]:
    """What is kept of one program, then what its own programs keep, then what is computed again.

    Args:
      graph: the program.
      plan: what it does.
      arguments: names of its inputs.
      place: the loop in which it runs, with its count.
      times: how often it runs, keeping as much each time.
      own: of a program inside another one, the values that it keeps for itself; others are told of outside.
    """
    names, readers = value_names(graph, arguments), _readers(graph, plan)
    inner = {v for node in graph.nodes for v in node.hidden}
    for value in plan.saved:
        if value not in inner and (own is None or value in own):
            fate = "saved" if value in graph.producers or own is not None else "held"
            yield _row(graph, value, names[value], readers.get(value, ()), place, times, fate)
    for index, node in enumerate(graph.nodes):
        if any(v in (plan.saved if own is None else own) for v in node.hidden):
            yield from _inner_rows(graph, node, place, times)
        elif index in plan.recomputed:
            for value in node.outputs:
                if value in readers:
                    yield _row(graph, value, names[value], readers[value], place, times, "recomputed")


def _row(graph: Graph, value: int, name: str, readers: Sequence[str], place: str, times: int, fate: str) -> Residual:
    index, aval = graph.producers.get(value), graph.avals[value]
    node = None if index is None else graph.nodes[index]
    operation = operation_name(node) if node else _INPUT[bool(place)] if value in graph.inputs else "constant"
    flops = 0.0 if node is None or fate != "recomputed" else node_flops(node, graph) * times
    line = node.line if node else ""
    return Residual(name, operation, line, place, aval.str_short(), value_bytes(aval) * times, fate, tuple(readers),
                    flops)


def _readers(graph: Graph, plan: Plan) -> dict[int, tuple[str, ...]]:
    """For each value, which backward steps read it, and which operations that run again."""
    found: dict[int, dict[str, None]] = {}
    for index, read in backward_reads(graph).items():
        for value in read:
            found.setdefault(value, {})[f"pullback of {_what(graph.nodes[index])}"] = None
    for index in plan.recomputed:
        node = graph.nodes[index]
        for operand in node.operands:
            if isinstance(operand, int):
                found.setdefault(operand, {})[f"{_what(node)} again"] = None
    return {value: tuple(names) for value, names in found.items()}


def _what(node: Node) -> str:
    line = node.line.split(" in ")[0]
    return operation_name(node) if line == "<unknown>" else f"{operation_name(node)} at {line}"


# ---- programs inside programs ----


def _inner_rows(graph: Graph, node: Node, place: str, times: int) -> Iterator[Residual]:
    """What a node's own pullback keeps beyond its operands and outputs, by the names inside where it has a program."""
    assert node.pullback is not None
    pullback = jax.tree.unflatten(node.pullback.tree, node.pullback.leaves)
    told: set[int] = set()
    for inner, plan, kept, count, label in _programs(pullback, node):
        deeper = f"{place} › {label}" if place else label
        told.update(kept.values())
        yield from _rows(inner, plan, (), deeper, times * count, {plan.saved[position] for position in kept})
    for value in node.hidden:  # the rest: of loops without a fixed count, and of the user's own rules
        if value not in told:
            reader = f"pullback of {_what(node)}"
            yield _row(graph, value, f"of {operation_name(node)}", (reader,), place, times, "saved")


def _programs(pullback: Any, node: Node) -> Iterator[tuple[Graph, Plan, dict[int, int], int, str]]:
    """(graph, plan, {position in `saved`: number outside}, repetitions, label) of each program of a pullback."""
    hidden = set(node.hidden)
    if hasattr(pullback, "main"):  # a loop in segments
        for part in (pullback.main, pullback.last):
            if part is not None:
                yield from _programs(part, node)
    elif hasattr(pullback, "stacked"):
        spec = pullback.spec
        kept = {position: number for position, number in pullback.stacked.items() if number in hidden}
        yield spec.graph, spec.plan, kept, spec.length, f"{spec.graph.name} ×{spec.length}"
    elif hasattr(pullback, "graph") and hasattr(pullback, "residuals"):
        held = {i: number for i, number in enumerate(pullback.residuals) if number in hidden}
        yield pullback.graph, pullback.plan, held, 1, pullback.graph.name
