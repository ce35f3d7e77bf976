"""Where a number that is not finite comes from: a walk down a recorded run, and a walk up.

Each value and each cotangent that is not finite is given an origin: the operation that made it out of finite numbers
(a birth), or an input or a constant that was not finite to begin with. Among several the first in program order counts,
values before cotangents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.detours import Detours, Softmax
from funcgrad.graph import Graph, Node, carries_gradient
from funcgrad.pending import add_cotangents
from funcgrad.planning import node_reads
from funcgrad.pullback import FlatPullback, node_cotangents, recompute
from funcgrad.registry import lookup
from funcgrad.rule import MapClass
from funcgrad.tracer import UNKNOWN

Array = Any

#: Elementwise operations that are no `pointwise` rules.
_ELEMENTWISE = {p.add_p, p.sub_p, p.neg_p, p.add_jaxvals_p, p.select_n_p, p.abs_p, p.sign_p, p.rem_p, p.copy_p,
                p.convert_element_type_p, p.real_p, p.imag_p, p.conj_p, p.complex_p}

@dataclasses.dataclass(frozen=True, order=True)
class Origin:
    """Where numbers stop being finite, in program order.

    Attributes:
      backward: whether it is a cotangent.
      order: position in its walk.
      index: the node; -1 for what came from outside.
      value: the number of the value (from outside), or the position of the output or operand.
    """

    backward: bool
    order: int
    index: int
    value: int

    @property
    def given(self) -> bool:
        """Whether it came from outside."""
        return self.index < 0


@dataclasses.dataclass(frozen=True)
class Program:
    """A run whose values are known, at least those that its backward sweep reads.

    Attributes:
      graph: what ran.
      values: by number, None where unknown.
    """

    graph: Graph
    values: Sequence[Array | None]

    def read(self, number: int) -> Array:
        """A value that is known."""
        return self.values[number]

    @staticmethod
    def of(recording: Any) -> Program:
        """The program of a recording."""
        values = (None if v is UNKNOWN else v for v in recording.values)
        return Program(recording.graph, [_compat.concrete_or_none(v) if isinstance(v, jax.core.Tracer) else v
                                         for v in values])  # what a `grad` around traces has a number, too

    @staticmethod
    def of_pullback(flat: FlatPullback) -> Program:
        """What a pullback keeps, and what it computes again."""
        known = dict(zip(flat.plan.saved, flat.residuals, strict=True))
        recompute(flat.graph, flat.plan.recomputed, known)
        return Program(flat.graph, [known.get(v) for v in range(len(flat.graph.avals))])


@dataclasses.dataclass(frozen=True)
class Search:
    """Both walks over a program.

    Attributes:
      program: what was searched.
      values: for each value that is not finite its origin.
      cts: the cotangents.
      ct_origins: for each value whose cotangent is not finite its origin.
      in_value, in_gradient: the first origin of what reaches the outputs, and the inputs' cotangents.
    """

    program: Program
    values: dict[int, Origin]
    cts: dict[int, Array]
    ct_origins: dict[int, Origin]
    in_value: Origin | None
    in_gradient: Origin | None

    @property
    def first(self) -> Origin | None:
        """The first origin of what reaches value or gradient; of what came from outside only if there is no other."""
        return earliest([o for o in (self.in_value, self.in_gradient) if o is not None])


def earliest(origins: Sequence[Origin]) -> Origin | None:
    """The first birth, or the first of what came from outside."""
    return min(origins, key=lambda o: (o.given, o), default=None)


def bad(value: Array | None) -> np.ndarray:
    """Where a value is not finite; False for what has no such numbers."""
    if value is None or not carries_gradient(_compat.typeof(value)):
        return np.zeros((), bool)
    array = host(value)
    return ~np.isfinite(array)


def host(value: Array) -> np.ndarray:
    """A value as NumPy computes with it."""
    array = np.asarray(value)
    return array if array.dtype.kind in "biufc" else array.astype(np.float32)


def search(program: Program, seeds: Sequence[Array | None] | None) -> Search:
    """Walk down, and with cotangents of the outputs (None: zero) also up."""
    values = forward_origins(program)
    graph = program.graph
    in_value = earliest([values[v] for v in graph.outputs if isinstance(v, int) and v in values])
    if seeds is None:
        return Search(program, values, {}, {}, in_value, None)
    passing = in_value is not None and in_value.given
    cts, ct_origins = backward_origins(program, values, seeds, passing)
    in_gradient = earliest([ct_origins[v] for v, flag in zip(graph.inputs, graph.active, strict=True)
                            if flag and v in ct_origins])
    return Search(program, values, cts, ct_origins, in_value, in_gradient)


# ---- down ----


def forward_origins(program: Program) -> dict[int, Origin]:
    """The origin of each value that is not finite."""
    graph, origins = program.graph, dict[int, Origin]()
    for order, v in enumerate((*graph.inputs, *graph.captured)):
        if bad(program.values[v]).any():
            origins[v] = Origin(False, order - len(graph.avals), -1, v)
    for index, node in enumerate(graph.nodes):
        for position, v in enumerate(node.outputs):
            wrong = bad(program.values[v])
            if wrong.any():
                origins[v] = _value_origin(program, origins, node, wrong) or Origin(False, index, index, position)
    return origins


def _value_origin(program: Program, origins: dict[int, Origin], node: Node, wrong: np.ndarray) -> Origin | None:
    """Where an operation has its numbers from that are not finite; None when it made them itself."""
    operands = [program.values[v] if isinstance(v, int) else v.value for v in node.operands]
    sources = [origins[v] for v in node.operands if isinstance(v, int) and v in origins]
    computed = [origin for origin in sources if not origin.given]
    if computed:
        fresh = fresh_elements(node, operands, wrong)
        return None if fresh is not None and fresh.all() else earliest(computed)
    given = [operand for operand in operands if operand is not None and bad(operand).any()]
    if not given:
        return None
    fresh = fresh_elements(node, operands, wrong)
    if fresh is not None and fresh.any():
        return None
    of_output = np.isnan(np.concatenate([host(program.values[v]).ravel() for v in node.outputs
                                         if program.values[v] is not None and bad(program.values[v]).any()]))
    if of_output.any() and not any(np.isnan(host(operand)).any() for operand in given):
        return None  # a NaN made of infinities
    return earliest(sources) or Origin(False, -1, -1, -1)  # a literal


def fresh_elements(node: Node, operands: Sequence[Array | None], wrong: np.ndarray) -> np.ndarray | None:
    """Of an elementwise operation, the elements of its result that are wrong though the operands' are finite.

    Elements, in order, as flags for each wrong one; None for other operations.
    """
    if not is_elementwise(node) or any(operand is None for operand in operands):
        return None
    inherited = np.zeros(wrong.shape, bool)
    for operand in operands:
        inherited = inherited | bad(operand)
    return ~inherited[wrong] if inherited.shape == wrong.shape else None


def is_elementwise(node: Node) -> bool:
    """Whether each element of the result depends on the operands' elements at the same place only."""
    rule = lookup(node.primitive)
    return node.primitive in _ELEMENTWISE or (rule is not None and rule.kind is MapClass.POINTWISE)


