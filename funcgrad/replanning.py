"""Floor 8: gradients that keep what a policy says, and compute the rest again.

Outside `jit` all values of a recording exist already, so only loops and jitted parts have something to plan. Inside,
XLA keeps what is read later: a policy other than the default says which values, and the others are computed again from
them, behind a fence that keeps XLA from merging the two computations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from funcgrad import _compat
from funcgrad.eager import backward
from funcgrad.policies import in_force
from funcgrad.rules.call import behind_fence
from funcgrad.vjp import Recording

Array = Any


def backward_as_planned(recording: Recording, cts: Sequence[Array | None],
                        fun: Callable[..., Any]) -> list[Array | None]:
    """The backward sweep of a run, as the policy in force says.

    Args:
      recording: the run.
      cts: cotangents of its outputs, None for zero.
      fun: the user's function.
    """
    policy = in_force()
    if policy in ("auto", "everything") or _compat.executes_at_once():
        return backward(recording, cts, fun)
    flat = recording.pullback(policy)
    return dataclasses.replace(flat, residuals=behind_fence(flat.residuals))(cts)
