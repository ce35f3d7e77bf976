"""From the operation that a NaN comes out of into the program that it holds, as far as that can run again.

A `jit`, a branch, a checkpoint and a user's own derivative rule are recorded once more with the numbers that they had;
of a loop the iteration to blame; of a `shard_map` all shards on one device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from funcgrad._compat import primitives as private
from funcgrad.graph import Node
from funcgrad.inspection.origins import Origin, Program, Search, bad, search
from funcgrad.inspection.replay import Inside, LoopRun, loop_run, run_once
from funcgrad.inspection.shards import shard_run
from funcgrad.pullback import FlatPullback
from funcgrad.rules.call import CustomJVPPullback, CustomVJPPullback, JitPullback, RematPullback
from funcgrad.vjp import record

Array = Any

#: So many iterations that look bad are searched before a loop is named as a whole.
TRIES = 64

@dataclasses.dataclass(frozen=True)
class Found:
    """A birth, in the innermost program that is known.

    Attributes:
      search: the innermost search.
      origin: its origin.
      inside: the way there, outermost first.
      outer: for each level above, outermost first, the search and the index of the node that holds the program.
    """

    search: Search
    origin: Origin
    inside: tuple[Inside, ...] = ()
    outer: tuple[tuple[Search, int], ...] = ()


def innermost(found: Search, origin: Origin, inside: tuple[Inside, ...] = (),
              outer: tuple[tuple[Search, int], ...] = ()) -> Found:
    """Follow an origin into the programs that its node holds, as far as they can run again."""
    here = Found(found, origin, inside, outer)
    if origin.given:
        return here
    node = found.program.graph.nodes[origin.index]
    deeper = _descend(node, found, origin)
    if deeper is None:
        return here
    step, below, birth = deeper
    more = (step,) if step is not None else ()
    return innermost(below, birth, (*inside, *more), (*outer, (found, origin.index)))


Deeper = tuple[Inside | None, Search, Origin] | None


def _descend(node: Node, above: Search, origin: Origin) -> Deeper:
    cts = [above.cts.get(v) for v in node.outputs] if origin.backward else None
    loop = loop_run(node, above.program.read)
    if loop is not None:
        return _in_backward_loop(loop, cts) if cts is not None else _in_forward_loop(loop)
    if cts is not None and node.pullback is not None:
        deeper = _in_custom_rule(node, above, cts)
        if deeper is not None:
            return deeper
    if node.primitive is private.shard_map_p:
        return _in_shards(node, above, cts)
    once = run_once(node, above.program.read)
    if once is None:
        return _in_pullback(node, above, cts)
    step, recording, _ = once
    return _result(step, search(Program.of(recording), cts))


def _result(step: Inside | None, below: Search) -> Deeper:
    """The way down, if the search there found an operation."""
    origin = below.first
    return None if origin is None or origin.given else (step, below, origin)


def _own_pullback(node: Node, above: Search) -> Any:
    if node.pullback is None:
        return None
    leaves = [above.program.read(v) if isinstance(v, int) else v.value for v in node.pullback.leaves]
    return jax.tree.unflatten(node.pullback.tree, leaves)


def _in_custom_rule(node: Node, above: Search, cts: Sequence[Array | None]) -> Deeper:
    """Into a user's own derivative rule: the graph of its tangents, or its backward function, recorded now."""
    pullback = _own_pullback(node, above)
    if isinstance(pullback, CustomJVPPullback):
        program = Program.of_pullback(pullback.tangents)
        return _result(Inside("custom_jvp rule"), search(program, [cts[i] for i in pullback.indices]))
    if isinstance(pullback, CustomVJPPullback):
        count = len(pullback.residuals)
        given = [i for i, ct in enumerate(cts) if ct is not None]

        def backward(*args: Array) -> list[Array]:
            full: list[Array | None] = [None] * len(cts)
            for i, ct in zip(given, args[count:], strict=True):
                full[i] = ct
            return [ct for ct in dataclasses.replace(pullback, residuals=args[:count])(full) if ct is not None]

        args = [*pullback.residuals, *(cts[i] for i in given)]
        recording = record(backward, args, [False] * len(args), name="backward rule")
        return _result(Inside("custom_vjp rule"), search(Program.of(recording), None))
    return None


def _in_pullback(node: Node, above: Search, cts: Sequence[Array | None] | None) -> Deeper:
    """Into a program that cannot run again: only what its pullback keeps is known."""
    pullback = _own_pullback(node, above) if cts is not None else None
    if isinstance(pullback, JitPullback | RematPullback):
        pullback = FlatPullback(pullback.graph, pullback.plan, pullback.residuals)
    if not isinstance(pullback, FlatPullback):
        return None
    return _result(Inside(str(node.primitive)), search(Program.of_pullback(pullback), cts))


def _in_shards(node: Node, above: Search, cts: Sequence[Array | None] | None) -> Deeper:
    """Into the body of a `shard_map`, all shards on one device."""
    try:
        with jax.set_mesh(None):
            step, recording = shard_run(node, above.program.read)
            moved = cts and [None if ct is None else jax.device_put(ct, jax.local_devices()[0]) for ct in cts]
            return _result(step, search(Program.of(recording), moved))
    except Exception:  # what `vmap` cannot do, in whatever library: then the `shard_map` is named as a whole
        return None


# ---- loops ----


def _in_forward_loop(loop: LoopRun, before: int | None = None) -> Deeper:
    """The first iteration that makes numbers that are not finite out of finite ones."""
    carries, ys = loop.states
    wrong = np.zeros(loop.length, bool)
    for stacked in (*(c[1:] for c in carries), *ys):
        wrong |= np.atleast_2d(bad(stacked).reshape(loop.length, -1) if bad(stacked).shape else
                               np.zeros((loop.length, 1), bool)).any(axis=1)
    for step in np.flatnonzero(wrong[:before])[:TRIES]:
        deeper = _result(Inside(loop.what, number=loop.number(int(step))),
                         search(Program.of(loop.recording(int(step))), None))
        if deeper is not None:
            return deeper
    return None


def _in_backward_loop(loop: LoopRun, cts: Sequence[Array | None]) -> Deeper:
    """The last iteration whose backward step gives such numbers; or an earlier one that hands it such a value."""
    arriving, of_ys, wrong = loop.cotangents(cts)
    width = len(loop.initial)
    for step in np.flatnonzero(wrong)[::-1][:TRIES]:
        seeds: list[Array | None] = [None] * (width + len(of_ys))
        for position, stacked in zip(loop.moving, arriving, strict=True):
            seeds[position] = jax.numpy.asarray(stacked[step])
        seeds[width:] = [None if ct is None else jax.numpy.asarray(ct[step]) for ct in of_ys]
        below = search(Program.of(loop.recording(int(step))), seeds)
        birth = below.in_gradient
        if birth is None or birth.given:
            continue
        handed = below.values.keys() & set(below.program.graph.inputs)
        earlier = _in_forward_loop(loop, int(step)) if handed and birth.backward else None
        return earlier or (Inside(loop.what, number=loop.number(int(step))), below, birth)
    return None

