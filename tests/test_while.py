"""Reverse mode of `while_loop` and of `fori_loop` of a dynamic trip count, against the same loop written as `scan`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

import funcgrad
from funcgrad import while_checkpoints

X, W = np.array([0.3, 0.7]), np.array([1.1, 0.9])


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """float64, so that equal means equal."""
    with jax.enable_x64(True):
        yield


def close(ours: Any, theirs: Any, rtol: float = 1e-9) -> None:
    """Same structure, dtypes, and values to rounding."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (jnp.shape(mine), jnp.result_type(mine)) == (jnp.shape(wanted), jnp.result_type(wanted))
        np.testing.assert_allclose(mine, wanted, rtol=rtol, atol=1e-12)


def step(x: Any, w: Any, state: Any) -> Any:
    """An iteration with an integer, a state that the next one reads, and a sum that nobody reads before the end."""
    number, y, total = state
    y = jnp.sin(w * y) + 0.1 * x
    return number + 1, y, total + y * y


def by_while(x: Any, w: Any, count: Any) -> Any:
    """The sum after `count` iterations."""
    return lax.while_loop(lambda s: s[0] < count, lambda s: step(x, w, s), (0, x, jnp.zeros_like(x)))[2].sum()


def by_scan(x: Any, w: Any, count: int) -> Any:
    """The same, as JAX can differentiate it."""
    return lax.scan(lambda s, _i: (step(x, w, s), None), (0, x, jnp.zeros_like(x)), None, length=count)[0][2].sum()


@pytest.mark.parametrize("count", [0, 1, 2, 10, 1000, 100_000])
def test_equals_scan_and_finite_differences(count: int) -> None:
    program = jax.jit(funcgrad.value_and_grad(by_while, (0, 1))).lower(X, W, count).compile()
    value, (ct_x, ct_w) = program(X, W, count)
    assert value == jax.jit(by_scan, static_argnums=2)(X, W, count)
    wanted = jax.jit(jax.grad(by_scan, (0, 1)), static_argnums=2)(X, W, count)
    close((ct_x, ct_w), wanted, rtol=1e-7)
    eps = 1e-5
    run = jax.jit(by_while)
    for i in range(2):
        shift = eps * np.eye(2)[i]
        rise = (run(X, W + shift, count) - run(X, W - shift, count)) / (2 * eps)
        np.testing.assert_allclose(ct_w[i], rise, rtol=1e-4, atol=1e-6)
    memory = program.memory_analysis()
    if memory is not None:
        print(f"{count} iterations: {memory.temp_size_in_bytes} bytes of temporaries")
        assert memory.temp_size_in_bytes < 64_000  # the trip count is an argument: one program for all


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 33])
def test_any_number_of_checkpoints(count: int, slots: int) -> None:
    with while_checkpoints(slots):
        ours = jax.jit(funcgrad.grad(by_while, (0, 1)))(X, W, count)
    close(ours, jax.grad(by_scan, (0, 1))(X, W, count))


def counted(count: int, slots: int) -> tuple[int, int]:
    """How often the body runs in the program and in its gradient."""
    runs = []

    def tick(y: Any) -> Any:
        jax.debug.callback(lambda _y: runs.append(1), y)
        return jnp.sin(y)

    def loop(x: Any, count: Any) -> Any:
        return lax.fori_loop(0, count, lambda _i, y: tick(y), x)

    jax.jit(loop)(0.5, count)
    jax.effects_barrier()
    forward = len(runs)
    runs.clear()
    with while_checkpoints(slots):
        jax.jit(funcgrad.grad(loop))(0.5, count)
    jax.effects_barrier()
    return forward, len(runs)


@pytest.mark.parametrize("count", [1, 5, 16, 17, 60, 64])
def test_runs_at_most_thrice(count: int) -> None:
    forward, both = counted(count, 8)
    assert forward == count
    assert both <= 3 * count


def test_memory_follows_the_checkpoints() -> None:
    def used(slots: int) -> int:
        with while_checkpoints(slots):
            program = jax.jit(funcgrad.grad(lambda x, n: by_while(x, 1.1, n))).lower(np.zeros(1000), 5).compile()
        return program.memory_analysis().temp_size_in_bytes

    few, many = used(4), used(64)
    assert many - few > 100 * 8000 > 0  # two buffers, 60 states more in each; the sum is no part of a state
    assert many < 150 * 8000


def test_checkpoints_are_part_of_cache_keys() -> None:
    gradient = jax.jit(funcgrad.grad(jax.jit(by_while)))
    texts = []
    for slots in (4, 32, 4):
        with while_checkpoints(slots):
            texts.append(gradient.lower(X, W, 3).as_text())
    assert texts[0] == texts[2] != texts[1]
    with pytest.raises(ValueError, match="positive integer"):
        while_checkpoints(0)


