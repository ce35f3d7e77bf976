"""Right programs give no alarm, wrong rules are named with line, step, branch and index, whoever is to blame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.crosscheck.oracles import DEFAULT, QUICK
from funcgrad.crosscheck.report import Verdict
from tests.harness.mutants import mutated

X = np.array([0.3, -1.2, 0.7, 2.0], np.float32)


def some(table: dict[str, Any], *fast: str) -> list:
    """Parameters: these run each time, the others are slow."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in table]


@jax.custom_vjp
def cube(x: jax.Array) -> jax.Array:
    return x**3


cube.defvjp(lambda x: (cube(x), x), lambda x, ct: (2 * x**2 * ct,))


@jax.custom_jvp
def square(x: jax.Array) -> jax.Array:
    return x * x


@square.defjvp
def square_jvp(primals: Any, tangents: Any) -> Any:
    return square(primals[0]), 3 * primals[0] * tangents[0]


def in_scan(x: jax.Array) -> jax.Array:
    def step(carry: jax.Array, t: jax.Array) -> Any:
        return jnp.sin(carry) + cube(t), None

    return lax.scan(step, 0.0, x)[0]


def in_cond(x: jax.Array) -> jax.Array:
    return lax.cond(x[0] > 0, lambda v: jnp.sum(cube(v)), jnp.sum, x)


def in_while(x: jax.Array) -> jax.Array:
    return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + cube(s[2]), s[2] * 0.5), (0, 0.0, x[3]))[1]


WHERE: dict[str, tuple[Callable[..., Any], str]] = {
    "plain": (lambda x: jnp.sum(jnp.cos(cube(x))), ""),
    "jit": (jax.jit(lambda x: jnp.sum(cube(x))), "jit `<lambda>`"),
    "scan": (in_scan, "scan step 3"),
    "cond": (in_cond, "cond branch 1"),
    "while": (in_while, "while iteration 1"),
    "vmap": (lambda x: jnp.sum(jax.vmap(cube)(x)), "vmap index 3"),
}


@pytest.mark.parametrize("where", some(WHERE, "plain", "vmap"))
def test_a_wrong_rule_is_named_with_its_line_and_place(where: str) -> None:
    fun, place = WHERE[where]
    report = funcgrad.check(fun, X)
    row = report.blamed
    assert not report.ok and row is not None
    assert (row.name, row.verdict, row.subject) == ("cube", Verdict.WRONG, "both")
    assert "test_check.py:" in row.line and "test_check.py:2" in row.reason and "`cube`" in row.reason
    assert place in row.place or not place
    assert row.truth == pytest.approx(1.5 * np.real(row.ours), rel=1e-3)
    assert row.error_rel == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.slow
def test_a_wrong_jvp_rule_is_named() -> None:
    row = funcgrad.check(lambda x: jnp.sum(jnp.sin(square(x))), X).blamed
    assert row is not None and (row.name, row.subject) == ("square", "both")


def test_the_batch_index_of_a_mapped_function_is_named() -> None:
    @jax.custom_vjp
    def half_right(x: jax.Array) -> jax.Array:
        return jnp.sin(x)

    half_right.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (jnp.where(x > 1, 0, jnp.cos(x)) * ct,))
    report = funcgrad.check(jax.vmap(lambda row: jnp.sum(half_right(row))), jnp.ones((5, 2)).at[3, 1].set(1.5))
    row = report.blamed
    assert row is not None and row.name == "half_right" and "vmap index 3" in row.place
    assert row.cotangent == "cotangent of operand 0[3, 1]"


def test_a_rule_of_ours_that_is_wrong_is_told_from_the_users_rule() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(jnp.sin(x)))

    assert funcgrad.check(fun, X).ok
    with mutated("sin", "x1.01"):
        row = funcgrad.check(fun, X).blamed
    assert row is not None and (row.name, row.subject) == ("sin", "funcgrad")


