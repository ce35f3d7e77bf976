"""Primitives that hold a program: `linear_call`, `composite`, `custom_vmap`, hijax, against `jax.grad`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src.interpreters.ad import GradAccum
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.custom_derivatives import linear_call
from jax.experimental.hijax import VJPHiPrimitive

import funcgrad
from tests.calls.comparing import Function, X, Y, body, check, close, second, total


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


class Handing(Scaled):
    """The same by a pullback that is handed the accumulators, and knows them for what they are."""

    vjp_bwd_retval = VJPHiPrimitive.vjp_bwd_retval
    vjp = staticmethod(jax.vjp)

    def vjp_bwd(self, kept: Any, ct: Any, *accumulators: Any) -> None:
        assert all(isinstance(entry, GradAccum) for entry in accumulators)
        _, pullback = self.vjp(jax.jit(lambda x, y: self.factor * (2 * x * kept[1] + kept[0] * y)), *kept)
        pullback.with_refs(*accumulators)(ct)


class HandingOurs(Handing):
    """That pullback is funcgrad's."""

    vjp = staticmethod(funcgrad.vjp)


@pytest.mark.parametrize("kind", [Scaled, Accumulating, Handing, HandingOurs])
def test_hijax_primitive(kind: Any) -> None:
    def f(x: Any, y: Any) -> Any:
        return kind(jax.typeof(jnp.asarray(x)), 3.0)(jnp.sin(x), y) + y

    check(total(f), orders=1)
    close(second(funcgrad.grad, total(f))(X, Y), second(jax.grad, total(f))(X, Y))


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
