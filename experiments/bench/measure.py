"""Measurements: figures of a program without noise, and times taken in turn with its peers."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from experiments.bench.problem import OURS, Problem, Program, Workload
from funcgrad.caches import clear_caches
from funcgrad.planning import make_plan
from funcgrad.pullback import sweep
from funcgrad.vjp import record

#: One peer's figures, by name; times are lists, one entry for each round, in seconds.
Figures = dict[str, Any]
STAGES = ("trace", "lower", "compile")
#: Timed repetitions are grouped so that one measurement takes at least this long.
SHORTEST = 2e-3


# ---- figures without noise ----


def distinct_jaxprs(jaxpr: Any) -> list[Any]:
    """A jaxpr and all those nested in it, each once."""
    found: dict[int, Any] = {}
    pending = [jaxpr]
    while pending:
        inner = pending.pop()
        if id(inner) not in found:
            found[id(inner)] = inner
            pending.extend(nested for eqn in inner.eqns for nested in jaxprs_in_params(eqn.params))
    return list(found.values())


def equations(closed: Any) -> int:
    """Number of equations, nested ones included, those of each distinct jaxpr once."""
    return sum(len(jaxpr.eqns) for jaxpr in distinct_jaxprs(closed.jaxpr))


def contraction_flops(jaxpr: Any) -> float:
    """FLOPs of all `dot_general`s as executed: the body of a `scan` counts once for each step, of a `while` once."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            lhs = eqn.invars[0].aval.shape
            total += 2.0 * eqn.outvars[0].aval.size * math.prod(lhs[axis] for axis in contracted)
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        total += times * sum(contraction_flops(nested) for nested in jaxprs_in_params(eqn.params))
    return total


def compiled_figures(compiled: Any) -> Figures:
    """Temporary bytes, FLOPs as XLA counts them (the body of a loop counts once), and instructions when it is done."""
    cost = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    return {"temp_bytes": getattr(memory, "temp_size_in_bytes", None), "xla_flops": cost.get("flops"),
            "hlo_optimised": compiled.as_text().count(" = ")}


@contextlib.contextmanager
def counted_compilations() -> Iterator[list[str]]:
    """Collects one entry for each program that XLA compiles inside the block."""
    seen: list[str] = []

    def listener(event: str, duration: float, **details: Any) -> None:
        del duration, details
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


def start_afresh() -> None:
    """The state of a process that has just begun."""
    clear_caches()
    gc.collect()


# ---- times, in turn ----


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The order of one round: each round begins with another peer, so that drift hits all of them alike."""
    offset = number % len(names)
    return [*names[offset:], *names[:offset]]


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def least_seconds(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The least time of each call until its result is there, over rounds in which each runs once."""
    least = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            least[name] = min(least[name], _seconds(lambda call=call: jax.block_until_ready(call()))[0])
    return least


def staged_rounds(problem: Problem, rounds: int, compilations: int,
                  figures: Mapping[str, Figures]) -> dict[str, Callable[[], Any]]:
    """Trace and lower each program from cold, in turn, and compile it in the first rounds.

    Returns:
      The compiled programs as thunks.
    """
    compiled: dict[str, Callable[[], Any]] = {}
    names = [name for name in problem.programs if name not in ("autograd", "torch")]
    for number in range(rounds):
        for name in in_turn(names, number):
            executable = _staged_once(problem, name, number == 0, number < compilations, figures[name])
            if executable is not None:
                compiled[name] = _thunk(executable, problem.arguments_of(name))
    return compiled


def _staged_once(problem: Problem, name: str, first: bool, compiling: bool, figures: Figures) -> Any:
    start_afresh()
    fresh = jax.jit(_fresh(problem.programs[name]))
    seconds, traced = _seconds(lambda: fresh.trace(*problem.arguments_of(name)))
    figures["trace"].append(seconds)
    if first:
        figures["equations"] = equations(traced.jaxpr)
        figures["contraction_flops"] = contraction_flops(traced.jaxpr.jaxpr)
    if not problem.lower:
        return None
    seconds, lowered = _seconds(traced.lower)
    figures["lower"].append(seconds)
    if not compiling:
        return None
    seconds, executable = _seconds(lowered.compile)
    figures["compile"].append(seconds)
    if first:
        figures["hlo"] = lowered.as_text(dialect="hlo").count(" = ")
        figures.update(compiled_figures(executable))
    return executable


def _fresh(program: Program) -> Program:
    return lambda *args: program(*args)


