"""Linear algebra: factorizations and solves (eigen- and singular values are in `spectral`).

Each rule states the differential that it transposes. Sources:

    cholesky    Murray, "Differentiation of the Cholesky decomposition" (arXiv:1602.07527)
    lu          de Hoog, Anderssen and Lukas, "Differentiation of matrix functionals using triangular factorization"
                (Math. Comp. 80, 2011)
    qr          Roberts and Roberts, "QR and LQ decomposition matrix backpropagation algorithms" (arXiv:2009.10071);
                for the full Q arXiv:2409.13374
    reflectors  T: Joffrain et al., "Accumulating Householder transformations, revisited" (ACM TOMS 32, 2006); those of
                a given Q: Ballard et al., "Reconstructing Householder vectors from tall-skinny QR" (IPDPS 2014)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import primitives as p
from jax.lax import linalg

from funcgrad._compat import primitives as private
from funcgrad.registry import closed_form, constant, joint, unsupported
from funcgrad.rules.matrix import (
    adjoint,
    along_columns,
    along_rows,
    columns,
    conj,
    diagonal,
    factored,
    folded,
    half_diagonal,
    inverse_order,
    lower,
    matmul,
    matmul_nt,
    matmul_tn,
    rows,
    solve,
    solve_factored,
    strictly_lower,
    strictly_upper,
    take_rows,
    transposed,
    upper,
    where,
    widened,
)
from funcgrad.zeros import MATRICES

Array = Any
Aval = Any
Active = tuple[bool, ...]
Cotangents = Sequence[Array | None]


# ---- cholesky ----


def cholesky_operand(ct: Array, out: Array, _a: Aval) -> Array:
    """dL = L Φ(L⁻¹ dA L⁻ᴴ), Φ the lower triangle with half the diagonal. The upper triangle of A is never read."""
    factor = lower(out)  # what stands above the diagonal is the platform's
    inner = half_diagonal(matmul_tn(factor, lower(ct)))
    return folded(solve(conj(factor), solve(factor, inner, low=True, trans=True), left=False, low=True))


def cholesky_update_cotangents(active: Active, ct: Array, out: Array, r: Array, w: Array) -> Cotangents:
    """SᵀS = RᵀR + w wᵀ for upper R, so dS = Φ(S⁻ᵀ (dRᵀR + RᵀdR + dw wᵀ + w dwᵀ) S⁻¹) S."""
    factor = upper(out)
    inner = half_diagonal(matmul_nt(upper(ct), factor), in_lower=False)
    half = solve(factor, solve(factor, inner, low=False), left=False, low=False, trans=True)
    middle = lax.add(half, transposed(half))
    column = lax.expand_dims(w, (1,))
    return [upper(matmul(upper(r), middle)) if active[0] else None,
            lax.squeeze(matmul(middle, column), (1,)) if active[1] else None]


# ---- solves ----


def triangular_solve_cotangents(active: Active, ct: Array, out: Array, a: Array, _b: Aval, *, left_side: bool,
                                lower: bool, transpose_a: bool, conjugate_a: bool,
                                unit_diagonal: bool) -> Cotangents:
    """op(A) dX = dB - d op(A) X, or mirrored. The other triangle, and a unit diagonal, are never read."""
    ct_b = linalg.triangular_solve(a, ct, left_side=left_side, lower=lower, transpose_a=not transpose_a,
                                   conjugate_a=conjugate_a, unit_diagonal=unit_diagonal)
    if not active[0]:
        return [None, ct_b]
    product = matmul_nt if left_side else matmul_tn
    pair = (ct_b, out) if left_side != transpose_a else (out, ct_b)
    compare = (lax.gt if unit_diagonal else lax.ge) if lower else (lax.lt if unit_diagonal else lax.le)
    ct_a = lax.neg(where(compare, product(*pair)))
    return [conj(ct_a) if conjugate_a else ct_a, ct_b if active[1] else None]


def tridiagonal_solve_cotangents(active: Active, ct: Array, out: Array, dl: Array, d: Array, du: Array, _b: Aval, *,
                                 perturb_singular: bool) -> Cotangents:
    """T dX = dB - dT X. The first element of the lower and the last of the upper diagonal are never read."""
    if _b.size == 0:
        return [None] * 4
    size, axis = dl.shape[-1], dl.ndim - 1
    down, up = [(0, 0, 0)] * axis + [(1, -1, 0)], [(0, 0, 0)] * axis + [(-1, 1, 0)]
    zero = np.zeros((), dl.dtype)
    ct_b = linalg.tridiagonal_solve(lax.pad(du, zero, down), d, lax.pad(dl, zero, up), ct,
                                    perturb_singular=perturb_singular)

    def diagonal_of_product(left: Array, right: Array) -> Array:
        return lax.neg(lax.reduce_sum(lax.mul(left, right), (left.ndim - 1,)))

    head_ct, tail_ct = rows(ct_b, 0, size - 1), rows(ct_b, 1, size)
    head_out, tail_out = rows(out, 0, size - 1), rows(out, 1, size)
    before, after = [(0, 0, 0)] * axis + [(1, 0, 0)], [(0, 0, 0)] * axis + [(0, 1, 0)]
    return [lax.pad(diagonal_of_product(tail_ct, head_out), zero, before) if active[0] else None,
            diagonal_of_product(ct_b, out) if active[1] else None,
            lax.pad(diagonal_of_product(head_ct, tail_out), zero, after) if active[2] else None,
            ct_b if active[3] else None]


# ---- lu ----


def lu_operand(ct: tuple, out: tuple, _a: Aval) -> Array | None:
    """P A = L U; the pivots are locally constant."""
    if _a.size == 0 or ct[0] is None:
        return None
    packed, _, order = out
    return take_rows(_unpivoted_lu_operand(ct[0], packed), inverse_order(order))


def _unpivoted_lu_operand(ct: Array, packed: Array) -> Array:
    """dL = L slo(L⁻¹ dA U⁻¹), dU = up(L⁻¹ dA U⁻¹) U in the square block; rows below it, or columns to the right of
    it, hang on it by L₂ = A₂U⁻¹ or U₂ = L⁻¹A₂."""
    m, n = packed.shape[-2:]
    k = min(m, n)
    block, ct_block = columns(rows(packed, 0, k), 0, k), columns(rows(ct, 0, k), 0, k)
    low, up = matmul_tn(_unit_lower(block), strictly_lower(ct_block)), matmul_nt(upper(ct_block), upper(block))
    below, right = rows(ct, k, m) if m > n else None, columns(ct, k, n) if m < n else None
    if below is not None:
        up = lax.sub(up, matmul_tn(rows(packed, k, m), below))
    if right is not None:
        low = lax.sub(low, matmul_nt(right, columns(packed, k, n)))
    # U⁻ᵀ comes first: it is the worse conditioned factor, and would magnify the rounding of the other solve.
    ct_a = solve(block, where(lax.gt, low, up), left=False, low=False, trans=True)
    if right is not None:
        ct_a = lax.concatenate((ct_a, right), ct_a.ndim - 1)
    ct_a = solve(block, ct_a, low=True, trans=True, unit=True)
    if below is None:
        return ct_a
    return lax.concatenate((ct_a, solve(block, below, left=False, low=False, trans=True)), ct_a.ndim - 2)


def _unit_lower(block: Array) -> Array:
    """What is stored below the diagonal, and ones on it."""
    return where(lax.gt, block, where(lax.eq, lax.full_like(block, 1)))


# ---- qr ----


def qr_operand(ct: tuple, out: tuple, _a: Aval, *, pivoting: bool, full_matrices: bool, use_magma: Any) -> Array | None:
    """With N = Qᵀ ct_Q - ct_R Rᵀ: ct_A = (ct_Q - conj(Q) herm(N)) R⁻ᵀ, herm(N) Hermitian with N's upper triangle."""
    del use_magma
    m, n = _a.shape[-2:]
    ct_q, ct_r = ct[:2]
    if _a.size == 0 or (ct_q is None and ct_r is None):
        return None
    q, r = out[:2]
    if full_matrices and m > n:
        ct_q = None if ct_q is None else _full_q(ct_q, q, n)
        ct_r = None if ct_r is None else rows(ct_r, 0, n)
        q, r = columns(q, 0, n), rows(r, 0, n)
    ct_a = _wide_qr(ct_q, ct_r, q, r) if m < n else _tall_qr(ct_q, ct_r, q, r)
    return _columns_back(ct_a, out[2]) if pivoting else ct_a


