"""The seeds themselves; see `funcgrad.crosscheck.seeds`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
from jax import lax

from funcgrad.crosscheck.seeds.model import Born, Seed

INF, NAN = np.inf, np.nan


def f32(*values: Any) -> np.ndarray:
    """A float32 array; a scalar of one number."""
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def f64(*values: Any) -> np.ndarray:
    """A float64 array; a scalar of one number."""
    return np.array(values[0] if len(values) == 1 else values, np.float64)


def c64(value: Any) -> np.ndarray:
    """A complex64 array."""
    return np.array(value, np.complex64)


# ---- elementwise and special functions ----

ELEMENTWISE = (
    Seed("expm1 far left", (39794,), "exp(x) - 1 + 1 is nothing at -40", jnp.expm1, (f64(-40.0),),
         (4.248354255291589e-18,), "closed form: exp(x)", Born.RULE),
    Seed("elu far left", (39795,), "elu is expm1 on the left", jax.nn.elu, (f64(-40.0),), (4.248354255291589e-18,),
         "closed form: exp(x)", Born.RULE),
    Seed("selu far left", (39796,), "selu is a scaled expm1 on the left", jax.nn.selu, (f64(-50.0),),
         (3.3909338363648417e-22,), "closed form: scale alpha exp(x)", Born.RULE),
    Seed("tanh tail, float64", (40343,), "1 - tanh(x)**2 is nothing at 20", jnp.tanh, (f64(20.0),),
         (1.6993417021166355e-17,), "closed form: 4 exp(-2x) / (1 + exp(-2x))**2", Born.RULE),
    Seed("tanh tail, float32", (40388,), "1 - tanh(x)**2 is nothing at -9.01", jax.nn.tanh, (f32(-9.010913848876953),),
         (5.9604584379258085e-08,), "closed form: 4 exp(-2|x|) / (1 + exp(-2|x|))**2", Born.RULE),
    Seed("tanh overflow", (764,), "cosh overflowed in the derivative", jnp.tanh, (f32([190.0, 200.0]),), ([0.0, 0.0],),
         "closed form: below the smallest number", Born.RULE),
    Seed("tanh saturated, order 2", (40315,), "u**2 tanh(u) with u = -1e8 v",
         lambda v: jnp.tanh(-1e8 * v) * (-1e8 * v) ** 2, (f64(1.0),), (-2e16,), "closed form: tanh is -1 there",
         Born.RULE, order=2),
    Seed("sigmoid tail", (40342, 40385), "y (1 - y) is nothing at 40", jax.nn.sigmoid, (f64(40.0),),
         (4.248354255291589e-18,), "closed form: exp(-x) / (1 + exp(-x))**2", Born.RULE),
    Seed("sigmoid by hand", (777,), "inf / inf**2", lambda x: 1 / (1 + jnp.exp(-x)), (f32([-200.0, 0.0]),),
         ([0.0, 0.25],), "closed form: s (1 - s)", Born.FORWARD),
    Seed("softplus at zero", (2107,), "the derivative of |x| in logaddexp", jax.nn.softplus, (f32(0.0),), (0.5,),
         "closed form: sigmoid(0)", Born.FORWARD),
    Seed("log_sigmoid at zero", (2140,), "the derivative of |x| in logaddexp", jax.nn.log_sigmoid, (f32(0.0),), (0.5,),
         "closed form: sigmoid(-0)", Born.FORWARD),
    Seed("i0 at zero", (11479, 40628), "the derivative of |x| at 0", jnp.i0, (f64(0.0),), (0.0,),
         "i0 is even and smooth", Born.FORWARD),
    Seed("i0 of an affine function", (40628,), "the derivative of |x| at 0", lambda t: jsp.special.i0(2 * t - 1),
         (f64(0.5),), (0.0,), "i0 is even and smooth", Born.FORWARD),
    Seed("i0 close to zero", (39797,), "a Chebyshev series that cancels", jnp.i0, (f64(1e-12),), (5e-13,),
         "mpmath: besseli(1, x)", Born.FORWARD, rtol=1e-3),
    Seed("sinc close to zero", (40629,), "differences of sin and cos that cancel", jnp.sinc, (f32(1e-4),),
         (-3.289868e-4,), "mpmath: derivative of sin(pi x) / (pi x)", Born.CUSTOM),
    Seed("digamma on the left", (37635, 11481), "polygamma's series for positive arguments, used on negative ones",
         lax.digamma, (f64(-16.5),), (9.810810504698935,), "mpmath: psi(1, x)", Born.RULE),
    Seed("lgamma on the left, order 2", (39800,), "the derivative of digamma", lax.lgamma, (f64(-100.5),),
         (9.859703491870086,), "mpmath: psi(1, x)", Born.RULE, order=2),
    Seed("ldexp is flat", (11467,), "bits were put together", lambda x: jnp.ldexp(x, 1), (f32(1.0),), (2.0,),
         "closed form: 2 x", Born.FORWARD),
    Seed("ldexp at zero", (37992,), "zero is handed through, with its derivative", lambda x: jnp.ldexp(x, 1),
         (f32(0.0),), (2.0,), "closed form: 2 x", Born.FORWARD),
    Seed("remainder of negative numbers", (11466,), "the quotient was rounded down, not towards zero",
         lambda y: lax.rem(jnp.full_like(y, -19.0), y), (f64(3.0),), (6.0,), "closed form: rem(-19, y) = -19 + 6 y",
         Born.RULE),
    Seed("power of an integer array", (14397,), "x**0 was given the slope of x**1 at 1",
         lambda z: jnp.sum(z ** jnp.arange(0, 2)), (f32(1.0),), (1.0,), "closed form: 1 + z", Born.RULE),
    Seed("zeroth power under jit", (18450,), "0 * inf", jax.jit(lambda x: x ** jnp.array(0)), (f32(0.0),), (0.0,),
         "closed form: x**0 is 1", Born.RULE),
    Seed("zeroth power, floating", (12409, 18450), "0 * inf", lambda x: lax.pow(x, jnp.zeros_like(x)), (f32([0.0]),),
         ([0.0],), "closed form: x**0 is 1", Born.RULE),
    Seed("first power of complex infinity", (18749,), "inf**0 was NaN",
         lambda z: jnp.power(z, 1.0).real, (c64(complex(INF, 0)),), (1.0,), "closed form: z**1 is z", Born.RULE),
    Seed("abs of complex infinity", (25681,), "inf / inf", jnp.abs, (c64(complex(INF, 0)),), (1.0,),
         "closed form: cos - i sin of the angle", Born.RULE),
    Seed("conjugate in real and imag", (979,), "conjugated once too often",
         lambda z: jnp.sqrt(jnp.real(z) ** 2 + jnp.imag(z) ** 2), (c64(1 + 0.5j),), (0.894427191 - 0.4472135955j,),
         "closed form: conj(z) / |z|", Born.RULE),
    Seed("square and root of a tiny number", (38096,), "the square underflows", lambda x: jnp.sqrt(jnp.abs(x * x)),
         (f32(1e-30),), (1.0,), "closed form: |x|", Born.FORWARD),
    Seed("select by an index out of range", (10993,), "XLA takes the last case, the rule none",
         lambda x, y: lax.select_n(np.int32(7), x, y), (f32(2.0), f32(3.0)), (0.0, 1.0),
         "closed form: the value is y", Born.RULE),
    Seed("where beside a root", (347, 5798), "0 * inf in the branch that is not taken",
         lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0), (f32(-1.0),), (0.0,), "closed form: constant around -1",
         Born.FORWARD),
)

# ---- reductions, softmax and norms ----

MASK3 = np.array([True, True, False])

REDUCTIONS = (
    Seed("logsumexp, weights with a zero", (22398, 37729), "a zero weight hides its own derivative",
         lambda b: jsp.special.logsumexp(jnp.zeros(3), b=b), (f32([2.0, 0.0, 5.0]),), ([1 / 7] * 3,),
         "closed form: 1 / sum(b)", Born.FORWARD),
    Seed("logsumexp with a mask", (23842,), "exp of a masked large number",
         lambda a: jsp.special.logsumexp(a, where=np.array([True, False])), (f32([0.0, 100.0]),), ([1.0, 0.0],),
         "closed form: the value is a[0]", Born.FORWARD),
    Seed("softmax with a mask", (17117, 19490), "exp of a masked large number",
         lambda x: jax.nn.softmax(x, where=MASK3)[0], (f32([1.0, 2.0, 100.0]),),
         ([0.19661193, -0.19661193, 0.0],), "closed form: p0 p1", Born.FORWARD),
    Seed("log_softmax with a mask", (17117,), "exp of a masked large number",
         lambda x: jax.nn.log_softmax(x, where=MASK3)[:2], (f32([1.0, 2.0, 100.0]),),
         ([0.4621171572600098, -0.4621171572600098, 0.0],), "closed form: 1 - 2 p", Born.FORWARD),
    Seed("masked sum of exponentials", (19490,), "inf * 0 in the masked place",
         lambda x: jnp.sum(jnp.exp(x), where=np.array([True, False])), (f32([3.0, 10000.0]),),
         ([20.085536923187668, 0.0],), "closed form: exp(x[0])", Born.FORWARD),
    Seed("softmax of two far apart", (40386,), "s0 (1 - s0) cancels", lambda z: jax.nn.softmax(z)[0],
         (f64([40.0, 0.0]),), ([4.248354255291589e-18, -4.248354255291589e-18],), "closed form: s0 s1", Born.FORWARD),
    Seed("nanvar", (8126, 8140), "NaN beside the mask", jnp.nanvar, (f32([NAN, 1.0, 2.0, 6.0]),),
         ([0.0, -4 / 3, -2 / 3, 2.0],), "closed form: 2 (x - mean) / n", Born.FORWARD),
    Seed("nanstd", (8128, 8140), "NaN beside the mask", jnp.nanstd, (f32([NAN, 1.0, 2.0, 6.0]),),
         ([0.0, -0.3086067, -0.15430335, 0.46291004],), "closed form: (x - mean) / (n std)", Born.FORWARD),
    Seed("norm squared at zero", (21723,), "0 * inf", lambda x: jnp.linalg.norm(x) ** 2, (f32([0.0, 0.0]),),
         ([0.0, 0.0],), "closed form: 2 x", Born.FORWARD),
    Seed("norm in float16", (39899,), "the squares overflow", jnp.linalg.norm,
         (np.full((3, 3), 100.0, np.float16),), (np.full((3, 3), 1 / 3),), "closed form: x / norm", Born.FORWARD,
         rtol=5e-3),
    Seed("beta.logpdf of the uniform law", (15598, 15658), "xlogy(0, x) lost the slope in its first argument",
         lambda a, b: jsp.stats.beta.logpdf(0.25, a, b), (f64(1.0), f64(1.0)),
         (1 + np.log(0.25), 1 + np.log(0.75)), "closed form: log x + psi(a + b) - psi(a)", Born.CUSTOM),
    Seed("chi2.logpdf at zero", (38316, 38620), "0 * log(0)", lambda x: jsp.stats.chi2.logpdf(x, 2.0), (f64(0.0),),
         (-0.5,), "closed form: -x / 2 - log 2", Born.FORWARD),
    Seed("gamma.pdf at zero", (7256,), "0 * log(0)", lambda x: jsp.stats.gamma.pdf(x, 1.0), (f64(0.0),), (-1.0,),
         "closed form: exp(-x)", Born.FORWARD),
    Seed("beta.pdf of the uniform law at its ends", (7645,), "0 * log(0)",
         lambda x: jsp.stats.beta.pdf(x, 1.0, 1.0), (f64([0.0, 1.0]),), ([0.0, 0.0],), "closed form: 1",
         Born.FORWARD),
    Seed("betaln, order 2", (34353,), "a rule of logarithms, differentiated again",
         lambda t: jsp.special.betaln(jnp.exp(t), 1.0) - jsp.special.betaln(jnp.exp(t) + 1, 1.0), (f64(0.0),),
         (0.25,), "closed form: log(1 + exp(-t))", Born.FORWARD, order=2),
)

# ---- linear algebra ----

TRIANGLE = f32([[4.0, 1.0], [1.0, 3.0]])
POLAR = f32([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
WEIGHTS = np.arange(1.0, 10.0, dtype=np.float32).reshape(3, 3)


def polar(a: Any) -> Any:
    """The orthogonal factor, weighted."""
    u, _, vh = jnp.linalg.svd(a, full_matrices=False)
    return jnp.sum(WEIGHTS * (u @ vh))


def top_projector(a: Any) -> Any:
    """The projector on the largest eigenvalue's space, weighted."""
    v = jnp.linalg.eigh(a)[1]
    return jnp.sum(WEIGHTS * jnp.outer(v[:, -1], v[:, -1]))


