"""The pullback of `while_loop`, and its transpose: see `while_loop`, whose forward program leaves the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.evaluation import evaluate
from funcgrad.graph import Graph
from funcgrad.pending import add_cotangents
from funcgrad.planning import Plan
from funcgrad.pullback import FlatPullback, sweep, zeros_like_aval
from funcgrad.registry import higher_order
from funcgrad.rules.staging import Held, Layout, spread, stage_backward, strong
from funcgrad.trace import is_transposed
from funcgrad.trees import pytree, static
from funcgrad.vjp import record_linear

Array = Any
States = tuple[Array, ...]


class Loop(NamedTuple):
    """A loop with a scalar predicate.

    Attributes:
      cond: ``cond(*cond_consts, *carry) -> scalar``.
      body: ``body(*consts, *carry) -> carry``.
      cond_consts, consts: for each of them which operand it is.
      first: how many operands come before the initial carry.
    """

    cond: Held
    body: Held
    cond_consts: tuple[int, ...]
    consts: tuple[int, ...]
    first: int

    @property
    def num_consts(self) -> int:
        """How many inputs of the body come before the carry."""
        return len(self.consts)


class WhileSpec(NamedTuple):
    """The static part of a loop's pullback.

    Attributes:
      graph, plan, layout: of the body; what the plan saves are inputs of the body and constants of its program.
      active: for each input of the body, whether a cotangent flows to it.
      loop: the programs.
      rerun: the body without what no later state needs.
      rerun_inputs: indices of the body's inputs that `rerun` reads.
      kept: which carries a checkpoint holds, and `rerun` computes.
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

    @property
    def reached(self) -> tuple[int, ...]:
        """The operands that have cotangents, in the order in which the backward program gives them."""
        carries = (self.loop.first + i - self.loop.num_consts for i in self.active_carries)
        return (*(self.loop.consts[i] for i in self.active_consts), *carries)


# ---- backward ----


@pytree
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

    spec: WhileSpec = static()
    consts: dict[int, Array]
    constants: tuple[Array, ...]
    count: Array
    stride: Array
    marks: Array
    buffers: tuple[Array, ...]

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output of the loop, whether it can have a cotangent."""
        return self.spec.active[self.spec.loop.num_consts:]

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        spec = self.spec
        given = tuple(i for i, ct in enumerate(cts) if ct is not None)
        args = [self.count, self.stride, self.marks, *self.buffers, *self.consts.values(), *self.constants,
                *(cts[i] for i in given)]
        run = while_pullback_p.bind if is_transposed(args) else run_program
        results = run(*args, spec=spec, given=given)
        return spread(results, spec.reached, spec.loop.first + len(spec.graph.outputs))


def run_program(*args: Array, spec: WhileSpec, given: tuple[int, ...]) -> list[Array]:
    """Stage the backward program and run it."""
    return evaluate(_backward_program(args, spec, given), args)


def _backward_program(args: Sequence[Array], spec: WhileSpec, given: tuple[int, ...]) -> Any:
    avals = list(map(_compat.typeof, args))
    return stage_backward(run_backward, (spec, given), avals, f"pullback({spec.graph.name})").jaxpr


def run_backward(static: tuple[WhileSpec, tuple[int, ...]], *args: Array) -> list[Array]:
    """Cotangents of the active consts and initial carries."""
    spec, given = static
    (count, stride, marks), buffers, consts, constants, out_cts = split(
        args, 3, len(spec.kept), len(spec.read_consts), len(spec.layout.constants))
    spec = spec._replace(slots=marks.shape[0])  # as many as the forward run took
    back = Iteration(spec, dict(zip(spec.read_consts, consts, strict=True)), constants)
    inner_stride = lax.max(lax.div(stride, np.int32(spec.slots)), np.int32(1))  # 1 up to slots ** 2 iterations
    by_output = dict(zip(given, out_cts, strict=True))
    ct_carry = tuple(by_output.get(i - spec.loop.num_consts, None) for i in spec.active_carries)
    ct_carry = back.filled(ct_carry, spec.active_carries)

    def segment(state: tuple) -> tuple:
        number, ct_carry, ct_consts = state
        number = plus(number, -1)
        start = lax.mul(number, stride)
        slot = lax.argmax(lax.convert_element_type(lax.eq(marks, like(start, marks)), np.int32), 0, np.int32)
        length = lax.min(stride, lax.sub(count, start))
        states = back.fill(read_slot(buffers, slot), length, inner_stride)
        ct_carry, more = back.pull_segment(states, length, inner_stride, ct_carry)
        # a sum of its own for each segment: then no checkpoint of the second order holds the sum so far
        return number, ct_carry, tuple(map(add_cotangents, ct_consts, more))

    segments = lax.div(plus(plus(count, stride), -1), stride)
    _, ct_carry, ct_consts = lax.while_loop(
        lambda state: lax.gt(state[0], np.int32(0)), segment, (segments, ct_carry, back.no_const_cts()))
    return [*ct_consts, *ct_carry]


class Iteration(NamedTuple):
    """One iteration again and backward, and what is made of it; `consts` and `constants` as in `WhilePullback`."""

    spec: WhileSpec
    consts: dict[int, Array]
    constants: Sequence[Array]

    def step(self, xs: States) -> States:
        """The kept carries after one more iteration."""
        values = dict(self.consts)
        values |= {i + self.spec.loop.num_consts: x for i, x in zip(self.spec.kept, xs, strict=True)}
        return strong(evaluate(self.spec.rerun.jaxpr, [values[i] for i in self.spec.rerun_inputs]))

    def fill(self, xs: States, length: Array, stride: Array) -> States:
        """Buffers with every stride-th state of a segment that begins with `xs`."""

        def step(state: tuple) -> tuple:
            number, xs, buffers = state
            xs = self.step(xs)
            # the last one written to a slot stays: that whose number is a multiple of the stride
            slot = lax.div(plus(plus(number, stride), -1), stride)
            return plus(number, 1), xs, write(buffers, xs, slot)

        first = write(empty_buffers(xs, self.spec.slots + 1), xs, np.int32(0))
        return lax.while_loop(lambda state: lax.lt(state[0], length), step, (np.int32(1), xs, first))[2]

    def pull_segment(self, buffers: States, length: Array, stride: Array,
                     ct_carry: States) -> tuple[States, States]:
        """Cotangents before a segment from those after it, and what the segment adds to the consts'."""

        def step(state: tuple) -> tuple:
            number, ct_carry, ct_consts = state
            number = plus(number, -1)
            slot = lax.div(number, stride)
            _, xs = lax.while_loop(
                lambda inner: lax.lt(inner[0], number), lambda inner: (plus(inner[0], 1), self.step(inner[1])),
                (lax.mul(slot, stride), read_slot(buffers, slot)))
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
                tuple(None if cts[i] is None else strong((cts[i],))[0] for i in spec.active_consts))

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
        return strong([zeros_like_aval(aval) if ct is None else ct for ct, aval in zip(cts, avals, strict=True)])

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