def _tall_qr(ct_q: Array | None, ct_r: Array | None, q: Array, r: Array) -> Array:
    inner = None if ct_q is None else matmul_tn(q, ct_q)
    if ct_r is not None:
        through_r = matmul_nt(ct_r, r)
        inner = lax.neg(through_r) if inner is None else lax.sub(inner, through_r)
    # the imaginary part of the diagonal is left out: that of R stays real
    half = half_diagonal(inner, in_lower=False)
    inner = matmul(conj(q), lax.add(half, adjoint(half)))
    return solve(r, lax.neg(inner) if ct_q is None else lax.sub(ct_q, inner), left=False, low=False, trans=True)


def _wide_qr(ct_q: Array | None, ct_r: Array | None, q: Array, r: Array) -> Array:
    """A = [A₁ A₂] = Q [R₁ R₂]: Q and R₁ belong to A₁ alone, R₂ = QᴴA₂."""
    m, n = r.shape[-2:]
    first = columns(r, 0, m)
    if ct_r is None:
        return widened(_tall_qr(ct_q, None, q, first), n)
    ct_rest = columns(ct_r, m, n)
    ct_q2 = conj(matmul(q, matmul_nt(columns(r, m, n), ct_rest)))
    ct_a1 = _tall_qr(ct_q2 if ct_q is None else lax.add(ct_q, ct_q2), columns(ct_r, 0, m), q, first)
    return lax.concatenate((ct_a1, matmul(conj(q), ct_rest)), r.ndim - 1)