def rebuilt(a: Any) -> Any:
    """The norm of a matrix that was taken apart and put together."""
    u, s, vh = jnp.linalg.svd(a, full_matrices=False)
    return jnp.linalg.norm((u * s) @ vh)


LINALG = (
    Seed("cholesky of the upper triangle", (40421,), "the triangle that is not read has a gradient",
         lambda a: jsp.linalg.cholesky(a, lower=False), (TRIANGLE,),
         ([[0.20634445, 0.34924438], [0.0, 0.30151135]],), "closed form: of three numbers", Born.RULE),
    Seed("determinant of the zero matrix", (2380,), "0 / 0", jnp.linalg.det, (np.zeros((3, 3), np.float32),),
         (np.zeros((3, 3)),), "closed form: cofactors", Born.CUSTOM),
    Seed("determinant of rank n - 1", (2380, 3610), "0 / 0", jnp.linalg.det, (f32(np.diag([1.0, 2.0, 0.0])),),
         (np.diag([0.0, 0.0, 2.0]),), "closed form: cofactors", Born.CUSTOM),
    Seed("R of a QR decomposition", (2863,), "a conjugate transpose too many",
         lambda a: jnp.abs(jnp.linalg.qr(a)[1]), (f64([[1.0, 2.0], [3.0, -1.0]]),),
         ([[-0.2529822128134704, 0.6324555320336759], [1.1384199576606167, -1.2649110640673518]],),
         "mpmath: Gram-Schmidt", Born.RULE),
    Seed("eigenvalues of a complex matrix", (2325,), "complex cotangents of real eigenvalues",
         jnp.linalg.eigvalsh, (c64([[1, 1j], [-1j, 3]]),), (np.eye(2),), "closed form: the sum is the trace",
         Born.RULE),
    Seed("projector beside equal eigenvalues", (669, 4646), "1 / 0 between equal eigenvalues", top_projector,
         (f32(np.diag([1.0, 1.0, 3.0])),), ([[0.0, 0.0, 2.5], [0.0, 0.0, 3.5], [2.5, 3.5, 0.0]],),
         "closed form: dP = (dA outside the space) / gap", Born.RULE),
    Seed("polar factor with equal singular values", (2311,), "1 / 0 between equal singular values", polar, (POLAR,),
         ([[0.0, -0.5, -4 / 3], [0.5, 0.0, -2 / 3], [4 / 3, 2 / 3, 0.0]],),
         "closed form: dQ = (dA - dA^T) / (si + sj)", Born.RULE),
    Seed("a matrix taken apart with equal singular values", (8732,), "1 / 0 between equal singular values", rebuilt,
         (f32(np.diag([1.0, 1.0, 2.0, 3.0])),), (np.diag([1.0, 1.0, 2.0, 3.0]) / np.sqrt(15),),
         "closed form: A / |A|", Born.RULE),
)

