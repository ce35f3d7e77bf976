"""`while` loops that end: run for as many steps as the program itself took, or for so many at most.

Oracles move the operands of a loop one by one. Where the condition waits for convergence (``abs(s * s - a) > eps``) and
its `a` has moved apart from the body's, it waits for ever. The derivative is that of the steps that were taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad.evaluation import evaluate

Array = Any
Run = Callable[[Any, Sequence[Array]], list[Array]]

#: Loops of more steps are not run in another precision.
MOST_STEPS = 10_000


def steps_taken(params: Mapping[str, Any], operands: Sequence[Array]) -> int | None:
    """How many steps a loop takes; None for one whose condition is an array, or that takes too many."""
    if params["cond_jaxpr"].out_avals[0].shape:
        return None
    count, *_state = bounded(params, operands, evaluate, MOST_STEPS + 1)
    return int(count) if int(count) <= MOST_STEPS else None


def bounded(params: Mapping[str, Any], operands: Sequence[Array], run: Run, most: int) -> list[Array]:
    """The number of steps and the state after a loop, which ends after `most` steps.

    Args:
      params: those of `while`.
      operands: its operands.
      run: runs a closed jaxpr.
      most: how many steps there are at most.
    """
    conditions, consts, state = _parts(params, operands)

    def goes_on(state: Any) -> Array:
        return run(params["cond_jaxpr"], [*conditions, *state[1:]])[0] & (state[0] < most)

    def step(state: Any) -> list[Array]:
        return [state[0] + 1, *run(params["body_jaxpr"], [*consts, *state[1:]])]

    return list(lax.while_loop(goes_on, step, [jnp.int32(0), *state]))


def repeated(params: Mapping[str, Any], operands: Sequence[Array], run: Run, steps: int) -> list[Array]:
    """The state of a loop after a number of steps; reverse mode goes through it."""
    _conditions, consts, state = _parts(params, operands)
    return list(lax.fori_loop(0, steps, lambda _, state: run(params["body_jaxpr"], [*consts, *state]), state))


def _parts(params: Mapping[str, Any], operands: Sequence[Array]) -> tuple[list[Array], list[Array], list[Array]]:
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    return list(operands[:first]), list(operands[first:second]), list(operands[second:])
