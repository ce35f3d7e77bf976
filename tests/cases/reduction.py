"""Cases of reductions: sums, products with zeros, extrema with ties, and `reduce` with any reducer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad
from tests.cases.case import Boundary, Case, normal, uniform

INF = np.inf
ROWS = np.array([[2.0, 0.0, 3.0, 4.0], [0.0, 5.0, 0.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
TIES = np.array([[1.0, 3.0, 3.0, 3.0], [-0.0, 0.0, -1.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
STRONG = "elements that are not the extremum have no share in an infinite cotangent; jax.vjp gives them 0 * inf = NaN"
AXES = {"rows": (1,), "columns": (0,), "all": (0, 1), "all, reversed": (1, 0), "none": ()}


def others(x: np.ndarray, axis: int) -> np.ndarray:
    """Product of all other elements along an axis: the truth, by leaving each one out."""
    return np.stack([np.prod(np.delete(x, i, axis), axis) for i in range(x.shape[axis])], axis)


def all_but_two(x: np.ndarray) -> np.ndarray:
    """Row sums of the Hessian of a product."""
    pairs = [[np.prod(np.delete(x, [i, j])) for j in range(x.size) if j != i] for i in range(x.size)]
    return np.sum(pairs, 1)


SUM = tuple(
    Case(f"reduce_sum[{label}]", ("reduce_sum",), lambda x, a=axes: lax.reduce_sum(x, a, out_sharding=None),
         normal((3, 4)), boundary=(
             Boundary("empty", (np.zeros((0, 4)),)), Boundary("infinite", (np.copysign(INF, TIES),)),
         ) if label == "rows" else ())
    for label, axes in AXES.items())

PROD = tuple(
    Case(f"reduce_prod[{label}]", ("reduce_prod",), lambda x, a=axes: lax.reduce_prod(x, a), uniform(0.5, 2, (3, 4)),
         boundary=(
             Boundary("zeros", (ROWS,)),
             Boundary("all zero", (np.zeros((3, 4)),)),
             Boundary("one row", (ROWS[:1],)),
             Boundary("two rows", (ROWS[:2],)),
             Boundary("empty", (np.zeros((0, 4)),)),
         ) if label in ("columns", "all") else ())
    for label, axes in AXES.items()) + (
    Case("reduce_prod[apart]", ("reduce_prod",), lambda x: lax.reduce_prod(x, (2, 0)), uniform(0.5, 2, (3, 2, 2))),
    Case("reduce_prod[complex]", ("reduce_prod",), lambda x: lax.reduce_prod(x, (1,)),
         lambda rng: (rng.standard_normal((2, 3)) + 1j * rng.standard_normal((2, 3)),), dtypes=("float32", "float64")),
    Case("reduce_prod[gradient]", ("reduce_prod",), funcgrad.grad(lambda x: lax.reduce_prod(x, (0,))),
         uniform(0.5, 2, (4,)), dtypes=("float32", "float64"), orders=1, jax_agrees=False,
         note="a derivative of order 2 at chosen points; the truth is the product of all but two", boundary=tuple(
             Boundary(label, (point,), expected=(all_but_two(point),), why="the product of all but two elements")
             for label, point in (
                 ("no zero", np.array([2.0, 3.0, 4.0, 5.0])),
                 ("one zero", np.array([0.0, 3.0, 4.0, 5.0])),
                 ("two zeros", np.array([0.0, 3.0, 0.0, 5.0])),
                 ("three zeros", np.array([0.0, 3.0, 0.0, 0.0])),
             ))),
)


def extrema(name: str, function: Callable[..., Any]) -> tuple[Case, ...]:
    """Cases of one extremum."""
    return tuple(
        Case(f"{name}[{label}]", (name,), lambda x, a=axes: function(x, a), normal((3, 4)), boundary=(
            Boundary("ties", (TIES,)),
            Boundary("all equal", (np.ones((3, 4)),)),
            Boundary("infinite", (np.array([[INF, INF, 1.0, 2.0], [-INF, -INF, 1.0, 0.0], [-INF] * 4]),)),
            *([Boundary("NaN", (np.where(TIES == -1, np.nan, TIES),), nan=True), Boundary("empty", (np.zeros((0, 4)),))]
              if axes else []),
        ))
        for label, axes in AXES.items()) + (
        Case(f"{name}[infinite cotangent]", (), lambda x: lax.mul(function(x, (0,)), np.array(INF, x.dtype)),
             normal((3,)), dtypes=("float32",), jax_agrees=False, numeric=False, note=STRONG, boundary=(
                 Boundary("no tie", (np.array([1.0, 2.0, 2.5]),),
                          expected=(np.array([0, 0, INF] if name == "reduce_max" else [INF, 0, 0]),), why=STRONG),)),
        Case(f"{name}[complex]", (name,), lambda x: function(x, (0,)),
             lambda rng: (rng.standard_normal((3, 2)) + 1j * rng.standard_normal((3, 2)),),
             dtypes=("float32", "float64"), boundary=(
                 Boundary("ties", (np.array([1 + 2j, 1 + 2j, 1 + 2j]),)),
                 Boundary("equal real parts", (np.array([1 + 2j, 1 - 2j, 1 + 3j]),)))),
    )


def reduction(reducer: Callable[..., Any], *inits: float, axes: tuple[int, ...] = (1,)) -> Callable[..., Any]:
    """`lax.reduce` of as many operands as there are initial values, with initial values that are constants."""

    def fun(*xs: Any) -> Any:
        return lax.reduce(xs, tuple(np.array(init, x.dtype) for init, x in zip(inits, xs, strict=True)), reducer, axes)

    return fun


def affine(first: Any, second: Any) -> Any:
    """Composition of ``x -> a * x + b``: associative, and does not commute."""
    return first[0] * second[0], first[1] * second[0] + second[1]


def hypotenuse(first: Any, second: Any) -> Any:
    """An associative reducer that is neither linear nor a product."""
    return lax.sqrt(lax.add(lax.square(first), lax.square(second)))


def with_position(first: Any, second: Any) -> Any:
    """The larger value and where it is."""
    keep = lax.ge(first[0], second[0])
    return lax.max(first[0], second[0]), lax.select(keep, first[1], second[1])


ONCE = ("jax.vjp leaves out an initial value that is no identity, or counts it for padding; "
        "XLA's CPU program counts it once")
INITIAL = "jax has no derivative in the initial value, forward or reverse"
ORDER = "jax combines the first half with the second, forward and reverse, which holds only for reducers that commute"
INTEGER = "jax raises for the integer operand, forward and reverse"
NUMBERS = np.arange(1.0, 6.0)

REDUCE = (
    Case("reduce[soft maximum]", ("reduce",), lambda x: lax.reduce(x, np.array(-INF, x.dtype), jnp.logaddexp, (1,)),
         normal((2, 5)), dtypes=("float32", "float64")),
    Case("reduce[all axes]", ("reduce",), lambda x: lax.reduce(x, np.array(0.0, x.dtype), hypotenuse, (1, 0)),
         uniform(0.5, 2, (2, 4)), dtypes=("float32", "float64")),
    Case("reduce[product]", ("reduce",), lambda x, init: lax.reduce(x, init, lax.mul, (0,)),
         lambda rng: (rng.uniform(0.5, 2, (5, 2)), np.float64(1)), argnums=(0,), boundary=tuple(
             Boundary(f"{n} factors, initial value 2", (NUMBERS[:n], np.float64(2)),
                      expected=(2 * others(NUMBERS[:n], 0),), why=ONCE) for n in (1, 2, 3, 4, 5))),
    # The cases below have no oracle in jax, forward or reverse, so they name no rule: the values given are the check.
    Case("reduce[initial value differentiated]", (), lambda x, init: lax.reduce(x, init, lax.mul, (0,)),
         uniform(0.5, 2, (3,), ()), dtypes=("float32",), orders=1, jax_agrees=False, numeric=False,
         note=INITIAL, boundary=(
             Boundary("numbers", (NUMBERS, np.float64(2)), expected=(2 * others(NUMBERS, 0), np.float64(120)),
                      why=INITIAL),
             Boundary("empty", (NUMBERS[:0], np.float64(2)), expected=(NUMBERS[:0], np.float64(1)), why=INITIAL))),
    Case("reduce[composition]", (), reduction(affine, 1.0, 0.0, axes=(0,)), uniform(0.5, 2, (3,), (3,)),
         dtypes=("float32",), jax_agrees=False, numeric=False, note=ORDER, boundary=(
             Boundary("numbers", (np.array([2.0, 3.0, 5.0]), np.array([7.0, 11.0, 13.0])),
                      # of the sum of 2 * 3 * 5 and (7 * 3 + 11) * 5 + 13
                      expected=(np.array([15.0, 10 + 35, 6 + 32]), np.array([15.0, 5, 1])), why=ORDER),)),
    Case("reduce[maximum and position]", (),
         lambda x: lax.reduce((x, lax.iota(np.int32, x.size)), (np.array(-INF, x.dtype), np.int32(0)),
                              with_position, (0,)), normal((5,)), dtypes=("float32",), orders=1, jax_agrees=False,
         numeric=False, note=INTEGER, boundary=(
             Boundary("numbers", (np.array([1.0, 4.0, 2.0, 3.0, 0.0]),), expected=(np.eye(5)[1],), why=INTEGER),)),
)


def inert(name: str, function: Callable[..., Any], *shape: int) -> Case:
    """A reduction without a cotangent, whose result is used."""
    return Case(name, (name,), lambda x: lax.mul(x, lax.convert_element_type(function(x), x.dtype)), normal(shape))


CONSTANT = (
    inert("argmax", lambda x: lax.broadcast_in_dim(lax.argmax(x, 1, np.int32), x.shape, (0,)), 3, 4),
    inert("argmin", lambda x: lax.broadcast_in_dim(lax.argmin(x, 0, np.int32), x.shape, (1,)), 3, 4),
    inert("reduce_and", lambda x: lax.broadcast(lax.reduce_and(x > 0, (0,)), x.shape), 3),
    inert("reduce_or", lambda x: lax.broadcast(lax.reduce_or(x > 0, (0,)), x.shape), 3),
    inert("reduce_xor", lambda x: lax.broadcast(lax.reduce_xor(x > 0, (0,)), x.shape), 3),
)

CASES: tuple[Case, ...] = (
    *SUM, *PROD, *extrema("reduce_max", lax.reduce_max), *extrema("reduce_min", lax.reduce_min), *REDUCE, *CONSTANT)
