"""`scan`, which a budget may cut into segments: two levels of checkpoints, or more.

A loop of n iterations becomes a loop over n / m segments of m iterations each. The outer loop keeps the carry at the
start of each segment; backward, a segment runs again, this time with its residuals, and is pulled. With m near √n a
long loop needs about √n states in place of n, for one forward pass more (Griewank and Walther 2000, "Algorithm 799:
Revolve", has the optimum). The inner loop has what is left of the budget, and may be cut again.

    forward:  (consts; carry; xs[k, m])  -> (carry; ys[k, m])           k segments
              (consts; carry; xs[r])     -> (carry; ys[r])              the rest, when m does not divide n
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from jax.extend.core import primitives as p
from jax.extend.core import unmapped_aval

from funcgrad import _compat
from funcgrad.cost import value_bytes
from funcgrad.pending import add_cotangents
from funcgrad.policies import Budget, Segments, given, in_force
from funcgrad.registry import higher_order
from funcgrad.rules.control_flow import ScanPullback, scan_forward, stage_loop
from funcgrad.rules.cutting import Cut, near_divisor
from funcgrad.rules.staging import StagedForward
from funcgrad.trees import pytree, static

Array = Any
#: Shorter loops are not cut.
SHORTEST = 4


def loop_forward(active: tuple[bool, ...], *operands: Array, **params: Any) -> tuple[list[Array], Any]:
    """Run the loop with its residuals stacked, or in segments where a budget asks for it."""
    policy = in_force()
    if isinstance(policy, Budget) and params["length"] >= SHORTEST:
        staged, active = stage_loop(active, len(operands), **params)
        segment = _segment_length(policy, staged, active, len(operands), params)
        if segment:
            return _run_segments(policy, segment, _carry_bytes(staged, params), active, operands, params)
    return scan_forward(active, *operands, **params)


# ---- how long a segment is ----


def _hidden_bytes(staged: StagedForward) -> int:
    """What an iteration stacks."""
    return sum(value_bytes(staged.graph.avals[staged.plan.saved[i]]) for i in staged.layout.hidden)


def _carry_bytes(staged: StagedForward, params: dict[str, Any]) -> int:
    """What one state takes, as far as a backward pass can need it."""
    first = params["num_consts"]
    return sum(value_bytes(staged.graph.avals[i]) for i in range(first, first + params["num_carry"]))


def _segment_length(policy: Budget, staged: StagedForward, active: tuple[bool, ...], count: int,
                    params: dict[str, Any]) -> int:
    """Iterations of a segment; 0 when the loop fits in the budget as it is, or would not get smaller."""
    length, kept = params["length"], _hidden_bytes(staged)
    if kept * length <= policy.bytes:
        return 0
    with given("auto"):
        plain, _ = stage_loop(active, count, **params)
    state, step = max(1, _carry_bytes(staged, params)), max(1, _hidden_bytes(plain))
    best = math.sqrt(length * state / step)  # least state * length / m + step * m
    if state * length / best + step * best > policy.bytes:  # a segment must be cut again, or compute more
        best = max(math.sqrt(length), 2 * length * state / max(1, policy.bytes))
    segment = near_divisor(length, min(max(2, round(best)), length // 2))
    smallest = state * -(-length // segment) + min(kept, state) * segment
    return segment if smallest < kept * length else 0


# ---- the two loops ----


# Weak in the body's program, as all that is staged from it.
_BODIES: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def _segment_body(segment: int, params: dict[str, Any]) -> Any:
    """The program of one segment, itself a loop."""
    jaxpr = params["jaxpr"]
    cache = _BODIES.setdefault(jaxpr, {})
    key = (segment, *(params[name] for name in ("num_consts", "num_carry", "reverse", "unroll")),
           _compat.trace_context())
    if key not in cache:
        def run(*args: Array) -> list[Array]:
            return p.scan_p.bind(*args, **{**params, "length": segment})

        bound = params["num_consts"] + params["num_carry"]
        avals = [v.aval for v in jaxpr.jaxpr.invars[:bound]]
        avals += [unmapped_aval(segment, 0, v.aval) for v in jaxpr.jaxpr.invars[bound:]]
        cache[key] = _compat.stage(run, avals, jaxpr.jaxpr.debug_info.func_name)
    return cache[key]


def _run_segments(policy: Budget, segment: int, state: int, active: tuple[bool, ...], operands: Sequence[Array],
                  params: dict[str, Any]) -> tuple[list[Array], Any]:
    cut = Cut.of(params["length"], segment, params["reverse"])
    bound, num_carry = params["num_consts"] + params["num_carry"], params["num_carry"]
    consts, carry, xs = operands[: params["num_consts"]], operands[params["num_consts"]: bound], operands[bound:]
    left = Budget(max(0, policy.bytes - state * cut.segments))
    body = _segment_body(segment, params)
    with given(Segments(left)):
        outs, main = scan_forward(active, *consts, *carry, *map(cut.main, xs),
                                  **{**params, "jaxpr": body, "length": cut.segments, "unroll": 1})
    carry, ys, last = outs[:num_carry], outs[num_carry:], None
    parts: Sequence[Array | None] = [None] * len(ys)
    if cut.rest:
        with given(left):
            outs, last = loop_forward(active, *consts, *carry, *map(cut.last, xs), **{**params, "length": cut.rest})
        carry, parts = outs[:num_carry], outs[num_carry:]
    outputs = [*carry, *map(cut.joined, ys, parts)]
    spec = SegmentsSpec(cut, params["num_consts"], num_carry)
    return outputs, SegmentsPullback(spec, _whole(main, operands, outputs), last)


def _whole(pullback: ScanPullback, operands: Sequence[Array], outputs: Sequence[Array]) -> ScanPullback:
    """The pullback with scanned inputs and outputs uncut, so that they are arrays that somebody holds anyway."""
    layout, num_consts = pullback.spec.layout, pullback.spec.num_consts
    stacked = dict(pullback.stacked)
    stacked |= {position: operands[index] for position, index in layout.inputs if index >= num_consts}
    stacked |= {position: outputs[index] for position, index in layout.outputs}
    return dataclasses.replace(pullback, stacked=stacked)


class SegmentsSpec(NamedTuple):
    """The static part of a cut loop's pullback."""

    cut: Cut
    num_consts: int
    num_carry: int


