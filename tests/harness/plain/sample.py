"""A plain Python function of one or two numbers, and where it is evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sample:
    """A function of plain numbers and where it is evaluated (inside its domain, off its kinks)."""

    fun: Callable[..., Any]
    points: tuple[tuple[float, ...], ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.fun.__name__


SAMPLES: list[Sample] = []


def sample(*points: tuple[float, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the corpus, with the points where it is evaluated."""

    def register(fun: Callable[..., Any]) -> Callable[..., Any]:
        SAMPLES.append(Sample(fun, points))
        return fun

    return register
