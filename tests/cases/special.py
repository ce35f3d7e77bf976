"""Cases of error, gamma, beta, zeta and Bessel functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jax import lax

from tests.cases.case import Args, Boundary, Case, uniform

INF, NAN = np.inf, np.nan


def drawn(*ranges: tuple[float, float], shape: tuple[int, ...] = (2, 4)) -> Callable[[np.random.Generator], Args]:
    """One argument for each range."""
    return lambda rng: tuple(rng.uniform(low, high, shape) for low, high in ranges)


def at(*values: float) -> np.ndarray:
    """Special points of one argument."""
    return np.array(values, float)


POLES = at(0.0, -0.0, -1.0, -2.0)
NO_SECOND = "igamma has no second derivative in a, here or in JAX"
NO_JAX = "JAX has no rule for it"
ONE_WHY = "the density x**(a - 1) exp(-x) / Gamma(a) is 1 at a = 1, x = 0; JAX takes 0 log(0) = nan for the exponent"
BETA_WHY = ("the density is b at a = 1, x = 0 and a at b = 1, x = 1; JAX takes 0 log(0) = nan for the exponent")

UNARY = (
    Case("erf", ("erf",), lax.erf, uniform(-2, 2, (2, 5)),
         boundary=(Boundary("zeros, infinities, nan", (at(0, -0.0, INF, -INF, NAN),), nan=True),)),
    Case("erfc", ("erfc",), lax.erfc, uniform(-2, 2, (2, 5)),
         boundary=(Boundary("zeros, infinities, nan", (at(0, -0.0, INF, -INF, NAN),), nan=True),)),
    Case("erf_inv", ("erf_inv",), lax.erf_inv, uniform(-0.8, 0.8, (2, 5)),
         boundary=(Boundary("ends and outside", (at(0, -0.0, 1, -1, 1.5, NAN),), nan=True),)),
    Case("lgamma", ("lgamma",), lax.lgamma, uniform(0.4, 4, (2, 5)),
         boundary=(Boundary("poles", (POLES,), nan=True), Boundary("one, two", (at(1, 2, -0.5),)))),
    Case("lgamma[negative]", ("lgamma",), lax.lgamma, uniform(-0.8, -0.2, (5,)), dtypes=("float32", "float64")),
    Case("digamma", ("digamma",), lax.digamma, uniform(0.4, 4, (2, 5)),
         boundary=(Boundary("poles", (POLES,), nan=True),)),
    Case("digamma[far left]", ("digamma",), lax.digamma, uniform(-16.6, -16.4, (5,)), dtypes=("float32", "float64"),
         jax_agrees=False, note="XLA's polygamma is wrong there, and JAX's rule is nothing else"),
    Case("bessel_i0e", ("bessel_i0e",), lax.bessel_i0e, uniform(0.3, 3, (2, 5)),
         boundary=(Boundary("zeros, infinities", (at(0, -0.0, INF, -INF, 9, -9),)),)),
    Case("bessel_i1e", ("bessel_i1e",), lax.bessel_i1e, uniform(-3, -0.3, (2, 5)),
         boundary=(Boundary("zeros, infinities", (at(0, -0.0, INF, -INF),)),)),
)

SEVERAL = (
    Case("polygamma", ("polygamma",), lax.polygamma,
         lambda rng: (np.array([0.0, 1.0, 2.0, 3.0]), rng.uniform(0.5, 3, 4)), argnums=(1,)),
    Case("polygamma[scalar order]", ("polygamma",), lax.polygamma,
         lambda rng: (np.array(1.0), rng.uniform(0.5, 3, (2, 2))), argnums=(1,), dtypes=("float32", "float64")),
    Case("polygamma[scalar point]", ("polygamma",), lax.polygamma,
         lambda rng: (np.array([0.0, 1.0, 2.0]), np.array(1.7)), argnums=(1,), dtypes=("float32", "float64")),
    Case("zeta[shift]", ("zeta",), lax.zeta, drawn((1.5, 4), (0.5, 3)), argnums=(1,), orders=1, jax_agrees=False,
         note=NO_JAX, boundary=(Boundary("pi**2 / 6", (at(2.0), at(1.0)), expected=(at(-2 * 1.2020569031595942),),
                                         why="d zeta(x, q) / dq = -x zeta(x + 1, q) (DLMF 25.11.17)"),)),
    Case("igamma[x]", ("igamma",), lax.igamma, drawn((0.5, 3), (0.3, 4)), argnums=(1,),
         boundary=(Boundary("zero", (at(2.0, 0.5), at(0.0, 0.0))),
                   Boundary("zero, a = 1", (at(1.0), at(0.0)), expected=(at(1.0),), why=ONE_WHY))),
    Case("igamma[a]", ("igamma",), lax.igamma, drawn((0.5, 3), (0.3, 4)), argnums=(0,), orders=1, note=NO_SECOND,
         boundary=(Boundary("x at zero and far right", (at(2.0, 2.0), at(0.0, 60.0))),)),
    Case("igamma[both]", ("igamma",), lax.igamma, drawn((0.5, 3), (0.3, 4)), orders=1, note=NO_SECOND),
    Case("igamma[scalar a]", ("igamma",), lax.igamma, lambda rng: (np.array(1.4), rng.uniform(0.3, 4, (2, 3))),
         orders=1, dtypes=("float32", "float64"), note=NO_SECOND),
    Case("igammac[x]", ("igammac",), lax.igammac, drawn((0.5, 3), (0.3, 4)), argnums=(1,),
         boundary=(Boundary("zero, a = 1", (at(1.0), at(0.0)), expected=(at(-1.0),), why=ONE_WHY),)),
    Case("igammac[both]", ("igammac",), lax.igammac, drawn((0.5, 3), (0.3, 4)), orders=1, note=NO_SECOND),
    Case("igamma_grad_a[x]", ("igamma_grad_a",), lax.igamma_grad_a, drawn((0.5, 3), (0.3, 4)), argnums=(1,), orders=1,
         jax_agrees=False, note=NO_JAX),
    Case("regularized_incomplete_beta[x]", ("regularized_incomplete_beta",), lax.betainc,
         drawn((0.5, 3), (0.5, 3), (0.1, 0.9)), argnums=(2,),
         boundary=(Boundary("ends", (at(2, 2, 0.5), at(3, 3, 2), at(0, 1, 0))),
                   Boundary("ends, a or b is 1", (at(1, 3), at(2, 1), at(0, 1)), expected=(at(2, 3),), why=BETA_WHY))),
    Case("regularized_incomplete_beta[scalars]", ("regularized_incomplete_beta",), lax.betainc,
         lambda rng: (np.array(1.5), np.array(2.5), rng.uniform(0.1, 0.9, (2, 3))), argnums=(2,),
         dtypes=("float32", "float64")),
)

CASES = (*UNARY, *SEVERAL)
