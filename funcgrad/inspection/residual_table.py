"""The report of `funcgrad.residuals`: its rows, their sums, and how it prints."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from funcgrad.policies import Budget, Policy

_HEAD = ("value", "operation", "line", "within", "type", "bytes", "fate", "read by")
_ORDER = {"saved": 0, "held": 1, "recomputed": 2}


@dataclasses.dataclass(frozen=True)
class Residual:
    """One value that a backward sweep needs.

    Attributes:
      name: the user's variable where there is one.
      operation: what computed it; "argument" or "constant" when nothing did.
      line: where.
      place: the loops and functions it lies in, with their counts; empty at the top.
      type: dtype and shape, in one iteration.
      bytes: in all iterations.
      fate: "saved", "held" (somebody holds it anyway: an argument, an array from outside) or "recomputed".
      readers: the backward steps, and the operations run again, that read it.
      flops: operations that computing it again takes.
    """

    name: str
    operation: str
    line: str
    place: str
    type: str
    bytes: int
    fate: str
    readers: tuple[str, ...]
    flops: float = 0.0


@dataclasses.dataclass(frozen=True)
class Residuals:
    """What a pullback keeps and computes again.

    Attributes:
      function: the function's name.
      policy: what decided.
      rows: one for each value, see `Residual`.
      temporary_bytes: what XLA allocates for value and pullback in one program, besides arguments and results; None
        when nothing was compiled, or the platform does not tell. It holds the residuals and what is needed for moments.
    """

    function: str
    policy: Policy
    rows: tuple[Residual, ...]
    temporary_bytes: int | None

    def total(self, fate: str) -> int:
        """Bytes of all values of one fate."""
        return sum(row.bytes for row in self.rows if row.fate == fate)

    @property
    def saved_bytes(self) -> int:
        """Bytes that exist only because of the backward sweep."""
        return self.total("saved")

    @property
    def held_bytes(self) -> int:
        """Bytes of arguments and constants that the sweep reads."""
        return self.total("held")

    @property
    def recomputed_bytes(self) -> int:
        """Bytes that were not kept because their values are computed again."""
        return self.total("recomputed")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {"function": self.function, "policy": policy_text(self.policy), "saved_bytes": self.saved_bytes,
                "held_bytes": self.held_bytes, "recomputed_bytes": self.recomputed_bytes,
                "temporary_bytes": self.temporary_bytes, "rows": [dataclasses.asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        cells = [_HEAD, *map(_cells, self.ordered)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
        lines = ["  ".join(cell.rjust(width) if column == 5 else cell.ljust(width)
                           for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                 for row in cells]
        return "\n".join([self.headline, *lines, *self.summary])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(self.headline), title_justify="left", show_edge=False)
        for title in _HEAD:
            table.add_column(title, justify="right" if title == "bytes" else "left", overflow="fold")
        styles = {"saved": "bold", "held": "", "recomputed": "dim"}
        for row in self.ordered:
            table.add_row(*map(escape, _cells(row)), style=styles[row.fate])
        return Group(table, *map(escape, self.summary))

    def print(self) -> None:
        """Print the table: with `rich` on a terminal where it is installed, as plain text elsewhere."""
        if sys.stdout.isatty():
            try:
                import rich
            except ImportError:
                pass
            else:
                rich.print(self)
                return
        print(self)

    @property
    def ordered(self) -> list[Residual]:
        """Saved values first, the largest first."""
        return sorted(self.rows, key=lambda row: (_ORDER[row.fate], -row.bytes))

    @property
    def headline(self) -> str:
        """Function, policy, and the sum."""
        return f"{self.function} under policy {policy_text(self.policy)}: {bytes_text(self.saved_bytes)} saved"

    @property
    def summary(self) -> list[str]:
        """The sums in words."""
        again = sum(row.flops for row in self.rows)
        lines = [f"saved {bytes_text(self.saved_bytes)}, held anyway {bytes_text(self.held_bytes)}, recomputed "
                 f"{bytes_text(self.recomputed_bytes)} with about {again:,.0f} operations"]
        if self.temporary_bytes is not None:
            lines.append(f"XLA allocates {bytes_text(self.temporary_bytes)} besides arguments and results, for value "
                         "and pullback in one program")
        return lines


def policy_text(policy: Policy) -> str:
    """A policy as the user wrote it."""
    if isinstance(policy, Budget):
        return f"budget({policy.bytes:,})"
    return repr(policy) if isinstance(policy, str) else getattr(policy, "__name__", repr(policy))


def bytes_text(number: int) -> str:
    """Bytes with a unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} B"


def _cells(row: Residual) -> tuple[str, ...]:
    readers = row.readers if len(row.readers) <= 3 else (*row.readers[:2], f"{len(row.readers) - 2} more")
    return (row.name, row.operation, row.line, row.place, row.type, f"{row.bytes:,}", row.fate, ", ".join(readers))
