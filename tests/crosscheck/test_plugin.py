"""``pytest --funcgrad=check``: which tests fail, what is said, and that nothing happens unasked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import funcgrad.crosscheck.plugin  # noqa: F401  an inner run forgets what it imported, and JAX bears no second import

pytest_plugins = ["pytester"]

RULES = """
    import jax
    import jax.numpy as jnp
    import pytest

    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, ct: (2 * x**2 * ct,))
"""
TESTS = RULES + """
    def test_right():
        jax.grad(jnp.sin)(1.0)

    def test_wrong():
        assert jax.grad(lambda x: jnp.sin(cube(x)))(1.0) < 2

    def test_wrong_again():
        assert jax.jit(jax.grad(lambda x: jnp.sin(cube(x))))(1.0) < 2

    @pytest.mark.funcgrad_exempt("on purpose")
    def test_exempt():
        jax.grad(lambda x: jnp.sin(cube(x)))(1.0)

    def test_no_gradient():
        assert cube(2.0) == 8.0
"""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """The inner run, in this process."""
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


def test_the_test_that_took_a_wrong_gradient_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = run(pytester, "--funcgrad=check", "--funcgrad-report=found.json")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines([
        "*test_wrong*", "*wrong: `cube` at *the_test_that_took*.py:*", "*truth: *1.62*",
        "*funcgrad: check*", "3 gradients taken, 1 matched, 0 convention, 2 wrong, 0 unsupported, * s added",
        "*exempt: *test_exempt: on purpose", "FAILED *test_wrong *", "FAILED *test_wrong_again *"])
    found = json.loads((pytester.path / "found.json").read_text())
    assert found["figures"]["wrong"] == 2
    assert {row["name"] for row in found["rows"]} >= {"cube"}


def test_nothing_happens_unasked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = run(pytester)
    result.assert_outcomes(passed=5)
    result.stdout.no_fnmatch_line("*funcgrad: *")


def test_without_being_asked_it_imports_nothing() -> None:
    program = "import _funcgrad_pytest, sys; sys.exit('jax' in sys.modules or 'funcgrad' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_ini_file_chooses_and_the_command_line_overrides(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nfuncgrad = check\nfuncgrad_trusted =\n    other\n    *:cube\n")
    pytester.makepyfile(TESTS)
    trusted = run(pytester)
    trusted.assert_outcomes(passed=5)
    trusted.stdout.fnmatch_lines(["3 gradients taken, 3 matched, *"])
    run(pytester, "--funcgrad=off").stdout.no_fnmatch_line("*funcgrad: *")
    swapped = run(pytester, "--funcgrad=swap")
    swapped.assert_outcomes(passed=5)
    swapped.stdout.fnmatch_lines(["*funcgrad: swap*", "3 gradients taken, *"])


def test_gradients_of_fixtures_count_with_their_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(RULES + """
    @pytest.fixture
    def slope():
        return jax.grad(cube)(1.0)

    def test_slope(slope):
        assert slope == 2.0
    """)
    run(pytester, "--funcgrad=check").assert_outcomes(errors=1)


def test_a_wrong_gradient_during_import_fails_the_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(RULES + """
    SLOPE = jax.grad(cube)(1.0)

    def test_slope():
        assert SLOPE == 2.0
    """)
    result = run(pytester, "--funcgrad=check")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*1 gradients taken, 0 matched, 0 convention, 1 wrong*"])


def test_a_test_that_fails_anyway_shows_the_report_beside_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(RULES + """
    def test_slope():
        assert jax.grad(cube)(1.0) == 3.0
    """)
    result = run(pytester, "--funcgrad=check")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert*==*3.0*", "*Captured funcgrad call*", "*wrong: `cube`*"])


#: In this process, and with workers.
RUNS = [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)]


def run_with(pytester: pytest.Pytester, options: tuple[str, ...], *more: str) -> pytest.RunResult:
    """The inner run with further options; workers need processes of their own."""
    if not options:
        return run(pytester, "--funcgrad=check", *more)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--funcgrad=check", *options, *more)


@pytest.mark.parametrize("options", RUNS)
def test_an_exemption_needs_a_reason(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    markers = ("funcgrad_exempt", "funcgrad_exempt()", "funcgrad_exempt('')", "funcgrad_exempt(3)",
               "funcgrad_exempt(reason=None)")
    tests = "\n".join(f"@pytest.mark.{marker}\ndef test_{i}(): pass" for i, marker in enumerate(markers))
    pytester.makepyfile(f"import pytest\n{tests}\ndef test_other(): pass")
    result = run_with(pytester, options)
    result.assert_outcomes(passed=1, errors=len(markers))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    told = "the marker funcgrad_exempt needs a reason in words, got funcgrad_exempt"
    assert sorted(line for line in result.stdout.lines if line.startswith(told)) == [
        f"{told}{given}." for given in ("('')", "()", "()", "(3)", "(reason=None)")]
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize("options", RUNS)
def test_each_exemption_is_told_once(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.funcgrad_exempt('why')\ndef test_it(): pass\n"
                        "@pytest.mark.funcgrad_exempt(reason='not')\ndef test_other(): pass\n")
    told = run_with(pytester, options).stdout.lines
    assert [sum(f"exempt: test_each_exemption_is_told_once.py::{name}" in line for line in told)
            for name in ("test_it: why", "test_other: not")] == [1, 1]


# ---- the file with the report ----


@pytest.mark.parametrize("options", RUNS)
@pytest.mark.parametrize("target, words", [
    ("missing/found.json", "there is no folder missing"), (".", "this is a folder"), ("", "this is a folder"),
    ("a_file/found.json", "there is no folder a_file")])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(pytester: pytest.Pytester, target: str,
                                                                   words: str, options: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.path.joinpath("a_file").touch()
    result = run_with(pytester, options, f"--funcgrad-report={target}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --funcgrad-report={target}: *{words}*", "To fix: *"])
    result.stdout.no_fnmatch_line("*passed*")


def test_a_folder_that_is_locked_is_refused_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    pytester.makepyfile("def test_it(): pass")
    monkeypatch.setattr(Path, "touch", denied)  # root may write everywhere
    result = run(pytester, "--funcgrad=check", "--funcgrad-report=found.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --funcgrad-report=found.json: *Permission denied*", "To fix: *"])


def test_a_report_is_there_whole_or_not_at_all(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("def test_it(): pass")
    target = pytester.path / "found.json"
    target.write_text("of the last run")

    def full(path: Path, text: str, **kwargs: Any) -> None:
        with path.open("w") as file:
            file.write(text[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        result = run(pytester, "--funcgrad=check", "--funcgrad-report=found.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR: --funcgrad-report=found.json could not be written: *No space left*"])
    assert target.read_text() == "of the last run"
    assert run(pytester, "--funcgrad=check", "--funcgrad-report=found.json").ret == 0
    assert json.loads(target.read_text())["figures"]["taken"] == 0
    assert [path.name for path in pytester.path.glob("*found*")] == ["found.json"]


def test_a_report_may_go_to_a_device_and_through_a_link(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    assert run(pytester, "--funcgrad=check", "--funcgrad-report=/dev/null").ret == 0
    assert Path("/dev/null").is_char_device()
    pytester.mkdir("elsewhere")
    link = pytester.path / "link.json"
    link.symlink_to(pytester.path / "elsewhere" / "found.json")
    assert run(pytester, "--funcgrad=check", "--funcgrad-report=link.json").ret == 0
    assert link.is_symlink() and json.loads(link.read_text())["rows"] == []


def test_the_marker_is_known_when_it_is_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.funcgrad_exempt('why')\ndef test_it(): pass\n")
    run(pytester, "--strict-markers").assert_outcomes(passed=1)


@pytest.mark.parametrize("ini, options", [("funcgrad = both", ()), ("", ("--funcgrad=both",))])
def test_an_unknown_mode_is_a_usage_error(pytester: pytest.Pytester, ini: str, options: tuple[str, ...]) -> None:
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile("def test_it(): pass")
    assert run(pytester, *options).ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.slow
def test_xdist_workers_are_summed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--funcgrad=check", "-n", "2")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["3 gradients taken, 1 matched, 0 convention, 2 wrong, 0 unsupported, * s added"])
