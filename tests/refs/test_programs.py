"""Mutable arrays in differentiated functions: against `jax.grad`, and against `jax.grad` of the program without them.

`jax.grad` itself fails for many of these programs at order two, and for some at order one (an integer counter, a value
without gradient that is written). So each is also held against the pure program that JAX lowers it to.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from tests.refs.programs import (
    FAIL_IN_JAX,
    PROGRAMS,
    X,
    assert_alike,
    branches,
    oracle,
    scan_history,
    written_and_read,
)

#: What `make test` runs eagerly, batched and at order two; `make test-all` runs all.
FAST = {written_and_read, scan_history, branches}
ROWS = [pytest.param(f, id=f.__name__, marks=() if f in FAST else pytest.mark.slow) for f in PROGRAMS]


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda f: f.__name__)
def test_gradients_are_jaxs(function: Callable) -> None:
    wanted = jax.jit(jax.grad(oracle(function)))(X)
    assert_alike(jax.jit(funcgrad.grad(function))(X), wanted)


@pytest.mark.parametrize("function", ROWS)
def test_eager_gradients_are_jaxs(function: Callable) -> None:
    wanted = jax.jit(jax.grad(oracle(function)))(X)
    if function not in FAIL_IN_JAX:
        assert_alike(jax.grad(function)(X), wanted)
    assert_alike(funcgrad.grad(function)(X), wanted)
    assert_alike(funcgrad.grad(jax.jit(function))(X), wanted)


@pytest.mark.parametrize("function", ROWS)
def test_gradients_of_a_batch(function: Callable) -> None:
    batch = np.stack([X, X[::-1], 0.5 * X])
    wanted = jax.jit(jax.grad(oracle(function)))
    assert_alike(jax.jit(jax.vmap(funcgrad.grad(function)))(batch), np.stack([wanted(x) for x in batch]))


@pytest.mark.parametrize("function", ROWS)
def test_second_order(function: Callable) -> None:
    def directional(grad: Callable, function: Callable) -> Callable:
        return jax.jit(grad(lambda x: jnp.sum(grad(function)(x) * X)))

    with jax.enable_x64(True):
        x = jnp.asarray(X, jnp.float64)
        wanted = directional(jax.grad, oracle(function))(x)
        assert_alike(directional(funcgrad.grad, function)(x), wanted, rtol=1e-10)
        forward = jax.jit(lambda x: funcgrad.jvp(funcgrad.grad(function), (x,), (jnp.asarray(X, x.dtype),))[1])(x)
        assert_alike(forward, wanted, rtol=1e-10)
