"""The battery for one rule: every question is answered wrong by a rule that is wrong in just that way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from funcgrad import extend, registry
from funcgrad.crosscheck.battery import AGREE, BOUNDARY, PRIMAL_BODY, QUESTIONS, SECOND_ORDER, check_rule
from funcgrad.crosscheck.report import Verdict

X = jnp.array([0.5, -1.25, 2.0])
Y = jnp.array([1.5, 0.25, -0.75])


def cube_with(backward: Callable[..., Any], forward: Callable[..., Any] | None = None) -> Any:
    """x**3 as a `custom_vjp` whose backward rule is ``backward(x, ct)``."""

    @jax.custom_vjp
    def cube(x: Any) -> Any:
        return x * x * x

    cube.defvjp(forward or (lambda x: (x * x * x, x)), lambda x, ct: (backward(x, ct),))
    return cube


def product_with(backward: Callable[..., Any], forward: Callable[..., Any] | None = None, zeros: bool = False) -> Any:
    """(x y, x + y) as a `custom_vjp` with ``backward((x, y, more), cts)``."""

    @jax.custom_vjp
    def product(x: Any, y: Any) -> Any:
        return x * y, x + y

    def plain(x: Any, y: Any) -> Any:
        return (x * y, x + y), (x, y, None)

    product.defvjp(forward or plain, backward, symbolic_zeros=zeros)
    return product


def right(residuals: Any, cts: Any) -> Any:
    """The right rule of the product."""
    x, y, _ = residuals
    return cts[0] * y + cts[1], cts[0] * x + cts[1]


def is_zero(ct: Any) -> bool:
    """A zero that the rule is told of."""
    return isinstance(ct, jax.custom_derivatives.SymbolicZero)


def forgets_symbolic_zeros(residuals: Any, cts: Any) -> Any:
    cts = [jnp.ones(ct.shape, ct.dtype) if is_zero(ct) else ct for ct in cts]
    return right(residuals, cts)


def spoilt_by_an_inactive_input(x: Any, y: Any) -> Any:
    """The forward rule tells the backward rule whether both inputs move."""
    factor = 1.0 if x.perturbed and y.perturbed else 2.0
    return (x.value * y.value, x.value + y.value), (x.value, y.value, factor)


def scaled(residuals: Any, cts: Any) -> Any:
    cts = [jnp.zeros(ct.shape, ct.dtype) if is_zero(ct) else ct for ct in cts]
    return tuple(residuals[2] * ct for ct in right(residuals, cts))


class Counter:
    """A rule with a memory."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any, ct: Any) -> Any:
        self.calls += 1
        return 3 * x * x * ct * (1 + 0.01 * self.calls)


def writes_into_its_input(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        x += 1
    return x * x * x, x


def kind_of_tracer(name: str) -> Callable[..., Any]:
    """Another cotangent where the residual is a tracer of this kind."""
    return lambda x, ct: 3 * x * x * ct * (2.0 if name in type(x).__name__ else 1.0)


def in_bfloat16(x: Any, ct: Any) -> Any:
    return 3 * x * x * ct * (1.5 if x.dtype == jnp.bfloat16 else 1)


def at_zero(x: Any, ct: Any) -> Any:
    return jnp.where(x == 0, 1.0, 3 * x * x) * ct


def frozen(x: Any, ct: Any) -> Any:
    return 3 * lax.stop_gradient(x * x) * ct


#: question -> a rule that is wrong in this way, and its arguments.
WRONG: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "number, shape and dtype of cotangents": (cube_with(lambda x, ct: jnp.sum(3 * x * x * ct)), (X,)),
    "value under differentiation": (cube_with(lambda x, ct: 3 * x * x * ct, lambda x: (x * x, x)), (X,)),
    "additive in the cotangent": (cube_with(lambda x, ct: 3 * x * x * jnp.clip(ct, -0.5, 0.5)), (X,)),
    "homogeneous in the cotangent": (cube_with(lambda x, ct: 3 * x * x * ct / jnp.linalg.norm(ct)), (X,)),
    "zero to zero": (cube_with(lambda x, ct: 3 * x * x * ct + 1e-3), (X,)),
    "one output at a time (symbolic zeros)": (product_with(forgets_symbolic_zeros, lambda x, y: (
        (x.value * y.value, x.value + y.value), (x.value, y.value, None)), zeros=True), (X, Y)),
    "one input at a time": (product_with(scaled, spoilt_by_an_inactive_input, zeros=True), (X, Y)),
    "deterministic": (cube_with(Counter()), (X,)),
    "under jit": (cube_with(kind_of_tracer("Jaxpr")), (X,)),
    "under vmap": (cube_with(kind_of_tracer("Batch")), (X,)),
    "inside scan": (cube_with(kind_of_tracer("Jaxpr")), (X,)),
    "in low precision": (cube_with(in_bfloat16), (X,)),
    PRIMAL_BODY: (cube_with(lambda x, ct: 2 * x * x * ct), (X,)),
    SECOND_ORDER: (cube_with(frozen), (X,)),
    BOUNDARY: (cube_with(at_zero), (X,)),
}


@pytest.mark.parametrize("question", WRONG)
def test_a_rule_wrong_in_this_way_is_caught(question: str) -> None:
    rule, args = WRONG[question]
    report = check_rule(rule, *args, questions=(question,))
    assert [row.oracle for row in report.rows if row.verdict is Verdict.WRONG] == [question], str(report)
    assert report.blamed.name == rule.__name__
    assert report.blamed.line.startswith("test_rule_battery.py:")
    assert report.blamed.reason


