"""Where the paths of a gradient that is 0 are cut: forward from the input, element by element.

At each operation that reads dead elements three things can be: the operation lets nothing through whatever arrives (it
cuts), something would pass but nothing arrives (the cut lies further on), or the contributions of several readers
cancel. What would pass is found with random cotangents, what is reached further on with random tangents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.graph import Graph, Node, carries_gradient
from funcgrad.inspection.naming import changes_nothing
from funcgrad.inspection.origins import Program, search
from funcgrad.inspection.places import Line
from funcgrad.inspection.replay import Inside, LoopRun, loop_run, operands_of, run_once
from funcgrad.pullback import node_cotangents, run_node
from funcgrad.registry import lookup
from funcgrad.rule import MapClass
from funcgrad.vjp import pushforward, record

Array = Any
#: The dead elements of a value.
Masks = dict[int, np.ndarray]

#: So many iterations of a loop are looked at.
ITERATIONS = 32
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to"}
_STEPS = {"round", "floor", "ceil", "sign"}
_TAKING = {"gather", "dynamic_slice", "slice", "scatter", "dynamic_update_slice"}
_CHOOSING = {"max", "min", "clamp", "reduce_max", "reduce_min", "sort", "top_k", "cummax", "cummin"}


@dataclasses.dataclass(frozen=True)
class Cut:
    """An operation through which no gradient passes.

    Attributes:
      operation: the primitive's name.
      place: the user's line; where that is a library's, also the line of the user's own that led there.
      code: the text of the user's line.
      because: why nothing passes.
      elements: how many elements of its operand are cut there.
      inside: the way into programs inside the program.
    """

    operation: str
    place: str = ""
    code: str = ""
    because: str = ""
    elements: int = 0
    inside: tuple[Inside, ...] = ()

    @staticmethod
    def of(node: Node, because: str, elements: int) -> Cut:
        """A cut at a recorded operation."""
        line = Line.of(node)
        return Cut(line.operation, line.whole, (line.caller or line).code, because, elements)


def cuts_of(program: Program, cts: dict[int, Array], number: int, mask: np.ndarray) -> tuple[Cut, ...]:
    """The operations that cut the paths of the dead elements of a value, in program order, each once."""
    cuts, exits = follow(program, cts, {number: mask})
    if exits:
        cuts.append(Cut("the function's result", because="no cotangent begins there"))
    return merged(cuts)


def merged(cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """Each cut once, with the most elements that it cuts."""
    found: dict[tuple, Cut] = {}
    for cut in cuts:
        key = (cut.operation, cut.place, cut.because)
        if key not in found or found[key].elements < cut.elements:
            found[key] = cut
    return tuple(found.values())


def follow(program: Program, cts: dict[int, Array], start: Masks) -> tuple[list[Cut], Masks]:
    """Follow dead elements forward.

    Returns:
      the cuts, and the masks of those outputs of the program that are reached.
    """
    graph, pending, cuts, idle = program.graph, dict(start), list[Cut](), list[Cut]()
    read = {v for node in graph.nodes for v in node.operands} | set(graph.outputs)
    for value in start:
        if value not in read:
            cuts.append(Cut("nothing", because="no operation reads it (int(), bool() and `if` take the number only)",
                            elements=int(start[value].sum())))
    for node in graph.nodes:
        for position, operand in enumerate(node.operands):
            if isinstance(operand, int) and operand in pending and pending[operand].any():
                more, reached = _at_node(program, cts, node, position, pending[operand])
                cuts += more
                for number, mask in reached.items():
                    pending[number] = pending.get(number, np.zeros(mask.shape, bool)) | mask
        for number in node.outputs:
            if number in pending and number not in read:
                unread = Cut.of(node, "its result is not used", int(pending[number].sum()))
                (idle if changes_nothing(node, graph) else cuts).append(unread)
    exits = {v: pending[v] for v in graph.outputs if isinstance(v, int) and v in pending and pending[v].any()}
    return cuts if cuts or exits else idle, exits  # Flax converts each parameter once to see its type only


def _at_node(program: Program, cts: dict[int, Array], node: Node, position: int,
             mask: np.ndarray) -> tuple[list[Cut], Masks]:
    """What one operation does with dead elements of one operand: its cuts, and what is reached behind it."""
    inner = _inside(program, cts, node, position, mask)
    if inner is not None:
        return inner
    if not node.active[position]:
        return [Cut.of(node, _why_never(node, position), int(mask.sum()))], {}
    passing = _contribution(program, node, position, _random_cotangents(program.graph, node))
    cut = mask if passing is None else mask & (passing == 0)
    cuts = [Cut.of(node, _why_zero(node, passing is None, position), int(cut.sum()))] if cut.any() else []
    alive = mask & ~cut
    if not alive.any():
        return cuts, {}
    arriving = _contribution(program, node, position, [cts.get(v) for v in node.outputs])
    cancelled = np.zeros(mask.shape, bool) if arriving is None else alive & (arriving != 0)
    if cancelled.any():
        cuts.append(Cut.of(node, "its contribution and another one cancel", int(cancelled.sum())))
    return cuts, _reached(program, cts, node, position, alive & ~cancelled)


def _random_cotangents(graph: Graph, node: Node) -> list[Array | None]:
    """Cotangents without zeros."""
    source = np.random.default_rng(0)
    return [_random(source, graph.avals[v].to_ct_aval()) if flag and carries_gradient(graph.avals[v]) else None
            for v, flag in zip(node.outputs, node.out_active, strict=True)]


def _random(source: np.random.Generator, aval: Any) -> Array:
    numbers = source.uniform(1, 2, aval.shape) * source.choice([-1, 1], aval.shape)
    return jax.numpy.asarray(numbers, aval.dtype)


def _contribution(program: Program, node: Node, position: int, cts: Sequence[Array | None]) -> np.ndarray | None:
    """What a node gives to one operand's cotangent."""
    if all(ct is None for ct in cts):
        return None
    with _compat.in_setting(node.setting):
        found = node_cotangents(node, program.graph.avals, program.read, cts)[position]
    return None if found is None else np.asarray(found)


