"""What each tool says of the twelve cases of `experiments.nan_cases`: the operation? the line? the step or the example?

``python -m experiments.nan_cases`` writes the tables into `docs/nonfinite.md`; exits with 1 where funcgrad misses one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox
import jax
from jax import lax
from jax.experimental import checkify

import funcgrad
from experiments.nan_cases import BAD, CASES, WAYS, Case

PAGE = Path(__file__).resolve().parent.parent / "docs" / "nonfinite.md"
BEGIN, END = "<!-- written by python -m experiments.nan_cases -->", "<!-- end -->"

Array = Any


@dataclasses.dataclass(frozen=True)
class Said:
    """What a tool said of one case, run in one way.

    Attributes:
      operation: whether it named the operation in which the trouble begins.
      line: whether it named the user's line.
      place: whether it named the loop's step, or the example in the batch; None where there is but one.
    """

    operation: bool
    line: bool
    place: bool | None

    def __str__(self) -> str:
        letters = ("o" if self.operation else "", "l" if self.line else "", "i" if self.place else "")
        return "".join(letters) or "–"


NOTHING = Said(False, False, None)


def gradient(case: Case, way: str, marked: Callable[[Array], Array] = lambda x: x,
             grad: Callable[..., Any] = jax.grad) -> tuple[Callable[[Array], Array], Any]:
    """The gradient of a case run in one way, as a user would write it, and its argument."""
    def function(x: Array) -> Array:
        return case.function(marked(x))

    if way == "eager":
        return grad(function), case.bad
    if way == "jit":
        return jax.jit(grad(function)), case.bad
    if way == "vmap":
        return jax.vmap(grad(function)), case.examples
    return grad(lambda xs: lax.scan(lambda total, x: (total + function(x), None), 0.0, xs)[0]), case.examples


# ---- the tools ----


def find(case: Case, way: str) -> Said:
    """`funcgrad.find_nonfinite` on the function."""
    function, argument = WAYS[way](case)
    return _of_report(funcgrad.find_nonfinite(function, argument), case, way)


def debug(case: Case, way: str) -> Said:
    """`funcgrad.debug_nonfinite` around the gradient."""
    function, argument = gradient(case, way, grad=funcgrad.grad)
    reports: list[Any] = []
    with contextlib.suppress(StopIteration), funcgrad.debug_nonfinite(reports.append):
        function(argument)
    return _of_report(reports[0], case, way) if reports else NOTHING


def _of_report(report: Any, case: Case, way: str) -> Said:
    place = report.place
    if place is None:
        return NOTHING
    asked = {"scan": "scan step", "vmap": "batch index"}.get(way)
    return Said(place.operation == case.operation, _is_line(place.file, place.line, case),
                None if asked is None else place.steps.get(asked) == BAD)


def debug_nans(case: Case, way: str) -> Said:
    """`jax.debug_nans` around the gradient."""
    function, argument = gradient(case, way)
    try:
        with _quiet(), jax.debug_nans(True):
            jax.block_until_ready(function(argument))
    except FloatingPointError as error:
        return _of_error(error, str(error), case, way)
    return NOTHING


def checked(case: Case, way: str) -> Said:
    """`checkify` with its checks for NaN, on the gradient."""
    function, argument = gradient(case, way)
    error, _ = checkify.checkify(function, errors=checkify.nan_checks)(argument)
    if error.get() is None:
        return NOTHING
    try:
        error.throw()
    except Exception as raised:  # whatever type it has, its text and traceback are what a user sees
        return _of_error(raised, error.get(), case, way)
    raise AssertionError("checkify told of an error and did not raise it")


def backward_nan(case: Case, way: str) -> Said:
    """`equinox.debug.backward_nan` on the argument, where one who knows nothing yet would put it."""
    function, argument = gradient(case, way, lambda x: equinox.debug.backward_nan(x, name="x"))
    told = io.StringIO()
    try:
        with _quiet(told):
            jax.block_until_ready(function(argument))
            jax.effects_barrier()
    except Exception as raised:  # equinox's own under its own jit, XLA's under others
        return _of_error(raised, told.getvalue(), case, way)
    return NOTHING


TOOLS: dict[str, Callable[[Case, str], Said]] = {
    "find_nonfinite": find, "debug_nonfinite": debug, "jax_debug_nans": debug_nans, "checkify": checked,
    "backward_nan": backward_nan,
}  # fmt: skip


def _of_error(error: BaseException, text: str, case: Case, way: str) -> Said:
    """What the message and the traceback of an exception name."""
    frames = [frame for raised in _chain(error) for frame in traceback.extract_tb(raised.__traceback__)]
    named = re.search(rf"\b{case.operation}\b", text.replace("primitive:", "")) is not None
    counted = re.search(rf"\b(step|index|iteration|example|lane)\D{{0,3}}{BAD}\b", text) is not None
    in_text = re.search(rf"{Path(case_file()).name}:{case.line}\b", text) is not None
    return Said(named, in_text or any(_is_line(frame.filename, frame.lineno or 0, case) for frame in frames),
                counted if way in ("scan", "vmap") else None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def case_file() -> str:
    """Where the cases are."""
    return sys.modules[Case.__module__].__file__ or ""


def _is_line(file: str, line: int, case: Case) -> bool:
    return Path(file).name == Path(case_file()).name and line == case.line


@contextlib.contextmanager
def _quiet(told: io.StringIO | None = None) -> Iterator[None]:
    """What tools print goes to `told`."""
    told = told or io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        yield


# ---- the tables ----


def run_all() -> dict[str, dict[str, list[Said]]]:
    """For each tool and way what it says of each case."""
    return {tool: {way: [ask(case, way) for case in CASES] for way in WAYS} for tool, ask in TOOLS.items()}


def tables(said: dict[str, dict[str, list[Said]]]) -> str:
    """The figures, and what each tool says of each case."""
    lines = ["", f"Of {len(CASES)} cases each tool names, run in each way:", "",
             f"| | {' | '.join(f'{way}: operation, line' + _indexed(way) for way in WAYS)} |",
             "|---|" + "---|" * len(WAYS)]
    for tool, by_way in said.items():
        cells = [_counts(way, found) for way, found in by_way.items()]
        lines.append(f"| `{tool}` | {' | '.join(cells)} |")
    lines += ["", "Case by case; `o`: the operation, `l`: the line, `i`: the step or the index, `–`: none of them; "
              f"{', '.join(WAYS)}.", "",
              f"| case | what | {' | '.join(f'`{tool}`' for tool in said)} |", "|---|---|" + "---|" * len(said)]
    for number, case in enumerate(CASES):
        cells = [" ".join(str(by_way[way][number]) for way in WAYS) for by_way in said.values()]
        name = case.issue.split("/")[1]
        lines.append(f"| [{name}]({case.url}) | `{case.operation}` in `{case.function.__name__}`"
                     f"{', hidden in the value' if case.hidden else ''} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _indexed(way: str) -> str:
    return {"scan": ", step", "vmap": ", index"}.get(way, "")


def _counts(way: str, found: list[Said]) -> str:
    figures = [sum(s.operation for s in found), sum(s.line for s in found)]
    return ", ".join(map(str, [*figures, sum(bool(s.place) for s in found)] if _indexed(way) else figures))


def write(text: str) -> None:
    """Put the tables into the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + text + END + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    """Ask all, write the tables, fail where funcgrad misses one."""
    said = run_all()
    text = tables(said)
    print(text)
    write(text)
    ours = [s for tool in ("find_nonfinite", "debug_nonfinite") for found in said[tool].values() for s in found]
    if not all(s.operation and s.line and s.place is not False for s in ours):
        sys.exit("funcgrad missed one")
