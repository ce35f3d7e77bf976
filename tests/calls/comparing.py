"""Functions of two vectors, and what `jax.grad` gives of them at orders one and two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad

X, Y = np.array([0.3, -0.7, 1.2]), np.array([1.1, 0.4, -0.2])
Function = Callable[[Any, Any], Any]


def close(ours: Any, theirs: Any) -> None:
    """Same structure, dtypes, and values to rounding."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (mine.shape, mine.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(mine, wanted, rtol=1e-10, atol=1e-13)


def second(grad: Callable[..., Any], f: Function) -> Function:
    """The gradient of a function of the gradient."""
    return grad(lambda x, y: sum(jnp.sum(jnp.sin(ct)) for ct in grad(f, (0, 1))(x, y)), (0, 1))


def check(f: Function, same: Function | None = None, orders: int = 2) -> None:
    """Orders one and two, eager and jitted, equal those that JAX gives of `same`."""
    same = same or f
    wanted = jax.grad(same, (0, 1))(X, Y)
    close(funcgrad.grad(f, (0, 1))(X, Y), wanted)
    close(jax.jit(funcgrad.grad(f, (0, 1)))(X, Y), wanted)
    if orders == 2:
        wanted = second(jax.grad, same)(X, Y)
        close(second(funcgrad.grad, f)(X, Y), wanted)
        close(jax.jit(second(funcgrad.grad, f))(X, Y), wanted)


def body(x: Any, y: Any) -> Any:
    """Something that is nonlinear in both."""
    z = jnp.sin(x * y) + x
    return jnp.tanh(z) * jnp.exp(y) + jnp.dot(x, z)


def total(f: Function) -> Function:
    """A scalar of it."""
    return lambda x, y: jnp.sum(jnp.cos(f(x, y)) * jnp.arange(1.0, 4.0))
