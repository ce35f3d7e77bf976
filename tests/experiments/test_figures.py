"""Figures without noise against `jax.grad`: bytes, FLOPs, equations, compilations, structure. Times are no tests.

The bounds are the project's targets where they hold at these sizes; what misses is in `docs/performance.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad
from experiments.bench import workloads
from experiments.bench.measure import compiled_figures, contraction_flops, counted_compilations, equations
from experiments.bench.problem import JAX, OURS
from experiments.bench.targets import two_layer_minimum

DOTS = "checkpoint: dots"
#: XLA's own scalars beside the arrays: a thousandth, where two programs keep the same arrays.
SMALL_CHANGE = 1.001


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Bounds of one workload as ratios to `jax.grad`; None: misses its target, or is not compiled here."""

    name: str
    temp_bytes: float | None = None
    equations: float | None = None
    dots_by_hand: bool = False


BOUNDS = (
    Bounds("two-layer", temp_bytes=1.0, equations=0.9),
    Bounds("lstm", temp_bytes=0.53, equations=1.0, dots_by_hand=True),
    Bounds("rk4", temp_bytes=0.66, equations=1.0, dots_by_hand=True),
    Bounds("transformer-scanned", temp_bytes=0.5, dots_by_hand=True),
    Bounds("transformer-unrolled", equations=0.95),
    Bounds("diffusion", equations=1.0),
    Bounds("attention", temp_bytes=1.0, equations=0.85),
    Bounds("hvp", temp_bytes=1.0, equations=0.85),
    Bounds("per-example", temp_bytes=1.0, equations=0.85),
)


@pytest.mark.parametrize("bounds", BOUNDS, ids=lambda bounds: bounds.name)
def test_bytes_contractions_and_equations(bounds: Bounds) -> None:
    """One test for each workload, so that each of its programs is traced and compiled once."""
    build = {workload.name: workload.build for workload in workloads.JITTED}[bounds.name]
    problem = build(True, ("checkpoint",) if bounds.dots_by_hand else ())
    traced = {peer: jax.jit(problem.programs[peer]).trace(*problem.args)
              for peer in (OURS, JAX, DOTS) if peer in problem.programs}
    contractions = {peer: contraction_flops(entry.jaxpr.jaxpr) for peer, entry in traced.items()}
    assert contractions[OURS] <= contractions[JAX], "a contraction is computed twice"
    if bounds.equations is not None:
        assert equations(traced[OURS].jaxpr) <= bounds.equations * equations(traced[JAX].jaxpr)
    if bounds.temp_bytes is not None:
        used = {peer: compiled_figures(entry.lower().compile())["temp_bytes"] for peer, entry in traced.items()}
        assert used[OURS] <= bounds.temp_bytes * used[JAX]
        if bounds.dots_by_hand:  # with no annotation, what a policy placed by hand gives
            assert used[OURS] <= SMALL_CHANGE * used[DOTS]
            assert contractions[OURS] <= contractions[DOTS]


def test_the_classifier_runs_the_fewest_contractions_possible() -> None:
    """2 n d h + 2 n h c forward, 4 n h c + 2 n d h backward: the points need no cotangent."""
    problem = workloads.two_layer(True, ())
    closed = jax.make_jaxpr(problem.programs[OURS])(*problem.args)
    assert contraction_flops(closed.jaxpr) == two_layer_minimum(quick=True)


def test_equations_are_counted_once_for_each_program() -> None:
    """The yardstick itself: a body called twice counts once, its caller's equations are its own."""

    @jax.jit
    def body(x):
        return jnp.sin(x) * 2.0

    closed = jax.make_jaxpr(lambda x: body(body(x)) + 1.0)(1.0)
    assert equations(closed) == 2 + 2 + 1
    looped = jax.make_jaxpr(lambda m: lax.scan(lambda c, _: (c @ m, None), m, length=7)[0])(jnp.ones((3, 3)))
    assert contraction_flops(looped.jaxpr) == 7 * 2 * 3**3


# ---- compilations ----


def new_closures() -> Callable[[Any], Any]:
    """A function that is new in each call, with a loop, a branch and a jitted helper that are new as well."""

    def fun(x):
        y, _ = lax.scan(lambda carry, _: (jnp.sin(carry) * 1.5, None), x, length=5)
        y = lax.cond(jnp.sum(y) > 0, lambda v: v * v, lambda v: -v, y)
        return jnp.sum(jnp.tanh(y))

    return fun


def eager_gradient(x: jax.Array) -> None:
    funcgrad.grad(lambda x: jnp.sum(jnp.tanh(x * jnp.sin(x))))(x)


def eager_gradient_of_a_loop(x: jax.Array) -> None:
    funcgrad.grad(new_closures())(x)


def eager_vjp(x: jax.Array) -> None:
    _, pullback = funcgrad.vjp(lambda x: jnp.tanh(x * jnp.sin(x)), x)
    pullback(jnp.ones_like(x))


def eager_gradient_of_a_jitted_function(x: jax.Array) -> None:
    funcgrad.grad(_jitted)(x)


@jax.jit
def _jitted(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(jnp.sin(x)))


_jitted_gradient = jax.jit(funcgrad.grad(new_closures()))


def jitted_gradient(x: jax.Array) -> None:
    _jitted_gradient(x)


@pytest.mark.parametrize("step", [
    eager_gradient, eager_gradient_of_a_loop, eager_vjp, eager_gradient_of_a_jitted_function, jitted_gradient])
def test_new_values_compile_nothing(step: Callable[[jax.Array], None]) -> None:
    """The second call, with other values and functions made anew, finds all it needs."""
    first, second = jnp.linspace(0.0, 1.0, 11), jnp.linspace(-2.0, 3.0, 11)
    step(first)
    with counted_compilations() as seen:
        step(second)
    assert seen == []


def test_compilations_are_counted() -> None:
    """The yardstick itself."""
    x = jnp.arange(13.0)
    with counted_compilations() as seen:
        jax.block_until_ready(jax.jit(lambda x: jnp.cos(x) + 13.0)(x))
    assert len(seen) == 1


@pytest.mark.parametrize("make", [lambda: lambda x: jnp.tanh(x * jnp.sin(x)), new_closures])
def test_pullbacks_of_equal_programs_have_equal_structure(make: Callable[[], Callable]) -> None:
    """So a jitted consumer compiles once for all of them."""
    produce = [jax.jit(partial(funcgrad.vjp, make())) for _ in range(2)]
    (out, first), (_, second) = (program(jnp.linspace(0.1, 1.0, 6)) for program in produce)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert hash(jax.tree.structure(first)) == hash(jax.tree.structure(second))
    consume = jax.jit(lambda pullback, ct: pullback(ct))
    ct, other = jnp.ones_like(out), 2 * jnp.ones_like(out)
    consume(first, ct)
    with counted_compilations() as seen:
        consume(second, other)
    assert seen == []
