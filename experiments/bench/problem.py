"""What a workload is: one computation, written once for each peer that can do it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

import funcgrad

#: The peer that every figure is divided by, unless a workload names another.
JAX = "jax"
OURS = "funcgrad"
#: Hand-placed `jax.checkpoint` policies that are tried where a program has a natural place for them.
POLICIES = {
    "checkpoint: nothing": jax.checkpoint_policies.nothing_saveable,
    "checkpoint: dots": jax.checkpoint_policies.dots_saveable,
    "checkpoint: dots no batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
#: The same programs under other policies of funcgrad, where a workload names a budget: they compete with those placed
#: by hand.
MINIMAL, BUDGET = "funcgrad: minimal", "funcgrad: budget"
#: What ``--peers`` chooses from; funcgrad and the baseline always run.
PEERS = ("checkpoint", "policies", "equinox", "autograd", "torch")

Program = Callable[..., Any]
Derive = Callable[[Any, Program], Program]
Kind = Literal["jitted", "eager", "chain"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One workload at one size.

    Attributes:
      args: what every program is called with, unless `arguments` says otherwise.
      programs: by peer, the derivative as a function of the arguments.
      arguments: by peer, its own arguments (arrays of another library).
      baseline: the peer that ratios are taken to.
      missing: one line for each peer that cannot run here.
      loss: of a chain, the function itself, whose recording, planning and sweep are timed apart.
      nodes: length of the chain.
      run: whether the programs are executed (a chain of 100,000 nodes is only traced).
      lower: whether they are lowered and compiled.
    """

    args: tuple[Any, ...]
    programs: Mapping[str, Program]
    arguments: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    baseline: str = JAX
    missing: tuple[str, ...] = ()
    loss: Program | None = None
    nodes: int = 0
    run: bool = True
    lower: bool = True

    def arguments_of(self, peer: str) -> tuple[Any, ...]:
        """What the program of `peer` is called with."""
        return self.arguments.get(peer, self.args)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A named workload; ``build(quick, peers)`` makes it at its full or its quick size."""

    name: str
    what: str
    kind: Kind
    build: Callable[[bool, Sequence[str]], Problem]


def gradient(library: Any, loss: Program) -> Program:
    """The gradient with respect to the first argument; `library` is `jax` or `funcgrad`."""
    return library.grad(loss)


def problem(loss: Program, args: tuple[Any, ...], derive: Derive = gradient,
            by_hand: Mapping[str, Program] | None = None, budget: float | None = None) -> Problem:
    """A problem whose peers are funcgrad, plain JAX, JAX with each hand-placed policy, and funcgrad's own policies.

    Args:
      loss: the function to differentiate.
      args: its arguments.
      derive: makes the derivative from a library and the loss.
      by_hand: by policy name, the loss with that policy placed by hand.
      budget: bytes for funcgrad's budget; None: without its policies.
    """
    programs = {OURS: derive(funcgrad, loss), JAX: derive(jax, loss)}
    if budget is not None:
        programs |= {MINIMAL: funcgrad.grad(loss, policy="minimal"),
                     BUDGET: funcgrad.grad(loss, policy=funcgrad.budget(budget))}
    programs |= {name: derive(jax, checkpointed) for name, checkpointed in (by_hand or {}).items()}
    return Problem(args, programs)
