"""Bodies of `jit`, `scan`, `cond` and the like: staged once into a forward and a backward program.

The forward program of a body gives, besides the body's outputs, the residuals that its plan keeps and that nobody
holds yet. Its pullback's static part, the body's graph and plan, compares by structure, so the backward program is
staged once for all pullbacks that look alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from jax import lax
from jax.extend.core import ClosedJaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from funcgrad import _compat
from funcgrad.evaluation import evaluate
from funcgrad.graph import Graph
from funcgrad.planning import Plan, make_plan
from funcgrad.policies import Policy, Segments, given, in_force, inside, own_policy
from funcgrad.trace import Mode
from funcgrad.vjp import record

Array = Any


class Layout(NamedTuple):
    """Where each saved value of a body's plan is found, in the order of ``plan.saved``.

    Attributes:
      inputs: (position in `saved`, input index) for values that are inputs of the body.
      outputs: (position, output index) for values that are free outputs of the body.
      hidden: positions of values that the forward program gives as additional outputs, in order.
      invariant: positions of values that are computed from the invariant inputs alone, outside any loop.
      constants: positions of constants that the body's program holds.
    """

    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[int, int], ...]
    hidden: tuple[int, ...]
    invariant: tuple[int, ...]
    constants: tuple[int, ...]


class StagedForward(NamedTuple):
    """The forward program of a body with residuals, and the static part of its pullback."""

    jaxpr: Any
    graph: Graph
    plan: Plan
    layout: Layout
    constants: tuple[Array, ...]

    @property
    def hidden_count(self) -> int:
        """How many outputs the forward program has beyond the body's."""
        return len(self.layout.hidden)


class BodyKind(NamedTuple):
    """What costs nothing to keep, and how the body is recorded.

    Attributes:
      free_inputs: for each input, whether somebody holds it anyway.
      free_outputs: likewise for the outputs.
      invariant: for each input, whether it is the same in every iteration.
      inline: whether nested `jit`s become part of the body's graph.
      policy: what to keep; None: as the context says.
      repetitions: how often the body runs, each time keeping as much.
    """

    free_inputs: tuple[bool, ...]
    free_outputs: tuple[bool, ...]
    invariant: tuple[bool, ...] | None = None
    inline: bool = False
    policy: Policy | None = None
    repetitions: int = 1


# Weak in the body's program: the staged programs go when JAX's own caches let the body go.
_STAGED: WeakKeyDictionary[Any, dict[Hashable, StagedForward]] = WeakKeyDictionary()


def stage_forward(jaxpr: Any, active: tuple[bool, ...], kind: BodyKind) -> StagedForward:
    """The forward program of a closed jaxpr whose `active` inputs have cotangents; cached."""
    cache = _STAGED.setdefault(jaxpr, {})
    key = (active, kind, _compat.trace_context())
    if key not in cache:
        cache[key] = _stage_forward(jaxpr, active, kind)
    return cache[key]


def _stage_forward(jaxpr: Any, active: tuple[bool, ...], kind: BodyKind) -> StagedForward:
    found: list[tuple[Graph, Plan, Layout, tuple[Array, ...]]] = []
    policy = own_policy(in_force(), kind.repetitions) if kind.policy is None else kind.policy

    def forward(*args: Array) -> list[Array]:
        name = jaxpr.jaxpr.debug_info.func_name
        with given(inside(in_force(), kind.repetitions)):
            recording = record(partial(_evaluate_flat, jaxpr), args, active, name=name,
                               mode=Mode(inline=kind.inline, constants=True))
            graph = recording.graph
            free, invariant = _free_values(graph, kind)
            plan = make_plan(graph, policy, free, kind.repetitions)
        layout = _layout(graph, plan, kind, invariant)
        constants = tuple(recording.values[plan.saved[i]] for i in layout.constants)
        found.append((graph, plan, layout, constants))
        return [*recording.outputs, *(recording.values[plan.saved[i]] for i in layout.hidden)]

    staged = _compat.stage(forward, [v.aval for v in jaxpr.jaxpr.invars], jaxpr.jaxpr.debug_info.func_name)
    (static,) = found
    if isinstance(in_force(), Segments):  # what a segment keeps while it is pulled is not computed going forward
        inner, _ = dce_jaxpr(staged.jaxpr, [True] * len(staged.jaxpr.outvars), instantiate=True)
        staged = ClosedJaxpr(inner, staged.consts)
    return StagedForward(staged, *static)


def _evaluate_flat(jaxpr: Any, *args: Array) -> list[Array]:
    return evaluate(jaxpr, args)


