"""funcgrad in the place of JAX's reverse mode, or beside it: what is found, what is undone, what is said."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import grad as imported_before
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.test_util import check_grads

from funcgrad.crosscheck.report import Verdict
from funcgrad.crosscheck.substitute import ORIGINALS, paused, substitute
from tests.harness.mutants import mutated

X = jnp.array([0.5, -1.25, 2.0])


def wave(x: Any) -> Any:
    """A loss with `sin` in it, of which a mutant makes every gradient wrong."""
    return jnp.sum(jnp.sin(x) * x)


made_before = jax.grad(wave)
jitted_before = jax.jit(jax.value_and_grad(wave))
inner = jax.jit(jnp.sin)


def by_hessian(x: Any) -> Any:
    return jax.hessian(wave)(x)


#: Ways to take one gradient or more; each is seen by a block.
WAYS: dict[str, Callable[[Any], Any]] = {
    "grad": lambda x: jax.grad(wave)(x),
    "value_and_grad": lambda x: jax.value_and_grad(wave)(x),
    "vjp": lambda x: jax.vjp(wave, x)[1](1.0),
    "jacrev": lambda x: jax.jacrev(jnp.sin)(x),
    "jacobian": lambda x: jax.jacobian(jnp.sin)(x),
    "hessian": by_hessian,
    "jit": lambda x: jax.jit(jax.grad(wave))(x),
    "hessian in jit": lambda x: jax.jit(by_hessian)(x),
    "vmap": lambda x: jax.vmap(jax.grad(jnp.sin))(x),
    "vmap in jit": lambda x: jax.jit(jax.vmap(jax.grad(jnp.sin)))(x),
    "scan": lambda x: jax.lax.scan(lambda w, _: (w - jax.grad(wave)(w), w), x, None, length=2),
    "forward over reverse": lambda x: jax.jvp(jax.grad(wave), (x,), (x,)),
    "imported by name before": lambda x: imported_before(wave)(x),
    "made before": lambda x: made_before(x),
    "jitted before": lambda x: jitted_before(x),
    "a jitted function inside": lambda x: jax.grad(lambda x: jnp.sum(inner(x)))(x),
    "a pullback that leaves jit": lambda x: jax.jit(lambda x: jax.vjp(wave, x))(x)[1](1.0),
    "a pullback that enters jit": lambda x: jax.jit(lambda pull: pull(1.0))(jax.vjp(wave, x)[1]),
    "check_grads": lambda x: check_grads(wave, (x,), order=1, modes=["rev"], atol=0.1, rtol=0.1),
}
#: What is quick to try under a wrong rule too.
QUICK = ("grad", "jit", "vjp", "scan", "made before", "jitted before")
jitted_before(X)


@pytest.mark.parametrize("way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in WAYS])
def test_every_way_to_take_a_gradient_is_compared(way: str) -> None:
    plain = WAYS[way](X)
    with substitute("check") as record:
        given = WAYS[way](X)
        figures = record.figures
    assert figures.taken > 0
    assert figures.matched == figures.taken, str(record.report)
    for mine, wanted in zip(jax.tree.leaves(given), jax.tree.leaves(plain), strict=True):
        if isinstance(wanted, jax.Array):  # in a `check` block the user gets JAX's answer
            np.testing.assert_allclose(mine, wanted, rtol=1e-5)


@pytest.mark.parametrize("way", [way if way in ("grad", "jitted before") else pytest.param(way, marks=pytest.mark.slow)
                                 for way in WAYS])
def test_a_wrong_rule_of_ours_is_seen_whatever_the_way(way: str) -> None:
    with mutated("sin", "x2"), substitute("check") as record:
        WAYS[way](X)
        assert record.figures.wrong > 0
    blamed = record.report.blamed
    assert blamed is not None and blamed.subject == "funcgrad", str(record.report)
    assert "sin" in blamed.name or way.startswith("hessian"), str(record.report)


@pytest.mark.parametrize("way", ["grad", "value_and_grad", "vjp", "jacrev", "jit", "made before", "jitted before",
                                 "imported by name before", "scan", pytest.param("hessian", marks=pytest.mark.slow)])
def test_swap_computes_with_our_rules(way: str) -> None:
    with mutated("cos", "sign"), mutated("sin", "sign"), substitute("swap") as record:
        swapped = jax.tree.leaves(WAYS[way](X))
    assert record.figures.taken > 0
    plain = jax.tree.leaves(WAYS[way](X))
    assert any(not np.allclose(mine, theirs) for mine, theirs in zip(swapped, plain, strict=True))


def test_all_is_undone_also_after_an_exception() -> None:
    module = types.ModuleType("made_during_the_test")
    import sys

    sys.modules[module.__name__] = module
    module.gradient = jax.grad  # type: ignore[attr-defined]
    try:
        with pytest.raises(RuntimeError, match="user"), substitute("check"):
            assert jax.grad is not ORIGINALS["grad"]
            assert module.gradient is jax.grad is imported_before  # type: ignore[attr-defined]
            stray = jax.grad
            late = jax.grad(wave)
            raise RuntimeError("user")
    finally:
        del sys.modules[module.__name__]
    for name, original in ORIGINALS.items():
        assert getattr(jax, name) is original
    assert module.gradient is ORIGINALS["grad"] is imported_before  # type: ignore[attr-defined]
    np.testing.assert_array_equal(stray(wave)(X), made_before(X))  # held by nobody that could be found: JAX's again
    np.testing.assert_array_equal(late(X), made_before(X))


def test_what_was_traced_inside_is_not_used_outside() -> None:
    compiled = jax.jit(jax.grad(wave))
    with substitute("check") as record:
        compiled(X)
    before = record.figures.taken
    compiled(X)
    jax.effects_barrier()
    assert before == record.figures.taken == 1
    assert "callback" not in str(compiled.trace(X).jaxpr)


def test_nested_gradients_count_with_the_outermost() -> None:
    with substitute("check") as record:
        jax.grad(lambda x: jnp.sum(jax.grad(wave)(x) ** 2))(X)
    assert (record.figures.taken, record.figures.matched) == (1, 1)


def test_the_inner_block_counts_and_the_outer_goes_on() -> None:
    with substitute("check") as outer:
        with substitute("swap") as inside:
            jax.grad(wave)(X)
        jax.grad(wave)(X)
    assert (inside.figures.taken, outer.figures.taken) == (1, 1)
    assert jax.grad is ORIGINALS["grad"]


def test_paused_gradients_are_jaxs_alone() -> None:
    with mutated("sin", "x2"), substitute("check") as record:
        with paused():
            jax.jit(jax.grad(wave))(X)
        assert record.figures.taken == 0
        jax.jit(jax.grad(wave))(X)
        assert record.figures.wrong == 1


# ---- the user's own rules, on which both sides agree ----


def make_rounding(name: str) -> Any:
    """Rounding with the gradient of the identity: not the derivative of its primal body."""

    def body(x: Any) -> Any:
        return jnp.tanh(x) * 2

    body.__name__ = name
    custom = jax.custom_vjp(body)
    custom.defvjp(lambda x: (body(x), None), lambda _, ct: (ct,))
    return custom


@pytest.mark.parametrize("compiled", [False, True])
def test_a_wrong_custom_rule_is_wrong_though_both_agree(compiled: bool) -> None:
    rounding = make_rounding("rounding")
    gradient = jax.grad(lambda x: jnp.sum(rounding(x)))
    with substitute("check") as record:
        (jax.jit(gradient) if compiled else gradient)(X)
        assert record.figures.wrong == 1
    blamed = record.report.blamed
    assert (blamed.name, blamed.subject) == ("rounding", "both")
    assert "test_substitute.py" in blamed.line


def test_a_wrong_custom_rule_in_a_program_that_was_traced_before() -> None:
    rounding = make_rounding("rounding")
    loss = jax.jit(lambda x: jnp.sum(rounding(x)))
    loss(X)
    with substitute("check") as record:
        jax.grad(loss)(X)
        first = record.turn_page()
        jax.grad(lambda x: loss(x) * 2)(X)
        second = record.turn_page()
    assert [rows[0].name for rows in (first, second)] == ["rounding", "rounding"]


@pytest.mark.parametrize("pattern", ["rounding", "*/test_substitute.py:round*"])
def test_a_trusted_rule_may_differ(pattern: str) -> None:
    rounding = make_rounding("rounding")
    with substitute("check", trusted=(pattern,)) as record:
        jax.grad(lambda x: jnp.sum(rounding(x)))(X)
    assert record.report.ok and record.figures.matched == 1


def test_a_trusted_rule_beside_another_one() -> None:
    rounding, right = make_rounding("rounding"), jax.custom_vjp(lambda x: jnp.sin(x))
    right.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
    with substitute("check", trusted=("rounding",)) as record:
        jax.grad(lambda x: jnp.sum(rounding(right(x))))(X)
    assert record.report.ok and record.figures.matched == 1, str(record.report)
    wrong = make_rounding("wrong")
    with substitute("check", trusted=("rounding",)) as record:
        jax.grad(lambda x: jnp.sum(rounding(wrong(x))))(X)
    assert record.report.blamed.name == "wrong" and record.figures.wrong == 1


#: Ways to differentiate a rule with no function of the user's around it.
BARE: dict[str, Callable[[Any], Any]] = {
    "grad": lambda rule: jax.grad(rule)(2.0),
    "vjp": lambda rule: jax.vjp(rule, 2.0)[1](1.0),
    "jit(grad)": lambda rule: jax.jit(jax.grad(rule))(2.0),
    "grad(jit)": lambda rule: jax.grad(jax.jit(rule))(2.0),
    "vmap(grad)": lambda rule: jax.vmap(jax.grad(rule))(jnp.array([0.0, 2.0])),
    "jacrev": lambda rule: jax.jacrev(rule)(jnp.array([2.0])),
    "map": lambda rule: list(map(jax.grad(rule), [2.0])),
    "hessian": lambda rule: jax.hessian(rule)(2.0),
    "grad(grad)": lambda rule: jax.grad(jax.grad(rule))(2.0),
    "grad(vjp)": lambda rule: jax.grad(lambda x: jax.vjp(rule, x)[1](1.0)[0])(2.0),
}


@pytest.mark.parametrize("way", [way if way in ("grad", "vjp", "vmap(grad)", "grad(grad)") else
                                 pytest.param(way, marks=pytest.mark.slow) for way in BARE])
def test_a_wrong_rule_is_where_its_gradient_was_asked_for(way: str) -> None:
    rounding = make_rounding("rounding")
    record = judged_elsewhere(lambda: BARE[way](rounding))
    wrong = record.report.failing
    assert wrong and wrong[0].name == "rounding" and record.figures.wrong, str(record.report)
    code = BARE[way].__code__
    assert {row.line.split(" in ")[0] for row in wrong} == {f"test_substitute.py:{code.co_firstlineno}"}


def judged_elsewhere(step: Callable[[], Any]) -> Any:
    """The record of a block, settled at another line than the gradient was taken."""
    with substitute("check") as record:
        step()
        eval(compile("record.settle()", "some_machinery.py", "eval"), {"record": record})
    return record


def test_the_second_derivative_of_a_rule_says_nothing_of_the_first() -> None:
    rounding = make_rounding("rounding")
    with substitute("check") as record:
        jax.jit(jax.grad(jax.grad(rounding)))(2.0)  # a rule inside a compiled gradient's gradient is not judged
        assert record.figures.wrong == 0
        jax.grad(rounding)(2.0)
        assert record.figures.wrong == 1


@pytest.mark.slow
def test_the_step_of_a_scan_is_named() -> None:
    rounding = make_rounding("rounding")

    def loss(x: Any) -> Any:
        return jnp.sum(jax.lax.scan(lambda c, _: (rounding(c), None), x, None, length=2)[0])

    with substitute("check") as record:
        jax.jit(jax.grad(loss))(X)
    assert any("scan step" in place for place in record.report.blamed.place), str(record.report)


# ---- what is no fault ----


def test_kinks_and_roundings_are_no_alarm() -> None:
    at_kinks = jnp.array([0.0, -1.0, 1.0, 1.0])
    with substitute("check") as record:
        jax.grad(lambda x: jnp.sum(jax.nn.relu(x)) + jnp.max(x) + jnp.sum(jnp.abs(x)))(at_kinks)
        jax.jit(jax.grad(lambda x: jnp.mean(jnp.tanh(50 * x))))(X)  # saturated: all digits are rounding
    assert record.report.ok and record.figures.wrong == 0, str(record.report)


def test_infinities_on_both_sides_are_counted_apart() -> None:
    with substitute("check") as record:
        jax.grad(jnp.sqrt)(0.0)
    assert (record.figures.nonfinite, record.figures.wrong) == (1, 0)


def test_what_funcgrad_cannot_differentiate_is_unsupported_and_jaxs_answer_is_given(
        monkeypatch: pytest.MonkeyPatch) -> None:
    primitive = Primitive("only_jax_knows")
    primitive.def_impl(lax.neg)
    primitive.def_abstract_eval(lambda x: x)
    for told in (ad.primitive_jvps, ad.primitive_transposes):  # a rule of JAX's own: funcgrad never asks it
        monkeypatch.setitem(told, primitive, told[lax.neg_p])
    with substitute("check") as record:
        assert jax.grad(lambda x: primitive.bind(x) * x)(3.0) == -6.0
    (row,) = record.report.rows
    assert record.figures.unsupported == 1 and record.report.ok
    assert row.verdict is Verdict.UNSUPPORTED and "only_jax_knows" in row.reason
    assert "test_substitute.py" in row.line


@pytest.mark.parametrize("compiled", [False, True])
def test_containers_that_a_function_changes_are_as_after_one_run(compiled: bool) -> None:
    seen: list[str] = []
    parts = deque([2.0])

    def loss(x: Any) -> Any:
        seen.append("run")
        return jnp.sum(x) * parts.popleft()

    with substitute("check") as record:
        (jax.jit(jax.grad(loss)) if compiled else jax.grad(loss))(X)
    assert (seen, list(parts)) == (["run"], [])
    assert record.figures.matched == 1


@pytest.mark.parametrize("mode", ["check", "swap"])
def test_the_users_errors_are_jaxs(mode: str) -> None:
    with substitute(mode):
        with pytest.raises(TypeError, match="scalar-output"):
            jax.grad(jnp.sin)(X)
        with pytest.raises(TypeError, match="real- or complex-valued inputs"):
            jax.grad(lambda n: n * 2.0)(3)
        with pytest.raises(ZeroDivisionError):
            jax.grad(lambda x: x * (1 // 0))(1.0)
        with pytest.raises(TypeError):
            jax.grad(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["check", "swap"])
def test_options_go_through(mode: str) -> None:
    def loss(w: Any, n: Any, *, scale: float) -> Any:
        return jnp.sum(w["a"] ** n) * scale, {"n": n}

    wanted = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)({"a": X}, 2, scale=3.0)
    with substitute(mode) as record:
        found = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)({"a": X}, 2, scale=3.0)
        jax.grad(lambda z: z**2, holomorphic=True)(1.0 + 2.0j)
        jax.vjp(lambda k, x: jnp.sum(jax.random.normal(k, x.shape) * x), jax.random.key(0), X)[1](1.0)
        jax.jit(lambda k, x: jax.grad(lambda x: jnp.sum(jax.random.normal(k, x.shape) * x))(x))(jax.random.key(0), X)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    np.testing.assert_allclose(found[1][0]["a"], wanted[1][0]["a"], rtol=1e-6)
    assert record.report.ok and record.figures.taken == 4


def test_the_modes_have_names() -> None:
    with pytest.raises(ValueError, match="unknown mode 'both'"), substitute("both"):  # type: ignore[arg-type]
        pass


# ---- libraries ----


def flax_gradient() -> Any:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    return nnx.grad(lambda model: jnp.sum(jnp.tanh(model(X)) ** 2))(model)


def flax_step() -> Any:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    return nnx.jit(nnx.value_and_grad(lambda model: jnp.sum(jnp.tanh(model(X)) ** 2)))(model)


def equinox_gradient() -> Any:
    model = eqx.nn.MLP(3, "scalar", width_size=4, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    return eqx.filter_jit(eqx.filter_grad(lambda model, x: model(x) ** 2))(model, X)


@functools.cache
def bounded(step: Callable[[], Any]) -> Any:
    """The library's own gradient."""
    return step()


@pytest.mark.parametrize("mode", ["check", "swap"])
@pytest.mark.parametrize("step", [flax_gradient, pytest.param(flax_step, marks=pytest.mark.slow),
                                  pytest.param(equinox_gradient, marks=pytest.mark.slow)])
def test_libraries_differentiate_through_it(step: Callable[[], Any], mode: str) -> None:
    wanted = jax.tree.leaves(bounded(step))
    with substitute(mode) as record:
        found = jax.tree.leaves(step())
    assert record.figures.taken > 0 and record.report.ok
    for mine, theirs in zip(found, wanted, strict=True):
        if isinstance(theirs, jax.Array):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
