"""The pytest plugin: every gradient that a test suite takes, compared with a second autodiff's.

``pytest --funcgrad=check`` runs a suite in a `substitute` block. A test that takes a wrong gradient fails, with the
report. Registered by `_funcgrad_pytest`, which reads the options.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from funcgrad.crosscheck.report import Report, Row, Verdict
from funcgrad.crosscheck.substitute.block import paused, substitute
from funcgrad.crosscheck.substitute.session import Figures, Mode

#: So many reasons for "unsupported" stand in the summary.
REASONS_SHOWN = 5
MARKER = "funcgrad_exempt"


@dataclasses.dataclass(frozen=True)
class Findings:
    """What one process found."""

    figures: Figures = Figures()
    rows: tuple[Row, ...] = ()
    exempt: tuple[str, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.figures + other.figures, self.rows + other.rows, self.exempt + other.exempt)

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it: between xdist's processes, and for ``--funcgrad-report``."""
        report = Report("pytest", self.rows).to_dict()
        return {"figures": dataclasses.asdict(self.figures), "rows": report["rows"], "exempt": list(self.exempt)}

    @staticmethod
    def from_dict(found: dict[str, Any]) -> Findings:
        """What `to_dict` gave."""
        report = Report.from_json(json.dumps({"name": "pytest", "rows": found["rows"]}))
        return Findings(Figures(**found["figures"]), report.rows, tuple(found["exempt"]))


def start(config: pytest.Config, mode: Mode) -> None:
    """Substitute from now on; with xdist in the workers, whose findings the controlling process gathers.

    Raises:
      pytest.UsageError: when the report could not be written where it is wanted.
    """
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        check_target(config.getoption("--funcgrad-report"))
    summary = Summary(config, mode)
    config.pluginmanager.register(summary, "funcgrad summary")
    controls_others = not is_worker and getattr(config.option, "dist", "no") != "no"
    if not controls_others:
        tests = Tests(config, mode, summary)
        config.pluginmanager.register(tests, "funcgrad tests")
        config.add_cleanup(tests.close)


class Tests:
    """Substitutes for as long as the session lasts, and fails the tests that take wrong gradients."""

    __test__ = False

    def __init__(self, config: pytest.Config, mode: Mode, summary: Summary) -> None:
        self.summary = summary
        self.exempt: list[str] = []
        self.block = contextlib.ExitStack()
        self.record = self.block.enter_context(substitute(mode, tuple(config.getini("funcgrad_trusted"))))

    def close(self) -> None:
        """JAX has its functions back."""
        self.block.close()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self) -> None:
        """What was wrong while modules were imported is no test's fault."""
        self.record.turn_page()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """The gradients of fixtures; an exemption needs a reason.

        It is asked for here and not where tests are collected: each worker of xdist collects all of them, and an error
        there is an internal one.
        """
        marker = item.get_closest_marker(MARKER)
        if marker is not None:
            self.exempt.append(f"{item.nodeid}: {_reason(marker)}")
        return (yield from self._watched(item, "setup"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """The gradients of the test."""
        return (yield from self._watched(item, "call"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        """The gradients of finalizers."""
        return (yield from self._watched(item, "teardown"))

    def _watched(self, item: pytest.Item, phase: str) -> Generator[None]:
        exempt = item.get_closest_marker(MARKER) is not None
        try:
            with paused() if exempt else contextlib.nullcontext():
                result = yield
        except BaseException:
            rows = _wrong(self.record.turn_page())
            if rows:
                item.add_report_section(phase, "funcgrad", Report(item.name, rows).in_words())
            raise
        rows = _wrong(self.record.turn_page())
        if rows:
            pytest.fail(Report(item.name, rows).in_words(), pytrace=False)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand over what was found."""
        figures = self.record.figures
        self.summary.add(Findings(figures, self.record.rows, tuple(self.exempt)))
        if figures.wrong and session.exitstatus == pytest.ExitCode.OK:  # in an import, or between tests
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _reason(marker: pytest.Mark) -> str:
    reason = marker.kwargs.get("reason", marker.args[0] if marker.args else "")
    if not isinstance(reason, str) or not reason.strip():
        given = ", ".join([*map(repr, marker.args), *(f"{key}={value!r}" for key, value in marker.kwargs.items())])
        pytest.fail(f"the marker {MARKER} needs a reason in words, got {MARKER}({given}).\n"
                    f"To fix: @pytest.mark.{MARKER}(\"why its gradients cannot be compared\")", pytrace=False)
    return reason


def _wrong(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.verdict is Verdict.WRONG)


class Summary:
    """Gathers findings, of this process and of xdist's workers, and prints them."""

    def __init__(self, config: pytest.Config, mode: Mode) -> None:
        self.config, self.mode, self.findings = config, mode, Findings()

    def add(self, findings: Findings) -> None:
        """One more process's findings; a worker sends them on."""
        self.findings += findings
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["funcgrad"] = self.findings.to_dict()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """xdist: a worker has ended."""
        sent = getattr(node, "workeroutput", {}).get("funcgrad")
        if sent is not None:
            self.add(Findings.from_dict(sent))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The figures, and why gradients were not compared."""
        found = self.findings
        terminalreporter.section(f"funcgrad: {self.mode}")
        terminalreporter.write_line(str(found.figures))
        for line in _why(found.rows):
            terminalreporter.write_line(f"  unsupported: {line}")
        for line in found.exempt:
            terminalreporter.write_line(f"  exempt: {line}")
        target = self.config.getoption("--funcgrad-report")
        if target is not None:
            try:
                write_whole(Path(target), json.dumps(found.to_dict(), indent=1))
            except OSError as error:  # it could be written when the session began
                terminalreporter.write_line(f"ERROR: --funcgrad-report={target} could not be written: {error}",
                                            red=True)
                session = self.config.pluginmanager.getplugin("session")
                if session is not None and session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _why(rows: tuple[Row, ...]) -> list[str]:
    """The commonest reasons first, one line each."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.verdict is Verdict.UNSUPPORTED:
            reasons.setdefault(row.reason.split("\n")[0], []).append(row.where)
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    lines = [f"{reason} ({places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''})"
             for reason, places in ordered[:REASONS_SHOWN]]
    return lines + ([f"{len(ordered) - REASONS_SHOWN} more reasons"] if len(ordered) > REASONS_SHOWN else [])


# ---- the file ----


def check_target(target: str | None) -> None:
    """Whether a report can be written there, asked before the work and not after it.

    Raises:
      pytest.UsageError: when it cannot.
    """
    if target is None:
        return
    path = Path(target)
    try:
        if not target or path.is_dir():
            raise IsADirectoryError("this is a folder")
        if not path.parent.is_dir():
            raise NotADirectoryError(f"there is no folder {path.parent}")
        if not _is_special(path):  # whether a file may be made is known only by making it
            temporary = _beside(path)
            temporary.touch()
            temporary.unlink()
    except OSError as error:
        raise pytest.UsageError(f"--funcgrad-report={target}: the report cannot be written there: {error}\n"
                                "To fix: name a file in a folder that exists and can be written.") from None


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it: under another name first."""
    if _is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    temporary = _beside(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(os.path.realpath(path))
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A name for the time being, in the folder where the file is; a link stays a link."""
    return Path(os.path.realpath(path)).with_name(f".{path.name}.{os.getpid()}")


def _is_special(path: Path) -> bool:
    """Whether it is there and neither a file nor a folder: /dev/stdout, a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()
