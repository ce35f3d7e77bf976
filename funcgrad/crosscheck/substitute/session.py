"""What a `substitute` block counts and finds.

Two contexts are part of JAX's own cache keys, so a function that was jitted outside a block is traced again inside, and
none that was traced inside is used outside:

    SESSION   the block that is open, for all threads
    SIDE      whose gradient is being taken in this thread: nested gradients belong to the outermost one
"""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import jax
import numpy as np

from funcgrad.crosscheck.report import Report, Row, Verdict
from funcgrad.crosscheck.substitute.rules import Inner, Rule

Mode = Literal["check", "swap"]
MODES = ("check", "swap")

#: Differing gradients of one call that are looked at closely; further ones count as the worst of these.
LOOKED_AT = 2
_GRAVITY = (Verdict.WRONG, Verdict.NONFINITE, Verdict.UNSUPPORTED, Verdict.DEAD, Verdict.CONVENTION, Verdict.MATCH)


class Side(enum.Enum):
    """Whose derivative is being computed."""

    JAX = "jax"
    FUNCGRAD = "funcgrad"


SESSION = jax.make_user_context(None)
SIDE = jax.make_user_context(None)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a block counted. A gradient inside a compiled program counts each time that the program runs.

    Attributes:
      taken: gradients taken, nested ones with their outermost.
      matched, convention, wrong, nonfinite, unsupported: verdicts.
      added_seconds: what the second gradient and the comparisons took in Python; of compiled programs the tracing only.
    """

    taken: int = 0
    matched: int = 0
    convention: int = 0
    wrong: int = 0
    nonfinite: int = 0
    unsupported: int = 0
    added_seconds: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, field.name) + getattr(other, field.name)
                         for field in dataclasses.fields(self)))

    def __str__(self) -> str:
        counts = [f"{self.taken} gradients taken", f"{self.matched} matched", f"{self.convention} convention",
                  f"{self.wrong} wrong"]
        if self.nonfinite:
            counts.append(f"{self.nonfinite} nonfinite")
        return ", ".join([*counts, f"{self.unsupported} unsupported", f"{self.added_seconds:.1f} s added"])


@dataclasses.dataclass(frozen=True)
class Call:
    """Where a gradient was asked for.

    Attributes:
      name: the differentiated function.
      line: the user's line.
      kind: "vjp" or "hessian".
      x64: whether JAX computed in 64 bits there.
    """

    name: str
    line: str
    kind: str = "vjp"
    x64: bool = False

    def row(self, verdict: Verdict, reason: str, **more: Any) -> Row:
        """A row about the whole gradient."""
        return Row(verdict, self.name, line=self.line, reason=reason, **more)


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A gradient that must be looked at: two answers that differ, or a custom rule that nobody has judged yet.

    Attributes:
      call: where.
      function: the differentiated function of `primals`; None when it cannot be run again.
      primals: its arguments, concrete.
      ct: cotangent of its output; None for a Hessian.
      found, wanted: funcgrad's answer and JAX's, flat.
      differs: whether the two differ at first sight.
      rules: the custom rules in it that were not judged yet.
      inner: the gradients taken inside it that call some of these rules.
      trusted: patterns of custom rules that are not judged.
    """

    call: Call
    function: Callable[..., Any] | None
    primals: tuple[Any, ...]
    ct: Any
    found: Sequence[Any]
    wanted: Sequence[Any]
    differs: bool
    rules: tuple[Rule, ...] = ()
    inner: tuple[Inner, ...] = ()
    trusted: tuple[str, ...] = ()

    @property
    def is_zero(self) -> bool:
        """Whether the whole gradient is zero: where it is right, that says next to nothing of the rules in it."""
        return not any(np.any(np.asarray(leaf) != 0) for leaf in self.wanted if leaf.dtype != jax.dtypes.float0)


Judge = Callable[[Suspect], tuple[Verdict, tuple[Row, ...]]]


