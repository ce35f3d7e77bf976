"""The backward sweep once more, with every operation judged where it stands.

Each operation is judged at the operands and the cotangents that really occurred. One that holds programs (`jit`,
`scan`, `cond`, `while`, the tangent map of a `custom_jvp`) is judged as a whole, and looked into where that is cheap or
where it is wrong: then its program is run operation by operation, at the real values, step by step. So the first
failing row is the first wrong operation in the order of the backward sweep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from funcgrad import _compat
from funcgrad.crosscheck.compare import describe, is_inexact, relative_error, ulp_error
from funcgrad.crosscheck.held import RUNS, closed
from funcgrad.crosscheck.judging.judge import Judgement, judge
from funcgrad.crosscheck.judging.second import second_order
from funcgrad.crosscheck.judging.snippets import snippet
from funcgrad.crosscheck.oracles import DEFAULT, Float64Truth, JaxReverse, ManyDigits, Oracle
from funcgrad.crosscheck.problem import Problem, active_positions, node_name, node_problem, rule_function, whole_problem
from funcgrad.crosscheck.recording import record_program
from funcgrad.crosscheck.report import Row, Verdict
from funcgrad.evaluation import evaluate
from funcgrad.graph import Literal, Node, carries_gradient
from funcgrad.pending import add_cotangents
from funcgrad.pullback import node_cotangents
from funcgrad.tracer import UNKNOWN
from funcgrad.vjp import Recording

Array = Any
Cotangents = list[Array | None]
Place = tuple[str, ...]

#: Loops of more steps are judged as a whole only.
LONGEST_LOOP = 1000
#: After so many wrong steps of a loop no further one is looked into.
WRONG_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a check is done.

    Attributes:
      oracles: whom to ask.
      order: highest order of derivative that is judged.
      tolerance: factor on what rounding is allowed.
      seed: of random directions.
    """

    oracles: tuple[Oracle, ...] = DEFAULT
    order: int = 1
    tolerance: float = 1.0
    seed: int = 0


def judged_sweep(recording: Recording, cts: Sequence[Array | None], settings: Settings, place: Place = (),
                 mapped: bool = False) -> tuple[list[Row], Cotangents]:
    """The rows of a run in the order of the backward sweep, and the cotangents of its inputs.

    Args:
      recording: the run.
      cts: cotangents of its outputs, None for zero.
      settings: how to judge.
      place: where the run is, from outside in.
      mapped: whether the run is inside `vmap`, so that the first axis is the batch.
    """
    graph = recording.graph
    pending: dict[int, Array] = {}
    rows: list[Row] = []

    def add(operands: Sequence[Any], given: Sequence[Array | None], active: Sequence[bool] | None = None) -> None:
        for i, (v, ct) in enumerate(zip(operands, given, strict=True)):
            if ct is not None and isinstance(v, int) and (active is None or active[i]):
                pending[v] = add_cotangents(pending.get(v), ct)

    add(graph.outputs, cts)
    for node in reversed(graph.nodes):
        node_cts = [pending.pop(v, None) for v in node.outputs]
        if not any(node.active) or all(ct is None for ct in node_cts):
            continue
        found, given = judged_step(node, recording, node_cts, settings, place, mapped)
        rows += found
        add(node.operands, given, node.active)
    return rows, [pending.get(v) if flag else None for v, flag in zip(graph.inputs, graph.active, strict=True)]


def judged_step(node: Node, recording: Recording, cts: Cotangents, settings: Settings, place: Place,
                mapped: bool) -> tuple[list[Row], Cotangents]:
    """The rows of one operation, and the cotangents that it gives."""
    mapped = mapped or _is_mapped(node)
    try:
        with _compat.in_setting(node.setting):
            given = list(node_cotangents(node, recording.graph.avals, recording.read, cts))
    except Exception as error:  # a rule can fail in any way
        row = Row(Verdict.WRONG, node_name(node), place, node.line, "cotangents of the operands", "the rule itself",
                  "funcgrad", reason=f"the rule raised {type(error).__name__}: {_first_line(error)}")
        inner = list(_inside(node, recording, cts, settings, place, mapped, wrong=True))
        return inner if any(r.failing for r in inner) else [row], [None] * len(node.operands)
    misfit = _misfit(node, recording, given)
    if misfit:
        row = Row(Verdict.WRONG, node_name(node), place, node.line, misfit[0], "type of the operand", "funcgrad",
                  operands=_operands(node, recording), reason=misfit[1])
        inner = list(_inside(node, recording, cts, settings, place, mapped, wrong=True))
        return inner if any(r.failing for r in inner) else [row], [None] * len(node.operands)
    if not node.rerunnable and settings.oracles:
        return [Row(Verdict.UNSUPPORTED, node.primitive.name, place, node.line,
                    reason="a custom rule that runs Python code depending on values cannot be run again")], given
    if not settings.oracles:
        return [], given
    problem = node_problem(node, recording, cts, given)
    rows = _rows(problem, node, place, settings, mapped)
    wrong = any(row.failing for row in rows)
    inner = list(_inside(node, recording, cts, settings, place, mapped, wrong))
    if any(row.failing for row in inner):
        rows = [row for row in rows if not row.failing]
    return inner + rows, given