def _free_values(graph: Graph, kind: BodyKind) -> tuple[set[int], set[int]]:
    """(all values that cost nothing to keep, those among them that depend on invariant inputs alone)."""
    invariant: set[int] = set()
    if kind.invariant is not None:
        invariant = {v for v, flag in zip(graph.inputs, kind.invariant, strict=True) if flag} | set(graph.captured)
        for node in graph.nodes:
            if node.rerunnable and all(v in invariant for v in node.operands if isinstance(v, int)):
                invariant.update(node.outputs)
                invariant.update(node.hidden)
    free = {v for v, flag in zip(graph.inputs, kind.free_inputs, strict=True) if flag} | set(graph.captured)
    free |= {v for v, flag in zip(graph.outputs, kind.free_outputs, strict=True) if flag and isinstance(v, int)}
    return free | invariant, invariant


def _layout(graph: Graph, plan: Plan, kind: BodyKind, invariant: set[int]) -> Layout:
    input_index = {v: i for i, v in enumerate(graph.inputs) if kind.free_inputs[i]}
    output_index = {v: i for i, v in enumerate(graph.outputs) if kind.free_outputs[i] and isinstance(v, int)}
    captured = set(graph.captured)
    places: dict[str, list[Any]] = {"inputs": [], "outputs": [], "hidden": [], "invariant": [], "constants": []}
    for position, value in enumerate(plan.saved):
        if value in captured:
            places["constants"].append(position)
        elif value in input_index:
            places["inputs"].append((position, input_index[value]))
        elif value in invariant:
            places["invariant"].append(position)
        elif value in output_index:
            places["outputs"].append((position, output_index[value]))
        else:
            places["hidden"].append(position)
    return Layout(**{key: tuple(entries) for key, entries in places.items()})


def assemble(staged: StagedForward, operands: Sequence[Array], results: Sequence[Array]) -> tuple[Array, ...]:
    """Residuals in the order of ``plan.saved``, for bodies without invariant values, from operands and all results."""
    count = len(staged.graph.outputs)
    residuals: dict[int, Array] = {position: operands[i] for position, i in staged.layout.inputs}
    residuals |= {position: results[i] for position, i in staged.layout.outputs}
    residuals |= dict(zip(staged.layout.hidden, results[count:], strict=True))
    residuals |= dict(zip(staged.layout.constants, staged.constants, strict=True))
    return tuple(residuals[i] for i in range(len(staged.plan.saved)))


def fixed_point(staged_for: Callable[[tuple[bool, ...]], StagedForward], active: tuple[bool, ...], first: int,
                count: int) -> tuple[StagedForward, tuple[bool, ...]]:
    """Stage a loop's body with carries that are active from some iteration on counted as active.

    Carries are the inputs ``first … first + count`` and the first `count` outputs.
    """
    while True:
        staged = staged_for(active)
        out = staged.graph.out_active[:count]
        grown = tuple(flag or (first <= i < first + count and out[i - first]) for i, flag in enumerate(active))
        if grown == active:
            return staged, active
        active = grown


class StagedBackward(NamedTuple):
    """The backward program of a body: residuals and cotangents in, the cotangents of some inputs out.

    Attributes:
      jaxpr: the program.
      reached: indices of the inputs whose cotangents it gives, in order.
    """

    jaxpr: Any
    reached: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Held:
    """A program as part of a static specification, compared by identity."""

    jaxpr: Any

    def __hash__(self) -> int:
        return id(self.jaxpr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.jaxpr is other.jaxpr


def stage_backward(pull: Callable[..., Sequence[Array | None]], static: Hashable, avals: Sequence[Any],
                   name: str) -> StagedBackward:
    """The program of ``pull(static, *args) -> cotangents``, None where there is none; cached.

    Args:
      pull: a module-level function.
      static: what it is told besides arrays; compared by structure.
      avals: of the array arguments.
      name: for messages and profiles.
    """
    return _stage_backward(pull, static, tuple(avals), name, _compat.trace_context())


@lru_cache(maxsize=4096)
def _stage_backward(pull: Callable[..., Sequence[Array | None]], static: Hashable, avals: tuple[Any, ...], name: str,
                    context: Hashable) -> StagedBackward:
    del context  # part of the key only
    found: list[tuple[int, ...]] = []

    def backward(*args: Array) -> list[Array]:
        cts = pull(static, *args)
        found.append(tuple(i for i, ct in enumerate(cts) if ct is not None))
        return [ct for ct in cts if ct is not None]

    jaxpr = _compat.stage(backward, avals, name)
    return StagedBackward(jaxpr, found[0])


def spread(values: Sequence[Array], indices: Sequence[int], count: int) -> list[Array | None]:
    """A list of `count` entries with `values` at `indices` and None elsewhere."""
    full: list[Array | None] = [None] * count
    for index, value in zip(indices, values, strict=True):
        full[index] = value
    return full


def strong(values: Sequence[Array]) -> tuple[Array, ...]:
    """Without weak types: all branches give one type, and a loop's carry has one throughout."""
    return tuple(lax.convert_element_type(x, x.dtype) if _compat.is_weakly_typed(x) else x for x in values)
