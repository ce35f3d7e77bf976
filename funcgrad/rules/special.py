"""Error, gamma, beta, zeta and Bessel functions, entry by entry.

Formulas: NIST Digital Library of Mathematical Functions, chapters 5 (gamma), 7 (error functions), 8 (incomplete gamma
and beta), 10 (Bessel) and 25 (zeta). Where an exponent has several terms, 16-bit operands are computed in float32: a
rounding of the exponent is a relative error of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.errors import MissingRuleError
from funcgrad.registry import pointwise
from funcgrad.rules.elementwise import as_number, const, times

Array = Any
Aval = Any


def widened(formula: Callable[..., Array], *operands: Array) -> Array:
    """``formula(*operands)``, computed in float32 when the operands have 16 bits."""
    dtype = operands[0].dtype
    if dtype.itemsize > 2:
        return formula(*operands)
    wide = [lax.convert_element_type(x, np.float32) for x in operands]
    return lax.convert_element_type(formula(*wide), dtype)


def x_log_y(x: Array, y: Array) -> Array:
    """``x log(y)``, and 0 at x = y = 0."""
    corner = lax.bitwise_and(lax.eq(x, const(0, x)), lax.eq(y, const(0, y)))
    return lax.mul(x, lax.log(lax.add(y, as_number(corner, y))))


# ---- error functions ----


def gaussian(factor: float) -> Callable[[Array], Array]:
    """``x -> factor exp(-x**2)``."""
    return lambda x: times(factor, lax.exp(lax.neg(lax.square(x))))


def erf_inv(out: Array, _x: Aval) -> Array:
    """``sqrt(pi) / 2 exp(out**2)``."""
    return widened(lambda y: times(np.sqrt(np.pi) / 2, lax.exp(lax.square(y))), out)


pointwise(p.erf_p, lambda _out, x: widened(gaussian(2 / np.sqrt(np.pi)), x))
pointwise(p.erfc_p, lambda _out, x: widened(gaussian(-2 / np.sqrt(np.pi)), x))
pointwise(p.erf_inv_p, erf_inv)

# ---- gamma and zeta functions ----


def polygamma_order(_out: Aval, _m: Aval, _x: Aval) -> Array:
    """The order of polygamma is an integer that happens to be stored as a float."""
    raise ValueError(
        "polygamma(m, x) has no derivative with respect to its order m, which is an integer; jax.grad refuses it too.\n"
        "To fix: make m inactive with `jax.lax.stop_gradient`."
    )


def zeta_exponent(_out: Aval, _x: Aval, _q: Aval) -> Array:
    """The derivative of the Hurwitz zeta function with respect to its exponent has no closed form."""
    raise MissingRuleError(
        "zeta(x, q) has no derivative with respect to its exponent x in closed form; jax.grad refuses it too.\n"
        "To fix: make x inactive with `jax.lax.stop_gradient`."
    )


def zeta_shift(_out: Aval, x: Array, q: Array) -> Array:
    """``-x zeta(x + 1, q)``."""
    return lax.neg(lax.mul(x, lax.zeta(lax.add(x, const(1, x)), q)))


def trigamma(_out: Aval, x: Array) -> Array:
    """``polygamma(1, x)``; for negative x, where XLA's is wrong, by reflection at 1/2 (DLMF 5.15.6)."""
    negative = lax.lt(x, const(0, x))
    right = lax.polygamma(const(1, x), lax.select(negative, lax.sub(const(1, x), x), x))
    # sin(pi x) squared has period 1; the half in the other branch keeps poles out of second derivatives.
    offset = lax.select(negative, lax.sub(x, lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)), lax.full_like(x, 0.5))
    ratio = lax.div(const(np.pi, x), lax.sin(times(np.pi, offset)))
    return lax.select(negative, lax.sub(lax.mul(ratio, ratio), right), right)


pointwise(p.lgamma_p, lambda _out, x: lax.digamma(x))
pointwise(p.digamma_p, trigamma)
pointwise(p.polygamma_p, polygamma_order, lambda _out, m, x: lax.polygamma(lax.add(m, const(1, m)), x))
pointwise(p.zeta_p, zeta_exponent, zeta_shift)

