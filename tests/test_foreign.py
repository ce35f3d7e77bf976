"""Primitives of other libraries: differentiated by the jvp and the transpose that their authors gave to JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.test_util import check_grads

import funcgrad
from funcgrad import registry
from funcgrad.registry import lookup

Array = Any


def primitive(name: str, implementation: Callable, several: bool = False) -> Primitive:
    """A primitive as a library makes one: computed by a function of `jnp`, mapped by mapping that."""
    made = Primitive(name)
    made.multiple_results = several
    made.def_impl(implementation)
    made.def_abstract_eval(lambda *avals, **params: jax.tree.map(
        lambda out: jax.core.ShapedArray(out.shape, out.dtype),
        jax.eval_shape(functools.partial(implementation, **params), *avals)))
    mlir.register_lowering(made, mlir.lower_fun(implementation, multiple_results=several))
    return made


# ---- y = solve(a, b): the rule and the transpose apply the primitive again ----

solve_p = primitive("tests_solve", lambda a, b, *, transposed: jnp.linalg.solve(a.T if transposed else a, b))


def solve(a: Array, b: Array, transposed: bool = False) -> Array:
    """The solution of ``a y = b``."""
    return solve_p.bind(a, b, transposed=transposed)


def _solve_jvp(primals: Any, tangents: Any, *, transposed: bool) -> Any:
    (a, b), (a_dot, b_dot) = primals, tangents
    out = solve(a, b, transposed)
    moved = 0 if isinstance(b_dot, ad.Zero) else b_dot
    if not isinstance(a_dot, ad.Zero):
        moved = moved - (a_dot.T if transposed else a_dot) @ out
    return out, solve(a, moved, transposed)


def _solve_transpose(ct: Array, a: Array, b: Any, *, transposed: bool) -> Any:
    assert not ad.is_undefined_primal(a)
    assert ad.is_undefined_primal(b)
    return [None, solve(a, ct, not transposed)]


ad.primitive_jvps[solve_p] = _solve_jvp
ad.primitive_transposes[solve_p] = _solve_transpose

# ---- with JAX's helpers: a partial for each operand; a linear map ----

hypot_p = primitive("tests_hypot", jnp.hypot)
ad.defjvp(hypot_p, lambda t, x, y: t * x / jnp.hypot(x, y), lambda t, x, y: t * y / jnp.hypot(x, y))
double_p = primitive("tests_double", lambda x: 2 * x)
ad.deflinear2(double_p, lambda ct, _x: [double_p.bind(ct)])

# ---- several results, one of them whole numbers ----

divmod_p = primitive("tests_divmod", lambda x: (x - jnp.floor(x), jnp.floor(x).astype(int), x * x), several=True)


def _divmod_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    rest, whole, squared = divmod_p.bind(x)
    return [rest, whole, squared], [t, ad.Zero(jax.typeof(whole).to_tangent_aval()), 2 * x * t]


ad.primitive_jvps[divmod_p] = _divmod_jvp

# ---- no way back, and no rule at all ----

one_way_p = primitive("tests_one_way", lambda x: x)
ad.primitive_jvps[one_way_p] = lambda primals, tangents: (one_way_p.bind(*primals), one_way_p.bind(*tangents))


def _refuse(ct: Array, x: Any) -> Any:
    raise RuntimeError("this has no way back")


ad.primitive_transposes[one_way_p] = _refuse
bare_p = primitive("tests_bare", lambda x: x)

A = jnp.array([[3.0, 1.0, 0.0], [-1.0, 4.0, 1.0], [0.5, 0.0, 2.0]])
B = jnp.array([1.0, -2.0, 0.5])
PROGRAMS: dict[str, tuple[Callable, tuple]] = {
    "solve": (lambda a, b: jnp.sum(solve(a, b) ** 2), (A, B)),
    "solve transposed": (lambda a, b: jnp.sum(jnp.sin(solve(jnp.tanh(a) + A, b, True))), (A, B)),
    "solve, matrix only": (lambda a: jnp.sum(solve(a, B) ** 3), (A,)),
    "solve, vector only": (lambda b: jnp.sum(solve(A, b) ** 3), (B,)),
    "partials": (lambda x, y: jnp.sum(hypot_p.bind(x, y) ** 2 * x), (B, B + 1)),
    "linear": (lambda x: jnp.sum(jnp.cos(double_p.bind(x)) * x), (B,)),
    "several results": (lambda x: (lambda r, w, s: jnp.sum(r * s + jnp.sin(s) * w))(*divmod_p.bind(x)), (B,)),
    "in jit": (jax.jit(lambda a, b: jnp.sum(solve(a, b) ** 2)), (A, B)),
    "in scan": (lambda a, b: jnp.sum(jax.lax.scan(
        lambda c, x: (solve(a, jnp.sin(c)) + x, hypot_p.bind(c, c + 3)), b, jnp.ones((3, 3)))[1]), (A, B)),
    "in cond": (lambda a, b: jnp.sum(jax.lax.cond(b[0] > 0, solve, lambda a, b: double_p.bind(b), a, b) ** 2), (A, B)),
    "in checkpoint": (jax.checkpoint(lambda a, b: jnp.sum(solve(a, b) ** 2)), (A, B)),
}


#: Whose second derivative takes seconds to compile.
SLOW = {"in scan", "in cond", "in checkpoint", "in jit", "solve transposed", "several results", "partials"}
CASES = [pytest.param(name, order, marks=[pytest.mark.slow] if order == 2 and name in SLOW else [])
         for name in PROGRAMS for order in (1, 2)]


@pytest.mark.parametrize(("name", "order"), CASES)
def test_the_gradient_is_jax_s(name: str, order: int) -> None:
    fun, args = PROGRAMS[name]

    def derived(library: Any) -> Callable:
        everything = tuple(range(len(args)))
        first = library.grad(fun, everything)
        if order == 1:
            return first
        return library.grad(lambda *xs: sum(jnp.sum(jnp.cos(ct)) for ct in first(*xs)), everything)

    want = derived(jax)(*args)
    for got in (derived(funcgrad)(*args), jax.jit(derived(funcgrad))(*args)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


def test_and_the_one_of_finite_differences() -> None:
    with funcgrad.substitute("swap"):
        check_grads(lambda a, b: solve(a, b), (A, B), order=2, modes=["rev"], rtol=2e-2, atol=2e-2)


def test_under_vmap_the_library_s_batching_is_used() -> None:
    batching.primitive_batchers[double_p] = lambda xs, axes: (double_p.bind(*xs), axes[0])
    rows = jnp.stack([B, 2 * B])
    slopes = jax.vmap(funcgrad.grad(lambda x: jnp.sum(double_p.bind(x) ** 2)))(rows)
    np.testing.assert_allclose(slopes, 8 * rows, rtol=1e-6)


def test_the_author_s_refusal_reaches_the_user() -> None:
    with pytest.raises(RuntimeError, match="this has no way back"):
        funcgrad.grad(lambda x: jnp.sum(one_way_p.bind(x)))(B)
    held = funcgrad.grad(lambda x: jnp.sum(x**2 + jax.lax.stop_gradient(one_way_p.bind(x))))(B)
    np.testing.assert_allclose(held, 2 * B)


def test_without_a_jvp_the_error_says_what_to_do() -> None:
    with pytest.raises(funcgrad.errors.MissingRuleError, match="`tests_bare`"):
        funcgrad.grad(lambda x: jnp.sum(bare_p.bind(x)))(B)
    assert lookup(bare_p) is None


@pytest.fixture
def mine_p() -> Iterator[Primitive]:
    """A primitive with the right rule in JAX. What a test puts into funcgrad's table goes when the test ends."""
    made = primitive("tests_mine", lambda x: x * x)
    ad.defjvp(made, lambda t, x: 2 * x * t)
    yield made
    registry._RULES.pop(made, None)


