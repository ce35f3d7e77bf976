"""Run the programs inside a node again with the numbers that it had: bodies that run once, and single iterations.

A node of a recorded graph may hold a program (`jit`, a branch, a loop's body). With concrete operands it can be
recorded once more as a graph of its own, whose values are all there; of a loop, any one iteration can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import source_info_util
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad._compat import primitives as private
from funcgrad.evaluation import evaluate
from funcgrad.graph import Node, carries_gradient
from funcgrad.inspection.frames import is_users
from funcgrad.inspection.naming import own_pullback
from funcgrad.pullback import sweep, zeros_like_aval
from funcgrad.rules.control_flow import ScanPullback
from funcgrad.rules.staging import strong
from funcgrad.rules.while_pullback import Loop, WhilePullback
from funcgrad.vjp import Recording, record

Array = Any
Read = Callable[[int], Array]

#: A loop whose states take more bytes than this is not run again.
LARGEST_LOOP = 1 << 30
#: Where the body of a node that runs it once stands among its params.
_HELD_IN = {p.jit_p: "jaxpr", p.remat_p: "jaxpr", p.closed_call_p: "call_jaxpr", p.call_p: "call_jaxpr",
            p.custom_jvp_call_p: "call_jaxpr", p.custom_vjp_call_p: "call_jaxpr", private.custom_vmap_p: "call",
            private.composite_p: "jaxpr"}


@dataclasses.dataclass(frozen=True)
class Inside:
    """One step into a program inside the program.

    Attributes:
      what: "jit", "scan step", "while iteration", "cond branch", "batch index", …
      name: the inner function's name, where it has one.
      number: which step, iteration, branch or index; None where there is but one.
      axes: of a `shard_map`: names and sizes of the mesh axes whose shards are the first axes of the arrays inside.
      own: whether it is the user's to change: not a derivative rule of JAX's.
    """

    what: str
    name: str = ""
    number: int | None = None
    axes: tuple[tuple[str, int], ...] = ()
    own: bool = True

    def __str__(self) -> str:
        name = "λ" if self.name == "<lambda>" else self.name
        words = (self.what, f"`{name}`" if name else "", "" if self.number is None else str(self.number))
        return " ".join(filter(None, words))


def operands_of(node: Node, read: Read) -> list[Array]:
    """The values of a node's operands."""
    return [read(v) if isinstance(v, int) else v.value for v in node.operands]


def record_inside(node: Node, jaxpr: Any, args: Sequence[Array], active: Sequence[bool]) -> Recording:
    """Record a program of `node` once, with these arguments, as if called from the node's own line."""
    with source_info_util.user_context(node.source.traceback, name_stack=node.source.name_stack):
        return record(lambda *values: evaluate(jaxpr, values), args, active, name=jaxpr.jaxpr.debug_info.func_name)


# ---- programs that run once ----


def run_once(node: Node, read: Read) -> tuple[Inside, Recording, int] | None:
    """The program that a node runs once, recorded; and how many operands stand before its arguments.

    None for nodes that hold none, or one that cannot run twice.
    """
    if not node.rerunnable:
        return None
    operands = operands_of(node, read)
    if node.primitive is p.cond_p:
        number = int(np.clip(int(operands[0]), 0, len(node.params["branches"]) - 1))
        body = node.params["branches"][number]
        return Inside("cond branch", number=number), record_inside(node, body, operands[1:], node.active[1:]), 1
    key = _HELD_IN.get(node.primitive)
    body = node.params.get(key) if key else None
    if body is None:
        return None
    body = body if hasattr(body, "consts") else _compat.closed(body)
    what = "checkpoint" if node.primitive is p.remat_p else str(node.primitive).removesuffix("_call")
    debug_info = body.jaxpr.debug_info
    own = not what.startswith("custom_") or is_users(debug_info.func_filename or "")
    inside = Inside(what, str(node.params.get("name") or debug_info.func_name), own=own)
    return inside, record_inside(node, body, operands, node.active), 0


# ---- loops ----


