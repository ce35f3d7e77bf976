"""Floor 7: what passed the taps, as additional results, wherever in a program they stand.

A tapped value gets a *probe* added to it: an input of the graph that is zero, so that its cotangent is the value's. In
the body of a loop or a branch, probes come in and values go out as further operands and results of the loop: a `scan`
stacks both, with the loop axis first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
from jax.core import Trace
from jax.extend.core import Primitive, set_current_trace, take_current_trace
from jax.extend.core import primitives as p

from funcgrad import _compat, errors
from funcgrad.evaluation import evaluate, evaluate_equation
from funcgrad.graph import carries_gradient
from funcgrad.pullback import materialize
from funcgrad.rules.staging import strong
from funcgrad.taps import Site, Tapped, sites, sites_within
from funcgrad.trace import GraphTrace

Array = Any

#: Programs that can be given probes.
_OPENED = frozenset({p.jit_p, p.remat_p, p.scan_p, p.cond_p})


# ---- while the function runs ----


@dataclasses.dataclass(frozen=True)
class _Passed:
    """A tap that the function ran through. `value` and `probe` are numbers of the graph; a constant is itself."""

    name: str
    value: Any
    is_number: bool
    probe: int | None


class TapTrace(Trace):
    """Hands every operation on to the trace below, and gives each tapped value a probe."""

    def __init__(self, parent: GraphTrace, passed: list[_Passed]):
        super().__init__()
        self.parent = parent
        self.passed = passed
        self.requires_low = parent.requires_low

    def process_primitive(self, primitive: Primitive, args: Sequence[Array], params: dict, /) -> Any:
        if primitive is p.name_p:
            return self._tap(args[0], params["name"])
        found = sites_within(primitive, params)
        with set_current_trace(self.parent):
            if not found:
                return primitive.bind_with_trace(self.parent, args, tuple(map(_compat.typeof, args)), params)
            probes = [self._probe(site) for site in found]
            results, values = with_probes(primitive, params, args, [probe for probe in probes if probe is not None])
        for site, value, probe in zip(found, values, probes, strict=True):
            self._note(site.name, value, probe)
        return results

    def _tap(self, x: Array, name: str) -> Array:
        with set_current_trace(self.parent):
            value = p.name_p.bind(x, name=name)
            aval = _compat.typeof(value)
            probe = self._probe(Site(name, aval.shape, aval.dtype))
            self._note(name, value, probe)
            return value if probe is None else _probed(value, probe)

    def _probe(self, site: Site) -> Array | None:
        if not site.has_probe:
            return None
        with set_current_trace(self.parent.parent):
            zeros = site.zeros(-0.0)  # x + -0.0 is x to the last bit, also where x is -0.0
        return self.parent.new_tracer(zeros, _compat.typeof(zeros), True)

    def _note(self, name: str, value: Array, probe: Any) -> None:
        is_number = self.parent.owns(value)
        self.passed.append(_Passed(name, value.number if is_number else value, is_number,
                                   None if probe is None else probe.number))

    def process_call(self, call_primitive: Any, f: Any, args: Sequence[Array], params: dict, /) -> Any:
        with set_current_trace(self):
            return f.call_wrapped(*args)

    def process_custom_jvp_call(self, *args: Any, **params: Any) -> Any:
        with set_current_trace(self.parent):
            return self.parent.process_custom_jvp_call(*args, **params)

    def process_custom_vjp_call(self, *args: Any, **params: Any) -> Any:
        with set_current_trace(self.parent):
            return self.parent.process_custom_vjp_call(*args, **params)

    def stage_value(self, value: Array) -> Array:
        return self.parent.stage_value(value)

    def cur_qdd(self, value: Array) -> Any:
        return self.parent.cur_qdd(value)


@dataclasses.dataclass(frozen=True)
class Taps:
    """The taps of one run; filled while `watched` runs inside a recording."""

    passed: list[_Passed] = dataclasses.field(default_factory=list)

    def watched(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """`fun`, for a recording, with probes."""

        def run(*args: Any) -> Any:
            with take_current_trace() as parent:
                assert isinstance(parent, GraphTrace)
                trace = TapTrace(parent, self.passed)
                with set_current_trace(trace):
                    result = fun(*args)
                trace.invalidate()
            return result

        run.__name__ = getattr(fun, "__name__", type(fun).__name__)
        return run

    def opened(self, recording: Any) -> Any:
        """The recording with the probes as further inputs of its graph."""
        probes = tuple(entry.probe for entry in self.passed if entry.probe is not None)
        graph = recording.graph
        graph = dataclasses.replace(graph, inputs=graph.inputs + probes, active=graph.active + (True,) * len(probes))
        return dataclasses.replace(recording, graph=graph)

    def results(self, recording: Any, cts: Sequence[Array | None]) -> dict[str, Any]:
        """By name: a `Tapped`, or a tuple of them where the name was met more than once.

        Args:
          recording: the opened one.
          cts: cotangents of the probes, None for zero.
        """
        remaining = iter(cts)
        found: dict[str, list[Tapped]] = {}
        for entry in self.passed:
            value = jnp.asarray(recording.read(entry.value) if entry.is_number else entry.value)
            aval = _compat.typeof(value)
            ct = None if entry.probe is None else next(remaining)
            found.setdefault(entry.name, []).append(Tapped(value, materialize(ct, aval)))
        return {name: entries[0] if len(entries) == 1 else tuple(entries) for name, entries in found.items()}


def _probed(value: Array, probe: Array) -> Array:
    return p.add_p.bind(value, probe)


# ---- programs with probes ----


def with_probes(primitive: Primitive, params: dict[str, Any], operands: Sequence[Array],
                probes: Sequence[Array]) -> tuple[Any, list[Array]]:
    """Run an operation whose programs have taps: its results, and the tapped values."""
    if primitive not in _OPENED:
        name = sites_within(primitive, params)[0].name
        raise errors.tap_inside(name, str(primitive), runs_often=primitive is p.while_p)
    if primitive is p.cond_p:
        branches = params["branches"]
        programs = [_opened_branch(branches, number) for number in range(len(branches))]
        results = p.cond_p.bind(*operands, *probes, **dict(params, branches=tuple(programs)))
        count = len(branches[0].out_avals)
        return results[:count], list(results[count:])
    jaxpr = params["jaxpr"] if primitive is not p.remat_p else _compat.closed(params["jaxpr"])
    program, count = _opened(jaxpr), len(jaxpr.out_avals)
    if primitive is p.remat_p:
        fence = params["prevent_cse"]
        inputs = [*program.consts, *operands, *probes]
        if isinstance(fence, tuple):
            fence = (False,) * len(program.consts) + fence + (False,) * len(probes)
        params = dict(params, jaxpr=_compat.constants_first(program.jaxpr), prevent_cse=fence)
        results = p.remat_p.bind(*inputs, **params)
    elif primitive is p.jit_p:
        results = p.jit_p.bind(*operands, *probes, **_grown(params, program, len(probes)))
    else:
        results = p.scan_p.bind(*operands, *probes, **dict(params, jaxpr=program))
    return results[:count], list(results[count:])


def _grown(params: dict[str, Any], program: Any, probes: int) -> dict[str, Any]:
    """The params of a `jit` with more operands and more results."""
    more = len(program.out_avals) - len(params["out_shardings"])
    return dict(params, jaxpr=program, donated_invars=params["donated_invars"] + (False,) * probes,
                in_shardings=params["in_shardings"] + (_compat.UNSPECIFIED,) * probes,
                in_layouts=params["in_layouts"] + (None,) * probes,
                out_shardings=params["out_shardings"] + (_compat.UNSPECIFIED,) * more,
                out_layouts=params["out_layouts"] + (None,) * more)


# Weak in the program, as above.
_PROGRAMS: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def _opened(jaxpr: Any) -> Any:
    """The program ``(*args, *probes) -> (*results, *tapped values)`` of a closed jaxpr; cached."""
    cache = _PROGRAMS.setdefault(jaxpr, {})
    key = _compat.trace_context()
    if key not in cache:
        inner = sites(jaxpr.jaxpr)

        def run(*args: Array) -> list[Array]:
            own, probes = args[:len(jaxpr.in_avals)], args[len(jaxpr.in_avals):]
            return _run(jaxpr, own, iter(probes))

        cache[key] = _compat.stage(run, [*(v.aval for v in jaxpr.jaxpr.invars), *_probe_avals(inner)],
                                   jaxpr.jaxpr.debug_info.func_name)
    return cache[key]


def _probe_avals(found: Sequence[Site]) -> list[Any]:
    return [jax.core.ShapedArray(site.shape, site.dtype) for site in found if site.has_probe]


def _opened_branch(branches: Sequence[Any], number: int) -> Any:
    """As `_opened`, with the probes and values of all branches; zeros for what the others tap."""
    groups = [sites(branch.jaxpr) for branch in branches]
    cache = _PROGRAMS.setdefault(branches[number], {})
    key = (_compat.trace_context(), tuple(groups), number)
    if key not in cache:
        branch = branches[number]

        def run(*args: Array) -> list[Array]:
            own, probes = args[:len(branch.in_avals)], iter(args[len(branch.in_avals):])
            results: list[Array] = []
            values: list[Array] = []
            for position, group in enumerate(groups):
                mine = [next(probes) for site in group if site.has_probe]
                if position == number:
                    results = _run(branch, own, iter(mine))
                    values += results[len(branch.out_avals):]
                else:
                    values += [site.zeros() for site in group]
            return [*results[:len(branch.out_avals)], *strong(values)]

        avals = [v.aval for v in branch.jaxpr.invars]
        avals += [aval for group in groups for aval in _probe_avals(group)]
        cache[key] = _compat.stage(run, avals, branch.jaxpr.debug_info.func_name)
    return cache[key]


def _run(jaxpr: Any, args: Sequence[Array], probes: Iterator[Array]) -> list[Array]:
    """The results of a program, then what passed its taps."""
    values: list[Array] = []

    def step(trace: Trace, eqn: Any, operands: list[Array]) -> Sequence[Array]:
        if eqn.primitive is p.name_p:
            value = p.name_p.bind(*operands, **eqn.params)
            values.append(value)
            has_probe = carries_gradient(_compat.typeof(value))
            return [_probed(value, next(probes)) if has_probe else value]
        inner = sites_within(eqn.primitive, eqn.params)
        if not inner:
            return evaluate_equation(trace, eqn, operands)
        mine = [next(probes) for site in inner if site.has_probe]
        results, more = with_probes(eqn.primitive, eqn.params, operands, mine)
        values.extend(more)
        return results

    return [*evaluate(jaxpr, args, step), *values]