def _thunk(program: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(program(*args))


def run_rounds(calls: Mapping[str, Callable[[], Any]], seconds: float, figures: Mapping[str, Figures]) -> None:
    """Run the programs in turn until the time is up (five rounds at least, fewer for very slow programs)."""
    repeats = {}
    for name, call in calls.items():  # warm up, and see how long one call takes
        call()
        took, _ = _seconds(call)
        repeats[name] = max(1, math.ceil(SHORTEST / max(took, 1e-7)))
    start, number = time.perf_counter(), 0
    while number < 2 or (elapsed := time.perf_counter() - start) < seconds or (number < 5 and elapsed < 10 * seconds):
        for name in in_turn(list(calls), number):
            call, times = calls[name], repeats[name]
            took, _ = _seconds(lambda call=call, times=times: [call() for _ in range(times)])
            figures[name]["run"].append(took / times)
        number += 1
        if number >= 200:
            break


def first_calls(problem: Problem, rounds: int, figures: Mapping[str, Figures]) -> None:
    """The very first eager call of each program, from cold."""
    names = list(problem.programs)
    for number in range(rounds):
        for name in in_turn(names, number):
            start_afresh()
            took, _ = _seconds(_thunk(problem.programs[name], problem.arguments_of(name)))
            figures[name]["first"].append(took)


def chain_parts(problem: Problem, figures: Figures) -> None:
    """Seconds of recording, planning and sweeping a chain under `jit`, apart."""

    def timed(x: jax.Array) -> list[jax.Array]:
        seconds, recording = _seconds(lambda: record(problem.loss, [x]))
        figures["record"] = [seconds]
        figures["plan"] = [_seconds(lambda: make_plan(recording.graph))[0]]
        seconds, cts = _seconds(lambda: sweep(recording.graph, recording.read, [jax.numpy.ones_like(x)]))
        figures["sweep"] = [seconds]
        return cts

    start_afresh()
    jax.make_jaxpr(timed)(*problem.args)


def measure(workload: Workload, problem: Problem, *, seconds: float, rounds: int,
            compilations: int) -> dict[str, Figures]:
    """All figures of one workload, by peer.

    Args:
      workload: what is measured.
      problem: at which size.
      seconds: for the run times.
      rounds: how often each program is traced and lowered from cold.
      compilations: how often it is compiled.
    """
    figures: dict[str, Figures] = {
        name: {key: [] for key in (*STAGES, "run", "first")} for name in problem.programs}
    if workload.kind == "chain":
        chain_parts(problem, figures[OURS])
    if workload.kind == "eager":
        first_calls(problem, rounds, figures)
        calls = {name: _thunk(program, problem.arguments_of(name)) for name, program in problem.programs.items()}
    else:
        calls = staged_rounds(problem, rounds if problem.nodes <= 10_000 else 1, compilations, figures)
    if problem.run:
        run_rounds(calls, seconds, figures)
    return figures


def measure_static(workload: Workload, problem: Problem) -> dict[str, Figures]:
    """What has no noise: each program is traced, lowered and compiled once, none is run."""
    figures: dict[str, Figures] = {name: {key: [] for key in (*STAGES, "run", "first")} for name in problem.programs}
    if workload.kind == "jitted":
        staged_rounds(problem, 1, 1, figures)
    for entry in figures.values():
        entry.update({stage: [] for stage in STAGES})
    return figures


# ---- summaries ----


def median(values: Sequence[float]) -> float | None:
    """The median, None of nothing."""
    return statistics.median(values) if values else None


def ratio(figures: Mapping[str, Figures], key: str, peer: str, baseline: str) -> float | None:
    """A peer's figure over the baseline's: of times the median over rounds, each taken side by side.

    `key` may join times with ``+``, which are then added within each round.
    """
    if peer not in figures or baseline not in figures:
        return None
    tops, bottoms = _rounds(figures[peer], key), _rounds(figures[baseline], key)
    ratios = [top / bottom for top, bottom in zip(tops, bottoms, strict=False) if bottom]
    return median(ratios)


def _rounds(figures: Figures, key: str) -> list[float]:
    columns = []
    for part in key.split("+"):
        value = figures.get(part)
        columns.append(value if isinstance(value, list) else [] if value is None else [value])
    return [sum(column) for column in zip(*columns, strict=False)]


def geometric_mean(values: Sequence[float]) -> float | None:
    """The geometric mean, None of nothing."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else None
