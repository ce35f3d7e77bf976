"""Arithmetic, exponentials, trigonometry, comparisons, selection and conversions, entry by entry.

The n-ary primitives of JAX stretch scalars and axes of size 1 by themselves. A `pointwise` partial may have the
operand's or the output's shape, and the table sums what it gives; the other rules here do so with `unbroadcast`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.registry import closed_form, constant, joint, linear, pointwise
from funcgrad.rule import Over, unbroadcast
from funcgrad.zeros import ELEMENTS, MOVES

Array = Any
Aval = Any


def const(value: complex, x: Array) -> np.ndarray:
    """A scalar of the dtype of `x`; the primitives broadcast it."""
    return np.array(value, x.dtype)


def times(value: complex, x: Array) -> Array:
    """A constant times `x`."""
    return lax.mul(x, const(value, x))


def is_complex(x: Array) -> bool:
    """Whether `x`, a value or an aval, is complex."""
    return np.issubdtype(x.dtype, np.complexfloating)


def as_number(mask: Array, x: Array) -> Array:
    """1 where the mask holds, 0 elsewhere, in the dtype of `x`."""
    return lax.convert_element_type(mask, x.dtype)


def less(x: Array, y: Array) -> Array:
    """``x < y`` in the order in which XLA takes maxima: complex numbers by real, then by imaginary part."""
    if not is_complex(x):
        return lax.lt(x, y)
    tie = lax.bitwise_and(lax.eq(lax.real(x), lax.real(y)), lax.lt(lax.imag(x), lax.imag(y)))
    return lax.bitwise_or(lax.lt(lax.real(x), lax.real(y)), tie)


# ---- constant almost everywhere, or no cotangent at all ----

constant(p.floor_p, p.ceil_p, p.round_p, p.is_finite_p, p.bitcast_convert_type_p)
constant(p.eq_p, p.ne_p, p.ge_p, p.gt_p, p.le_p, p.lt_p, p.eq_to_p, p.le_to_p, p.lt_to_p)
constant(p.not_p, p.and_p, p.or_p, p.xor_p, p.shift_left_p, p.shift_right_arithmetic_p, p.shift_right_logical_p)
constant(p.population_count_p, p.clz_p, lax.mulhi_p)

# ---- linear ----


def convert_element_type(ct: Array, _x: Array, *, new_dtype: Any, weak_type: bool, sharding: Any) -> Array:
    """Convert back; from a complex `ct` to a real operand that is the real part."""
    del new_dtype, weak_type, sharding
    if ct.dtype == _x.dtype and not _x.weak_type and not _x.sharding.mesh.are_all_axes_explicit:
        return ct
    return p.convert_element_type_p.bind(ct, new_dtype=_x.dtype, weak_type=_x.weak_type, sharding=_x.sharding)


def conj(ct: Array, _x: Array, *, input_dtype: Any) -> Array:
    """Cotangents are transposed, not conjugated: Re(ct conj(dx)) = Re(conj(ct) dx)."""
    return lax.conj(ct) if np.issubdtype(input_dtype, np.complexfloating) else lax.real(ct)


linear(p.neg_p, lambda ct, _x: lax.neg(ct))
linear(p.copy_p, lambda ct, _x: ct)
linear(p.add_jaxvals_p, lambda ct, _x, _y: ct, lambda ct, _x, _y: ct)
linear(p.add_p, lambda ct, _x, _y: unbroadcast(ct, _x), lambda ct, _x, _y: unbroadcast(ct, _y))
linear(p.sub_p, lambda ct, _x, _y: unbroadcast(ct, _x), lambda ct, _x, _y: lax.neg(unbroadcast(ct, _y)))
linear(p.real_p, lambda ct, _x: lax.complex(ct, const(0, ct)))
linear(p.imag_p, lambda ct, _x: lax.complex(const(0, ct), lax.neg(ct)))
linear(
    p.complex_p,
    lambda ct, _x, _y: unbroadcast(lax.real(ct), _x),
    lambda ct, _x, _y: unbroadcast(lax.neg(lax.imag(ct)), _y),
)
linear(p.conj_p, conj)
linear(p.convert_element_type_p, convert_element_type)
# Straight through, as in JAX: the cotangent is rounded to the same format.
linear(
    p.reduce_precision_p,
    lambda ct, _x, *, exponent_bits, mantissa_bits: lax.reduce_precision(ct, exponent_bits, mantissa_bits),
)
# nextafter(x, y) is x plus one unit in the last place; y gives the direction only.
linear(p.nextafter_p, lambda ct, _x, _y: unbroadcast(ct, _x), None)

# ---- exponentials, logarithms, powers ----


def integer_pow(_out: Aval, x: Array, *, y: int) -> Array | Over | None:
    """``y x**(y - 1)``; for negative y as ``y x**y / x``, which does not overflow before the result does."""
    if y == 0:
        return None
    if y < 0:
        return Over(x, times(y, lax.integer_pow(x, y)))
    if y == 1:
        return lax.full_like(x, 1)
    return times(y, x if y == 2 else lax.integer_pow(x, y - 1))


def pow_base(_out: Aval, x: Array, y: Array) -> Array:
    """``y x**(y - 1)``, and 0 at x = y = 0, since x**0 is 1 everywhere.

    The base is moved to 1 there rather than the result masked, so that the mixed derivative at y = 0 stays right.
    """
    y = y if y.dtype == x.dtype else lax.convert_element_type(y, x.dtype)
    corner = lax.bitwise_and(lax.eq(x, const(0, x)), lax.eq(y, const(0, y)))
    return lax.mul(y, lax.pow(lax.add(x, as_number(corner, x)), lax.sub(y, const(1, y))))


def pow_exponent(out: Array, x: Array, _y: Aval) -> Array:
    """``x**y log(x)``, with log(0) taken as 0, JAX's convention: 0**y is constant for y > 0."""
    return lax.mul(out, lax.log(lax.select(lax.eq(x, const(0, x)), lax.full_like(x, 1), x)))