def _rows(problem: Problem, node: Node, place: Place, settings: Settings, mapped: bool) -> list[Row]:
    """An operation's own rows; of order 2 only where ours of order 1 are right."""
    moving = active_positions(node)
    rows: list[Row] = []
    for order, current in ((1, problem), (2, None)):
        if order > settings.order:
            break
        if current is None:
            current = second_order(problem, settings.seed, refuted=any(row.failing for row in rows))
        if current is None:
            break
        for judgement in judge(current, settings.oracles, settings.tolerance, settings.seed):
            what = (f"cotangent of operand {moving[judgement.position]}" if judgement.position < len(moving)
                    else f"cotangent of cotangent {judgement.position - len(moving)}")
            at = place
            if mapped and judgement.index and judgement.verdict in (Verdict.WRONG, Verdict.NONFINITE):
                at = (*place, f"vmap index {judgement.index[0]}")
            rows.append(row_of(judgement, current, what, at, order, node))
        if any(row.failing and row.subject != "jax" for row in rows):
            break
    return rows


def row_of(judgement: Judgement, problem: Problem, what: str, place: Place, order: int, node: Node | None) -> Row:
    """A judgement as a row of the report."""
    truth = judgement.truth
    deviating = judgement.theirs if judgement.subject == "jax" else judgement.ours
    known = truth is not None and deviating is not None and np.isfinite(deviating) and np.isfinite(truth)
    dtype = problem.values[judgement.position].dtype
    failing = judgement.verdict in (Verdict.WRONG, Verdict.NONFINITE)
    function, source = rule_function(node) if node is not None else ("", "")
    reason = judgement.reason
    if failing and function and judgement.subject == "both":
        reason = f"{reason}: the user's rule of `{function}` ({source}) is wrong"
    index = list(judgement.index) if judgement.index else ""
    return Row(
        judgement.verdict, problem.name, place, node.line if node is not None else "", f"{what}{index}",
        f"order {order}: {judgement.oracle}" if order > 1 else judgement.oracle, judgement.subject, judgement.ours,
        judgement.theirs, truth,
        ulp_error(deviating, truth, dtype) if known and failing else None,  # type: ignore[arg-type]
        relative_error(deviating, truth) if known and failing else None,  # type: ignore[arg-type]
        judgement.allowed, tuple(map(describe, problem.values)) if failing else (),
        "; ".join(map(describe, problem.cts)) if failing else "",
        snippet(problem, judgement.position, judgement.index, truth) if failing and node is not None else "", reason,
        int(np.size(problem.ours[judgement.position])))


def _misfit(node: Node, recording: Recording, given: Sequence[Array | None]) -> tuple[str, str] | None:
    """(which cotangent, why) when one does not fit its operand."""
    if len(given) != len(node.operands):
        return "cotangents of the operands", f"{len(given)} cotangents for {len(node.operands)} operands"
    for position in active_positions(node):
        ct, operand = given[position], node.operands[position]
        assert isinstance(operand, int)
        if ct is None:
            continue
        wanted, found = recording.graph.avals[operand], _compat.typeof(ct)
        if (wanted.shape, wanted.dtype) != (found.shape, found.dtype):
            return (f"cotangent of operand {position}",
                    f"the rule gave {found.str_short()}, the operand is {wanted.str_short()}")
    return None


def _operands(node: Node, recording: Recording) -> tuple[str, ...]:
    return tuple(describe(v.value if isinstance(v, Literal) else recording.read(v)) for v in node.operands)


def _is_mapped(node: Node) -> bool:
    return "vmap" in str(getattr(node.source, "name_stack", ""))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else ""


# ---- inside operations that hold programs ----


def _inside(node: Node, recording: Recording, cts: Cotangents, settings: Settings, place: Place, mapped: bool,
            wrong: bool) -> Iterator[Row]:
    """The rows of the programs that an operation holds; of a loop, a branch and a tangent map only when it is wrong."""
    name, params = node.primitive.name, node.params
    operands = [v.value if isinstance(v, Literal) else recording.read(v) for v in node.operands]
    active = [flag and is_inexact(x) for flag, x in zip(node.active, operands, strict=True)]
    if name in RUNS:
        run = record_program(closed(params[RUNS[name]]), operands, active, str(params.get("name", name)))
        label = f"{name} `{params['name']}`" if "name" in params else name
        yield from judged_sweep(run, cts, settings, (*place, label), mapped)[0]
    elif not wrong:
        return
    elif name == "cond":
        branch = int(np.clip(int(operands[0]), 0, len(params["branches"]) - 1))
        run = record_program(params["branches"][branch], operands[1:], active[1:], name)
        yield from judged_sweep(run, cts, settings, (*place, f"cond branch {branch}"), mapped)[0]
    elif name == "scan":
        yield from _inside_scan(params, operands, active, cts, settings, place, mapped)
    elif name == "while":
        yield from _inside_while(params, operands, active, cts, settings, place, mapped)
    elif name == "custom_jvp_call":
        yield from _inside_tangents(node, recording, cts, settings, place, mapped)


