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

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import Primitive, take_current_trace
from jax.extend.core import primitives as p

from funcgrad import _compat, errors
from funcgrad.graph import Graph, carries_gradient
from funcgrad.planning import Plan
from funcgrad.pullback import FlatPullback, add_cotangents, sweep, zeros_like_aval
from funcgrad.rule import higher_order
from funcgrad.rules.call import nothing_saveable
from funcgrad.rules.staging import BodyKind, Layout, fixed_point, spread, stage_backward, stage_forward
from funcgrad.trace import UNKNOWN, GraphTrace, GraphTracer, evaluate
from funcgrad.vjp import record_linear

Array = Any
States = tuple[Array, ...]
STATIC = {"static": True}

#: Checkpoints per loop. JAX's own caches have it in their keys, and so do ours (`_compat.trace_context`).
_CHECKPOINTS = jax.make_user_context(64)


def checkpoints(number: int) -> AbstractContextManager[None]:
    """A context in which the gradient of a `while_loop` keeps so many checkpoints of its state; 64 without.

    Memory is twice that many states. Up to ``number ** 2`` iterations cost at most three times the forward ones.

    Args:
      number: rounded up to a power of two, at least 2.

    Raises:
      ValueError: when it is not a positive integer.

    >>> import funcgrad
    >>> def root(x):
    ...     return jax.lax.while_loop(lambda y: abs(y * y - x) > 1e-3, lambda y: (y + x / y) / 2, x)
    >>> with checkpoints(4):
    ...     print(f"{funcgrad.grad(root)(4.0):.3f}")
    0.250
    """
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"the number of checkpoints must be a positive integer, got {number!r}.")
    return _CHECKPOINTS(max(2, 1 << (number - 1).bit_length()))


# ---- the rule ----


def while_forward(active: tuple[bool, ...], *operands: Array, cond_nconsts: int, cond_jaxpr: Any, body_nconsts: int,
                  body_jaxpr: Any) -> tuple[list[Array], Any]:
    """Run the loop, keep checkpoints of its state."""
    _refuse_effects(active, operands, cond_jaxpr, body_jaxpr)
    loop, skipped = _scalar_predicate(cond_jaxpr, body_jaxpr, cond_nconsts, body_nconsts)
    width = len(body_jaxpr.out_avals)
    kind = BodyKind((True,) * (loop.num_consts + width), (False,) * width, inline=True, policy=nothing_saveable)
    body = loop.body.jaxpr
    staged, flags = fixed_point(lambda flags: stage_forward(body, flags, kind), active[skipped:], loop.num_consts,
                                width)
    if not any(flags[loop.num_consts:]):
        params = {"cond_nconsts": cond_nconsts, "cond_jaxpr": cond_jaxpr, "body_nconsts": body_nconsts,
                  "body_jaxpr": body_jaxpr}
        return p.while_p.bind(*operands, **params), NoPullback(len(operands))
    assert not staged.layout.hidden, "a loop's body is run again from its inputs"
    rerun, read, kept = _needed(body, loop.num_consts, {index for _, index in staged.layout.inputs})
    spec = WhileSpec(staged.graph, staged.plan, staged.layout, flags, loop, Held(rerun), read, kept, skipped,
                     _CHECKPOINTS.value)
    program = stage_backward(run_forward, spec, list(map(_compat.typeof, operands)), staged.graph.name)
    results = evaluate(program.jaxpr, operands)
    count, stride, marks, *buffers = results[width:]
    consts = {i: operands[i + skipped] for i in spec.read_consts}
    return results[:width], WhilePullback(spec, consts, tuple(staged.constants), count, stride, marks, tuple(buffers))


