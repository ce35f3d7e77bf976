"""Calls: `jit`, `checkpoint` with each policy, custom rules, and primitives that hold a program, against `jax.grad`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.custom_derivatives import SymbolicZero, linear_call
from jax.experimental.hijax import VJPHiPrimitive
from jax.experimental.ode import odeint

import funcgrad

X, Y = np.array([0.3, -0.7, 1.2]), np.array([1.1, 0.4, -0.2])
Function = Callable[[Any, Any], Any]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """float64, so that equal means equal."""
    with jax.enable_x64(True):
        yield


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


# ---- jit ----


def static_argument(x: Any, y: Any) -> Any:
    power = jax.jit(lambda x, n, scale: scale * x**n, static_argnums=1, static_argnames="scale")
    return power(x, 3, scale=2.0) + power(y, 2, scale=0.5)


def closes_over_traced(x: Any, y: Any) -> Any:
    z = x * y
    return jax.jit(lambda u: jax.jit(lambda v: v * z + y)(u) * z)(x)


def keeps_unused(x: Any, y: Any) -> Any:
    return jax.jit(lambda x, y, unused: body(x, y), keep_unused=True)(x, y, jnp.exp(x))


def several_results(x: Any, y: Any) -> Any:
    parts = jax.jit(lambda x, y: {"a": x * y, "flag": x > 0, "same": x, "one": 1.0})(x, y)
    return jnp.where(parts["flag"], parts["a"], parts["same"]) * parts["one"]


JITTED: dict[str, Function] = {
    "plain": jax.jit(body),
    "nested": jax.jit(lambda x, y: jax.jit(body)(jax.jit(jnp.sin)(x), y)),
    "inline": jax.jit(body, inline=True),
    "static arguments": static_argument,
    "closure over traced values": closes_over_traced,
    "keep_unused": keeps_unused,
    "several results": several_results,
    "called twice": lambda x, y: jax.jit(body)(x, y) + jax.jit(body)(y, x),
}


@pytest.mark.parametrize("name", JITTED)
def test_jit(name: str) -> None:
    check(total(JITTED[name]))


def test_donated_buffers_are_not_lost() -> None:
    donating = jax.jit(body, donate_argnums=0)
    value, pullback = funcgrad.vjp(donating, jnp.asarray(X), jnp.asarray(Y))
    _, wanted = jax.vjp(jax.jit(body), X, Y)
    close(pullback(value), wanted(value))
    # eager jax.grad of this raises: it keeps the donated array
    check(total(lambda x, y: donating(x + 0, y)), total(body))


# ---- checkpoint ----


def named(x: Any, y: Any) -> Any:
    """A body with a name and a contraction."""
    z = checkpoint_name(jnp.sin(x * y), "inner")
    return jnp.tanh(jnp.outer(x, z) @ y) + checkpoint_name(z * z, "outer")


policies = jax.checkpoint_policies
POLICIES: dict[str, Any] = {
    "none": None,
    "everything_saveable": policies.everything_saveable,
    "nothing_saveable": policies.nothing_saveable,
    "dots_saveable": policies.dots_saveable,
    "checkpoint_dots": policies.checkpoint_dots,
    "dots_with_no_batch_dims_saveable": policies.dots_with_no_batch_dims_saveable,
    "checkpoint_dots_with_no_batch_dims": policies.checkpoint_dots_with_no_batch_dims,
    "offload_dot_with_no_batch_dims": policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "save_anything_except_these_names": policies.save_anything_except_these_names("inner"),
    "save_any_names_but_these": policies.save_any_names_but_these("inner"),
    "save_only_these_names": policies.save_only_these_names("inner"),
    "save_from_both_policies": policies.save_from_both_policies(
        policies.dots_saveable, policies.save_only_these_names("outer")),
    "save_and_offload_only_these_names": policies.save_and_offload_only_these_names(
        names_which_can_be_saved=["inner"], names_which_can_be_offloaded=["outer"], offload_src="device",
        offload_dst="pinned_host"),
}


def test_every_policy_is_here() -> None:
    public = {name for name in dir(policies) if not name.startswith("_")}
    assert public <= set(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_checkpoint_policies(name: str) -> None:
    wrapped = jax.checkpoint(named, policy=POLICIES[name])
    close(funcgrad.grad(total(wrapped), (0, 1))(X, Y), jax.grad(total(named), (0, 1))(X, Y))
    close(jax.jit(second(funcgrad.grad, total(wrapped)))(X, Y), second(jax.grad, total(named))(X, Y))


def kept(policy: Any) -> list[tuple[int, ...]]:
    """Shapes of what the pullback of a checkpointed function keeps."""
    def f(x: Any, y: Any) -> Any:
        return jnp.sum(jax.checkpoint(named, policy=policy)(x, y))

    _, pullback = funcgrad.vjp(f, X, Y)
    return sorted(leaf.shape for leaf in jax.tree.leaves(pullback))


def test_policies_decide_what_is_kept() -> None:
    assert kept(None) == kept(policies.nothing_saveable) == [(3,), (3,)]  # x and y
    assert len(kept(policies.save_only_these_names("inner"))) == 3
    assert len(kept(policies.dots_saveable)) >= 3


def test_checkpoint_closures_and_options() -> None:
    def f(x: Any, y: Any) -> Any:
        z = x * y
        inner = jax.checkpoint(lambda u, n: jnp.sin(u * z) ** n, static_argnums=1, prevent_cse=False)
        return jax.checkpoint(lambda u: inner(u, 2) + jax.checkpoint(jnp.cos)(u) * y)(x)

    check(total(f))


# ---- custom_jvp ----


@jax.custom_jvp
def with_jvp(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


@with_jvp.defjvp
def with_jvp_rule(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    return with_jvp(x, y), 2 * jnp.cos(x) * y * dx + jnp.sin(x) * dy  # twice the truth: the rule must be used


@jax.custom_jvp
def with_jvps(x: Any, y: Any) -> Any:
    return x * y


with_jvps.defjvps(lambda dx, out, x, y: 3 * dx * y, None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def applied(f: Any, x: Any, scale: float) -> Any:
    return f(x) * scale


@applied.defjvp
def applied_rule(f: Any, scale: float, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return applied(f, x, scale), 5 * dx * scale * jnp.cos(x)


@jax.custom_jvp
def symbolic_jvp(x: Any, y: Any) -> Any:
    return x * jnp.sin(y)


def symbolic_rule(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    out = symbolic_jvp(x, y)
    if type(dy) is SymbolicZero:
        return out, 7 * dx * jnp.sin(y)  # seen in the result: the zero was symbolic
    dx = dx.instantiate() if type(dx) is SymbolicZero else dx
    return out, dx * jnp.sin(y) + dy * x * jnp.cos(y)


symbolic_jvp.defjvp(symbolic_rule, symbolic_zeros=True)


# ---- custom_vjp ----


@jax.custom_vjp
def with_vjp(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


with_vjp.defvjp(lambda x, y: (with_vjp(x, y), (x, y)),
                lambda kept, ct: (2 * ct * jnp.cos(kept[0]) * kept[1], ct * jnp.sin(kept[0])))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,), nondiff_argnames=("scale",))
def vjp_of(f: Any, x: Any, scale: float) -> Any:
    return f(x) * scale


vjp_of.defvjp(lambda f, x, scale: (vjp_of(f, x, scale), x), lambda f, scale, x, ct: (3 * ct * scale * jnp.cos(x),))


@jax.custom_vjp
def symbolic_vjp(x: Any, y: Any) -> Any:
    return x * y, jnp.sin(x)


def symbolic_forward(x: Any, y: Any) -> Any:
    factor = 1.0 if y.perturbed else 11.0
    return (x.value * y.value, jnp.sin(x.value)), (x.value, y.value, factor)


def symbolic_backward(kept: Any, ct: Any) -> Any:
    x, y, factor = kept
    ct_product, ct_sine = ct
    if type(ct_sine) is SymbolicZero:
        return factor * ct_product * y * 13, ct_product * x
    return factor * (ct_product * y + ct_sine * jnp.cos(x)), ct_product * x


symbolic_vjp.defvjp(symbolic_forward, symbolic_backward, symbolic_zeros=True)


@jax.custom_vjp
def optimized(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


optimized.defvjp(lambda x, y: (jnp.sin(x) * y, (jnp.cos(x), y, x)),
                 lambda kept, ct: (2 * ct * kept[0] * kept[1], ct * jnp.sin(kept[2])), optimize_remat=True)


def none_and_integers(x: Any, y: Any) -> Any:
    @jax.custom_vjp
    def f(x: Any, tree: Any, n: Any) -> Any:
        return x * tree["a"] + n

    f.defvjp(lambda x, tree, n: (f(x, tree, n), (x, tree["a"])), lambda kept, ct: (ct * kept[1], {"a": None}, None))
    return f(x, {"a": y}, jnp.arange(3))


CUSTOM: dict[str, Function] = {
    "custom_jvp": with_jvp,
    "custom_jvp jitted": jax.jit(with_jvp),
    "defjvps": lambda x, y: with_jvps(x, y) + y,
    "custom_jvp nondiff_argnums": lambda x, y: applied(jnp.sin, x, 2.0) * y,
    "custom_jvp symbolic zeros": lambda x, y: symbolic_jvp(x, 2.0) + symbolic_jvp(x, y),
    "custom_vjp": with_vjp,
    "custom_vjp jitted": jax.jit(with_vjp),
    "custom_vjp checkpointed": jax.checkpoint(with_vjp),
    "custom_vjp scanned": lambda x, y: jax.lax.scan(lambda c, _i: (with_vjp(c, y), None), x, None, length=3)[0],
    "custom_vjp mapped": lambda x, y: jax.vmap(with_vjp)(x, y),
    "custom_vjp nondiff_argnums": lambda x, y: vjp_of(jnp.sin, x, 2.0) * y,
    "custom_vjp symbolic zeros": lambda x, y: symbolic_vjp(x, y)[0] + symbolic_vjp(x, 2.0 + 0 * X)[0] * sum(
        symbolic_vjp(y, x)),
    "custom_vjp None and integers": none_and_integers,
}


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_rules(name: str) -> None:
    check(total(CUSTOM[name]))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_optimize_remat(wrap: Any) -> None:
    check(total(wrap(optimized)), orders=1)
    # jax.grad refuses order two of it; the same rule without the option has it
    plain = jax.custom_vjp(lambda x, y: jnp.sin(x) * y)
    plain.defvjp(lambda x, y: (jnp.sin(x) * y, (jnp.cos(x), y, x)),
                 lambda kept, ct: (2 * ct * kept[0] * kept[1], ct * jnp.sin(kept[2])))
    check(total(wrap(optimized)), total(plain))


def test_custom_rules_close_over_values_traced_outside() -> None:
    def inner(x: Any, y: Any, grad: Any) -> Any:
        z = jnp.sin(y)
        by_jvp = jax.custom_jvp(lambda u: u * z)
        by_jvp.defjvp(lambda primals, tangents: (by_jvp(*primals), 2 * tangents[0] * z))
        by_vjp = jax.custom_vjp(lambda u: u * z)
        by_vjp.defvjp(lambda u: (u * z, None), lambda _kept, ct: (3 * ct * z,))
        return grad(lambda u: jnp.sin(by_jvp(u)) * by_vjp(u))(x)

    close(jax.jit(jax.vmap(lambda x, y: inner(x, y, funcgrad.grad)))(X, Y),
          jax.jit(jax.vmap(lambda x, y: inner(x, y, jax.grad)))(X, Y))


# ---- primitives that hold a program ----


def solved(x: Any, y: Any) -> Any:
    """Division as a linear_call whose transpose is wrong by a factor of three."""
    return linear_call(lambda r, v: v / r, lambda r, ct: 3 * ct / r, 2 + jax.lax.stop_gradient(y) ** 2, x) * y


def test_linear_call() -> None:
    check(total(solved))
    close(funcgrad.jvp(lambda x: solved(x, Y), (X,), (Y,)), jax.jvp(lambda x: solved(x, Y), (X,), (Y,)))


def test_linear_call_is_differentiable_in_the_rest() -> None:
    def f(x: Any, y: Any) -> Any:
        return linear_call(lambda r, v: v / r, lambda r, ct: ct / r, 2 + y**2, x)

    check(total(f), total(lambda x, y: x / (2 + y**2)))


def test_composite() -> None:
    @functools.partial(jax.lax.composite, name="my.body")
    def composed(x: Any, y: Any) -> Any:
        return body(x, y)

    check(total(composed), total(body))  # jax.grad refuses a composite
    text = jax.jit(funcgrad.value_and_grad(total(composed))).lower(X, Y).as_text()
    assert 'stablehlo.composite "my.body"' in text


@custom_vmap
def with_batching(x: Any, y: Any) -> Any:
    return jnp.sin(x) * y


@with_batching.def_vmap
def batching_rule(axis_size: int, in_batched: Any, x: Any, y: Any) -> Any:
    return jnp.sin(x) * y, True


@pytest.mark.parametrize("f", [with_batching, sequential_vmap(lambda x, y: jnp.sin(x) * y)], ids=["own", "sequential"])
def test_custom_vmap(f: Function) -> None:
    def same(x: Any, y: Any) -> Any:
        return jnp.sin(x) * y

    check(total(f), total(same))  # jax.grad refuses it; jax.jvp does not
    check(total(lambda x, y: jax.vmap(f)(x, y)), total(same))
    close(jax.vmap(funcgrad.grad(f, (0, 1)))(X, Y), jax.vmap(jax.grad(same, (0, 1)))(X, Y))


class Scaled(VJPHiPrimitive):
    """``factor * x * y`` with a rule that is wrong by 2 in x."""

    def __init__(self, aval: Any, factor: float, accumulates: bool = False):
        self.in_avals = (aval, aval)
        self.out_aval = aval
        self.params = {"factor": factor}
        super().__init__()

    def expand(self, x: Any, y: Any) -> Any:
        return self.factor * x * y

    def vjp_fwd(self, nonzero: Any, x: Any, y: Any) -> Any:
        return self(x, y), (x, y)

    def vjp_bwd_retval(self, kept: Any, ct: Any) -> Any:
        return 2 * self.factor * ct * kept[1], self.factor * ct * kept[0]

    def batch_dim_rule(self, axis_data: Any, dims: Any) -> Any:
        return next(d for d in dims if d is not None)


class Accumulating(Scaled):
    """The same by the method that adds to accumulators."""

    vjp_bwd_retval = VJPHiPrimitive.vjp_bwd_retval

    def vjp_bwd(self, kept: Any, ct: Any, ct_x: Any, ct_y: Any) -> None:
        ct_x.accum(2 * self.factor * ct * kept[1])
        ct_y.accum(self.factor * ct * kept[0])


@pytest.mark.parametrize("kind", [Scaled, Accumulating])
def test_hijax_primitive(kind: Any) -> None:
    def f(x: Any, y: Any) -> Any:
        return kind(jax.typeof(jnp.asarray(x)), 3.0)(jnp.sin(x), y) + y

    check(total(f), orders=1)
    close(second(funcgrad.grad, total(f))(X, Y), second(jax.grad, total(f))(X, Y))


def test_a_cotangent_of_another_precision_is_converted() -> None:
    """Mixed precision: the user's backward computes in float32 for a bfloat16 operand, which JAX accepts."""
    twice = jax.custom_vjp(lambda x: x * 2)
    twice.defvjp(lambda x: (x * 2, None), lambda residual, ct: (ct.astype(jnp.float32) * 3,))
    gradient = funcgrad.grad(lambda x: jnp.sum(twice(x)))(jnp.ones(2, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(jnp.float32), 3.0)


@pytest.mark.parametrize("transform", [lambda fun: fun, jax.jit], ids=["eager", "jit"])
def test_a_closure_over_a_traced_value_is_converted(transform: Callable[..., Any]) -> None:
    """`jax.closure_convert` hoists what may be differentiated; solvers with a custom_vjp (`odeint`) stand on it."""

    def solved(rate: Any) -> Any:
        return jnp.sum(odeint(lambda y, _t: -rate[0] * y, jnp.ones(2), jnp.array([0.0, 1.0])))

    rate = jnp.array([1.1, 0.4])
    np.testing.assert_allclose(transform(funcgrad.grad(solved))(rate), jax.grad(solved)(rate), rtol=1e-5)

    def hoisted(factor: Any) -> Any:
        converted, constants = jax.closure_convert(lambda y: y * factor, 1.0)
        return converted(1.0, *constants) * len(constants)

    assert transform(funcgrad.grad(hoisted))(2.0) == 1


def test_a_custom_backward_that_gives_integers_is_refused() -> None:
    """JAX hands the integers out as the gradient of a floating operand."""
    twice = jax.custom_vjp(lambda x: 2 * x)
    twice.defvjp(lambda x: (2 * x, None), lambda _residual, _ct: (jnp.array([3, 4]),))
    with pytest.raises(TypeError, match=r"given:  int(32|64)\[2\]"):
        funcgrad.grad(lambda x: jnp.sum(twice(x)))(jnp.ones(2))


def test_an_operand_kept_by_a_forward_rule_that_closes_over_an_array() -> None:
    """`jit` hoists the array in front of the operands; what the rule keeps is still the operand."""
    other = jnp.array([2.0, 3.0])
    scaled = jax.custom_vjp(lambda x: x * other)
    scaled.defvjp(lambda x: (x * other, x), lambda x, ct: (ct * x,))
    point = jnp.array([5.0, 7.0])
    np.testing.assert_array_equal(funcgrad.grad(lambda x: jnp.sum(jax.jit(scaled)(x)))(point), point)


def scaled_by_noise() -> Callable[..., Any]:
    """A function with its own backward step, which keeps a key."""
    scaled = jax.custom_vjp(lambda key, x: x * jax.random.normal(key, (3,)))
    scaled.defvjp(lambda key, x: (scaled(key, x), key), lambda key, ct: (None, 2 * ct * jax.random.normal(key, (3,))))
    return scaled


@pytest.mark.parametrize("place", [lambda f: f, jax.jit, lambda f: lambda x: jax.vmap(f)(x[None])[0]],
                         ids=["eager", "jit", "vmap"])
def test_a_branch_that_keeps_a_key(place: Callable[..., Any]) -> None:
    """The other branch fills the key's place."""
    scaled = scaled_by_noise()

    def f(x: Any) -> Any:
        return jnp.sum(jax.lax.cond(x[0] > 0, lambda x: scaled(jax.random.key(0), jnp.sin(x)), lambda x: x * x, x))

    for x in (X, -X):
        close(place(funcgrad.grad(f))(jnp.asarray(x)), place(jax.grad(f))(jnp.asarray(x)))


@pytest.mark.parametrize("given", [2.0, 2, True, np.float64(2), np.float32(2), np.array(2.0)])
@pytest.mark.parametrize("x64", [True, False])
def test_a_custom_backward_may_give_numbers(given: Any, x64: bool) -> None:
    """The gradient has the operand's dtype, also where NumPy's is wider than JAX's."""
    with jax.enable_x64(x64):
        product = jax.custom_vjp(lambda x, y: x * y)
        product.defvjp(lambda x, y: (x * y, y), lambda y, ct: (ct * y, given))
        of_x, of_y = funcgrad.grad(lambda x, y: product(jnp.sin(x), y), (0, 1))(jnp.float32(0.0), jnp.float32(3.0))
    assert (of_x, of_y, of_y.dtype) == (3, float(given), jnp.float32)


def test_custom_rules_are_given_numbers_of_python() -> None:
    """As JAX has it; so what they compute stays weakly typed, and `math` takes it."""
    twice = jax.custom_jvp(lambda x: x * 2)
    twice.defjvp(lambda primals, tangents: (primals[0] * 2, tangents[0] * math.cos(primals[0])))
    value, gradient = funcgrad.value_and_grad(lambda x: twice(x) * jnp.ones((), jnp.bfloat16))(3.0)
    assert value.dtype == jnp.bfloat16 and gradient.dtype == jnp.float64
    np.testing.assert_allclose(gradient, math.cos(3.0))
    twice_ = jax.custom_vjp(lambda x: x * 2)
    twice_.defvjp(lambda x: (x * 2, math.cos(x)), lambda slope, ct: (ct * slope,))
    value, gradient = funcgrad.value_and_grad(lambda x: twice_(x) * jnp.ones((), jnp.bfloat16))(3.0)
    assert value.dtype == jnp.bfloat16 and gradient.dtype == jnp.float64
    np.testing.assert_allclose(gradient, math.cos(3.0))


def test_linear_call_in_a_loop_forward_and_backward() -> None:
    """What the program and its transpose close over is handed on by the loop."""
    weights = jnp.arange(1.0, 4.0)

    def f(x: Any) -> Any:
        def step(carry: Any, y: Any) -> Any:
            return linear_call(lambda _, x: x * weights, lambda _, ct: ct * weights, (), jnp.sin(carry)) * y, None

        return jax.lax.scan(step, x, Y)[0]

    def same(x: Any) -> Any:
        return jax.lax.scan(lambda carry, y: (jnp.sin(carry) * weights * y, None), x, Y)[0]

    close(funcgrad.jvp(f, (X,), (Y,)), jax.jvp(same, (X,), (Y,)))
    close(*(second(grad, total(lambda x, y, fun=fun: fun(x) * y))(X, Y)
            for grad, fun in ((funcgrad.grad, f), (jax.grad, same))))
