"""Write `docs/conventions.md`: what the derivative is at ties, kinks, edges and outside, JAX's and ours, all computed.

``python -m experiments.conventions`` exits with 1 when a value differs from JAX's and nothing proves ours.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.accuracy import compiled
from experiments.convention_programs import PROGRAMS, PROOFS
from tests.cases.case import Boundary, Case
from tests.harness.compare import Mismatch, same_values
from tests.harness.products import JAX, OURS, Leaves, first_order, inexact, make_problem
from tests.harness.table import CASES, cast, dtypes_of, generator, precision

PAGE = Path(__file__).resolve().parent.parent / "docs" / "conventions.md"
#: Arrays of more numbers than this are shown by their shapes.
SHOWN = 16

HEAD = """# Conventions at ties, kinks and edges

Written by `python -m experiments.conventions` from running programs; do not edit.

Values are the gradient of the sum of what the program returns. **JAX** is `jax.grad` {jax}, op by op; **funcgrad**
is `=` where it gives the same. funcgrad follows JAX wherever JAX's value is a convention (some subgradient, or NaN
where there is no derivative). Where the value of JAX's rule is no derivative at all, funcgrad's is the derivative, and
the proof stands beside it.

Types: a cotangent that the backward function of a `custom_vjp` gives in another floating dtype is converted to its
operand's (JAX leaves it, and fails where it meets a second one); one of integers is a `RuleError` (JAX hands it out).
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One program at one point.

    Attributes:
      subject: the primitive, or the heading of a group of programs.
      name: the case, or the program's text.
      place: what is special there.
      at: the arguments.
      theirs: JAX's cotangents, as text.
      ours: funcgrad's; empty where they equal JAX's.
      proof: why ours is right, where it differs.
    """

    subject: str
    name: str
    place: str
    at: str
    theirs: str
    ours: str
    proof: str


# ---- numbers as text ----


def text(leaf: Any) -> str:
    """An array as a nested list of short numbers, or its type when it is long."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return "key"
    values = np.asarray(leaf)
    if values.size > SHOWN or not values.size:
        return f"{values.dtype}[{','.join(map(str, values.shape))}]"
    return _nested(values.astype(complex) if np.iscomplexobj(values) else values)


def _nested(values: np.ndarray) -> str:
    if values.ndim:
        return f"[{', '.join(map(_nested, values))}]"
    number = values.item()
    if isinstance(number, complex):
        return f"{_short(number.real)}{'' if _short(number.imag).startswith('-') else '+'}{_short(number.imag)}i"
    return _short(number)


def _short(number: Any) -> str:
    return f"{number:.4g}" if isinstance(number, float) else str(number)


def texts(tree: Any) -> str:
    """All arrays of a tree."""
    return "; ".join(map(text, jax.tree.leaves(tree)))


# ---- rows ----


def boundary_row(case: Case, boundary: Boundary) -> Row:
    """The row of one special point of a case, in the first dtype in which ours differs, or else in the first."""
    dtypes = dtypes_of(case) if boundary.why else dtypes_of(case)[:1]
    rows = [_boundary_row(case, boundary, dtype) for dtype in dtypes]
    return next((row for row in rows if row.ours), rows[0])


def _boundary_row(case: Case, boundary: Boundary, dtype: str) -> Row:
    with precision(dtype), np.errstate(all="ignore"):
        args = cast(boundary.args, dtype)
        problem = make_problem(case, args, generator(case, "seeds"), ones=True)
        inputs = problem.active, problem.rest, problem.seeds["ct"]
        found = compiled(problem)(inputs)
        if JAX.name in found and not equal(found[OURS.name], found[JAX.name], dtype, case.scale):
            # XLA may turn 0 * inf into 0 when it sees more than one operation: the rules' own values count.
            found = {ad.name: inexact(first_order(ad, problem, *inputs)[1]) for ad in (OURS, JAX)}
        ours, theirs = found[OURS.name], found.get(JAX.name)
        subject = (case.primitives or (case.name.split("[")[0],))[0]
        place = boundary.label if dtype == "float32" else f"{boundary.label} ({dtype})"
        same = theirs is not None and equal(ours, theirs, dtype, case.scale)
        proof = "" if same else boundary.why or case.note
        return Row(subject, case.name, place, texts(args), "refuses" if theirs is None else texts(theirs),
                   "" if same else texts(ours), proof)


