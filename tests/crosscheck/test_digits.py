"""Slopes below a rounding of the value are seen relative to themselves; no alarm where they count for nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.crosscheck.judging import digits
from funcgrad.crosscheck.oracles import ManyDigits
from funcgrad.crosscheck.seeds import SEEDS, run_seed
from funcgrad.crosscheck.values import exact
from funcgrad.crosscheck.values.exact import NotExact, Run, evaluate_exactly
from funcgrad.crosscheck.values.roundings import rounding_noise

BY_NAME = {seed.name: seed for seed in SEEDS}


def f64(*values: float) -> np.ndarray:
    return np.array(values if len(values) > 1 else values[0], np.float64)


@pytest.fixture(autouse=True)
def double_precision() -> Any:
    with jax.enable_x64(True):
        yield


SLOW = ("softmax of two far apart", "i0 of an affine function", "elu far left", "selu far left", "tanh tail, float64",
        "tanh tail, float32", "sigmoid tail")


@pytest.mark.parametrize("name", [
    "expm1 far left",
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_seed_whose_slope_is_small_is_called_wrong(name: str) -> None:
    assert run_seed(BY_NAME[name]).verdict == "wrong"


def test_jax_is_blamed_and_both_sides_and_the_truth_are_told() -> None:
    row = funcgrad.check(jnp.tanh, f64(20.0)).blamed
    assert row is not None and row.name == "tanh" and row.subject == "jax" and row.oracle == ManyDigits().name
    assert row.theirs == 0.0 and row.truth == pytest.approx(1.6993417021166355e-17, rel=1e-15)
    assert row.ours == pytest.approx(row.truth, rel=1e-12)


def test_a_users_rule_that_loses_its_digits_is_wrong_however_its_value_looks() -> None:
    @jax.custom_vjp
    def squash(x: Any) -> Any:
        return jnp.tanh(x)

    squash.defvjp(lambda x: (jnp.tanh(x),) * 2, lambda y, ct: (ct * (1 - y * y),))
    row = funcgrad.check(squash, f64(20.0)).blamed
    assert row is not None and row.name == "squash" and row.subject == "both" and row.ours == 0.0
    assert funcgrad.check(squash, f64(2.0)).ok


def test_a_slope_that_counts_for_nothing_in_the_gradient_is_told_and_no_alarm() -> None:
    report = funcgrad.check(lambda x: jnp.sum(jnp.tanh(x)), f64(-1.0, 20.0, 3.0))
    told = [row for row in report.rows if row.oracle == ManyDigits().name]
    assert report.ok and [row.verdict for row in told] == ["convention"] and "counts for nothing" in told[0].reason


@pytest.mark.parametrize("fun, x", [
    (jnp.tanh, np.float32(60.0)),  # below the smallest normal number
    (jnp.tanh, jnp.bfloat16(5.0)), (jnp.tanh, np.float16(9.0)),  # half precision
    (jax.nn.silu, f64(40.0)), (jax.nn.gelu, f64(-6.0)), (jax.nn.softplus, f64(-50.0)), (jnp.exp, f64(-300.0)),
    (jax.scipy.special.erfc, f64(6.0)), (lambda x: (jnp.tanh(x) - 1) ** 2 + 3, f64(20.0)),
    pytest.param(lambda z: -jax.nn.log_softmax(z)[0], f64(40.0, 0.0, 1.0), marks=pytest.mark.slow),  # its value is lost
    pytest.param(lambda x: lax.clamp(x - 1, lax.cumsum(x, reverse=True), x + 1), f64(0.5, 1.0), marks=pytest.mark.slow),
    (lambda x: x * jnp.abs(x), f64(0.0)), (lambda t: jnp.abs(2 * t - 1), f64(0.5)),
    (lambda t: jax.nn.relu(2 * t - 1) * 3, f64(0.5)), 
    pytest.param(jnp.median, f64(1.0, 1.0, 1.0, 1.0, 2.0), marks=pytest.mark.slow)])
def test_right_programs_are_no_alarm(fun: Callable[..., Any], x: Any) -> None:
    report = funcgrad.check(fun, jnp.asarray(x))
    assert report.ok, str(report)


@pytest.mark.parametrize("fun", [
    lambda x: jnp.sum(lax.stop_gradient(x) * x),
    lambda x: jnp.sum((x - lax.stop_gradient(jnp.sin(x))) ** 2),
    jax.jit(lambda x: jnp.sum(lax.stop_gradient(jnp.exp(x)) * jax.nn.softmax(x))),
    lambda x: lax.scan(lambda c, t: (c + lax.stop_gradient(t) * t, None), 0.0, x)[0]])
def test_a_path_that_the_user_cuts_is_no_alarm(fun: Callable[..., Any]) -> None:
    report = funcgrad.check(fun, jnp.asarray([1.0, 2.0, 0.5]))
    assert report.ok, str(report)


@jax.custom_vjp
def cube(x: Any) -> Any:
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, ct: (2 * x**2 * ct,))


def test_behind_a_cut_path_a_wrong_rule_is_still_seen() -> None:
    assert not funcgrad.check(lambda x: jnp.sum(lax.stop_gradient(x) * cube(x)), jnp.asarray([1.0, 2.0])).ok


def test_without_mpmath_the_other_oracles_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "arithmetic", lambda: None)
    assert funcgrad.check(jnp.tanh, f64(20.0)).ok
    assert not funcgrad.check(cube, f64(2.0)).ok


# ---- the arithmetic ----

X, M = np.array([0.3, -1.2, 2.0, 0.7]), np.arange(6.0).reshape(2, 3) / 7


@pytest.mark.parametrize("fun, args", [
    (lambda x: jnp.exp(x) + jnp.tanh(x) * jax.nn.sigmoid(x) - jnp.expm1(x) / (1 + jnp.log1p(x * x)), (X,)),
    (lambda x: jnp.sqrt(jnp.abs(x)) ** 3 + jnp.cbrt(x) + lax.rsqrt(x * x) + jnp.exp2(x) + lax.square(x), (X,)),
    (lambda x: jnp.sin(x) + jnp.cos(x) + lax.erf(x) + lax.erfc(x) + jnp.sign(x) + jnp.floor(x) + jnp.ceil(x), (X,)),
    (lambda x: lax.lgamma(x) + lax.digamma(x) + lax.bessel_i0e(x) + lax.bessel_i1e(x) + lax.erf_inv(x / 9), (X,)),
    (lambda x: jnp.where(x > 0, x, -2 * x)[::-1] + jnp.maximum(x, 0.5) + jnp.clip(x, -1, 1), (X,)),
    (lambda x: jnp.sort(x) + jnp.cumsum(x) + jnp.cumprod(x) + lax.cummax(x) + lax.cummin(x, reverse=True), (X,)),
    (lambda x: x[jnp.array([0, 2, 2])] * jnp.pad(x, 1)[:3] + jnp.concatenate([x, x])[1:4], (X,)),
    (lambda x: jnp.sum(x) + jnp.max(x) + jnp.min(x) + jnp.prod(x) + jax.nn.logsumexp(x), (X,)),
    (lambda m: jnp.einsum("ij,kj->ik", m, m) @ m + m.T.reshape(2, 3), (M,)),
    (lambda m: jnp.einsum("bij,bjk->bik", m[None] + 0.1, m.T[None] * 2), (M,)),
    (lambda x: lax.scan(lambda c, t: (jnp.tanh(c + t), c * t), 0.1, x, reverse=True), (X,)),
    (lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x) + x.astype(int) + (x > 0), (X,)),
    (lambda x, y: jnp.power(jnp.abs(x), y) + x**2, (X, X + 1))])
def test_the_exact_program_computes_what_jax_computes(fun: Callable[..., Any], args: Any) -> None:
    program = jax.make_jaxpr(fun)(*args)
    found = evaluate_exactly(program, list(map(exact.exact, args)), Run())
    for given, wanted in zip(found, jax.tree.leaves(fun(*args)), strict=True):
        np.testing.assert_allclose(given.astype(np.float64), wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("fun, x, words", [
    (jnp.fft.rfft, X, "`fft` has no exact form"), (jnp.log, -X, "not real"), (jnp.log, X - 5, "not real"),
    (lambda x: jnp.outer(x, x), np.ones(100), "more than 2000 numbers"), (jnp.abs, X + 1j, "complex")])
def test_what_cannot_be_computed_exactly_is_refused(fun: Callable[..., Any], x: np.ndarray, words: str) -> None:
    program = jax.make_jaxpr(fun)(x)
    with pytest.raises(NotExact, match=words):
        evaluate_exactly(program, [exact.exact(x)], Run())


# ---- rounding inside ----


@pytest.mark.parametrize("fun, x", [
    # flat in float64 only because 1 + e^-50 is 1
    pytest.param(lambda x: jax.nn.logsumexp(jnp.stack([x, 0 * x])), f64(-50.0), marks=pytest.mark.slow),
    (lambda x: 1 + x, f64(-1 + 2e-7)),  # the moved input is rounded, which counts beside a small value
    (jax.scipy.special.i0e, np.float32(1e4)),  # a difference of two functions in each rule that there is
    (lambda x: x - jnp.tanh(x), np.float32(1e-3)), (lambda x: x - jnp.tanh(x), np.float32(1e-4)),
    (lambda x: -jnp.log(jax.nn.sigmoid(x) + 1e-7), np.float32(16.0)),
    (lambda x: jnp.exp(-x * x), np.float32(12.0)), (jax.scipy.special.erf, np.float32(6.0)),
    (jax.nn.sigmoid, np.float32(-100.0)),
    pytest.param(lambda x: jax.nn.softmax(jnp.stack([x, 0 * x]))[0], np.float32(-80.0), marks=pytest.mark.slow)])
def test_what_the_roundings_inside_explain_is_no_alarm(fun: Callable[..., Any], x: Any) -> None:
    report = funcgrad.check(fun, x)
    assert report.ok, str(report)


def test_roundings_inside_excuse_no_answer_without_a_right_digit() -> None:
    @jax.custom_vjp
    def sinc(x: Any) -> Any:
        return jnp.where(x == 0, 1.0, jnp.sin(x) / x)

    sinc.defvjp(lambda x: (sinc(x), x), lambda x, ct: (ct * (jnp.cos(x) - jnp.sin(x) / x) / x,))
    assert not funcgrad.check(sinc, np.float32(1e-4)).ok
    assert funcgrad.check(sinc, np.float32(0.5)).ok


def test_noise_is_that_of_the_operations_and_of_no_other() -> None:
    moved = rounding_noise(lambda x: [x - jnp.tanh(x), jnp.concatenate([x, -x])[::-1]], [np.array([1e-3], np.float32)])
    assert 0.2e-10 < moved[0][0] < 3e-10  # a last place of tanh(0.001)
    assert np.all(moved[1] == 0)
    looped = rounding_noise(lambda x: [lax.scan(lambda c, _: (c * 1.5, None), x, None, length=9)[0]], [f64(1.0)])
    assert 1e-15 < looped[0] < 2e-13