# ---- incomplete gamma and beta functions ----


def gamma_density(a: Array, x: Array) -> Array:
    """``x**(a - 1) exp(-x) / Gamma(a)``, the derivative of igamma(a, x) with respect to x."""
    power = x_log_y(lax.sub(a, const(1, a)), x)
    return lax.exp(lax.sub(lax.sub(power, x), lax.lgamma(a)))


def gamma_density_slope(a: Array, x: Array) -> Array:
    """The derivative of `gamma_density` with respect to a: the density times ``log(x) - digamma(a)``."""
    return lax.mul(gamma_density(a, x), lax.sub(lax.log(x), lax.digamma(a)))


def igamma_second(_out: Aval, _a: Aval, _x: Aval) -> Array:
    """The second derivative of igamma with respect to a has no closed form."""
    raise MissingRuleError(
        "igamma(a, x) has no second derivative with respect to a in closed form; jax.grad refuses it too.\n"
        "To fix: make a inactive with `jax.lax.stop_gradient` at second order."
    )


def beta_density(_out: Aval, a: Array, b: Array, x: Array) -> Array:
    """``x**(a - 1) (1 - x)**(b - 1) / B(a, b)``."""
    return widened(_beta_density, a, b, x)


def _beta_density(a: Array, b: Array, x: Array) -> Array:
    from_left = x_log_y(lax.sub(a, const(1, a)), x)
    b_less_one = lax.sub(b, const(1, b))
    corner = lax.bitwise_and(lax.eq(b_less_one, const(0, b)), lax.eq(x, const(1, x)))
    from_right = lax.mul(b_less_one, lax.log1p(lax.sub(as_number(corner, x), x)))
    log_beta = lax.sub(lax.add(lax.lgamma(a), lax.lgamma(b)), lax.lgamma(lax.add(a, b)))
    return lax.exp(lax.sub(lax.add(from_right, from_left), log_beta))


def beta_shape(_out: Aval, _a: Aval, _b: Aval, _x: Aval) -> Array:
    """The derivatives with respect to a and b are series that JAX has no primitive for."""
    raise ValueError(
        "regularized_incomplete_beta(a, b, x) has no derivative with respect to a and b in closed form; jax.grad "
        "refuses it too.\nTo fix: make a and b inactive with `jax.lax.stop_gradient`."
    )


pointwise(
    p.igamma_p,
    lambda _out, a, x: lax.igamma_grad_a(a, x),
    lambda _out, a, x: widened(gamma_density, a, x),
)
pointwise(
    p.igammac_p,
    lambda _out, a, x: lax.neg(lax.igamma_grad_a(a, x)),
    lambda _out, a, x: lax.neg(widened(gamma_density, a, x)),
)
pointwise(p.igamma_grad_a_p, igamma_second, lambda _out, a, x: widened(gamma_density_slope, a, x))
pointwise(p.regularized_incomplete_beta_p, beta_shape, beta_shape, beta_density)

# ---- Bessel functions, scaled by exp(-|x|) ----


def bessel_i0e(x: Array) -> Array:
    """``i1e(x) - sign(x) i0e(x)``."""
    return lax.sub(lax.bessel_i1e(x), lax.mul(lax.sign(x), lax.bessel_i0e(x)))


def bessel_i1e(x: Array) -> Array:
    """``i0e(x) - sign(x) i1e(x) - i1e(x) / x``; the last term is 1/2 at 0."""
    i1e = lax.bessel_i1e(x)
    at_zero = lax.eq(x, lax.full_like(x, 0))
    ratio = lax.div(i1e, lax.select(at_zero, lax.full_like(x, 1), x))
    ratio = lax.select(at_zero, lax.full_like(x, 0.5), ratio)
    return lax.sub(lax.sub(lax.bessel_i0e(x), lax.mul(lax.sign(x), i1e)), ratio)


pointwise(p.bessel_i0e_p, lambda _out, x: widened(bessel_i0e, x))
pointwise(p.bessel_i1e_p, lambda _out, x: widened(bessel_i1e, x))