# ---- indices ----

INDICES = (
    Seed("segment_sum beyond the segments", (8634,), "dropped elements had a gradient",
         lambda x: jax.ops.segment_sum(x, np.array([2, 3]), 2), (f32([0.0, 0.0]),), ([0.0, 0.0],),
         "closed form: nothing is summed", Born.RULE),
    Seed("a clipped index under vmap", (25878,), "the mode was lost under vmap",
         lambda p: jax.vmap(lambda i: p.at[i].get(mode="clip"))(np.array([1, 1])), (f32([1.0]),), ([2.0],),
         "closed form: the value is p[0] twice", Born.RULE),
    Seed("products at equal indices", (12469,), "factors of one element forgot each other",
         lambda x, y: x.at[np.array([0, 0])].multiply(y), (f32([2.0, 1.0]), f32([3.0, 5.0])),
         ([15.0, 1.0], [10.0, 6.0]), "closed form: x0 y0 y1", Born.RULE),
    Seed("maximum at a clipped index", (40626,), "candidates were counted in another mode",
         lambda x, y: x.at[np.array([5])].max(y, mode="clip"), (f32([1.0, 2.0]), f32([7.0])),
         ([1.0, 0.0], [1.0]), "closed form: max(x1, y0)", Born.RULE),
)

# ---- transformations and custom rules ----


