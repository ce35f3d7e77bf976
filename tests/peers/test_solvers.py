"""Solvers of differential, linear and nonlinear equations by other people, built on primitives of their own.

diffrax, lineax and optimistix tell JAX the jvp and the transpose of their primitives; funcgrad uses these (ADR 8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from jax import random

import funcgrad
from funcgrad.crosscheck.substitute import substitute

Array = jax.Array
MATRIX = random.normal(random.key(0), (4, 4)) + 4 * jnp.eye(4)
TALL, VECTOR = random.normal(random.key(1), (6, 4)), jnp.arange(4.0)
WEIGHTS = 0.3 * random.normal(random.key(2), (3, 3))


def ode(solver: Any, **options: Any) -> Callable[[Array], Array]:
    """The end of a decay with a nonlinear rate, as a function of the rate."""

    def end(rate: Array) -> Array:
        term = diffrax.ODETerm(lambda t, y, rate: -rate * y**3 + jnp.sin(t))
        solution = diffrax.diffeqsolve(term, solver, 0.0, 1.0, 0.1, jnp.array([1.0, 2.0]), args=rate, **options)
        return jnp.sum(solution.ys**2)

    return end


def sde(rate: Array) -> Array:
    """The end of one path of a process with multiplicative noise."""
    path = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-2, shape=(), key=random.key(3))
    terms = diffrax.MultiTerm(diffrax.ODETerm(lambda t, y, rate: -rate * y),
                              diffrax.ControlTerm(lambda t, y, rate: 0.1 * rate, path))
    return diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 1.0, 0.05, jnp.float32(1.0), args=rate).ys[0]


def linear(operator: Callable[[Array], Any], solver: Any) -> Callable[[Array, Array], Array]:
    """The squares of a linear system's solution, as a function of both sides."""
    return lambda a, b: jnp.sum(lx.linear_solve(operator(a), b, solver).value ** 2)


def jacobian(a: Array) -> lx.JacobianLinearOperator:
    """A matrix that is never there, only its products."""
    return lx.JacobianLinearOperator(lambda y, _: jnp.tanh(a @ y) + 2 * y, jnp.ones(4))


def positive(a: Array) -> lx.MatrixLinearOperator:
    """A symmetric matrix with positive eigenvalues."""
    return lx.MatrixLinearOperator(a @ a.T + jnp.eye(4), lx.positive_semidefinite_tag)


STEPS = diffrax.PIDController(rtol=1e-4, atol=1e-6)
RATE = (jnp.float32(0.7),)
PROGRAMS: dict[str, tuple[Callable[..., Array], tuple[Array, ...]]] = {
    "diffrax, Tsit5, chosen steps": (ode(diffrax.Tsit5(), stepsize_controller=STEPS), RATE),
    "diffrax, direct": (ode(diffrax.Dopri5(), adjoint=diffrax.DirectAdjoint()), RATE),
    "diffrax, backward in time": (ode(diffrax.Dopri5(), adjoint=diffrax.BacksolveAdjoint()), RATE),
    "diffrax, implicit": (ode(diffrax.Kvaerno5(), stepsize_controller=STEPS), RATE),
    "diffrax, noise": (sde, RATE),
    "lineax, LU": (linear(lx.MatrixLinearOperator, lx.AutoLinearSolver(True)), (MATRIX, VECTOR)),
    "lineax, least squares": (
        linear(lx.MatrixLinearOperator, lx.AutoLinearSolver(False)), (TALL, jnp.arange(6.0))),
    "lineax, CG": (linear(positive, lx.CG(1e-6, 1e-6)), (MATRIX, VECTOR)),
    "lineax, GMRES of a Jacobian": (linear(jacobian, lx.GMRES(1e-6, 1e-6)), (MATRIX / 8, VECTOR)),
    "optimistix, Newton": (lambda w: jnp.sum(optx.root_find(
        lambda y, w: jnp.tanh(w @ y + 1) - y, optx.Newton(1e-6, 1e-6), jnp.zeros(3), args=w).value ** 2), (WEIGHTS,)),
    "optimistix, fixed point": (lambda w: jnp.sum(optx.fixed_point(
        lambda y, w: jnp.tanh(w @ y + 1), optx.FixedPointIteration(1e-6, 1e-6), jnp.zeros(3), args=w).value ** 2),
        (WEIGHTS,)),
    "optimistix, BFGS": (lambda w: jnp.sum(optx.minimise(
        lambda y, w: jnp.sum((y - w) ** 2) + jnp.sum(y**4), optx.BFGS(1e-5, 1e-5), jnp.zeros(3), args=w).value ** 2),
        (jnp.arange(1.0, 4.0),)),
    "optimistix, Levenberg-Marquardt": (lambda w: jnp.sum(optx.least_squares(
        lambda y, w: jnp.concatenate([y - w, y**2]), optx.LevenbergMarquardt(1e-5, 1e-5), jnp.zeros(3),
        args=w).value ** 2), (jnp.arange(1.0, 4.0),)),
}  # fmt: skip
#: What `make test` runs.
QUICK = {"lineax, GMRES of a Jacobian", "optimistix, Newton"}
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS]


def gradients_agree(ours: Any, theirs: Any) -> None:
    """In single precision, through iterations that stop at a tolerance."""
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5 * (1 + float(jnp.max(jnp.abs(other)))))


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_jaxs(name: str) -> None:
    fun, args = PROGRAMS[name]
    positions = tuple(range(len(args)))
    gradients_agree(jax.jit(funcgrad.grad(fun, positions))(*args), jax.jit(jax.grad(fun, positions))(*args))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_and_outside_of_jit(name: str) -> None:
    fun, args = PROGRAMS[name]
    positions = tuple(range(len(args)))
    gradients_agree(funcgrad.grad(fun, positions)(*args), jax.grad(fun, positions)(*args))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_and_in_the_place_of_jaxs(name: str) -> None:
    fun, args = PROGRAMS[name]
    positions = tuple(range(len(args)))
    wanted = jax.grad(fun, positions)(*args)
    jax.clear_caches()  # else the libraries' own jitted functions hold what JAX made of them before
    with substitute("swap") as record:
        found = jax.grad(fun, positions)(*args)
    assert record.figures.taken >= 1
    gradients_agree(found, wanted)
