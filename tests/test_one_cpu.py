"""Products and poolings: their cotangents are written one way on one CPU, another elsewhere, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.caches import clear_caches
from funcgrad.rules import contraction, window
from tests.cases.case import Case
from tests.cases.contraction import DOT
from tests.harness.compare import same_values

TOUCHED = [case for case in DOT if "rows of rows" in case.name or "tall" in case.name or "crosswise" in case.name]

FAST = ("dot_general[rows of rows]", "dot_general[tall, of rows of rows]")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Says whether the rules are to think that they are traced for one CPU."""

    def say(one_cpu: bool) -> None:
        for family in (contraction, window):
            monkeypatch.setattr(family, "on_one_cpu", lambda *operands: one_cpu)
        clear_caches()  # the rules' own programs were traced for the other machine

    yield say
    clear_caches()


def primitives(fun: Callable[..., Any], *args: Any) -> list[str]:
    """The primitives of a program, in order."""
    return [eqn.primitive.name for eqn in jax.make_jaxpr(fun)(*args).jaxpr.eqns]


def products(fun: Callable[..., Any], *args: Any) -> list[tuple[int, ...]]:
    """The shapes of the results of the products that a program computes, in order."""
    return [eqn.outvars[0].aval.shape for eqn in jax.make_jaxpr(fun)(*args).jaxpr.eqns
            if eqn.primitive.name == "dot_general"]


@pytest.mark.parametrize("case", [case if case.name in FAST else pytest.param(case, marks=pytest.mark.slow)
                                  for case in TOUCHED], ids=lambda case: case.name)
def test_the_same_gradient_however_it_is_written(case: Case, elsewhere: Callable[[bool], None]) -> None:
    """Orders one and two, the layouts that one of the two writes otherwise."""

    def loss(*args: Any) -> Any:
        return jnp.sum(jnp.sin(jnp.real(case.fun(*args))))

    active = tuple(i for i, x in enumerate(case.args(np.random.default_rng(0))) if np.issubdtype(x.dtype, np.inexact))
    first = funcgrad.grad(loss, active)
    second = funcgrad.grad(lambda *args: sum(jnp.sum(jnp.real(x * x)) for x in first(*args)), active)
    found = []
    for one_cpu in (True, False):
        elsewhere(one_cpu)
        with jax.enable_x64(True):
            args = [jnp.asarray(x) for x in case.args(np.random.default_rng(0))]
            found.append([*first(*args), *second(*args)])
    same_values(*found, case.name, scale=16.0)


def weights_of_rows(x: Any, w: Any) -> Any:
    """A layer over a batch of sequences."""
    return jnp.sum(jnp.tanh(x @ w))


def test_on_one_cpu_a_weight_has_a_product_of_matrices(elsewhere: Callable[[bool], None]) -> None:
    """XLA's CPU backend copies a factor that is summed over two dimensions."""
    args = jnp.ones((2, 3, 4)), jnp.ones((4, 3))
    gradient = funcgrad.grad(weights_of_rows, 1)
    elsewhere(True)
    assert primitives(gradient, *args)[-3:] == ["reshape", "reshape", "dot_general"]
    assert "reshape" not in primitives(gradient, args[0], jnp.ones((4, 4))), "a copy of the narrower factor is cheap"
    elsewhere(False)
    assert "reshape" not in primitives(gradient, *args)


def test_on_one_cpu_a_tall_product_is_computed_wide(elsewhere: Callable[[bool], None]) -> None:
    """And transposed with a dimension of size one between, so that XLA does not make it tall again."""
    args = jnp.ones((3, 64)), jnp.ones((64, 2))
    gradient = funcgrad.grad(weights_of_rows, 1)
    elsewhere(True)
    assert primitives(gradient, *args)[-4:] == ["dot_general", "reshape", "transpose", "reshape"]
    assert products(gradient, *args)[-1] == (2, 64)
    elsewhere(False)
    assert products(gradient, *args)[-1] == (64, 2)
    assert "reshape" not in primitives(gradient, *args)


def test_a_product_that_is_not_tall_is_left(elsewhere: Callable[[bool], None]) -> None:
    """To turn the result costs a copy: not for nothing."""
    elsewhere(True)
    assert "reshape" not in primitives(funcgrad.grad(weights_of_rows, 1), jnp.ones((3, 8)), jnp.ones((8, 2)))


@pytest.mark.parametrize("in_axes", [(None, 0), (0, 0), (2, 1)])
def test_a_tall_product_of_each_example(in_axes: tuple[int | None, int], elsewhere: Callable[[bool], None]) -> None:
    """Under vmap it has a batch; a barrier in it, and one more result, made XLA abort the process."""
    w = jnp.ones((64, 2) if in_axes[0] is None else np.insert((64, 2), in_axes[0], 5))
    x = jnp.ones(np.insert((3, 64), in_axes[1], 5))
    elsewhere(True)
    ours, jaxs = (jax.jit(jax.vmap(lib.grad(weights_of_rows, (0, 1)), in_axes[::-1])) for lib in (funcgrad, jax))
    for given, wanted in zip(ours(x, w), jaxs(x, w), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-6)


def test_what_is_laid_out_over_devices_is_never_merged() -> None:
    """A mesh with explicit axes: to merge a dimension would be an error there, or move data."""
    mesh = jax.make_mesh((1, 1), ("rows", "columns"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(np.full((2, 3, 4), 0.1, np.float32), jax.P("rows", "columns", None))
        gradient = jax.jit(funcgrad.grad(weights_of_rows, 1))
        assert "reshape" not in primitives(gradient.__wrapped__, x, jnp.ones((4, 3)))
        np.testing.assert_allclose(gradient(x, jnp.ones((4, 3))), jax.grad(weights_of_rows, 1)(x, jnp.ones((4, 3))),
                                   rtol=1e-6)


def test_tiles_choose_what_windows_choose(elsewhere: Callable[[bool], None]) -> None:
    """Of ties the first, and beside NaN whatever XLA's own order of comparisons gives."""
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (300, 4, 5)).astype(np.float32)
    for special in (np.nan, np.inf, -np.inf, -0.0):
        x[rng.random(x.shape) < 0.1] = special
    ct = rng.standard_normal((300, 2, 2)).astype(np.float32)

    def pooled(x: Any) -> Any:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2), (1, 2, 2), "VALID")

    found = []
    for one_cpu in (True, False):
        elsewhere(one_cpu)
        pull = jax.jit(lambda x, ct: funcgrad.vjp(pooled, x)[1](ct)[0])
        assert ("select_and_scatter_add" in str(jax.make_jaxpr(pull)(x, ct))) != one_cpu
        found.append(pull(x, ct))
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], jax.vjp(pooled, x)[1](ct)[0])


def test_large_and_overlapping_windows_are_left(elsewhere: Callable[[bool], None]) -> None:
    """Written out element by element they would be long programs."""
    elsewhere(True)
    for size, stride in ((3, 2), (17, 17)):
        pooled = jax.make_jaxpr(funcgrad.grad(lambda x, size=size, stride=stride: jnp.sum(
            jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (size,), (stride,), "VALID"))))(jnp.ones(40))
        assert "select_and_scatter_add" in str(pooled)
