"""What is known of a problem, computed when first asked for."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np

from funcgrad.crosscheck.compare import (
    ROUNDINGS,
    differs,
    epsilon,
    largest,
    noise_of_program,
    numbers,
    pairing,
    rounding,
    spread_of,
    tiny,
    worst,
)
from funcgrad.crosscheck.oracles import (
    Answer,
    Float64Truth,
    JaxReverse,
    attempt,
    jax_vjp,
    tangents,
    wide_vjp,
)
from funcgrad.crosscheck.problem import Problem
from funcgrad.crosscheck.values.roundings import rounding_noise
from funcgrad.crosscheck.values.wide import double, widen

Index = tuple[int, ...]

#: Points close by at which the derivative is taken to see a kink.
NEIGHBOURS = 12
#: How far they are, relative to the size of the values.
NEAR = 1e-6
#: A value that differs by more in float64 belongs to another branch, sample or sign: then float64 is no oracle.
SAME_VALUE = 0.1
#: Half precision has so few digits that nobody expects one of a slope below a rounding of the value.
COARSEST = 1e-4
#: Two answers that agree are doubted by the derivatives close by only if those differ by this much of the largest.
COARSE = 1e-2
#: So many elements on which an oracle disagrees are looked at, as long as there is an excuse for each.
SUSPECTS = 3
#: An answer further off than this part of the slope has no right digit.
NO_DIGIT = 0.5


class Evidence:
    """What is known of a problem, computed when first asked for.

    Args:
      problem: the problem.
      tolerance: factor on what rounding is allowed.
      seed: of the random directions.
    """

    def __init__(self, problem: Problem, tolerance: float, seed: int):
        self.problem, self.tolerance, self.seed = problem, tolerance, seed
        self.ours: Answer = list(map(numbers, problem.ours))

    @property
    def rng(self) -> np.random.Generator:
        """The same numbers each time."""
        return np.random.default_rng(self.seed)

    @cached_property
    def theirs(self) -> Answer | None:
        """JAX's answer."""
        return JaxReverse().answer(self.problem)

    @cached_property
    def wide_outputs(self) -> Answer | None:
        """The program's value in float64."""
        def run() -> Answer:
            with double():
                return list(map(numbers, self.problem.wide(*map(widen, self.problem.values))))

        return attempt(run)

    @cached_property
    def value_noise(self) -> float:
        """How far the value is from that in float64, relative to its size; infinite where only one is finite."""
        noise = 0.0
        for own, wide in zip(map(numbers, self.problem.outputs), self.wide_outputs or (), strict=False):
            if np.all(np.isfinite(own)) and np.all(np.isfinite(wide)):
                noise = max(noise, largest(own - wide) / max(largest(wide), np.finfo(np.float64).tiny))
        return noise

    @property
    def truth_is_usable(self) -> bool:
        """Whether the program in float64 computes the same value, to a tenth of its size."""
        return self.wide_outputs is not None and self.value_noise <= SAME_VALUE

    @cached_property
    def truth(self) -> Answer | None:
        """The derivative in float64, custom rules stripped."""
        return Float64Truth().answer(self.problem) if self.truth_is_usable else None

    @cached_property
    def spread(self) -> Answer:
        """How far each element of JAX's answer moves when values and cotangents move by their last place."""
        problem, count = self.problem, len(self.problem.values)
        inputs = [*problem.values, *problem.cts]
        eps = [epsilon([leaf]) for leaf in inputs]
        found = attempt(lambda: spread_of(lambda *x: jax_vjp(problem.fun, x[:count], x[count:]), inputs, eps, self.rng))
        return found or [np.zeros(leaf.shape) for leaf in self.ours]

    @cached_property
    def exact_spread(self) -> Answer:
        """The same of the derivative in float64: what the function itself does, without the roundings in between."""
        problem, count = self.problem, len(self.problem.values)
        with double():
            inputs = list(map(widen, [*problem.values, *problem.cts]))
            found = attempt(lambda: spread_of(lambda *x: wide_vjp(problem, x[:count], x[count:]), inputs,
                                              [problem.eps] * len(inputs), self.rng))
        return found or [np.zeros(leaf.shape) for leaf in self.ours]

    @cached_property
    def noise(self) -> float:
        """What rounding explains in a program, relative to the largest element."""
        problem, value = self.problem, self.value_noise if np.isfinite(self.value_noise) else 0.0
        noise = noise_of_program(problem.eps, problem.reductions, value)
        if problem.eps <= COARSEST or not problem.params or problem.name in problem.primitives:
            return noise
        # a custom rule in half precision: there the general bound would excuse a factor of two
        sizes = [(largest(moved), largest(leaf)) for moved, leaf in zip(self.own_noise[0], self.ours, strict=True)]
        measured = ROUNDINGS * max([problem.eps, value, *(moved / size for moved, size in sizes if size)])
        return min(noise, measured)

    def allowed(self, position: int, wanted: np.ndarray, spread: bool, program: bool,
                eps: float | None = None) -> np.ndarray:
        """What rounding explains for each element of one cotangent.

        Args:
          position: which cotangent.
          wanted: what it is compared with.
          spread: whether to look at the conditioning too.
          program: whether the roundings of a program of many operations are allowed; then `wanted` is exact.
          eps: of the precision in which `wanted` was computed; default: the least inside.
        """
        moved: Any = 0.0
        if spread:
            ratio = 1.0 if eps is None else eps / self.problem.eps
            moved = ratio * (self.exact_spread[position] + self.problem.floor)
            if not program:
                moved = np.fmax(moved, self.spread[position])
        problem = self.problem
        found = rounding(wanted, problem.eps if eps is None else eps, tiny(problem.values[position].dtype), moved)
        if program:
            found = found + self.noise * largest(wanted)
        return self.tolerance * found

    def off(self, position: int, wanted: np.ndarray, program: bool, eps: float | None = None) -> list[Index]:
        """The elements that differ by most; none when rounding explains all."""
        ours = self.ours[position]
        for spread in (False, True):
            allowed = self.allowed(position, wanted, spread, program, eps)
            if not np.any(differs(ours, wanted, allowed)):
                return []
        return worst(ours, wanted, allowed, SUSPECTS)

    @cached_property
    def wide_noise(self) -> float:
        """What the roundings inside do to the weighed value of the program in float64."""
        problem = self.problem

        def noise() -> float:
            with double():
                values = list(map(widen, problem.values))
                found = rounding_noise(problem.wide, values)
                return sum(float(np.sum(leaf * np.abs(numbers(ct))))
                           for leaf, ct in zip(found, problem.cts, strict=True))

        found = attempt(noise) or 0.0
        size = pairing(self.wide_outputs, problem.cts)[1] if self.truth_is_usable and self.wide_outputs else 0.0
        found = found if np.isfinite(size) else 0.0
        return found if found <= 1e-8 * max(size, 1.0) else 0.0  # more is a jump (`floor` of a whole number)

    @cached_property
    def own_noise(self) -> tuple[Answer, Answer]:
        """What the roundings inside do to funcgrad's answer, and to JAX's."""
        problem, count = self.problem, len(self.problem.values)
        inputs = [*problem.values, *problem.cts]
        nothing = [np.zeros(leaf.shape) for leaf in self.ours]
        # a rule that computes in less than the function itself has that for its fault
        found = [attempt(partial(rounding_noise, run, inputs, problem.eps)) or nothing for run in (
            lambda *x: problem.pulled(x[:count], x[count:]), lambda *x: jax_vjp(problem.fun, x[:count], x[count:]))]
        return found[0], found[1]

    def rounded(self, position: int, index: Index) -> tuple[float, float]:
        """What the roundings inside explain of one element of funcgrad's answer, and of JAX's."""
        ours, theirs = (ROUNDINGS * float(side[position][index]) for side in self.own_noise)
        return ours, theirs

    @cached_property
    def hull(self) -> tuple[Answer, Answer] | None:
        """The least and the largest of the derivatives close by, real and imaginary parts apart."""
        problem = self.problem
        near = max(NEAR, 16 * problem.eps) if problem.composite else NEAR
        rng, found = self.rng, []
        for _neighbour in range(NEIGHBOURS):
            moved = [v + near * t for v, t in zip(map(numbers, problem.values),
                                                  tangents(problem.values, rng, scaled=True), strict=True)]
            answer = attempt(partial(wide_vjp, problem, moved, problem.cts))
            if answer is None:
                return None
            found.append([_split(leaf) for leaf in answer])
        with np.errstate(invalid="ignore"):
            stacked = [np.stack(leaves) for leaves in zip(*found, strict=True)]
            return [leaf.min(axis=0) for leaf in stacked], [leaf.max(axis=0) for leaf in stacked]


def _split(leaf: np.ndarray) -> np.ndarray:
    """Real and imaginary part along a new last axis; a real array's has length 1."""
    return np.stack([leaf.real, leaf.imag], axis=-1) if np.iscomplexobj(leaf) else leaf[..., None]
