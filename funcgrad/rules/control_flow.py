"""Control flow: `cond`/`switch` and `scan` (with it `map`, `fori_loop` of a static trip count, `associative_scan`).

`segments.py` has the rule of `scan`: that of this module, or the same in segments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.graph import Graph
from funcgrad.pending import add_cotangents
from funcgrad.planning import Plan
from funcgrad.policies import Budget, Segments, in_force
from funcgrad.pullback import FlatPullback, recompute, zeros_like_aval
from funcgrad.registry import higher_order
from funcgrad.rules.blocks import in_blocks
from funcgrad.rules.staging import (
    BodyKind,
    Held,
    Layout,
    StagedForward,
    fixed_point,
    spread,
    stage_backward,
    stage_forward,
    strong,
)
from funcgrad.trees import pytree, static
from funcgrad.zeros import if_any_nan, strong_zeros, zeros_are_strong

Array = Any


# ---- scan ----
#
# forward:   (consts, carry, xs) -> (carry, ys)
# with residuals:  (consts, carry, xs) -> (carry, ys, hidden)         hidden is stacked by the loop
# backward:  (consts, invariant; ct_consts, ct_carry; xs, ys, hidden, ct_ys) -> (ct_consts, ct_carry; ct_xs), reversed
#
# The consts, the xs and the ys exist anyway and cost nothing; what depends on the consts alone is computed once, before
# the backward loop.


def scan_forward(active: tuple[bool, ...], *operands: Array, jaxpr: Any, num_consts: int, num_carry: int, length: int,
                 reverse: bool, unroll: Any) -> tuple[list[Array], Any]:
    """Run the loop with its residuals stacked."""
    count = len(jaxpr.out_avals)
    staged, active = stage_loop(active, len(operands), jaxpr, num_consts, num_carry, length)
    results = p.scan_p.bind(*operands, jaxpr=staged.jaxpr, num_consts=num_consts, num_carry=num_carry, length=length,
                            reverse=reverse, unroll=unroll)
    policy = in_force()
    spec = ScanSpec(staged.graph, staged.plan, staged.layout, active, num_consts, num_carry, length, reverse, unroll,
                    in_blocks=policy != "minimal" and not isinstance(policy, Budget | Segments))
    consts = {i: operands[i] for i in spec.kept_consts}
    stacked = {i: operands[index] for i, index in staged.layout.inputs if index >= num_consts}
    stacked |= {i: results[index] for i, index in staged.layout.outputs}
    stacked |= dict(zip(staged.layout.hidden, results[count:], strict=True))
    constants = dict(zip(staged.layout.constants, staged.constants, strict=True))
    return list(results[:count]), ScanPullback(spec, consts, constants, stacked)


def stage_loop(active: tuple[bool, ...], operands: int, jaxpr: Any, num_consts: int, num_carry: int, length: int,
               **_others: Any) -> tuple[StagedForward, tuple[bool, ...]]:
    """The forward program of a loop's body, and which of the loop's `operands` have a cotangent in some iteration."""
    count, scanned = len(jaxpr.out_avals), operands - num_consts - num_carry
    kind = BodyKind(
        free_inputs=(True,) * num_consts + (False,) * num_carry + (True,) * scanned,
        free_outputs=(False,) * num_carry + (True,) * (count - num_carry),
        invariant=(True,) * num_consts + (False,) * (num_carry + scanned), inline=True, repetitions=length)
    return fixed_point(lambda flags: stage_forward(jaxpr, flags, kind), active, num_consts, num_carry)


class ScanSpec(NamedTuple):
    """The static part of a loop's pullback; `in_blocks` unless the policy counts bytes."""

    graph: Graph
    plan: Plan
    layout: Layout
    active: tuple[bool, ...]
    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: Any
    in_blocks: bool

    @property
    def invariant_nodes(self) -> tuple[int, ...]:
        """Indices of the nodes whose outputs are kept and depend on consts alone, with what they need, in order."""
        wanted = [self.plan.saved[i] for i in self.layout.invariant]
        nodes: set[int] = set()
        while wanted:
            index = self.graph.producers.get(wanted.pop())
            if index is not None and index not in nodes:
                nodes.add(index)
                wanted.extend(v for v in self.graph.nodes[index].operands if isinstance(v, int))
        return tuple(sorted(nodes))

    @property
    def kept_consts(self) -> tuple[int, ...]:
        """Indices of the consts that the backward loop or its invariant values read."""
        read = {index for _, index in self.layout.inputs if index < self.num_consts}
        for index in self.invariant_nodes:
            read |= {v for v in self.graph.nodes[index].operands if isinstance(v, int) and v < self.num_consts}
        return tuple(sorted(read))

    def indices(self, first: int, count: int) -> tuple[int, ...]:
        """Active inputs among ``first … first + count``."""
        return tuple(i for i in range(first, first + count) if self.active[i])


