"""Where one element of a derivative must lie: between its one-sided differences, in the hull of those close by."""

from __future__ import annotations

import dataclasses

import numpy as np

from funcgrad.crosscheck.compare import numbers
from funcgrad.crosscheck.judging.evidence import Evidence, Index
from funcgrad.crosscheck.oracles import ImplicitGamma, difference


@dataclasses.dataclass(frozen=True)
class Settled:
    """Where an element of the derivative lies, by its real (and imaginary) parts; whether there is a kink."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    kinked: bool
    known_by: str

    def holds(self, value: complex, allowed: float) -> bool:
        """Whether a value lies inside."""
        return all(low - allowed <= part <= high + allowed
                   for part, low, high in zip(_parts(value, len(self.low)), self.low, self.high, strict=True))

    @property
    def width(self) -> float:
        """How much is left open."""
        return sum(high - low for low, high in zip(self.low, self.high, strict=True))

    @property
    def value(self) -> complex:
        """The middle."""
        middle = [(low + high) / 2 for low, high in zip(self.low, self.high, strict=True)]
        return middle[0] if len(middle) == 1 else complex(*middle)


def between(evidence: Evidence, position: int, index: Index) -> tuple[Settled | None, Settled | None]:
    """Where one element of the derivative lies, from differences; and, where smooth, from the derivatives close by."""
    gamma = ImplicitGamma().answer(evidence.problem)
    if gamma is not None:
        value = float(gamma[position][index])
        error = 1e-5 * abs(value)
        return Settled((value - error,), (value + error,), False, ImplicitGamma().name), None
    if not evidence.truth_is_usable or evidence.problem.name == "reduce_precision":  # a staircase
        return None, None
    box = _box(evidence, position, index)
    slopes = _slopes(evidence, position, index)
    if slopes is None:
        return box, box
    if box is None or not _meet(slopes, box):
        return slopes, None
    if not (slopes.kinked or box.kinked):
        return slopes, box
    joint = Settled(tuple(map(min, slopes.low, box.low)), tuple(map(max, slopes.high, box.high)), True, slopes.known_by)
    return joint, None


def _meet(slopes: Settled, box: Settled) -> bool:
    """Whether the derivatives close by and the differences speak of the same function."""
    size = max(1e-3 * max(map(abs, (*slopes.low, *slopes.high, *box.low, *box.high))), 1e-300)
    return all(low <= top + size and bottom <= high + size
               for low, high, bottom, top in zip(slopes.low, slopes.high, box.low, box.high, strict=True))


def _box(evidence: Evidence, position: int, index: Index) -> Settled | None:
    if evidence.hull is None:
        return None
    low, high = (tuple(float(x) for x in side[position][index]) for side in evidence.hull)
    if not np.all(np.isfinite([*low, *high])):
        return None
    size = max(map(abs, (*low, *high)))
    kinked = any(h - bottom > 1e-3 * size for bottom, h in zip(low, high, strict=True))
    return Settled(low, high, kinked, "derivatives close by")


def _slopes(evidence: Evidence, position: int, index: Index) -> Settled | None:
    """One-sided differences along one element (for a complex one along 1 and i)."""
    values = list(map(numbers, evidence.problem.values))
    size = float(np.abs(values[position][index])) or 1.0
    if not np.isfinite(size):
        return None
    low, high, kinked = [], [], False
    for unit in (1.0, 1j) if np.iscomplexobj(values[position]) else (1.0,):
        direction = [np.zeros_like(value) for value in values]
        direction[position][index] = size * unit
        found = difference(evidence.problem, direction, evidence.wide_noise)
        if found is None or not np.all(np.isfinite(found.interval)):
            return None
        sign = 1.0 if unit == 1.0 else -1.0  # Re(ct · i) = -Im(ct)
        ends = sorted(sign * end / size for end in found.interval)
        low.append(ends[0])
        high.append(ends[1])
        kinked |= found.kinked
    return Settled(tuple(low), tuple(high), kinked, "finite differences in float64")


def _parts(value: complex, count: int) -> tuple[float, ...]:
    return (float(np.real(value)), float(np.imag(value)))[:count]
