"""The command line: ``python -m funcgrad COMMAND``.

Examples:

    python -m funcgrad run --check train.py --epochs 3      every gradient of a script, compared
    python -m funcgrad check model:loss --arg 'float32[3,4]' --arg 'float32[4]>0'
    python -m funcgrad check mylib:my_custom_vjp --rule --arg 'float32[5]'
    python -m funcgrad seeds                                gradients that are known to be wrong
    python -m funcgrad fuzz --examples 2000 --seed 7 --out runs/fuzz

Exit codes: 0 all is well, 1 wrong gradients were found, 2 the command could not be carried out;
`run` hands on the script's own.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _compat
from funcgrad.crosscheck.battery import check_rule
from funcgrad.crosscheck.check import check as judge
from funcgrad.crosscheck.report import Report, Verdict
from funcgrad.crosscheck.substitute import Record, substitute

GOOD, WRONG, USAGE = 0, 1, 2
LOG_WIDTH = 160
COMMANDS = ("run", "check", "seeds", "fuzz")


class UsageError(Exception):
    """The command cannot be carried out as it was given; one line says why."""


# ---- options: the docstrings are the help texts ----


@dataclasses.dataclass(frozen=True)
class Run:
    """Run anybody's script unchanged, every gradient in it checked or taken by funcgrad.

    Examples:

        python -m funcgrad run --check train.py --epochs 3

        python -m funcgrad run --swap -m package.train --epochs 3

    What stands after the script belongs to the script. The exit code is the script's own unless that is 0.
    """

    check: bool = False
    """Take each gradient with jax and with funcgrad, and compare (the default)."""
    swap: bool = False
    """Take each gradient with funcgrad alone."""
    report: Path | None = None
    """Write figures and findings to this file, as JSON."""
    trusted: tuple[str, ...] = ()
    """Custom rules that differ from their primal body on purpose: a pattern of the function's name or of
    path/of/file.py:name. Write --trusted=PATTERN, once."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Check the gradient of one function at random arguments, operation by operation.

    Examples:

        python -m funcgrad check model:loss --arg 'float32[3,4]' --arg 'float32[4]>0' --arg 0.5

        python -m funcgrad check mylib:my_custom_vjp --rule --arg 'float32[5]'

    An argument is dtype[shape] for random numbers, dtype[shape]>0 for positive ones, key for a random key, or a Python
    literal.
    """

    function: str
    """What to check, as module:function."""
    arg: tuple[str, ...] = ()
    """An argument; give --arg once for each."""
    rule: bool = False
    """Put one custom rule through its battery, instead of checking the function at these arguments only."""
    order: int = 1
    """2: derivatives of derivatives too."""
    seed: int = 0
    """Of the random arguments."""
    as_json: bool = False
    """Print JSON instead of a table."""


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Run the corpus of gradients that are, or were, wrong in JAX.

    Example: python -m funcgrad seeds
    """


@dataclasses.dataclass(frozen=True)
class Fuzz:
    """Compare the gradients of random programs; a run that was stopped goes on.

    Example: python -m funcgrad fuzz --examples 2000 --seed 7 --jobs 2 --out runs/fuzz
    """

    examples: int = 1000
    """How many programs."""
    seed: int = 0
    """Of the programs."""
    jobs: int = 1
    """Processes."""
    out: str = "runs/fuzz"
    """Folder for what was found."""


# ---- run ----


def run(options: Run, rest: Sequence[str]) -> int:
    """Run a script or a module as if Python had been called with it."""
    if options.check and options.swap:
        raise UsageError("--check and --swap exclude each other")
    _require_runnable(list(rest))
    if options.report is not None:
        _write_report(options.report, "")  # a long run should not end with a file that cannot be written
    with substitute("swap" if options.swap else "check", options.trusted) as record:
        try:
            code = _run_script(list(rest))
        finally:
            # Also when the script raises: what was found until then may be why.
            record.settle()
            _tell(record)
            if options.report is not None:
                found = {"figures": dataclasses.asdict(record.figures), "report": record.report.to_dict()}
                _write_report(options.report, json.dumps(found, indent=1))
    return code or (WRONG if record.figures.wrong else GOOD)


def _require_runnable(rest: list[str]) -> None:
    """Raise UsageError unless there is such a script or module."""
    as_module = rest[:1] == ["-m"]
    rest = rest[as_module:]
    if not rest:
        raise UsageError("no script is given: python -m funcgrad run --check SCRIPT.py ARGS...")
    if not as_module and not Path(rest[0]).is_file():
        raise UsageError(f"there is no script {rest[0]!r}")
    if as_module:
        try:
            found = importlib.util.find_spec(rest[0])
        except ModuleNotFoundError:  # a package on the way to it
            found = None
        if found is None:
            raise UsageError(f"there is no module {rest[0]!r}")


