"""One vjp at one point, as every oracle sees it: an operation of a run, or a whole function."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from funcgrad import _compat
from funcgrad.crosscheck.compare import epsilon, is_inexact, largest, numbers
from funcgrad.crosscheck.held import CUSTOM, equations_in
from funcgrad.crosscheck.recording import record
from funcgrad.crosscheck.values.wide import run_wide, steps_of, wide_graph, wide_operand, widen
from funcgrad.graph import Graph, Literal, Node, carries_gradient
from funcgrad.pullback import sweep, zeros_like_aval
from funcgrad.registry import lookup
from funcgrad.rule import MapClass
from funcgrad.vjp import Recording

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """One vjp at one point.

    Attributes:
      name: the primitive's, or the function's.
      fun: ``fun(*values) -> outputs``, those that have a cotangent, as JAX and funcgrad differentiate it.
      wide: the same in float64 with custom rules stripped.
      values: where.
      cts: a cotangent for each output.
      ours: the cotangents of `values` that funcgrad gives.
      outputs: the value of ``fun(*values)``.
      composite: whether it is a program of several operations.
      reductions: the longest chain of additions in it.
      primitives: names of the primitives in it.
      params: the operation's params; empty for a whole function.
      scale: what one unit of relative error of the output is worth in a cotangent; 0: to be seen from the values.
      least: the machine epsilon of the least precise array inside.
      pull: ``pull(values, cts) -> cotangents``, funcgrad's; None: `our_vjp` of `fun`.
      one_rule: whether it is one operation with a rule of first order, whatever small program its params hold.
    """

    name: str
    fun: Callable[..., list[Array]]
    wide: Callable[..., list[Array]]
    values: tuple[Array, ...]
    cts: tuple[Array, ...]
    ours: tuple[Array, ...]
    outputs: tuple[Array, ...]
    composite: bool
    reductions: float
    primitives: frozenset[str]
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scale: float = 0.0
    least: float = 0.0
    pull: Callable[[Sequence[Array], Sequence[Array]], list[Array]] | None = None
    one_rule: bool = False

    def pulled(self, values: Sequence[Array], cts: Sequence[Array]) -> list[Array]:
        """funcgrad's cotangents at other values."""
        return our_vjp(self.fun, values, cts) if self.pull is None else self.pull(values, cts)

    @property
    def eps(self) -> float:
        """The machine epsilon of the least precise array that takes part."""
        return max(epsilon((*self.values, *self.outputs)), self.least)

    @property
    def floor(self) -> float:
        """What a last place of the output is worth: derivatives are computed from outputs, and from others nearby."""
        if self.scale:
            return self.eps * self.scale
        ct, out, value = (max(map(largest, map(numbers, leaves)), default=0.0)
                          for leaves in (self.cts, self.outputs, self.values))
        ratio = out / (value or 1.0)
        return self.eps * ct * (min(1.0, ratio) if self.composite else ratio)


def node_problem(node: Node, recording: Recording, cts: Sequence[Array | None],
                 ours: Sequence[Array | None]) -> Problem:
    """The problem of one recorded operation, at the operands and cotangents that really occurred."""
    avals = [v.aval if isinstance(v, Literal) else recording.graph.avals[v] for v in node.operands]
    operands = [v.value if isinstance(v, Literal) else recording.read(v) for v in node.operands]
    moving = active_positions(node)
    live = tuple(i for i, ct in enumerate(cts) if ct is not None)
    steps = steps_of(node, recording)

    def fun(*values: Array) -> list[Array]:
        given = list(operands)
        for position, value in zip(moving, values, strict=True):
            given[position] = value
        with _compat.in_setting(node.setting):
            results = node.primitive.bind(*given, **node.primitive.get_bind_params(node.params))
        results = list(results) if node.primitive.multiple_results else [results]
        return [results[i] for i in live]

    def wide(*values: Array) -> list[Array]:
        given = [wide_operand(v, {v: widen(x)} if isinstance(v, int) else {})
                 for v, x in zip(node.operands, operands, strict=True)]
        for position, value in zip(moving, values, strict=True):
            given[position] = widen(value)
        with _compat.in_setting(node.setting):
            results = run_wide(node.primitive, dict(node.params), given, avals, steps)
        return [results[i] for i in live]

    inner, rule = primitives_in(node), lookup(node.primitive)
    return Problem(
        node_name(node), fun, wide, tuple(operands[i] for i in moving), tuple(cts[i] for i in live),
        tuple(_full(ours[i], avals[i]) for i in moving), tuple(recording.read(node.outputs[i]) for i in live),
        len(inner) > 1, reduction_length(node, recording.graph), inner, node.params,
        least=least_precision(node, recording.graph),
        one_rule=rule is not None and rule.kind is not MapClass.HIGHER_ORDER)


