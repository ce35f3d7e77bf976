"""Write `docs/accuracy.md`: errors of funcgrad's and of jax.grad's cotangents against a float64 (or mpmath) truth.

``python -m experiments.accuracy`` measures every case of the table in every dtype and writes the page. It exits with 1
when fewer than 99 of 100 rows are as good as JAX's, or when a row is worse and `REASONS` does not say why.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.truth import (
    BOTH,
    NoTruth,
    Program,
    Truth,
    exact_functions,
    exact_truth,
    float64_truth,
    program,
    wide,
)
from tests.cases.case import Case
from tests.harness.products import JAX, OURS, Leaves, Problem, make_problem
from tests.harness.table import CASES, cast, draw, dtypes_of, generator, precision

PAGE = Path(__file__).resolve().parent.parent / "docs" / "accuracy.md"
DTYPES = ("float32", "bfloat16", "float16")
#: Points at which each case is measured; the error of a row is the largest of all.
POINTS = 12
#: Two errors whose difference is no larger than this, in rounding units, are equal: half of one rounding.
MARGIN = 0.5
#: A cotangent that is off by so many roundings is another number.
WRONG = 1e9
#: The share of rows that must be as good as JAX's.
WANTED = 0.99
EXACT = exact_functions()

#: Why a row is worse than JAX's: by "case · dtype", or by "case" for all its dtypes.
LAPACK = ("both rules read what LAPACK rounded in float32, and divide by small differences of it; which one errs more "
          "changes from point to point")
REASONS: dict[str, str] = {
    "digamma": "both multiply the seed by the same `polygamma(1, x)`; XLA compiles a call of constant order with up to "
               "10 units, in `jax.jit(jax.grad(...))` too. zeta(2, x) would be closer, but JAX cannot differentiate it",
    "exp2": "log(2) y ct has three roundings in both: ours rounds log(2) y first, JAX y ct",
    "reduce[soft maximum]": "a tree of calls of the reducer in both: ours folds neighbours, JAX the first half onto "
                            "the second",
} | dict.fromkeys(("qr[3x5]", "qr[3x5,full]", "eigh[logarithm]", "svd[3x4]"), LAPACK)

HEAD = """# Accuracy of the cotangents

Written by `python -m experiments.accuracy`; do not edit.

For each operation of the case table and each dtype, the cotangents of random arguments and random seeds at {points}
points, by `funcgrad.vjp` and by `jax.vjp`, each operation rounded to its dtype (op by op: no fused multiply-add).

* **Truth** of float32, bfloat16 and float16: `funcgrad.vjp` of the same program in float64 at the same (rounded)
  arguments, confirmed by `jax.vjp` in float64, or, where JAX has no rule or a wrong one, by finite differences.
  Truth of float64: the function itself in 40 digits (mpmath).
* **Unit**: one rounding of an element, which is one unit in its last place, plus as much as the element moves when all
  arguments and seeds move by one unit in their last places, plus the smallest normal number.
* **Error** of a row: the largest |cotangent − truth| of all elements and points, in units. `inf`: not finite where the
  truth is; `wrong`: another number, off by a billion units or more.
* **Equal**: the two errors differ by no more than {margin} units, which is half of one rounding.

