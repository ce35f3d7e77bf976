"""Answers without a right digit: 0 where the slope is 4e-18.

Differences in float64 know a slope to a rounding of the value, and JAX's rules are compared to what a rounding of the
value is worth, because many of them are computed from it (`1 - tanh(x)**2`). What is smaller is decided here, by
differences of the values with hundreds of digits, relative to the slope itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np

from funcgrad.crosscheck.compare import ROUNDINGS, largest, numbers, tiny
from funcgrad.crosscheck.judging.evidence import COARSEST, NO_DIGIT, SAME_VALUE, Evidence, Index
from funcgrad.crosscheck.oracles import attempt
from funcgrad.crosscheck.problem import Problem
from funcgrad.crosscheck.values.exact import UNARY, Run, arithmetic, evaluate_exactly, exact, function
from funcgrad.crosscheck.values.wide import double, widen

#: A slope of so many roundings of the value is seen by the other oracles, which know more about kinks.
VISIBLE = 64
#: Programs of more inputs are not run with many digits, and of an array so many elements are looked at.
MOST_INPUTS, SAMPLES = 64, 3
#: How often inputs and cotangents are moved by their last place to learn what that does to the slope.
NUDGES = 2
#: The step, relative to the number that is moved.
STEP = 30


@dataclasses.dataclass(frozen=True)
class Lost:
    """An element in which an answer has no right digit."""

    index: Index
    subject: str
    truth: float
    allowed: float


@dataclasses.dataclass(frozen=True)
class _Line:
    """The weighed outputs of a problem as a function of one element of one value.

    Attributes:
      run: the outputs at exact values.
      values, cts: where, and the weights; of an operation on each element apart only that element.
      outputs: what the problem itself computed there.
      position, index: the element among `values`.
    """

    run: Callable[[Sequence[np.ndarray], Run], Sequence[np.ndarray]]
    values: list[np.ndarray]
    cts: list[np.ndarray]
    outputs: list[np.ndarray]
    position: int
    index: Index

    def slopes(self, same_value: bool = True) -> list[float] | None:
        """To the left, to the right, and with a finer step; None where the value itself is another one, if that counts.

        With a finer step a slope that is only the step's own error is another one.
        """
        first = Run()
        values = list(map(exact, self.values))
        outputs = self.run(values, first)
        for own, wide in zip(self.outputs, outputs, strict=True):
            wanted = wide.astype(np.float64)
            same = np.all(np.isfinite(own)) and largest(own - wanted) <= SAME_VALUE * largest(wanted)
            if same_value and not same:
                return None
        step = (abs(values[self.position][self.index]) or 1) * arithmetic().mpf(10) ** -STEP
        found = []
        for h in (-step, step, step / 1000):
            moved = list(values)
            moved[self.position] = values[self.position].copy()
            moved[self.position][self.index] += h
            after = self.run(moved, Run(constants=first.seen))
            found.append(float(sum(np.sum(exact(ct) * (b - a)) / h
                                   for ct, a, b in zip(self.cts, outputs, after, strict=True))))
        return found if np.all(np.isfinite(found)) else None

    def nudged(self, rng: np.random.Generator, eps: float) -> _Line:
        """The same close by."""
        values, cts = ([x * (1 + rng.choice([-eps, eps], x.shape)) for x in leaves] for leaves in
                       (self.values, self.cts))
        return dataclasses.replace(self, values=values, cts=cts)


def lost_digits(evidence: Evidence) -> dict[int, Lost]:
    """By position, an element in which JAX's answer, funcgrad's or both have no right digit.

    Looked at are operations on each element apart and programs, at first order. Where the answers agree with each
    other, small custom rules and small whole functions only.
    """
    problem = evidence.problem
    pointwise = problem.name in UNARY and len(problem.values) == 1 and not problem.composite
    if not (pointwise or problem.composite) or evidence.theirs is None or not _has_digits(problem):
        return {}
    custom_or_whole = not problem.params or {"call_jaxpr", "num_consts"} <= set(problem.params)
    small = problem.composite and custom_or_whole and sum(v.size for v in problem.values) <= MOST_INPUTS
    found = {}
    for position in range(len(problem.values)):
        for index in _doubtful(evidence, position, small):
            lost = attempt(partial(_lost, evidence, position, index))
            if lost is not None:
                found[position] = lost
                break
    return found


def exact_slope(evidence: Evidence, position: int, index: Index) -> float | None:
    """One element of the derivative, where that can be computed with many digits and there is no kink."""
    if not _has_digits(evidence.problem):
        return None
    slopes = attempt(lambda: _line(evidence.problem, position, index).slopes(same_value=False))
    return None if slopes is None or _kinked(slopes) else slopes[0]


def _has_digits(problem: Problem) -> bool:
    return problem.pull is None and problem.eps <= COARSEST and arithmetic() is not None


def _doubtful(evidence: Evidence, position: int, small: bool) -> Iterator[Index]:
    """Elements in which the answers have no digit in common; or, in small problems, that the other oracles cannot see.

    That is where what a rounding of the value is worth exceeds the answer itself.
    """
    problem, ours = evidence.problem, evidence.ours[position]
    assert evidence.theirs is not None
    theirs = evidence.theirs[position]
    if ours.shape != theirs.shape or not ours.size or np.iscomplexobj(ours) or np.iscomplexobj(theirs):
        return
    least = ROUNDINGS * tiny(problem.values[position].dtype)
    with np.errstate(invalid="ignore"):
        apart, size = np.abs(ours - theirs), np.fmax(np.abs(ours), np.abs(theirs))
        doubtful = (apart > NO_DIGIT * size) & (size > least) & (apart > _beside(evidence, position))
        if small:
            doubtful |= ROUNDINGS * problem.floor + least >= NO_DIGIT * size
    places = np.flatnonzero(doubtful & np.isfinite(apart))
    order = np.lexsort((size.flat[places], -apart.flat[places]))
    for place in places[order][:SAMPLES]:
        yield tuple(int(k) for k in np.unravel_index(place, ours.shape))


def _beside(evidence: Evidence, position: int) -> float:
    """In a program a slope counts beside the largest of its array, because rounding mixes them."""
    if not evidence.problem.composite:
        return 0.0
    answers = [evidence.ours[position]] + ([] if evidence.theirs is None else [evidence.theirs[position]])
    return evidence.noise * max(map(largest, answers))


def _kinked(slopes: Sequence[float]) -> bool:
    return max(slopes) - min(slopes) > 1e-3 * max(map(abs, slopes))


def _line(problem: Problem, position: int, index: Index) -> _Line:
    values, cts, outputs = (list(map(numbers, leaves)) for leaves in (problem.values, problem.cts, problem.outputs))
    if problem.name in UNARY and not problem.composite:
        apply = function(problem.name)
        x, ct, out = ([leaf[0][index].reshape(())] for leaf in (values, cts, outputs))
        return _Line(lambda at, _run: [np.asarray(apply(at[0][()]), object)], x, ct, out, 0, ())
    with double():
        program = jax.make_jaxpr(problem.wide)(*map(widen, problem.values))
    return _Line(lambda at, run: evaluate_exactly(program, at, run), values, cts, outputs, position, index)


def _lost(evidence: Evidence, position: int, index: Index) -> Lost | None:
    """Whose answer has no right digit; None where a digit is right, or the slope is not known."""
    problem = evidence.problem
    line = _line(problem, position, index)
    slopes = line.slopes()
    if slopes is None or _kinked(slopes):
        return None
    assert evidence.theirs is not None
    truth, ours, theirs = slopes[0], evidence.ours[position][index], evidence.theirs[position][index]
    least = ROUNDINGS * tiny(problem.values[position].dtype)
    agreed = abs(ours - theirs) <= NO_DIGIT * max(abs(ours), abs(theirs))
    lowest = max(least, problem.floor / ROUNDINGS) if agreed and problem.composite else least
    if not lowest < abs(truth) < VISIBLE * problem.floor:
        return None
    rng, moved = evidence.rng, 0.0
    for _draw in range(NUDGES):
        close_by = line.nudged(rng, problem.eps).slopes()
        if close_by is None:
            return None
        moved = max(moved, *(abs(slope - truth) for slope in close_by))
    allowed = evidence.tolerance * (max(NO_DIGIT * abs(truth), _beside(evidence, position)) + ROUNDINGS * moved + least)
    off = [name for name, answer in (("funcgrad", ours), ("jax", theirs)) if abs(answer - truth) > allowed]
    return Lost(index, "both" if len(off) == 2 else off[0], truth, allowed) if off else None


