"""Random well-typed JAX programs: a Hypothesis strategy, and the same programs from a NumPy generator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from funcgrad.crosscheck.programs.data import Program
from funcgrad.crosscheck.programs.operations import build


class RandomChoices:
    """Choices from a NumPy generator."""

    def __init__(self, seed: int | Sequence[int]) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, count: int) -> int:
        return int(self.rng.random() * count)


def random_program(seed: int | Sequence[int], *, statements: int = 6, families: Iterable[str] | None = None,
                   dtypes: Iterable[str] | None = None) -> Program:
    """A random program without Hypothesis.

    Args:
      seed: equal seeds give equal programs.
      statements: so many operations at most are chosen.
      families: names of families of `operations.FAMILIES`; default all.
      dtypes: main dtypes; default all of `builder.DTYPES`.
    """
    return build(RandomChoices(seed), statements, families, dtypes)


def programs(*, statements: int = 6, families: Iterable[str] | None = None,
             dtypes: Iterable[str] | None = None) -> Any:
    """A Hypothesis strategy for random well-typed JAX programs.

    Failures shrink to a few lines and print as a script that runs. Float64 programs need ``jax_enable_x64``; without it
    they are left out.

    Args:
      statements: so many operations at most are chosen.
      families: names of families of `operations.FAMILIES`; default all.
      dtypes: main dtypes; default all of `builder.DTYPES`.

    Returns:
      A strategy of `Program`.

    >>> programs(families=["elementwise"]).is_empty
    False
    """
    from hypothesis import strategies as st

    @st.composite
    def strategy(draw: Any) -> Program:
        return build(lambda count: draw(st.integers(0, count - 1)), statements, families, dtypes)

    return strategy()
