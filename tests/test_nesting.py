"""Nesting: every pair of transforms, chains to order 4, and JAX's own transforms inside, outside and between."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad

Scalar = Callable[[Any], Any]
POINT = 0.7

#: Maps of a scalar function to its derivative, under each name.
DERIVATIVES: dict[str, Callable[[Scalar], Scalar]] = {
    "grad": funcgrad.grad,
    "value_and_grad": lambda f: lambda x: funcgrad.value_and_grad(f)(x)[1],
    "vjp": lambda f: lambda x: funcgrad.vjp(f, x)[1](jnp.ones_like(x))[0],
    "jvp": lambda f: lambda x: funcgrad.jvp(f, (x,), (jnp.ones_like(x),))[1],
    "jacrev": funcgrad.jacrev,
    "jacfwd": funcgrad.jacfwd,
    "jax.grad": jax.grad,
    "jax.jvp": lambda f: lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1],
    "jax.jacrev": jax.jacrev,
    "jax.jacfwd": jax.jacfwd,
    "jax.linearize": lambda f: lambda x: jax.linearize(f, x)[1](jnp.ones_like(x)),
}
#: Maps that leave a scalar function as it is.
WRAPPERS: dict[str, Callable[[Scalar], Scalar]] = {
    "jit": jax.jit,
    "vmap": lambda f: lambda x: jax.vmap(f)(x[None])[0],
    "jax.checkpoint": jax.checkpoint,
    "funcgrad.checkpoint": funcgrad.checkpoint,
    "scan": lambda f: lambda x: jax.lax.scan(lambda c, _x: (f(c), None), x, None, length=1)[0],
    "cond": lambda f: lambda x: jax.lax.cond(x < 100, f, lambda y: y, x),
}
OURS = ("grad", "value_and_grad", "vjp", "jvp", "jacrev", "jacfwd")


def f(x):
    """A function whose derivatives are all different: f' .. f'''' below."""
    return jnp.sin(2.0 * x) * x


def exact(order: int) -> float:
    """d^n/dx^n of x sin 2x, in closed form: x 2^n sin(2x + n pi/2) + n 2^(n-1) sin(2x + (n-1) pi/2)."""
    x, n = POINT, order
    return x * 2**n * np.sin(2 * x + n * np.pi / 2) + n * 2.0 ** (n - 1) * np.sin(2 * x + (n - 1) * np.pi / 2)


def chain(names: tuple[str, ...]) -> tuple[Scalar, int]:
    """The function with these maps applied, the last name outermost, and the order of its derivative."""
    function, order = f, 0
    for name in names:
        function = (DERIVATIVES.get(name) or WRAPPERS[name])(function)
        order += name in DERIVATIVES
    return function, order


def check(names: tuple[str, ...]) -> None:
    """The chain gives the derivative that it should."""
    function, order = chain(names)
    with jax.enable_x64(True):
        result = function(jnp.asarray(POINT))
        assert result.shape == () and result.dtype == jnp.float64
        np.testing.assert_allclose(result, exact(order), rtol=1e-12)


def rows(always: list[tuple[str, ...]], every: list[tuple[str, ...]]) -> list:
    """Chains as parameters; those not in `always` are slow."""
    return [pytest.param(names, id=" of ".join(reversed(names)), marks=() if names in always else pytest.mark.slow)
            for names in dict.fromkeys([*always, *every])]


PAIRS = [pair for pair in itertools.product(DERIVATIVES, repeat=2) if set(pair) & set(OURS)]


@pytest.mark.parametrize("names", rows(PAIRS, []))
def test_second_order(names: tuple[str, ...]) -> None:
    check(names)


TRIPLES = [triple for triple in itertools.product(("grad", "jvp", "jacrev", "jacfwd", "jax.grad", "jax.jvp"), repeat=3)
           if set(triple) & set(OURS)]


@pytest.mark.parametrize("names", rows(TRIPLES[::9], TRIPLES))
def test_third_order(names: tuple[str, ...]) -> None:
    check(names)


QUADRUPLES = [four for four in itertools.product(("grad", "jvp", "jax.grad", "jax.jvp"), repeat=4)
              if set(four) & set(OURS)]


@pytest.mark.parametrize("names", rows([("grad",) * 4, ("jvp",) * 4, ("jax.jvp", "grad", "jvp", "jax.grad"),
                                        ("grad", "jax.grad", "grad", "jax.jvp")], QUADRUPLES))
def test_fourth_order(names: tuple[str, ...]) -> None:
    check(names)


WRAPPED = [(first, "grad", second, other) for first, second in itertools.product(WRAPPERS, repeat=2)
           for other in ("grad", "jvp", "jax.grad", "jax.jvp")]


@pytest.mark.parametrize("names", rows(WRAPPED[::5], WRAPPED))
def test_second_order_through_boundaries(names: tuple[str, ...]) -> None:
    check(names)


DEEP = [(wrapper, "grad", wrapper, "jvp", wrapper, "grad", wrapper, "jax.jvp") for wrapper in WRAPPERS]


@pytest.mark.parametrize("names", rows(DEEP[:3], DEEP))
def test_fourth_order_through_boundaries(names: tuple[str, ...]) -> None:
    check(names)


@pytest.mark.parametrize("outer", [funcgrad.grad, jax.grad])
@pytest.mark.parametrize("inner", [funcgrad.grad, jax.grad])
def test_perturbations_are_not_confused(outer: Callable[..., Any], inner: Callable[..., Any]) -> None:
    # d/dx (x * d/dy (x + y)) = 1; a system that confuses its levels gives 2 (Siskind and Pearlmutter 2005).
    assert outer(lambda x: x * inner(lambda y: x + y)(1.0))(1.0) == 1.0
    assert outer(lambda x: inner(lambda y: x * y * y)(3.0))(2.0) == 6.0


def test_hvp_nests() -> None:
    def cube(x):
        return jnp.sum(x**4)

    def product(x, v):
        (leaf,) = jax.tree.leaves(funcgrad.hvp(cube, (x,), (v,)))
        return leaf

    x, v = jnp.asarray([0.5, -1.0]), jnp.asarray([2.0, 3.0])
    np.testing.assert_allclose(funcgrad.grad(lambda x: jnp.sum(product(x, v)))(x), 24 * x * v, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(lambda x: product(x, v), (x,), (v,))[1], 24 * x * v * v, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(product, (None, 0))(x, jnp.eye(2)), np.diag(12 * x * x), rtol=1e-6)


def test_hessian_of_a_gradient() -> None:
    x = jnp.asarray([0.5, -1.0])
    third = funcgrad.hessian(funcgrad.grad(lambda x: jnp.prod(x) * jnp.sum(x)))(x)
    np.testing.assert_allclose(third, jax.hessian(jax.grad(lambda x: jnp.prod(x) * jnp.sum(x)))(x), rtol=1e-6)
