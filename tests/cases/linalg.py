"""Cases of linear algebra: factorizations and solves. LAPACK knows float32, float64 and their complex types only."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jax import lax
from jax.lax import linalg

from funcgrad._compat import primitives as private
from tests.cases.case import Args, Boundary, Case, normal
from tests.cases.matrices import LAPACK, ONE_TRIANGLE, Draw, complexed, definite, shifted, spread, stored, triangle

REFUSED = "jax.grad refuses it: no rule"

# ---- cholesky ----


def cholesky(a: Any) -> Any:
    return linalg.cholesky(a, symmetrize_input=True)


def cholesky_of_lower(a: Any) -> Any:
    return linalg.cholesky(a, symmetrize_input=False)


def cholesky_update(r: Any, w: Any) -> Any:
    return triangle(linalg.cholesky_update(triangle(r, False), w), False)


CHOLESKY = (
    Case("cholesky", ("cholesky",), cholesky, definite(normal((4, 4))), dtypes=LAPACK, boundary=(
        Boundary("empty", (np.zeros((0, 0)),)),
        Boundary("one by one", (np.array([[4.0]]),)),
        Boundary("identity", (np.eye(3),)),
        Boundary("tiny", (1e-20 * np.eye(2),)),
        Boundary("not definite", (-np.eye(2),), nan=True),
    )),
    Case("cholesky[batch]", ("cholesky",), cholesky, definite(normal((2, 3, 3))), dtypes=LAPACK),
    Case("cholesky[complex]", ("cholesky",), cholesky, definite(complexed((3, 3))), dtypes=LAPACK),
    Case("cholesky[one triangle]", ("cholesky",), cholesky_of_lower, stored(definite(normal((4, 4)))), dtypes=LAPACK,
         jax_agrees=False, note=ONE_TRIANGLE, boundary=(
             Boundary("off the diagonal", (np.array([[1.0, 9.0], [0.0, 1.0]]),), (np.array([[0.5, 0.0], [1.0, 0.5]]),),
                      why="L = [[√a, 0], [b/√a, √(d - b²/a)]]; the upper right element is not read"),
         )),
    Case("cholesky[complex,one triangle]", ("cholesky",), cholesky_of_lower, stored(definite(complexed((3, 3)))),
         dtypes=LAPACK, jax_agrees=False, note=ONE_TRIANGLE),
    Case("cholesky_update", ("cholesky_update",), cholesky_update, shifted(normal((4, 4), (4,)), 4.0), dtypes=LAPACK,
         jax_agrees=False, note=REFUSED),
)

# ---- triangular and tridiagonal solves ----


def triangular_case(left: bool, low: bool, trans: bool) -> Case:
    """One layout, with and without conjugation and unit diagonal."""
    words = [word for word, flag in (("left", left), ("lower", low), ("transpose", trans)) if flag]

    def fun(a: Any, b: Any) -> Any:
        return [linalg.triangular_solve(a, b, left_side=left, lower=low, transpose_a=trans, conjugate_a=conjugate,
                                        unit_diagonal=unit)
                for conjugate, unit in itertools.product((False, True), repeat=2)]

    return Case(f"triangular_solve[{','.join(words)}]", ("triangular_solve",), fun,
                shifted(complexed((3, 3), (3, 2) if left else (2, 3)), 3.0), dtypes=LAPACK)


SOLVE_LOWER = partial(linalg.triangular_solve, left_side=True, lower=True)
TRIANGULAR = (
    Case("triangular_solve", ("triangular_solve",), SOLVE_LOWER, shifted(normal((3, 3), (3, 2)), 3.0)),
    *(triangular_case(*flags) for flags in itertools.product((False, True), repeat=3)),
    Case("triangular_solve[batch]", ("triangular_solve",), SOLVE_LOWER, shifted(normal((2, 3, 3), (2, 3, 2)), 3.0),
         dtypes=LAPACK),
    Case("triangular_solve[vector]", ("triangular_solve",), SOLVE_LOWER, shifted(normal((3, 3), (3,)), 3.0),
         dtypes=LAPACK),
    Case("triangular_solve[only a]", ("triangular_solve",), SOLVE_LOWER, shifted(normal((3, 3), (3, 2)), 3.0),
         argnums=(0,), dtypes=LAPACK, boundary=(
             Boundary("singular", (np.diag([1.0, 0.0]), np.ones((2, 1))), nan=True),
             Boundary("rubbish above", (np.array([[1.0, np.nan], [1.0, 1.0]]), np.ones((2, 1))),
                      (np.array([[0.0, 0.0], [-1.0, 0.0]]),),
                      why="x = (1/a, (1 - c/a)/d) at a = c = d = 1: the sum's derivative is (-1 + 1, -1, 0)"),
             Boundary("no right-hand side", (np.eye(2), np.zeros((2, 0)))),
             Boundary("empty", (np.zeros((0, 0)), np.zeros((0, 2)))),
         )),
    Case("triangular_solve[only b]", ("triangular_solve",),
         partial(linalg.triangular_solve, left_side=True, lower=False), shifted(normal((3, 3), (3, 2)), 3.0),
         argnums=(1,), dtypes=LAPACK),
)


def tridiagonal_draw(draw: Draw) -> Draw:
    """Diagonally dominant; zeros at the two elements that are not read."""

    def dominant(rng: np.random.Generator) -> Args:
        dl, d, du, b = draw(rng)
        dl[..., 0], du[..., -1] = 0, 0
        return dl, d + 4, du, b

    return dominant


def tridiagonal_case(name: str, draw: Draw, perturb: bool = False, **settings: Any) -> Case:
    return Case(name, ("tridiagonal_solve",), partial(linalg.tridiagonal_solve, perturb_singular=perturb),
                tridiagonal_draw(draw), dtypes=LAPACK, **settings)


DIAGONALS = ((5,), (5,), (5,), (5, 2))
TRIDIAGONAL = (
    tridiagonal_case("tridiagonal_solve", normal(*DIAGONALS), boundary=(
        Boundary("one by one", (np.zeros(1), np.array([2.0]), np.zeros(1), np.ones((1, 1)))),
        Boundary("two by two", (np.array([0.0, 1.0]), np.array([2.0, 3.0]), np.array([1.0, 0.0]), np.ones((2, 1)))),
    )),
    tridiagonal_case("tridiagonal_solve[complex]", complexed(*DIAGONALS)),
    tridiagonal_case("tridiagonal_solve[batch]", normal((2, 4), (2, 4), (2, 4), (2, 4, 1))),
    tridiagonal_case("tridiagonal_solve[perturb_singular]", normal(*DIAGONALS), perturb=True),
)

# ---- lu and qr ----


def packed_lu(a: Any) -> Any:
    return linalg.lu(a)[0]


def lu_case(*shape: int, imaginary: bool = False, **settings: Any) -> Case:
    words = "x".join(map(str, shape)) + (",complex" if imaginary else "")
    return Case(f"lu[{words}]", ("lu",), packed_lu, (complexed if imaginary else normal)(shape), dtypes=LAPACK,
                **settings)


LU = (
    lu_case(4, 4, boundary=(
        Boundary("empty", (np.zeros((0, 0)),)),
        Boundary("last pivot zero", (np.array([[2.0, 1.0], [2.0, 1.0]]),), nan=True),
        Boundary("pivots tie", (np.array([[1.0, 2.0], [-1.0, 3.0]]),)),
    )),
    lu_case(5, 3), lu_case(3, 5), lu_case(1, 3), lu_case(3, 1), lu_case(2, 3, 3), lu_case(2, 4, 2),
    lu_case(3, 3, imaginary=True), lu_case(4, 2, imaginary=True), lu_case(2, 4, imaginary=True),
    Case("lu_pivots_to_permutation", ("lu", "lu_pivots_to_permutation"),
         lambda a: a[linalg.lu_pivots_to_permutation(linalg.lu(a)[1], 3)], normal((3, 3)), dtypes=LAPACK),
)
PIVOTED = "jax 0.10.2 takes the columns beyond the square block in their old order, and refuses batches of pivots"


def qr_case(*shape: int, full: bool = False, pivoting: bool = False, imaginary: bool = False, **settings: Any) -> Case:
    words = ",".join(["x".join(map(str, shape))] + [word for word, flag in (
        ("full", full), ("pivoting", pivoting), ("complex", imaginary)) if flag])

    def fun(a: Any) -> Any:
        return linalg.qr(a, full_matrices=full, pivoting=pivoting)[:2]

    return Case(f"qr[{words}]", ("qr",), fun, spread(*shape, imaginary=imaginary), dtypes=LAPACK, **settings)


QR = (
    qr_case(4, 4, boundary=(Boundary("empty", (np.zeros((0, 0)),)), Boundary("minus one", (-np.eye(1),)),
                            Boundary("upper triangular", (np.array([[1.0, 2.0], [0.0, 3.0]]),)))),
    qr_case(5, 3, boundary=(Boundary("no column", (np.zeros((3, 0)),)),)),
    qr_case(3, 5), qr_case(5, 3, full=True), qr_case(3, 5, full=True), qr_case(2, 4, 3), qr_case(2, 4, 2, full=True),
    qr_case(4, 4, imaginary=True), qr_case(5, 3, imaginary=True), qr_case(3, 5, imaginary=True),
    qr_case(4, 2, full=True, imaginary=True),
    qr_case(4, 4, pivoting=True), qr_case(5, 3, pivoting=True), qr_case(5, 3, pivoting=True, full=True),
    qr_case(3, 5, pivoting=True, jax_agrees=False, note=PIVOTED),
    qr_case(2, 4, 3, pivoting=True, jax_agrees=False, note=PIVOTED),
    qr_case(3, 4, pivoting=True, imaginary=True, jax_agrees=False, note=PIVOTED),
    Case("qr[only q]", ("qr",), lambda a: linalg.qr(a, full_matrices=False)[0], spread(4, 3), dtypes=LAPACK),
    Case("qr[only r]", ("qr",), lambda a: linalg.qr(a, full_matrices=False)[1], spread(4, 3), dtypes=LAPACK),
    Case("qr[wide,only q]", ("qr",), lambda a: linalg.qr(a, full_matrices=False)[0], spread(3, 4), dtypes=LAPACK),
)

# ---- Householder reflectors ----


def reflector_case(name: str, fun: Callable[..., Any], draw: Draw) -> Case:
    return Case(name, (name.split("[")[0],), fun, draw, dtypes=LAPACK, jax_agrees=False, note=REFUSED)


def pivoted_reflectors(a: Any) -> Any:
    packed, _, taus = private.geqp3_p.bind(a, lax.full((a.shape[-1],), 0, np.int32), use_magma=None)
    return packed, taus


def ormqr_four(a: Any, taus: Any, c: Any) -> Any:
    return [linalg.ormqr(a, taus, c, left=left, transpose=transpose)
            for left, transpose in itertools.product((False, True), repeat=2)]


REFLECTORS = (
    *(reflector_case(f"geqrf[{'x'.join(map(str, shape))}{',complex' * imaginary}]", private.geqrf_p.bind,
                     spread(*shape, imaginary=imaginary))
      for shape, imaginary in (((3, 3), False), ((4, 3), True), ((3, 4), True), ((2, 3, 2), False))),
    reflector_case("geqp3[3x4]", pivoted_reflectors, spread(3, 4)),
    reflector_case("geqp3[4x3,complex]", pivoted_reflectors, spread(4, 3, imaginary=True)),
    reflector_case("householder_product", linalg.householder_product, normal((5, 4), (3,))),
    reflector_case("householder_product[batch]", linalg.householder_product, normal((2, 4, 3), (2, 3))),
    reflector_case("householder_product[complex]", linalg.householder_product, complexed((4, 3), (3,))),
    reflector_case("ormqr", ormqr_four, normal((4, 3), (2,), (4, 4))),
    reflector_case("ormqr[complex]", ormqr_four, complexed((4, 3), (2,), (4, 4))),
    reflector_case("ormqr[batch]", partial(linalg.ormqr, left=True, transpose=False),
                   normal((2, 4, 3), (2, 3), (2, 4, 2))),
)

# ---- symmetric_product ----


def symmetric_case(name: str, draw: Draw, alpha: float, beta: float) -> Case:
    return Case(name, ("symmetric_product",),
                partial(linalg.symmetric_product, alpha=alpha, beta=beta, symmetrize_output=False), draw,
                dtypes=LAPACK, jax_agrees=False, note=REFUSED)


PRODUCTS = (
    symmetric_case("symmetric_product", normal((4, 3), (4, 4)), 0.5, -2.0),
    symmetric_case("symmetric_product[batch]", normal((2, 3, 2), (2, 3, 3)), 1.0, 1.0),
    symmetric_case("symmetric_product[beta 0]", normal((3, 2), (3, 3)), 2.0, 0.0),
)

CASES: tuple[Case, ...] = (*CHOLESKY, *TRIANGULAR, *TRIDIAGONAL, *LU, *QR, *REFLECTORS, *PRODUCTS)
