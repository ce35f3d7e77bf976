"""Cases of the random primitives. The gamma sampler rejects, so its derivative is implicit, not that of its program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.special import digamma

from tests.cases.case import Args, Boundary, Case, uniform

IMPLICIT = "the sampler rejects: finite differences see its jumps; JAX cannot reverse the partial's loop for order 2"
FULL = ("float32", "float64")


def gamma(a: Any) -> Any:
    """Gamma samples from a fixed key, of the kind whose programs compile fast."""
    return jax.random.gamma(jax.random.key(3, impl="rbg"), a, dtype=a.dtype)


def loggamma(a: Any) -> Any:
    """Logarithms of gamma samples from a fixed key."""
    return jax.random.loggamma(jax.random.key(3), a, dtype=a.dtype)


def beta_of_keys(a: Any, b: Any, key: Any) -> Any:
    """A program of two gamma samples; the key is an argument without cotangent."""
    return jax.random.beta(key, a, b, dtype=a.dtype)


def with_key(shape: tuple[int, ...]) -> Callable[[np.random.Generator], Args]:
    """Two parameters and a key."""
    return lambda rng: (rng.uniform(0.5, 3.0, shape), rng.uniform(0.5, 3.0, shape), jax.random.key(7, impl="rbg"))


# The logarithm of the sample at a = 0.001 for this key, in float32: the sample itself underflows.
LOG_SAMPLE = -482.36707
UNDERFLOWN = Boundary(
    "underflow", (np.array([1e-3]),), expected=(np.array([(digamma(1.001) - LOG_SAMPLE) / 1e-3]),),
    why="P(a, x) -> x^a / gamma(a + 1) as x -> 0, so d log x / da = (digamma(a + 1) - log x) / a; JAX puts the "
        "smallest normal number in place of the sample, 5.6 times less here")

# Each of these programs takes XLA seconds to compile: few cases, few dtypes.
CASES: tuple[Case, ...] = (
    Case("random_gamma", ("random_gamma",), gamma, uniform(0.2, 8.0, (2,)), orders=1, dtypes=FULL, numeric=False,
         note=IMPLICIT, boundary=(Boundary("tiny and huge", (np.array([1e-3, 1e3]),)),)),
    Case("random_gamma[log space]", ("random_gamma",), loggamma, uniform(0.2, 8.0, (1,)), orders=1,
         dtypes=("float32",), numeric=False, note=IMPLICIT, boundary=(UNDERFLOWN,)),
    Case("random_gamma[beta]", ("random_gamma",), beta_of_keys, with_key((3,)), argnums=(0, 1), orders=1,
         dtypes=("float32",), numeric=False, note=IMPLICIT),
)
