"""Mutable arrays that a function is not the maker of, and cotangents that leave through one."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.errors import ReferenceCutError
from tests.refs.programs import X, assert_alike


def test_an_array_from_outside_is_a_constant() -> None:
    ref = jax.new_ref(jnp.asarray(X))

    def function(x, r):
        return jnp.sum(x * ref[...] + lax.scan(lambda c, i: (c * r[i], None), 1.0, jnp.arange(4))[0] * x)

    for transform in (lambda f: f, jax.jit):
        assert_alike(transform(funcgrad.grad(function))(X, jax.new_ref(2 * X)),
                     jax.grad(function)(X, jax.new_ref(2 * X)))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("inner", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_statistics_leave_the_function(transform: Callable, inner: Callable) -> None:
    def run(grad: Callable) -> tuple:
        count, last = jax.new_ref(0), jax.new_ref(jnp.zeros(4))

        def function(x, count, last):
            def body(carry, i):
                count[...] += 1
                last[i] = lax.stop_gradient(carry[i])
                return jnp.sin(carry), None

            return jnp.sum(lax.scan(body, x, jnp.arange(3))[0])

        gradient = transform(grad(inner(function)))(X, count, last)
        return gradient, count[...], last[...]

    for given, wanted in zip(run(funcgrad.grad), run(jax.grad), strict=True):
        assert_alike(given, wanted)


def test_a_gradient_must_not_leave_through_an_array() -> None:
    ref = jax.new_ref(jnp.zeros(4))

    def writes(x):
        ref[...] = jnp.sin(x)
        return jnp.sum(x)

    def writes_in_a_loop(x):
        return lax.scan(lambda c, i: (ref.__setitem__(i, c), (jnp.sin(c), None))[1], x[0], jnp.arange(3))[0]

    def adds(x):
        ref.addupdate(x)
        return jnp.sum(x)

    for function in (writes, writes_in_a_loop, adds):
        for gradient in (funcgrad.grad(function), jax.jit(funcgrad.grad(function))):
            with pytest.raises(ReferenceCutError, match=r"(?s)test_from_outside\.py:\d+ in `.*stop_gradient"):
                gradient(X)
    np.testing.assert_array_equal(ref[...], np.zeros(4))
    for function in (writes, writes_in_a_loop, adds):  # JAX writes first, and then refuses
        with pytest.raises(Exception, match=r"differentiated|Zero"):
            jax.grad(function)(X)


def test_an_array_without_gradient_takes_anything() -> None:
    def run(grad: Callable) -> tuple:
        ref = jax.new_ref(jnp.zeros(4), kind="no_grad_no_remat")

        def function(x):
            ref[...] = jnp.sin(x)
            return jnp.sum(x * ref[...])

        return grad(function)(X), ref[...]

    for given, wanted in zip(run(funcgrad.grad), run(jax.grad), strict=True):
        assert_alike(given, wanted)


def test_adding_to_an_array_without_gradient_adds() -> None:
    """`jax.grad` drops the addition, and cannot add a value without gradient to an array from outside."""
    silent, plain = jax.new_ref(jnp.zeros(4), kind="no_grad_no_remat"), jax.new_ref(jnp.zeros(4))

    def function(x):
        silent.addupdate(jnp.sin(x))
        plain.addupdate(lax.stop_gradient(x))
        return jnp.sum(x)

    assert_alike(funcgrad.grad(function)(X), jnp.ones(4))
    np.testing.assert_allclose(silent[...], np.sin(X), rtol=1e-6)
    np.testing.assert_array_equal(plain[...], X)


# ---- cotangents that leave through an array: custom_vjp ----


@jax.custom_vjp
def stash(ref, x):
    """The identity; its cotangent is written into `ref`."""
    return x


def _stash_backward(ref, ct):
    ref[...] = ct
    return None, ct


stash.defvjp(lambda ref, x: (x, ref), _stash_backward)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("inner", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_a_cotangent_is_stashed(transform: Callable, inner: Callable) -> None:
    def run(grad: Callable) -> tuple:
        ref = jax.new_ref(jnp.zeros(4))

        def function(x, ref):
            return jnp.sum(jnp.sin(inner(stash)(ref, jnp.sin(x))) * x)

        return transform(grad(function))(X, ref), ref[...]

    for given, wanted in zip(run(funcgrad.grad), run(jax.grad), strict=True):
        assert_alike(given, wanted)


def test_a_cotangent_is_stashed_in_a_loop() -> None:
    def run(grad: Callable) -> tuple:
        ref = jax.new_ref(jnp.zeros(4))

        def function(x, ref):
            return jnp.sum(lax.scan(lambda c, _x: (stash(ref, jnp.sin(c)) * x, None), x, None, length=3)[0])

        return grad(function)(X, ref), ref[...]

    for given, wanted in zip(run(funcgrad.grad), run(jax.grad), strict=True):
        assert_alike(given, wanted)


def test_an_array_of_the_function_is_handed_to_a_custom_rule() -> None:
    def function(x):
        ref = jax.new_ref(jnp.zeros(4))
        return jnp.sum(jnp.sin(stash(ref, jnp.sin(x))) + ref[...])

    def cuts(x):
        ref = jax.new_ref(x)
        return jnp.sum(stash(ref, jnp.sin(x)) * ref[...])

    assert_alike(funcgrad.grad(function)(X), jax.grad(function)(X))
    assert_alike(jax.jit(funcgrad.grad(jax.jit(function)))(X), jax.grad(function)(X))
    with pytest.raises(NotImplementedError, match="its content has a gradient"):
        funcgrad.grad(cuts)(X)
