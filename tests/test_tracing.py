"""The trace leaves nothing behind, crosses every boundary, and costs no second compilation."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.eager import AS_WRITTEN

X = np.array([0.5, -1.5, 2.0], np.float32)


def mlp(params: list, x: Any) -> Any:
    """A small network with nested jit."""
    for w in params:
        x = jax.nn.relu(x @ w) + jnp.tanh(x)
    return jnp.sum(x * x)


def weights(layers: int = 2) -> list:
    """Weights of `mlp`."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(0.3 * rng.standard_normal((3, 3)), jnp.float32) for _i in range(layers)]


# ---- the pullback is data ----


def test_two_calls_give_equal_treedefs() -> None:
    trees = [jax.tree.structure(funcgrad.vjp(mlp, weights(), x)[1]) for x in (X, 2 * X)]
    assert trees[0] == trees[1] and hash(trees[0]) == hash(trees[1])


def test_a_jitted_consumer_compiles_once() -> None:
    traced = []

    @jax.jit
    def consume(pullback, ct):
        traced.append(1)
        return pullback(ct)

    for x in (X, 2 * X, 3 * X):
        out, pullback = funcgrad.vjp(mlp, weights(), x)
        wanted = jax.vjp(mlp, weights(), x)[1](jnp.ones_like(out))
        for given, other in zip(jax.tree.leaves(consume(pullback, jnp.ones_like(out))), jax.tree.leaves(wanted),
                                strict=True):
            np.testing.assert_allclose(given, other, rtol=1e-5, atol=1e-6)
    assert len(traced) == 1


def test_a_pullback_leaves_jit() -> None:
    out, pullback = jax.jit(lambda p, x: funcgrad.vjp(mlp, p, x))(weights(), X)
    np.testing.assert_allclose(pullback(jnp.float32(1.0))[1], jax.grad(mlp, 1)(weights(), X), rtol=1e-5)


def test_pullbacks_are_stacked_by_scan() -> None:
    w = weights(1)[0]

    def step(carry, x):
        out, pullback = funcgrad.vjp(lambda c: jnp.sin(w @ c) + x, carry)
        return out, pullback

    def back(ct, pullback):
        return pullback(ct)[0], None

    def program(carry):
        return jax.lax.scan(lambda c, x: (jnp.sin(w @ c) + x, None), carry, jnp.arange(4.0))[0]

    out, pullbacks = jax.lax.scan(step, jnp.asarray(X), jnp.arange(4.0))
    ct, _ = jax.lax.scan(back, jnp.ones(3), pullbacks, reverse=True)
    np.testing.assert_allclose(out, program(jnp.asarray(X)), rtol=1e-6)
    np.testing.assert_allclose(ct, jax.vjp(program, jnp.asarray(X))[1](jnp.ones(3))[0], rtol=1e-5)


def test_pullbacks_are_mapped_by_vmap() -> None:
    batch = jnp.stack([X, 2 * X])
    out, pullbacks = jax.vmap(lambda x: funcgrad.vjp(jnp.sin, x))(batch)
    (cts,) = jax.vmap(lambda pullback, ct: pullback(ct))(pullbacks, out)
    np.testing.assert_allclose(cts, out * jnp.cos(batch), rtol=1e-6)