def _full_q(ct: Array, q: Array, n: int) -> Array:
    """Cotangent of Q₁, the first n columns of Q, through the others too.

    Householder's Q₂ is a function of Q₁ = [I + B; C]: Q₂ = [0; I] + (Q₁ - [I; 0]) Zᴴ with Z = C B⁻¹.
    """
    m = q.shape[-1]
    first, ct_rest = columns(q, 0, n), columns(ct, n, m)
    moved = lax.sub(first, where(lax.eq, lax.full_like(first, 1)))
    block = factored(rows(moved, 0, n))
    zt = solve_factored(block, transposed(rows(moved, n, m)), trans=True)
    ct_zt = conj(matmul_tn(moved, ct_rest))
    ct_bottom_t = solve_factored(block, ct_zt)
    ct_block = lax.neg(matmul_nt(zt, ct_bottom_t))
    through_z = lax.concatenate((ct_block, transposed(ct_bottom_t)), q.ndim - 2)
    return lax.add(lax.add(columns(ct, 0, n), matmul_nt(ct_rest, conj(zt))), through_z)


# ---- Householder reflectors: Q = (I - τ₁v₁v₁ᴴ) … (I - τₖvₖvₖᴴ) = I - V T Vᴴ ----


def _reflector_cotangents(a: Aval, v: Array, taus: Array, q_v: Array, qh_v: Array) -> tuple[Array, Array]:
    """Cotangents of `a` and the taus, from Q̄V and Q̄ᴴV for the gradient Q̄ of Q (conjugate of its cotangent).

    T = (I + D S)⁻¹ D, with D = diag(τ) and S the strictly upper triangle of VᴴV, whatever the taus are.
    """
    s = strictly_upper(matmul_tn(conj(v), v))
    unit = lax.mul(along_rows(taus, s), s)
    t = solve(unit, where(lax.eq, along_columns(taus, s)), low=False, unit=True)
    inner = solve(conj(unit), lax.neg(matmul_tn(conj(v), q_v)), low=False, trans=True, unit=True)
    grad_taus = lax.sub(diagonal(inner), lax.reduce_sum(lax.mul(inner, conj(matmul(s, t))), (s.ndim - 1,)))
    grad_s = lax.neg(strictly_upper(matmul_nt(lax.mul(along_rows(conj(taus), s), inner), conj(t))))
    grad_v = lax.sub(matmul(v, lax.add(grad_s, adjoint(grad_s))), lax.add(matmul_nt(q_v, conj(t)), matmul(qh_v, t)))
    return widened(conj(strictly_lower(grad_v)), a.shape[-1]), conj(grad_taus)


def householder_product_cotangents(active: Active, ct: Array, _out: Aval, a: Array, taus: Array) -> Cotangents:
    """The first n columns of Q."""
    del active
    if taus.size == 0 or a.size == 0:
        return [None, None]
    m, n = a.shape[-2:]
    v, grad = _unit_lower(columns(a, 0, taus.shape[-1])), conj(ct)
    qh_v = transposed(widened(matmul_tn(v, ct), m))
    return _reflector_cotangents(a, v, taus, matmul(grad, rows(v, 0, n)), qh_v)


def ormqr_cotangents(active: Active, ct: Array, _out: Aval, a: Array, taus: Array, c: Array, *, left: bool,
                     transpose: bool) -> Cotangents:
    """op(Q) C, or C op(Q), where op is the identity or the conjugate transpose."""
    if taus.size == 0 or c.size == 0:
        return [None, None, ct if taus.size == 0 else None]
    grad = conj(ct)
    ct_c = conj(linalg.ormqr(a, taus, grad, left=left, transpose=not transpose)) if active[2] else None
    if not (active[0] or active[1]):
        return [None, None, ct_c]
    v = _unit_lower(columns(a, 0, taus.shape[-1]))
    # Q̄ = x yᴴ
    x, y = (grad, c) if left else (adjoint(c), adjoint(grad))
    if transpose:
        x, y = y, x
    q_v, qh_v = (matmul(one, matmul_tn(conj(other), v)) for one, other in ((x, y), (y, x)))
    return [*_reflector_cotangents(a, v, taus, q_v, qh_v), ct_c]