@dataclasses.dataclass(frozen=True)
class Held:
    """A program as part of a static specification, compared by identity."""

    jaxpr: Any

    def __hash__(self) -> int:
        return id(self.jaxpr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.jaxpr is other.jaxpr


@dataclasses.dataclass(frozen=True)
class Loop:
    """The programs of a loop: ``cond(*cond_consts, *carry) -> scalar``, ``body(*consts, *carry) -> carry``."""

    cond: Held
    body: Held
    num_cond_consts: int
    num_consts: int


@dataclasses.dataclass(frozen=True)
class WhileSpec:
    """The static part of a loop's pullback.

    Attributes:
      graph, plan, layout: of the body; what the plan saves are inputs of the body and constants of its program.
      active: for each input of the body, whether a cotangent flows to it.
      loop: the programs.
      rerun: the body without what no later state needs.
      rerun_inputs: indices of the body's inputs that `rerun` reads.
      kept: which carries a checkpoint holds, and `rerun` computes.
      skipped: how many operands come before the body's consts.
      slots: number of checkpoints.
    """

    graph: Graph
    plan: Plan
    layout: Layout
    active: tuple[bool, ...]
    loop: Loop
    rerun: Held
    rerun_inputs: tuple[int, ...]
    kept: tuple[int, ...]
    skipped: int
    slots: int

    @property
    def read_consts(self) -> tuple[int, ...]:
        """Indices of the consts that the backward program reads."""
        read = {index for _, index in self.layout.inputs} | set(self.rerun_inputs)
        return tuple(sorted(index for index in read if index < self.loop.num_consts))

    @property
    def active_consts(self) -> tuple[int, ...]:
        """Indices of the consts that have cotangents."""
        return tuple(i for i in range(self.loop.num_consts) if self.active[i])

    @property
    def active_carries(self) -> tuple[int, ...]:
        """Indices, among the body's inputs, of the carries that have cotangents."""
        return tuple(i for i in range(self.loop.num_consts, len(self.active)) if self.active[i])

    def kept_aval(self, carry: int) -> Any:
        """The aval of a kept carry."""
        return self.graph.avals[self.graph.inputs[self.loop.num_consts + carry]]


def _refuse_effects(active: tuple[bool, ...], operands: Sequence[Array], cond_jaxpr: Any, body_jaxpr: Any) -> None:
    """Raise MissingRuleError for a loop that must not run twice."""
    effects = [effect for effect in (*cond_jaxpr.effects, *body_jaxpr.effects) if not _compat.may_run_again(effect)]
    if effects:
        raise errors.missing_rule(
            p.while_p, list(map(_compat.typeof, operands)), active,
            {"body": body_jaxpr.jaxpr.debug_info.func_name},
            _compat.source_line(_compat.current_source()),
            f"the backward pass runs the loop again, and this one has side effects ({', '.join(map(str, effects))})")


def _scalar_predicate(cond_jaxpr: Any, body_jaxpr: Any, cond_nconsts: int, body_nconsts: int) -> tuple[Loop, int]:
    """The loop with a scalar predicate, and how many operands are not the body's.

    Under `vmap` a loop has one predicate for each lane: it runs while any lane does, and a lane that is done stays.
    """
    (pred,) = cond_jaxpr.out_avals
    if not pred.shape:
        return Loop(Held(cond_jaxpr), Held(body_jaxpr), cond_nconsts, body_nconsts), cond_nconsts
    cond_consts = [v.aval for v in cond_jaxpr.jaxpr.invars[:cond_nconsts]]
    avals = [v.aval for v in body_jaxpr.jaxpr.invars]
    static = (Held(cond_jaxpr), Held(body_jaxpr), cond_nconsts, body_nconsts)
    name = body_jaxpr.jaxpr.debug_info.func_name
    cond = stage_backward(any_lane, static, cond_consts + avals[body_nconsts:], name).jaxpr
    body = stage_backward(step_lanes, static, cond_consts + avals, name).jaxpr
    return Loop(Held(cond), Held(body), cond_nconsts, cond_nconsts + body_nconsts), 0


def any_lane(static: tuple, *args: Array) -> list[Array]:
    """Whether any lane of a batched loop goes on."""
    cond, *_ = static
    (pred,) = evaluate(cond.jaxpr, args)
    return [lax.reduce_or(pred, tuple(range(pred.ndim)))]


def step_lanes(static: tuple, *args: Array) -> list[Array]:
    """One iteration of the lanes that go on; the others stay."""
    cond, body, cond_nconsts, body_nconsts = static
    cond_consts, consts, xs = _split(args, cond_nconsts, body_nconsts)
    (pred,) = evaluate(cond.jaxpr, [*cond_consts, *xs])
    # A lane that is done computes too, maybe outside the body's domain: no cotangent of that may come back (0 * inf).
    entering = [_select(pred, x, lax.stop_gradient(x)) if carries_gradient(_compat.typeof(x)) else x for x in xs]
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


def _split(values: Sequence[Array], *counts: int) -> list[list[Array]]:
    parts, start = [], 0
    for count in counts:
        parts.append(list(values[start:start + count]))
        start += count
    return [*parts, list(values[start:])]


# ---- forward ----


def run_forward(spec: WhileSpec, *operands: Array) -> list[Array]:
    """The loop with checkpoints: carries, count of iterations; of the checkpoints the distance, the marks, the states.

    The outer loop sets a checkpoint, the inner one runs to the next.
    """
    loop = spec.loop
    cond_consts = operands[:loop.num_cond_consts]
    consts, first = _split(operands[spec.skipped:], loop.num_consts)

    def goes_on(xs: States) -> Array:
        return evaluate(loop.cond.jaxpr, [*cond_consts, *xs])[0]

    def step(state: tuple) -> tuple:
        _, xs, count = state
        xs = _strong(evaluate(loop.body.jaxpr, [*consts, *xs]))
        return goes_on(xs), xs, _plus(count, 1)

    def segment(state: tuple) -> tuple:
        alive, xs, count, stride, marks, buffers = state
        full = lax.eq(count, lax.mul(stride, np.int32(spec.slots)))
        stride = lax.select(full, _plus(stride, stride), stride)
        free = lax.bitwise_or(lax.lt(marks, np.int32(0)), lax.ne(lax.rem(marks, _like(stride, marks)), np.int32(0)))
        slot = lax.argmax(lax.convert_element_type(free, np.int32), 0, np.int32)
        (marks,) = _write((marks,), (count,), slot)
        buffers = _write(buffers, tuple(xs[i] for i in spec.kept), slot)
        end = _plus(count, stride)
        alive, xs, count = lax.while_loop(lambda inner: lax.bitwise_and(inner[0], lax.lt(inner[2], end)), step,
                                          (alive, xs, count))
        return alive, xs, count, stride, marks, buffers

    first = _strong(first)
    state = (goes_on(first), first, np.int32(0), np.int32(1), lax.full((spec.slots,), -1, np.int32),
             _empty_buffers(spec, spec.slots))
    _, xs, count, stride, marks, buffers = lax.while_loop(lambda state: state[0], segment, state)
    return [*xs, count, stride, marks, *buffers]


# ---- backward ----


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WhilePullback:
    """Pullback of a loop.

    Attributes:
      spec: the static part.
      consts: by index, the consts that are read.
      constants: of the body's program, in the order of the layout.
      count: number of iterations.
      stride: distance of the checkpoints.
      marks: for each checkpoint the iteration before which it was taken, or -1.
      buffers: for each kept carry its checkpoints.
    """

    spec: WhileSpec = dataclasses.field(metadata=STATIC)
    consts: dict[int, Array]
    constants: tuple[Array, ...]
    count: Array
    stride: Array
    marks: Array
    buffers: tuple[Array, ...]

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        spec = self.spec
        given = tuple(i for i, ct in enumerate(cts) if ct is not None)
        args = [self.count, self.stride, self.marks, *self.buffers, *self.consts.values(), *self.constants,
                *(cts[i] for i in given)]
        run = while_pullback_p.bind if _is_transposed(args) else run_program
        results = run(*args, spec=spec, given=given)
        reached = [i + spec.skipped for i in (*spec.active_consts, *spec.active_carries)]
        return spread(results, reached, spec.skipped + len(spec.active))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoPullback:
    """Pullback of a loop whose results depend on no active operand: the predicate alone read them."""

    operands: int = dataclasses.field(metadata=STATIC)

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        return [None] * self.operands


def run_program(*args: Array, spec: WhileSpec, given: tuple[int, ...]) -> list[Array]:
    """Stage the backward program and run it."""
    return evaluate(_backward_program(args, spec, given), args)


def _backward_program(args: Sequence[Array], spec: WhileSpec, given: tuple[int, ...]) -> Any:
    avals = list(map(_compat.typeof, args))
    return stage_backward(run_backward, (spec, given), avals, f"pullback({spec.graph.name})").jaxpr


def run_backward(static: tuple[WhileSpec, tuple[int, ...]], *args: Array) -> list[Array]:
    """Cotangents of the active consts and initial carries."""
    spec, given = static
    (count, stride, marks), buffers, consts, constants, out_cts = _split(
        args, 3, len(spec.kept), len(spec.read_consts), len(spec.layout.constants))
    back = Iteration(spec, dict(zip(spec.read_consts, consts, strict=True)), constants)
    inner_stride = lax.max(lax.div(stride, np.int32(spec.slots)), np.int32(1))  # 1 up to slots ** 2 iterations
    by_output = dict(zip(given, out_cts, strict=True))
    ct_carry = tuple(by_output.get(i - spec.loop.num_consts, None) for i in spec.active_carries)
    ct_carry = back.filled(ct_carry, spec.active_carries)

    def segment(state: tuple) -> tuple:
        number, ct_carry, ct_consts = state
        number = _plus(number, -1)
        start = lax.mul(number, stride)
        slot = lax.argmax(lax.convert_element_type(lax.eq(marks, _like(start, marks)), np.int32), 0, np.int32)
        length = lax.min(stride, lax.sub(count, start))
        states = back.fill(_read(buffers, slot), length, inner_stride)
        ct_carry, more = back.pull_segment(states, length, inner_stride, ct_carry)
        # a sum of its own for each segment: then no checkpoint of the second order holds the sum so far
        return number, ct_carry, tuple(map(add_cotangents, ct_consts, more))

    segments = lax.div(_plus(_plus(count, stride), -1), stride)
    _, ct_carry, ct_consts = lax.while_loop(
        lambda state: lax.gt(state[0], np.int32(0)), segment, (segments, ct_carry, back.no_const_cts()))
    return [*ct_consts, *ct_carry]


@dataclasses.dataclass(frozen=True)
class Iteration:
    """One iteration again and backward, and what is made of it; `consts` and `constants` as in `WhilePullback`."""

    spec: WhileSpec
    consts: dict[int, Array]
    constants: Sequence[Array]

    def step(self, xs: States) -> States:
        """The kept carries after one more iteration."""
        values = dict(self.consts)
        values |= {i + self.spec.loop.num_consts: x for i, x in zip(self.spec.kept, xs, strict=True)}
        return _strong(evaluate(self.spec.rerun.jaxpr, [values[i] for i in self.spec.rerun_inputs]))

    def fill(self, xs: States, length: Array, stride: Array) -> States:
        """Buffers with every stride-th state of a segment that begins with `xs`."""

        def step(state: tuple) -> tuple:
            number, xs, buffers = state
            xs = self.step(xs)
            # the last one written to a slot stays: that whose number is a multiple of the stride
            slot = lax.div(_plus(_plus(number, stride), -1), stride)
            return _plus(number, 1), xs, _write(buffers, xs, slot)

        first = _write(_empty_buffers(self.spec, self.spec.slots + 1), xs, np.int32(0))
        return lax.while_loop(lambda state: lax.lt(state[0], length), step, (np.int32(1), xs, first))[2]

    def pull_segment(self, buffers: States, length: Array, stride: Array,
                     ct_carry: States) -> tuple[States, States]:
        """Cotangents before a segment from those after it, and what the segment adds to the consts'."""

        def step(state: tuple) -> tuple:
            number, ct_carry, ct_consts = state
            number = _plus(number, -1)
            slot = lax.div(number, stride)
            _, xs = lax.while_loop(
                lambda inner: lax.lt(inner[0], number), lambda inner: (_plus(inner[0], 1), self.step(inner[1])),
                (lax.mul(slot, stride), _read(buffers, slot)))
            ct_carry, more = self.pull(xs, ct_carry)
            return number, ct_carry, tuple(map(add_cotangents, ct_consts, more))

        initial = (length, ct_carry, self.no_const_cts())
        _, ct_carry, ct_consts = lax.while_loop(lambda state: lax.gt(state[0], np.int32(0)), step, initial)
        return ct_carry, ct_consts

    def pull(self, xs: States, ct_carry: States) -> tuple[States, tuple[Array | None, ...]]:
        """One iteration backward: cotangents of the carries and of the consts before it."""
        spec = self.spec
        num_consts = spec.loop.num_consts
        by_index = self.consts | {i + num_consts: x for i, x in zip(spec.kept, xs, strict=True)}
        residuals = {position: by_index[index] for position, index in spec.layout.inputs}
        residuals |= dict(zip(spec.layout.constants, self.constants, strict=True))
        pullback = FlatPullback(spec.graph, spec.plan, tuple(residuals[i] for i in range(len(residuals))))
        cts = pullback(spread(ct_carry, [i - num_consts for i in spec.active_carries], len(spec.graph.outputs)))
        return (self.filled([cts[i] for i in spec.active_carries], spec.active_carries),
                tuple(None if cts[i] is None else _strong((cts[i],))[0] for i in spec.active_consts))

    def push(self, xs: States, tangents: States) -> States:
        """Tangents of the carries after one iteration from those of carries and consts before it."""
        avals = [_compat.typeof(t).to_ct_aval() for t in tangents[:len(self.spec.active_carries)]]

        def pull(*ct_carry: Array) -> list[Array]:
            carries, consts = self.pull(xs, ct_carry)
            return [*carries, *self.filled(consts, self.spec.active_consts)]

        linear = record_linear(pull, avals, self.spec.graph.name)
        return self.filled(sweep(linear.graph, linear.read, tangents), self.spec.active_carries)

    def filled(self, cts: Sequence[Array | None], indices: Sequence[int]) -> States:
        """Cotangents of some inputs of the body, zeros in place of None."""
        avals = [self.spec.graph.avals[self.spec.graph.inputs[i]] for i in indices]
        return _strong([zeros_like_aval(aval) if ct is None else ct for ct, aval in zip(cts, avals, strict=True)])

    def no_const_cts(self) -> States:
        """Zeros for the active consts."""
        return self.filled([None] * len(self.spec.active_consts), self.spec.active_consts)


# ---- forward mode ----
#
# It is the transpose of the backward program (`funcgrad.vjp.pushforward`). Transposing that as it stands would be right
# and long: each of its loops would get a backward program. But the transpose is known, the loop that carries tangents.

#: The backward program as one operation. Only traces of linear functions see it, so JAX need not know it.
while_pullback_p = Primitive("while_pullback")
while_pullback_p.multiple_results = True


def _is_transposed(args: Sequence[Array]) -> bool:
    """Whether the backward program is only recorded, as a linear function of cotangents without values."""
    with take_current_trace() as trace:
        return isinstance(trace, GraphTrace) and trace.mode.linear and any(
            isinstance(arg, GraphTracer) and trace.lower(arg) is UNKNOWN for arg in args)


def pullback_forward(active: tuple[bool, ...], *args: Array, spec: WhileSpec,
                     given: tuple[int, ...]) -> tuple[list[Array], Any]:
    """Outputs of the right type, whose values nobody has, and the loop of tangents as pullback."""
    count, rest = args[0], args[3:]
    buffers, consts, constants, _ = _split(rest, len(spec.kept), len(spec.read_consts), len(spec.layout.constants))
    first = tuple(_read(buffers, np.int32(0)))  # the initial state: its checkpoint is never given up
    outputs = list(map(_compat.zeros_like_aval, _backward_program(args, spec, given).out_avals))
    return outputs, Pushforward(spec, given, count, first, tuple(consts), tuple(constants))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pushforward:
    """Tangents of a loop's outputs `given` from those of its active consts and carries."""

    spec: WhileSpec = dataclasses.field(metadata=STATIC)
    given: tuple[int, ...] = dataclasses.field(metadata=STATIC)
    count: Array
    first: States
    consts: States
    constants: States

    def __call__(self, tangents: Sequence[Array | None]) -> list[Array | None]:
        moving = tuple(i for i, t in enumerate(tangents) if t is not None)
        args = [self.count, *self.first, *self.consts, *self.constants, *(tangents[i] for i in moving)]
        program = stage_backward(run_tangents, (self.spec, self.given, moving), list(map(_compat.typeof, args)),
                                 f"pushforward({self.spec.graph.name})")
        residuals = 3 + len(self.first) + len(self.consts) + len(self.constants)
        return [None] * residuals + evaluate(program.jaxpr, args)


def run_tangents(static: tuple[WhileSpec, tuple[int, ...], tuple[int, ...]], *args: Array) -> list[Array]:
    """The loop with tangents instead of what no later state needs."""
    spec, given, moving = static
    (count,), first, consts, constants, tangents = _split(
        args, 1, len(spec.kept), len(spec.read_consts), len(spec.layout.constants))
    iteration = Iteration(spec, dict(zip(spec.read_consts, consts, strict=True)), constants)
    reached = (*spec.active_consts, *spec.active_carries)
    filled = iteration.filled(spread(tangents, moving, len(reached)), reached)
    of_consts, initial = _split(filled, len(spec.active_consts))

    def step(state: tuple) -> tuple:
        number, xs, of_carry = state
        moved = iteration.push(xs, (*of_carry, *of_consts))
        return _plus(number, 1), iteration.step(xs), moved

    _, _, final = lax.while_loop(lambda state: lax.lt(state[0], count), step,
                                 (np.int32(0), tuple(first), tuple(initial)))
    by_output = dict(zip((i - spec.loop.num_consts for i in spec.active_carries), final, strict=True))
    return [by_output[i] for i in given]


# ---- small parts ----


def _strong(values: Sequence[Array]) -> States:
    """Without weak types: a loop's carry must have one type throughout."""
    return tuple(lax.convert_element_type(x, x.dtype) if _compat.is_weakly_typed(x) else x for x in values)


def _plus(first: Array, second: Array | int) -> Array:
    return lax.add(first, np.int32(second) if isinstance(second, int) else second)


def _like(scalar: Array, array: Array) -> Array:
    return lax.broadcast(scalar, array.shape)


def _empty_buffers(spec: WhileSpec, slots: int) -> States:
    """For each kept carry a buffer of so many states."""
    return tuple(_compat.empty_stack(spec.kept_aval(carry), slots) for carry in spec.kept)


def _write(buffers: Sequence[Array], values: Sequence[Array], slot: Array) -> States:
    """Buffers with a state put in; the primitive itself, because `lax`'s function is a nested `jit`."""
    return tuple(p.dynamic_update_slice_p.bind(buffer, lax.expand_dims(x, (0,)), slot, *[np.int32(0)] * x.ndim)
                 for buffer, x in zip(buffers, values, strict=True))


def _read(buffers: Sequence[Array], slot: Array) -> States:
    slices = [p.dynamic_slice_p.bind(buffer, slot, *[np.int32(0)] * (buffer.ndim - 1),
                                     slice_sizes=(1, *buffer.shape[1:])) for buffer in buffers]
    return tuple(lax.squeeze(part, (0,)) for part in slices)


higher_order(p.while_p, while_forward, dear=True)
higher_order(while_pullback_p, pullback_forward, dear=True)
