"""`while_loop`, and `fori_loop` of a dynamic trip count, in reverse mode: bounded memory, any number of iterations.

JAX refuses reverse mode here, because the number of states to save is not known when the program is made. Here the
forward loop keeps checkpoints, at most a fixed number: when the buffer is full, every other one is given up and their
distance doubles. The backward program walks from checkpoint to checkpoint, last first, runs each segment again into a
second buffer of the same size, and pulls its iterations back one by one. So with c checkpoints and n <= c**2 iterations
the body runs n times forward, at most n times again, and n times within its own pullback; beyond that states in between
are run again from the nearest one kept, and memory stays as it is.

Forward and backward bind nothing but `while`, slices and selects, so `vmap` and derivatives of any order work by
themselves. What a state holds but the backward program never reads (sums, buffers that are only written to) is not
kept: that is what keeps the second order small, whose forward loop carries the first order's buffers.

Griewank and Walther, "Algorithm 799: revolve", 2000; Wang, Moin and Iaccarino, "Minimal repetition dynamic
checkpointing", 2009 (unknown trip counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad import _compat, errors
from funcgrad.evaluation import evaluate
from funcgrad.pullback import materialize
from funcgrad.registry import higher_order
from funcgrad.rules.call import nothing_saveable
from funcgrad.rules.staging import BodyKind, Held, fixed_point, stage_backward, stage_forward, strong
from funcgrad.rules.while_pullback import (
    Loop,
    States,
    WhilePullback,
    WhileSpec,
    empty_buffers,
    like,
    plus,
    split,
    write,
)
from funcgrad.trees import pytree, static

Array = Any

#: Checkpoints per loop. JAX's own caches have it in their keys, and so do ours (`_compat.trace_context`).
_CHECKPOINTS = jax.make_user_context(64)


def while_checkpoints(number: int) -> AbstractContextManager[None]:
    """A context in which the gradient of a `while_loop` keeps so many checkpoints of its state; 64 without.

    Memory is twice that many states. Up to ``number ** 2`` iterations cost at most three times the forward ones.

    Args:
      number: rounded up to a power of two, at least 2.

    Raises:
      ValueError: when it is not a positive integer.

    >>> import funcgrad
    >>> def root(x):
    ...     return jax.lax.while_loop(lambda y: abs(y * y - x) > 1e-3, lambda y: (y + x / y) / 2, x)
    >>> with while_checkpoints(4):
    ...     print(f"{funcgrad.grad(root)(4.0):.3f}")
    0.250
    """
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"the number of checkpoints must be a positive integer, got {number!r}.\n"
                         "To fix: give how many states of the loop may be kept at a time, for example 64.")
    return _CHECKPOINTS(max(2, 1 << (number - 1).bit_length()))


# ---- the rule ----


def while_forward(active: tuple[bool, ...], *operands: Array, cond_nconsts: int, cond_jaxpr: Any, body_nconsts: int,
                  body_jaxpr: Any) -> tuple[list[Array], Any]:
    """Run the loop, keep checkpoints of its state."""
    _refuse_effects(active, operands, cond_jaxpr, body_jaxpr)
    loop = _scalar_predicate(cond_jaxpr, body_jaxpr, cond_nconsts, body_nconsts)
    body, width = loop.body.jaxpr, len(body_jaxpr.out_avals)
    kind = BodyKind((True,) * (loop.num_consts + width), (False,) * width, inline=True, policy=nothing_saveable)
    # an initial carry that is a const, too, has its cotangent as carry
    flags = tuple(active[i] and i < loop.first for i in loop.consts) + active[loop.first:]
    staged, flags = fixed_point(lambda flags: stage_forward(body, flags, kind), flags, loop.num_consts, width)
    if not any(flags[loop.num_consts:]):
        params = {"cond_nconsts": cond_nconsts, "cond_jaxpr": cond_jaxpr, "body_nconsts": body_nconsts,
                  "body_jaxpr": body_jaxpr}
        return p.while_p.bind(*operands, **params), NoPullback(len(operands), width)
    assert not staged.layout.hidden, "a loop's body is run again from its inputs"
    rerun, read, kept = _needed(body, loop.num_consts, {index for _, index in staged.layout.inputs})
    spec = WhileSpec(staged.graph, staged.plan, staged.layout, flags, loop, Held(rerun), read, kept,
                     _CHECKPOINTS.value)
    program = stage_backward(run_forward, spec, list(map(_compat.typeof, operands)), staged.graph.name)
    results = evaluate(program.jaxpr, operands)
    count, stride, marks, *buffers = results[width:]
    consts = {i: operands[loop.consts[i]] for i in spec.read_consts}
    # inside, the carry is strong; outside it promotes as the loop's own does
    outputs = [materialize(value, aval) for value, aval in zip(results, body_jaxpr.out_avals, strict=False)]
    return outputs, WhilePullback(spec, consts, tuple(staged.constants), count, stride, marks, tuple(buffers))


@pytree
class NoPullback:
    """Pullback of a loop whose results depend on no active operand: the predicate alone read them."""

    operands: int = static()
    outputs: int = static()

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output of the loop, whether it can have a cotangent."""
        return (False,) * self.outputs

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        return [None] * self.operands


def _refuse_effects(active: tuple[bool, ...], operands: Sequence[Array], cond_jaxpr: Any, body_jaxpr: Any) -> None:
    """Raise MissingRuleError for a loop that must not run twice."""
    effects = [effect for effect in (*cond_jaxpr.effects, *body_jaxpr.effects) if not _compat.may_run_again(effect)]
    if effects:
        raise errors.missing_rule(
            p.while_p, list(map(_compat.typeof, operands)), active,
            {"body": body_jaxpr.jaxpr.debug_info.func_name},
            _compat.source_line(_compat.current_source()),
            f"the backward pass runs the loop again, and this one has side effects ({', '.join(map(str, effects))})")