def geqrf_operand(ct: tuple, out: tuple, _a: Aval) -> Array | None:
    """V and the taus are a function of Q: [I; 0] - Q = V (T Vₖᴴ) is an LU decomposition, the taus are U's diagonal."""
    packed, taus = out
    ct_packed, ct_taus = ct
    if _a.size == 0 or (ct_packed is None and ct_taus is None):
        return None
    k = taus.shape[-1]
    stored, square = columns(packed, 0, k), columns(rows(packed, 0, k), 0, k)
    ct_lu = lax.full_like(stored, 0) if ct_taus is None else where(lax.eq, along_columns(ct_taus, stored))
    ct_r = None
    if ct_packed is not None:
        ct_lu, ct_r = where(lax.gt, columns(ct_packed, 0, k), ct_lu), upper(rows(ct_packed, 0, k))
    v = _unit_lower(stored)
    tails = lax.mul(along_rows(taus, square), strictly_upper(matmul_tn(conj(v), v)))
    u = solve(tails, lax.mul(along_rows(taus, square), adjoint(rows(v, 0, k))), low=False, unit=True)
    # The last reflector of a real square matrix is none at all (tau = 0), and no other result depends on it.
    divisor = lax.select(lax.eq(u, np.zeros((), u.dtype)), lax.full_like(u, 1), u)
    top = where(lax.gt, square, where(lax.eq, divisor, u))
    lu = lax.concatenate((top, rows(stored, k, stored.shape[-2])), u.ndim - 2)
    ct_q = lax.neg(_unpivoted_lu_operand(ct_lu, lu))
    q, r = linalg.householder_product(stored, taus), upper(rows(packed, 0, k))
    return (_wide_qr if _a.shape[-2] < _a.shape[-1] else _tall_qr)(ct_q, ct_r, q, r)


def geqp3_operand(ct: tuple, out: tuple, _a: Aval, _order: Aval, *, use_magma: Any) -> Array | None:
    """`geqrf` of the columns in the order that it found, which counts from 1."""
    del use_magma
    packed, order, taus = out
    ct_a = geqrf_operand((ct[0], ct[2]), (packed, taus), _a)
    if ct_a is None:
        return None
    return _columns_back(ct_a, lax.sub(order, np.ones((), order.dtype)))


def _columns_back(ct: Array, order: Array) -> Array:
    return transposed(take_rows(transposed(ct), inverse_order(order)))


# ---- products ----


def symmetric_product_matrix(ct: Array, _out: Aval, a: Array, _c: Aval, *, alpha: float, beta: float) -> Array:
    """alpha A Aᵀ + beta C, real."""
    del beta
    return lax.mul(matmul(lax.add(ct, transposed(ct)), a), np.array(alpha, a.dtype))


def symmetric_product_offset(ct: Array, _out: Aval, _a: Aval, _c: Aval, *, alpha: float, beta: float) -> Array | None:
    """alpha A Aᵀ + beta C."""
    del alpha
    return None if beta == 0 else lax.mul(ct, np.array(beta, ct.dtype))


# ---- the table ----

constant(linalg.lu_pivots_to_permutation_p)

closed_form(p.cholesky_p, cholesky_operand, dear=True, mixes=MATRICES)
joint(linalg.cholesky_update_p, cholesky_update_cotangents, dear=True, mixes=MATRICES)
joint(p.triangular_solve_p, triangular_solve_cotangents, dear=True, mixes=MATRICES)
joint(p.tridiagonal_solve_p, tridiagonal_solve_cotangents, dear=True)
closed_form(p.lu_p, lu_operand, dear=True, mixes=MATRICES)
closed_form(p.qr_p, qr_operand, dear=True, mixes=MATRICES)
closed_form(private.geqrf_p, geqrf_operand, dear=True, mixes=MATRICES)
closed_form(private.geqp3_p, geqp3_operand, None, dear=True, mixes=MATRICES)
joint(p.householder_product_p, householder_product_cotangents, dear=True, mixes=MATRICES)
joint(linalg.ormqr_p, ormqr_cotangents, dear=True, mixes=MATRICES)
closed_form(linalg.symmetric_product_p, symmetric_product_matrix, symmetric_product_offset, dear=True, mixes=MATRICES)

unsupported(p.schur_p, reason="the Schur form is not unique: its 2 by 2 blocks, the order of the eigenvalues and the "
            "phases of the vectors are LAPACK's choice and jump; jax.grad refuses it too")
for _reduction in (p.hessenberg_p, p.tridiagonal_p):
    unsupported(
        _reduction, reason="packed reflectors: a recursion over columns, whose differential is no matrix formula; "
        "jax.grad refuses it too")