pointwise(p.exp_p, lambda out, _x, *, accuracy: out)
pointwise(p.exp2_p, lambda out, _x, *, accuracy: times(np.log(2), out))
# Not out + 1, which cancels for negative x.
pointwise(p.expm1_p, lambda _out, x, *, accuracy: lax.exp(x, accuracy=accuracy))
pointwise(p.log_p, lambda _out, x, *, accuracy: Over(x))
pointwise(p.log1p_p, lambda _out, x, *, accuracy: Over(lax.add(x, const(1, x))))
pointwise(p.sqrt_p, lambda out, _x, *, accuracy: Over(lax.add(out, out)))
pointwise(p.rsqrt_p, lambda out, x, *, accuracy: Over(x, times(-0.5, out)))
pointwise(p.cbrt_p, lambda out, _x, *, accuracy: Over(times(3, lax.square(out))))
pointwise(p.square_p, lambda _out, x: times(2, x))
pointwise(p.integer_pow_p, integer_pow)
pointwise(p.pow_p, pow_base, pow_exponent)
# Not out (1 - out), nor 1 - out**2 for tanh, which cancel where the function levels off.
pointwise(p.logistic_p, lambda out, x, *, accuracy: lax.mul(out, lax.logistic(lax.neg(x), accuracy=accuracy)))


def tanh(_out: Aval, x: Array, *, accuracy: Any) -> Over:
    """``1 / cosh(x)**2``, in two divisions: the square would overflow in half precision.

    Where cosh itself would overflow the slope is below the smallest number; clamped there, its own derivatives are
    0, not 0 inf.
    """
    del accuracy  # XLA's cosh has no other
    if not is_complex(x):
        top = np.log(jnp.finfo(x.dtype).max.astype(np.float64))
        x = lax.clamp(const(-top, x), x, const(top, x))
    c = lax.cosh(x)
    return Over(c, lax.div(const(1, x), c))


pointwise(p.tanh_p, tanh)

# ---- trigonometric and hyperbolic functions ----


def one_minus_square(x: Array) -> Array:
    """``1 - x**2`` as (1 - x)(1 + x), exact to the last bits near 1."""
    return lax.mul(lax.sub(const(1, x), x), lax.add(x, const(1, x)))


def asin(_out: Aval, x: Array) -> Array | Over:
    """``1 / sqrt(1 - x**2)``, continuous from above on the cuts, as XLA's asin and acos are."""
    square = one_minus_square(x)
    if is_complex(x):
        return Over(_other_branch(lax.sqrt(square), lax.imag(x), lax.real(x)))
    return lax.rsqrt(square)


def acos(_out: Aval, x: Array) -> Array | Over:
    """Minus the slope of asin."""
    slope = asin(_out, x)
    return Over(lax.neg(slope.denominator)) if isinstance(slope, Over) else lax.neg(slope)


