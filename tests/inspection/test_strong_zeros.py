"""Strong zeros: 0 * inf = 0 and 0 * NaN = 0 in the sweep, the same bits as ever where everything is finite."""

from __future__ import annotations

import doctest
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import strong_zeros
from tests.cases.case import Case
from tests.harness.products import Autodiff, first_order, make_problem
from tests.harness.table import CASES, COVER, cast, draw, generator, precision

grad = partial(funcgrad.grad, strong_zeros=True)
STRONG = Autodiff("funcgrad with strong zeros", partial(funcgrad.vjp, strong_zeros=True), funcgrad.jvp)
PLAIN = Autodiff("funcgrad", funcgrad.vjp, funcgrad.jvp)


# ---- what is meant to become finite: value of the gradient on paper; plain reverse mode gives NaN ----


def masked(fun, other=0.0):
    return lambda x: jnp.where(x > 0, fun(x), other)


EDGES = {
    "sqrt": (masked(jnp.sqrt), 0.0, 0.0),
    "log": (masked(jnp.log), 0.0, 0.0),
    "reciprocal": (masked(lambda x: 1 / x), 0.0, 0.0),
    "power": (masked(lambda x: x**0.5), 0.0, 0.0),
    "arccos outside its domain": (masked(jnp.arccos), -3.0, 0.0),
    "arctan2 at the origin": (lambda x: jnp.where(x > 0, jnp.arctan2(x, x), x), 0.0, 1.0),
    "quotient": (masked(lambda x: jnp.sin(x) / x, other=1.0), 0.0, 0.0),
    "remainder": (masked(lambda x: lax.rem(1.0, x)), 0.0, 0.0),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_branch_that_was_not_taken_adds_nothing(name: str) -> None:
    fun, x, wanted = EDGES[name]
    assert np.isnan(funcgrad.grad(fun)(x))
    assert grad(fun)(x) == wanted
    assert jax.jit(grad(fun))(x) == wanted


def test_norm_squared_at_zero() -> None:
    def fun(x):
        return jnp.linalg.norm(x) ** 2

    x = jnp.zeros(3)
    assert np.isnan(funcgrad.grad(fun)(x)).all()
    np.testing.assert_array_equal(grad(fun)(x), np.zeros(3))


def sum_of_matrices(fun):
    """A sum over the first of two matrices; of the second no derivative exists."""
    return lambda xs: jnp.where(jnp.array([True, False])[:, None, None], fun(xs), 0).sum()


def sum_of_rows(fun):
    return lambda x: jnp.where(jnp.array([True, False])[:, None], fun(x), 0).sum()


ROWS = np.array([[1.0, 2.0, 0.5], [np.nan, 1.0, np.inf]], np.float32)
MATRICES = np.stack([np.diag([2.0, 3.0]), np.zeros((2, 2))]).astype(np.float32)
LANES = {
    "max": (sum_of_rows(lambda x: x.max(1, keepdims=True)), ROWS),
    "product": (sum_of_rows(lambda x: x.prod(1, keepdims=True)), ROWS),
    "cumprod": (sum_of_rows(lambda x: jnp.cumprod(x, 1)), ROWS),
    "cumlogsumexp": (sum_of_rows(lambda x: lax.cumlogsumexp(x, 1)), ROWS),
    "cholesky": (sum_of_matrices(jnp.linalg.cholesky), MATRICES),
    "qr": (sum_of_matrices(lambda x: jnp.linalg.qr(x)[1]), MATRICES),
}


@pytest.mark.parametrize("name", LANES)
def test_rows_and_matrices_that_do_not_count_add_nothing(name: str) -> None:
    """The first row is as in plain reverse mode on that row alone; the second is zero."""
    fun, x = LANES[name]
    assert np.isnan(funcgrad.grad(fun)(x)[1]).any()
    found = jax.jit(grad(fun))(x)
    harmless = jnp.stack([x[0], x[0]])
    np.testing.assert_array_equal(found[0], jax.jit(funcgrad.grad(fun))(harmless)[0])
    np.testing.assert_array_equal(found[1], np.zeros_like(x[1]))


def test_a_linear_system_that_does_not_count_adds_nothing() -> None:
    def fun(x):
        return jnp.where(x[0, 0] > 0, jnp.linalg.inv(x), 0).sum()

    assert np.isnan(funcgrad.grad(fun)(jnp.zeros((2, 2)))).any()
    np.testing.assert_array_equal(grad(fun)(jnp.zeros((2, 2))), np.zeros((2, 2)))


def test_contractions() -> None:
    """Terms with a zero cotangent leave the sums; a cotangent other than zero meets infinity as ever."""
    matrix = jnp.array([[1.0, jnp.inf], [2.0, jnp.nan], [3.0, 4.0]])
    v = jnp.array([1.0, 2.0])

    def chosen(rows):
        return lambda v: jnp.where(jnp.array(rows), matrix @ v, 0).sum()

    only_last = chosen([False, False, True])
    assert np.isnan(funcgrad.grad(only_last)(v)).any()
    for derive in (grad(only_last), jax.jit(grad(only_last)), grad(jax.jit(only_last))):
        np.testing.assert_array_equal(derive(v), [3.0, 4.0])
    np.testing.assert_array_equal(grad(chosen([True, False, True]))(v), [4.0, np.inf])
    np.testing.assert_array_equal(jax.jit(grad(lambda v: -chosen([True, False, False])(v)))(v), [-1.0, -np.inf])
    np.testing.assert_array_equal(grad(chosen([True, True, False]))(v), [3.0, np.nan])
    np.testing.assert_array_equal(jax.vmap(grad(only_last))(jnp.stack([v, 2 * v])), [[3.0, 4.0]] * 2)


def test_convolution() -> None:
    image = jnp.array([1.0, 2.0, jnp.inf, 3.0])

    def fun(kernel):
        out = lax.conv_general_dilated(image[None, None], kernel[None, None], (1,), "VALID")[0, 0]
        return jnp.where(jnp.array([True, False, False]), out, 0).sum()

    kernel = jnp.array([0.5, 0.25])
    assert np.isnan(funcgrad.grad(fun)(kernel)).any()
    np.testing.assert_array_equal(grad(fun)(kernel), [1.0, 2.0])


def test_a_stretched_divisor_counts_as_each_of_its_copies_does() -> None:
    x = jnp.array([1.0, 2.0])
    assert grad(lambda y: jnp.where(jnp.array([False, False]), x / y, 0).sum())(0.0) == 0
    # the cotangents cancel, but each of them counts: there is no gradient
    assert np.isnan(grad(lambda y: (x / y * jnp.array([1.0, -0.5])).sum())(0.0))


def test_complex_numbers() -> None:
    def fun(z):
        return jnp.where(jnp.abs(z) > 0, jnp.abs(1 / z), 0.0)

    assert np.isnan(funcgrad.grad(fun)(0j))
    assert grad(fun)(0j) == 0


# ---- wherever a sweep runs ----


def root(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


def scanned(x):
    return lax.scan(lambda total, _: (total + root(x), None), 0.0, None, length=3)[0]


def until(x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] + root(x)), (0, 0.0))[1]