def whole_problem(recording: Recording, fun: Callable[..., Sequence[Array]], cts: Sequence[Array | None],
                  ours: Sequence[Array | None]) -> Problem:
    """The problem of the whole function; ``fun(*inputs)`` gives its flat outputs."""
    graph = recording.graph
    moving = tuple(i for i, flag in enumerate(graph.active) if flag)
    live = tuple(i for i, ct in enumerate(cts) if ct is not None)
    inputs = [recording.read(v) for v in graph.inputs]
    run = wide_graph(recording)

    def placed(program: Callable[..., Sequence[Array]]) -> Callable[..., list[Array]]:
        def chosen(*values: Array) -> list[Array]:
            given = list(inputs)
            for position, value in zip(moving, values, strict=True):
                given[position] = value
            results = program(*given)
            return [results[i] for i in live]

        return chosen

    inner = frozenset().union(*(primitives_in(node) for node in graph.nodes)) if graph.nodes else frozenset()
    length = max((reduction_length(node, graph) for node in graph.nodes), default=1.0) + len(graph.nodes)
    return Problem(
        graph.name, placed(fun), placed(run), tuple(inputs[i] for i in moving), tuple(cts[i] for i in live),
        tuple(_full(ours[i], graph.avals[i]) for i in moving), tuple(recording.outputs[i] for i in live), True,
        length, inner, least=max((least_precision(node, graph) for node in graph.nodes), default=0.0))


def our_vjp(fun: Callable[..., Sequence[Array]], values: Sequence[Array], cts: Sequence[Array]) -> list[Array]:
    """funcgrad's cotangents of `values`, operation by operation, also under `vmap` and other traces."""
    recording = record(fun, values, "fun", [is_inexact(v) for v in values])
    found = sweep(recording.graph, recording.read, list(cts))
    return [_full(ct, recording.graph.avals[i]) for i, ct in enumerate(found)]


def active_positions(node: Node) -> tuple[int, ...]:
    """Positions of the operands that a cotangent flows to."""
    return tuple(i for i, (v, flag) in enumerate(zip(node.operands, node.active, strict=True))
                 if flag and isinstance(v, int))


def _full(ct: Array | None, aval: Any) -> Array:
    return zeros_like_aval(aval) if ct is None else ct


# ---- what an operation is called, and what is in it ----


def node_name(node: Node) -> str:
    """The primitive's name, or the function that a custom rule belongs to."""
    return rule_function(node)[0] or node.primitive.name


def rule_function(node: Node) -> tuple[str, str]:
    """(name, "cube at model.py:3") of the function that a custom rule belongs to; empty for other operations."""
    program = node.params.get("call_jaxpr") if node.primitive.name in CUSTOM else None
    if program is None:
        return "", ""
    info = program.jaxpr.debug_info.func_src_info or ""
    name, _, place = info.partition(" at ")
    return name or program.jaxpr.debug_info.func_name, place.rsplit("/", 1)[-1]


def primitives_in(node: Node) -> frozenset[str]:
    """Names of the primitives of an operation and of the programs that it holds."""
    return frozenset({node.primitive.name, *(eqn.primitive.name for eqn in equations_in(node.params))})


def least_precision(node: Node, graph: Graph) -> float:
    """The largest machine epsilon of the floats that an operation makes, and of those inside."""
    inside = list(equations_in(node.params))
    avals = [*(graph.avals[v] for v in node.outputs), *(v.aval for eqn in inside for v in eqn.outvars)]
    found = [epsilon([aval]) for aval in avals if carries_gradient(aval)]
    for primitive, params in [(node.primitive, node.params), *((eqn.primitive, eqn.params) for eqn in inside)]:
        if primitive.name == "reduce_precision":
            found.append(2.0 ** -params["mantissa_bits"])
    return max(found, default=0.0)


def reduction_length(node: Node, graph: Graph) -> float:
    """How many numbers are summed into one: the elements read for each element written; a loop's steps multiply it."""
    read = sum(math.prod(_shape(v, graph)) for v in node.operands)
    written = sum(math.prod(_shape(v, graph)) for v in node.outputs)
    held = sum(len(getattr(getattr(value, "jaxpr", None), "eqns", ())) for value in node.params.values())
    return max(1.0, read / max(written, 1)) * max(1, node.params.get("length", 1) or 1) + held


def _shape(operand: Any, graph: Graph) -> tuple[int, ...]:
    return tuple(getattr(operand.aval if isinstance(operand, Literal) else graph.avals[operand], "shape", ()))