@functools.partial(jax.custom_jvp)
def hidden_sine(x: Any) -> Any:
    """A sine whose derivative is known to its rule only."""
    return lax.stop_gradient(jnp.sin(x))


hidden_sine.defjvp(lambda primals, tangents: (hidden_sine(*primals), jnp.cos(primals[0]) * tangents[0]))


@jax.custom_vjp
def summed(x: Any) -> Any:
    """A sum with a rule of its own."""
    return jnp.sum(x)


summed.defvjp(lambda x: (jnp.sum(x), jnp.ones_like(x)), lambda ones, ct: (ct * ones,))


def power_by_scan(x: Any) -> Any:
    """x**4, by a loop that may stop early."""

    def step(carry: Any, _: Any) -> Any:
        value, running = carry
        return lax.cond(running, lambda v: (v * x, True), lambda v: (v, False), value), None

    return lax.scan(step, (jnp.ones_like(x), True), None, length=4)[0][0]


def spread_in_scan(x: Any) -> Any:
    """Sums of rows with a rule of its own, mapped and scanned."""
    return lax.scan(lambda c, _: (c + jnp.sum(jax.vmap(summed)(x)), None), jnp.float32(0), None, length=3)[0]


def mapped_logaddexp(z: Any) -> Any:
    """A scalar used in each element of a map."""
    return jnp.sum(jax.vmap(lambda y: jnp.logaddexp(z, jnp.sum(y) + z))(jnp.ones((3, 2))))


