"""Who can say what a derivative is. Each oracle is a small class; none of them asks funcgrad's rule table.

An oracle gives either the whole answer, element by element, or inner products of it with directions; or nothing, where
it does not apply or could not be computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from funcgrad.crosscheck.compare import is_inexact, numbers, pairing
from funcgrad.crosscheck.problem import Problem
from funcgrad.crosscheck.values.differences import Slope, slope
from funcgrad.crosscheck.values.frozen import CUT, frozen
from funcgrad.crosscheck.values.gamma import gamma_derivative
from funcgrad.crosscheck.values.wide import REJECTION_SAMPLERS, double, wide_dtype, widen

Array = Any
Answer = list[np.ndarray]

#: Primitives in whose program a step of the inputs changes which random numbers are drawn, or what a callback says.
NOT_SMOOTHLY_REPEATABLE = REJECTION_SAMPLERS | {"random_gamma_grad", "pure_callback", "io_callback", "ffi_call"}
#: Programs with one of these, or of more kinds of operations, are compiled before they are run many times.
LOOPS = frozenset({"scan", "while", "cond"})
MANY = 16


@dataclasses.dataclass(frozen=True)
class Pairing:
    """The inner product of the cotangents with one direction, from somewhere else.

    Attributes:
      low, high: between these the inner product lies.
      size: what it is small or large compared with.
      kinked: whether the function has a kink along the direction.
    """

    low: float
    high: float
    size: float
    kinked: bool = False


@dataclasses.dataclass(frozen=True)
class Oracle:
    """An oracle has a name, and gives the whole answer or inner products with it."""

    name: str = ""

    def answer(self, problem: Problem) -> Answer | None:
        """The cotangents of ``problem.values``."""
        return None

    def pairing(self, problem: Problem, direction: Sequence[np.ndarray]) -> Pairing | None:
        """The inner product of the cotangents with a direction."""
        return None


@dataclasses.dataclass(frozen=True)
class JaxReverse(Oracle):
    """JAX's own reverse mode of the same operation, in the same precision."""

    name: str = "jax.vjp"

    def answer(self, problem: Problem) -> Answer | None:
        """JAX's cotangents; None where JAX refuses."""
        return attempt(lambda: list(map(numbers, jax_vjp(problem.fun, problem.values, problem.cts))))


@dataclasses.dataclass(frozen=True)
class Float64Truth(Oracle):
    """The derivative of the same program in float64 with custom rules stripped: autodiff of the primal body."""

    name: str = "autodiff of the primal body in float64"

    def answer(self, problem: Problem) -> Answer | None:
        """The cotangents in float64."""
        return attempt(lambda: wide_vjp(problem, problem.values, problem.cts))


@dataclasses.dataclass(frozen=True)
class ImplicitGamma(Oracle):
    """Gamma samples are drawn by rejection; the derivative is that of the quantile, -dF/da / (dF/dx)."""

    name: str = "implicit derivative of the gamma distribution"

    def answer(self, problem: Problem) -> Answer | None:
        """The cotangent of the shape parameter."""
        if problem.name not in REJECTION_SAMPLERS or len(problem.values) != 1:
            return None
        return attempt(lambda: [gamma_derivative(problem)])


@dataclasses.dataclass(frozen=True)
class AdjointIdentity(Oracle):
    """``<ct, J t> = <J^T ct, t>`` with JAX's forward mode, in float64 where the program can be widened."""

    name: str = "adjoint identity with jax.jvp"

    def pairing(self, problem: Problem, direction: Sequence[np.ndarray]) -> Pairing | None:
        """``<ct, J t>``."""
        found = attempt(lambda: _pushed(problem, direction))
        if found is None or not np.isfinite(found[0]):
            return None
        value, size = found
        return Pairing(value, value, size)


@dataclasses.dataclass(frozen=True)
class FiniteDifferences(Oracle):
    """Differences of the values of the program in float64 along a line, with an estimate of their error."""

    name: str = "finite differences in float64"

    def pairing(self, problem: Problem, direction: Sequence[np.ndarray]) -> Pairing | None:
        """The slope of the weighed outputs along the direction."""
        found = difference(problem, direction)
        size = pairing(problem.ours, direction)[1]
        if found is None or not found.sharp(size):
            return None
        low, high = found.interval
        return Pairing(low, high, size, found.kinked)