def second(grad: Callable[..., Any], f: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient of a function of the gradient."""
    def inner(x: Any, w: Any, count: Any) -> Any:
        return sum(jnp.sum(jnp.cos(ct)) for ct in grad(f, (0, 1))(x, w, count))

    return grad(inner, (0, 1))


def test_second_order() -> None:
    with while_checkpoints(4):
        ours = jax.jit(second(funcgrad.grad, by_while))
        hvp = jax.jit(lambda x, n: funcgrad.hvp(lambda x: by_while(x, W, n), (x,), (W,)))
        forward = jax.jit(lambda x, n: jax.jvp(funcgrad.grad(lambda x: by_while(x, W, n)), (x,), (W,))[1])
        for count in (0, 1, 20):
            close(ours(X, W, count), second(jax.grad, by_scan)(X, W, count))
            wanted = jax.jvp(jax.grad(lambda x, count=count: by_scan(x, W, count)), (X,), (W,))[1]
            close(hvp(X, count), wanted)
            close(forward(X, count), wanted)


def test_forward_mode_is_one_loop() -> None:
    def tangent(x: Any) -> Any:
        return funcgrad.jvp(lambda x: by_while(x, W, 5), (x,), (W,))

    close(tangent(X), jax.jvp(lambda x: by_scan(x, W, 5), (X,), (W,)))
    assert jax.jit(tangent).lower(X).as_text().count("stablehlo.while") <= 3
    close(funcgrad.jacfwd(lambda x: by_while(x, W, 5))(X), jax.grad(lambda x: by_scan(x, W, 5))(X))


# ---- vmap ----


def until(x: Any, w: Any, stop: Any) -> Any:
    """A loop whose lanes stop at different times, and that may not be entered again (`sqrt`) where it stopped."""
    def body(state: Any) -> Any:
        number, y, total = state
        y = jnp.sin(w * y) + 0.1 * x
        return number + 1, y, total + jnp.sqrt(stop - number) * y * y

    return lax.while_loop(lambda s: s[0] < stop, body, (0.0, x, 0 * x))[2]


def until_by_scan(x: Any, w: Any, stop: Any) -> Any:
    """The same with twenty iterations, most of which do nothing."""
    def body(state: Any, number: Any) -> Any:
        y, total = state
        on = number < stop
        new = jnp.sin(w * y) + 0.1 * x
        more = jnp.sqrt(jnp.where(on, stop - number, 1.0)) * new * new
        return (jnp.where(on, new, y), total + jnp.where(on, more, 0)), None

    return lax.scan(body, (x, 0 * x), jnp.arange(20.0))[0][1]


LANES = (np.array([0.3, 0.7, -0.4]), 1.1, np.array([3.0, 1.0, 17.0]))


def test_vmap_of_gradient() -> None:
    with while_checkpoints(2):
        ours = jax.jit(jax.vmap(funcgrad.grad(until, (0, 1, 2)), (0, None, 0)))(*LANES)
    close(ours, jax.vmap(jax.grad(until_by_scan, (0, 1, 2)), (0, None, 0))(*LANES))


def test_gradient_of_vmap() -> None:
    def summed(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: jnp.sum(jnp.cos(jax.vmap(f, (0, None, 0))(*args)))

    with while_checkpoints(2):
        close(funcgrad.grad(summed(until), (0, 1, 2))(*LANES), jax.grad(summed(until_by_scan), (0, 1, 2))(*LANES))
        ours = jax.jit(funcgrad.grad(lambda x: jnp.sum(jnp.sin(funcgrad.grad(summed(until))(x, *LANES[1:])))))
        close(ours(LANES[0]), jax.grad(lambda x: jnp.sum(jnp.sin(jax.grad(summed(until_by_scan))(x, *LANES[1:]))))(
            LANES[0]))


def test_lane_without_iterations() -> None:
    stops = np.array([0.0, 3.0])
    close(jax.vmap(funcgrad.grad(until, (0, 2)), (None, None, 0))(0.3, 1.1, stops),
          jax.vmap(jax.grad(until_by_scan, (0, 2)), (None, None, 0))(0.3, 1.1, stops))


# ---- programs ----


def nested(x: Any) -> Any:
    """Loops in a loop; the inner trip count changes."""
    def inner(y: Any, count: Any) -> Any:
        return lax.fori_loop(0, count, lambda _i, z: jnp.sin(z * 1.3) + 0.2 * x, y)

    return lax.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, inner(s[1], s[0] + 1) * jnp.cos(s[1])), (0, x))[1]


def unrolled(x: Any) -> Any:
    """The same by Python's loops."""
    y = x
    for i in range(4):
        z = y
        for _ in range(i + 1):
            z = jnp.sin(z * 1.3) + 0.2 * x
        y = z * jnp.cos(y)
    return y


def test_nested() -> None:
    close(funcgrad.grad(nested)(0.4), jax.grad(unrolled)(0.4))
    close(jax.jit(funcgrad.hessian(nested))(0.4), jax.hessian(unrolled)(0.4))


def test_carry_active_from_some_iteration_on() -> None:
    def loop(x: Any, count: Any) -> Any:
        def body(_i: Any, state: Any) -> Any:
            first, middle, last = state
            return x * 1.0, jnp.sin(first) + middle, last + middle * middle

        return lax.fori_loop(0, count, body, (2.0, 0.0, 0.0))[2]

    ours = [jax.jit(funcgrad.grad(loop))(0.3, n) for n in range(5)]
    close(ours, [jax.grad(loop)(0.3, n) for n in range(5)])  # a Python int: JAX makes it a scan


def test_within_scan_cond_jit_and_checkpoint() -> None:
    def inside(newton: Callable[..., Any], x: Any) -> Any:
        def body(carry: Any, number: Any) -> Any:
            y = lax.cond(number > 1, lambda: jax.checkpoint(newton)(carry + x), lambda: carry)
            return jax.jit(newton)(y + 2.0), None

        return lax.scan(body, x, jnp.arange(4))[0]

    def root(x: Any) -> Any:
        return lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, (s[1] + x / s[1]) / 2), (0, x))[1]

    def root_by_scan(x: Any) -> Any:
        return lax.scan(lambda y, _i: ((y + x / y) / 2, None), x, None, length=5)[0]

    close(jax.jit(funcgrad.grad(lambda x: inside(root, x)))(3.0), jax.grad(lambda x: inside(root_by_scan, x))(3.0))