def two_convolutions(x: Any) -> Any:
    """Two convolutions, the second with a stride, and a nonlinearity."""
    first, second = jnp.ones((1, 1, 3)) * 0.5, jnp.ones((1, 1, 2))
    y = lax.conv_general_dilated(x[None, None], first, (1,), "SAME", rhs_dilation=(2,))
    return jnp.sum(jnp.sin(lax.conv_general_dilated(y, second, (2,), "VALID")))


CONV_X = f64([0.1, 0.5, -0.3, 0.8, 0.2, -0.6])

TRANSFORMATIONS = (
    Seed("cond inside scan", (5900,), "a factor of three too many", power_by_scan, (f32(3.0),), (108.0,),
         "closed form: 4 x**3", Born.RULE),
    Seed("custom_vjp under scan and vmap", (4173,), "a lost batch dimension", spread_in_scan,
         (np.ones((2, 3), np.float32),), (np.full((2, 3), 3.0),), "closed form: 3 sum(x)", Born.RULE),
    Seed("custom_jvp, rematerialized, order 2", (38914,), "the rule was lost under the outer derivative",
         jax.checkpoint(hidden_sine), (f32(0.5),), (-0.479425538604203,), "closed form: -sin(x)", Born.RULE, order=2),
    Seed("custom_jvp, scanned, order 2", (38914,), "the rule was lost under the outer derivative",
         lambda x: lax.scan(lambda c, _: (hidden_sine(c), None), x, None, length=1)[0], (f32(0.5),),
         (-0.479425538604203,), "closed form: -sin(x)", Born.RULE, order=2),
    Seed("a scalar in a mapped logaddexp", (6452,), "the gradient had the map's shape", mapped_logaddexp, (f32(0.1),),
         (3.0,), "closed form: each term has slope 1", Born.RULE),
    Seed("convolutions, order 2", (563, 567), "a transpose rule with dilation", two_convolutions, (CONV_X,),
         ([-1.0370339, -1.0370339, -1.0870131, -1.0870131, -0.5643259, -0.5643259],), "float64 differences",
         Born.RULE, order=2),
)

SEEDS: tuple[Seed, ...] = (*ELEMENTWISE, *REDUCTIONS, *LINALG, *INDICES, *TRANSFORMATIONS)
