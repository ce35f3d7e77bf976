"""Cotangents of slices: those of disjoint ones are put side by side, so many slices cost no more than one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import funcgrad

Array = Any
X = jnp.linspace(-1.0, 2.0, 24).reshape(6, 4)

PROGRAMS: dict[str, Callable[[Array], Array]] = {
    "every row": lambda x: sum(jnp.sin(row).sum() * i for i, row in enumerate(x)),
    "rows in another order": lambda x: jnp.sin(x[3] * x[0]).sum() + (x[5] * x[1] ** 2).sum(),
    "the middle one arrives last": lambda x: jnp.sin(x[2:4].sum() + jnp.sin(x[0:2]).sum() * jnp.cos(x[4:]).sum()),
    "one": lambda x: (x[2] ** 2).sum(),
    "gaps at both ends": lambda x: (x[1] * x[4]).sum(),
    "columns": lambda x: (x[:, 0] * jnp.exp(x[:, 3])).sum(),
    "rows and columns": lambda x: (x[1] * x[:, 2].sum()).sum() + (x[4] ** 3).sum(),
    "rows and the whole": lambda x: (x[1] * x[2]).sum() * (x**2).sum() + x[5, 0],
    "a row and its elements": lambda x: x[1, 2] * x[0, 0] * x[1].sum(),
    "overlapping": lambda x: (jnp.diff(x, axis=0) ** 2).sum() + (x[:-2] * x[2:] - x[1:-1] ** 2).sum(),
    "the same one twice": lambda x: (x[1] * jnp.sin(x[1])).sum(),
    "an empty one": lambda x: x[2:2].sum() + (x[3] * x[1]).sum(),
    "steps": lambda x: (x[::2] * x[1::2]).sum() + (x[0] * x[5]).sum(),
    "one whose result is not used": lambda x: (x[0] * lax.stop_gradient(x[1])).sum() + jnp.sin(x[2]).sum(),
    "slices of slices": lambda x: (x[1:5][0] * x[1:5][3] * x[1:5][1:3].sum(0)).sum(),
    "of an operation's result": lambda x: sum((row**i).sum() for i, row in enumerate(jnp.tanh(x @ x.T))),
    "in a loop": lambda x: lax.scan(lambda c, _: (jnp.sin(c[1] * c[0] + x[2] * x[4]) * c, None), x, None, 3)[0].sum(),
    "in a jit": lambda x: jax.jit(lambda x: (x[0] * x[5]).sum())(jnp.sin(x)),
    "complex": lambda x: jnp.abs((x + 1j)[0] * (x + 1j)[1] * 2j).sum(),
    "bfloat16": lambda x: (x.astype(jnp.bfloat16)[0] * x.astype(jnp.bfloat16)[3]).sum().astype(jnp.float32),
}


def _assert_close(given: Array, wanted: Array) -> None:
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("name", PROGRAMS)
def test_equals_jax(name: str) -> None:
    """Eagerly and under `jit`."""
    wanted = jax.jit(jax.grad(PROGRAMS[name]))(X)
    _assert_close(funcgrad.grad(PROGRAMS[name])(X), wanted)
    _assert_close(jax.jit(funcgrad.grad(PROGRAMS[name]))(X), wanted)


@pytest.mark.parametrize("name", ["rows in another order", "rows and the whole", "overlapping", "an empty one"])
def test_of_second_order_under_vmap_and_with_strong_zeros(name: str) -> None:
    """What stands for a sum of padded pieces is differentiated and batched as that sum is."""
    program, many = PROGRAMS[name], jnp.stack([X, X + 1])
    _assert_close(jax.jit(jax.vmap(funcgrad.grad(program)))(many), jax.jit(jax.vmap(jax.grad(program)))(many))
    _assert_close(jax.jit(funcgrad.hessian(program))(X), jax.jit(jax.hessian(program))(X))
    _assert_close(jax.jit(funcgrad.grad(program, strong_zeros=True))(X), jax.jit(jax.grad(program))(X))


def _operations_on_all(program: Callable[[Array], Array], x: Array) -> Counter[str]:
    """What the backward pass runs that gives an array of the whole's shape."""
    _, pullback = jax.eval_shape(lambda x: funcgrad.vjp(program, x), x)
    jaxpr = jax.make_jaxpr(lambda pullback: pullback(1.0))(pullback)
    return Counter(str(equation.primitive) for equation in jaxpr.eqns for v in equation.outvars
                   if v.aval.shape == x.shape)


@pytest.mark.parametrize("rows", [2, 7, 50])
def test_a_loop_over_the_rows_makes_one_array(rows: int) -> None:
    """The cost backward is that of the rows, not the rows times the array."""
    x = jnp.ones((rows, 3))
    assert _operations_on_all(lambda x: sum(jnp.sin(row).sum() for row in x), x) == {"concatenate": 1}
    assert _operations_on_all(lambda x: jnp.sin(x[0]).sum() + jnp.sin(x[rows - 1]).sum(), x) == {"concatenate": 1}


def test_projections_taken_from_one_array_are_put_side_by_side() -> None:
    """As attention takes its queries, keys and values: no padding, no sum."""
    def attention(joined: Array) -> Array:
        q, k, v = (joined[:, i] for i in range(3))
        return jnp.tanh((jax.nn.softmax(q @ k.T) @ v).sum())

    assert _operations_on_all(attention, jnp.ones((5, 3, 4))) == {"concatenate": 1}


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_on_a_mesh(axis_type: AxisType) -> None:
    """Where arrays may be spread over devices the rule of `slice` is used, which keeps each shard in its place."""
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(axis_type,))
    inside = jax.shard_map(PROGRAMS["every row"], mesh=mesh, in_specs=PartitionSpec(None), out_specs=PartitionSpec())
    for program in (PROGRAMS["columns"], inside):
        with jax.set_mesh(mesh):
            np.testing.assert_allclose(jax.jit(funcgrad.grad(program))(X), jax.jit(jax.grad(program))(X), rtol=1e-6)


def test_watched_and_drawn() -> None:
    """The tools that look inside see each slice's own contribution, and the user's line of what is pulled."""
    assert funcgrad.find_nonfinite(PROGRAMS["every row"], X).ok
    found = funcgrad.find_nonfinite(lambda x: jnp.sqrt(x[0]).sum() + jnp.sqrt(x[1]).sum(), jnp.zeros((2, 3)))
    assert "sqrt" in str(found) and not found.ok
    drawn = funcgrad.draw(funcgrad.make_graph(funcgrad.grad(PROGRAMS["gaps at both ends"]))(X))
    assert "concatenate" in drawn.mermaid
    assert "slice" in str(funcgrad.explain(PROGRAMS["gaps at both ends"])(X))