def _reached(program: Program, cts: dict[int, Array], node: Node, position: int, mask: np.ndarray) -> Masks:
    """The dead elements of a node's results that depend on these elements of an operand."""
    if not mask.any():
        return {}
    graph = program.graph
    dead = {v: np.ones(graph.avals[v].shape, bool) if cts.get(v) is None else np.asarray(cts[v] == 0)
            for v, flag in zip(node.outputs, node.out_active, strict=True) if flag}
    if not node.rerunnable:  # cannot run again: all that is dead behind it
        return dead
    operands = operands_of(node, program.read)

    def alone(value: Array) -> list[Array]:
        changed = dataclasses.replace(node, pullback=None, operands=tuple(range(len(operands))))
        return run_node(changed, [*operands[:position], value, *operands[position + 1:]].__getitem__)

    recording = record(alone, [operands[position]], [True])
    aval = recording.graph.avals[0].to_tangent_aval()
    tangent = np.asarray(_random(np.random.default_rng(1), aval))
    moved = pushforward(recording)([jax.numpy.asarray(np.where(mask, tangent, 0), tangent.dtype)])
    by_output = dict(zip(node.outputs, moved, strict=False))
    return {v: own & (np.asarray(by_output[v]) != 0) for v, own in dead.items() if by_output.get(v) is not None}


# ---- programs inside ----


def _inside(program: Program, cts: dict[int, Array], node: Node, position: int,
            mask: np.ndarray) -> tuple[list[Cut], Masks] | None:
    """Follow dead elements through the program that a node holds; None where there is none to look into."""
    if str(node.primitive).startswith("custom_"):
        return None  # the rule counts, not the body
    loop = loop_run(node, program.read)
    if loop is not None:
        return _in_loop(loop, cts, node, position, mask)
    once = run_once(node, program.read)
    if once is None:
        return None
    step, recording, before = once
    if position < before:
        return None
    seeds = [cts.get(v) for v in node.outputs]
    below = Program.of(recording)
    inner_cts = search(below, seeds).cts
    cuts, exits = follow(below, inner_cts, {below.graph.inputs[position - before]: mask})
    by_output = {v: exits[inner] for v, inner in zip(node.outputs, below.graph.outputs, strict=True)
                 if isinstance(inner, int) and inner in exits}
    return [_placed(cut, node, step) for cut in cuts], by_output


