"""Floor 6: the one place where a trace is opened.

`record` runs a function and gives back its graph and values; `vjp` makes a pullback of them; `pushforward` transposes
the pullback once more, which is forward mode from the same rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import set_current_trace, take_current_trace

from funcgrad import _compat, policies
from funcgrad.checks import check_aux, check_callable, check_no_references, check_output, check_reduce_axes
from funcgrad.graph import Graph, Operand, carries_gradient
from funcgrad.planning import make_plan
from funcgrad.policies import Budget, Policy
from funcgrad.pullback import FlatPullback, Pullback, materialize, sweep, zeros_like_aval
from funcgrad.taps import Function, check_met, given_taps
from funcgrad.trace import PLAIN, GraphTrace, Mode
from funcgrad.tracer import UNKNOWN
from funcgrad.trees import name_of
from funcgrad.watching import WATCHER
from funcgrad.zeros import strong_zeros as zeros_in_force
from funcgrad.zeros import zeros_are_strong

Array = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """One run of a function: the structure, and apart from it the values that the run computed.

    Attributes:
      graph: what happened.
      values: for each number of the graph its value, as the trace below knows it.
      outputs: what the function returned, flat, without tracers of the recording.
      out_tree: tree structure of what the function returned.
      aux: the auxiliary output, without tracers of the recording.
    """

    graph: Graph
    values: list[Array]
    outputs: list[Array]
    out_tree: Any
    aux: Any

    def read(self, number: int) -> Array:
        """A value by its number; zeros for a tangent that was never computed."""
        value = self.values[number]
        return zeros_like_aval(self.graph.avals[number]) if value is UNKNOWN else value

    @property
    def out_avals(self) -> list[Any]:
        """Avals of the outputs."""
        return [self.graph.avals[v] if isinstance(v, int) else v.aval for v in self.graph.outputs]

    def pullback(self, policy: Policy) -> FlatPullback:
        """The pullback of this run, with what `policy` keeps. A budget is for what nobody holds anyway."""
        free = (*self.graph.inputs, *self.graph.captured) if isinstance(policy, Budget) else ()
        plan = make_plan(self.graph, policy, free)
        return FlatPullback(self.graph, plan, tuple(map(self.read, plan.saved)))


def record(fun: Callable[..., Any], values: Sequence[Array], active: Sequence[bool] | None = None, *,
           name: str | None = None, has_aux: bool = False, mode: Mode = PLAIN,
           trace_type: type[GraphTrace] = GraphTrace) -> Recording:
    """Run ``fun(*values)`` and note each operation that depends on a value.

    Args:
      fun: a function of flat arguments; may return any pytree.
      values: arrays, numbers or tracers of outer levels.
      active: which of them a cotangent can flow to; default: the real and complex ones.
      name: the function's name for messages and pictures.
      has_aux: whether `fun` returns a pair whose second element is not differentiated.
      mode: how nested programs and constants are recorded.
      trace_type: what records; somebody who looks on may note some operations in another way.

    Raises:
      TypeError: when `fun` returns something that is no array.
    """
    avals = list(map(_compat.typeof, values))
    flags = list(map(carries_gradient, avals)) if active is None else active
    return _record(trace_type, fun, values, avals, flags, name or name_of(fun), has_aux, mode)


def record_linear(fun: Callable[..., Any], avals: Sequence[Any], name: str, has_aux: bool = False) -> Recording:
    """Note what `fun`, which is linear in its arguments, does with arguments of these avals; compute nothing of it."""
    mode = Mode(linear=True, inline=True)
    return _record(GraphTrace, fun, [UNKNOWN] * len(avals), avals, [True] * len(avals), name, has_aux, mode)


def _record(trace_type: type[GraphTrace], fun: Callable[..., Any], values: Sequence[Any], avals: Sequence[Any],
            active: Sequence[bool], name: str, has_aux: bool, mode: Mode) -> Recording:
    with take_current_trace() as parent:
        trace = trace_type(parent, name, mode)
        tracers = [trace.new_tracer(v, a, f) for v, a, f in zip(values, avals, active, strict=True)]
        with set_current_trace(trace):
            result = fun(*tracers)
            recording = _finished(trace, len(tracers), result, has_aux)
        trace.invalidate()
        with set_current_trace(trace, check_leaks=True):  # after success only: an exception's frames hold tracers
            del trace, tracers, result
    return recording


def _finished(trace: GraphTrace, inputs: int, result: Any, has_aux: bool) -> Recording:
    result, aux = check_aux(result) if has_aux else (result, None)
    leaves, out_tree = jax.tree.flatten(result)
    leaves = [check_output(leaf, trace.name) for leaf in leaves]
    outputs: tuple[Operand, ...] = tuple(map(trace.operand, leaves))
    lowered = list(map(trace.lower, leaves))
    aux = jax.tree.map(trace.lower, aux)
    graph = Graph(trace.name, tuple(range(inputs)), tuple(trace.active[:inputs]), tuple(trace.captured.values()),
                  tuple(trace.nodes), outputs, tuple(trace.avals))
    return Recording(graph, trace.values, lowered, out_tree, aux)


# ---- vjp and its transpose ----


def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False, reduce_axes: Sequence[Any] = (),
        policy: Policy | None = None, strong_zeros: bool | None = None,
        taps: Mapping[str, Function] | None = None) -> Any:
    """The value of ``fun(*primals)`` and its pullback.

    Args:
      fun: a function of arrays and pytrees of arrays.
      *primals: where it is evaluated.
      has_aux: whether `fun` returns a pair whose second element is not differentiated.
      reduce_axes: must be empty; JAX no longer uses it either.
      policy: what the pullback keeps, see `funcgrad.policy`; None: as the context says.
      strong_zeros: whether the pullback keeps zero cotangents zero, see `funcgrad.strong_zeros`; None: as the context.
      taps: for names given to `funcgrad.tap`, a pure function each: what the cotangent that arrives there becomes,
        in each call of the pullback.

    Returns:
      ``(out, pullback)``, or ``(out, pullback, aux)``. ``pullback(ct)`` gives a tuple with one cotangent for each of
      `primals`. It is a pytree: it can be returned from `jit`, stacked by `scan`, mapped by `vmap`.

    Raises:
      TypeError: for arguments or results that are no arrays.
      MissingRuleError: for a primitive without a rule on the way of the gradient.
      TapError: for a name in `taps` that is never met.

    >>> import jax.numpy as jnp
    >>> out, pullback = vjp(lambda x, y: x * jnp.sin(y), 2.0, 0.0)
    >>> [float(ct) for ct in pullback(1.0)]
    [0.0, 2.0]
    """
    check_reduce_axes("vjp", "cotangent", reduce_axes)
    check_callable(fun)
    functions = given_taps(taps)
    with policies.given(policy):
        recording, in_tree = record_call(fun, primals, has_aux)
        flat = recording.pullback(policies.in_force())
    graph = recording.graph
    check_met(functions, graph)
    with zeros_in_force(strong_zeros):
        strong = zeros_are_strong()
    pullback = Pullback(flat, in_tree, recording.out_tree,
                        tuple(graph.avals[: len(graph.inputs)]), tuple(recording.out_avals), strong, functions)
    out = jax.tree.unflatten(recording.out_tree, recording.outputs)
    if WATCHER.value is not None:
        WATCHER.value.swept(recording, (), fun, range(len(primals)), primals)
    return (out, pullback, recording.aux) if has_aux else (out, pullback)


def record_call(fun: Callable[..., Any], args: tuple, has_aux: bool = False) -> tuple[Recording, Any]:
    """The recording of ``fun(*args)`` for arguments that are pytrees, and their tree structure."""
    given, in_tree = jax.tree.flatten(args)
    check_no_references(given)
    leaves = list(map(_compat.canonicalize, given))

    def flat(*values: Any) -> Any:
        return fun(*jax.tree.unflatten(in_tree, values))

    recording = record(flat, leaves, name=name_of(fun), has_aux=has_aux)
    recording = dataclasses.replace(recording, outputs=list(map(_compat.on_device, recording.outputs)))
    if has_aux:  # a number of Python that is handed through comes out as one
        numbers = {id(leaf): _compat.canonicalize(number, shaped=False)
                   for leaf, number in zip(leaves, given, strict=True) if type(number) in (bool, int, float, complex)}
        recording = dataclasses.replace(
            recording, aux=jax.tree.map(lambda leaf: numbers.get(id(leaf), leaf), recording.aux))
    return recording, in_tree


def pushforward(recording: Recording) -> Callable[[Sequence[Array | None]], list[Array | None]]:
    """Forward mode: tangents of a recording's outputs from those of its inputs, None being zero on both sides.

    The pullback is linear, and its transpose is the pushforward: the vjp of the vjp (Townsend 2017; Radul et al. 2023,
    "You Only Linearize Once", the other way round). No rule of its own.
    """
    graph = recording.graph
    live = [carries_gradient(aval) and isinstance(v, int)
            for v, aval in zip(graph.outputs, recording.out_avals, strict=True)]
    avals = [aval.to_ct_aval() for aval, flag in zip(recording.out_avals, live, strict=True) if flag]

    def transposed(*cts: Array) -> dict[int, Array]:
        remaining = iter(cts)
        full = [next(remaining) if flag else None for flag in live]
        in_cts = sweep(graph, recording.read, full)
        return {i: ct for i, ct in enumerate(in_cts) if ct is not None}

    linear = record_linear(transposed, avals, graph.name)
    reached = jax.tree.unflatten(linear.out_tree, range(linear.out_tree.num_leaves))

    def push(tangents: Sequence[Array | None]) -> list[Array | None]:
        ordered: list[Array | None] = [None] * len(reached)
        for number, position in reached.items():
            ordered[position] = tangents[number]
        results = iter(sweep(linear.graph, linear.read, ordered))
        return [next(results) if flag else None for flag in live]

    return push


def tangents_of(recording: Recording) -> Callable[[Sequence[Any]], list[Any]]:
    """Tangents of all outputs from tangents of all inputs, zeros instead of None."""
    push = pushforward(recording)
    active = recording.graph.active

    def push_all(tangents: Sequence[Any]) -> list[Any]:
        given = [t if flag else None for t, flag in zip(tangents, active, strict=True)]
        return [materialize(t, aval) for t, aval in zip(push(given), recording.out_avals, strict=True)]

    return push_all
