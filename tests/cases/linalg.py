"""Cases of linear algebra. LAPACK knows float32, float64 and their complex types only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jax import lax
from jax.lax import linalg

from funcgrad import _primitives
from tests.cases.case import Args, Boundary, Case, normal

LAPACK = ("float32", "float64")
Draw = Callable[[np.random.Generator], Args]

GAUGE = ("the phase of a complex vector is a convention of the derivative (JAX's), not LAPACK's, which finite "
         "differences see")
ONE_TRIANGLE = ("the primitive reads one triangle; JAX's rule gives the other a cotangent too (jax#40421 for cholesky)")
REFUSED = "jax.grad refuses it: no rule"


def complexed(*shapes: tuple[int, ...]) -> Draw:
    """Complex normal arguments."""
    return lambda rng: tuple(rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in shapes)


def shifted(draw: Draw, shift: float) -> Draw:
    """A multiple of the identity added to the first argument, which keeps it away from singular."""

    def shift_first(rng: np.random.Generator) -> Args:
        first, *rest = draw(rng)
        return first + shift * np.eye(*first.shape[-2:]), *rest

    return shift_first


def definite(draw: Draw) -> Draw:
    """A Hermitian positive definite matrix from the first argument."""

    def square_first(rng: np.random.Generator) -> Args:
        first, *rest = draw(rng)
        return first @ first.conj().swapaxes(-1, -2) + np.eye(first.shape[-2]), *rest

    return square_first


def spread(*shape: int, imaginary: bool = False) -> Draw:
    """A matrix whose singular values are 1, 2, 3, … (and, if it is Hermitian, its eigenvalues): well conditioned."""

    def one(rng: np.random.Generator) -> Args:
        full = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0)
        u, _, vh = np.linalg.svd(full, full_matrices=False)
        return ((u * np.arange(1.0, 1 + u.shape[-1])) @ vh,)

    return one


def hermitian(*shape: int, imaginary: bool = False) -> Draw:
    """A Hermitian matrix with eigenvalues 1, 2, 3, …"""

    def one(rng: np.random.Generator) -> Args:
        full = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0)
        q = np.linalg.qr(full)[0]
        return ((q * np.arange(1.0, 1 + shape[-1])) @ q.conj().swapaxes(-1, -2),)

    return one


def with_values(*values: float, imaginary: bool = False) -> Draw:
    """A Hermitian matrix with these eigenvalues."""

    def one(rng: np.random.Generator) -> Args:
        shape = (len(values), len(values))
        q = np.linalg.qr(rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0))[0]
        return ((q * np.array(values)) @ q.conj().T,)

    return one


def stored(draw: Draw) -> Draw:
    """The one triangle of a Hermitian matrix, NaN-free rubbish in the other."""
    return lambda rng: (np.tril(draw(rng)[0]) + 7 * np.triu(rng.standard_normal(draw(rng)[0].shape), 1),)


def triangle(x: Any, in_lower: bool = True) -> Any:
    """One triangle of the last two dimensions."""
    return x * (np.tril if in_lower else np.triu)(np.ones(x.shape)).astype(x.dtype)


def adjoint(x: Any) -> Any:
    """The conjugate transpose."""
    return x.mT.conj()


def weighted(x: Any) -> Any:
    """Different weights for the elements, so that an all-ones cotangent is not symmetric."""
    return x * np.arange(1.0, 1 + x.size).reshape(x.shape).astype(x.dtype)


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
    packed, _, taus = _primitives.geqp3_p.bind(a, lax.full((a.shape[-1],), 0, np.int32), use_magma=None)
    return packed, taus


def ormqr_four(a: Any, taus: Any, c: Any) -> Any:
    return [linalg.ormqr(a, taus, c, left=left, transpose=transpose)
            for left, transpose in itertools.product((False, True), repeat=2)]


REFLECTORS = (
    *(reflector_case(f"geqrf[{'x'.join(map(str, shape))}{',complex' * imaginary}]", _primitives.geqrf_p.bind,
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

# ---- eigh ----


def eigh(a: Any, low: bool = True, symmetrize: bool = True, parts: Sequence[int] = (0, 1)) -> Any:
    results = linalg.eigh(a, lower=low, symmetrize_input=symmetrize)
    return tuple(results[i] for i in parts)


def top_projector(a: Any) -> Any:
    """The projector on the space of the two smallest eigenvalues: no basis, no phase in it."""
    v = linalg.eigh(a)[0][..., :2]
    return weighted(v @ adjoint(v))


def spectral_function(a: Any) -> Any:
    """The matrix logarithm of a definite matrix."""
    v, w = linalg.eigh(a)
    return (v * lax.log(w).astype(v.dtype)[..., None, :]) @ adjoint(v)


def own_weights(upper_triangle: Sequence[float]) -> np.ndarray:
    """Symmetric 3 by 3 matrix from its upper triangle."""
    full = np.zeros((3, 3))
    full[np.triu_indices(3)] = upper_triangle
    return full + np.triu(full, 1).T


TIED = ("some values are equal up to rounding, and jax divides by their difference; the result depends on no basis of "
        "their space, so finite differences are an oracle")

EIGH = (
    Case("eigh", ("eigh",), eigh, hermitian(4, 4), dtypes=LAPACK, boundary=(
        Boundary("empty", (np.zeros((0, 0)),)), Boundary("one by one", (np.array([[-3.0]]),)),
        Boundary("diagonal", (np.diag([1.0, 2.0, 4.0]),)), Boundary("tiny", (1e-18 * np.diag([1.0, 2.0, 4.0]),)),
    )),
    Case("eigh[upper]", ("eigh",), partial(eigh, low=False), hermitian(3, 3), dtypes=LAPACK),
    Case("eigh[batch]", ("eigh",), eigh, hermitian(2, 3, 3), dtypes=LAPACK),
    Case("eigh[complex]", ("eigh",), eigh, hermitian(3, 3, imaginary=True), dtypes=LAPACK, numeric=False, note=GAUGE),
    Case("eigh[values]", ("eigh",), partial(eigh, parts=(1,)), hermitian(3, 3), dtypes=LAPACK, boundary=(
        Boundary("identity", (np.eye(3),)), Boundary("zero", (np.zeros((3, 3)),)),
        Boundary("two equal", (np.diag([1.0, 1.0, 3.0]),)),
    )),
    Case("eigh[vectors]", ("eigh",), partial(eigh, parts=(0,)), hermitian(3, 3), dtypes=LAPACK),
    *(Case(f"eigh[one triangle,{word}]", ("eigh",), partial(eigh, low=low, symmetrize=False), hermitian(3, 3),
           dtypes=LAPACK, jax_agrees=False, note=ONE_TRIANGLE) for low, word in ((True, "lower"), (False, "upper"))),
    Case("eigh[complex,one triangle]", ("eigh",), partial(eigh, symmetrize=False, parts=(1,)),
         hermitian(3, 3, imaginary=True), dtypes=LAPACK, jax_agrees=False, note=ONE_TRIANGLE),
    Case("eigh[projector]", ("eigh",), top_projector, hermitian(4, 4), dtypes=LAPACK, boundary=(
        Boundary("two equal", (np.diag([1.0, 1.0, 3.0]),), (own_weights([0, 0, -2.5, 0, -3.5, 0]),),
                 why="dPᵢ₂ = dAᵢ₂ / (1 - 3) for i < 2, and nothing inside the space: weights 3 + 7 and 6 + 8, halved"),
    )),
    Case("eigh[projector,two equal]", ("eigh",), top_projector, with_values(1, 1, 3), dtypes=LAPACK, orders=1,
         jax_agrees=False, note=TIED),
    Case("eigh[complex,projector,two equal]", ("eigh",), top_projector, with_values(1, 1, 3, 4, imaginary=True),
         dtypes=LAPACK, orders=1, jax_agrees=False, note=TIED),
    Case("eigh[complex,projector]", ("eigh",), top_projector, hermitian(3, 3, imaginary=True), dtypes=LAPACK),
    Case("eigh[logarithm]", ("eigh",), spectral_function, hermitian(4, 4), dtypes=LAPACK),
)

# ---- eig ----


def eig(a: Any, left: bool, right: bool, derivs: bool = True) -> Any:
    return tuple(linalg.eig(a, compute_left_eigenvectors=left, compute_right_eigenvectors=right,
                            enable_eigvec_derivs=derivs))


def eig_case(left: bool, right: bool, imaginary: bool, **settings: Any) -> Case:
    words = ",".join(word for word, flag in (("left", left), ("right", right), ("complex", imaginary)) if flag)
    return Case(f"eig[{words}]", ("eig",), partial(eig, left=left, right=right),
                (complexed if imaginary else normal)((3, 3)), dtypes=LAPACK, **settings)


EIG = (
    *(eig_case(*flags) for flags in itertools.product((False, True), repeat=3) if any(flags[:2])),
    eig_case(False, False, True),
    eig_case(False, False, False, boundary=(
        Boundary("empty", (np.zeros((0, 0)),)), Boundary("identity", (np.eye(3),)),
        Boundary("diagonal", (np.diag([3.0, 1.0, 2.0]),)), Boundary("rotation", (np.array([[0.0, -1.0], [1.0, 0.0]]),)),
    )),
    Case("eig[batch]", ("eig",), partial(eig, left=False, right=True), normal((2, 3, 3)), dtypes=LAPACK),
    Case("eig[values beside vectors]", ("eig",), lambda a: eig(a, True, True, derivs=False)[0], normal((3, 3)),
         dtypes=LAPACK, orders=1, jax_agrees=False,
         note="jax.grad refuses even the values, once vectors are computed; at order 2 the vectors are asked for"),
)

# ---- svd ----


def svd(a: Any, parts: Sequence[int] = (0, 1, 2), algorithm: Any = None) -> Any:
    results = linalg.svd(a, full_matrices=False, compute_uv=True, algorithm=algorithm)
    return tuple(results[i] for i in parts)


def singular_values(a: Any) -> Any:
    return linalg.svd(a, full_matrices=False, compute_uv=False)


def complement(a: Any) -> Any:
    """Full matrices, and a function of them that depends on no basis and no phase."""
    u, s, vh = linalg.svd(a, full_matrices=True, compute_uv=True)
    k = s.shape[-1]
    outside_u, outside_v = u[..., k:], vh[..., k:, :]
    return (weighted(outside_u @ adjoint(outside_u)), weighted(adjoint(outside_v) @ outside_v),
            (u[..., :k] * s.astype(u.dtype)[..., None, :]) @ vh[..., :k, :])


def polar(a: Any) -> Any:
    """The unitary factor."""
    u, _, vh = linalg.svd(a, full_matrices=False, compute_uv=True)
    return weighted(u @ vh)


def put_together(a: Any) -> Any:
    """Half the square of the norm of the product of the factors."""
    u, s, vh = linalg.svd(a, full_matrices=False, compute_uv=True)
    product = (u * s) @ vh
    return 0.5 * (product * product).sum()


FULL = "jax refuses to differentiate full matrices of a rectangular one"
SVD = (
    *(Case(f"svd[{m}x{n}]", ("svd",), svd, spread(m, n), dtypes=LAPACK) for m, n in ((4, 4), (4, 3), (3, 4), (1, 3))),
    *(Case(f"svd[{m}x{n},complex]", ("svd",), svd, spread(m, n, imaginary=True), dtypes=LAPACK, numeric=False,
           note=GAUGE) for m, n in ((3, 3), (4, 2), (2, 4))),
    *(Case(f"svd[only {word}]", ("svd",), partial(svd, parts=(i,)), spread(4, 3), dtypes=LAPACK)
      for i, word in enumerate("usv")),
    Case("svd[batch]", ("svd",), svd, spread(2, 3, 2), dtypes=LAPACK),
    Case("svd[algorithm]", ("svd",), partial(svd, algorithm=linalg.SvdAlgorithm.QR), spread(3, 3), dtypes=LAPACK),
    Case("svd[values]", ("svd",), singular_values, spread(4, 3), dtypes=LAPACK, boundary=(
        Boundary("empty", (np.zeros((0, 3)),)), Boundary("identity", (np.eye(3),)),
        Boundary("rank one", (np.ones((2, 2)),)),
        Boundary("two equal", (np.diag([2.0, 2.0, 1.0]),)),
    )),
    Case("svd[complex,values]", ("svd",), singular_values, spread(3, 4, imaginary=True), dtypes=LAPACK),
    Case("svd[full,values]", ("svd",), lambda a: linalg.svd(a, full_matrices=True, compute_uv=False), spread(4, 3),
         dtypes=LAPACK),
    *(Case(f"svd[full,{m}x{n}{',complex' * imaginary}]", ("svd",), complement, spread(m, n, imaginary=imaginary),
           dtypes=LAPACK, jax_agrees=False, note=FULL)
      for m, n in ((4, 2), (2, 4)) for imaginary in (False, True)),
    Case("svd[polar]", ("svd",), polar, spread(3, 3), dtypes=LAPACK, boundary=(
        Boundary("two equal", (np.diag([2.0, 2.0, 1.0]),),
                 (np.array([[0, -0.5, -4 / 3], [0.5, 0, -2 / 3], [4 / 3, 2 / 3, 0]]),),
                 why="dQᵢⱼ = (dAᵢⱼ - dAⱼᵢ) / (sᵢ + sⱼ) is finite at a tie; JAX divides by zero"),
        Boundary("one zero", (np.diag([2.0, 1.0, 0.0]),),
                 (np.array([[0, -2 / 3, -2.0], [2 / 3, 0, -2.0], [2.0, 2.0, 0]]),),
                 why="the same formula: no sum of two singular values is zero"),
    )),
    Case("svd[polar,all equal]", ("svd",), polar, with_values(1, 1, 1, 1), dtypes=LAPACK, orders=1, jax_agrees=False,
         note=TIED),
    Case("svd[complex,polar,two equal]", ("svd",), polar, with_values(2, 1, 1, imaginary=True), dtypes=LAPACK, orders=1,
         jax_agrees=False, note=TIED),
    Case("svd[put together]", ("svd",), put_together, spread(3, 3), dtypes=LAPACK, boundary=(
        Boundary("two equal", (np.diag([1.0, 1.0, 2.0]),), (np.diag([1.0, 1.0, 2.0]),),
                 why="half the square of the norm, whose derivative is the matrix; JAX divides by zero"),
    )),
    Case("svd[complex,polar]", ("svd",), polar, spread(3, 2, imaginary=True), dtypes=LAPACK),
)

CASES: tuple[Case, ...] = (*CHOLESKY, *TRIANGULAR, *TRIDIAGONAL, *LU, *QR, *REFLECTORS, *PRODUCTS, *EIGH, *EIG, *SVD)
