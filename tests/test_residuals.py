"""The report of residuals: it tells what the pullback holds, by the user's names, and adds up."""

from __future__ import annotations

import doctest
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from rich.console import Console

import funcgrad

PAGE = Path(__file__).resolve().parent.parent / "docs" / "residuals.md"


def looped(w, xs):
    def body(carry, row):
        hidden = jnp.tanh(carry @ w + row)
        gate = jax.nn.sigmoid(hidden)
        return hidden * gate, jnp.sum(gate)

    last, sums = lax.scan(body, xs[0], xs)
    scores = jnp.exp(last @ w)
    return jnp.sum(scores / (1 + jnp.sum(scores))) + jnp.sum(sums)


ARGS = (jnp.eye(16) * 0.3, jnp.ones((100, 4, 16)))


@pytest.mark.parametrize("policy", ["auto", "everything", "minimal", funcgrad.budget(9_000),
                                    jax.checkpoint_policies.dots_saveable])
def test_the_rows_add_up_to_what_the_pullback_holds(policy) -> None:
    """Saved and held values of the report are the leaves of the pullback, to the byte."""
    report = funcgrad.residuals(looped, policy=policy, compiled=False)(*ARGS)
    pullback = jax.eval_shape(lambda *args: funcgrad.vjp(looped, *args, policy=policy)[1], *ARGS)
    leaves = sorted(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback))
    saved = sorted(row.bytes for row in report.rows if row.fate == "saved")
    for size in saved:
        leaves.remove(size)
    held = {row.bytes for row in report.rows if row.fate == "held"}
    assert set(leaves) <= {ARGS[0].nbytes, ARGS[1].nbytes} and held <= set(leaves), "the arguments themselves"
    assert report.saved_bytes == sum(saved)


def test_values_have_the_users_names_and_lines() -> None:
    report = funcgrad.residuals(looped, compiled=False)(*ARGS)
    by_name = {row.name: row for row in report.rows}
    hidden, scores = by_name["hidden"], by_name["scores"]
    assert (hidden.operation, hidden.fate, hidden.place) == ("tanh", "recomputed", "body ×100")
    assert hidden.bytes == 100 * 4 * 16 * 4 and hidden.type == "float32[4,16]" and hidden.flops > 0
    assert hidden.line.startswith("test_residuals.py:") and "body" in hidden.line
    assert (scores.operation, scores.fate) == ("exp", "saved")
    assert any(reader.startswith("pullback of exp at test_residuals.py") for reader in scores.readers)
    assert by_name["w"].fate == "held" and by_name["w"].operation == "argument"


def test_the_compiled_figure_stands_beside_the_estimate() -> None:
    report = funcgrad.residuals(looped)(*ARGS)
    assert report.temporary_bytes is not None and report.temporary_bytes >= report.saved_bytes
    assert "XLA allocates" in str(report)


def test_it_prints_as_text_and_as_a_table_and_is_data() -> None:
    report = funcgrad.residuals(looped, policy="everything", compiled=False)(*ARGS)
    console = Console(file=io.StringIO(), width=200)
    console.print(report)
    for text in (str(report), console.file.getvalue()):
        assert "looped under policy 'everything'" in text and "body ×100" in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["saved_bytes"] == report.saved_bytes and len(data["rows"]) == len(report.rows)


def test_of_what_has_no_program_inside_the_bytes_are_told() -> None:
    """A loop without a fixed count, a branch, a rule of the user's own."""

    @jax.custom_vjp
    def doubled(x):
        return 2 * x

    doubled.defvjp(lambda x: (2 * x, jnp.sin(x)), lambda residual, ct: (2 * ct + 0 * residual,))

    def fun(x):
        x = lax.while_loop(lambda y: jnp.sum(y) < 100, lambda y: y * 1.5, x)
        return jnp.sum(doubled(lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)))

    report = funcgrad.residuals(fun, policy="everything", compiled=False)(jnp.ones(3))
    assert {row.name for row in report.rows} >= {"of while", "of doubled"}


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError):
        funcgrad.residuals(3)
    with pytest.raises(ValueError, match="unknown policy 'least'"):
        funcgrad.residuals(looped, policy="least")


def test_the_page_runs() -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(PAGE), module_relative=False, optionflags=flags)
    assert result.attempted > 5 and result.failed == 0
