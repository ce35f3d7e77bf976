"""Values of `jax.experimental.hijax` types: pairs of arrays, and rounded arrays whose cotangent is an array."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.hijax import HiType, ShapedArray, VJPHiPrimitive, register_hitype

import funcgrad
from tests.calls.comparing import X, Y, body, check, close, second, total

Array = Any


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two arrays, no pytree."""

    first: Array
    second: Array


@dataclasses.dataclass(frozen=True)
class PairType(HiType):
    """Its cotangent is a pair again."""

    part: Any

    def lo_ty(self) -> list:
        return [self.part, self.part]

    def lower_val(self, hi_val: Pair) -> list:
        return [hi_val.first, hi_val.second]

    def raise_val(self, *lo_vals: Array) -> Pair:
        return Pair(*lo_vals)

    def to_tangent_aval(self) -> HiType:
        return PairType(self.part.to_tangent_aval())

    def vspace_zero(self) -> Pair:
        return pair(*[jnp.zeros(self.part.shape, self.part.dtype)] * 2)

    def vspace_add(self, x: Pair, y: Pair) -> Pair:
        return pair(part(x, 0) + part(y, 0), part(x, 1) + part(y, 1))


register_hitype(Pair, lambda value: PairType(jax.typeof(value.first)))


class MakePair(VJPHiPrimitive):
    """Two arrays to a pair."""

    def __init__(self, aval: Any):
        self.in_avals, self.out_aval, self.params = (aval, aval), PairType(aval), {}
        super().__init__()

    def expand(self, x: Array, y: Array) -> Pair:
        return Pair(x, y)

    def vjp_fwd(self, nonzero: Any, x: Array, y: Array) -> Any:
        return self(x, y), None

    def vjp_bwd_retval(self, kept: Any, ct: Pair) -> Any:
        return part(ct, 0), part(ct, 1)


class Part(VJPHiPrimitive):
    """One array of a pair."""

    def __init__(self, pair_type: PairType, index: int):
        self.in_avals, self.out_aval, self.params = (pair_type,), pair_type.part, {"index": index}
        super().__init__()

    def expand(self, value: Pair) -> Array:
        return (value.first, value.second)[self.index]

    def vjp_fwd(self, nonzero: Any, value: Pair) -> Any:
        return self(value), None

    def vjp_bwd_retval(self, kept: Any, ct: Array) -> Any:
        return (pair(*(ct if i == self.index else jnp.zeros_like(ct) for i in range(2))),)


def pair(x: Array, y: Array) -> Pair:
    return MakePair(jax.typeof(x))(x, y)


def part(value: Pair, index: int) -> Array:
    return Part(jax.typeof(value), index)(value)


def through(wrap: Callable[[Callable], Callable]) -> Callable[[Array, Array], Array]:
    """`body` of what comes out of a pair that a wrapped function made of another one."""

    @wrap
    def swapped(value: Pair) -> Pair:
        return pair(part(value, 1), part(value, 0) * part(value, 1))

    def f(x: Array, y: Array) -> Array:
        out = swapped(pair(x, y))
        return body(part(out, 1), part(out, 0)) + part(out, 0)

    return f


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, funcgrad.checkpoint])
def test_pairs_inside_a_function(wrap: Callable) -> None:
    check(total(through(wrap)), total(lambda x, y: body(x * y, y) + y))


def test_pairs_as_argument_and_result() -> None:
    def f(value: Pair) -> Pair:
        return pair(jnp.sin(part(value, 0)) * part(value, 1), part(value, 1) ** 2)

    x, y = jnp.asarray(X), jnp.asarray(Y)
    _, pullback = funcgrad.vjp(f, Pair(x, y))
    (ct,) = pullback(Pair(y, x))
    _, plain = jax.vjp(lambda x, y: (jnp.sin(x) * y, y**2), x, y)
    close((ct.first, ct.second), plain((y, x)))
    gradient = jax.jit(funcgrad.grad(lambda value: jnp.sum(part(f(value), 0))))(Pair(x, y))
    close((gradient.first, gradient.second), plain((jnp.ones(3), jnp.zeros(3))))
    with pytest.raises(ValueError, match="unexpected JAX type"):
        pullback(Pair(x[:2], y[:2]))


