"""Eigenvalues and singular values.

Sources: Giles, "An extended collection of matrix derivative results for forward and reverse mode algorithmic
differentiation" (Oxford NA-08-01, 2008), section 3; Wan and Zhang, "Automatic differentiation for complex valued SVD"
(arXiv:1909.02659) for the complex phases.

Vectors turn into each other at rates 1 / (difference of their values). The rate of a tie counts as 0, and values that
only rounding has parted are tied. This is right for functions of the space that the tied vectors span (a projector, the
polar factor, the norm of a matrix put together again); a matrix function whose cotangent mixes the tied vectors needs
more than any rule is told, and gets an incomplete cotangent there. ADR 6 has the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.registry import joint
from funcgrad.rules.elementwise import is_complex
from funcgrad.rules.matrix import (
    adjoint,
    along_columns,
    columns,
    conj,
    factored,
    folded,
    matmul,
    matmul_nt,
    matmul_tn,
    rows,
    solve_factored,
    where,
)
from funcgrad.zeros import MATRICES

Array = Any
Aval = Any
Active = tuple[bool, ...]
Cotangents = Sequence[Array | None]
#: Values are tied when they differ by at most so many roundings of the largest: equal ones come out that far apart.
TIED = 16


def _pairs(values: Array) -> tuple[Array, Array]:
    """``values[j]`` and ``values[i]`` at (i, j)."""
    shape, batch = (*values.shape, values.shape[-1]), range(values.ndim - 1)
    return (lax.broadcast_in_dim(values, shape, (*batch, values.ndim)),
            lax.broadcast_in_dim(values, shape, (*batch, values.ndim - 1)))


def _over(numerator: Array, denominator: Array, zero: Array | None = None) -> Array:
    """numerator / denominator, and 0 where `zero` is true (None: where the denominator is 0)."""
    if zero is None:
        zero = lax.eq(denominator, np.zeros((), denominator.dtype))
    safe = lax.select(zero, lax.full_like(denominator, 1), denominator)
    quotient = lax.div(numerator, lax.convert_element_type(safe, numerator.dtype))
    return lax.select(zero, lax.full_like(numerator, 0), quotient)


def _turning(numerator: Array, values: Array) -> Array:
    """``numerator[i, j] / (values[j] - values[i])``; zero on the diagonal and between values that are tied."""
    differences, sizes = lax.sub(*_pairs(values)), lax.abs(values)
    largest = lax.reduce_max(sizes, (sizes.ndim - 1,))
    rounding = np.array(TIED * np.finfo(sizes.dtype).eps, sizes.dtype)
    bound = lax.broadcast_in_dim(lax.mul(largest, rounding), differences.shape, tuple(range(largest.ndim)))
    return _over(numerator, differences, lax.le(lax.abs(differences), bound))


def _skew(x: Array) -> Array:
    return lax.sub(x, adjoint(x))


def _halved(x: Array) -> Array:
    return lax.mul(x, np.array(0.5, x.dtype))


def _partial(what: str) -> NotImplementedError:
    return NotImplementedError(
        f"the derivative of {what} for a part of the spectrum needs the other part.\n"
        "To fix: leave out subset_by_index, or differentiate the values only.")


# ---- eigh ----


def eigh_cotangents(active: Active, ct: tuple, out: tuple, _a: Aval, *, lower: bool, sort_eigenvalues: bool,
                    subset_by_index: tuple[int, int] | None, algorithm: Any) -> Cotangents:
    """dw = Re diag(VᴴdA V), dV = V (F ∘ VᴴdA V) with F = 1/(wⱼ - wᵢ). The other triangle of A is never read."""
    del active, sort_eigenvalues, algorithm
    if _a.size == 0:
        return [None]
    (ct_v, ct_w), (v, w) = ct, out
    if ct_v is None:
        inner = lax.mul(along_columns(ct_w, v), conj(v))
        return [folded(matmul_nt(inner, v), lower)]
    if subset_by_index not in (None, (0, _a.shape[-1])):
        raise _partial("eigenvectors")
    turned = matmul_tn(v, ct_v)
    inner = _halved(_turning(_skew(turned), w))
    if ct_w is not None:
        inner = where(lax.ne, inner, along_columns(ct_w, inner))
    return [folded(matmul(conj(v), matmul_nt(inner, v)), lower)]


# ---- eig ----


def eig_cotangents(active: Active, ct: tuple, out: tuple, a: Array, *, compute_left_eigenvectors: bool,
                   compute_right_eigenvectors: bool, enable_eigvec_derivs: bool, implementation: Any) -> Cotangents:
    """Right vectors are those of A, left vectors those of Aᴴ."""
    del active
    if a.size == 0:
        return [None]
    ct_w, *ct_vectors = ct
    w, *vectors = out
    if any(ct_v is not None for ct_v in ct_vectors) and not enable_eigvec_derivs:
        raise NotImplementedError(
            "eigenvectors of a general matrix have a derivative only if the eigenvalues are distinct and no vector has "
            "two components tied for the largest.\n"
            "To fix: bind `jax.lax.linalg.eig` with enable_eigvec_derivs=True, which states that.")
    if not vectors:
        # The values do not depend on how the vectors are scaled, so these may be differentiated further.
        _, vr = p.eig_p.bind(a, compute_left_eigenvectors=False, compute_right_eigenvectors=True,
                             enable_eigvec_derivs=True, implementation=implementation)
        total = _eig_operand(ct_w, None, w, vr)
    elif compute_right_eigenvectors:
        total = _eig_operand(ct_w, ct_vectors[-1], w, vectors[-1])
    else:
        total = None
    if compute_left_eigenvectors:
        ct_w_left = None if compute_right_eigenvectors or ct_w is None else conj(ct_w)
        left = _eig_operand(ct_w_left, ct_vectors[0], conj(w), vectors[0])
        if left is not None:
            total = adjoint(left) if total is None else lax.add(total, adjoint(left))
    return [total if total is None or is_complex(a) else lax.real(total)]


def _eig_operand(ct_w: Array | None, ct_v: Array | None, w: Array, v: Array) -> Array | None:
    """dw = diag(P), dV = V (F ∘ P) + V diag(c) with P = V⁻¹dA V, F = 1/(wⱼ - wᵢ).

    c keeps each vector's length 1 and its largest component real, as LAPACK does.
    """
    if ct_v is not None:
        inner = _turning(matmul_tn(v, _in_gauge(ct_v, v)), w)
        if ct_w is not None:
            inner = where(lax.ne, inner, along_columns(ct_w, inner))
    elif ct_w is not None:
        inner = where(lax.eq, along_columns(ct_w, v))
    else:
        return None
    return solve_factored(factored(v), matmul_nt(inner, v), trans=True)


def _in_gauge(ct: Array, v: Array) -> Array:
    """Cotangent of U in V = U + V diag(c), cⱼ = -Re(vⱼᴴuⱼ) - i Im(uₖⱼ)/vₖⱼ with vₖⱼ the largest component of vⱼ."""
    axis = v.ndim - 2
    largest = lax.argmax(lax.abs(v), axis, np.int32)
    chosen = lax.eq(lax.broadcasted_iota(np.int32, v.shape, axis),
                    lax.broadcast_in_dim(largest, v.shape, (*range(axis), axis + 1)))
    zero = lax.full_like(v, 0)
    along = lax.reduce_sum(lax.mul(ct, v), (axis,))
    pivot = lax.real(lax.reduce_sum(lax.select(chosen, v, zero), (axis,)))
    phase = lax.div(lax.imag(along), pivot)
    ct_length = lax.mul(conj(v), along_columns(lax.real(along), v))
    ct_phase = along_columns(lax.complex(lax.full_like(phase, 0), phase), v)
    return lax.sub(ct, lax.add(ct_length, lax.select(chosen, ct_phase, zero)))


# ---- svd ----


def svd_cotangents(active: Active, ct: tuple, out: tuple, a: Array, *, full_matrices: bool, compute_uv: bool,
                   subset_by_index: tuple[int, int] | None, algorithm: Any) -> Cotangents:
    """ds = Re diag(UᴴdA V); with values only, the vectors are computed here."""
    del active
    if a.size == 0:
        return [None]
    ct_s, *ct_vectors = ct
    if compute_uv:
        s, u, vh = out
    else:
        s, u, vh = p.svd_p.bind(a, full_matrices=False, compute_uv=True, subset_by_index=subset_by_index,
                                algorithm=algorithm)
    count = s.shape[-1]
    if all(ct_v is None for ct_v in ct_vectors):
        u, vh = columns(u, 0, count), rows(vh, 0, count)
        return [matmul(lax.mul(along_columns(ct_s, u), conj(u)), conj(vh))]
    if subset_by_index not in (None, (0, min(a.shape[-2:]))):
        raise _partial("singular vectors")
    return [_svd_operand(ct, (s, u, vh), full_matrices)]


def _svd_operand(ct: tuple, out: tuple, full: bool) -> Array:
    """dU = U (F ∘ (P S + S Pᴴ) + i Im diag(P) S⁻¹) + (1 - UUᴴ) dA V S⁻¹ with P = UᴴdA V, F = 1/(sⱼ² - sᵢ²); V alike.

    The phases of a complex pair are given to U, as JAX does. In ct_P the squares come apart into sums and differences
    of singular values, which stay finite longer: F sⱼ = ½ (1/(sⱼ - sᵢ) + 1/(sⱼ + sᵢ)).
    """
    (ct_s, ct_u, ct_vh), (s, u, vh) = ct, out
    k = s.shape[-1]
    turned_u = None if ct_u is None else matmul_tn(u, ct_u)
    turned_v = None if ct_vh is None else conj(matmul_nt(vh, ct_vh))
    u1, v1h = columns(u, 0, k), rows(vh, 0, k)
    inner = _svd_inner(ct_s, s, *(None if x is None else columns(rows(x, 0, k), 0, k) for x in (turned_u, turned_v)))
    ct_a = matmul(matmul(conj(u1), inner), conj(v1h))
    if turned_u is not None and u.shape[-2] > k:
        rest = _outside(ct_u, turned_u, u, k, full)
        ct_a = lax.add(ct_a, matmul(_over(rest, along_columns(s, rest)), conj(v1h)))
    if turned_v is not None and vh.shape[-1] > k:
        rest = _outside(adjoint(ct_vh), turned_v, adjoint(vh), k, full)
        ct_a = lax.add(ct_a, matmul(conj(u1), adjoint(_over(rest, along_columns(s, rest)))))
    return ct_a


def _svd_inner(ct_s: Array | None, s: Array, turned_u: Array | None, turned_v: Array | None) -> Array:
    """Cotangent of P."""
    some = turned_v if turned_u is None else turned_u
    assert some is not None
    skew_u, skew_v = (lax.full_like(some, 0) if x is None else _skew(x) for x in (turned_u, turned_v))
    if is_complex(some):
        skew_v = where(lax.ne, skew_v, lax.neg(skew_u))  # on the diagonal: the phase is U's
    inner = _halved(lax.add(_turning(lax.add(skew_u, skew_v), s),
                            _over(lax.sub(skew_u, skew_v), lax.add(*_pairs(s)))))
    return inner if ct_s is None else lax.add(inner, where(lax.eq, along_columns(ct_s, inner)))


def _outside(ct: Array, turned: Array, vectors: Array, k: int, full: bool) -> Array:
    """What `ct` wants of the first k vectors outside the space they span; the full matrix gives the rest of the basis,
    which turns the other way."""
    if not full:
        return lax.sub(ct, matmul(conj(vectors), turned))
    end = turned.shape[-1]
    block = columns(rows(_skew(turned), k, end), 0, k)
    return matmul(conj(columns(vectors, k, end)), block)


# ---- the table ----

joint(p.eigh_p, eigh_cotangents, dear=True, mixes=MATRICES)
joint(p.eig_p, eig_cotangents, dear=True, mixes=MATRICES)
joint(p.svd_p, svd_cotangents, dear=True, mixes=MATRICES)
