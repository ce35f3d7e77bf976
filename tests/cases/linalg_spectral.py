"""Cases of linear algebra: eigenvalues, eigenvectors and singular values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jax import lax
from jax.lax import linalg

from tests.cases.case import Boundary, Case, normal
from tests.cases.matrices import (
    GAUGE,
    LAPACK,
    ONE_TRIANGLE,
    adjoint,
    complexed,
    hermitian,
    spread,
    weighted,
    with_values,
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

CASES: tuple[Case, ...] = (*EIGH, *EIG, *SVD)
