"""Where a NaN comes from: inside every kind of program, eagerly and compiled, and what is no fault."""

import doctest
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.inspection.mending import mends
from funcgrad.inspection.places import Line, Place
from tests.inspection.nonfinite_programs import PROGRAMS, X, masked_root


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_operation_is_found_in_every_kind_of_program(name: str) -> None:
    function, argument, steps = PROGRAMS[name]
    report = funcgrad.find_nonfinite(function, argument)
    assert report and report.place is not None
    assert (report.place.operation, report.place.function) == ("sqrt", "masked_root")
    assert "jnp.sqrt(x)" in report.place.code and report.place.file == masked_root.__code__.co_filename
    assert report.place.steps == steps
    assert report.place.operands == (0.0,) and report.place.cotangent == 0.0
    assert report.hidden_by is not None and report.hidden_by.operation == "where"


def test_a_value_that_a_later_iteration_reads_is_blamed_where_it_was_made() -> None:
    def body(state: tuple, _: Any) -> tuple:
        log, x = state
        return (jnp.log(x), x - 1), jnp.where(jnp.isfinite(log), log * x, x)

    report = funcgrad.find_nonfinite(lambda x: lax.scan(body, (x, x), None, length=5)[1].sum(), 2.0)
    assert report.place is not None and report.place.operation == "log" and report.place.phase == "value"
    assert report.place.operands == (0.0,) and report.place.steps == {"scan step": 2}


def test_own_rules_are_opened() -> None:
    @jax.custom_jvp
    def f(x: Any) -> Any:
        return x * 2

    @f.defjvp
    def slope(primals: tuple, tangents: tuple) -> tuple:
        (x,), (t,) = primals, tangents
        return f(x), t * 2 / x

    @jax.custom_vjp
    def h(x: Any) -> Any:
        return x * 2

    h.defvjp(lambda x: (h(x), x), lambda x, ct: (ct * 2 / x,))
    for rule, kind in ((f, "custom_jvp rule"), (h, "custom_vjp rule")):
        report = funcgrad.find_nonfinite(rule, 0.0)
        assert report.place is not None and report.place.operation == "div" and "2 / x" in report.place.code
        assert kind in [inside.what for inside in report.place.inside]
        assert any("rule of your own" in mend for mend in report.mends)

        def calls_it(x: Any, rule: Callable = rule) -> Any:
            return rule(x) * 2

        report = funcgrad.find_nonfinite(jax.jit(calls_it), 0.0)  # staged, a rule may be known by its caller only
        assert report.place is not None and report.place.operation == "div"
        assert "rule(x)" in report.place.code or "2 / x" in report.place.code


# ---- what counts ----


def test_values_come_before_cotangents() -> None:
    report = funcgrad.find_nonfinite(lambda x: jnp.sum(jnp.sqrt(x - 1) * jnp.log(x)), X)
    assert report.place is not None and (report.place.operation, report.place.phase) == ("sqrt", "value")
    assert report.in_value and report.place.operands == (-1.0,) and report.place.number == "nan"
    assert report.place.index == (1,) and report.hidden_by is None


def test_infinite_masks_are_no_fault() -> None:
    def attention(x: Any) -> Any:
        return jnp.sum(jax.nn.softmax(jnp.where(x > 0.5, x, -jnp.inf)) * x)

    assert funcgrad.find_nonfinite(attention, X).ok
    report = funcgrad.find_nonfinite(attention, X * 0)  # all masked: -inf - -inf
    assert report.place is not None and (report.place.operation, report.place.number) == ("sub", "nan")


def test_an_infinity_that_disappears_again_is_not_told_of() -> None:
    assert funcgrad.find_nonfinite(lambda x: jnp.sum(x / (1 + lax.stop_gradient(jnp.exp(x + 200)))), X).ok


