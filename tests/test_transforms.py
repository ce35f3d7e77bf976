"""Drop-in for JAX's transforms: signatures, results to the last detail, and the exceptions of what JAX refuses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from tests.harness.compare import same_type, same_values
from tests.harness.dropin import PROGRAMS, M, X, loss
from tests.harness.misuse import MISUSES, OTHER_WORDS

#: So many first characters of JAX's message are in ours, for tests that look for them.
OPENING = 25

TRANSFORMS = ("grad", "value_and_grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian", "checkpoint")


def same_results(given: Any, wanted: Any, scale: float = 4.0) -> None:
    """Equal trees, types and weak types; elements equal to a few units in the last place of the largest number."""
    same_type(given, wanted, "result")
    for leaf, other in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        dtype = jnp.result_type(other)
        spread = 0.0
        if jnp.issubdtype(dtype, jnp.inexact):
            spread = float(jnp.finfo(dtype).eps) * float(np.max(np.abs(np.asarray(other)), initial=0.0))
        same_values([leaf], [other], "result", spread=[spread], scale=scale)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_signatures(name: str) -> None:
    def shape(function: Callable[..., Any]) -> list[tuple[Any, ...]]:
        deprecated = ("concrete",)  # a marker object of JAX's own as default
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()
                if p.name not in deprecated]

    ours, theirs = shape(getattr(funcgrad, name)), shape(getattr(jax, name))
    added = ours[len(theirs):]
    assert ours[: len(theirs)] == theirs
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _name, kind, _default in added)


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_results_as_jax(name: str) -> None:
    same_results(PROGRAMS[name](funcgrad), PROGRAMS[name](jax))


@pytest.mark.parametrize("name", MISUSES)
def test_same_exception_as_jax(name: str) -> None:
    with pytest.raises(BaseException) as wanted:  # noqa: B017, PT011 (JAX decides which)
        MISUSES[name](jax)
    with pytest.raises(wanted.type) as given:
        MISUSES[name](funcgrad)
    first, words = str(wanted.value).lstrip(), str(given.value).lstrip()
    assert first[:OPENING] in words or name in OTHER_WORDS, f"JAX: {first}\nfuncgrad: {words}"


def test_results_are_jax_arrays() -> None:
    for leaf in jax.tree.leaves(funcgrad.value_and_grad(loss, (0, 1))(X, 2.0)):
        assert type(leaf) is type(jnp.ones(1))


# ---- hvp and make_graph, which JAX has not ----


@pytest.mark.parametrize("fun", [jnp.imag, jnp.zeros_like, lambda x: 3.0, lambda x: np.float32(3.0)])
def test_values_that_do_not_depend_on_the_argument_are_jax_arrays(fun) -> None:
    values = funcgrad.vjp(fun, 0.5)[0], funcgrad.value_and_grad(fun)(0.5)[0], funcgrad.jvp(fun, (0.5,), (1.0,))[0]
    assert all(isinstance(value, jax.Array) for value in values)


def test_hvp_is_the_hessian_times_the_tangent() -> None:
    def f(p, y):
        return jnp.sum(jnp.sin(p["w"] @ p["b"]) * y) + jnp.sum(p["b"] ** 3)

    primals = {"w": M, "b": X}, jnp.asarray([0.5, 2.0])
    tangents = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), primals)
    wanted = jax.jvp(jax.grad(f, (0, 1)), primals, tangents)[1]
    same_results(funcgrad.hvp(f, primals, tangents), wanted)
    same_results(jax.jit(lambda p, t: funcgrad.hvp(f, p, t))(primals, tangents), wanted)


def test_hvp_refuses_what_grad_and_jvp_refuse() -> None:
    with pytest.raises(TypeError):
        funcgrad.hvp(lambda x: x * 2, (X,), (X,))
    with pytest.raises(TypeError):
        funcgrad.hvp(loss, X, X)
    with pytest.raises(ValueError):
        funcgrad.hvp(loss, (X,), (jnp.ones(4),))


def test_make_graph_mirrors_make_jaxpr() -> None:
    def f(x, tree):
        return jnp.sin(x) * tree["y"]

    graph = funcgrad.make_graph(f)(2.0, {"y": X})
    again = funcgrad.make_graph(f)(2.0, {"y": X})
    assert graph == again and hash(graph) == hash(again)
    assert graph != funcgrad.make_graph(lambda x: jnp.cos(x))(2.0)
    assert "sin" in str(graph) and "mul" in str(graph)
    with pytest.raises(AttributeError):
        graph.nodes = ()
    with pytest.raises(TypeError):
        funcgrad.make_graph(3.0)


def test_make_graph_counts_static_arguments_from_both_ends() -> None:
    def scaled(x, n, shift):
        return n * x + shift

    graph = funcgrad.make_graph(scaled, static_argnums=(1, -1))(X, 2, 3.0)
    assert len(graph.inputs) == 1
    assert graph == funcgrad.make_graph(scaled, static_argnums=(1, 2))(X, 2, 3.0)
    for number in (3, -4):
        with pytest.raises(ValueError, match="To fix"):
            funcgrad.make_graph(scaled, static_argnums=number)(X, 2, 3.0)


def test_make_graph_of_abstract_values() -> None:
    graph = funcgrad.make_graph(jnp.sin)(jax.ShapeDtypeStruct((3,), jnp.float32))
    assert "sin" in str(graph)


def test_the_graph_holds_no_arrays() -> None:
    graph = funcgrad.make_graph(lambda x: jnp.sum(x * X + jnp.asarray(M)[0]))(X)
    assert not [leaf for leaf in jax.tree.leaves(vars(graph) if hasattr(graph, "__dict__") else graph)
                if isinstance(leaf, jax.Array)]


def test_a_cotangent_of_an_output_that_reaches_no_input_goes_nowhere() -> None:
    """The backward loop of a scan that multiplies with an empty carry: at order 2 none of its outputs is active."""

    def program(x: jax.Array, empty: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.full((0,), jnp.mean(jax.lax.clamp(x - 1, x, x + 1))), None

        return jax.lax.scan(body, empty, None, length=1)[0]

    args = jnp.ones(1), jnp.ones(0)

    def first(*args: jax.Array) -> tuple[jax.Array, ...]:
        return funcgrad.vjp(program, *args)[1](jnp.ones(0))

    seeds = jax.tree.map(jnp.ones_like, first(*args))
    for ct, arg in zip(funcgrad.vjp(first, *args)[1](seeds), args, strict=True):
        np.testing.assert_array_equal(ct, jnp.zeros_like(arg))


def test_the_attributes_of_a_function_are_its_derivatives_too() -> None:
    def loss(x: float) -> float:
        return x * x

    loss.units = "nats"  # type: ignore[attr-defined]
    for derivative in (funcgrad.grad(loss), funcgrad.jacfwd(loss)):
        assert (derivative.units, derivative.__name__, derivative.__wrapped__) == ("nats", "loss", loss)  # type: ignore[attr-defined]