@pytest.mark.slow
def test_inside_a_users_rule_the_primitive_is_named() -> None:
    with mutated("mul", "x2"):
        row = funcgrad.check(lambda x: jnp.sum(jax.nn.softplus(x)), X).blamed
    assert row is not None and (row.name, row.subject) == ("mul", "funcgrad")


def test_a_wrong_type_is_wrong() -> None:
    with mutated("sin", "wrong dtype"):
        row = funcgrad.check(lambda x: jnp.sum(jnp.sin(x)), X).blamed
    assert row is not None and row.name == "sin" and "bfloat16" in row.reason


def overflowing_norm(x: jax.Array) -> jax.Array:
    return jnp.linalg.norm(x)


def masked_zero_weight(b: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(jnp.array([1.0, 0.0]), b=b)


FORWARD_CODE = {
    "norm in float16": (overflowing_norm, np.full((3, 3), 100, np.float16)),
    "sinc at 1e-4": (jnp.sinc, np.float32(1e-4)),
    "logsumexp of a zero weight": (masked_zero_weight, np.array([1.0, 0.0], np.float32)),
}


@pytest.mark.parametrize("what", some(FORWARD_CODE, "sinc at 1e-4"))
def test_faults_born_in_forward_code_are_seen(what: str) -> None:
    fun, arg = FORWARD_CODE[what]
    report = funcgrad.check(fun, arg)
    assert not report.ok, str(report)


@pytest.mark.slow
def test_a_primitive_of_jax_that_is_wrong_is_jaxs_fault() -> None:
    a = np.array([[4.0, 0.3], [0.5, 3.0]], np.float32)
    row = funcgrad.check(lambda x: jnp.sum(jax.scipy.linalg.cholesky(x, lower=False)), a).blamed
    assert row is not None and row.subject == "jax", row
    assert row.truth == pytest.approx(row.ours, abs=1e-5)


@jax.custom_vjp
def reversed_gradient(x: Any) -> Any:
    return x


reversed_gradient.defvjp(lambda x: (x, None), lambda _residual, ct: (-ct,))


RIGHT: dict[str, tuple[Callable[..., Any], Any]] = {
    "relu at 0": (lambda x: jnp.sum(jax.nn.relu(x)), np.array([0.0, 1.0, -1.0])),
    "maximum at a tie": (lambda x: jnp.sum(jnp.maximum(x, x[::-1])), np.array([1.0, 2.0, 1.0])),
    "max of ties": (lambda x: jnp.max(x), np.array([1.0, 3.0, 3.0, 3.0])),
    "sort of ties": (lambda x: jnp.sort(x) @ jnp.array([1.0, 5.0, 2.0, 7.0]), np.array([1.0, 1.0, 1.0, 0.0])),
    "abs at 0": (lambda x: jnp.sum(jnp.abs(x)), np.array([0.0, -0.0, 2.0])),
    "clip at its ends": (lambda x: jnp.sum(jnp.clip(x, -1, 1)), np.array([-1.0, 1.0, 0.5])),
    "top_k of ties": (lambda x: lax.top_k(x, 2)[0].sum(), np.array([1.0, 1.0, 1.0])),
    "median of ties": (jnp.median, np.array([0.0, 1.0, 1.0, 2.0])),
    "median of equals": (jnp.median, np.zeros(8)),  # each may move alone, and nothing changes
    "a gradient reversed on purpose": (lambda x: jnp.sum(reversed_gradient(x) ** 2), np.array([1.0, 2.0])),
    "norm": (jnp.linalg.norm, np.array([3.0, 4.0])),
    "softmax": (lambda x: jax.nn.log_softmax(x)[1], np.array([1.0, 2.0, 30.0])),
    "layer norm": (lambda x: jnp.sum(((x - x.mean()) / jnp.sqrt(x.var() + 1e-5))[0]), np.array([1.0, 2.0, 4.0])),
    "gelu": (lambda x: jnp.sum(jax.nn.gelu(x)), np.array([-3.0, 0.1, 2.0])),
    "cumprod with a zero": (lambda x: jnp.sum(jnp.cumprod(x)), np.array([1.0, 0.0, 3.0])),
    "solve": (lambda x: jnp.sum(jnp.linalg.solve(x.reshape(2, 2), x[:2])), np.array([2.0, 1.0, 0.5, 3.0])),
    "gather": (lambda x: jnp.sum(x[jnp.array([0, 0, 2])] ** 2), np.array([1.0, 2.0, 3.0])),
    "fft": (lambda x: jnp.sum(jnp.abs(jnp.fft.rfft(x))), np.array([1.0, 2.0, 4.0, 0.5])),
}


@pytest.mark.parametrize("what", some(RIGHT, "relu at 0", "sort of ties", "softmax",
                                      "a gradient reversed on purpose"))
def test_right_programs_give_no_alarm(what: str) -> None:
    fun, arg = RIGHT[what]
    report = funcgrad.check(fun, jnp.asarray(arg, "float32"))
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("what", RIGHT)
def test_nor_at_order_2_and_in_half_precision(what: str, dtype: str) -> None:
    fun, arg = RIGHT[what]
    if dtype != "float32" and what in ("solve", "fft"):
        dtype = "float32"  # these have no half precision
    report = funcgrad.check(fun, jnp.asarray(arg, dtype), order=2)
    assert report.ok, str(report)


def test_kinks_are_called_conventions() -> None:
    for what in ("relu at 0", "max of ties", "abs at 0"):
        fun, arg = RIGHT[what]
        assert "convention" in funcgrad.check(fun, arg).counts, what


def test_a_nan_is_not_a_match_and_one_that_is_masked_is_no_alarm() -> None:
    report = funcgrad.check(lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0)), np.array([0.0, 4.0], np.float32))
    assert not report.ok and report.blamed is not None and report.blamed.name == "sqrt"
    assert report.blamed.verdict is Verdict.NONFINITE
    masked = funcgrad.check(lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)),
                            np.array([0.0, 4.0], np.float32))
    assert masked.ok, str(masked)