def test_keys_complex_and_low_precision() -> None:
    def loop(x: Any, key: Any, count: Any) -> Any:
        def body(_i: Any, state: Any) -> Any:
            x, key = state
            key, own = jax.random.split(key)
            return x * jax.random.normal(own, x.shape, x.real.dtype) + 1, key

        return jnp.sum(jnp.abs(lax.fori_loop(0, count, body, (x, key))[0]))

    key = jax.random.key(0)
    for dtype in (jnp.bfloat16, jnp.float32, jnp.complex64):
        x = jnp.asarray([0.5, -2.0], dtype)
        rtol = 2e-2 if dtype == jnp.bfloat16 else 1e-5
        close(jax.jit(funcgrad.grad(loop))(x, key, 4), jax.grad(loop)(x, key, 4), rtol)


def test_predicate_alone_has_no_gradient() -> None:
    def loop(x: Any) -> Any:
        return lax.while_loop(lambda s: s[0] < x, lambda s: (s[0] + 1.0, s[1] + 2.0), (0.0, 0.0))[1]

    assert funcgrad.grad(loop)(3.5) == 0.0


def test_constants_of_the_program_and_empty_arrays() -> None:
    table = jnp.arange(5.0)

    def loop(x: Any, empty: Any, count: Any) -> Any:
        y, empty = lax.fori_loop(0, count, lambda i, s: (s[0] * table[i] + table.sum(), s[1] * 2), (x, empty))
        return y + empty.sum()

    args = (0.5, np.zeros((0, 3)))
    close(jax.jit(funcgrad.grad(loop, (0, 1)))(*args, 3), jax.grad(lambda *a: loop(*a, 3), (0, 1))(*args))


def test_equal_pullbacks_compile_once() -> None:
    compilations = []

    @jax.jit
    def pull(pullback: Any) -> Any:
        compilations.append(1)
        return pullback(1.0)

    for x in (0.1, 0.2):
        _, pullback = jax.jit(lambda x: funcgrad.vjp(lambda x: by_while(x, 1.1, 3), x))(x)
        close(pull(pullback)[0], jax.grad(by_scan)(x, 1.1, 3))
    assert len(compilations) == 1


def test_leaks_nothing() -> None:
    with jax.checking_leaks():
        funcgrad.grad(nested)(0.4)


def test_effects_are_refused_at_the_users_line() -> None:
    def body(state: Any) -> Any:
        io_callback(lambda x: None, None, state[1])
        return state[0] + 1, state[1] * 2

    def loop(x: Any) -> Any:
        return lax.while_loop(lambda s: s[0] < 3, body, (0, x))[1]

    with pytest.raises(NotImplementedError, match=r"(?s)`while`.*test_while.py:\d+ in `.*loop`.*side effects"):
        funcgrad.grad(loop)(1.0)


def test_missing_rule_in_the_body_names_the_users_line() -> None:
    def loop(x: Any) -> Any:
        def body(state: Any) -> Any:
            y = jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), np.float64), state[1])
            return state[0] + 1, y

        return lax.while_loop(lambda s: s[0] < 3, body, (0, x))[1]

    with pytest.raises(NotImplementedError, match=r"(?s)pure_callback.*test_while.py:\d+ in `.*body`"):
        funcgrad.grad(loop)(1.0)


def test_a_weak_carry_stays_weak():
    """What the loop gives promotes with other arrays as without a gradient."""
    def power(x):
        return lax.while_loop(lambda carry: carry < 10.0, lambda carry: carry * x, x)

    for value in (funcgrad.value_and_grad(power)(2.0)[0], funcgrad.jvp(power, (2.0,), (1.0,))[0],
                  jax.jit(funcgrad.value_and_grad(power))(2.0)[0]):
        assert value.weak_type == power(2.0).weak_type
    half = jnp.ones(2, jnp.bfloat16)
    assert funcgrad.vjp(lambda x: power(x) * half, 2.0)[0].dtype == (power(2.0) * half).dtype