def _scalar_predicate(cond_jaxpr: Any, body_jaxpr: Any, cond_nconsts: int, body_nconsts: int) -> Loop:
    """The loop with a scalar predicate.

    Under `vmap` a loop has one predicate for each lane: it runs while any lane does, and a lane that is done stays.
    """
    (pred,) = cond_jaxpr.out_avals
    first = cond_nconsts + body_nconsts
    of_cond = tuple(range(cond_nconsts))
    if not pred.shape:
        return Loop(Held(cond_jaxpr), Held(body_jaxpr), of_cond, tuple(range(cond_nconsts, first)), first)
    cond_avals, avals = ([v.aval for v in jaxpr.jaxpr.invars] for jaxpr in (cond_jaxpr, body_jaxpr))
    carry = avals[body_nconsts:]
    programs = (Held(cond_jaxpr), Held(body_jaxpr), cond_nconsts, body_nconsts)
    name = body_jaxpr.jaxpr.debug_info.func_name
    cond = stage_backward(any_lane, programs, cond_avals, name).jaxpr
    body = stage_backward(step_lanes, programs, cond_avals[:cond_nconsts] + avals + carry, name).jaxpr
    return Loop(Held(cond), Held(body), of_cond, tuple(range(first + len(carry))), first)


def any_lane(programs: tuple, *args: Array) -> list[Array]:
    """Whether any lane of a batched loop goes on."""
    cond, *_ = programs
    (pred,) = evaluate(cond.jaxpr, args)
    return [lax.reduce_or(pred, tuple(range(pred.ndim)))]


def step_lanes(programs: tuple, *args: Array) -> list[Array]:
    """One iteration of the lanes that go on; the others stay.

    A lane that is done computes, too, and its last state may lie outside the body's domain, where a derivative is
    infinite (0 * inf). So it computes from its first state, which its first iteration had as well.
    """
    cond, body, cond_nconsts, body_nconsts = programs
    width = len(body.jaxpr.out_avals)
    cond_consts, consts, firsts, xs = split(args, cond_nconsts, body_nconsts, width)
    (pred,) = evaluate(cond.jaxpr, [*cond_consts, *xs])
    entering = [_select(pred, x, first) for x, first in zip(xs, firsts, strict=True)]
    return [_select(pred, new, x) for new, x in zip(evaluate(body.jaxpr, [*consts, *entering]), xs, strict=True)]


def _select(pred: Array, on_true: Array, on_false: Array) -> Array:
    """Lane by lane: the predicate's axes are the first ones."""
    shape = _compat.typeof(on_true).shape
    return lax.select(lax.broadcast_in_dim(pred, shape, tuple(range(pred.ndim))), on_true, on_false)


def _needed(body: Any, num_consts: int, read: set[int]) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """The part of the body that computes the carries in `read` and all that they depend on.

    Returns:
      the program, indices of the body's inputs that it reads, the carries that it takes and gives.
    """
    kept = {index - num_consts for index in read if index >= num_consts}
    while True:
        program, used = _compat.without_dead_code(body, tuple(i in kept for i in range(len(body.out_avals))))
        inputs = tuple(i for i, flag in enumerate(used) if flag)
        grown = kept | {i - num_consts for i in inputs if i >= num_consts}
        if grown == kept:
            return program, inputs, tuple(sorted(kept))
        kept = grown


# ---- forward ----


def run_forward(spec: WhileSpec, *operands: Array) -> list[Array]:
    """The loop with checkpoints: carries, count of iterations; of the checkpoints the distance, the marks, the states.

    The outer loop sets a checkpoint, the inner one runs to the next.
    """
    loop = spec.loop
    cond_consts = [operands[i] for i in loop.cond_consts]
    consts = [operands[i] for i in loop.consts]

    def goes_on(xs: States) -> Array:
        return evaluate(loop.cond.jaxpr, [*cond_consts, *xs])[0]

    def step(state: tuple) -> tuple:
        _, xs, count = state
        xs = strong(evaluate(loop.body.jaxpr, [*consts, *xs]))
        return goes_on(xs), xs, plus(count, 1)

    def segment(state: tuple) -> tuple:
        alive, xs, count, stride, marks, buffers = state
        full = lax.eq(count, lax.mul(stride, np.int32(spec.slots)))
        stride = lax.select(full, plus(stride, stride), stride)
        free = lax.bitwise_or(lax.lt(marks, np.int32(0)), lax.ne(lax.rem(marks, like(stride, marks)), np.int32(0)))
        slot = lax.argmax(lax.convert_element_type(free, np.int32), 0, np.int32)
        (marks,) = write((marks,), (count,), slot)
        buffers = write(buffers, tuple(xs[i] for i in spec.kept), slot)
        end = plus(count, stride)
        alive, xs, count = lax.while_loop(lambda inner: lax.bitwise_and(inner[0], lax.lt(inner[2], end)), step,
                                          (alive, xs, count))
        return alive, xs, count, stride, marks, buffers

    first = strong(operands[loop.first:])
    state = (goes_on(first), first, np.int32(0), np.int32(1), lax.full((spec.slots,), -1, np.int32),
             empty_buffers([first[i] for i in spec.kept], spec.slots))
    _, xs, count, stride, marks, buffers = lax.while_loop(lambda state: state[0], segment, state)
    return [*xs, count, stride, marks, *buffers]


higher_order(p.while_p, while_forward, dear=True)