def test_a_rule_in_extend_comes_first(mine_p: Primitive) -> None:
    assert lookup(mine_p) is not None
    funcgrad.extend.pointwise(mine_p, lambda _out, x: 3 * x)
    np.testing.assert_allclose(funcgrad.grad(lambda x: jnp.sum(mine_p.bind(x)))(B), 3 * B)


def test_jax_s_own_rules_are_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Primitive("tests_of_jax")
    for told in (ad.primitive_jvps, ad.primitive_transposes):
        monkeypatch.setitem(told, theirs, told[jax.lax.neg_p])
    assert lookup(theirs) is None


def test_check_and_explain_know_them() -> None:
    report = funcgrad.check(*_flat(PROGRAMS["solve"]))
    assert report.ok, str(report)
    assert "tests_solve" in str(funcgrad.explain(PROGRAMS["solve"][0])(A, B))


def _flat(program: tuple[Callable, tuple]) -> tuple:
    return (program[0], *program[1])


# ---- what such libraries do with custom rules ----


def test_a_custom_jvp_function_may_call_itself_on_tangents() -> None:
    @jax.custom_jvp
    def same(x: Array) -> Array:
        return x * 1.0

    same.defjvp(lambda primals, tangents: (same(*primals), same(*tangents)))
    np.testing.assert_allclose(funcgrad.grad(lambda x: jnp.sum(same(x) ** 2))(B), 2 * B)
    np.testing.assert_allclose(jax.jit(funcgrad.hessian(lambda x: jnp.sum(same(x) ** 2)))(B), 2 * jnp.eye(3))


def _scaled(kind: str) -> Callable[[Array], Array]:
    @jax.custom_vjp
    def scaled(x: Array) -> Array:
        return 3 * x

    def backward(kept: Any, ct: Array) -> Any:
        flag, count, rate, x = kept
        assert isinstance(flag, bool)
        assert isinstance(count, int)
        assert isinstance(rate, float)
        if kind == "asks a value" and (jnp.any(x < 0) or float(ct[0]) < 0):
            return (5 * ct,)
        return (jnp.stack([ct * rate] * count).sum(0) if flag else ct,)

    scaled.defvjp(lambda x: (3 * x, (True, 2, 1.5, x)), backward)
    return scaled


@pytest.mark.parametrize("wrapped", ["", "jit", "scan"])
def test_numbers_that_a_custom_vjp_keeps_stay_numbers_of_python(wrapped: str) -> None:
    scaled = _scaled("")
    fun = {"": scaled, "jit": jax.jit(scaled), "scan": lambda x: jax.lax.scan(
        lambda c, _: (scaled(c) / 3, None), x, None, 2)[0]}[wrapped]
    want = jax.grad(lambda x: jnp.sum(fun(x)))(B)
    np.testing.assert_allclose(funcgrad.grad(lambda x: jnp.sum(fun(x)))(B), want)


def test_outside_jit_a_backward_function_may_ask_for_values() -> None:
    scaled = _scaled("asks a value")
    for _ in range(3):
        np.testing.assert_allclose(funcgrad.grad(lambda x: jnp.sum(scaled(jnp.sin(x))))(B), 5 * jnp.cos(B), rtol=1e-6)
        np.testing.assert_allclose(funcgrad.grad(lambda x: jnp.sum(scaled(x**2)))(B + 3), 6 * (B + 3), rtol=1e-6)
