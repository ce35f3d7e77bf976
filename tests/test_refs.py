"""Mutable arrays in differentiated functions: against `jax.grad`, and against `jax.grad` of the program without them.

`jax.grad` itself fails for many of these programs at order two, and for some at order one (an integer counter, a value
without gradient that is written). So each is also held against the pure program that JAX lowers it to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax._src.state.discharge import discharge_state, run_state  # the oracle's way to a pure program; no public name
from jax.sharding import AxisType, PartitionSpec

import funcgrad
from funcgrad.errors import ReferenceCutError

X = np.array([0.3, 1.2, -0.7, 2.1], np.float32)


# ---- programs that JAX differentiates, too ----


def written_and_read(x):
    ref = jax.new_ref(x)
    ref[...] = jnp.sin(ref[...]) * x
    return jnp.sum(ref[...] ** 2)


def frozen(x):
    ref = jax.new_ref(jnp.zeros(4))
    ref[1] = x[0] * x[1]
    return jnp.sum(jax.freeze(ref) * x)


def static_indices(x):
    ref = jax.new_ref(jnp.outer(x, x))
    ref[1:3, 0] = ref[0, 2:4] * x[:2]
    ref[-1] = jnp.cos(ref[0])
    ref[::2, 1] += x[:2]
    return jnp.sum(jnp.sin(ref[...]))


def dynamic_indices(x):
    i = jnp.argmax(x)
    ref = jax.new_ref(jnp.outer(x, x))
    ref[i] = jnp.exp(-ref[i - 1])
    ref[i, 1] = x[i] * ref[0, i]
    return jnp.sum(ref[i] * ref[0])


def index_arrays(x):
    ids = jnp.array([2, 0, 3])
    ref = jax.new_ref(jnp.outer(x, x))
    ref[ids, 1] = x[:3] ** 2
    ref[ids] = jnp.sin(ref[ids])
    return jnp.sum(ref[:, ids] ** 2)


def added(x):
    i = jnp.argmin(x)
    ref = jax.new_ref(jnp.outer(x, x))
    jax.ref.addupdate(ref, (i, slice(1, 3)), x[:2] ** 2)
    jax.ref.addupdate(ref, (-1, i), x[0])
    jax.ref.addupdate(ref, slice(0, 2), jnp.sin(ref[2:]))
    jax.ref.addupdate(ref, ..., ref[...] * x)
    jax.ref.addupdate(ref, jnp.array([1, 1, 3]), jnp.ones((3, 4)) * x)
    return jnp.sum(ref[...] ** 2)


def swapped(x):
    ref = jax.new_ref(x)
    old = jax.ref.swap(ref, slice(1, 3), x[:2] * 3)
    return jnp.sum(old * ref[1:3]) + jnp.sum(ref[...] ** 3)


def scan_accumulator(x):
    total = jax.new_ref(0.0 * x)

    def body(carry, a):
        total[...] += carry * a
        return jnp.sin(carry), None

    lax.scan(body, x, jnp.arange(1.0, 4.0))
    return jnp.sum(total[...] ** 2)


def scan_history(x):
    history = jax.new_ref(jnp.zeros((5, 4)))

    def body(carry, i):
        history[i] = carry
        jax.ref.addupdate(history, i + 1, carry * x)
        return jnp.sin(carry) + history[i + 1], i

    last, _ = lax.scan(body, x, jnp.arange(4), reverse=True)
    return jnp.sum(history[...] ** 2 * last)


def scan_over_an_array(x):
    rows = jax.new_ref(jnp.outer(x, x))

    def body(carry, row):
        row[...] = row[...] * carry
        return jnp.cos(carry), row[0]

    last, first = lax.scan(body, x, rows)
    return jnp.sum(rows[...] ** 2) + jnp.sum(last * first)


def scan_that_reads(x):
    weights = jax.new_ref(jnp.outer(x, x))
    counter = jax.new_ref(0)

    def body(carry, _x):
        counter[...] += 1
        return jnp.tanh(weights[...] @ carry) * counter[...], None

    return jnp.sum(lax.scan(body, x, None, length=3)[0]) * counter[...]


def nested_scans(x):
    grid = jax.new_ref(jnp.zeros((3, 4)))

    def row(carry, i):
        def column(inner, j):
            grid[i, j] = inner * x[j]
            return jnp.sin(inner) + grid[i, 0], None

        return lax.scan(column, carry, jnp.arange(4))[0], None

    return lax.scan(row, x[0], jnp.arange(3))[0] + jnp.sum(grid[...] ** 2)


def fori(x):
    ref = jax.new_ref(x)

    def body(i, carry):
        ref[i] = jnp.sin(ref[i]) * ref[0]
        return carry + ref[i]

    return lax.fori_loop(0, 4, body, 0.0) * jnp.sum(ref[...])


def branches(x):
    ref = jax.new_ref(x)
    other = jax.new_ref(2 * x)

    def first():
        ref[...] = jnp.sin(ref[...])
        return other[0]

    def second():
        ref[1] = other[1] ** 2
        other[...] = ref[...]
        return ref[0]

    value = lax.cond(x[0] > 0, first, second) + lax.switch(1, [first, second, first])
    return value * jnp.sum(ref[...] * other[...])


def jitted_helper(x):
    ref = jax.new_ref(x)

    @jax.jit
    def helper(r, y):
        r[...] = jnp.sin(r[...]) * y
        return r[0] * y

    return jnp.sum(helper(ref, x) * helper(ref, 2 * x)) + jnp.sum(ref[...])


def inside_jit(x):
    @jax.jit
    def helper(y):
        ref = jax.new_ref(y)
        ref[1:] = ref[:-1] * ref[1:]
        return ref[...]

    return jnp.sum(helper(helper(x)) ** 2)


def inside_checkpoint(x):
    @jax.checkpoint
    def helper(y):
        ref = jax.new_ref(y)
        ref[...] = jnp.sin(ref[...])
        return ref[...] * y

    return jnp.sum(helper(helper(x)))


def inside_vmap(x):
    def helper(y):
        ref = jax.new_ref(y)
        ref[...] = jnp.sin(ref[...]) * y
        return ref[...]

    return jnp.sum(jax.vmap(helper)(x) ** 2)


def custom_rules_in_a_loop(x):
    total = jax.new_ref(0.0)

    def body(carry, a):
        total[...] += jnp.sum(jax.nn.softmax(carry) * jax.nn.relu(carry - a))
        return jax.nn.silu(doubled_slope(carry)), None

    lax.scan(body, x, X)
    return total[...]


@jax.custom_vjp
def doubled_slope(x):
    """The identity, with twice its derivative."""
    return x


doubled_slope.defvjp(lambda x: (x, None), lambda _residual, ct: (2 * ct,))


def without_gradient(x):
    ref = jax.new_ref(x, kind="no_grad_no_remat")
    first = ref[...]
    ref[...] = jnp.sin(x)
    return jnp.sum(first * x + ref[...] * x**2)


def carried_weakly(x):
    ref = jax.new_ref(1.0)

    def body(carry, a):
        ref[...] = ref[...] * a
        return carry * ref[...], None

    return lax.scan(body, x[0], x)[0] + ref[...]


def stopped(x):
    ref = jax.new_ref(jnp.zeros(4))
    ref[...] = lax.stop_gradient(x) * 2
    ref[0] = x[0]
    return jnp.sum(ref[...] * x)


PROGRAMS = [written_and_read, frozen, static_indices, dynamic_indices, index_arrays, added, swapped, scan_accumulator,
          scan_history, scan_over_an_array, scan_that_reads, nested_scans, fori, branches, jitted_helper, inside_jit,
          inside_checkpoint, inside_vmap, custom_rules_in_a_loop, without_gradient, carried_weakly, stopped]


#: Programs for which `jax.grad` raises AttributeError in 0.10.2: a value without gradient is written into an array.
FAIL_IN_JAX = {scan_that_reads, stopped}


def custom_rules_in_a_loop_purely(x):
    total, carry = 0.0, x
    for a in X:
        total += jnp.sum(jax.nn.softmax(carry) * jax.nn.relu(carry - a))
        carry = jax.nn.silu(doubled_slope(carry))
    return total


def static_indices_purely(x):
    content = jnp.outer(x, x)
    content = content.at[1:3, 0].set(content[0, 2:4] * x[:2])
    content = content.at[-1].set(jnp.cos(content[0]))
    content = content.at[::2, 1].add(x[:2])
    return jnp.sum(jnp.sin(content))


#: Programs that JAX's lowering refuses (a stride beside a number), or lowers without their custom rules.
PLAIN = {custom_rules_in_a_loop: custom_rules_in_a_loop_purely, static_indices: static_indices_purely,
         without_gradient: without_gradient}


def purified(function: Callable) -> Callable:
    """The program that JAX lowers `function` to, which has no mutable arrays."""

    def pure(x):
        jaxpr = discharge_state(jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, x.dtype)))
        return jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, x)[0]

    return pure


def oracle(function: Callable) -> Callable:
    """A function that has the derivatives of `function`, as JAX has them."""
    return PLAIN[function] if function in PLAIN else purified(function)


def assert_alike(given: Any, wanted: Any, rtol: float = 2e-5) -> None:
    """Same dtype, values within a tolerance, no NaN."""
    assert given.dtype == wanted.dtype
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(given, wanted, rtol=rtol, atol=rtol)


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


# ---- programs that JAX does not differentiate ----


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


# ---- arrays from outside ----


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
            with pytest.raises(ReferenceCutError, match=r"(?s)test_refs\.py:\d+ in `.*stop_gradient"):
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


# ---- nesting, errors, what is left behind ----


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
