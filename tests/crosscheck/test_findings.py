"""The findings: JAX's gradient is wrong, funcgrad's is the truth, and the truth holds against differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.crosscheck.fuzz.findings import FINDINGS, Finding, page

ROOT = Path(__file__).resolve().parent.parent.parent
TITLES = [entry.title for entry in FINDINGS]


@pytest.mark.slow
@pytest.mark.parametrize("entry", FINDINGS, ids=TITLES)
def test_jax_is_wrong_and_funcgrad_is_right(entry: Finding) -> None:
    with np.errstate(all="ignore"):
        assert not entry.right(entry.gradient(jax.grad))
        assert entry.right(entry.gradient(funcgrad.grad))


def widened(entry: Finding) -> Finding:
    """The same in double precision."""
    def double(text: str) -> str:
        return text.replace("float32", "float64").replace("complex64", "complex128")

    return dataclasses.replace(entry, program=double(entry.program), args=tuple(map(double, entry.args)))


@pytest.mark.slow
@pytest.mark.parametrize("entry", [entry for entry in FINDINGS if entry.smooth and entry.order == 1],
                         ids=lambda entry: entry.title)
def test_the_truth_is_what_differences_give(entry: Finding) -> None:
    with jax.enable_x64(True):
        wide = widened(entry)
        fun, args = wide.fun(), wide.values()
        for position, truth in enumerate(entry.truth):
            x = args[position]
            slopes = slopes_in(fun, args, position, x.dtype.kind == "c" and not entry.holomorphic)
            np.testing.assert_allclose(np.reshape(slopes, x.shape), np.asarray(truth), rtol=1e-3, atol=1e-4)


def slopes_in(fun: Callable[..., Any], args: list[np.ndarray], position: int, pairs: bool) -> list[complex]:
    """Central differences in each element of one argument; for real functions of complex numbers both parts' slopes."""
    x = args[position]

    def central(i: int, direction: complex = 1) -> complex:
        size = 1e-6 * max(1.0, float(np.max(np.abs(x))))
        move = np.zeros(x.size, x.dtype)
        move[i] = size * direction
        move = move.reshape(x.shape)
        up, down = (fun(*args[:position], jnp.asarray(x + sign * move), *args[position + 1:]) for sign in (1, -1))
        return complex(up - down) / (2 * size)

    return [central(i) - (1j * central(i, 1j) if pairs else 0) for i in range(x.size)]


@pytest.mark.slow
def test_the_page_is_fresh() -> None:
    assert (ROOT / "docs" / "findings.md").read_text(encoding="utf-8") == page()