def test_what_is_given_is_named_as_given() -> None:
    report = funcgrad.find_nonfinite(lambda weights: jnp.sum(weights["a"] * 2), {"a": np.array([1.0, np.nan])})
    assert report.place is not None and report.place.phase == "input" and report.place.index == (1,)
    assert "weights.a" in str(report)
    constant = jnp.array([1.0, jnp.inf])
    report = funcgrad.find_nonfinite(lambda x: jnp.sum(x * constant), np.ones(2, np.float32))
    assert report.place is not None and report.place.phase == "constant" and report.in_gradient == ("x",)


def test_nan_in_the_data_is_named_as_given() -> None:
    """Nonlinear, by a matrix, captured, in a loop and in a batch: no operation made it."""
    data = np.array([[1.0, 2.0], [np.nan, 1.0]], np.float32)

    def squares(x: Any) -> Any:
        return jnp.sum(jnp.tanh(x) ** 2)

    def fit(w: Any, x: Any) -> Any:
        return jnp.sum((x @ w) ** 2)

    w = np.ones(2, np.float32)
    cases = ((squares, (data,), "x", (1, 0)), (jax.jit(squares), (data,), "x", (1, 0)), (fit, (w, data), "x", (1, 0)),
             (lambda w: fit(w, jnp.asarray(data)), (w,), "float32[2,2]", (1, 0)),
             (lambda xs: lax.scan(lambda c, x: (c + squares(x), None), 0.0, xs)[0], (data,), "xs", (1, 0)),
             (lambda xs: jax.vmap(squares)(xs).sum(), (data,), "xs", (1, 0)))
    for function, args, name, index in cases:
        place = funcgrad.find_nonfinite(function, *args).place
        assert place is not None and place.phase == ("constant" if "[" in name else "input"), name
        assert name in place.operation and (place.number, place.index) == ("nan", index)
        assert (place.code == "return jnp.sum((x @ w) ** 2)") == (place.phase == "constant")


def test_nan_in_the_data_that_is_thrown_away_is_named_where_it_meets_a_cotangent_of_0() -> None:
    def without_missing(x: Any) -> Any:
        return jnp.sum(jnp.where(jnp.isnan(x), 0.0, x**2))

    report = funcgrad.find_nonfinite(without_missing, np.array([1.0, np.nan], np.float32))
    assert report.place is not None and report.place.operation == "integer_pow 2" and report.place.cotangent == 0
    assert report.hidden_by is not None and report.hidden_by.operation == "where"
    assert "jnp.where(jnp.isnan(x), 0.0, safe ** 2)" in report.mends[0]
    assert not any("negative power" in mend for mend in report.mends)

    def fit(w: Any) -> Any:
        score = jnp.array([[1.0, 2.0], [jnp.nan, 1.0]]) @ w
        return jnp.sum(jnp.where(jnp.isnan(score), 0.0, score) ** 2)

    report = funcgrad.find_nonfinite(fit, np.ones(2, np.float32))
    assert report.place is not None and report.place.operation == "dot_general"
    assert report.hidden_by is not None and report.hidden_by.operation == "where"  # a comparison hides nothing
    assert any("strong_zeros" in mend for mend in report.mends)
    assert np.isfinite(funcgrad.grad(fit, strong_zeros=True)(jnp.ones(2))).all()


def test_the_element_is_told_among_others_that_were_bad_before() -> None:
    def f(x: Any) -> Any:
        return jnp.sum(jnp.exp(x + jnp.array([-jnp.inf, 0.0])))

    report = funcgrad.find_nonfinite(f, np.array([1.0, 200.0], np.float32))
    assert report.place is not None and (report.place.operation, report.place.index) == ("exp", (1,))


def test_half_precision_and_complex_numbers() -> None:
    report = funcgrad.find_nonfinite(lambda x: jnp.sum(x**2), jnp.array([1.0, 300.0], jnp.float16))
    assert report.place is not None and report.place.number == "inf" and report.place.index == (1,)
    report = funcgrad.find_nonfinite(lambda x: jnp.sum(1 / x).real, jnp.array([1.0, 0.0], jnp.complex64))
    assert report.place is not None and report.place.operation == "div"
    report = funcgrad.find_nonfinite(lambda x: jnp.sum(jnp.log(x)), jnp.array([1.0, 0.0], jnp.bfloat16))
    assert report.place is not None and report.place.operation == "log"


