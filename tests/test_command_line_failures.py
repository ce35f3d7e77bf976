"""``python -m funcgrad`` where something else fails: exit code 1 means a wrong gradient, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from funcgrad.__main__ import USAGE, main

MODULE = """
import jax

@jax.custom_vjp
def cube(x):
    return x**3

cube.defvjp(lambda x: (x**3, x), lambda x, ct: (2 * x**2 * ct,))

def raising(x):
    raise RuntimeError("a fault of the function's own")

def total(x):
    return (x * x).sum()

def slope(x):
    return jax.grad(cube)(x)
"""
SCRIPT = "import command_line_failures as lib\nlib.slope(2.0)\nraise ValueError('a fault of the script')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user works: a script that raises, and modules."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "command_line_failures.py").write_text(MODULE)
    (tmp_path / "unreadable_module.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "command_line_failures", raising=False)
    return tmp_path


@pytest.mark.parametrize("arguments, words", [
    (["run", "-m", "no_such_module"], "there is no module 'no_such_module'"),
    (["run", "-m", "no_such_package.train"], "there is no module 'no_such_package.train'"),
    (["run", "--report", "nowhere/found.json", "train.py"], "--report nowhere/found.json: cannot be written"),
    (["check", "command_line_failures:cube", "--arg", "1.0", "--seed", "-1"], "--seed -1: must be at least 0"),
])
def test_one_line(folder: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == USAGE
    out, err = capsys.readouterr()
    assert err.startswith("funcgrad: ") and words in err and err.count("\n") == 1
    assert out == "", "the script has run before the command was refused"


@pytest.mark.parametrize("function, words", [
    ("command_line_failures:raising", ["a fault of the function's own", "cannot be checked: RuntimeError"]),
    ("unreadable_module:loss", ["SyntaxError", "cannot import 'unreadable_module'"]),
])
def test_a_fault_of_the_users_is_no_wrong_gradient(folder: Path, function: str, words: list[str],
                                                   capsys: pytest.CaptureFixture) -> None:
    assert main(["check", function, "--arg", "1.0"]) == USAGE
    err = capsys.readouterr().err
    assert all(word in err for word in words) and err.splitlines()[-1].startswith("funcgrad: ")


def test_what_was_found_before_a_script_raised(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="a fault of the script"):
        main(["run", "--report", "found.json", "train.py"])
    assert "1 wrong" in capsys.readouterr().err
    assert json.loads((folder / "found.json").read_text())["figures"]["wrong"] == 1


def test_a_log_is_wide_enough_for_the_table(folder: Path, capsys: pytest.CaptureFixture,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    main(["check", "command_line_failures:total", "--arg", "float32[3]"])
    table = capsys.readouterr().out.split("check of")[0]
    assert "operation" in table and "cotangent of operand 0" in table and "…" not in table
