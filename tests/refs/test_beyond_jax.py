"""Programs with mutable arrays that JAX does not differentiate: against the same written without them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax._src.state.discharge import run_state  # no public name
from jax.sharding import AxisType, PartitionSpec

import funcgrad
from tests.refs.programs import X, assert_alike


def loop_until(x):
    ref = jax.new_ref(x)

    def body(i):
        ref[...] = jnp.sin(ref[...]) * 1.1
        return i + 1

    lax.while_loop(lambda i: (i < 20) & (jnp.max(ref[...]) > 0.9), body, 0)
    return jnp.sum(ref[...])


def loop_until_purely(x):
    for _i in range(20):
        if jnp.max(x) <= 0.9:
            break
        x = jnp.sin(x) * 1.1
    return jnp.sum(x)


def checkpoint_over_an_array(x):
    ref = jax.new_ref(x)

    @jax.checkpoint
    def helper(y):
        ref[...] = jnp.sin(ref[...]) * y
        return y * 2

    return jnp.sum(helper(x) * ref[...])


def checkpoint_purely(x):
    return jnp.sum(2 * x * jnp.sin(x) * x)


def made_empty(x):
    ref = jax.empty_ref(jax.ShapeDtypeStruct((4,), x.dtype))
    ref[...] = x**2
    value = jnp.sum(jnp.sin(ref[...]))
    jax.free_ref(ref)
    return value


def made_empty_purely(x):
    return jnp.sum(jnp.sin(x**2))


def state(x):
    def body(refs):
        a, b = refs

        def step(i, carry):
            a[i] = jnp.sin(b[i]) * a[i]
            return carry

        lax.fori_loop(0, 4, step, None)

    return jnp.sum(run_state(body)((x, 2 * x))[0])


def state_purely(x):
    return jnp.sum(jnp.sin(2 * x) * x)


def sharded(x):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,))
    ref = jax.new_ref(x)

    def helper(y, part):
        part[...] = jnp.sin(part[...]) * y
        return 2 * y

    spec = PartitionSpec("i")
    return jnp.sum(jax.shard_map(helper, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(x, ref) * ref[...])


def keys(x):
    ref = jax.new_ref(jax.random.key(0))

    def body(carry, _x):
        ref[...], sample = jax.random.split(ref[...])
        return carry * jax.random.normal(sample, (4,)), None

    return jnp.sum(lax.scan(body, x, None, length=2)[0])


def keys_purely(x):
    key = jax.random.key(0)
    for _i in range(2):
        key, sample = jax.random.split(key)
        x = x * jax.random.normal(sample, (4,))
    return jnp.sum(x)


def slope_of_an_inner_gradient(x):
    def inner(y):
        ref = jax.new_ref(y)
        ref[...] = jnp.sin(ref[...]) * y
        return jnp.sum(ref[...])

    return jnp.sum(jax.grad(inner)(x) ** 2)


def slope_purely(x):
    return jnp.sum((jnp.cos(x) * x + jnp.sin(x)) ** 2)


@pytest.mark.parametrize(("function", "plain"), [
    (sharded, checkpoint_purely), (keys, keys_purely), (slope_of_an_inner_gradient, slope_purely),
    (loop_until, loop_until_purely), (checkpoint_over_an_array, checkpoint_purely), (made_empty, made_empty_purely),
    (state, state_purely)], ids=lambda f: f.__name__)
def test_programs_that_jax_refuses(function: Callable, plain: Callable) -> None:
    wanted = jax.grad(plain)(jnp.asarray(X))
    assert_alike(funcgrad.grad(function)(X), wanted)
    assert_alike(jax.jit(funcgrad.grad(function))(X), wanted)
    if plain is not loop_until_purely:
        second = jax.jit(lambda x: jax.jvp(jax.grad(plain), (x,), (X,))[1])(X)
        assert_alike(jax.jit(funcgrad.grad(lambda x: jnp.sum(funcgrad.grad(function)(x) * X)))(X), second, rtol=1e-4)