"""


@dataclasses.dataclass(frozen=True)
class Row:
    """The errors of one case in one dtype, in units.

    Attributes:
      theirs: None where JAX has no answer.
      untrue: why there is no truth; then `ours` means nothing.
    """

    case: str
    dtype: str
    ours: float = 0.0
    theirs: float | None = None
    untrue: str = ""

    @property
    def name(self) -> str:
        """Case and dtype."""
        return f"{self.case} · {self.dtype}"

    @property
    def compared(self) -> bool:
        """Whether there are two errors to compare."""
        return not self.untrue and self.theirs is not None

    @property
    def verdict(self) -> str:
        """Ours is smaller, equal or larger."""
        theirs = self.theirs if self.theirs is not None else np.inf
        if self.ours == theirs or abs(self.ours - theirs) <= MARGIN:
            return "equal"
        return "smaller" if self.ours < theirs else "larger"


# ---- measuring ----


def measure(case: Case) -> list[Row]:
    """The rows of a case."""
    names = [dtype for dtype in DTYPES if dtype in dtypes_of(case)]
    try:
        with precision("float64"):
            problem = _problem(case, "float64", 0)
            run = compiled(problem)
    except Exception as error:  # whatever a program says that does not exist in float64
        return [Row(case.name, dtype, untrue=f"not a program of float64 ({type(error).__name__})") for dtype in names]
    rows = [_row(case, dtype, run, _inputs(problem)) for dtype in names]
    if case.name in EXACT and "float64" in dtypes_of(case):
        rows.append(_exact_row(case, run))
    return rows


def measure_all(names: Sequence[str], workers: int) -> list[Row]:
    """The rows of the cases with these names, measured in several processes."""
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        return [row for rows in pool.map(_measure_named, names, chunksize=16) for row in rows]


def _measure_named(name: str) -> list[Row]:
    """A case travels between processes by its name: its functions have none."""
    return measure(next(case for case in CASES if case.name == name))


def compiled(problem: Problem) -> Program:
    """The case's program with both autodiffs, or with ours alone where JAX refuses."""
    try:
        return program(problem).lower(_inputs(problem)).compile()
    except Exception:  # JAX refuses in many words, some of them only when it compiles
        return program(problem, BOTH[:1]).lower(_inputs(problem)).compile()


def _problem(case: Case, dtype: str, point: int) -> Problem:
    args = draw(case, f"accuracy {point}" if point else "args")
    return make_problem(case, cast(args, dtype), generator(case, f"accuracy seeds {point}"))


def _inputs(problem: Problem) -> tuple[Any, ...]:
    return problem.active, problem.rest, problem.seeds["ct"]


def _row(case: Case, dtype: str, run64: Program, types64: Any) -> Row:
    """A row of a dtype below float64; `types64` has the types of the inputs of the program in float64."""
    rng = generator(case, f"nudges {dtype}")
    errors: dict[str, list[float]] = {OURS.name: [], JAX.name: []}
    try:
        with precision(dtype):
            problems = [_problem(case, dtype, point) for point in range(POINTS)]
            run = compiled(problems[0])
            found = [run(_inputs(problem)) for problem in problems]
        with precision("float64"):
            for problem, results in zip(problems, found, strict=True):
                inputs = wide(_inputs(problem), types64)
                truth = float64_truth(run64, inputs, results["value"], dtype, rng)
                _collect(errors, results, truth, dtype)
    except NoTruth as error:
        return Row(case.name, dtype, untrue=str(error))
    return _finish(case, dtype, errors)


def _exact_row(case: Case, run64: Program) -> Row:
    """The row of float64, against mpmath."""
    errors: dict[str, list[float]] = {OURS.name: [], JAX.name: []}
    with precision("float64"):
        for point in range(POINTS):
            problem = _problem(case, "float64", point)
            truth = exact_truth(case, problem, problem.seeds["ct"][0])
            _collect(errors, run64(_inputs(problem)), truth, "float64")
    return _finish(case, "float64", errors)


def _collect(errors: dict[str, list[float]], results: dict[str, Leaves], truth: Truth, dtype: str) -> None:
    for name in errors:
        if name in results:
            errors[name].append(largest_error(results[name], truth))


def _finish(case: Case, dtype: str, errors: dict[str, list[float]]) -> Row:
    theirs = errors[JAX.name]
    return Row(case.name, dtype, max(errors[OURS.name]), max(theirs) if theirs else None)