@pytest.mark.parametrize("question", sorted(set(WRONG) - {PRIMAL_BODY, "zero to zero"}))
def test_the_right_rule_passes_where_the_wrong_one_is_caught(question: str) -> None:
    if len(WRONG[question][1]) == 2:
        report = check_rule(product_with(right), X, Y, questions=(question,))
    else:
        report = check_rule(cube_with(lambda x, ct: 3 * x * x * ct), X, questions=(question,))
    assert [row.verdict for row in report.rows] == [Verdict.MATCH], str(report)


def test_wrong_numbers_and_dtypes_of_cotangents_are_findings() -> None:
    several = cube_with(lambda x, ct: 3 * x * x * ct)
    several.defvjp(lambda x: (x**3, x), lambda x, ct: (3 * x * x * ct, ct))
    halves = cube_with(lambda x, ct: (3 * x * x * ct).astype(jnp.int32))
    for rule in (several, halves):
        report = check_rule(rule, X, questions=("number, shape and dtype of cotangents",))
        assert report.blamed is not None and report.blamed.verdict is Verdict.WRONG, str(report)


def test_a_rule_that_writes_into_its_input_is_caught() -> None:
    @jax.custom_vjp
    def cube(x: Any) -> Any:
        return writes_into_its_input(x)[0]

    cube.defvjp(writes_into_its_input, lambda x, ct: (3 * x * x * ct,))

    class Direct:
        """What calls the body with the very arrays that it was given."""

        __name__ = "cube"

        def __call__(self, x: Any) -> Any:
            return writes_into_its_input(x)[0] if isinstance(x, np.ndarray) else cube(x)

    report = check_rule(Direct(), X, questions=("inputs untouched",))
    assert report.blamed is not None and "writes into operand 0" in report.blamed.reason


@jax.custom_jvp
def softplus(x: Any) -> Any:
    """A right rule of forward mode."""
    return jnp.logaddexp(x, 0.0)


softplus.defjvps(lambda t, out, x: t * jax.nn.sigmoid(x))


class Scale(extend.Function):
    """A right rule of funcgrad's own kind, of a pytree."""

    @staticmethod
    def forward(tree: Any, factor: Any) -> Any:
        return tree["w"] * factor, (tree["w"], factor)

    @staticmethod
    def backward(residuals: Any, ct: Any) -> Any:
        w, factor = residuals
        return {"w": ct * factor}, jnp.sum(ct * w)


@pytest.mark.slow
@pytest.mark.parametrize("rule, args", [
    (cube_with(lambda x, ct: 3 * x * x * ct), (X,)), (product_with(right), (X, Y)), (softplus, (X,)),
    (Scale, ({"w": X}, jnp.float32(1.5))), (jax.nn.relu, (X,)), (jax.nn.silu, (X,)),
    (jax.scipy.special.logsumexp, (X,)),
], ids=["custom_vjp", "two outputs", "custom_jvp", "Function", "relu", "silu", "logsumexp"])
def test_right_rules_give_no_alarm(rule: Any, args: tuple[Any, ...]) -> None:
    report = check_rule(rule, *args)
    assert report.ok, str(report)
    assert {row.oracle for row in report.rows} == set(QUESTIONS)


def make_primitive(name: str, partial: Callable[..., Any]) -> Primitive:
    """x**3 as a primitive that JAX cannot differentiate, with a rule in funcgrad's table."""
    primitive = Primitive(name)
    primitive.def_impl(lambda x: x * x * x)
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, mlir.lower_fun(lambda x: x * x * x, multiple_results=False))
    batching.defvectorized(primitive)
    extend.pointwise(primitive, partial)
    return primitive


@pytest.fixture
def cubes() -> Iterator[tuple[Primitive, Primitive]]:
    """A primitive with a right and one with a wrong rule; the table is as it was afterwards."""
    right = make_primitive("battery_right_cube", lambda _out, x: lax.mul(lax.full_like(x, 3), lax.mul(x, x)))
    wrong = make_primitive("battery_wrong_cube", lambda _out, x: lax.mul(lax.full_like(x, 2), lax.mul(x, x)))
    yield right, wrong
    for primitive in (right, wrong):
        del registry._RULES[primitive]


def test_a_primitive_with_a_rule_of_its_own(cubes: tuple[Primitive, Primitive]) -> None:
    asked = ("additive in the cotangent", "under vmap", PRIMAL_BODY)
    assert check_rule(cubes[0], X, questions=asked).ok
    report = check_rule(cubes[1], X, questions=asked)
    assert [row.oracle for row in report.failing] == [PRIMAL_BODY], str(report)


def test_a_primitive_of_jax_is_asked_of_both() -> None:
    report = check_rule(lax.sin_p, X, params={"accuracy": None}, questions=("under jit", AGREE))
    assert [row.oracle for row in report.rows] == ["under jit, jax", "under jit, funcgrad", AGREE]
    assert report.ok


def test_integers_stay_fixed() -> None:
    @jax.custom_vjp
    def power(x: Any, n: Any) -> Any:
        return x**n

    power.defvjp(lambda x, n: (x**n, (x, n)), lambda kept, ct: (ct * kept[1] * kept[0] ** (kept[1] - 1), None))
    assert check_rule(power, X, jnp.int32(3), questions=("zero to zero", "deterministic", "under jit")).ok


@pytest.mark.parametrize("call, error, words", [
    (lambda: check_rule(3, X), TypeError, "function or a primitive"),
    (lambda: check_rule(softplus, 3), TypeError, "no floating or complex argument"),
    (lambda: check_rule(softplus, X, params={}), TypeError, "belongs to a primitive"),
    (lambda: check_rule(softplus, X, questions=("is it nice",)), ValueError, "unknown question"),
])
def test_wrong_calls_are_told_so(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