def asinh(_out: Aval, x: Array) -> Array | Over:
    """``1 / sqrt(1 + x**2)``, continuous from the right on the cuts, as XLA's asinh is."""
    square = lax.add(lax.square(x), const(1, x))
    if is_complex(x):
        return Over(_other_branch(lax.sqrt(square), lax.real(x), lax.neg(lax.imag(x))))
    return lax.rsqrt(square)


def _other_branch(root: Array, across: Array, along: Array) -> Array:
    """Change the sign on the one of two cuts (across = 0, along > 1) on which the square root takes the other side."""
    on_cut = lax.bitwise_and(lax.eq(across, const(0, across)), lax.gt(along, const(1, along)))
    return lax.select(on_cut, lax.neg(root), root)


def acosh(_out: Aval, x: Array) -> Array | Over:
    """``1 / (sqrt(x - 1) sqrt(x + 1))``; one root of the product would be wrong in the left half-plane."""
    left, right = lax.sub(x, const(1, x)), lax.add(x, const(1, x))
    if is_complex(x):
        return Over(lax.mul(lax.sqrt(left), lax.sqrt(right)))
    return lax.rsqrt(lax.mul(left, right))


def atan2_scaled(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """(x / h, y / h, (x**2 + y**2) / h) with h near max(|x|, |y|), so that no square overflows or vanishes.

    h is a power of two: nothing is rounded. The slopes do not depend on it, so it counts as a constant. Complex numbers
    are not scaled.
    """
    if is_complex(x):
        return x, y, lax.add(lax.square(x), lax.square(y))
    format_ = jnp.finfo(x.dtype)
    largest = lax.min(lax.max(lax.abs(x), lax.abs(y)), const(float(format_.max) / 4, x))
    h = lax.stop_gradient(lax.reduce_precision(largest, format_.nexp, 0))
    x, y = lax.div(x, h), lax.div(y, h)
    return x, y, lax.mul(lax.add(lax.square(x), lax.square(y)), h)


def atan2_ordinate(_out: Aval, x: Array, y: Array) -> Over:
    """``y / (x**2 + y**2)``."""
    _, numerator, denominator = atan2_scaled(x, y)
    return Over(denominator, numerator)


def atan2_abscissa(_out: Aval, x: Array, y: Array) -> Over:
    """``-x / (x**2 + y**2)``."""
    numerator, _, denominator = atan2_scaled(x, y)
    return Over(denominator, lax.neg(numerator))


pointwise(p.sin_p, lambda _out, x, *, accuracy: lax.cos(x, accuracy=accuracy))
pointwise(p.cos_p, lambda _out, x, *, accuracy: lax.neg(lax.sin(x, accuracy=accuracy)))
pointwise(p.tan_p, lambda out, _x, *, accuracy: lax.add(lax.square(out), const(1, out)))
pointwise(p.asin_p, asin)
pointwise(p.acos_p, acos)
pointwise(p.atan_p, lambda _out, x: Over(lax.add(lax.square(x), const(1, x))))
pointwise(p.atan2_p, atan2_ordinate, atan2_abscissa)
pointwise(p.sinh_p, lambda _out, x: lax.cosh(x))
pointwise(p.cosh_p, lambda _out, x: lax.sinh(x))
pointwise(p.asinh_p, asinh)
pointwise(p.acosh_p, acosh)
pointwise(p.atanh_p, lambda _out, x: Over(one_minus_square(x)))

# ---- products and quotients ----


def mul_factor(factor: Array, out_dtype: Any) -> Array:
    """The other factor, in the dtype in which the product was taken."""
    return factor if out_dtype is None else lax.convert_element_type(factor, out_dtype)


def rem_divisor(ct: Array, out: Array, x: Array, y: Array) -> Array:
    """``-trunc(x / y)``; taken from the remainder, because x / y may round up to the next integer."""
    quotient = lax.round(lax.div(lax.sub(out, x), y), lax.RoundingMethod.TO_NEAREST_EVEN)
    return unbroadcast(lax.mul(ct, quotient), y)


pointwise(
    p.mul_p,
    lambda _out, _x, y, *, out_dtype: mul_factor(y, out_dtype),
    lambda _out, x, _y, *, out_dtype: mul_factor(x, out_dtype),
)
pointwise(p.div_p, lambda _out, _x, y: Over(y), lambda out, _x, y: Over(lax.neg(y), out))
closed_form(p.rem_p, lambda ct, _out, _x, _y: unbroadcast(ct, _x), rem_divisor, mixes=ELEMENTS)

# ---- absolute value and sign ----


def unit(x: Array) -> tuple[Array, Array, Array]:
    """Real part, imaginary part and absolute value of x / |x| and x; (0, 0, 1) at 0.

    Infinity counts as the largest number, so that the direction of a number with one infinite part is known.
    Not `lax.sign`, whose rule in JAX is wrong for complex numbers: `jax.jvp` of this rule shall be right.
    """
    radius = lax.abs(x)
    top = const(float(jnp.finfo(radius.dtype).max), radius)
    real, imag, radius = (lax.clamp(-top, part, top) for part in (lax.real(x), lax.imag(x), radius))
    radius = lax.select(lax.eq(radius, lax.full_like(radius, 0)), lax.full_like(radius, 1), radius)
    return lax.div(real, radius), lax.div(imag, radius), radius


def abs_vjp(ct: Array, _out: Aval, x: Array) -> Array:
    """``ct`` where x >= 0, ``-ct`` elsewhere (1 at 0, as in JAX); complex: ``ct conj(x) / |x|``, 0 at 0."""
    if not is_complex(x):
        return lax.select(lax.ge(x, const(0, x)), ct, lax.neg(ct))
    real, imag, _ = unit(x)
    return lax.complex(lax.mul(ct, real), lax.neg(lax.mul(ct, imag)))


def sign_vjp(ct: Array, _out: Aval, x: Array) -> Array | None:
    """Complex only: u = x / |x| turns with the argument of x, ``i conj(u) Im(ct u) / |x|``; 0 at 0."""
    if not is_complex(x):
        return None
    real, imag, radius = unit(x)
    turn = lax.add(lax.mul(lax.real(ct), imag), lax.mul(lax.imag(ct), real))
    turn = lax.div(turn, radius)
    return lax.complex(lax.mul(imag, turn), lax.mul(real, turn))


closed_form(p.abs_p, abs_vjp, mixes=ELEMENTS)
closed_form(p.sign_p, sign_vjp, mixes=ELEMENTS)

# ---- selection ----


def larger(x: Array, y: Array) -> Array:
    """1 where x > y, 1/2 at a tie, 0 where x < y or one is not a number."""
    beaten = less(y, x)
    return times(0.5, lax.add(as_number(beaten, x), as_number(lax.bitwise_or(beaten, lax.eq(x, y)), x)))


def clamp_min(_out: Aval, low: Array, x: Array, high: Array) -> Array:
    """Where `low` is the result; not at ties."""
    return lax.bitwise_and(less(x, low), less(low, high))


def clamp_operand(_out: Aval, low: Array, x: Array, high: Array) -> Array:
    """Strictly inside; not at ties. A mask: what is infinite behind a clamp does not come back through it."""
    return lax.bitwise_and(less(low, x), less(x, high))


def clamp_max(_out: Aval, low: Array, x: Array, high: Array) -> Array:
    """Where `high` is the result, also when it lies below `low`; not at ties."""
    return lax.bitwise_or(less(high, x), less(high, low))


def select_n(active: tuple[bool, ...], ct: Array, _out: Aval, which: Array, *_cases: Aval) -> list[Array | None]:
    """The cotangent where a case was chosen; an integer out of range chooses the first or the last case."""
    if len(_cases) == 1:
        return [None, ct]
    zeros = lax.full_like(ct, 0)
    if which.dtype == np.bool_:
        masked = [(lambda: lax.select_n(which, ct, zeros)), (lambda: lax.select_n(which, zeros, ct))]
        return [None] + [make() if flag else None for make, flag in zip(masked, active[1:], strict=True)]
    return [None] + [
        lax.select_n(_chosen(which, i, len(_cases)), zeros, ct) if flag else None for i, flag in enumerate(active[1:])
    ]


def _chosen(which: Array, index: int, count: int) -> Array:
    compare = lax.le if index == 0 else lax.ge if index == count - 1 else lax.eq
    return compare(which, lax.full_like(which, index))


pointwise(p.max_p, lambda _out, x, y: larger(x, y), lambda _out, x, y: larger(y, x))
pointwise(p.min_p, lambda _out, x, y: larger(y, x), lambda _out, x, y: larger(x, y))
pointwise(p.clamp_p, clamp_min, clamp_operand, clamp_max)
joint(p.select_n_p, select_n, mixes=MOVES)