def test_a_cut_path_is_dead_and_says_who_cut_it() -> None:
    report = funcgrad.check(lambda x, y: jnp.sum(jnp.round(x) * 2) + jnp.sum(y), X, X)
    (row,) = [row for row in report.rows if row.verdict is Verdict.DEAD]
    assert report.ok and row.name == "round" and row.cotangent == "cotangent of primals[0]"
    assert "test_check.py" in row.line


def test_the_breadcrumb_names_the_leaf() -> None:
    report = funcgrad.check(lambda t, p: jnp.sum(cube(p["w"]) * t), 2.0, {"w": X.reshape(2, 2), "b": X})
    (row,) = [r for r in report.failing if "primals" in r.cotangent]
    assert row.cotangent.startswith("cotangent of primals[1]['w'][")


def test_argnums_integers_and_pytrees_of_outputs() -> None:
    def fun(x: Any, n: Any, y: Any) -> Any:
        return {"a": x * n, "b": [y**2, n]}

    report = funcgrad.check(fun, 2.0, 3, 1.5)
    assert report.ok and {r.cotangent for r in report.rows if "primals" in r.cotangent} == {
        "cotangent of primals[0]", "cotangent of primals[2]"}
    assert all("primals[0]" not in r.cotangent for r in funcgrad.check(fun, 2.0, 3, 1.5, argnums=2).rows)


def test_python_control_flow_on_values() -> None:
    def fun(x: Any) -> Any:
        return cube(x) if x > 0 else x

    assert funcgrad.check(fun, -1.0).ok
    row = funcgrad.check(fun, 1.0).blamed
    assert row is not None and row.name == "cube"


