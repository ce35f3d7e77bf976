"""The derivative of a real function of one real variable from its values alone, in float64.

Central differences at shrinking steps, extrapolated to step zero; the entry of least estimated error wins and its error
is given back with it (C. J. F. Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering
Software 4 (1982) 75-76). The derivatives to the right and to the left are extrapolated apart, so a kink is seen.

Written apart from `reference.finite_difference`, which the tests use: neither may lean on the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

STEPS = 16
SHRINK = 1.9  # not 2: roundings repeat at halved steps and then agree for no reason
FIRST_STEP = 0.05
ORDERS = 5
EPS = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True)
class Slope:
    """A derivative at zero.

    Attributes:
      value: of the central differences; NaN where there is none.
      error: its estimated error, infinite where there is none.
      left, right: one-sided derivatives.
      side_error: the estimated error of the worse of these two.
    """

    value: float
    error: float
    left: float
    right: float
    side_error: float

    @property
    def kinked(self) -> bool:
        """Whether the one-sided derivatives differ by more than their errors explain."""
        jump, size = abs(self.right - self.left), max(abs(self.right), abs(self.left))
        return bool(np.isfinite(jump) and jump > 4 * self.side_error + 1e-6 * size)

    @property
    def interval(self) -> tuple[float, float]:
        """What a derivative may be: the value and its error, or at a kink all between left and right."""
        if self.kinked:
            low, high = min(self.left, self.right), max(self.left, self.right)
            return low - self.side_error, high + self.side_error
        return self.value - self.error, self.value + self.error

    def sharp(self, size: float, relative: float = 1e-4) -> bool:
        """Whether it can serve as an oracle for numbers of this size."""
        error = self.side_error if self.kinked else self.error
        return bool(np.isfinite(self.value) and error <= relative * max(size, abs(self.value)))


def slope(function: Callable[[float], tuple[float, float]], value_noise: float = 0.0) -> Slope:
    """The derivative of `function` at 0.

    Args:
      function: gives a value and the size of the terms that it was summed from, which tells its rounding error; moving
        by 1 moves its inputs by about their own size.
      value_noise: the rounding error of its value, where more is known of it.
    """
    steps = FIRST_STEP * SHRINK ** -np.arange(STEPS)
    with np.errstate(all="ignore"):
        centre, size = function(0.0)
        right, right_size = _values(function, steps)
        left, left_size = _values(function, -steps)
        noise = 4 * EPS * np.fmax(np.fmax(right_size, left_size), size)
        steep = np.abs([right - centre, left - centre]) / steps
        steepest = np.max(steep, where=np.isfinite(steep), initial=0.0)
        noise = noise + value_noise + 2 * EPS * steepest  # the moved inputs are rounded, too
        value, error = _extrapolated((right - left) / (2 * steps), noise / steps, 2)
        after, after_error = _extrapolated((right - centre) / steps, 2 * noise / steps, 1)
        before, before_error = _extrapolated((centre - left) / steps, 2 * noise / steps, 1)
    return Slope(value, error, before, after, max(after_error, before_error))


def _values(function: Callable[[float], tuple[float, float]], steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array([function(float(step)) for step in steps])
    return pairs[:, 0], pairs[:, 1]


def _extrapolated(differences: np.ndarray, rounding: np.ndarray, power: int) -> tuple[float, float]:
    """Differences at shrinking steps, off by a series of powers `power`, `power` + `stride`, …, taken to step zero."""
    stride = power  # central differences have even powers only, one-sided ones all
    column = np.where(np.isfinite(differences), differences, np.nan)
    noise = rounding
    best, least = np.nan, np.inf
    spread = np.abs(np.diff(column, append=np.nan))
    for order in range(ORDERS):
        total = spread + noise
        # the next finer difference must say the same, or two coarse ones agree by chance
        later = np.abs(np.diff(column, append=np.nan))
        total = np.where(np.isfinite(total), np.fmax(total, np.nan_to_num(later, nan=np.inf)), np.inf)
        if total.size and np.min(total) < least:
            at = int(np.argmin(total))
            best, least = float(column[at]), float(total[at])
        factor = SHRINK ** (power + stride * order)
        finer = (factor * column[1:] - column[:-1]) / (factor - 1)
        spread = np.fmax(np.abs(finer - column[1:]), np.abs(finer - column[:-1]))
        noise = (factor * noise[1:] + noise[:-1]) / (factor - 1)
        column = finer
    return best, least