@jax.custom_vjp
def own_vjp(x):
    return jnp.sqrt(x)


own_vjp.defvjp(lambda x: (jnp.sqrt(x), x), lambda x, ct: (ct / (2 * jnp.sqrt(x)),))

PROGRAMS = {
    "plain": root, "jit": jax.jit(root), "checkpoint": jax.checkpoint(root), "scan": scanned, "while": until,
    "cond": lambda x: lax.cond(x < 1e3, root, jnp.sin, x), "vmap": lambda x: jax.vmap(root)(x[None])[0],
    "custom_vjp": lambda x: jnp.where(x > 0, own_vjp(x), 0.0),
    "jit in scan": lambda x: lax.scan(lambda c, _: (c + jax.jit(root)(x), None), 0.0, None, length=2)[0],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_place_of_a_sweep(name: str) -> None:
    fun = PROGRAMS[name]
    assert np.isnan(funcgrad.grad(fun)(0.0))
    assert grad(fun)(0.0) == 0
    assert np.isnan(funcgrad.grad(fun)(0.0)), "a plain gradient afterwards is as before"
    slopes = jax.jit(jax.vmap(grad(fun)))(jnp.array([0.0, 4.0]))
    np.testing.assert_array_equal(slopes, [0.0, funcgrad.grad(fun)(4.0)])


# ---- the switch ----


def test_all_transforms_take_the_argument() -> None:
    x = jnp.float32(0.0)
    told = {"strong_zeros": True}
    assert funcgrad.value_and_grad(root, **told)(x) == (0, 0)
    assert funcgrad.jacrev(root, **told)(x) == 0
    assert funcgrad.jacfwd(lambda y: root(y[0]) + y[1], **told)(jnp.array([0.0, 2.0])).tolist() == [0, 1]
    assert funcgrad.jvp(jnp.sqrt, (x,), (x,), **told) == (0, 0)
    assert funcgrad.hessian(root, **told)(x) == 0
    assert funcgrad.hvp(root, (x,), (x,), **told) == 0
    assert funcgrad.vjp(root, x, **told)[1](x)[0] == 0
    assert np.isnan([funcgrad.jvp(jnp.sqrt, (x,), (x,))[1], funcgrad.hessian(root)(x)]).all()


def test_the_context_and_its_end() -> None:
    with strong_zeros():
        assert funcgrad.grad(root)(0.0) == 0
        assert np.isnan(funcgrad.grad(root, strong_zeros=False)(0.0))
        with strong_zeros(False):
            assert np.isnan(funcgrad.grad(root)(0.0))
    assert np.isnan(funcgrad.grad(root)(0.0))


def test_compiled_programs_know_it() -> None:
    compiled = jax.jit(funcgrad.grad(root))
    assert np.isnan(compiled(0.0))
    with strong_zeros():
        assert compiled(0.0) == 0
    assert np.isnan(compiled(0.0))


def test_a_pullback_stays_what_it_was_made() -> None:
    _, strong = funcgrad.vjp(root, 0.0, strong_zeros=True)
    _, plain = funcgrad.vjp(root, 0.0)
    apply = jax.jit(lambda pullback: pullback(1.0)[0])
    assert strong(1.0)[0] == 0 and apply(strong) == 0
    assert np.isnan([plain(1.0)[0], apply(plain)]).all()
    with strong_zeros():
        assert np.isnan([plain(1.0)[0], apply(plain)]).all()
        _, in_context = funcgrad.vjp(root, 0.0)
    assert in_context(1.0)[0] == 0
    assert jax.tree.structure(strong) == jax.tree.structure(in_context) != jax.tree.structure(plain)


def test_the_argument_is_for_its_own_sweep() -> None:
    """An inner gradient is what its own call says; the context is for all."""
    def inner(x):
        return funcgrad.grad(root)(x)

    assert np.isnan(funcgrad.value_and_grad(inner, strong_zeros=True)(0.0)[0])
    with strong_zeros():
        assert funcgrad.value_and_grad(inner)(0.0) == (0, 0)


def test_second_order() -> None:
    assert grad(grad(root))(0.0) == 0
    assert funcgrad.jacrev(funcgrad.jacrev(root, strong_zeros=True), strong_zeros=True)(0.0) == 0
    assert grad(grad(root))(4.0) == funcgrad.grad(funcgrad.grad(root))(4.0)


def test_a_cotangent_that_is_not_zero_is_not_touched() -> None:
    assert grad(jnp.sqrt)(0.0) == np.inf
    assert np.isnan(grad(lambda x: 0.0 * jnp.sqrt(x) + jnp.sin(x / 0 * 0))(0.0))
    assert np.isnan(grad(lambda x: x * jnp.nan)(1.0))


@pytest.mark.parametrize("wrong", ["yes", 1, 0.0])
def test_anything_but_true_false_none_is_an_error(wrong: Any) -> None:
    for call in (lambda: funcgrad.grad(root, strong_zeros=wrong), lambda: strong_zeros(wrong),
                 lambda: funcgrad.vjp(root, 1.0, strong_zeros=wrong)):
        with pytest.raises(TypeError, match="strong_zeros must be True, False or None(.|\n)*To fix"):
            call()


# ---- the same bits where everything is finite ----


def check_bits(case: Case, jitted: bool) -> None:
    dtype = case.dtypes[0]
    with precision(dtype):
        problem = make_problem(case, cast(draw(case), dtype), generator(case, "seeds"))
        active, rest, seeds = problem.inputs

        def run(autodiff: Autodiff) -> Any:
            function = partial(first_order, autodiff, problem)
            return (jax.jit(function) if jitted else function)(active, rest, seeds["ct"])

        plain, strong = (jax.tree.leaves(run(autodiff)) for autodiff in (PLAIN, STRONG))
        assert len(plain) == len(strong)
        for wanted, given in zip(plain, strong, strict=True):
            assert given.dtype == wanted.dtype and given.shape == wanted.shape
            if wanted.dtype == jax.dtypes.float0 or jnp.issubdtype(wanted.dtype, jax.dtypes.extended):
                continue
            if jitted:  # XLA makes a product with a mask a selection, and -0 becomes 0: equal, if not in that bit
                np.testing.assert_array_equal(np.asarray(given), np.asarray(wanted))
            else:
                assert np.asarray(given).tobytes() == np.asarray(wanted).tobytes()


#: One case of each kind of map that treats zeros differently; all others are slow.
QUICK = ("mul", "div", "exp", "abs", "reduce_max", "dot_general", "conv_general_dilated", "cumprod", "select_n", "sub")


def rows() -> list:
    quick = {next(case.name for case in CASES if kind in case.primitives) for kind in QUICK}
    return [pytest.param(case, id=case.name, marks=() if case.name in quick else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", rows())
def test_the_same_bits(case: Case) -> None:
    check_bits(case, jitted=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.name in COVER])
def test_the_same_bits_compiled(case: Case) -> None:
    check_bits(case, jitted=True)


def test_the_page_gives_what_it_says() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "strong_zeros.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert attempted and not failed