def _inside_tangents(node: Node, recording: Recording, cts: Cotangents, settings: Settings, place: Place,
                     mapped: bool) -> Iterator[Row]:
    """The linear map that the user's jvp rule made of the tangents, pulled back operation by operation."""
    assert node.pullback is not None
    leaves = [recording.read(v) if isinstance(v, int) else v.value for v in node.pullback.leaves]
    pullback = node.pullback.tree.unflatten(leaves)
    flat = pullback.tangents
    values: list[Any] = [UNKNOWN] * len(flat.graph.avals)
    for number, residual in zip(flat.plan.saved, flat.residuals, strict=True):
        values[number] = residual
    run = Recording(flat.graph, values, [], None, None)
    inner = [cts[i] for i in pullback.indices]
    rule = f"jvp rule of `{node_name(node)}`"
    yield from judged_sweep(run, inner, settings, (*place, rule), mapped)[0]


def _inside_scan(params: Any, operands: list[Array], active: list[bool], cts: Cotangents, settings: Settings,
                 place: Place, mapped: bool) -> Iterator[Row]:
    consts, carries, length = params["num_consts"], params["num_carry"], params["length"]
    if length > LONGEST_LOOP:
        return
    carried = [carries_gradient(_compat.typeof(x)) for x in operands[consts : consts + carries]]
    flags = [*active[:consts], *carried, *active[consts + carries:]]
    carry = operands[consts : consts + carries]
    order = list(range(length))[:: -1 if params["reverse"] else 1]
    runs = []
    for step in order:
        xs = [x[step] for x in operands[consts + carries:]]
        run = record_program(params["jaxpr"], [*operands[:consts], *carry, *xs], flags, "scan")
        carry = run.outputs[:carries]
        runs.append(run)
    ct_carry = list(cts[:carries])
    steps = []
    for step, run in zip(reversed(order), reversed(runs), strict=True):
        given = [*ct_carry, *(None if ct is None else ct[step] for ct in cts[carries:])]
        steps.append((f"scan step {step}", run, given))
        ct_carry = _plain_sweep(run, given)[consts : consts + carries]
    yield from _wrong_steps(params["jaxpr"], steps, settings, place, mapped)


def _inside_while(params: Any, operands: list[Array], active: list[bool], cts: Cotangents, settings: Settings,
                  place: Place, mapped: bool) -> Iterator[Row]:
    first, second = params["cond_nconsts"], params["body_nconsts"]
    conditions, consts, state = operands[:first], operands[first : first + second], operands[first + second:]
    flags = [*active[first : first + second], *(carries_gradient(_compat.typeof(x)) for x in state)]
    runs: list[Recording] = []
    while bool(np.all(evaluate(params["cond_jaxpr"], [*conditions, *state])[0])):
        if len(runs) >= LONGEST_LOOP:
            return
        runs.append(record_program(params["body_jaxpr"], [*consts, *state], flags, "while"))
        state = runs[-1].outputs
    given = list(cts)
    steps = []
    for iteration, run in reversed(list(enumerate(runs))):
        steps.append((f"while iteration {iteration}", run, given))
        given = _plain_sweep(run, given)[second:]
    yield from _wrong_steps(params["body_jaxpr"], steps, settings, place, mapped)


def _plain_sweep(run: Recording, cts: Cotangents) -> Cotangents:
    """The cotangents of a run's inputs; a rule that fails gives none."""
    return judged_sweep(run, cts, SILENT)[1]


def _wrong_steps(program: Any, steps: Sequence[tuple[str, Recording, Cotangents]], settings: Settings, place: Place,
                 mapped: bool) -> Iterator[Row]:
    """The rows of the steps that are wrong as a whole, in backward order."""
    wrong = 0
    quick = (JaxReverse(), Float64Truth(), ManyDigits())
    for label, run, cts in steps:
        rows, given = judged_sweep(run, cts, SILENT)
        problem = whole_problem(run, lambda *args: evaluate(program, args), cts, given)
        verdicts = judge(problem, quick, settings.tolerance, settings.seed)
        if not rows and all(j.verdict in (Verdict.MATCH, Verdict.CONVENTION) for j in verdicts):
            continue
        yield from judged_sweep(run, cts, settings, (*place, label), mapped)[0]
        wrong += 1
        if wrong == WRONG_STEPS:
            return


#: A sweep that judges nothing.
SILENT = Settings(oracles=())
