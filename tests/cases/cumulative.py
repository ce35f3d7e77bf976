"""Cases of cumulative reductions, both directions, with zeros, ties and infinities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

import funcgrad
from tests.cases.case import Boundary, Case, normal, uniform

INF = np.inf
ZEROS = np.array([[2.0, 0.0, 3.0, 0.0, 5.0], [0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, 0.0]])
TIES = np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [0.0, -0.0, 2.0, 2.0, 1.0], [3.0, 2.0, 3.0, 1.0, 3.0]])
SPECIAL = np.array([[INF, INF, 1.0, -INF], [np.nan, 1.0, 2.0, INF], [0.0, -INF, -INF, np.nan]])
SETTINGS = {"rows": (1, False), "columns": (0, False), "rows, reverse": (1, True), "columns, reverse": (0, True)}
SHORT = (Boundary("one element", (np.array([[2.0]]),)), Boundary("empty", (np.zeros((0, 0)),)))


def cumulative(name: str, args: Callable[..., Any], *boundary: Boundary, **options: Any) -> tuple[Case, ...]:
    """A cumulative reduction along both axes, in both directions."""
    function = getattr(lax, name)
    return tuple(
        Case(f"{name}[{label}]", (name,), lambda x, a=axis, r=reverse: function(x, axis=a, reverse=r), args,
             boundary=(*boundary, *SHORT), **options)
        for label, (axis, reverse) in SETTINGS.items())


def complex_normal(rng: np.random.Generator) -> tuple[Any, ...]:
    """One complex vector."""
    return (rng.standard_normal(4) + 1j * rng.standard_normal(4),)


def in_complex(name: str) -> Case:
    """A cumulative reduction of complex numbers."""
    return Case(f"{name}[complex]", (name,), lambda x: getattr(lax, name)(x, axis=0, reverse=True), complex_normal,
                dtypes=("float32", "float64"))


def hessian_row_sums(x: np.ndarray) -> np.ndarray:
    """Of the sum of all leading products: for each pair, the products that have both, without the two."""
    n = x.size
    entry = lambda i, j: sum(np.prod(np.delete(x[: m + 1], [i, j])) for m in range(max(i, j), n))  # noqa: E731
    return np.array([sum(entry(i, j) for j in range(n) if j != i) for i in range(n)])


def softmax_rows(x: np.ndarray) -> np.ndarray:
    """Column sums of the Jacobian of cumlogsumexp, a term that is the same infinity as its sum counting one."""
    total = np.zeros(x.size)
    running, weights = -INF, np.zeros(x.size)
    for i, value in enumerate(x):
        largest = max(running, value)
        shift = 0.0 if largest == -INF else largest
        updated = largest if np.isinf(largest) else shift + np.log(np.exp(running - shift) + np.exp(value - shift))
        weights *= 1.0 if running == updated else np.exp(running - updated)
        weights[i] = 1.0 if value == updated else np.exp(value - updated)
        running = updated
        total += weights
    return total


LIMIT = ("the limit of exp(x - out): a finite term has no weight in an infinite sum, and one that is the same infinity "
         "counts fully; jax.vjp gives NaN for -inf, and weights above one after +inf")
POLYNOMIAL = "the products that contain both elements, without the two"

CASES: tuple[Case, ...] = (
    *cumulative("cumsum", normal((3, 5)), Boundary("infinite and NaN", (SPECIAL,))),
    *cumulative("cumprod", uniform(0.5, 1.5, (3, 5)), Boundary("zeros", (ZEROS,)),
                Boundary("all zero", (np.zeros((3, 5)),)),
                scale=4.0, note="a product of n factors has n roundings, in another order than jax.vjp's"),
    *cumulative("cummax", normal((3, 5)), Boundary("ties", (TIES,)),
                Boundary("infinite and NaN", (SPECIAL,), nan=True)),
    *cumulative("cummin", normal((3, 5)), Boundary("ties", (TIES,)),
                Boundary("infinite and NaN", (SPECIAL,), nan=True)),
    *cumulative("cumlogsumexp", uniform(0.5, 2, (3, 5)), Boundary("equal", (TIES,)),
                Boundary("far apart", (np.array([[0.0, 300.0, -300.0, 88.0, 89.0]]),)), scale=64.0,
                note="exponents are differences of rounded sums, and cancel at order 2"),
    *map(in_complex, ("cumsum", "cumprod", "cumlogsumexp", "cummax", "cummin")),
    Case("cumlogsumexp[infinite]", ("cumlogsumexp",), lambda x: lax.cumlogsumexp(x, axis=0, reverse=False),
         normal((4,)), boundary=tuple(
             Boundary(label, (np.array(point),), expected=(softmax_rows(np.array(point)),), why=LIMIT)
             for label, point in (
                 ("-inf first", [-INF, -INF, 0.0, 1.0]), ("all -inf", [-INF, -INF]), ("-inf later", [0.0, -INF, 1.0]),
                 ("+inf", [0.0, INF, 1.0, INF]), ("one -inf", [-INF]),
             ))),
    Case("cumprod[gradient]", ("cumprod",), funcgrad.grad(lambda x: lax.reduce_sum(lax.cumprod(x), (0,))),
         uniform(0.5, 1.5, (4,)), dtypes=("float32", "float64"), orders=1, jax_agrees=False,
         note="a derivative of order 2 at chosen points; the truth is a sum of products", boundary=tuple(
             Boundary(label, (np.array(point),), expected=(hessian_row_sums(np.array(point)),), why=POLYNOMIAL)
             for label, point in (
                 ("no zero", [2.0, 3.0, 4.0, 5.0]), ("first zero", [0.0, 3.0, 4.0, 5.0]),
                 ("two zeros", [2.0, 0.0, 0.0, 5.0]), ("all zero", [0.0] * 4),
             ))),
)