@pytree
class ScanPullback:
    """Pullback of a loop: the reversed loop over the stacked residuals.

    Attributes:
      spec: the static part.
      consts: by input index, the consts that are read.
      constants: by position in ``plan.saved``, constants of the body's program.
      stacked: by position in ``plan.saved``, one residual for each iteration.
    """

    spec: ScanSpec = static()
    consts: dict[int, Array]
    constants: dict[int, Array]
    stacked: dict[int, Array]

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output, whether it can have a cotangent."""
        return self.spec.graph.out_active

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        if self.spec.in_blocks and zeros_are_strong():
            return self._strongly(cts)
        operands, params = self._backward_loop(cts)
        results = in_blocks(*operands, **params) if self.spec.in_blocks else None
        return self._spread(p.scan_p.bind(*operands, **params) if results is None else results)

    def _strongly(self, cts: Sequence[Array | None]) -> list[Array | None]:
        """In blocks as ever, and again iteration by iteration, where zeros are strong, if a NaN comes out.

        Not a loop with collectives: devices find their NaNs apart, and all must run the same ones.
        """
        again = dataclasses.replace(self, spec=self.spec._replace(in_blocks=False))
        with strong_zeros(False):
            operands, params = self._backward_loop(cts)
            results = None if _compat.has_collectives(params["jaxpr"]) else in_blocks(*operands, **params)
        if results is None:
            return again(cts)
        return if_any_nan(self._spread(results), lambda _, pullback, cts: pullback(cts), again, list(cts))

    def _backward_loop(self, cts: Sequence[Array | None]) -> tuple[list[Array], dict[str, Any]]:
        """Operands and params of the reversed loop."""
        spec, graph = self.spec, self.spec.graph
        given = tuple(i for i in range(spec.num_carry, len(graph.outputs)) if cts[i] is not None)
        fixed = self._fixed()
        consts = spec.indices(0, spec.num_consts)
        carries = spec.indices(spec.num_consts, spec.num_carry)
        initial = [zeros_like_aval(graph.avals[i]) for i in consts]
        for i in carries:
            ct = cts[i - spec.num_consts]
            initial.append(zeros_like_aval(graph.avals[i]) if ct is None else ct)
        # the body's cotangents keep their own avals, whatever weak type the caller's have
        scanned = [*self.stacked.values(), *(cts[i] for i in given)]
        avals = [*map(_compat.typeof, fixed.values()), *(graph.avals[i].to_ct_aval() for i in (*consts, *carries)),
                 *(graph.avals[spec.plan.saved[i]] for i in self.stacked),
                 *(_operand_aval(graph, graph.outputs[i]).to_ct_aval() for i in given)]
        body_spec = (spec, tuple(fixed), tuple(self.stacked), consts, carries, given)
        body = stage_backward(pull_scan_body, body_spec, avals, f"pullback({graph.name})")
        params = {"jaxpr": body.jaxpr, "num_consts": len(fixed), "num_carry": len(initial), "length": spec.length,
                  "reverse": not spec.reverse, "unroll": spec.unroll}
        return [*fixed.values(), *initial, *scanned], params

    def _spread(self, results: Sequence[Array]) -> list[Array | None]:
        """The cotangents of the loop's operands, None where there is none."""
        count = len(self.spec.graph.inputs)
        return spread(results, self.spec.indices(0, count), count)

    def _fixed(self) -> dict[int, Array]:
        """By position in ``plan.saved``, what is the same in each iteration."""
        spec = self.spec
        values = {**self.consts, **{spec.plan.saved[i]: v for i, v in self.constants.items()}}
        recompute(spec.graph, spec.invariant_nodes, values)
        positions = [i for i, index in spec.layout.inputs if index < spec.num_consts]
        positions += [*spec.layout.invariant, *spec.layout.constants]
        return {i: values[spec.plan.saved[i]] for i in positions}


