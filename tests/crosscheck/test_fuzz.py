"""The fuzzer: differences are seen, told from rounding, explained or not, noted once, and runs can be interrupted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import funcgrad
from funcgrad.crosscheck.fuzz import Found, Notes, campaign, explained, fuzz, main
from funcgrad.crosscheck.fuzz.compare import Difference, cancels, compare
from funcgrad.crosscheck.fuzz.explained import explanation
from funcgrad.crosscheck.programs import Function, Program, Statement, Value, Variable


def one(template: str, values: list[float], dtype: str = "float32", shape: tuple[int, ...] | None = None) -> Program:
    """A program of one statement."""
    x = Variable(0, dtype, (len(values),))
    out = np.shape(jax.eval_shape(lambda v: eval(template.format("v"), {"jnp": jax.numpy, "jax": jax, "v": v}),
                                  jax.ShapeDtypeStruct((len(values),), dtype)))
    y = Variable(1, dtype, shape if shape is not None else out)
    ct = tuple(1.0 + 0.5 * i for i in range(int(np.prod(y.shape))))
    return Program(Function((x,), (Statement("one", template, (x,), (y,)),), (y,)),
                   (Value(dtype, (len(values),), tuple(values)),), (Value(dtype, y.shape, ct),))


def scaled(factor: float) -> Any:
    """A vjp that is wrong by a factor."""

    def vjp(fun: Any, *args: Any) -> Any:
        out, pull = funcgrad.vjp(fun, *args)
        return out, lambda ct: jax.tree.map(lambda leaf: leaf * leaf.dtype.type(factor), pull(ct))

    return vjp


@pytest.mark.parametrize("mode", ["eager", "jit", "order 2"])
def test_right_gradients_agree_and_wrong_ones_do_not(mode: str) -> None:
    program = one("jnp.sin({0}) * {0}", [0.3, -1.0, 2.0])
    assert compare(program, mode) is None
    found = compare(program, mode, ours=scaled(1.001))
    assert found is not None and found.kind == "values" and "v0[0]" in found.where


def test_refusals_are_differences() -> None:
    def refuses(fun: Any, *args: Any) -> Any:
        raise NotImplementedError("no")

    found = compare(one("jnp.sin({0})", [1.0]), ours=refuses)
    assert found is not None and found.kind == "funcgrad raises" and "no" in found.ours


def test_rounding_where_terms_cancel_is_told_from_a_fault() -> None:
    tail = one("jnp.tanh({0})", [8.0])  # 1 - tanh(8)**2 in float32: JAX has no digit of it
    found = compare(tail)
    assert found is not None and found.kind == "values" and cancels(tail, "eager")
    inner = one("jnp.sin({0})", [1.0])
    assert compare(inner, ours=scaled(1.001)) is not None  # and no rounding moves a sine by a thousandth


def test_zero_to_the_power_zero_is_explained() -> None:
    program = one("{0} ** {0}", [0.0, 1.0])
    found = compare(program)
    assert found is not None and found.kind == "nonfinite"
    entry = explanation(program, found)
    assert entry is not None and entry.name == "0 to the power 0"
    wrong = dataclasses.replace(found, kind="values")
    assert explanation(program, wrong) is None and explanation(one("jnp.sin({0})", [0.0]), wrong) is None


def test_an_infinite_cotangent_of_a_maximum() -> None:
    x, top, root = Variable(0, "float32", (3,)), Variable(1, "float32", ()), Variable(2, "float32", ())
    far = Statement("far", "jnp.sqrt({0} - 3)", (top,), (root,))
    program = Program(Function((x,), (Statement("max", "jnp.max({0})", (x,), (top,)), far), (root,)),
                      (Value("float32", (3,), (1.0, 3.0, 2.0)),), (Value("float32", (), (1.0,)),))
    found = compare(program)
    assert found is not None and found.ours == 0 and np.isnan(found.theirs)
    assert explanation(program, found).name == "an infinite cotangent of an extremum"
    assert explanation(program, dataclasses.replace(found, ours=1.0)) is None


def chunk(start: int, *found: Found) -> dict[str, Any]:
    unexplained = sum(not entry.explained for entry in found)
    counts = {"matched": 25 - len(found)} | ({"unexplained": unexplained} if unexplained else {})
    return {"start": start, "stop": start + 25, "counts": counts,
            "found": [json.loads(json.dumps(vars(entry))) for entry in found]}


FAULT = Found("eager: sin: values", "", "values", "differs", 3, "eager", "print('fault')\n")


def test_findings_are_written_once_and_notes_are_read_again(tmp_path: Path) -> None:
    notes = Notes(tmp_path, 0)
    notes.add(chunk(0, FAULT))
    notes.add(chunk(25, FAULT))
    assert [path.name for path in tmp_path.glob("*.py")] == ["unexplained-3.py"]
    again = Notes(tmp_path, 0).summary(50)
    assert again.done == 50 and again.counts == {"matched": 48, "unexplained": 2}
    assert again.unexplained == (FAULT,) and "UNEXPLAINED eager: sin" in str(again)
    assert Notes(tmp_path, 1).summary(50).done == 0


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def results(seed: int, todo: list[tuple[int, int]], jobs: int, cache: str) -> Iterator[dict[str, Any]]:
        for start, stop in todo:
            if len(asked) == 2:
                asked.append((-1, -1))
                raise KeyboardInterrupt
            asked.append((start, stop))
            yield chunk(start)

    monkeypatch.setattr(campaign, "_results", results)
    assert fuzz(100, out=tmp_path).done == 50
    assert fuzz(100, out=tmp_path).done == 100
    assert asked == [(0, 25), (25, 50), (-1, -1), (50, 75), (75, 100)]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(campaign, "_results", lambda seed, todo, jobs, cache: iter([chunk(0, FAULT)]))
    assert main(25, out=str(tmp_path)) == 1
    assert "UNEXPLAINED" in capsys.readouterr().out
    monkeypatch.setattr(campaign, "_results", lambda seed, todo, jobs, cache: iter([chunk(0)]))
    assert main(25, out=str(tmp_path / "other")) == 0


def test_a_nan_that_only_compiled_programs_have(monkeypatch: pytest.MonkeyPatch) -> None:
    program = one("jnp.sin({0})", [1.0])
    nan = Difference("nonfinite", "cotangent of v0[0]", 0.5, float("nan"))
    assert explanation(program, nan).name == "no element equals a maximum that is compiled"
    assert explanation(program, dataclasses.replace(nan, ours=float("inf"))) is None
    monkeypatch.setattr(explained, "compare", lambda program: nan)  # NaN one by one, too
    assert explanation(program, nan) is None


@pytest.mark.slow
def test_random_programs_have_no_unexplained_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "CHUNK", 10)  # more chunks than are in work at a time: none may be lost
    summary = fuzz(50, seed=20, out=tmp_path)
    assert summary.done == 50 and not summary.unexplained, str(summary)