@pytest.mark.slow
def test_the_global_depth_blames_only_when_something_is_wrong() -> None:
    for oracles in (DEFAULT, QUICK):
        right = funcgrad.check(lambda x: jnp.sum(jnp.sin(x)), X, depth="global", oracles=oracles)
        assert right.ok and len(right.rows) == 1
    wrong = funcgrad.check(lambda x: jnp.sum(cube(x)), X, depth="global")
    assert wrong.blamed is not None and wrong.blamed.name == "cube"


@pytest.mark.slow
def test_order_2_sees_a_rule_whose_derivative_is_wrong() -> None:
    @jax.custom_vjp
    def sine(x: jax.Array) -> jax.Array:
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (lax.stop_gradient(jnp.cos(x)) * ct,))
    assert funcgrad.check(lambda x: jnp.sum(sine(x)), X).ok
    row = funcgrad.check(lambda x: jnp.sum(sine(x)), X, order=2).blamed
    assert row is not None and row.name == "sine" and row.oracle.startswith("order 2")


@pytest.mark.slow
def test_gamma_samples_have_their_own_oracle() -> None:
    key = jax.random.key(0)
    report = funcgrad.check(lambda a: jnp.sum(jax.random.gamma(key, a)), np.array([0.7, 3.0], np.float32))
    assert report.ok, str(report)
    rejection = [row for row in report.rows if row.name == "random_gamma"]
    assert rejection and all(row.verdict is Verdict.MATCH for row in rejection)


@pytest.mark.parametrize("call, error", [
    (lambda: funcgrad.check(3, 1.0), TypeError),
    (lambda: funcgrad.check(jnp.sin, 1), TypeError),
    (lambda: funcgrad.check(jnp.sin), TypeError),
    (lambda: funcgrad.check(jnp.sin, 1.0, order=3), ValueError),
    (lambda: funcgrad.check(jnp.sin, 1.0, depth="deep"), ValueError),
    (lambda: funcgrad.check(jnp.sin, 1.0, ct=(1.0, 2.0)), ValueError),
])
def test_wrong_calls_are_told_so(call: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


def test_a_trusted_rule_is_taken_as_it_is_and_the_others_are_judged() -> None:
    @jax.custom_vjp
    def straight_through(x: jax.Array) -> jax.Array:
        return jnp.round(x)

    straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _residual, ct: (ct,))
    for patterns in (("straight*",), "straight_through", ("*/test_check.py:straight_through",)):
        report = funcgrad.check(lambda x: jnp.sum(straight_through(x) * x), X, trusted=patterns)
        assert report.ok, str(report)
    assert not funcgrad.check(lambda x: jnp.sum(straight_through(x) * x), X, trusted=("other",)).ok
    row = funcgrad.check(lambda x: jnp.sum(cube(straight_through(x))), X, trusted=("straight_through",)).blamed
    assert row is not None and row.name == "cube"


def test_a_rule_that_is_wrong_only_under_vmap_is_ours_to_mend_also_where_no_truth_is_known() -> None:
    with mutated("reduce_precision", "under vmap"):
        row = funcgrad.check(lambda x: jnp.sum(lax.reduce_precision(x, 5, 10)), X).blamed
    assert row is not None and (row.name, row.subject) == ("reduce_precision", "funcgrad")
    assert "under vmap" in row.reason
    assert funcgrad.check(lambda x: jnp.sum(lax.reduce_precision(x, 5, 10)), X).ok


@pytest.mark.slow
def test_behind_a_fault_of_jax_ours_is_seen_too() -> None:
    def fun(z: jax.Array) -> jax.Array:
        return jnp.sum(jnp.real(jnp.sign(z) * jnp.array([1.0, 2.0, 3.0j])))

    z = np.array([0.3 + 1j, -1.2 + 0.5j, 0.7 - 2j], np.complex64)
    with mutated("sign", "one in many"):
        report = funcgrad.check(fun, z)
    assert any(row.name == "sign" and row.subject in ("funcgrad", "both") for row in report.failing), str(report)