class Record:
    """The figures and rows of one `substitute` block; thread-safe, since compiled programs report from other threads.

    Attributes:
      mode: "check" or "swap".
    """

    def __init__(self, mode: Mode, judge: Judge, trusted: Sequence[str] = ()) -> None:
        self.mode = mode
        self.trusted = tuple(trusted)
        self._judge = judge
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(("taken", *map(str, Verdict)), 0)
        self._added = 0.0
        self._rows: list[Row] = []
        self._page = 0
        self._waiting: dict[Call, list[Suspect]] = {}
        self._more: dict[Call, int] = {}
        self._kept: dict[tuple[Call, bool, bool], int] = {}
        self._worst: dict[Call, Verdict] = {}
        self._judged_rules: set[Rule] = set()

    # -- what users read --

    @property
    def figures(self) -> Figures:
        """The counts so far; looks first at what still waits to be judged."""
        self.settle()
        with self._lock:
            count = self._counts
            return Figures(count["taken"], count["match"], count["convention"], count["wrong"], count["nonfinite"],
                           count["unsupported"], self._added)

    @property
    def report(self) -> Report:
        """One row for each gradient that did not simply match; looks first at what still waits to be judged."""
        self.settle()
        return Report(f"substitute({self.mode!r})", self.rows)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows found so far."""
        with self._lock:
            return tuple(self._rows)

    def settle(self) -> None:
        """Wait for compiled programs to report, and judge what waits."""
        if not self._counts["taken"]:
            return
        jax.effects_barrier()
        while (waiting := self._take_waiting()) is not None:
            call, suspects, more = waiting
            with self.timed():
                judged = [self._judge(suspect) for suspect in suspects]
            with self._lock:
                for suspect, (verdict, rows) in zip(suspects, judged, strict=True):
                    self._counts[verdict] += 1
                    for row in rows:
                        self.note(row)
                    # a wrong rule is wrong again in every later gradient
                    if verdict is not Verdict.WRONG and not suspect.is_zero:
                        self._judged_rules.update(suspect.rules)
                found = [verdict for verdict, _rows in judged] + [self._worst.get(call, Verdict.MATCH)]
                self._worst[call] = min(found, key=_GRAVITY.index)
                self._counts[self._worst[call]] += more

    def _take_waiting(self) -> tuple[Call, list[Suspect], int] | None:
        """One call's suspects, and how many more there were."""
        with self._lock:
            calls = self._waiting.keys() | self._more.keys()
            call = next(iter(calls), None)
            return None if call is None else (call, self._waiting.pop(call, []), self._more.pop(call, 0))

    # -- what the wrappers write --

    def count(self, verdict: Verdict | None = None) -> None:
        """One gradient taken, with its verdict where it has one already."""
        with self._lock:
            self._counts["taken"] += 1
            if verdict is not None:
                self._counts[verdict] += 1

    def note(self, row: Row) -> None:
        """A row, once on each page."""
        with self._lock:
            if row not in self._rows[self._page:]:
                self._rows.append(row)

    def turn_page(self) -> tuple[Row, ...]:
        """The rows since this was last called. What is wrong again from now on is reported again."""
        self.settle()
        with self._lock:
            rows = tuple(self._rows[self._page:])
            self._page = len(self._rows)
            self._kept.clear()
            self._worst.clear()
            return rows

    def suspect(self, suspect: Suspect) -> None:
        """Keep a gradient for `settle`; of many that differ in one place the first few stand for all."""
        call = suspect.call
        with self._lock:
            self._counts["taken"] += 1
            kind = (call, suspect.differs, suspect.is_zero)
            seen = self._kept.setdefault(kind, 0)
            if seen < (LOOKED_AT if suspect.differs else 1):
                self._kept[kind] = seen + 1
                self._waiting.setdefault(call, []).append(suspect)
            else:
                self._more[call] = self._more.get(call, 0) + 1

    def unjudged(self, rules: Sequence[Rule]) -> tuple[Rule, ...]:
        """Those of these custom rules that are neither trusted nor judged yet."""
        with self._lock:
            return tuple(rule for rule in dict.fromkeys(rules)
                         if rule not in self._judged_rules and not rule.matches(self.trusted))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What happens inside is added time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._added += time.perf_counter() - start


def session() -> Record | None:
    """The open block's record."""
    return SESSION.value


@contextmanager
def opened(record: Record) -> Iterator[None]:
    """`record` counts from now on, in all threads, until the block ends."""
    before = SESSION.get_global()
    SESSION.set_global(record)
    try:
        yield
    finally:
        SESSION.set_global(before)