def test_the_mend_is_that_of_the_number_at_hand() -> None:
    """Below its domain, above what the type holds, and at its edge an operation wants different things."""
    wanted = {
        "jnp.sqrt(jnp.maximum(x, tiny))": (lambda x: jnp.sqrt(x), -1.0),
        "jnp.sqrt(x + tiny)": (lambda x: jnp.sqrt(x), 0.0),
        "jnp.log(jnp.maximum(x - 3, tiny))": (lambda x: jnp.log(x - 3), 1.0),
        "than float32 holds": (lambda x: x**2, 1e30),
        "wider type": (lambda x: 1e30 / x, 1e-30),
        "1 / jnp.where(x == 0, 1.0, x)": (lambda x: 1 / x, 0.0),
        "jnp.arccos(jnp.clip(x, tiny - 1, 1 - tiny))": (lambda x: jnp.arccos(jnp.clip(x, -1.0, 1.0)), 1.0),
        "small number to its diagonal": (lambda x: jnp.linalg.slogdet(x * jnp.ones((2, 2)))[1], 1.0),
    }
    for text, (function, x) in wanted.items():
        mends = funcgrad.find_nonfinite(function, x).mends
        assert text in mends[0], (text, mends)
        assert not any("rule of your own" in mend for mend in mends)  # that of slogdet is JAX's


def test_matrices() -> None:
    report = funcgrad.find_nonfinite(lambda a: jnp.sum(jnp.linalg.cholesky(a)), -np.eye(2, dtype=np.float32))
    assert report.place is not None and report.place.operation == "cholesky"
    assert "positive definite" in report.mends[0]


def test_keywords_and_integers_are_passed_on() -> None:
    report = funcgrad.find_nonfinite(lambda x, n, *, shift: jnp.sum(jnp.sqrt(x - shift)) * n, X, 2, shift=4.0)
    assert report.in_gradient == ("x",) and report.place is not None


def test_a_gradient_may_be_searched_too() -> None:
    """The function is what is asked for; its gradient is a function as well, whose lines are the function's."""
    report = funcgrad.find_nonfinite(funcgrad.grad(masked_root), X)
    assert report.in_value and report.place is not None
    assert report.place.operation == "div" and "jnp.sqrt(x)" in report.place.code


# ---- wrong inputs, and the report itself ----


def test_tracers_are_refused_with_advice() -> None:
    with pytest.raises(TypeError, match="debug_nonfinite"):
        jax.jit(lambda x: funcgrad.find_nonfinite(masked_root, x))(X)
    with pytest.raises(TypeError):
        funcgrad.find_nonfinite(3.0, X)
    with pytest.raises(TypeError, match="report must be a function"):
        funcgrad.debug_nonfinite(report="print")


def test_the_report_prints_and_travels() -> None:
    report = funcgrad.find_nonfinite(masked_root, X)
    text = str(report)
    for part in ("the gradient with respect to x is not finite", "sqrt(0.0)", "index 1", "in `masked_root`", "`where`",
                 "safe = jnp.where(x > 0, x, 1.0)", "jnp.where(x > 0, jnp.sqrt(safe), 0.0)", "strong_zeros=True",
                 "jnp.sqrt(x + tiny)", "To fix:"):
        assert part in text
    told = json.loads(report.to_json())
    assert told["place"]["operation"] == "sqrt" and told["place"]["index"] == [1] and not told["ok"]
    assert hash(report) == hash(funcgrad.find_nonfinite(masked_root, X)) and report.found
    fine = funcgrad.find_nonfinite(masked_root, X + 1)
    assert fine.ok and not fine and "finite" in str(fine) and json.loads(fine.to_json())["ok"]