def _placed(cut: Cut, node: Node, step: Inside) -> Cut:
    """A cut inside, as seen from outside."""
    if cut.operation == "nothing":
        where = Line.of(node)
        what = "it does not read it" if step.number is None else f"branch {step.number}, taken here, does not read it"
        return Cut(where.operation, where.whole, (where.caller or where).code, what, cut.elements)
    return dataclasses.replace(cut, inside=(step, *cut.inside))


def _in_loop(loop: LoopRun, cts: dict[int, Array], node: Node, position: int,
             mask: np.ndarray) -> tuple[list[Cut], Masks]:
    """Follow dead elements through some iterations; what lies behind the loop is not looked at."""
    arriving, of_ys, _ = loop.cotangents([cts.get(v) for v in node.outputs])
    width, found = len(loop.initial), list[Cut]()
    for step in range(min(loop.length, ITERATIONS)):
        seeds: list[Array | None] = [None] * (width + len(of_ys))
        for carry, stacked in zip(loop.moving, arriving, strict=True):
            seeds[carry] = jax.numpy.asarray(stacked[step])
        seeds[width:] = [None if ct is None else jax.numpy.asarray(ct[step]) for ct in of_ys]
        body_input, own = _loop_input(loop, node, position, mask, step)
        if body_input is None or not own.any():
            continue
        below = Program.of(loop.recording(step))
        cuts, _ = follow(below, search(below, seeds).cts, {below.graph.inputs[body_input]: own})
        inside = Inside(loop.what, number=loop.number(step))
        found += [dataclasses.replace(cut, inside=(inside, *cut.inside)) for cut in cuts if cut.operation != "nothing"]
    return list(merged(found)) or [Cut.of(node, "nothing passes through the loop", int(mask.sum()))], {}


def _loop_input(loop: LoopRun, node: Node, position: int, mask: np.ndarray,
                step: int) -> tuple[int | None, np.ndarray]:
    """Which input of the body an operand is in one iteration, and which of its elements are dead."""
    if node.primitive is p.scan_p:
        first = len(loop.consts) + len(loop.initial)
        if position < first:
            return (position, mask) if position < len(loop.consts) or step == 0 else (None, mask)
        return position, np.asarray(mask[loop.number(step)])
    before = len(node.operands) - len(loop.initial)
    if position >= before:
        return (len(loop.consts) + position - before, mask) if step == 0 else (None, mask)
    index = position - node.params["cond_nconsts"]
    return (index, mask) if 0 <= index < len(loop.consts) else (None, mask)


# ---- why ----


def _why_never(node: Node, position: int) -> str:
    """Why an operation has no derivative with respect to an operand."""
    name = str(node.primitive)
    if name == "stop_gradient":
        return "stop_gradient says so"
    if name in _COMPARISONS:
        return "a comparison has no derivative"
    if name in ("argmax", "argmin"):
        return "it gives an index"
    if name in _STEPS:
        return "it is constant almost everywhere"
    if name in ("select_n", "cond", "clamp") and position == 0:
        return "it only chooses"
    if name in _TAKING:
        return "an index only says which elements are taken"
    rule = lookup(node.primitive)
    if rule is not None and rule.kind is MapClass.CONSTANT:
        return "it has no derivative"
    return "it has no derivative with respect to this operand"


def _why_zero(node: Node, none_passes: bool, position: int) -> str:
    """Why nothing passes through an operation that has a derivative."""
    name, params = str(node.primitive), node.params
    if name == "convert_element_type":
        return f"a conversion to {np.dtype(params['new_dtype']).name} has no derivative"
    if name == "select_n":
        return "it is not chosen"
    if name in _TAKING:
        return "these elements are not taken"
    if name in _CHOOSING:
        return "another number is chosen"
    rule = lookup(node.primitive)
    if name == "mul" or (rule is not None and rule.kind is MapClass.BILINEAR):
        return "what it is multiplied with is 0"
    if none_passes:
        return _why_never(node, position)
    return "it does not fire" if Line.of(node).operation.startswith("relu") else "its slope is 0 there"