def test_a_pullback_can_be_called_twice_and_changes_nothing() -> None:
    _, pullback = funcgrad.vjp(mlp, weights(), X)
    before = [np.array(leaf) for leaf in jax.tree.leaves(pullback)]
    first, second = pullback(jnp.float32(1.0)), pullback(jnp.float32(1.0))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(before, jax.tree.leaves(pullback), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_pullback_is_linear_and_differentiable() -> None:
    _, pullback = funcgrad.vjp(jnp.sin, X)
    for grad in (funcgrad.grad, jax.grad):
        np.testing.assert_allclose(grad(lambda ct: jnp.sum(pullback(ct)[0] * X))(jnp.ones(3)), np.cos(X) * X, rtol=1e-6)


# ---- compilation ----


def count_traces(function: Any) -> tuple[Any, list]:
    """A function, and the list that grows by one whenever its Python code runs."""
    runs: list[int] = []

    def counted(*args: Any) -> Any:
        runs.append(1)
        return function(*args)

    return counted, runs


def test_nested_jit_is_traced_and_compiled_once() -> None:
    body, runs = count_traces(lambda x: jnp.sin(x) * jnp.cos(x))
    inner = jax.jit(body)
    gradient = funcgrad.grad(lambda x: jnp.sum(inner(x) * inner(2 * x)))
    gradient(X)
    first = len(runs)
    with jax.log_compiles(False), compilations() as compiled:
        gradient(2 * X)
        gradient(3 * X)
    assert len(runs) == first == 1
    assert compiled == []


class compilations:
    """Context: the names of what JAX compiles while it is open."""

    def __enter__(self) -> list[str]:
        self.names: list[str] = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self.names

    def _listen(self, event: str, duration: float, **kwargs: Any) -> None:
        if self.names is not None and event.endswith("backend_compile_duration"):
            self.names.append(str(kwargs))

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


def test_eager_gradients_compile_nothing_the_second_time() -> None:
    gradient = funcgrad.value_and_grad(mlp)
    gradient(weights(), X)
    with compilations() as compiled:
        gradient(weights(), 2 * X)
    assert compiled == []


def test_the_listener_hears_a_compilation() -> None:
    with compilations() as compiled:
        jax.jit(lambda x: jnp.sin(x) * 3.14159)(X)
    assert compiled


def test_jit_of_grad_traces_the_function_once() -> None:
    body, runs = count_traces(lambda x: jnp.sum(jnp.sin(x)))
    gradient = jax.jit(funcgrad.grad(body))
    for scale in (1, 2, 3):
        gradient(scale * X)
    assert len(runs) == 1


# ---- nothing is left behind ----


def test_an_exception_leaves_nothing_behind() -> None:
    def fails(x):
        jnp.sin(x)
        raise LookupError("mine")

    def outer(x):
        with pytest.raises(LookupError):
            funcgrad.grad(fails)(x)
        return x * x

    with jax.checking_leaks():
        with pytest.raises(LookupError, match="mine"):
            funcgrad.grad(fails)(1.0)
        assert isinstance(jnp.sin(1.0), jax.Array) and not isinstance(jnp.sin(1.0), jax.core.Tracer)
        assert funcgrad.grad(lambda x: x * x)(3.0) == 6.0
        assert funcgrad.grad(outer)(3.0) == 6.0
        assert funcgrad.grad(funcgrad.grad(lambda x: x**3))(2.0) == 12.0


def test_an_exception_under_jit_and_vmap_leaves_nothing_behind() -> None:
    def fails(x):
        jnp.sin(x)
        raise LookupError("mine")

    for wrapped in (jax.jit(funcgrad.grad(fails)), jax.vmap(funcgrad.grad(fails)), funcgrad.grad(jax.jit(fails))):
        with pytest.raises(LookupError, match="mine"):
            wrapped(jnp.ones(2))
    assert jax.jit(funcgrad.grad(lambda x: x * x))(3.0) == 6.0


def test_no_leaks() -> None:
    def f(x):
        return jnp.sum(jax.jit(jnp.sin)(x) * x)

    with jax.checking_leaks():  # which also switches JAX's caches off
        for transform in (funcgrad.value_and_grad, funcgrad.jacfwd, funcgrad.hessian):
            transform(f)(X)
        jax.jit(funcgrad.grad(f))(X)
        jax.vmap(funcgrad.grad(f))(jnp.stack([X, X]))
        funcgrad.grad(lambda x: jax.lax.scan(lambda c, y: (c * y, c), x, X)[0])(1.0)
        funcgrad.grad(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x))(1.0)
        funcgrad.hvp(f, (X,), (X,))


def test_a_leak_of_the_user_is_found() -> None:
    kept = []

    def leaks(x):
        kept.append(x * 2)
        return x * x

    with pytest.raises(Exception, match="[Ll]eak"), jax.checking_leaks():
        funcgrad.grad(leaks)(1.0)