def test_a_mend_reads_the_line_whatever_stands_there() -> None:
    place = Place("div", "f.py", 1, "f", "y = where(m, a / b[0], c)", "a / b[0]", cotangent=0.0)
    hidden = Line("where", "f.py", 1, "f", "y = where(m, a / b[0], c)", "where(m, a / b[0], c)")
    first = mends(place, hidden)[0]
    assert "safe = jnp.where(m, b[0], 1.0)" in first and "where(m, a / safe, c)" in first
    for expression in ("", "a +", "f(x)(y)", "x[", "[a for a in b]"):
        assert mends(Place("log", "f.py", 1, "f", expression, expression, cotangent=0.0), hidden)
    assert mends(Place("some_new_operation"), None)


WRITTEN = {
    "quotient": (lambda x: jnp.sum((x - jnp.mean(x)) / jnp.sqrt(jnp.var(x))), jnp.ones(3),
                 "(x - jnp.mean(x)) / jnp.sqrt(jnp.var(x) + tiny)"),
    "std": (lambda x: jnp.std(x), jnp.ones(3), "jnp.sqrt(jnp.var(x) + tiny)"),
    "method": (lambda x: jnp.sum(x.std(axis=0)), jnp.ones((3, 2)), "jnp.sqrt(x.var(axis=0) + tiny)"),
    "norm": (lambda x: jnp.sum(jnp.linalg.norm(x, axis=1)), jnp.array([[0.0, 0.0], [3.0, 4.0]]),
             "jnp.sqrt(jnp.sum(x ** 2, axis=1) + tiny)"),
    "unit": (lambda x: jnp.sum(x / jnp.linalg.norm(x)), jnp.zeros(2), "x / jnp.sqrt(jnp.sum(x ** 2) + tiny)"),
    "half": (lambda x: jnp.log1p(jnp.exp(2 * x)), jnp.float16(6), "jnp.exp(jnp.minimum(2 * x, 11.0))"),
    "angle": (lambda x: jnp.arctan2(x[0], x[1]), jnp.zeros(2),
              "jnp.arctan2(x[0], jnp.where((x[0] == 0) & (x[1] == 0), 1.0, x[1]))"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_mend_writes_is_the_same_function_made_finite(name: str) -> None:
    """With the precedence of its operators, and for `std` and `norm`, which hide the root, with the root in sight."""
    function, x, text = WRITTEN[name]
    (mend,) = [mend for mend in funcgrad.find_nonfinite(function, x).mends if ": write " in mend]
    assert f"`{text}`" in mend

    def mended(x: jax.Array) -> jax.Array:
        return jnp.sum(eval(text, {"jnp": jnp, "x": x, "tiny": 1e-12}))

    assert np.isfinite(mended(x)) and np.isfinite(funcgrad.grad(mended)(x)).all()


def test_a_function_that_does_it_inside_is_named() -> None:
    mend = funcgrad.find_nonfinite(lambda z: jnp.angle(z[0] + 1j * z[1]), jnp.zeros(2)).mends[0]
    assert "`angle` computes it inside" in mend
    mend = funcgrad.find_nonfinite(lambda x: jax.nn.logsumexp(x), jnp.array([-jnp.inf, -jnp.inf])).mends[0]
    assert "all operands of `logsumexp` are -inf" in mend


def test_zero_times_an_infinity_is_told_as_that() -> None:
    def entropy(x: jax.Array) -> jax.Array:
        logits = jnp.where(jnp.array([True, True, False]), x, -jnp.inf)
        return jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits))

    report = funcgrad.find_nonfinite(entropy, X)
    assert report.place.operation == "mul" and "0 times an infinity" in report.mends[0]


def test_of_a_librarys_line_the_users_own_is_told_too() -> None:
    optax = pytest.importorskip("optax")

    def length(x: jax.Array) -> jax.Array:
        return optax.tree.norm({"w": x})  # mine

    report = funcgrad.find_nonfinite(jax.jit(length), jnp.zeros(2))
    assert report.place.file.endswith(".py") and "optax" in report.place.file
    assert report.place.caller.code == 'return optax.tree.norm({"w": x})  # mine'
    assert report.place.caller.function.endswith("length")
    assert "called:" in str(report) and any("# mine" in mend for mend in report.mends)
    assert funcgrad.find_nonfinite(masked_root, X).place.caller is None


def test_the_page_gives_what_it_says() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "nonfinite.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert attempted and not failed