@dataclasses.dataclass(frozen=True)
class LoopRun:
    """A loop that runs again, iteration by iteration, counted as the program ran them.

    Attributes:
      node: the loop.
      what: "scan step" or "while iteration".
      body: ``body(*consts, *carry, *xs) -> (*carry, *ys)``.
      active: for each input of the body, whether a cotangent flows to it.
      consts, initial: values.
      xs: stacked values, in the order of the iterations.
      length: number of iterations.
      flipped: whether the stacked values come in the other order in the program itself.
    """

    node: Node
    what: str
    body: Any
    active: tuple[bool, ...]
    consts: tuple[Array, ...]
    initial: tuple[Array, ...]
    xs: tuple[Array, ...]
    length: int
    flipped: bool = False

    @cached_property
    def states(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The carry before each iteration, and what the iterations gave: (carries, ys), stacked."""
        width = len(self.initial)

        def step(carry: tuple, xs: tuple) -> tuple:
            results = strong(evaluate(self.body, [*self.consts, *carry, *xs]))
            return results[:width], (carry, results[width:])

        final: Any = lax.scan(step, strong(self.initial), self.xs, length=self.length)
        last, (carries, ys) = final
        stacked = [np.concatenate([np.asarray(c), np.asarray(x)[None]]) for c, x in zip(carries, last, strict=True)]
        return stacked, list(map(np.asarray, ys))

    def number(self, step: int) -> int:
        """The index of an iteration in the stacked values of the program."""
        return self.length - 1 - step if self.flipped else step

    def recording(self, step: int) -> Recording:
        """One iteration, recorded."""
        carry = [jax.numpy.asarray(c[step]) for c in self.states[0]]
        args = [*self.consts, *carry, *(x[step] for x in self.xs)]
        return record_inside(self.node, self.body, args, self.active)

    @property
    def moving(self) -> tuple[int, ...]:
        """Which carries have cotangents."""
        first = len(self.consts)
        return tuple(i for i in range(len(self.initial)) if self.active[first + i])

    def cotangents(self, cts: Sequence[Array | None]) -> tuple[list[np.ndarray], list[np.ndarray | None], np.ndarray]:
        """The backward loop from the cotangents of the loop's outputs.

        Returns:
          for each moving carry its cotangent after each iteration, for each y its cotangents, stacked; and for each
          iteration whether its own backward step gives a number that is not finite.
        """
        width, avals = len(self.initial), [aval.to_ct_aval() for aval in self.body.in_avals]
        first = len(self.consts)
        of_ys = [ct if ct is None or not self.flipped else ct[::-1] for ct in cts[width:]]
        given = [i for i, ct in enumerate(of_ys) if ct is not None]

        def step(ct_carry: tuple, stacked: tuple) -> tuple:
            carry, xs, ct_ys = stacked
            found = record(lambda *args: evaluate(self.body, args), [*self.consts, *carry, *xs], self.active)
            out_cts: list[Array | None] = [None] * len(found.graph.outputs)
            for i, ct in zip(self.moving, ct_carry, strict=True):
                out_cts[i] = ct
            for i, ct in zip(given, ct_ys, strict=True):
                out_cts[width + i] = ct
            in_cts = sweep(found.graph, found.read, out_cts)
            bad = ~all_finite(in_cts)
            before = strong([zeros_like_aval(avals[first + i]) if in_cts[first + i] is None else in_cts[first + i]
                             for i in self.moving])
            return before, (ct_carry, bad)

        filled = strong([zeros_like_aval(avals[first + i]) if cts[i] is None else cts[i] for i in self.moving])
        carries = tuple(jax.numpy.asarray(c[:-1]) for c in self.states[0])
        stacked = (carries, self.xs, tuple(of_ys[i] for i in given))
        final: Any = lax.scan(step, filled, stacked, length=self.length, reverse=True)
        _, (arriving, bad) = final
        host = [None if ct is None else np.asarray(ct) for ct in of_ys]
        return list(map(np.asarray, arriving)), host, np.asarray(bad)


def all_finite(values: Sequence[Array | None]) -> Array:
    flags = [lax.reduce_and(lax.is_finite(part), tuple(range(part.ndim))) for value in values if value is not None
             for part in ((value.real, value.imag) if np.iscomplexobj(value) else (value,))
             if carries_gradient(_compat.typeof(value))]
    return jax.numpy.stack(flags).all() if flags else jax.numpy.asarray(True)


def loop_run(node: Node, read: Read) -> LoopRun | None:
    """The loop of a node, ready to run again; None for other nodes, and for loops too long to keep all states."""
    if not node.rerunnable:
        return None
    found = _scan(node, read) if node.primitive is p.scan_p else _while(node, read) if (
        node.primitive is p.while_p) else None
    if found is None or found.length == 0 or found.length * sum(map(_bytes, found.initial)) > LARGEST_LOOP:
        return None
    return found


def _bytes(value: Array) -> int:
    return int(np.prod(np.shape(value), dtype=np.int64)) * np.dtype(value.dtype).itemsize


def _scan(node: Node, read: Read) -> LoopRun:
    operands, params = operands_of(node, read), node.params
    first, width = params["num_consts"], params["num_carry"]
    pullback = own_pullback(node)
    active = pullback.spec.active if isinstance(pullback, ScanPullback) else (False,) * len(operands)
    xs = [jax.numpy.asarray(x) for x in operands[first + width:]]
    return LoopRun(node, "scan step", params["jaxpr"], active, tuple(operands[:first]),
                   tuple(operands[first:first + width]), tuple(x[::-1] if params["reverse"] else x for x in xs),
                   params["length"], params["reverse"])


def _while(node: Node, read: Read) -> LoopRun | None:
    operands, params = operands_of(node, read), node.params
    pullback = own_pullback(node)
    cond, body = params["cond_jaxpr"], params["body_jaxpr"]
    if isinstance(pullback, WhilePullback):
        loop: Loop = pullback.spec.loop
        cond, body, first = loop.cond.jaxpr, loop.body.jaxpr, loop.first
        cond_consts, consts = ([operands[i] for i in indices] for indices in (loop.cond_consts, loop.consts))
        active = pullback.spec.active
    elif cond.out_avals[0].shape:  # of a batched loop that has no gradient
        return None
    else:
        first = params["cond_nconsts"] + params["body_nconsts"]
        cond_consts, consts = operands[:params["cond_nconsts"]], operands[params["cond_nconsts"]:first]
        active = (False,) * len(body.in_avals)
    initial = strong(operands[first:])

    def step(state: tuple) -> tuple:
        return state[0] + 1, strong(evaluate(body, [*consts, *state[1]]))

    count, _ = lax.while_loop(lambda state: evaluate(cond, [*cond_consts, *state[1]])[0], step,
                              (np.int32(0), initial))
    return LoopRun(node, "while iteration", body, active, tuple(consts), initial, (), int(count))