# ---- up ----


def backward_origins(program: Program, values: dict[int, Origin], seeds: Sequence[Array | None],
                     passing: bool) -> tuple[dict[int, Array], dict[int, Origin]]:
    """The cotangents of all values, and the origin of each that is not finite.

    Args:
      passing: whether what was given and is not finite goes through to the value.
    """
    graph, cts, origins = program.graph, dict[int, Array](), dict[int, Origin]()
    softmaxes = Detours(graph).softmaxes
    for position, (value, ct) in enumerate(zip(graph.outputs, seeds, strict=True)):
        if isinstance(value, int) and ct is not None:
            cts[value] = add_cotangents(cts.get(value), ct)
            if bad(ct).any():
                origins[value] = Origin(True, -1, -1, position)
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        node_cts = [cts.get(v) for v in node.outputs]
        if not any(node.active) or all(ct is None for ct in node_cts):
            continue
        with _compat.in_setting(node.setting):
            operands, contributions = _step(program, softmaxes.get(index), node, node_cts)
        for position, (value, ct, flag) in enumerate(zip(operands, contributions, node.active, strict=True)):
            if ct is None or not flag or not isinstance(value, int):
                continue
            own = Origin(True, len(graph.nodes) - index, index, position)
            cts[value] = add_cotangents(cts.get(value), ct)
            if bad(ct).any():
                found = _cotangent_origin(program, node, ct, values, origins, passing) or own
                origins[value] = earliest([found, *([origins[value]] if value in origins else [])]) or own
            elif value not in origins and bad(cts[value]).any():  # the sum overflows
                origins[value] = own
    return cts, origins


def _step(program: Program, softmax: Softmax | None, node: Node,
          cts: Sequence[Array | None]) -> tuple[Sequence[Any], Sequence[Array | None]]:
    """What gets a cotangent when a node is pulled, and the cotangents: node by node, where the values are known."""
    if softmax is None or program.values[softmax.exponential] is not None:
        return node.operands, node_cotangents(node, program.graph.avals, program.read, cts)
    return (softmax.operand, None), (softmax.cotangent(cts[0], program.read(node.outputs[0])), None)


def _cotangent_origin(program: Program, node: Node, ct: Array, values: dict[int, Origin], cts: dict[int, Origin],
                      passing: bool) -> Origin | None:
    """Where a backward step has its numbers from that are not finite; None when it made them itself.

    A NaN that was given and is read here is to blame if it goes through to the value. If not, it was thrown away, and
    here it met a cotangent of 0.
    """
    arriving = [cts[v] for v in node.outputs if v in cts]
    read = [values[v] for v in node_reads(node) if v in values]
    own = [values[v] for v in node.outputs if v in values and not values[v].given]
    computed = [origin for origin in (*arriving, *read, *own) if not origin.given]
    if computed:
        return earliest(computed)
    if np.isnan(host(ct)).any():
        handed = [values[v] for v in node_reads(node)
                  if passing and v in values and np.isnan(host(program.read(v))).any()]
        return earliest([*arriving, *handed])
    return earliest([*arriving, *read])