@pytree
class SegmentsPullback:
    """Pullback of a loop in segments.

    Attributes:
      spec: the static part.
      main: of the loop over segments, with scanned inputs and outputs uncut.
      last: of the iterations after the last segment.
    """

    spec: SegmentsSpec = static()
    main: ScanPullback
    last: Any

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output, whether it can have a cotangent."""
        return self.main.out_active

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        spec, cut = self.spec, self.spec.cut
        bound = spec.num_consts + spec.num_carry
        ct_carry, ct_ys = list(cts[: spec.num_carry]), cts[spec.num_carry:]
        after: list[Array | None] = []
        if self.last is not None:
            after = self.last([*ct_carry, *(None if ct is None else cut.last(ct) for ct in ct_ys)])
            ct_carry = after[spec.num_consts: bound]
        before = self._cut_main()([*ct_carry, *(None if ct is None else cut.main(ct) for ct in ct_ys)])
        joined = [None if ct is None else cut.joined(ct, after[bound + i] if after else None)
                  for i, ct in enumerate(before[bound:])]
        consts = before[: spec.num_consts]
        if after:
            consts = [add_cotangents(one, other) for one, other in zip(consts, after, strict=False)]
        return [*consts, *before[spec.num_consts: bound], *joined]

    def _cut_main(self) -> ScanPullback:
        layout, num_consts = self.main.spec.layout, self.main.spec.num_consts
        whole = {i for i, index in layout.inputs if index >= num_consts} | {i for i, _ in layout.outputs}
        stacked = {i: self.spec.cut.main(x) if i in whole else x for i, x in self.main.stacked.items()}
        return dataclasses.replace(self.main, stacked=stacked)


higher_order(p.scan_p, loop_forward, dear=True)
