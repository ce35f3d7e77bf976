"""A softmax is one step backward: it is found, its formula is right, and of its size only the result is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.detours import Detours

Array = Any
X = jnp.sin(jnp.arange(25.0) * 1.7).reshape(5, 5) * 2


def _over(total: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The cubes of exponentials over a sum of them, so that the cotangents differ."""
    def program(x: Array) -> Array:
        e = jnp.exp(x)
        return jnp.sum((e / total(e)) ** 3)

    return program


FOUND: dict[str, Callable[[Array], Array]] = {
    "jax.nn.softmax": lambda x: jnp.sum(jax.nn.softmax(x) ** 3),
    "over the first axis": lambda x: jnp.sum(jax.nn.softmax(jnp.sin(x), 0) ** 3),
    "over two axes": lambda x: jnp.sum(jax.nn.softmax(x, (0, 1)) ** 3),
    "over a middle axis": lambda x: jnp.sum(jax.nn.softmax(x[:, :, None] * x, 1) ** 3),
    "by hand, axes kept": _over(lambda e: jnp.sum(e, -1, keepdims=True)),
    "by hand, the first axis put in by broadcasting": _over(lambda e: jnp.sum(e, 0)),
    "by hand, over everything": _over(jnp.sum),
    "by hand, of a vector": lambda x: _over(jnp.sum)(x[0]),
    "with a mask": lambda x: jnp.sum(jax.nn.softmax(jnp.where(jnp.tri(5) > 0, x, -jnp.inf)) ** 3),
    "bfloat16, summed in float32": lambda x: jnp.sum(jax.nn.softmax(x.astype(jnp.bfloat16)) ** 3).astype(jnp.float32),
    "twice": lambda x: jnp.sum(jax.nn.softmax(jax.nn.softmax(x) * 3) ** 3),
}
NOT_FOUND: dict[str, Callable[[Array], Array]] = {
    "rows over the sums of columns": _over(lambda e: jnp.sum(e, 1)[None]),
    "the last axis, put in elsewhere": _over(lambda e: jnp.sum(e, 0)[:, None]),
    "the axis that is put in is another": _over(lambda e: jnp.sum(e, 1)),
    "of part of them": _over(lambda e: jnp.sum(e[1:])),
    "sum and something": _over(lambda e: 1 + jnp.sum(e)),
    "no gradient through the sum": _over(lambda e: lax.stop_gradient(jnp.sum(e))),
    "another sum": lambda x: jnp.sum((jnp.exp(x) / jnp.sum(jnp.sin(x))) ** 3),
    "the exponentials are used": lambda x: (lambda e: jnp.sum(e / jnp.sum(e) * e))(jnp.exp(x)),
    "the exponentials are returned": lambda x: (lambda e: jnp.sum(jnp.stack([e / jnp.sum(e), e]) ** 2))(jnp.exp(x)),
    "the sum is used": lambda x: (lambda e, s: jnp.sum((e / s) ** 2) * s)(jnp.exp(x), jnp.sum(jnp.exp(x))),
    "no exponentials": lambda x: (lambda e: jnp.sum((e / jnp.sum(e)) ** 3))(jnp.cosh(x)),
}
INSIDE: dict[str, Callable[[Array], Array]] = {
    "in a scan": lambda x: jnp.sum(lax.scan(lambda c, _: (jax.nn.softmax(c @ x.T @ x), None), x, None, 3)[0] ** 2),
    "in a jit": lambda x: jnp.sum(jax.jit(jax.nn.softmax)(x) ** 3),
    "in a checkpoint": lambda x: jnp.sum(jax.checkpoint(FOUND["by hand, axes kept"])(x)),
    "in a branch": lambda x: lax.cond(x[0, 0] < 9, FOUND["jax.nn.softmax"], jnp.sum, x),
    "in a while loop": lambda x: jnp.sum(lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jax.nn.softmax(c[1])),
                                                        (0, x))[1] ** 2),
}


def _found(program: Callable[[Array], Array]) -> int:
    return len(Detours(funcgrad.make_graph(program)(X)).softmaxes)