@dataclasses.dataclass(frozen=True)
class UnderVmap(Oracle):
    """funcgrad's own answer for a batch of two: a rule must not depend on being mapped."""

    name: str = "the same under vmap"

    def answer(self, problem: Problem) -> Answer | None:
        """The second of two equal examples."""
        def mapped() -> Answer:
            values, cts = ([jax.numpy.stack([leaf, leaf]) for leaf in leaves]
                           for leaves in (problem.values, problem.cts))
            return [numbers(leaf)[1] for leaf in jax.vmap(problem.pulled)(values, cts)]

        return None if problem.composite and not problem.one_rule else attempt(mapped)


@dataclasses.dataclass(frozen=True)
class ManyDigits(Oracle):
    """Differences with hundreds of digits, for slopes too small for the others; see `judging/digits.py`."""

    name: str = "differences with 350 digits (mpmath)"


#: What a check asks, in this order.
DEFAULT: tuple[Oracle, ...] = (JaxReverse(), UnderVmap(), ImplicitGamma(), Float64Truth(), AdjointIdentity(),
                               FiniteDifferences(), ManyDigits())

#: The cheapest that still needs two independent witnesses: for hundreds of gradients, with ``depth="global"``.
QUICK: tuple[Oracle, ...] = (JaxReverse(), AdjointIdentity())


# ---- computing with problems ----


def jax_vjp(fun: Callable[..., Sequence[Array]], values: Sequence[Array], cts: Sequence[Array]) -> list[Array]:
    """JAX's cotangents of `values`."""
    _, pullback = jax.vjp(lambda *args: list(fun(*args)), *values)
    return list(pullback(list(cts)))


def wide_vjp(problem: Problem, values: Sequence[Array], cts: Sequence[Array]) -> Answer:
    """The cotangents of the program in float64."""
    with double():
        return list(map(numbers, jax_vjp(problem.wide, list(map(widen, values)), list(map(widen, cts)))))


def tangents(values: Sequence[Array], rng: np.random.Generator, scaled: bool = False) -> list[np.ndarray]:
    """A random direction; `scaled`: each element by a part of its own size, and those that are 0 by a part of 1."""
    found = []
    for value in map(numbers, values):
        arrow = rng.uniform(0.5, 1.5, value.shape) * rng.choice([-1.0, 1.0], value.shape)
        if np.iscomplexobj(value):
            arrow = arrow * np.exp(1j * rng.uniform(0, 2 * np.pi, value.shape))
        size = np.abs(value)
        found.append(arrow * np.where((size > 0) & np.isfinite(size), size, 1.0) if scaled else arrow)
    return found


def difference(problem: Problem, direction: Sequence[np.ndarray], value_noise: float = 0.0) -> Slope | None:
    """The derivative of ``<ct, fun(values + h direction)>`` with respect to h, from values alone."""
    if problem.primitives & NOT_SMOOTHLY_REPEATABLE:
        return None
    starts, cts = list(map(numbers, problem.values)), list(map(numbers, problem.cts))
    with double():
        run = attempt(lambda: frozen(problem.wide, list(map(widen, problem.values)))) if (
            CUT in problem.primitives) else problem.wide
        if run is None:
            return None
        if problem.primitives & LOOPS or len(problem.primitives) > MANY:
            run = jax.jit(run)

        def along(h: float) -> tuple[float, float]:
            moved = [jax.numpy.asarray(start + h * arrow) for start, arrow in zip(starts, direction, strict=True)]
            total, size, _ = pairing(run(*moved), cts)
            return total, size

        return attempt(lambda: slope(along, value_noise))


def _pushed(problem: Problem, direction: Sequence[np.ndarray]) -> tuple[float, float]:
    """``<ct, J t>``, and the size of its terms."""
    with double():
        values = list(map(widen, problem.values))
        moving = [jax.numpy.asarray(arrow, wide_dtype(value.dtype))
                  for arrow, value in zip(direction, values, strict=True)]
        _, pushed = jax.jvp(lambda *args: list(problem.wide(*args)), values, moving)
        live = [(ct, t) for ct, t in zip(problem.cts, pushed, strict=True) if is_inexact(t)]
        total, size, _ = pairing([ct for ct, _ in live], [t for _, t in live])
    return total, size


def attempt(compute: Callable[[], Any]) -> Any:
    """The result, or None where an oracle cannot say anything: JAX refuses, a callback fails, a dtype is not there."""
    try:
        return compute()
    except Exception:  # any failure of an oracle is no evidence against the derivative
        return None