def _write_report(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report {path}: cannot be written: {error.strerror or error}") from error


def _run_script(rest: list[str]) -> int:
    """The script's own exit code."""
    as_module = rest[:1] == ["-m"]
    rest = rest[as_module:]
    before = sys.argv, list(sys.path)
    sys.argv = rest
    try:
        if as_module:
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(rest[0]).resolve().parent)
            runpy.run_path(rest[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or GOOD
    finally:
        sys.argv, sys.path[:] = before
    return GOOD


def _tell(record: Record) -> None:
    """Figures and findings, on stderr: stdout is the script's."""
    print(f"funcgrad {record.mode}: {record.figures}", file=sys.stderr)
    rows = record.report.rows
    wrong = Report("gradients", tuple(row for row in rows if row.verdict is Verdict.WRONG))
    if wrong.rows:
        print(wrong.in_words(), file=sys.stderr)
    for row in rows:
        if row.verdict is Verdict.UNSUPPORTED:
            print(f"  unsupported: {row.reason.splitlines()[0]} ({row.where})", file=sys.stderr)


# ---- check ----


def check(options: Check) -> int:
    """Check one function, and print the report."""
    function = imported(options.function)
    if not options.arg:
        raise UsageError("no arguments are given: --arg 'float32[3,4]', once for each argument")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: must be at least 0")
    wide = any(re.match(r"\w*(64|128)\[", text) for text in options.arg)
    rng = np.random.default_rng(options.seed)
    with jax.enable_x64(wide or jax.dtypes.canonicalize_dtype(np.float64).itemsize == 8):
        args = [argument(text, rng) for text in options.arg]
        try:
            report = check_rule(function, *args) if options.rule else judge(function, *args, order=options.order)
        except (TypeError, ValueError) as error:
            text = " ".join(str(error).split("\nTo fix")[0].split())
            raise UsageError(f"{options.function} cannot be called with these arguments: {text[:300]}") from error
        except Exception as error:
            # Exit code 1 says that a gradient is wrong; nobody knows that here.
            traceback.print_exc()
            raise UsageError(f"{options.function} cannot be checked: {type(error).__name__} (above)") from error
    if options.as_json:
        print(report.to_json())
    else:
        from rich.console import Console

        # A log has no width of its own; 80 columns would cut the table's words.
        Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else LOG_WIDTH).print(report)
    return GOOD if report.ok else WRONG


def imported(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"{name!r} is not of the form module:function")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"cannot import {module!r}: {error}") from error
    except Exception as error:
        traceback.print_exc()
        raise UsageError(f"cannot import {module!r}: {type(error).__name__} (above)") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"there is no {attribute!r} in {module!r}")
        found = getattr(found, part)
    return found


def argument(text: str, rng: np.random.Generator) -> Any:
    """The value of one ``--arg``.

    >>> argument("float32[2,3]", np.random.default_rng(0)).shape, argument("0.5", np.random.default_rng(0))
    ((2, 3), 0.5)
    """
    if text == "key":
        return jax.random.key(int(rng.integers(2**31)))
    match = re.fullmatch(r"(\w+)\[([\d,\s]*)\](>0)?", text.strip())
    if match is None:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise UsageError(f"{text!r} is neither dtype[shape] (such as float32[3,4]) nor a Python literal") from None
    name, sizes, positive = match.groups()
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        raise UsageError(f"{name!r} in {text!r} is not a dtype") from None
    shape = tuple(int(size) for size in sizes.split(",") if size.strip())
    if jnp.issubdtype(dtype, jnp.inexact):
        values = rng.standard_normal(shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            return jnp.asarray(values + 1j * rng.standard_normal(shape), dtype)
        return jnp.asarray(np.abs(values) + 0.1 if positive else values, dtype)
    return jnp.asarray(rng.integers(0, 2 if dtype.kind == "b" else 8, shape), dtype)


# ---- seeds and fuzz ----


def seeds(options: Seeds) -> int:
    """The corpus, as a table."""
    del options
    return importlib.import_module("funcgrad.crosscheck.seeds").main()


def fuzz(options: Fuzz) -> int:
    """Random programs."""
    if options.examples < 1 or options.jobs < 1:
        raise UsageError("--examples and --jobs must be at least 1")
    return importlib.import_module("funcgrad.crosscheck.fuzz").main(**dataclasses.asdict(options))


# ---- the command ----


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _compat.hide_frames("<frozen runpy>")
    try:
        return _dispatch(given)
    except UsageError as error:
        print(f"funcgrad: {error}", file=sys.stderr)
        return USAGE


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(__doc__.strip())
        return GOOD if given else USAGE
    command, *given = given
    if command == "run":
        own, rest = _split(given)
        return run(_parsed(Run, command, own), rest)
    if command == "check":
        return check(_parsed(Check, command, given))
    if command == "seeds":
        return seeds(_parsed(Seeds, command, given))
    if command == "fuzz":
        return fuzz(_parsed(Fuzz, command, given))
    raise UsageError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}")


def _split(given: list[str]) -> tuple[list[str], list[str]]:
    """The options of `run`, and from the script on what belongs to the script."""
    position = 0
    while position < len(given) and given[position].startswith("-") and given[position] != "-m":
        position += 2 if given[position] in ("--report", "--trusted") else 1
    return given[:position], given[position:]


def _parsed(kind: type[Any], command: str, given: list[str]) -> Any:
    """The options of a command; what is wrong with them becomes one line."""
    try:
        tyro = importlib.import_module("tyro")
    except ImportError:
        raise UsageError("the command line needs tyro and rich.  To fix: pip install 'funcgrad[cli]'") from None
    said = io.StringIO()
    settings = (tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction, tyro.conf.PositionalRequiredArgs)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"python -m funcgrad {command}", description=inspect.getdoc(kind), args=given,
                            config=settings)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_in_one_line(said.getvalue())} (python -m funcgrad {command} --help)") from None


def _in_one_line(box: str) -> str:
    """What tyro's box says, without its frame, its title and its repetition of the help text."""
    lines = [line.strip("│ \t") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    words = " ".join(line for line in lines if line and not set(line) <= {"─"})
    words = words.split("Argument helptext:")[0].split("For full helptext")[0].strip()
    return words.replace("Missing from", "missing options of") if words.startswith("Missing") else words


if __name__ == "__main__":
    sys.exit(main())
