"""Properties that hold for every program: shapes, dtypes and trees drawn by Hypothesis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import funcgrad
from tests.harness.compare import same_type, same_values
from tests.harness.dropin import Layer, Pair

# Each new shape is a new compilation: few examples, and the same ones in every run.
FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.too_slow])

SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
DTYPES = st.sampled_from(["float32", "bfloat16", "float16", "complex64", "int32", "bool"])
FLOATS = st.sampled_from(["float32", "bfloat16"])


@st.composite
def arrays(draw: Any, dtypes: Any = DTYPES, shapes: Any = SHAPES) -> Any:
    """An array of a drawn shape and dtype, as NumPy or as JAX array."""
    dtype, shape = draw(dtypes), draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = jnp.asarray(rng.uniform(0.5, 2.0, shape), dtype)
    return np.array(values) if draw(st.booleans()) else values


LEAVES = arrays() | st.floats(0.5, 2.0) | st.none()
TREES = st.recursive(
    LEAVES,
    lambda inner: (st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
                   | st.builds(Pair, inner, inner) | st.builds(Layer, inner, inner, st.sampled_from(["x", "y"]))
                   | st.tuples(inner)),
    max_leaves=5)  # fmt: skip


def weigh(leaf: Any) -> jax.Array:
    """A real scalar of a leaf of any dtype."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = leaf.real * 2 + leaf.imag
    return jnp.sum(leaf.astype(jnp.float32) ** 2)


def total(tree: Any) -> jax.Array:
    """A real scalar of a tree."""
    return sum((weigh(leaf) for leaf in jax.tree.leaves(tree)), jnp.float32(1.0))


def as_numpy(tree: Any) -> list[np.ndarray]:
    """Copies of all leaves."""
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


@FEW
@given(TREES)
def test_gradients_of_any_tree_are_those_of_jax(tree: Any) -> None:
    result = funcgrad.value_and_grad(total, allow_int=True)(tree)
    wanted = jax.value_and_grad(total, allow_int=True)(tree)
    same_type(result, wanted, "gradient")
    same_values(jax.tree.leaves(result), jax.tree.leaves(wanted), "gradient")


@FEW
@given(TREES)
def test_inputs_are_not_changed(tree: Any) -> None:
    before = as_numpy(tree)
    out, pullback = funcgrad.vjp(total, tree)
    cts = pullback(out)
    for a, b in zip(before, as_numpy(tree), strict=True):
        np.testing.assert_array_equal(a, b)
    for leaf in jax.tree.leaves(cts):
        assert isinstance(leaf, jax.Array) or leaf.dtype == jax.dtypes.float0


@FEW
@given(arrays(FLOATS))
def test_results_do_not_alias_numpy_inputs(x: Any) -> None:
    x = np.array(x)
    out, pullback = funcgrad.vjp(lambda x: (jnp.sin(x), x * 2), x)
    (ct,) = pullback(out)
    kept = as_numpy((out, ct))
    x[...] = 7
    for a, b in zip(kept, as_numpy((out, ct)), strict=True):
        np.testing.assert_array_equal(a, b)


@FEW
@given(arrays(FLOATS), st.integers(2, 4))
def test_the_same_bits_eagerly_and_again(x: Any, n: int) -> None:
    def f(x):
        return jnp.sum(jnp.sin(x) ** n)

    first, second = funcgrad.grad(f)(x), funcgrad.grad(f)(x)
    np.testing.assert_array_equal(first, second)
    assert first.shape == np.shape(x) and first.dtype == x.dtype


@FEW
@given(arrays(FLOATS), arrays(FLOATS), st.floats(-2, 2), st.floats(-2, 2))
def test_a_pullback_is_linear(x: Any, y: Any, a: float, b: float) -> None:
    x, y = jnp.float32(1.5), jnp.asarray(x, jnp.float32)
    _, pullback = funcgrad.vjp(lambda x, y: jnp.sin(x) * y, x, y)
    ct = jnp.cos(y)
    mixed = pullback(a * ct + b * y)
    apart = jax.tree.map(lambda first, second: a * first + b * second, pullback(ct), pullback(y))
    for result, wanted in zip(mixed, apart, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)


@FEW
@given(arrays(FLOATS), st.lists(st.sampled_from(["sin", "square", "jit", "scale", "transpose", "flatten"]), max_size=4))
def test_the_chain_rule(x: Any, names: list[str]) -> None:
    steps = {"sin": jnp.sin, "square": jnp.square, "jit": jax.jit(jnp.cos), "scale": lambda v: 0.5 * v,
             "transpose": jnp.transpose, "flatten": jnp.ravel}

    def composed(x):
        for name in names:
            x = steps[name](x)
        return x

    out, pullback = funcgrad.vjp(composed, x)
    ct, values = jnp.ones_like(out), [x]
    for name in names:
        values.append(steps[name](values[-1]))
    (whole,) = pullback(ct)
    for name, value in zip(reversed(names), reversed(values[:-1]), strict=True):
        (ct,) = funcgrad.vjp(steps[name], value)[1](ct)
    same_values([whole], [jnp.asarray(ct)], "chain rule")


@settings(FEW, max_examples=5)  # five programs are compiled for each
@given(st.integers(1, 3), st.integers(1, 3))
def test_jacobians_agree_with_each_other(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows * 10 + columns)
    matrix, x = rng.standard_normal((rows, columns)).astype("f"), rng.standard_normal(columns).astype("f")

    def f(x):
        return jnp.tanh(matrix @ x)

    reverse, forward = funcgrad.jacrev(f)(x), funcgrad.jacfwd(f)(x)
    assert reverse.shape == forward.shape == (rows, columns)
    np.testing.assert_allclose(reverse, forward, rtol=1e-5, atol=1e-6)
    hessian = funcgrad.hessian(lambda x: jnp.sum(f(x)))(x)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-5, atol=1e-6)
