"""Taps: cotangents read, clipped, scaled and replaced at a name, wherever it stands."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import funcgrad
from funcgrad import Tapped, tap
from funcgrad.errors import TapError

X = jnp.array([0.5, 1.0, 2.0])


def energy(x):
    hidden = tap(jnp.sin(x), "hidden")
    return jnp.sum(hidden * hidden)


def half(ct):
    return ct / 2


def nothing(ct):
    return jnp.zeros_like(ct)


def clipped(ct):
    return jnp.clip(ct, -0.1, 0.1)


def recurrent(x):
    """A tap in each kind of body: scan, checkpoint and jit in it, both branches of a cond."""

    def body(carry, factor):
        carry = tap(carry * factor, "scan")
        carry = jax.checkpoint(lambda c: tap(jnp.tanh(c), "checkpoint"))(carry)
        return jax.jit(lambda c: tap(2 * c, "jit"))(carry), None

    last, _ = lax.scan(body, x, jnp.array([0.5, 1.0, 2.0]))
    return lax.cond(last > 0, lambda c: tap(3 * c, "taken"), lambda c: tap(c, "not taken"), last)


# ---- the mark itself ----


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap], ids=["eager", "jit", "vmap"])
def test_outside_it_is_the_identity(wrap) -> None:
    np.testing.assert_array_equal(wrap(lambda x: tap(x, "x"))(X), X)


def test_jax_differentiates_through_it() -> None:
    np.testing.assert_array_equal(jax.grad(energy)(X), jax.grad(lambda x: jnp.sum(jnp.sin(x) * jnp.sin(x)))(X))
    assert jax.jvp(recurrent, (1.0,), (1.0,))[1] == pytest.approx(float(jax.jit(jax.grad(recurrent))(1.0)))


def test_without_functions_nothing_changes() -> None:
    def untapped(x):
        return jnp.sum(jnp.sin(x) * jnp.sin(x))

    np.testing.assert_array_equal(funcgrad.grad(energy)(X), funcgrad.grad(untapped)(X))


def test_what_jax_calls_checkpoint_name_is_a_tap() -> None:
    assert funcgrad.grad(lambda x: 3 * checkpoint_name(x, "x"), taps={"x": half})(1.0) == 1.5


# ---- functions ----


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f))],
                         ids=["eager", "jit", "vmap", "jit of vmap"])
def test_scaled_clipped_and_replaced(wrap) -> None:
    ct = 2 * np.sin(X)
    for function, wanted in ((half, ct / 2), (clipped, np.clip(ct, -0.1, 0.1)), (nothing, 0 * ct)):
        found = wrap(funcgrad.grad(energy, taps={"hidden": function}))(X)
        np.testing.assert_allclose(found, wanted * np.cos(X), rtol=1e-6)


@pytest.mark.parametrize("name", ["scan", "checkpoint", "jit", "taken"])
def test_in_every_body(name: str) -> None:
    """Every path goes through each of these taps; a zero there is a zero gradient."""
    for derive in (lambda f: f, jax.jit):
        assert derive(funcgrad.grad(recurrent))(1.0) > 0
        assert derive(funcgrad.grad(recurrent, taps={name: nothing}))(1.0) == 0
    assert jax.vmap(funcgrad.grad(recurrent, taps={name: nothing}))(jnp.ones(2)).tolist() == [0, 0]


def test_a_branch_that_was_not_taken_has_no_cotangent() -> None:
    both = jax.vmap(funcgrad.grad(recurrent, taps={"not taken": nothing}))(jnp.array([1.0, -1.0]))
    assert both[0] == funcgrad.grad(recurrent)(1.0) and both[1] == 0


def test_clipping_in_each_step_of_a_loop() -> None:
    """Halved in each of three steps: an eighth."""
    def power(x):
        return lax.fori_loop(0, 3, lambda i, y: tap(y, "step") * x[1], x[0])

    def until(x):
        return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, tap(s[1], "step") * x[1]), (0, x[0]))[1]

    for loop in (power, until):
        plain = funcgrad.grad(loop)(jnp.array([1.0, 2.0]))
        assert funcgrad.grad(loop, taps={"step": half})(jnp.array([1.0, 2.0]))[0] == plain[0] / 8


def test_one_compilation_for_one_function() -> None:
    counted = []

    def function(ct):
        counted.append(1)
        return ct

    derive = jax.jit(funcgrad.grad(energy, taps={"hidden": function}))
    derive(X), derive(2 * X)
    assert len(counted) == 1


def test_the_functions_are_for_their_own_sweep_only() -> None:
    halved = funcgrad.grad(energy, taps={"hidden": half})
    np.testing.assert_array_equal(funcgrad.grad(energy)(X), 2 * halved(X))
    second = funcgrad.jacfwd(halved)(X)
    np.testing.assert_allclose(second, funcgrad.hessian(energy)(X) / 2, rtol=1e-6)


# ---- pullbacks and Jacobians ----


def vector(x):
    return jnp.array([2.0, 3.0, 4.0]) * tap(jnp.sin(x), "hidden")


def unit(ct):
    return ct / jnp.linalg.norm(ct)


def test_a_pullback_keeps_its_taps_wherever_it_is_called() -> None:
    ct = jnp.array([1.0, -1.0, 2.0])
    halved = funcgrad.vjp(vector, X, taps={"hidden": half})[1]
    plain = funcgrad.vjp(vector, X)[1]
    wanted = plain(ct)[0] / 2
    apply = jax.jit(lambda pullback, ct: pullback(ct)[0])
    for found in (halved(ct)[0], apply(halved, ct), 2 * apply(halved, ct / 2),
                  jax.jit(lambda x: funcgrad.vjp(vector, x, taps={"hidden": half})[1])(X)(ct)[0]):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_array_equal(apply(plain, ct), plain(ct)[0])
    again = funcgrad.vjp(vector, X, taps={"hidden": half})[1]
    assert jax.tree.structure(halved) == jax.tree.structure(again) != jax.tree.structure(plain)


def test_a_pullback_called_in_another_sweep_has_its_own_taps_only() -> None:
    plain, halved = (funcgrad.vjp(vector, X, taps=taps)[1] for taps in (None, {"hidden": half}))

    def replaced(ct):
        return plain(ct)[0] + halved(ct)[0]

    ct = jnp.ones(3)
    found = funcgrad.vjp(lambda x: tap(x, "hidden"), X, taps={"hidden": replaced})[1](ct)[0]
    np.testing.assert_allclose(found, 1.5 * plain(ct)[0], rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_in_a_jacobian_each_row_is_a_sweep(wrap) -> None:
    """A row of the plain Jacobian is a cotangent of one element, whose norm is its size."""
    plain = funcgrad.jacrev(vector)(X)
    np.testing.assert_allclose(wrap(funcgrad.jacrev(vector, taps={"hidden": half}))(X), plain / 2, rtol=1e-6)
    rows = wrap(funcgrad.jacrev(vector, taps={"hidden": unit}))(X)
    np.testing.assert_allclose(rows, np.diag(np.cos(X)), rtol=1e-6)


def test_derivatives_of_a_tapped_gradient() -> None:
    """The Jacobian of a gradient goes through the functions; its own taps are for the outer sweep."""
    halved = funcgrad.jacfwd(funcgrad.jacrev(energy, taps={"hidden": half}))(X)
    np.testing.assert_allclose(halved, funcgrad.hessian(energy)(X) / 2, rtol=1e-6)
    pulled = funcgrad.grad(lambda x: funcgrad.vjp(energy, x, taps={"hidden": half})[1](1.0)[0].sum())(X)
    np.testing.assert_allclose(pulled, halved.sum(0), rtol=1e-5)


def test_in_each_body_of_a_pullback() -> None:
    for name in ("scan", "checkpoint", "jit", "taken"):
        pullback = funcgrad.vjp(recurrent, 1.0, taps={name: nothing})[1]
        assert pullback(1.0)[0] == 0
        assert jax.vmap(lambda ct, pullback=pullback: pullback(ct)[0])(jnp.ones(2)).tolist() == [0, 0]


# ---- values and cotangents ----


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_values_and_cotangents(wrap) -> None:
    value, gradient, taps = wrap(funcgrad.value_and_grad(energy, return_taps=True))(X)
    assert set(taps) == {"hidden"} and isinstance(taps["hidden"], Tapped)
    np.testing.assert_allclose(taps["hidden"].value, np.sin(X), rtol=1e-6)
    np.testing.assert_allclose(taps["hidden"].cotangent, 2 * np.sin(X), rtol=1e-6)
    plain = wrap(funcgrad.value_and_grad(energy))(X)
    np.testing.assert_array_equal(value, plain[0])
    np.testing.assert_array_equal(gradient, plain[1])


def unrolled(x):
    """What `recurrent` computes at 1, with everything that its taps shall see."""
    seen: dict[str, list] = {"scan": [], "checkpoint": [], "jit": []}
    carry = x
    for factor in (0.5, 1.0, 2.0):
        carry = carry * factor
        seen["scan"].append(carry)
        carry = jnp.tanh(carry)
        seen["checkpoint"].append(carry)
        carry = 2 * carry
        seen["jit"].append(carry)
    return 3 * carry, {name: jnp.stack(values) for name, values in seen.items()}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_in_a_scan_they_are_stacked(wrap) -> None:
    value, gradient, taps = wrap(funcgrad.value_and_grad(recurrent, return_taps=True))(1.0)
    wanted, values = unrolled(1.0)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert set(taps) == {"scan", "checkpoint", "jit", "taken", "not taken"}
    for name, stacked in values.items():
        np.testing.assert_allclose(taps[name].value, stacked, rtol=1e-6)
        assert taps[name].cotangent.shape == (3,)
    # d value / d (2 c_i) for the last step, and the chain through all steps, which ends in the gradient
    np.testing.assert_allclose(taps["jit"].cotangent[-1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(taps["scan"].cotangent[0] * 0.5, gradient, rtol=1e-6)
    assert taps["taken"] == (value, 1) and taps["not taken"] == (0, 0)


def test_per_example() -> None:
    _, _, taps = jax.vmap(funcgrad.value_and_grad(recurrent, return_taps=True))(jnp.array([1.0, -1.0]))
    assert taps["scan"].value.shape == (2, 3)
    assert taps["taken"].cotangent.tolist() == [1, 0] and taps["not taken"].cotangent.tolist() == [0, 1]
    summed = funcgrad.value_and_grad(lambda x: jnp.sum(jax.vmap(recurrent)(x)), return_taps=True)
    assert summed(jnp.array([1.0, -1.0]))[2]["scan"].value.shape == (3, 2)


def test_the_cotangent_is_the_one_that_arrives() -> None:
    run = funcgrad.value_and_grad(energy, taps={"hidden": half}, return_taps=True)
    _, gradient, taps = run(X)
    np.testing.assert_allclose(taps["hidden"].cotangent, 2 * np.sin(X), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.sin(X) * np.cos(X), rtol=1e-6)


def test_names_met_more_than_once_trees_integers_aux_and_python_control_flow() -> None:
    def fun(tree):
        tree = tap(tree, "tree")
        count = tap(3, "count")
        if tree["b"] > 1:
            return count * tree["b"] * jnp.sum(tree["a"]), "kept"
        return 0.0 * tree["b"], "not this"

    (value, aux), gradient, taps = funcgrad.value_and_grad(fun, has_aux=True, return_taps=True)({"a": X, "b": 2.0})
    assert aux == "kept" and value == 21 and gradient["b"] == 10.5
    first, second = taps["tree"]
    assert (first.cotangent == 6).all() and second.cotangent == 10.5 and second.value == 2
    assert taps["count"].value == 3 and taps["count"].cotangent.dtype == jax.dtypes.float0
    with jax.checking_leaks():
        funcgrad.value_and_grad(energy, return_taps=True)(X)


# ---- mistakes ----


def in_a_while(x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, tap(jnp.sin(s[1]), "state")), (0, x))[1]


@pytest.mark.parametrize(("kind", "words", "call"), [
    (TapError, ["no tap named 'hiden'", "met: 'hidden'"], lambda: funcgrad.grad(energy, taps={"hiden": half})(X)),
    (TapError, ["'hidden'", "float32[]", "float32[3]"], lambda: funcgrad.grad(energy, taps={"hidden": jnp.sum})(X)),
    (TapError, ["'hidden'", "NoneType"], lambda: funcgrad.grad(energy, taps={"hidden": print})(X)),
    (TapError, ["'state'", "`while`"], lambda: funcgrad.value_and_grad(in_a_while, return_taps=True)(1.0)),
    (TapError, ["no tap named 'hiden'", "met: 'hidden'"], lambda: funcgrad.vjp(energy, X, taps={"hiden": half})),
    (TapError, ["no tap named 'hiden'"], lambda: funcgrad.jacrev(energy, taps={"hiden": half})(X)),
    (TapError, ["'hidden'", "float32[3]"], lambda: funcgrad.vjp(energy, X, taps={"hidden": jnp.sum})[1](1.0)),
    (TypeError, ["map names to functions"], lambda: funcgrad.vjp(energy, X, taps=half)),
    (TypeError, ["map names to functions"], lambda: funcgrad.jacrev(energy, taps=half)),
    (TypeError, ["map names to functions"], lambda: funcgrad.grad(energy, taps={"hidden": 2.0})),
    (TypeError, ["map names to functions"], lambda: funcgrad.grad(energy, taps=half)),
    (TypeError, ["must be a string"], lambda: tap(X, 3)),
])  # fmt: skip
def test_mistakes(kind: type[Exception], words: list[str], call: Any) -> None:
    with pytest.raises(kind) as raised:
        call()
    for word in (*words, "To fix: "):
        assert word in str(raised.value)


def test_the_page_gives_what_it_says() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "taps.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    failed, attempted = doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert attempted and not failed
