"""Inlined programs of `jnp`: noted whole, they give the graph that noting operation by operation gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.bodies import find_body
from funcgrad.eager import _code
from funcgrad.vjp import record
from tests.test_tracing import compilations

MATRIX = jnp.linspace(0.1, 1.2, 12).reshape(3, 4)
INDICES = jnp.array([2, 0])
PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "scalar of the host": lambda x: 1.01 * x + 2,
    "integer scalar": lambda x: x * 3 - True,
    "array from outside": lambda x: x + jnp.arange(4.0),
    "array of NumPy": lambda x: x * np.arange(4.0, dtype=np.float32),
    "scalar of NumPy": lambda x: x * np.float32(1.5) + np.int32(2),
    "broadcast": lambda x: x[:, None] * x[None],
    "two uses": lambda x: x * x / (1 + x),
    "mask": lambda x: jnp.where(x > 0.5, x, 0.0),
    "inactive operand": lambda x: x * jnp.round(x) + jnp.sign(x),
    "contraction": lambda x: x @ x.T,
    "reduction": lambda x: jnp.mean(x, axis=0) + jnp.max(x),
    "index": lambda x: x[INDICES, 1] + x[0, -1],
    "powers": lambda x: x**2 + x**0.5 + x**-1 + 2.0**x,
    "division with remainder": lambda x: x % 0.3 + x // 0.3,
    "integers": lambda x: x * (jnp.argmax(x) + 1),
    "argument handed back": lambda x: jnp.asarray(x) + jnp.real(x),
    "conversion": lambda x: x.astype(jnp.float16).astype(jnp.float32) + x,
    "norm": lambda x: jnp.linalg.norm(x) + jnp.var(x),
}


@pytest.mark.parametrize("fun", PROGRAMS.values(), ids=PROGRAMS)
def test_the_graph_is_that_of_single_operations(fun: Callable[[Any], Any]) -> None:
    whole = record(fun, [MATRIX])
    with jax.debug_nans(True):  # somebody watches each operation: then none is run as part of a body
        single = record(fun, [MATRIX])
    assert whole.graph == single.graph
    for mine, theirs in zip(whole.values, single.values, strict=True):
        assert jax.typeof(mine) == jax.typeof(theirs)
        np.testing.assert_allclose(mine, theirs, rtol=4 * float(jnp.finfo(jnp.float32).eps))


def test_lines_are_those_of_the_call() -> None:
    graph = record(lambda x: jnp.sin(x) * 2, [MATRIX]).graph
    assert len(graph) == 2
    assert all("test_bodies.py" in node.line for node in graph)


def test_nothing_is_compiled_again_for_another_scalar() -> None:
    def fun(x: jax.Array, factor: float) -> jax.Array:
        return jnp.sum(jnp.sin(x) * factor)

    first = funcgrad.grad(fun)(MATRIX, 0.5)
    with compilations() as compiled:
        gradients = [funcgrad.grad(fun)(MATRIX, factor) for factor in (0.25, 1.0, 1.5, 2.0)]
    assert compiled == []
    for gradient, factor in zip(gradients, (0.25, 1.0, 1.5, 2.0), strict=True):
        np.testing.assert_allclose(gradient, first * factor * 2, rtol=1e-6)


def test_structures_are_counted_by_the_code_that_runs() -> None:
    """However it is wrapped; so no partial or callable object uses up what another one may have."""
    class Layer:
        def __call__(self, x: Any) -> Any:
            return jnp.sin(x)

    codes = [_code(fun) for fun in (partial(jnp.sin), partial(partial(np.mean), axis=0), Layer(), jax.jit(jnp.cos))]
    assert len(set(codes)) == len(codes)
    assert _code(Layer()) == _code(Layer())
    assert _code(partial(PROGRAMS["powers"])) == PROGRAMS["powers"].__code__


def test_a_host_scalar_is_a_literal_of_the_graph() -> None:
    graph = record(lambda x: x * 1.5, [MATRIX]).graph
    (node,) = graph.nodes
    assert [float(v.value) for v in node.operands if not isinstance(v, int)] == [1.5]


def test_a_program_with_a_loop_is_no_body() -> None:
    program = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * x, x))(1.0)
    assert find_body(program, ("active",), "looped") is None
