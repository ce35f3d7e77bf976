"""Where a number that is not finite comes from: a walk down a recorded run, a walk up, and into the programs inside.

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

from funcgrad import _compat, _primitives
from funcgrad.graph import Graph, Node, carries_gradient
from funcgrad.inspection.replay import Inside, LoopRun, loop_run, run_once
from funcgrad.inspection.shards import shard_run
from funcgrad.planning import node_reads
from funcgrad.pullback import FlatPullback, add_cotangents, node_cotangents, recompute
from funcgrad.registry import lookup
from funcgrad.rule import MapClass
from funcgrad.rules.call import CustomJVPPullback, CustomVJPPullback, JitPullback, RematPullback
from funcgrad.tracer import UNKNOWN
from funcgrad.vjp import record

Array = Any

#: Elementwise operations that are no `pointwise` rules.
_ELEMENTWISE = {p.add_p, p.sub_p, p.neg_p, p.add_jaxvals_p, p.select_n_p, p.abs_p, p.sign_p, p.rem_p, p.copy_p,
                p.convert_element_type_p, p.real_p, p.imag_p, p.conj_p, p.complex_p}
#: So many iterations that look bad are searched before a loop is named as a whole.
TRIES = 64


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
        return Program(recording.graph, [None if v is UNKNOWN else v for v in recording.values])

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
    cts, ct_origins = backward_origins(program, values, seeds)
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


def backward_origins(program: Program, values: dict[int, Origin],
                     seeds: Sequence[Array | None]) -> tuple[dict[int, Array], dict[int, Origin]]:
    """The cotangents of all values, and the origin of each that is not finite."""
    graph, cts, origins = program.graph, dict[int, Array](), dict[int, Origin]()
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
        with _compat.in_mesh(node.mesh):
            contributions = node_cotangents(node, graph.avals, program.read, node_cts)
        for position, (value, ct, flag) in enumerate(zip(node.operands, contributions, node.active, strict=True)):
            if ct is None or not flag or not isinstance(value, int):
                continue
            own = Origin(True, len(graph.nodes) - index, index, position)
            cts[value] = add_cotangents(cts.get(value), ct)
            if bad(ct).any():
                found = _cotangent_origin(node, ct, values, origins) or own
                origins[value] = earliest([found, *([origins[value]] if value in origins else [])]) or own
            elif value not in origins and bad(cts[value]).any():  # the sum overflows
                origins[value] = own
    return cts, origins


def _cotangent_origin(node: Node, ct: Array, values: dict[int, Origin], cts: dict[int, Origin]) -> Origin | None:
    """Where a backward step has its numbers from that are not finite; None when it made them itself."""
    arriving = [cts[v] for v in node.outputs if v in cts]
    read = [values[v] for v in node_reads(node) if v in values]
    own = [values[v] for v in node.outputs if v in values and not values[v].given]
    computed = [origin for origin in (*arriving, *read, *own) if not origin.given]
    if computed:
        return earliest(computed)
    return earliest(arriving) if np.isnan(host(ct)).any() else earliest([*arriving, *read])


# ---- into the programs inside ----


@dataclasses.dataclass(frozen=True)
class Found:
    """A birth, in the innermost program that is known.

    Attributes:
      search: the innermost search.
      origin: its origin.
      inside: the way there, outermost first.
      outer: for each level above, outermost first, the search and the index of the node that holds the program.
    """

    search: Search
    origin: Origin
    inside: tuple[Inside, ...] = ()
    outer: tuple[tuple[Search, int], ...] = ()


def innermost(found: Search, origin: Origin, inside: tuple[Inside, ...] = (),
              outer: tuple[tuple[Search, int], ...] = ()) -> Found:
    """Follow an origin into the programs that its node holds, as far as they can run again."""
    here = Found(found, origin, inside, outer)
    if origin.given:
        return here
    node = found.program.graph.nodes[origin.index]
    deeper = _descend(node, found, origin)
    if deeper is None:
        return here
    step, below, birth = deeper
    more = (step,) if step is not None else ()
    return innermost(below, birth, (*inside, *more), (*outer, (found, origin.index)))


Deeper = tuple[Inside | None, Search, Origin] | None


def _descend(node: Node, above: Search, origin: Origin) -> Deeper:
    cts = [above.cts.get(v) for v in node.outputs] if origin.backward else None
    loop = loop_run(node, above.program.read)
    if loop is not None:
        return _in_backward_loop(loop, cts) if cts is not None else _in_forward_loop(loop)
    if cts is not None and node.pullback is not None:
        deeper = _in_custom_rule(node, above, cts)
        if deeper is not None:
            return deeper
    if node.primitive is _primitives.shard_map_p:
        return _in_shards(node, above, cts)
    once = run_once(node, above.program.read)
    if once is None:
        return _in_pullback(node, above, cts)
    step, recording, _ = once
    return _result(step, search(Program.of(recording), cts))


def _result(step: Inside | None, below: Search) -> Deeper:
    """The way down, if the search there found an operation."""
    origin = below.first
    return None if origin is None or origin.given else (step, below, origin)


def _own_pullback(node: Node, above: Search) -> Any:
    if node.pullback is None:
        return None
    leaves = [above.program.read(v) if isinstance(v, int) else v.value for v in node.pullback.leaves]
    return jax.tree.unflatten(node.pullback.tree, leaves)


def _in_custom_rule(node: Node, above: Search, cts: Sequence[Array | None]) -> Deeper:
    """Into a user's own derivative rule: the graph of its tangents, or its backward function, recorded now."""
    pullback = _own_pullback(node, above)
    if isinstance(pullback, CustomJVPPullback):
        program = Program.of_pullback(pullback.tangents)
        return _result(Inside("custom_jvp rule"), search(program, [cts[i] for i in pullback.indices]))
    if isinstance(pullback, CustomVJPPullback):
        count = len(pullback.residuals)
        given = [i for i, ct in enumerate(cts) if ct is not None]

        def backward(*args: Array) -> list[Array]:
            full: list[Array | None] = [None] * len(cts)
            for i, ct in zip(given, args[count:], strict=True):
                full[i] = ct
            return [ct for ct in dataclasses.replace(pullback, residuals=args[:count])(full) if ct is not None]

        args = [*pullback.residuals, *(cts[i] for i in given)]
        recording = record(backward, args, [False] * len(args), name="backward rule")
        return _result(Inside("custom_vjp rule"), search(Program.of(recording), None))
    return None


