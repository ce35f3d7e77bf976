"""The second order of a problem: its vjp as a function of the values and the cotangents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad.crosscheck.compare import is_inexact, largest, numbers
from funcgrad.crosscheck.oracles import attempt, jax_vjp, tangents
from funcgrad.crosscheck.problem import Problem, our_vjp
from funcgrad.crosscheck.values.wide import double, widen

Array = Any

#: Their operands depend on each other (a matrix and its factors), so a second derivative in one alone means nothing.
IMPLICIT = frozenset({"custom_linear_solve"})


def second_order(problem: Problem, seed: int, refuted: bool = False) -> Problem | None:
    """The problem of differentiating ``(values, cts) -> cotangents`` with random cotangents; None where JAX cannot.

    funcgrad's answer is its vjp of its vjp: it differentiates the rules themselves. Where JAX's first order is
    `refuted` or missing, the truth is what differences of ours say, which was judged before.
    """
    count = len(problem.values)
    inputs = (*problem.values, *problem.cts)
    if problem.name in IMPLICIT or not all(is_inexact(x) for x in inputs):
        return None
    rng = np.random.default_rng(seed + 1)
    cts = tuple(jnp.asarray(arrow, leaf.dtype)
                for arrow, leaf in zip(tangents(problem.ours, rng), problem.ours, strict=True))

    def theirs(*x: Array) -> list[Array]:
        return jax_vjp(problem.fun, x[:count], x[count:])

    def exact() -> Any:
        with double():
            return jax_vjp(problem.wide, list(map(widen, problem.values)), list(map(widen, problem.cts)))

    first = our_vjp if refuted or attempt(exact) is None else jax_vjp

    def wide(*x: Array) -> list[Array]:
        return first(problem.wide, x[:count], x[count:])

    def mine(*x: Array) -> list[Array]:
        return our_vjp(problem.fun, x[:count], x[count:])

    ours = attempt(lambda: our_vjp(mine, inputs, cts))
    if ours is None:
        return None
    return Problem(problem.name, theirs, wide, inputs, cts, tuple(ours), problem.ours, problem.composite,
                   problem.reductions, problem.primitives, problem.params, _scale(problem, cts), problem.least,
                   lambda values, seeds: our_vjp(mine, values, seeds))


def _scale(problem: Problem, cts: Sequence[Array]) -> float:
    """What one unit of relative error of the first output is worth in the second order."""
    ct, first, out = (max(map(largest, map(numbers, leaves)), default=0.0)
                      for leaves in (cts, problem.cts, problem.outputs))
    return ct * max(1.0, first) * max(1.0, out)
