"""A snippet is a program: it runs by itself and prints both values."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.crosscheck.judging.blame import Settings, judged_sweep
from funcgrad.crosscheck.judging.snippets import Unwritable, literal, snippet
from funcgrad.crosscheck.problem import node_problem
from funcgrad.crosscheck.recording import record
from funcgrad.pullback import node_cotangents

X = np.array([0.5, -1.5, 2.0, 0.25], np.float32)


@jax.custom_vjp
def cube(x: jax.Array) -> jax.Array:
    return x**3


cube.defvjp(lambda x: (cube(x), x), lambda x, ct: (2 * x**2 * ct,))


def printed(source: str) -> str:
    """What a snippet prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, "snippet", "exec"), {})
    return out.getvalue()


def test_the_snippet_of_a_custom_rule_shows_rule_and_truth() -> None:
    row = funcgrad.check(lambda x: jnp.sum(cube(x)), X).blamed
    assert row is not None and row.snippet
    lines = dict(line.split(":") for line in printed(row.snippet).splitlines())
    assert float(lines["the rule"]) == pytest.approx(np.real(row.ours))
    assert float(lines["autodiff of the primal"]) == pytest.approx(np.real(row.truth), rel=1e-5)
    assert float(lines["expected"]) == pytest.approx(np.real(row.truth))


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "sin": jnp.sin,
    "dot_general": lambda x: lax.dot(x, x),
    "gather": lambda x: x[jnp.array([0, 2])],
    "scatter-add": lambda x: x.at[jnp.array([0, 2])].add(x[:2]),
    "reduce_sum": lambda x: lax.reduce_sum(x, (0,)),
    "convert_element_type": lambda x: x.astype(jnp.bfloat16),
    "cumsum": lambda x: lax.cumsum(x),
    "pad": lambda x: lax.pad(x, np.float32(0), ((1, 1, 0),)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_written_down_and_runs(name: str) -> None:
    recording = record(OPERATIONS[name], [jnp.asarray(X)], name)
    cts = [jnp.ones(out.shape, out.dtype) for out in recording.outputs]
    node = next(node for node in reversed(recording.graph.nodes) if node.primitive.name == name)
    ours = node_cotangents(node, recording.graph.avals, recording.read, cts)
    problem = node_problem(node, recording, cts, ours)
    index = (0,) * problem.ours[0].ndim
    lines = dict(line.split(":") for line in printed(snippet(problem, 0, index, None)).splitlines())
    assert float(lines["jax"]) == pytest.approx(float(lines["funcgrad"])) == pytest.approx(
        float(problem.ours[0][index]))


def test_what_cannot_be_written_down_has_no_snippet() -> None:
    with pytest.raises(Unwritable):
        literal(object())
    large = record(jnp.sin, [jnp.zeros(1000)], "sin")
    rows, _ = judged_sweep(large, [jnp.ones(1000)], Settings())
    assert all(row.snippet == "" for row in rows)
