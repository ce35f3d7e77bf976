"""`explain`: one run of a function and its backward sweep, step by step, with the numbers in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.graph import Node, carries_gradient
from funcgrad.inspection.arguments import check_function
from funcgrad.inspection.drawing import Drawing, draw
from funcgrad.inspection.frames import user_frames
from funcgrad.inspection.naming import argument_names, operand_name, operation_name, readable, value_names
from funcgrad.inspection.places import Line
from funcgrad.inspection.replay import record_inside
from funcgrad.inspection.steps import Edge, Pull, Run, Step
from funcgrad.inspection.table import html, plain_text, print_run, rich_text
from funcgrad.inspection.values import Summary, summarize
from funcgrad.pending import add_cotangents
from funcgrad.planning import node_reads
from funcgrad.pullback import node_cotangents
from funcgrad.registry import lookup
from funcgrad.rule import MapClass, Over
from funcgrad.vjp import Recording, record, record_call

Array = Any


@dataclasses.dataclass(frozen=True)
class Explanation(Run):
    """A run and its backward sweep, see `Run`. Prints as a table; of scalars also as the sum over paths."""

    def __str__(self) -> str:
        return plain_text(self)

    def __rich__(self) -> Any:
        return rich_text(self)

    def _repr_html_(self) -> str:
        return html(self)

    def print(self) -> None:
        """Print the table: with `rich` on a terminal where it is installed, as plain text elsewhere."""
        print_run(self)

    def draw(self, **options: Any) -> Drawing:
        """The picture; options as for `funcgrad.inspection.draw`."""
        return draw(self, **options)


def explain(fun: Callable[..., Any], *misplaced: Any, backward: bool = False) -> Callable[..., Explanation]:
    """A function that runs `fun` and its backward sweep and tells each step of both.

    The sweep starts with cotangents of one: for a scalar function the cotangents are its gradient.

    Args:
      fun: a function of arrays and pytrees of arrays; keyword arguments are passed on as they are.
      backward: whether each backward step is recorded as a program too; a picture then shows the gradient's own program
        beside the function's, node by node.

    Returns:
      A function of the same arguments, whose result is an `Explanation`. Under `jit` it knows types, not numbers.

    Raises:
      TypeError: when `fun` is no function, or its arguments stand behind it: they belong in the second bracket.

    >>> print(explain(lambda x, y: x * y)(2.0, 3.0))
    λ(x = 2.0, y = 3.0)
    step  operation  value    cotangent  backward                          line
    ...
    """
    check_function(fun, "explain(f)(x)")
    if misplaced:
        raise TypeError(f"explain takes a function alone, but was given {len(misplaced)} more.\n"
                        "To fix: give the arguments to its result, funcgrad.explain(f)(x).")

    def explained(*args: Any, **kwargs: Any) -> Explanation:
        call = partial(fun, **kwargs) if kwargs else fun
        recording, _ = record_call(call, args)
        if kwargs:
            name = getattr(fun, "__name__", type(fun).__name__)
            recording = dataclasses.replace(recording, graph=dataclasses.replace(recording.graph, name=name))
        seeds = [lax.full_like(out, 1) if carries_gradient(aval) else None
                 for out, aval in zip(recording.outputs, recording.out_avals, strict=True)]
        told, kept = explain_recording(recording, seeds, argument_names(fun, args))
        return with_pulls(told, recording, kept) if backward else told

    return explained


# ---- the reverse walk that keeps everything ----


@dataclasses.dataclass(frozen=True)
class Walk:
    """A backward sweep whose cotangents are all kept.

    Attributes:
      cts: for each value of the graph the sum of what arrived, or None.
      contributions: for each visited node what it gave to each operand.
    """

    cts: list[Array | None]
    contributions: dict[int, Sequence[Array | None]]


def walk(recording: Recording, out_cts: Sequence[Array | None]) -> Walk:
    """As `funcgrad.pullback.sweep`, with nothing forgotten."""
    graph = recording.graph
    kept = Walk([None] * len(graph.avals), {})
    for value, ct in zip(graph.outputs, out_cts, strict=True):
        if isinstance(value, int) and ct is not None:
            kept.cts[value] = add_cotangents(kept.cts[value], ct)
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        node_cts = [kept.cts[v] for v in node.outputs]
        if not any(node.active) or all(ct is None for ct in node_cts):
            continue
        with _compat.in_setting(node.setting):
            contributions = node_cotangents(node, graph.avals, recording.read, node_cts)
        kept.contributions[index] = contributions
        for value, ct, active in zip(node.operands, contributions, node.active, strict=True):
            if isinstance(value, int) and ct is not None and active:
                kept.cts[value] = add_cotangents(kept.cts[value], ct)
    return kept


def explain_recording(recording: Recording, seeds: Sequence[Array | None],
                      arguments: Sequence[str]) -> tuple[Explanation, Walk]:
    """The explanation of one run whose outputs have these cotangents, and its backward sweep."""
    graph = recording.graph
    names = value_names(graph, arguments)
    kept = walk(recording, seeds)
    values = tuple(summarize(recording.read(v)) for v in range(len(graph.avals)))
    cotangents = tuple(None if ct is None else summarize(ct) for ct in kept.cts)
    steps = tuple(_step(recording, index, kept, names, values, cotangents) for index in range(len(graph.nodes)))
    return Explanation(graph, tuple(names), values, cotangents, steps), kept


def with_pulls(told: Explanation, recording: Recording, kept: Walk) -> Explanation:
    """The explanation with each backward step recorded as a program of its own."""
    steps = [dataclasses.replace(step, pull=_pull(recording, index, kept, told.names))
             if index in kept.contributions else step for index, step in enumerate(told.steps)]
    return dataclasses.replace(told, steps=tuple(steps))


def _pull(recording: Recording, index: int, kept: Walk, names: Sequence[str]) -> Pull:
    """One backward step, recorded: what it reads and the cotangents that it is given are its inputs."""
    graph = recording.graph
    node = graph.nodes[index]
    values = tuple(dict.fromkeys(node_reads(node)))
    cts = tuple(v for v in node.outputs if kept.cts[v] is not None)

    def step(*args: Array) -> dict[int, Array]:
        known = dict(zip(values, args, strict=False))
        given = dict(zip(cts, args[len(values):], strict=True))
        with _compat.in_setting(node.setting):
            found = node_cotangents(node, graph.avals, known.__getitem__, [given.get(v) for v in node.outputs])
        flags = zip(found, node.active, strict=True)
        return {slot: ct for slot, (ct, flag) in enumerate(flags) if flag and ct is not None}

    args = [*map(recording.read, values), *(kept.cts[v] for v in cts)]
    body = record(step, args, [False] * len(args), name=f"pull {operation_name(node)}")
    slots = jax.tree.unflatten(body.out_tree, range(body.out_tree.num_leaves))
    arguments = [*(names[v] for v in values), *(f"ct_{names[v]}" for v in cts)]
    run, _ = explain_recording(body, [None] * len(body.outputs), arguments)
    return Pull(run, values, cts, tuple(slots))


def _step(recording: Recording, index: int, kept: Walk, names: Sequence[str], values: Sequence[Summary],
          cotangents: Sequence[Summary | None]) -> Step:
    node = recording.graph.nodes[index]
    contributions = kept.contributions.get(index, (None,) * len(node.operands))
    partials = _partials(node, recording) if index in kept.contributions else (None,) * len(node.operands)
    edges = tuple(
        Edge(operand if isinstance(operand, int) else None, operand_name(operand, names),
             values[operand] if isinstance(operand, int) else summarize(operand.value), active,
             None if local is None else summarize(local), None if ct is None else summarize(ct))
        for operand, active, local, ct in zip(node.operands, node.active, partials, contributions, strict=True))
    frames = user_frames(node.source)
    line = Line.of(node)
    return Step(operation_name(node), tuple(names[v] for v in node.outputs), tuple(values[v] for v in node.outputs),
                tuple(cotangents[v] for v in node.outputs), edges, line.whole if line.caller else node.line,
                frames[-1].expression if frames else "", _inner(node, recording, kept))


def _partials(node: Node, recording: Recording) -> Sequence[Array | None]:
    """Local partials of an elementwise node, or of any whose output and operands are real scalars."""
    rule = lookup(node.primitive)
    if rule is not None and rule.kind is MapClass.POINTWISE:
        operands = [recording.read(v) if isinstance(v, int) else v.value for v in node.operands]
        with _compat.in_setting(node.setting):
            found = rule.partials(node.active, recording.read(node.outputs[0]), operands, node.params)
        return [entry.value() if isinstance(entry, Over) else entry for entry in found]
    avals = recording.graph.avals
    if not (_is_real_scalar(avals[node.outputs[0]]) and len(node.outputs) == 1 and all(
            _is_real_scalar(avals[v] if isinstance(v, int) else v.aval)
            for v, active in zip(node.operands, node.active, strict=True) if active)):
        return (None,) * len(node.operands)
    with _compat.in_setting(node.setting):  # the pullback is linear: its value at one is the partial
        return node_cotangents(node, avals, recording.read, [lax.full_like(recording.read(node.outputs[0]), 1)])


def _is_real_scalar(aval: Any) -> bool:
    return getattr(aval, "shape", None) == () and carries_gradient(aval) and aval.dtype.kind != "c"


# ---- programs inside the program ----


def _inner(node: Node, recording: Recording, kept: Walk) -> Explanation | None:
    """The explanation of a `jit`, a held program or the branch that was taken: its body runs once more, recorded."""
    found = _body(node, recording)
    if found is None:
        return None
    jaxpr, operands, active = found
    body = record_inside(node, jaxpr, operands, active)
    arguments = readable(jaxpr.jaxpr.debug_info.arg_names or ())
    return explain_recording(body, [kept.cts[v] for v in node.outputs], arguments)[0]


def _body(node: Node, recording: Recording) -> tuple[Any, list[Array], Sequence[bool]] | None:
    """The closed jaxpr that a node runs once, its operands, and which of them are active; None for other nodes."""
    if not node.rerunnable:
        return None
    operands = [recording.read(v) if isinstance(v, int) else v.value for v in node.operands]
    if node.primitive in (p.jit_p, p.remat_p, p.closed_call_p):
        jaxpr = node.params.get("jaxpr", node.params.get("call_jaxpr"))
        return (jaxpr if hasattr(jaxpr, "consts") else _compat.closed(jaxpr)), operands, node.active
    if node.primitive is p.cond_p:
        index = _compat.concrete_or_none(operands[0])
        return None if index is None else (node.params["branches"][int(index)], operands[1:], node.active[1:])
    return None