def pullback_forward(active: tuple[bool, ...], *args: Array, spec: WhileSpec,
                     given: tuple[int, ...]) -> tuple[list[Array], Any]:
    """Outputs of the right type, whose values nobody has, and the loop of tangents as pullback."""
    count, rest = args[0], args[3:]
    buffers, consts, constants, _ = split(rest, len(spec.kept), len(spec.read_consts), len(spec.layout.constants))
    first = tuple(read_slot(buffers, np.int32(0)))  # the initial state: its checkpoint is never given up
    outputs = list(map(_compat.zeros_like_aval, _backward_program(args, spec, given).out_avals))
    return outputs, Pushforward(spec, given, count, first, tuple(consts), tuple(constants))


@pytree
class Pushforward:
    """Tangents of a loop's outputs `given` from those of its active consts and carries."""

    spec: WhileSpec = static()
    given: tuple[int, ...] = static()
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
    (count,), first, consts, constants, tangents = split(
        args, 1, len(spec.kept), len(spec.read_consts), len(spec.layout.constants))
    iteration = Iteration(spec, dict(zip(spec.read_consts, consts, strict=True)), constants)
    reached = (*spec.active_consts, *spec.active_carries)
    filled = iteration.filled(spread(tangents, moving, len(reached)), reached)
    of_consts, initial = split(filled, len(spec.active_consts))

    def step(state: tuple) -> tuple:
        number, xs, of_carry = state
        moved = iteration.push(xs, (*of_carry, *of_consts))
        return plus(number, 1), iteration.step(xs), moved

    _, _, final = lax.while_loop(lambda state: lax.lt(state[0], count), step,
                                 (np.int32(0), tuple(first), tuple(initial)))
    by_output = dict(zip((i - spec.loop.num_consts for i in spec.active_carries), final, strict=True))
    return [by_output[i] for i in given]


# ---- small parts ----


def plus(first: Array, second: Array | int) -> Array:
    return lax.add(first, np.int32(second) if isinstance(second, int) else second)


def like(scalar: Array, array: Array) -> Array:
    return lax.broadcast(scalar, array.shape)


def empty_buffers(xs: Sequence[Array], slots: int) -> States:
    """For each value a buffer of so many.

    It is filled with that value: under `vmap` a lane that is done may read a slot which nobody wrote, and goes on
    computing with it, so let it be something from the loop's domain.
    """
    return tuple(lax.broadcast(lax.stop_gradient(x), (slots,)) for x in xs)


def write(buffers: Sequence[Array], values: Sequence[Array], slot: Array) -> States:
    """Buffers with a state put in; the primitive itself, because `lax`'s function is a nested `jit`."""
    return tuple(p.dynamic_update_slice_p.bind(buffer, lax.expand_dims(x, (0,)), slot, *[np.int32(0)] * x.ndim)
                 for buffer, x in zip(buffers, values, strict=True))


def read_slot(buffers: Sequence[Array], slot: Array) -> States:
    slices = [p.dynamic_slice_p.bind(buffer, slot, *[np.int32(0)] * (buffer.ndim - 1),
                                     slice_sizes=(1, *buffer.shape[1:])) for buffer in buffers]
    return tuple(lax.squeeze(part, (0,)) for part in slices)


def split(values: Sequence[Array], *counts: int) -> list[list[Array]]:
    parts, start = [], 0
    for count in counts:
        parts.append(list(values[start:start + count]))
        start += count
    return [*parts, list(values[start:])]


higher_order(while_pullback_p, pullback_forward, dear=True)
