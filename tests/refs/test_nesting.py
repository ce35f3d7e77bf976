"""Mutable arrays of outer functions, wrong writes, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.refs.programs import X, assert_alike, scan_history


def test_an_array_of_an_outer_function() -> None:
    def outer(grad: Callable) -> Callable:
        def function(x):
            ref = jax.new_ref(jnp.zeros(4))

            def inner(y):
                ref[...] = lax.stop_gradient(jnp.sin(y)) * x
                return jnp.sum(y * x * ref[...])

            return jnp.sum(grad(inner)(x) ** 2) + jnp.sum(ref[...])

        return grad(function)

    assert_alike(outer(funcgrad.grad)(X), outer(jax.grad)(jnp.asarray(X)))
    assert_alike(jax.jit(outer(funcgrad.grad))(X), outer(jax.grad)(jnp.asarray(X)))


def test_arrays_as_inputs_and_outputs() -> None:
    for grad in (jax.grad, funcgrad.grad):
        with pytest.raises(ValueError):
            grad(lambda ref: jnp.sum(ref[...] ** 2))(jax.new_ref(jnp.asarray(X)))
        with pytest.raises(TypeError, match="scalar"):
            grad(lambda x: jax.new_ref(x[0]))(X)
        with pytest.raises(ValueError):
            (jax.vjp if grad is jax.grad else funcgrad.vjp)(lambda ref: ref[...], jax.new_ref(1.0))[1](1.0)
        _, ref = grad(lambda x: (jnp.sum(x), jax.new_ref(x * 2)), has_aux=True)(X)
        np.testing.assert_array_equal(ref[...], 2 * X)


def test_a_wrong_write_is_refused() -> None:
    def wrong_shape(x):
        ref = jax.new_ref(x)
        ref[0] = x
        return ref[0]

    def wrong_dtype(x):
        ref = jax.new_ref(x)
        ref[...] = x.astype(jnp.float16)
        return ref[0]

    for function in (wrong_shape, wrong_dtype):
        for grad in (jax.grad, funcgrad.grad):
            with pytest.raises(ValueError):
                grad(function)(X)


def test_the_same_array_handed_over_twice() -> None:
    def function(x):
        ref = jax.new_ref(x)

        def body(i, carry):
            ref[...] = jnp.sin(ref[...])
            return carry

        def predicate(state):
            return state[0] < 3 + 0 * ref[0].astype(int)

        lax.while_loop(predicate, lambda state: (state[0] + 1, body(*state)), (0, 1.0))
        return jnp.sum(ref[...])

    plain = jax.grad(lambda x: jnp.sum(jnp.sin(jnp.sin(jnp.sin(x)))))
    assert_alike(funcgrad.grad(function)(X), plain(X))


def test_nothing_is_left_behind_and_nothing_staged_twice() -> None:
    runs = []

    def function(x):
        ref = jax.new_ref(x)

        @jax.jit
        def helper(r):
            runs.append(1)
            r[...] = jnp.sin(r[...])

        helper(ref)
        return jnp.sum(ref[...])

    with jax.checking_leaks():
        funcgrad.grad(function)(X)
        jax.jit(funcgrad.grad(scan_history))(X)
    gradient = jax.jit(funcgrad.grad(function))
    runs.clear()
    for scale in (1, 2, 3):
        gradient(scale * X)
    assert len(runs) == 1


def test_dtypes() -> None:
    for dtype in (jnp.bfloat16, jnp.float16, jnp.complex64):
        def function(x):
            ref = jax.new_ref(x)
            jax.ref.addupdate(ref, slice(1, 3), x[:2] * x[1:3])
            return jnp.sum(jnp.abs(ref[...]) ** 2).astype(jnp.float32)

        x = jnp.asarray(X).astype(dtype) * (1 + 0.5j if dtype == jnp.complex64 else 1)
        given, wanted = funcgrad.grad(function)(x), jax.grad(function)(x)
        assert given.dtype == wanted.dtype
        np.testing.assert_allclose(given.astype(jnp.complex64), wanted.astype(jnp.complex64), rtol=2e-2)


def test_the_backward_loop_of_an_added_window_copies_nothing() -> None:
    """Adding to a row in each step costs a row in each step of the backward loop, not the whole array."""
    def function(x):
        table = jax.new_ref(jnp.zeros((512, 4)))
        lax.scan(lambda c, i: (table.addupdate(c * x, i), (jnp.sin(c), None))[1], x, jnp.arange(512))
        return jnp.sum(table[...] ** 2)

    text = str(jax.make_jaxpr(funcgrad.grad(function))(X))
    backward = text[text.rindex("scan["):]
    assert "dynamic_update_slice" not in backward
    assert "f32[512,4] = add" not in backward