def _in_pullback(node: Node, above: Search, cts: Sequence[Array | None] | None) -> Deeper:
    """Into a program that cannot run again: only what its pullback keeps is known."""
    pullback = _own_pullback(node, above) if cts is not None else None
    if isinstance(pullback, JitPullback | RematPullback):
        pullback = FlatPullback(pullback.graph, pullback.plan, pullback.residuals)
    if not isinstance(pullback, FlatPullback):
        return None
    return _result(Inside(str(node.primitive)), search(Program.of_pullback(pullback), cts))


def _in_shards(node: Node, above: Search, cts: Sequence[Array | None] | None) -> Deeper:
    """Into the body of a `shard_map`, all shards on one device."""
    try:
        step, recording = shard_run(node, above.program.read)
        moved = cts and [None if ct is None else jax.device_put(ct, jax.local_devices()[0]) for ct in cts]
        return _result(step, search(Program.of(recording), moved))
    except Exception:  # what `vmap` cannot do, in whatever library: then the `shard_map` is named as a whole
        return None


# ---- loops ----


def _in_forward_loop(loop: LoopRun, before: int | None = None) -> Deeper:
    """The first iteration that makes numbers that are not finite out of finite ones."""
    carries, ys = loop.states
    wrong = np.zeros(loop.length, bool)
    for stacked in (*(c[1:] for c in carries), *ys):
        wrong |= np.atleast_2d(bad(stacked).reshape(loop.length, -1) if bad(stacked).shape else
                               np.zeros((loop.length, 1), bool)).any(axis=1)
    for step in np.flatnonzero(wrong[:before])[:TRIES]:
        deeper = _result(Inside(loop.what, number=loop.number(int(step))),
                         search(Program.of(loop.recording(int(step))), None))
        if deeper is not None:
            return deeper
    return None


def _in_backward_loop(loop: LoopRun, cts: Sequence[Array | None]) -> Deeper:
    """The last iteration whose backward step gives such numbers; or an earlier one that hands it such a value."""
    arriving, of_ys, wrong = loop.cotangents(cts)
    width = len(loop.initial)
    for step in np.flatnonzero(wrong)[::-1][:TRIES]:
        seeds: list[Array | None] = [None] * (width + len(of_ys))
        for position, stacked in zip(loop.moving, arriving, strict=True):
            seeds[position] = jax.numpy.asarray(stacked[step])
        seeds[width:] = [None if ct is None else jax.numpy.asarray(ct[step]) for ct in of_ys]
        below = search(Program.of(loop.recording(int(step))), seeds)
        birth = below.in_gradient
        if birth is None or birth.given:
            continue
        handed = below.values.keys() & set(below.program.graph.inputs)
        earlier = _in_forward_loop(loop, int(step)) if handed and birth.backward else None
        return earlier or (Inside(loop.what, number=loop.number(int(step))), below, birth)
    return None