def largest_error(cts: Leaves, truth: Truth) -> float:
    """The largest error of all elements, in units; elements whose truth is no number count for nothing."""
    worst = 0.0
    for given, right, units in zip(cts, truth.cts, truth.units, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            rounded = right.astype(given.dtype).astype(right.dtype)
            given = np.asarray(given).astype(right.dtype)
            errors = np.where((given == right) | (given == rounded), 0.0, np.abs(given - right) / units)
        errors = np.where(np.isnan(right), 0.0, np.where(np.isnan(errors), np.inf, errors))
        worst = max(worst, float(np.max(errors, initial=0.0)))
    return worst


# ---- the page ----


def reason(row: Row) -> str:
    """Why a row is worse than JAX's; empty when nobody has said."""
    return REASONS.get(row.name, REASONS.get(row.case, ""))


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    lines = [HEAD.format(points=POINTS, margin=MARGIN), *_summary(rows)]
    lines += _section("Rows where funcgrad's error is larger",
                      [f"| {_cells(row)} | {reason(row) or '**unexplained**'} |" for row in larger(rows)],
                      "| case · dtype | funcgrad | JAX | why |\n|---|---|---|---|")
    better = sorted((row for row in rows if row.compared and row.verdict == "smaller"),
                    key=lambda row: row.ours - (row.theirs or 0))
    lines += _section("The fifty rows where JAX's error is larger by most",
                      [f"| {_cells(row)} |" for row in better[:50]], "| case · dtype | funcgrad | JAX |\n|---|---|---|")
    lines += _section("Rows without a truth",
                      [f"| {_escaped(row.name)} | {row.untrue} |" for row in rows if row.untrue],
                      "| case · dtype | why |\n|---|---|")
    lines += _section("All rows: funcgrad / JAX", list(_all(rows)),
                      f"| case | {' | '.join((*DTYPES, 'float64'))} |\n|---|---|---|---|---|")
    return "\n".join(lines) + "\n"


def _summary(rows: Sequence[Row]) -> list[str]:
    lines = ["| dtype | rows | smaller | equal | larger | share not larger | without the margin | JAX has no answer |",
             "|---|---|---|---|---|---|---|---|"]
    for dtype in (*DTYPES, "float64", "all"):
        mine = [row for row in rows if dtype in (row.dtype, "all") and not row.untrue]
        compared = [row for row in mine if row.compared]
        count = {word: sum(row.verdict == word for row in compared) for word in ("smaller", "equal", "larger")}
        strict = sum(row.ours <= (row.theirs or 0) for row in compared) / max(1, len(compared))
        lines.append(f"| {dtype} | {len(compared)} | {count['smaller']} | {count['equal']} | {count['larger']} | "
                     f"{share(mine):.2%} | {strict:.2%} | {len(mine) - len(compared)} |")
    return lines


def _section(title: str, lines: list[str], header: str) -> list[str]:
    return ["", f"## {title}", "", *([header, *lines] if lines else ["None."])]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _number(error: float | None) -> str:
    if error is None:
        return "-"
    return f"{error:.2f}" if error < 1000 else f"{error:.1e}" if error < WRONG else "wrong"


def _cells(row: Row) -> str:
    return f"{_escaped(row.name)} | {_number(row.ours)} | {_number(row.theirs)}"


def _all(rows: Sequence[Row]) -> Iterable[str]:
    by_case: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, {})[row.dtype] = row
    for case, mine in by_case.items():
        cells = [f"{_number(mine[d].ours)} / {_number(mine[d].theirs)}" if d in mine and not mine[d].untrue else ""
                 for d in (*DTYPES, "float64")]
        yield f"| {_escaped(case)} | {' | '.join(cells)} |"


def share(rows: Sequence[Row]) -> float:
    """The share of compared rows where funcgrad's error is not larger."""
    compared = [row for row in rows if row.compared]
    return sum(row.verdict != "larger" for row in compared) / max(1, len(compared))


def larger(rows: Sequence[Row]) -> list[Row]:
    """The rows where funcgrad's error is larger, the worst first."""
    worse = [row for row in rows if row.compared and row.verdict == "larger"]
    return sorted(worse, key=lambda row: (row.theirs or 0) - row.ours)


def main() -> None:
    """Measure, write the page, say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="measure the cases with this text in their names; write no page")
    parser.add_argument("--workers", type=int, default=2, help="measure in this many processes")
    options = parser.parse_args()
    rows = measure_all([case.name for case in CASES if options.only in case.name], options.workers)
    if options.only:
        for row in rows:
            print(f"{row.name:60} {row.untrue or f'{_number(row.ours)} / {_number(row.theirs)}'}")
        return
    PAGE.write_text(page(rows), encoding="utf-8")
    unexplained = [row for row in larger(rows) if not reason(row)]
    for row in unexplained:
        print(f"{row.name}: {_number(row.ours)}, JAX {_number(row.theirs)}: say why in REASONS", file=sys.stderr)
    print(f"{share(rows):.2%} of {sum(row.compared for row in rows)} rows are as good as JAX's")
    raise SystemExit(bool(unexplained) or share(rows) < WANTED)


if __name__ == "__main__":
    main()
