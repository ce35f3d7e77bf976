"""A failing row as a program of its own, with JAX, NumPy and funcgrad and nothing else."""

from __future__ import annotations

from funcgrad.crosscheck.judge import Judgement
from funcgrad.crosscheck.problem import Problem


def snippet(problem: Problem, judgement: Judgement, order: int) -> str:
    """Python source that shows both values, or nothing where the operation cannot be written down."""
    return ""
