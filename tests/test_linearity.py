"""Rules of `custom_jvp` functions: primal and tangent in one program, and rules that are not linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad

Array = Any
X = jnp.array([0.3, 0.7, 0.2])


def by_its_jvp(fun: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same function with a rule that calls `jax.jvp`: loops and branches then have both in one program."""
    wrapped = jax.custom_jvp(fun)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(fun, primals, tangents))
    return wrapped


MIXED: dict[str, Callable[[Array], Array]] = {
    "scan": lambda x: lax.scan(lambda c, _: (jnp.sin(c) * c, None), x, None, length=3)[0].sum() ** 2,
    "scan with outputs": lambda x: lax.scan(lambda c, _: (c * c, c / (1 + c)), x, None, length=3)[1].prod(),
    "fori_loop": lambda x: lax.fori_loop(0, 3, lambda _, c: c * jnp.cos(c), x).sum() / x.sum(),
    "cond": lambda x: lax.cond(x.sum() > 0, lambda x: jnp.sin(x) * x, lambda x: x, x).sum() ** 2,
    "switch": lambda x: lax.switch(1, [jnp.sin, lambda x: x / (1 + x)], x).prod(),
    "cond in scan": lambda x: lax.scan(
        lambda c, _: (lax.cond(c.sum() > 0, jnp.sin, jnp.square, c), None), x, None, length=3)[0].prod(),
    "checkpoint": lambda x: jax.checkpoint(lambda x: jnp.sin(x) * x)(x).sum() ** 2,
    "map": lambda x: jnp.sum(lax.map(jnp.sin, x) / x),
    "polyval": lambda x: jnp.sum(1 / jnp.polyval(jnp.array([1.0, 2.0, 3.0]), x)),
    "det": lambda x: jnp.linalg.det(jnp.diag(x) + jnp.outer(x, x)),
    "tridiagonal_solve": lambda x: lax.linalg.tridiagonal_solve(x, 2 + x, x, jnp.outer(x, x)).sum() ** 2,
    "sort": lambda x: lax.map(lambda row: jnp.sort(row)[0], jnp.stack([x, x * x])).prod(),
    "ndtri": lambda x: jax.scipy.special.ndtri(x).prod(),
}  # fmt: skip


@pytest.mark.parametrize("place", [
    pytest.param(lambda f: f, id="eager"),
    pytest.param(jax.jit, id="jit", marks=pytest.mark.slow),
    pytest.param(lambda f: lambda x: jax.vmap(f)(x[None])[0], id="vmap", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MIXED)
def test_primal_and_tangent_in_one_program(name: str, place: Callable) -> None:
    gradient, wanted = (place(grad(by_its_jvp(MIXED[name])))(X) for grad in (funcgrad.grad, jax.grad))
    np.testing.assert_allclose(gradient, wanted, rtol=2e-5)


def test_and_twice() -> None:
    fun = by_its_jvp(MIXED["cond in scan"])
    np.testing.assert_allclose(funcgrad.hessian(fun)(X), jax.hessian(fun)(X), rtol=2e-5, atol=1e-6)


def test_a_loop_that_jax_cannot_differentiate_backward() -> None:
    def loop(x: Array) -> Array:
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1]) * c[1]), (0, x))[1].sum() ** 2

    np.testing.assert_allclose(funcgrad.grad(by_its_jvp(loop))(X), funcgrad.grad(loop)(X), rtol=2e-5)


# What a rule makes of the tangent; nobody's gradient can be had from it.
NONLINEAR: dict[str, Callable[[Array], Array]] = {
    "product": lambda t: t * t,
    "abs": jnp.abs,
    "exp": jnp.exp,
    "where": lambda t: jnp.where(t > 0, t, 0),
    "max": lambda t: lax.reduce_max_p.bind(t, axes=(0,), out_sharding=None),
    "jit": jax.jit(lambda t: t * t),
    "checkpoint": jax.checkpoint(lambda t: t * t),
    "scan": lambda t: lax.scan(lambda c, _: (c * c, None), t, None, length=2)[0],
    "second step of a scan": lambda t: lax.scan(
        lambda c, _: ((c[1], c[0] * 2 + c[1] * c[1]), None), (t, jnp.ones_like(t)), None, length=2)[0][0],
    "predicate in a scan": lambda t: lax.scan(
        lambda c, _: (jnp.where(c > 0, 1.0, 0.0) * c, None), t, None, length=2)[0],
    "branch": lambda t: lax.cond(X[0] > 0, lambda t: t * t, lambda t: t, t),
    "index of a branch": lambda t: lax.cond(t[0] > 0, lambda t: t, lambda t: 2 * t, t),
    "while_loop": lambda t: lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] * c[1]), (0, t))[1],
}  # fmt: skip


@pytest.mark.parametrize("name", NONLINEAR)
def test_a_rule_that_is_not_linear_is_refused(name: str) -> None:
    @jax.custom_jvp
    def total(x: Array) -> Array:
        return jnp.sum(x)

    @total.defjvp
    def total_jvp(primals: Any, tangents: Any) -> Any:
        return total(*primals), jnp.sum(NONLINEAR[name](*tangents))

    with pytest.raises(funcgrad.errors.NonlinearError, match="`total_jvp` must be linear.*test_linearity.py"):
        funcgrad.grad(total)(X)