def equal(ours: Leaves, theirs: Leaves, dtype: str, scale: float = 1.0) -> bool:
    """The same numbers up to rounding; NaN equals NaN."""
    try:
        same_values(inexact(ours), inexact(theirs), "", eps=float(jnp.finfo(dtype).eps), scale=scale, nan=True)
    except Mismatch:
        return False
    return True


def program_row(subject: str, source: str, args: Sequence[Any]) -> Row:
    """The row of a program given as text: a function of x (and y) that is summed and differentiated."""
    names = ", ".join(("x", "y")[: len(args)])
    function: Callable[..., Any] = eval(f"lambda {names}: {source}", {"jax": jax, "jnp": jnp, "lax": lax, "np": np})
    case = Case(source, (), lambda *xs: jnp.sum(function(*xs)), lambda rng: tuple(args), dtypes=("float32",))
    row = _boundary_row(case, Boundary("", tuple(args), why=PROOFS.get(source, "")), "float32")
    return dataclasses.replace(row, subject=subject)


def every_row(workers: int = 2) -> tuple[list[Row], list[Row]]:
    """(rows of programs, rows of boundaries)."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        programs = [pool.submit(program_row, subject, source, args) for subject, source, *points in PROGRAMS
                    for args in points]
        boundaries = [pool.submit(boundary_row, case, boundary) for case in CASES for boundary in case.boundary]
        return [job.result() for job in programs], merged([job.result() for job in boundaries])


def merged(rows: Iterable[Row]) -> list[Row]:
    """Rows that differ by their case alone become one; sorted by primitive."""
    groups: dict[Row, list[str]] = {}
    for row in rows:
        groups.setdefault(dataclasses.replace(row, name=""), []).append(row.name)
    found = [dataclasses.replace(row, name=names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
             for row, names in groups.items()]
    return sorted(found, key=lambda row: row.subject)


# ---- the page ----


def page(programs: Sequence[Row], boundaries: Sequence[Row]) -> str:
    """The whole page."""
    lines = [HEAD.format(jax=jax.__version__), "## Programs", ""]
    for subject in dict.fromkeys(row.subject for row in programs):
        lines += [f"### {subject}", "", "| program | at | JAX | funcgrad |", "|---|---|---|---|"]
        lines += [f"| {_code(row.name)} | {row.at} | {row.theirs} | {row.ours or '='} |"
                  for row in programs if row.subject == subject] + [""]
    lines += ["## Differences from JAX, with their proofs", "",
              "| where | at | JAX | funcgrad | proof |", "|---|---|---|---|---|"]
    lines += [f"| {_code(row.name)} {_cell(row.place)} | {row.at} | {row.theirs} | {row.ours} | {_cell(row.proof)} |"
              for row in (*programs, *boundaries) if row.ours]
    lines += ["", "Whole operations of which JAX is no oracle, at every point:", "", "| operation | what JAX does |",
              "|---|---|"]
    lines += [f"| {_code(', '.join(names))} | {_cell(note)} |" for note, names in _notes().items()]
    lines += ["", "## Every boundary of the case table", "", "| primitive | case | where | at | JAX | funcgrad |",
              "|---|---|---|---|---|---|"]
    lines += [f"| {_code(row.subject)} | {_code(row.name)} | {_cell(row.place)} | {row.at} | {row.theirs} | "
              f"{row.ours or '='} |" for row in boundaries]
    return "\n".join(lines) + "\n"


def _notes() -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for case in CASES:
        if not case.jax_agrees:
            notes.setdefault(case.note, []).append(case.name)
    return notes


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")


def _code(words: str) -> str:
    return f"`{_cell(words)}`"


def unproved(rows: Iterable[Row]) -> list[Row]:
    """Rows that differ from JAX without a proof."""
    return [row for row in rows if row.ours and not row.proof]


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="compile in this many threads")
    programs, boundaries = every_row(parser.parse_args().workers)
    PAGE.write_text(page(programs, boundaries), encoding="utf-8")
    for row in unproved((*programs, *boundaries)):
        print(f"{row.name} {row.place} at {row.at}: JAX {row.theirs}, ours {row.ours}: no proof", file=sys.stderr)
    raise SystemExit(bool(unproved((*programs, *boundaries))))


if __name__ == "__main__":
    main()