def _operand_aval(graph: Graph, operand: Any) -> Any:
    return graph.avals[operand] if isinstance(operand, int) else operand.aval


def pull_scan_body(spec: tuple, *args: Array) -> list[Array]:
    """One iteration backward: sums into the consts' cotangents, hands on the carry's, gives those of the xs."""
    scan, fixed, stacked, consts, carries, given = spec
    own = iter(args)
    residuals = {i: next(own) for i in fixed}
    ct_consts = [next(own) for _ in consts]
    out_cts: list[Array | None] = [None] * len(scan.graph.outputs)
    for i in carries:
        out_cts[i - scan.num_consts] = next(own)
    residuals |= {i: next(own) for i in stacked}
    for i in given:
        out_cts[i] = next(own)
    pullback = FlatPullback(scan.graph, scan.plan, tuple(residuals[i] for i in range(len(scan.plan.saved))))
    cts = pullback(out_cts)
    summed = [add_cotangents(total, cts[i]) for total, i in zip(ct_consts, consts, strict=True)]
    xs = scan.indices(scan.num_consts + scan.num_carry, len(scan.graph.inputs) - scan.num_consts - scan.num_carry)
    handed_on = [zeros_like_aval(scan.graph.avals[i]) if cts[i] is None else cts[i] for i in (*carries, *xs)]
    return [*summed, *handed_on]


# ---- cond and switch ----
#
# Every branch fills its own residuals, and zeros for the others'; residuals of the same type share a place.


def cond_forward(active: tuple[bool, ...], index: Array, *operands: Array, branches: Sequence[Any],
                 **params: Any) -> tuple[list[Array], Any]:
    """Run the chosen branch with its residuals."""
    count = len(branches[0].out_avals)
    kind = BodyKind((True,) * len(operands), (True,) * count, inline=True)
    staged = tuple(stage_forward(branch, active[1:], kind) for branch in branches)
    slots, places = share_slots([_hidden_avals(s) for s in staged])
    spec = CondSpec(tuple(BranchSpec(s.graph, s.plan, s.layout, place)
                          for s, place in zip(staged, places, strict=True)))
    programs = tuple(_fill_slots(s, slots, place) for s, place in zip(staged, places, strict=True))
    results = p.cond_p.bind(index, *operands, branches=programs, **params)
    read_in = sorted({i for s in staged for _, i in s.layout.inputs})
    read_out = sorted({i for s in staged for _, i in s.layout.outputs})
    constants = tuple(s.constants for s in staged)
    return list(results[:count]), CondPullback(
        spec, index, {i: operands[i] for i in read_in}, {i: results[i] for i in read_out}, constants,
        tuple(results[count:]))


class BranchSpec(NamedTuple):
    """The static part of one branch's pullback; `place` says which shared slot holds each of its residuals."""

    graph: Graph
    plan: Plan
    layout: Layout
    place: tuple[int, ...]


class CondSpec(NamedTuple):
    """The static part of a `cond`'s pullback."""

    branches: tuple[BranchSpec, ...]


def _hidden_avals(staged: StagedForward) -> list[Any]:
    return [staged.graph.avals[staged.plan.saved[i]] for i in staged.layout.hidden]