def _assert_close(given: Array, wanted: Array, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(given, wanted, rtol=tolerance, atol=tolerance)


def test_what_is_found() -> None:
    assert {name: _found(program) for name, program in FOUND.items()} == {
        name: 2 if name == "twice" else 1 for name in FOUND}
    assert {name: _found(program) for name, program in NOT_FOUND.items()} == dict.fromkeys(NOT_FOUND, 0)


@pytest.mark.parametrize("name", [*FOUND, *NOT_FOUND, *INSIDE])
def test_equals_jax(name: str) -> None:
    """In one compilation with strong zeros, and eagerly, where the sweep is compiled by itself."""
    program = {**FOUND, **NOT_FOUND, **INSIDE}[name]
    both = jax.jit(lambda x: (funcgrad.grad(program)(x), funcgrad.grad(program, strong_zeros=True)(x)))
    # Forward mode where JAX's reverse mode has no rule.
    wanted = (jax.jacfwd if name == "in a while loop" else jax.grad)(program)(X)
    for given in (*both(X), funcgrad.grad(program)(X)):
        _assert_close(given, wanted, 2e-2 if "bfloat16" in name else 1e-5)


@pytest.mark.parametrize("name", ["jax.nn.softmax", "by hand, over everything", "over two axes", "in a scan"])
def test_of_second_order_and_under_vmap(name: str) -> None:
    program, direction = {**FOUND, **INSIDE}[name], jnp.cos(X)
    wanted = jax.jvp(jax.grad(program), (X,), (direction,))[1]
    _assert_close(funcgrad.grad(lambda x: jnp.vdot(funcgrad.grad(program)(x), direction))(X), wanted)
    _assert_close(jax.jvp(funcgrad.grad(program), (X,), (direction,))[1], wanted)
    many = jnp.stack([X, X + direction])
    _assert_close(jax.vmap(funcgrad.grad(program))(many), jax.vmap(jax.grad(program))(many))


def test_a_large_shift_does_not_matter() -> None:
    """Terms that cancel stay as exact as in float64: the formula subtracts a mean of the cotangents, nothing large."""
    x = jnp.linspace(-80.0, 5.0, 25).reshape(5, 5)
    with jax.enable_x64(True):
        wanted = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) ** 3))(jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(funcgrad.grad(FOUND["jax.nn.softmax"])(x), wanted, rtol=1e-5, atol=1e-9)


def test_only_the_result_is_kept() -> None:
    """JAX keeps the exponentials and the quotient."""
    def loss(x: Array) -> Array:
        return jnp.sum(jnp.sin(jax.nn.softmax(x * x)))

    program = funcgrad.residuals(loss, policy="everything", compiled=False)(X)
    kept = [row.operation for row in program.rows if row.fate == "saved" and row.bytes == X.nbytes]
    assert kept == ["div"]
    (quotient,) = (row for row in program.rows if row.operation == "div")
    assert [reader.split(" at ")[0] for reader in quotient.readers] == ["pullback of div", "pullback of sin"]


def test_the_backward_pass_is_one_formula() -> None:
    """ct y, its sum, the difference, and the product; with the sum's axis put in."""
    def backward(x: Array, ct: Array) -> Array:
        return funcgrad.vjp(jax.nn.softmax, x)[1](ct)[0]

    def forward(x: Array) -> Array:
        return jax.nn.softmax(x)

    both, alone = (jax.make_jaxpr(f)(*args) for f, args in ((backward, (X, X)), (forward, (X,))))
    assert len(both.eqns) - len(alone.eqns) <= 5


def test_a_masked_row_gets_no_gradient_with_strong_zeros() -> None:
    """A row masked as a whole is NaN in the value; what a zero cotangent meets there stays zero."""
    def loss(x: Array) -> Array:
        masked = jnp.where(jnp.arange(5)[:, None] > 1, x, -jnp.inf)
        weights = jax.nn.softmax(masked)
        return jnp.sum(jnp.where(jnp.arange(5)[:, None] > 1, weights, 0.0) ** 2)

    gradient = funcgrad.grad(loss, strong_zeros=True)(X)
    assert np.isfinite(gradient).all() and (gradient[:2] == 0).all() and (gradient[2:] != 0).all()


def test_the_inspectors_go_node_by_node() -> None:
    """A NaN is named where it arises, a dead path where it is cut, and every node has its cotangent."""
    def loss(x: Array) -> Array:
        e = jnp.exp(jnp.log(x))
        return jnp.sum((e / jnp.sum(e)) ** 2)

    x = jnp.array([1.0, 0.0, 2.0])
    assert funcgrad.find_nonfinite(loss, x).place.operation == "log"
    steps = {step.operation: step for step in funcgrad.explain(loss)(jnp.array([1.0, 3.0, 2.0])).steps[:-1]}
    assert all(steps[name].cotangents[0] is not None for name in ("log", "exp", "reduce_sum", "div"))
