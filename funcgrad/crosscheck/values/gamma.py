"""The derivative of gamma samples with respect to the shape, from the distribution function alone.

A sample x of Gamma(a) is, for fixed random numbers, a quantile: F(x; a) = const. So dx/da = -(dF/da) / (dF/dx).
"Implicit Reparameterization Gradients", Figurnov, Mohamed, Mnih, 2018, equation 4. F is SciPy's `gammainc`.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from funcgrad.crosscheck.compare import numbers
from funcgrad.crosscheck.problem import Problem
from funcgrad.crosscheck.values.differences import slope


def gamma_derivative(problem: Problem) -> np.ndarray:
    """The cotangent of the shapes of a `random_gamma` operation."""
    shapes, samples, ct = (numbers(x) for x in (problem.values[0], problem.outputs[0], problem.cts[0]))
    log_space = _log_space(problem)
    found = np.empty(shapes.shape)
    for index in np.ndindex(shapes.shape):
        x = float(np.exp(samples[index]) if log_space else samples[index])
        derivative = implicit(float(shapes[index]), x)
        found[index] = ct[index] * (derivative / x if log_space else derivative)
    return found


def implicit(shape: float, sample: float) -> float:
    """dx/da of one sample."""
    def moved(h: float) -> tuple[float, float]:
        value = float(special.gammainc(shape * (1 + h), sample))
        return value, abs(value)

    density = np.exp((shape - 1) * np.log(sample) - sample - special.gammaln(shape))
    return -slope(moved).value / shape / float(density)


def _log_space(problem: Problem) -> bool:
    return bool(problem.params.get("log_space", False))