def share_slots(groups: Sequence[Sequence[Any]]) -> tuple[list[Any], list[tuple[int, ...]]]:
    """Slots that hold each group's values one group at a time, and for each group the slot of each value."""
    slots: list[Any] = []
    places = []
    for group in groups:
        taken: set[int] = set()
        place = []
        for aval in group:
            slot = next((i for i, other in enumerate(slots) if i not in taken and _same_type(aval, other)), len(slots))
            if slot == len(slots):
                slots.append(aval)
            taken.add(slot)
            place.append(slot)
        places.append(tuple(place))
    return slots, places


def _same_type(aval: Any, other: Any) -> bool:
    return aval.strip_weak_type() == other.strip_weak_type()


def _fill_slots(staged: StagedForward, slots: Sequence[Any], place: Sequence[int]) -> Any:
    """A branch's forward program with all slots as additional outputs."""
    spec = (Held(staged.jaxpr), tuple(slots), tuple(place), len(staged.graph.outputs))
    avals = [v.aval for v in staged.jaxpr.jaxpr.invars]
    return stage_backward(run_branch, spec, avals, staged.graph.name).jaxpr


def run_branch(spec: tuple, *operands: Array) -> list[Array]:
    """The branch's outputs, then each slot: its own residual, or zeros."""
    held, slots, place, count = spec
    results = jax.core.eval_jaxpr(held.jaxpr.jaxpr, held.jaxpr.consts, *operands)
    own = dict(zip(place, results[count:], strict=True))
    filled = [own[i] if i in own else _compat.zeros_like_aval(aval) for i, aval in enumerate(slots)]
    return [*results[:count], *strong(filled)]


@pytree
class CondPullback:
    """Pullback of a `cond`: the same choice among the branches' pullbacks."""

    spec: CondSpec = static()
    index: Array
    inputs: dict[int, Array]
    outputs: dict[int, Array]
    constants: tuple[tuple[Array, ...], ...]
    slots: tuple[Array, ...]

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output, whether it can have a cotangent in any branch."""
        return tuple(map(any, zip(*(branch.graph.out_active for branch in self.spec.branches), strict=True)))

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        first = self.spec.branches[0].graph
        given = tuple(i for i, ct in enumerate(cts) if ct is not None)
        constants = [array for group in self.constants for array in group]
        args = [*self.inputs.values(), *self.outputs.values(), *constants, *self.slots, *(cts[i] for i in given)]
        avals = list(map(_compat.typeof, args))
        reached = tuple(i for i, flag in enumerate(first.active) if flag)
        programs = tuple(
            stage_backward(pull_branch, (self.spec, number, tuple(self.inputs), tuple(self.outputs),
                                         tuple(map(len, self.constants)), given), avals,
                           f"pullback({branch.graph.name})").jaxpr
            for number, branch in enumerate(self.spec.branches))
        results = p.cond_p.bind(self.index, *args, branches=programs)
        return [None, *spread(results, reached, len(first.inputs))]


def pull_branch(spec: tuple, *args: Array) -> tuple[Array, ...]:
    """The pullback of one branch; zeros for the operands that it does not reach."""
    cond, number, inputs, outputs, constant_counts, given = spec
    branch = cond.branches[number]
    own = iter(args)
    by_input = {i: next(own) for i in inputs}
    by_output = {i: next(own) for i in outputs}
    constants = [[next(own) for _ in range(count)] for count in constant_counts][number]
    rest = list(own)
    slots, ct_values = rest[: len(rest) - len(given)], rest[len(rest) - len(given):]
    residuals = {position: by_input[i] for position, i in branch.layout.inputs}
    residuals |= {position: by_output[i] for position, i in branch.layout.outputs}
    residuals |= {position: slots[i] for position, i in zip(branch.layout.hidden, branch.place, strict=True)}
    residuals |= dict(zip(branch.layout.constants, constants, strict=True))
    ordered = tuple(residuals[i] for i in range(len(branch.plan.saved)))
    cts = FlatPullback(branch.graph, branch.plan, ordered)(spread(ct_values, given, len(branch.graph.outputs)))
    return strong([
        zeros_like_aval(branch.graph.avals[i]) if ct is None else ct
        for i, (ct, flag) in enumerate(zip(cts, branch.graph.active, strict=True)) if flag
    ])


higher_order(p.cond_p, cond_forward)
