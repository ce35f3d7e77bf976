"""`custom_jvp` and `custom_vjp` with their options, and what a rule may give back, against `jax.grad`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_derivatives import SymbolicZero
from jax.experimental.ode import odeint

import funcgrad
from tests.calls.comparing import Function, X, Y, check, close, total

# ---- custom_jvp ----


@jax.custom_jvp
def with_jvp(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


@with_jvp.defjvp
def with_jvp_rule(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    return with_jvp(x, y), 2 * jnp.cos(x) * y * dx + jnp.sin(x) * dy  # twice the truth: the rule must be used


@jax.custom_jvp
def with_jvps(x: Any, y: Any) -> Any:
    return x * y


with_jvps.defjvps(lambda dx, out, x, y: 3 * dx * y, None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def applied(f: Any, x: Any, scale: float) -> Any:
    return f(x) * scale


@applied.defjvp
def applied_rule(f: Any, scale: float, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return applied(f, x, scale), 5 * dx * scale * jnp.cos(x)


@jax.custom_jvp
def symbolic_jvp(x: Any, y: Any) -> Any:
    return x * jnp.sin(y)


def symbolic_rule(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    out = symbolic_jvp(x, y)
    if type(dy) is SymbolicZero:
        return out, 7 * dx * jnp.sin(y)  # seen in the result: the zero was symbolic
    dx = dx.instantiate() if type(dx) is SymbolicZero else dx
    return out, dx * jnp.sin(y) + dy * x * jnp.cos(y)


symbolic_jvp.defjvp(symbolic_rule, symbolic_zeros=True)


# ---- custom_vjp ----


@jax.custom_vjp
def with_vjp(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


with_vjp.defvjp(lambda x, y: (with_vjp(x, y), (x, y)),
                lambda kept, ct: (2 * ct * jnp.cos(kept[0]) * kept[1], ct * jnp.sin(kept[0])))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,), nondiff_argnames=("scale",))
def vjp_of(f: Any, x: Any, scale: float) -> Any:
    return f(x) * scale


vjp_of.defvjp(lambda f, x, scale: (vjp_of(f, x, scale), x), lambda f, scale, x, ct: (3 * ct * scale * jnp.cos(x),))


@jax.custom_vjp
def symbolic_vjp(x: Any, y: Any) -> Any:
    return x * y, jnp.sin(x)


def symbolic_forward(x: Any, y: Any) -> Any:
    factor = 1.0 if y.perturbed else 11.0
    return (x.value * y.value, jnp.sin(x.value)), (x.value, y.value, factor)


def symbolic_backward(kept: Any, ct: Any) -> Any:
    x, y, factor = kept
    ct_product, ct_sine = ct
    if type(ct_sine) is SymbolicZero:
        return factor * ct_product * y * 13, ct_product * x
    return factor * (ct_product * y + ct_sine * jnp.cos(x)), ct_product * x


symbolic_vjp.defvjp(symbolic_forward, symbolic_backward, symbolic_zeros=True)


@jax.custom_vjp
def optimized(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


optimized.defvjp(lambda x, y: (jnp.sin(x) * y, (jnp.cos(x), y, x)),
                 lambda kept, ct: (2 * ct * kept[0] * kept[1], ct * jnp.sin(kept[2])), optimize_remat=True)


def none_and_integers(x: Any, y: Any) -> Any:
    @jax.custom_vjp
    def f(x: Any, tree: Any, n: Any) -> Any:
        return x * tree["a"] + n

    f.defvjp(lambda x, tree, n: (f(x, tree, n), (x, tree["a"])), lambda kept, ct: (ct * kept[1], {"a": None}, None))
    return f(x, {"a": y}, jnp.arange(3))


CUSTOM: dict[str, Function] = {
    "custom_jvp": with_jvp,
    "custom_jvp jitted": jax.jit(with_jvp),
    "defjvps": lambda x, y: with_jvps(x, y) + y,
    "custom_jvp nondiff_argnums": lambda x, y: applied(jnp.sin, x, 2.0) * y,
    "custom_jvp symbolic zeros": lambda x, y: symbolic_jvp(x, 2.0) + symbolic_jvp(x, y),
    "custom_vjp": with_vjp,
    "custom_vjp jitted": jax.jit(with_vjp),
    "custom_vjp checkpointed": jax.checkpoint(with_vjp),
    "custom_vjp scanned": lambda x, y: jax.lax.scan(lambda c, _i: (with_vjp(c, y), None), x, None, length=3)[0],
    "custom_vjp mapped": lambda x, y: jax.vmap(with_vjp)(x, y),
    "custom_vjp nondiff_argnums": lambda x, y: vjp_of(jnp.sin, x, 2.0) * y,
    "custom_vjp symbolic zeros": lambda x, y: symbolic_vjp(x, y)[0] + symbolic_vjp(x, 2.0 + 0 * X)[0] * sum(
        symbolic_vjp(y, x)),
    "custom_vjp None and integers": none_and_integers,
}


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_rules(name: str) -> None:
    check(total(CUSTOM[name]))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_optimize_remat(wrap: Any) -> None:
    check(total(wrap(optimized)), orders=1)
    # jax.grad refuses order two of it; the same rule without the option has it
    plain = jax.custom_vjp(lambda x, y: jnp.sin(x) * y)
    plain.defvjp(lambda x, y: (jnp.sin(x) * y, (jnp.cos(x), y, x)),
                 lambda kept, ct: (2 * ct * kept[0] * kept[1], ct * jnp.sin(kept[2])))
    check(total(wrap(optimized)), total(plain))


def test_custom_rules_close_over_values_traced_outside() -> None:
    def inner(x: Any, y: Any, grad: Any) -> Any:
        z = jnp.sin(y)
        by_jvp = jax.custom_jvp(lambda u: u * z)
        by_jvp.defjvp(lambda primals, tangents: (by_jvp(*primals), 2 * tangents[0] * z))
        by_vjp = jax.custom_vjp(lambda u: u * z)
        by_vjp.defvjp(lambda u: (u * z, None), lambda _kept, ct: (3 * ct * z,))
        return grad(lambda u: jnp.sin(by_jvp(u)) * by_vjp(u))(x)

    close(jax.jit(jax.vmap(lambda x, y: inner(x, y, funcgrad.grad)))(X, Y),
          jax.jit(jax.vmap(lambda x, y: inner(x, y, jax.grad)))(X, Y))


# ---- what rules keep and give ----


def test_a_cotangent_of_another_precision_is_converted() -> None:
    """Mixed precision: the user's backward computes in float32 for a bfloat16 operand, which JAX accepts."""
    twice = jax.custom_vjp(lambda x: x * 2)
    twice.defvjp(lambda x: (x * 2, None), lambda residual, ct: (ct.astype(jnp.float32) * 3,))
    gradient = funcgrad.grad(lambda x: jnp.sum(twice(x)))(jnp.ones(2, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(jnp.float32), 3.0)


@pytest.mark.parametrize("transform", [lambda fun: fun, jax.jit], ids=["eager", "jit"])
def test_a_closure_over_a_traced_value_is_converted(transform: Callable[..., Any]) -> None:
    """`jax.closure_convert` hoists what may be differentiated; solvers with a custom_vjp (`odeint`) stand on it."""

    def solved(rate: Any) -> Any:
        return jnp.sum(odeint(lambda y, _t: -rate[0] * y, jnp.ones(2), jnp.array([0.0, 1.0])))

    rate = jnp.array([1.1, 0.4])
    np.testing.assert_allclose(transform(funcgrad.grad(solved))(rate), jax.grad(solved)(rate), rtol=1e-5)

    def hoisted(factor: Any) -> Any:
        converted, constants = jax.closure_convert(lambda y: y * factor, 1.0)
        return converted(1.0, *constants) * len(constants)

    assert transform(funcgrad.grad(hoisted))(2.0) == 1


def test_a_custom_backward_that_gives_integers_is_refused() -> None:
    """JAX hands the integers out as the gradient of a floating operand."""
    twice = jax.custom_vjp(lambda x: 2 * x)
    twice.defvjp(lambda x: (2 * x, None), lambda _residual, _ct: (jnp.array([3, 4]),))
    with pytest.raises(TypeError, match=r"given:  int(32|64)\[2\]"):
        funcgrad.grad(lambda x: jnp.sum(twice(x)))(jnp.ones(2))


def test_an_operand_kept_by_a_forward_rule_that_closes_over_an_array() -> None:
    """`jit` hoists the array in front of the operands; what the rule keeps is still the operand."""
    other = jnp.array([2.0, 3.0])
    scaled = jax.custom_vjp(lambda x: x * other)
    scaled.defvjp(lambda x: (x * other, x), lambda x, ct: (ct * x,))
    point = jnp.array([5.0, 7.0])
    np.testing.assert_array_equal(funcgrad.grad(lambda x: jnp.sum(jax.jit(scaled)(x)))(point), point)


def scaled_by_noise() -> Callable[..., Any]:
    """A function with its own backward step, which keeps a key."""
    scaled = jax.custom_vjp(lambda key, x: x * jax.random.normal(key, (3,)))
    scaled.defvjp(lambda key, x: (scaled(key, x), key), lambda key, ct: (None, 2 * ct * jax.random.normal(key, (3,))))
    return scaled


@pytest.mark.parametrize("place", [lambda f: f, jax.jit, lambda f: lambda x: jax.vmap(f)(x[None])[0]],
                         ids=["eager", "jit", "vmap"])
def test_a_branch_that_keeps_a_key(place: Callable[..., Any]) -> None:
    """The other branch fills the key's place."""
    scaled = scaled_by_noise()

    def f(x: Any) -> Any:
        return jnp.sum(jax.lax.cond(x[0] > 0, lambda x: scaled(jax.random.key(0), jnp.sin(x)), lambda x: x * x, x))

    for x in (X, -X):
        close(place(funcgrad.grad(f))(jnp.asarray(x)), place(jax.grad(f))(jnp.asarray(x)))


@pytest.mark.parametrize("given", [2.0, 2, True, np.float64(2), np.float32(2), np.array(2.0)])
@pytest.mark.parametrize("x64", [True, False])
def test_a_custom_backward_may_give_numbers(given: Any, x64: bool) -> None:
    """The gradient has the operand's dtype, also where NumPy's is wider than JAX's."""
    with jax.enable_x64(x64):
        product = jax.custom_vjp(lambda x, y: x * y)
        product.defvjp(lambda x, y: (x * y, y), lambda y, ct: (ct * y, given))
        of_x, of_y = funcgrad.grad(lambda x, y: product(jnp.sin(x), y), (0, 1))(jnp.float32(0.0), jnp.float32(3.0))
    assert (of_x, of_y, of_y.dtype) == (3, float(given), jnp.float32)


def test_custom_rules_are_given_numbers_of_python() -> None:
    """As JAX has it; so what they compute stays weakly typed, and `math` takes it."""
    twice = jax.custom_jvp(lambda x: x * 2)
    twice.defjvp(lambda primals, tangents: (primals[0] * 2, tangents[0] * math.cos(primals[0])))
    value, gradient = funcgrad.value_and_grad(lambda x: twice(x) * jnp.ones((), jnp.bfloat16))(3.0)
    assert value.dtype == jnp.bfloat16 and gradient.dtype == jnp.float64
    np.testing.assert_allclose(gradient, math.cos(3.0))
    twice_ = jax.custom_vjp(lambda x: x * 2)
    twice_.defvjp(lambda x: (x * 2, math.cos(x)), lambda slope, ct: (ct * slope,))
    value, gradient = funcgrad.value_and_grad(lambda x: twice_(x) * jnp.ones((), jnp.bfloat16))(3.0)
    assert value.dtype == jnp.bfloat16 and gradient.dtype == jnp.float64
    np.testing.assert_allclose(gradient, math.cos(3.0))