def test_the_graph_and_the_residuals_of_pairs_can_be_shown() -> None:
    f = total(through(jax.jit))
    assert "PairType" in str(funcgrad.make_graph(f)(X, Y))
    assert "call_hi_primitive" in str(funcgrad.residuals(f)(X, Y))


@dataclasses.dataclass(frozen=True)
class Rounded:
    """Numbers rounded to multiples of a scale, as integers."""

    numbers: Array
    scale: Array


@dataclasses.dataclass(frozen=True)
class RoundedType(HiType):
    """Its cotangent is that of the numbers which it stands for."""

    shape: tuple[int, ...]
    dtype: Any

    def lo_ty(self) -> list:
        return [ShapedArray(self.shape, np.dtype(np.int8)), ShapedArray((), self.dtype)]

    def lower_val(self, hi_val: Rounded) -> list:
        return [hi_val.numbers, hi_val.scale]

    def raise_val(self, *lo_vals: Array) -> Rounded:
        return Rounded(*lo_vals)

    def to_tangent_aval(self) -> Any:
        return ShapedArray(self.shape, self.dtype)


register_hitype(Rounded, lambda value: RoundedType(value.numbers.shape, value.scale.dtype))


class Round(VJPHiPrimitive):
    """Array to rounded array, straight through."""

    def __init__(self, aval: Any):
        self.in_avals, self.out_aval, self.params = (aval,), RoundedType(aval.shape, aval.dtype), {}
        super().__init__()

    def expand(self, x: Array) -> Rounded:
        scale = jnp.max(jnp.abs(x)) / 127
        return Rounded(jnp.round(x / scale).astype(np.int8), scale)

    def vjp_fwd(self, nonzero: Any, x: Array) -> Any:
        return self(x), None

    def vjp_bwd_retval(self, kept: Any, ct: Array) -> Any:
        return (ct,)


class Scaled(VJPHiPrimitive):
    """A rounded array times an array."""

    def __init__(self, rounded: RoundedType, aval: Any):
        self.in_avals, self.out_aval, self.params = (rounded, aval), aval, {}
        super().__init__()

    def expand(self, x: Rounded, y: Array) -> Array:
        return x.numbers.astype(y.dtype) * x.scale * y

    def vjp_fwd(self, nonzero: Any, x: Rounded, y: Array) -> Any:
        return self(x, y), (x, y)

    def vjp_bwd_retval(self, kept: Any, ct: Array) -> Any:
        x, y = kept
        return ct * y, Scaled(*self.in_avals)(x, ct)


def test_rounded_arrays_inside_a_function_and_as_argument() -> None:
    def f(x: Array, y: Array) -> Array:
        rounded = jax.jit(lambda x: Round(jax.typeof(x))(jnp.sin(x)))(x)
        return Scaled(jax.typeof(rounded), jax.typeof(y))(rounded, jnp.exp(y))

    x, y = jnp.asarray(X), jnp.asarray(Y)
    for transform in (lambda g: g, jax.jit):
        close(transform(funcgrad.grad(total(f), (0, 1)))(x, y), transform(jax.grad(total(f), (0, 1)))(x, y))
    close(second(funcgrad.grad, total(f))(x, y), second(jax.grad, total(f))(x, y))
    kept = Rounded(jnp.array([1, -3, 5], np.int8), jnp.asarray(0.5))
    gradient = funcgrad.grad(lambda q: jnp.sum(Scaled(jax.typeof(q), jax.typeof(y))(q, y) ** 2))(kept)
    close(gradient, 2 * y**2 * kept.numbers * 0.5)