def test_an_escaped_value_is_refused() -> None:
    kept = []
    funcgrad.grad(lambda x: kept.append(x) or x * x)(1.0)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jnp.sin(kept[0])


def test_jax_checks_are_passed() -> None:
    with jax.enable_checks(True) if callable(jax.enable_checks) else jax.enable_checks:
        funcgrad.hessian(mlp, 1)(weights(), X)
        jax.jit(funcgrad.grad(mlp))(weights(), X)


# ---- threads ----


def test_threads_differentiate_at_once() -> None:
    barrier = threading.Barrier(4)

    def slow(x, n):
        barrier.wait(timeout=60)  # all four are inside their traces here
        for _i in range(20):
            x = jnp.sin(x) * n
        return x

    def run(n):
        return funcgrad.grad(funcgrad.grad(slow))(0.3, float(n))

    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(run, (1, 2, 3, 4)))
    barrier = threading.Barrier(1)
    np.testing.assert_allclose(given, [run(n) for n in (1, 2, 3, 4)], rtol=1e-6)


def test_threads_share_a_compiled_gradient() -> None:
    gradient = jax.jit(funcgrad.grad(mlp))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _i: gradient(weights(), X), range(8)))
    for result in results:
        np.testing.assert_array_equal(result[0], results[0][0])


# ---- size ----


@pytest.mark.parametrize("nodes", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_graph_of_many_nodes(nodes: int) -> None:
    factor = np.float32(1 + 1 / nodes)

    def long(x):
        for _i in range(nodes):
            x = jax.lax.mul(x, factor)
        return x

    value, slope = funcgrad.value_and_grad(long)(jnp.float32(2.0))
    np.testing.assert_allclose(value, 2 * slope, rtol=1e-5)
    np.testing.assert_allclose(slope, np.exp(1.0), rtol=0.02)


def test_a_wide_graph() -> None:
    def wide(x):
        return sum(x * float(i) for i in range(3000))

    assert funcgrad.grad(wide)(1.0) == sum(range(3000))


def test_work_is_linear_in_the_paths_not_exponential() -> None:
    def doubling(x):
        for _i in range(60):
            x = x + x
        return x

    assert funcgrad.grad(doubling)(1.0) == 2.0**60


# ---- determinism ----


@pytest.mark.parametrize("compiled", [False, True])
def test_the_same_bits_run_after_run(compiled: bool) -> None:
    gradient = funcgrad.value_and_grad(mlp, (0, 1))
    if compiled:
        gradient = jax.jit(gradient)
    runs = [jax.tree.leaves(gradient(weights(), X)) for _i in range(3)]
    for run in runs[1:]:
        for a, b in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "uint8", "uint32", "float32", "bfloat16"])
def test_a_sweep_outside_of_jit_is_compiled_right(dtype: str) -> None:
    """XLA drops a copy between two changes of layout where its fusion alone is switched off."""
    with jax.enable_x64(True):
        x = jnp.arange(24).reshape(4, 2, 3).astype(dtype)
        turned = jax.jit(lambda x: x.transpose(2, 0, 1).reshape(3, 8), compiler_options=AS_WRITTEN["cpu"])
        np.testing.assert_array_equal(turned(x), np.asarray(x).transpose(2, 0, 1).reshape(3, 8))


