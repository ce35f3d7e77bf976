"""``python -m funcgrad``: what runs, what is printed, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from funcgrad.__main__ import COMMANDS, GOOD, USAGE, WRONG, main

SCRIPT = """
import sys
import jax, jax.numpy as jnp
print("args", sys.argv[1:], "name", __name__, "file", __file__ == sys.argv[0])

@jax.custom_vjp
def cube(x):
    return x**3

factor = 2.0 if "--wrong" in sys.argv else 3.0
cube.defvjp(lambda x: (x**3, x), lambda x, ct: (factor * x**2 * ct,))
step = jax.jit(lambda w: w - 0.1 * jax.grad(lambda w: jnp.sum(cube(w)))(w))
w = jnp.arange(3.0)
for _ in range(3):
    w = step(w)
if "--stop" in sys.argv:
    sys.exit(7)
"""
MODULE = """
import jax, jax.numpy as jnp

def loss(w, x):
    return jnp.mean(jnp.tanh(x @ w) ** 2)

def logs(x):
    return jnp.sum(jnp.log(x))

@jax.custom_vjp
def cube(x):
    return x**3

cube.defvjp(lambda x: (x**3, x), lambda x, ct: (2 * x**2 * ct,))

class Holder:
    loss = staticmethod(loss)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user works: a script, and a module that can be imported."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "command_line_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "command_line_module", raising=False)
    return tmp_path


def test_a_script_runs_unchanged_and_is_checked(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "--check", "train.py", "--epochs", "3"]) == GOOD
    out, err = capsys.readouterr()
    assert "args ['--epochs', '3'] name __main__ file True" in out
    assert "funcgrad check: 3 gradients taken, 3 matched, 0 convention, 0 wrong" in err


def test_a_wrong_gradient_in_a_script(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "--report", "found.json", "train.py", "--wrong"]) == WRONG
    assert "wrong: `cube` at train.py:" in capsys.readouterr().err
    found = json.loads((folder / "found.json").read_text())
    assert found["figures"]["taken"] == 3 and not found["report"]["ok"]
    assert main(["run", "--trusted=cube", "train.py", "--wrong"]) == GOOD


def test_swap_modules_and_exit_codes_of_scripts(folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = list(sys.argv), list(sys.path)
    assert main(["run", "--swap", "-m", "train", "--wrong"]) == GOOD
    assert "funcgrad swap: " in capsys.readouterr().err
    assert main(["run", "train.py", "--stop"]) == 7
    assert (sys.argv, sys.path) == before


@pytest.mark.parametrize("arguments, code", [
    (["command_line_module:loss", "--arg", "float32[3,2]", "--arg", "float32[4,3]"], GOOD),
    (["command_line_module:Holder.loss", "--arg", "float64[3,2]", "--arg", "float64[4,3]"], GOOD),
    (["command_line_module:logs", "--arg", "float32[3]>0"], GOOD),
    (["command_line_module:cube", "--arg", "float32[3]"], WRONG),
    (["command_line_module:cube", "--arg", "0.5"], WRONG),
])
def test_one_function(folder: Path, arguments: list[str], code: int) -> None:
    assert main(["check", *arguments]) == code


def test_json_can_be_read(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", "command_line_module:cube", "--arg", "float32[3]", "--as-json"]) == WRONG
    assert json.loads(capsys.readouterr().out)["rows"][0]["name"] == "cube"


@pytest.mark.slow
def test_the_battery_for_one_rule(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", "command_line_module:cube", "--rule", "--arg", "float32[3]"]) == WRONG
    assert "autodiff of the primal body" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, words", [
    (["frob"], "there is no command 'frob'"),
    (["run"], "no script is given"),
    (["run", "nowhere.py"], "there is no script 'nowhere.py'"),
    (["run", "--check", "--swap", "train.py"], "exclude each other"),
    (["run", "--frob", "train.py"], "--frob"),
    (["check"], "python -m funcgrad check --help"),
    (["check", "command_line_module:loss"], "no arguments are given"),
    (["check", "command_line_module", "--arg", "1.0"], "not of the form module:function"),
    (["check", "not_there:loss", "--arg", "1.0"], "cannot import 'not_there'"),
    (["check", "command_line_module:frob", "--arg", "1.0"], "there is no 'frob'"),
    (["check", "command_line_module:loss", "--arg", "float99[3]"], "'float99' in 'float99[3]' is not a dtype"),
    (["check", "command_line_module:loss", "--arg", "three"], "neither dtype[shape]"),
    (["check", "command_line_module:loss", "--arg", "int32[3]"], "cannot be called with these arguments"),
    (["check", "command_line_module:loss", "--arg", "1.0", "--order", "x"], "x"),
    (["fuzz", "--examples", "0"], "must be at least 1"),
    (["fuzz", "--examples", "many"], "many"),
])
def test_usage_is_one_clear_line(folder: Path, arguments: list[str], words: str,
                                 capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == USAGE
    err = capsys.readouterr().err
    assert err.startswith("funcgrad: ") and words in err
    assert err.count("\n") == 1, err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert not stop.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert "Example" in text and f"python -m funcgrad {command}" in text


def test_help_without_a_command(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == GOOD and main([]) == USAGE
    text = capsys.readouterr().out
    assert all(f"python -m funcgrad {command}" in text for command in COMMANDS)


@pytest.mark.slow
def test_as_a_process(folder: Path) -> None:
    command = [sys.executable, "-m", "funcgrad", "run", "--check", "train.py", "--wrong"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == WRONG and "wrong: `cube`" in done.stderr
