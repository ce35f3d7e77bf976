"""What the cross-checker found: rows, one for each judged quantity, in the order of the backward sweep.

A report is a value: it prints, compares, merges and turns into JSON; nothing in it refers to arrays or traces.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import io
import json
import math
from typing import Any

from funcgrad.errors import WrongGradientError

#: So many failing rows stand in the message of an error.
ROWS_IN_WORDS = 3


class Verdict(enum.StrEnum):
    """What is said of one derivative.

    MATCH: it agrees with every oracle that can judge it.
    CONVENTION: a tie or a kink; both answers lie inside the subdifferential.
    WRONG: it is not the derivative of the function.
    NONFINITE: it is NaN or infinite where the function has a derivative, or where no oracle knows better.
    DEAD: the path is cut; no gradient can ever flow here.
    UNSUPPORTED: no oracle can judge it, or there is no rule.
    """

    MATCH = "match"
    CONVENTION = "convention"
    WRONG = "wrong"
    NONFINITE = "nonfinite"
    DEAD = "dead"
    UNSUPPORTED = "unsupported"


#: Verdicts with which a report is not `ok`.
FAILING = (Verdict.WRONG, Verdict.NONFINITE)
_STYLES = {Verdict.MATCH: "green", Verdict.CONVENTION: "cyan", Verdict.WRONG: "bold red",
           Verdict.NONFINITE: "bold magenta", Verdict.DEAD: "yellow", Verdict.UNSUPPORTED: "dim"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One judged derivative.

    Attributes:
      verdict: what is said of it.
      name: the primitive, or the function that a custom rule belongs to.
      place: where the operation is, from outside in: "scan step 3", "cond branch 1", "jit `loss`", "vmap index 2".
      line: the user's line, ``file.py:12 in `loss```.
      cotangent: which number is meant: "cotangent of operand 1[2, 0]", "cotangent of primals[1]['w'][2, 0]".
      oracle: who says so.
      subject: whose derivative deviates: "jax", "funcgrad" or "both".
      ours, theirs, truth: the three values of the worst element, None where there is none.
      error_ulp: distance from the truth in units in the last place.
      error_rel: relative distance from the truth.
      allowed: the distance that rounding explains.
      operands: short descriptions of what the operation read, with values.
      ct: short description of the cotangent that came in.
      snippet: a Python program that shows the row by itself; empty where there is none.
      reason: one sentence in words.
      elements: how many numbers were judged.

    >>> import funcgrad, jax.numpy as jnp
    >>> row = funcgrad.check(jnp.sin, 0.5).rows[0]
    >>> row.name, row.verdict.value, row.oracle
    ('sin', 'match', 'jax.vjp')
    """

    verdict: Verdict
    name: str
    place: tuple[str, ...] = ()
    line: str = ""
    cotangent: str = ""
    oracle: str = ""
    subject: str = ""
    ours: complex | None = None
    theirs: complex | None = None
    truth: complex | None = None
    error_ulp: float | None = None
    error_rel: float | None = None
    allowed: float | None = None
    operands: tuple[str, ...] = ()
    ct: str = ""
    snippet: str = ""
    reason: str = ""
    elements: int = 1

    @property
    def failing(self) -> bool:
        """Whether this row alone makes a report not `ok`."""
        return self.verdict in FAILING

    @property
    def where(self) -> str:
        """The user's line, then the places around it from inside out."""
        return ", in ".join(part for part in (self.line, *reversed(self.place)) if part)

    def in_words(self) -> str:
        """The row as a few lines of text."""
        head = f"{self.verdict}: `{self.name}`" + (f" at {self.where}" if self.where else "")
        subject = {"both": "jax and funcgrad"}.get(self.subject, self.subject)
        facts = [("what", self.cotangent), ("whose", subject), ("funcgrad", number(self.ours)),
                 ("jax", number(self.theirs)), ("truth", number(self.truth)), ("known by", self.oracle),
                 ("error", self._error()), ("operands", "; ".join(self.operands)), ("incoming", self.ct),
                 ("reason", self.reason)]
        lines = [head] + [f"  {label + ':':10}{text}" for label, text in facts if text]
        if self.snippet:
            lines += ["  to see it alone:", *(f"    {line}".rstrip() for line in self.snippet.splitlines())]
        return "\n".join(lines)

    def _error(self) -> str:
        parts = []
        if self.error_rel is not None:
            parts.append(f"{self.error_rel:.3g} relative")
        if self.error_ulp is not None:
            parts.append(f"{self.error_ulp:.3g} ulp")
        if parts and self.allowed is not None:
            parts.append(f"allowed {self.allowed:.3g} absolute")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON knows it: NaN and infinities are strings, complex numbers pairs."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
      name: the function that was checked.
      rows: judged derivatives, the whole gradient's after those of the operations, these in the order of the backward
        sweep.

    >>> report = Report("loss", (Row(Verdict.MATCH, "sin", line="model.py:3 in `loss`"),))
    >>> report.ok, report.blamed, report.counts
    (True, None, {'match': 1})
    """

    name: str
    rows: tuple[Row, ...] = ()

    @property
    def ok(self) -> bool:
        """True when nothing is wrong or nonfinite."""
        return not self.failing

    @property
    def failing(self) -> tuple[Row, ...]:
        """The rows that are wrong or nonfinite."""
        return tuple(row for row in self.rows if row.failing)

    @property
    def blamed(self) -> Row | None:
        """The first failing row: in the order of the backward sweep nothing before it is wrong."""
        return next(iter(self.failing), None)

    @property
    def counts(self) -> dict[str, int]:
        """How often each verdict was given; verdicts that were not given are left out."""
        found = {verdict: sum(row.verdict is verdict for row in self.rows) for verdict in Verdict}
        return {str(verdict): count for verdict, count in found.items() if count}

    def merge(self, other: Report) -> Report:
        """Both reports as one, under this one's name."""
        return Report(self.name, self.rows + other.rows)

    def raise_if_wrong(self) -> None:
        """Raise WrongGradientError, which is an AssertionError, unless `ok`."""
        if not self.ok:
            raise WrongGradientError(self.in_words())

    def in_words(self) -> str:
        """The summary, and the first failing rows as text."""
        failing = self.failing
        shown = [row.in_words() for row in failing[:ROWS_IN_WORDS]]
        if len(failing) > len(shown):
            shown.append(f"... and {len(failing) - len(shown)} more; print the report to see them.")
        return "\n\n".join([self.summary(), *shown])

    def summary(self) -> str:
        """One line."""
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items()) or "nothing to judge"
        return f"check of `{self.name}`: {'ok' if self.ok else 'NOT ok'} ({counts})"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON knows it."""
        return {"name": self.name, "ok": self.ok, "counts": self.counts, "rows": [row.to_dict() for row in self.rows]}

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Report:
        """The report that `to_json` wrote."""
        found = json.loads(text)
        return Report(found["name"], tuple(_row(fields) for fields in found["rows"]))

    def __str__(self) -> str:
        if importlib.util.find_spec("rich") is None:  # an optional dependency
            lines = [f"  {row.verdict:12}{row.name:24}{row.cotangent:32}{row.where}" for row in self._shown()]
            return "\n".join([*lines, self.in_words()])
        from rich.console import Console

        console = Console(file=io.StringIO(), width=140, color_system=None, highlight=False)
        console.print(self)
        return console.file.getvalue().rstrip()  # type: ignore[attr-defined]

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("verdict", "operation", "what", "funcgrad", "jax", "truth", "known by", "at", box=None,
                      padding=(0, 1), header_style="bold")
        for row in self._shown():
            cells = (row.name, row.cotangent, number(row.ours), number(row.theirs), number(row.truth), row.oracle,
                     row.where)
            table.add_row(Text(str(row.verdict), style=_STYLES[row.verdict]), *map(Text, cells))
        return Group(table, Text(), Text(self.in_words()))

    def _shown(self) -> tuple[Row, ...]:
        """Every row, but of equal ones the first only: a loop's steps agree thousands of times."""
        seen: dict[tuple[Any, ...], Row] = {}
        for row in self.rows:
            seen.setdefault((row.verdict, row.name, row.line, row.cotangent if row.failing else ""), row)
        return tuple(seen.values())


def number(value: complex | None) -> str:
    """A value as a person reads it; empty for None."""
    if value is None:
        return ""
    return f"{value:.7g}"


def _plain(value: Any) -> Any:
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Verdict) else value


def _row(fields: dict[str, Any]) -> Row:
    numbers = ("ours", "theirs", "truth", "error_ulp", "error_rel", "allowed")
    restored: dict[str, Any] = {key: _number(value) if key in numbers else
                                tuple(value) if isinstance(value, list) else value
                                for key, value in fields.items()}
    return Row(**{**restored, "verdict": Verdict(fields["verdict"])})


def _number(value: Any) -> complex | None:
    if isinstance(value, list):
        return complex(*map(float, value))
    return None if value is None else float(value)