def test_a_complex_layer_over_a_batch_outside_of_jit() -> None:
    """More columns than rows: the cotangent of `w` sums over two dimensions at once."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), jnp.complex64)
            for shape in ((4, 5, 3), (3, 7)))

    def loss(w):
        return jnp.sum(jnp.abs(x @ w) ** 2)

    np.testing.assert_allclose(funcgrad.grad(loss)(w), jax.jit(jax.grad(loss))(w), rtol=1e-5, atol=1e-5)


# ---- through every boundary of JAX ----


@pytest.mark.parametrize("wrap", [
    jax.jit, jax.checkpoint, lambda f: jax.jit(jax.jit(f)), lambda f: lambda x: jax.vmap(f)(x[None])[0],
    lambda f: lambda x: jax.lax.map(f, x[None])[0],
    lambda f: lambda x: jax.lax.scan(lambda c, _x: (f(c) * X, None), x, None, length=2)[0],
    lambda f: lambda x: jax.lax.fori_loop(0, 2, lambda _i, c: f(c) * X, x),
    lambda f: lambda x: jax.lax.cond(x[0] > 0, f, lambda y: jnp.sum(y), x),
    lambda f: lambda x: jax.lax.switch(1, [lambda y: jnp.sum(y), f], x),
    lambda f: jax.named_call(f, name="here"),
], ids=["jit", "checkpoint", "jit of jit", "vmap", "map", "scan", "fori_loop", "cond", "switch", "named_call"])
def test_boundaries_around_the_function(wrap: Any) -> None:
    def f(x):
        return jnp.sum(jnp.sin(x) * x)

    def total(x):
        return jnp.sum(wrap(f)(x))

    for outer in (lambda f: f, jax.jit, lambda f: lambda x: jax.vmap(f)(x[None])[0]):
        np.testing.assert_allclose(outer(funcgrad.grad(total))(jnp.asarray(X)), jax.grad(total)(jnp.asarray(X)),
                                   rtol=1e-5)
        hessian = outer(funcgrad.hessian(total))(jnp.asarray(X))
        np.testing.assert_allclose(hessian, jax.hessian(total)(jnp.asarray(X)), rtol=1e-4, atol=1e-5)


def test_a_closure_over_a_traced_value() -> None:
    def outer(x):
        inner = jax.jit(lambda y: y * x)
        scanned = jax.lax.scan(lambda c, y: (c * x + y, None), 1.0, jnp.arange(3.0))[0]
        return inner(x) + scanned + jax.lax.cond(x > 0, lambda: x * x, lambda: x)

    assert funcgrad.grad(outer)(2.0) == pytest.approx(float(jax.grad(outer)(2.0)))
    assert jax.jit(funcgrad.grad(funcgrad.grad(outer)))(2.0) == pytest.approx(float(jax.grad(jax.grad(outer))(2.0)))


def test_funcgrad_of_a_function_that_calls_jax_grad() -> None:
    def penalty(x):
        return jnp.sum(jax.grad(lambda y: jnp.sum(jnp.sin(y) ** 2))(x) ** 2)

    np.testing.assert_allclose(funcgrad.grad(penalty)(X), jax.grad(penalty)(X), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(funcgrad.grad(penalty))(X), jax.grad(penalty)(X), rtol=1e-5)


@pytest.mark.parametrize("place", [lambda f: f, jax.jit, jax.checkpoint])
def test_a_loop_that_was_traced_under_another_setting_is_another_loop(place) -> None:
    @place
    def noisy(x):
        def step(carry, i):
            return carry * jax.random.uniform(jax.random.fold_in(jax.random.key(0), i), (3,)), None

        return jnp.sum(jax.lax.scan(step, x, jnp.arange(3))[0])

    for how in (True, False, True):
        with jax.threefry_partitionable(how):
            value, gradient = funcgrad.value_and_grad(noisy)(jnp.ones(3))
            np.testing.assert_allclose(value, noisy(jnp.ones(3)), rtol=1e-6)
            np.testing.assert_allclose(gradient, jax.grad(noisy)(jnp.ones(3)), rtol=1e-6)


@pytest.mark.parametrize("place", [jax.jit, lambda f: f, lambda f: jax.jit(jax.jit(f)), jax.checkpoint,
                                   lambda f: lambda x: jax.lax.cond(x[0] > 1, jnp.sum, f, x)])
def test_debug_nans_names_the_operation_of_a_backward_pass(place) -> None:
    root = place(lambda x: jnp.sum(jnp.sqrt(x) * 0))  # 0 * inf
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match=r"invalid value \(nan\) encountered in"):
        funcgrad.grad(root)(jnp.zeros(3))
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match=r"invalid value \(nan\) encountered in"):
        funcgrad.vjp(root, jnp.zeros(3))[1](1.0)
