"""Rules of the random primitives. A sample's derivative is that of its quantile: the noise stays what it was.

Of JAX's samplers only the gamma's is a primitive of its own; the others are programs of uniform or normal noise and
of this one (beta, dirichlet, Student's t, chi square, …). Keys have no cotangent.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.registry import pointwise

Array = Any
Aval = Any

# One program: op by op it makes a NaN, for arguments outside the domain, at which `jax_debug_nans` would stop.
gamma_grad = jax.jit(lax.random_gamma_grad)


def gamma_partial(out: Array, _key: Aval, a: Array, *, log_space: bool) -> Array:
    """d sample / d a at a fixed quantile P(a, x): ``-(dP/da) / (dP/dx)`` (Figurnov, Mohamed and Mnih 2018).

    In log space it is divided by x, which may underflow: there ``P = x^a / Γ(a + 1)`` up to rounding, and the
    partial is ``(digamma(a + 1) - log x) / a``.
    """
    if not log_space:
        return gamma_grad(a, out)
    dtype = a.dtype
    if dtype.itemsize < 4:  # exp would lose what the sample still has
        out, a = lax.convert_element_type(out, jnp.float32), lax.convert_element_type(a, jnp.float32)
    small = lax.lt(out, lax.full_like(out, math.log(jnp.finfo(a.dtype).eps)))
    x = lax.exp(lax.select(small, lax.full_like(out, 0), out))
    near_zero = lax.div(lax.sub(lax.digamma(lax.add(a, lax.full_like(a, 1))), out), a)
    partial = lax.select(small, near_zero, lax.div(gamma_grad(a, x), x))
    return partial if partial.dtype == dtype else lax.convert_element_type(partial, dtype)


pointwise(p.random_gamma_p, None, gamma_partial)
