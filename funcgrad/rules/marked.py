"""Programs that run in a place or under a mark of their own, and values that have one.

`jax.experimental.compute_on.compute_on2`, `scheduling_groups.scheduling_group` and `fused.fused` hold a program; its
pullback runs in the same place, under the same mark. Nobody imports these modules who does not use them, so their rules
are registered later.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive

from funcgrad import _compat
from funcgrad._compat import primitives as private
from funcgrad.graph import Graph, Params
from funcgrad.planning import Plan
from funcgrad.pullback import FlatPullback
from funcgrad.registry import higher_order, later, linear
from funcgrad.rules.call import pull_body
from funcgrad.rules.staging import BodyKind, assemble, spread, stage_backward, stage_forward
from funcgrad.trace import is_transposed
from funcgrad.trees import pytree, static

Array = Any
Aval = Any


class Mark(NamedTuple):
    """A primitive that runs a program.

    Attributes:
      primitive: what runs it.
      spaces: the param that says for each output in which memory it lies; None if there is none.
    """

    primitive: Primitive
    spaces: str | None = None

    def run(self, jaxpr: Any, operands: Sequence[Array], params: Params, spaces: Sequence[Any]) -> list[Array]:
        """Another program in the same place; `spaces` are those of its outputs."""
        own = {} if self.spaces is None else {self.spaces: tuple(spaces)}
        return self.primitive.bind(*operands, jaxpr=jaxpr, **(params | own))


def marked_forward(mark: Mark, active: tuple[bool, ...], *operands: Array, jaxpr: Any,
                   **params: Any) -> tuple[list[Array], Any]:
    """Run the forward program of the body; the residuals that it adds are more outputs, in the device's memory."""
    count = len(jaxpr.out_avals)
    made_in = tuple(aval.memory_space for aval in jaxpr.out_avals)
    spaces = made_in if mark.spaces is None else params[mark.spaces]
    here = tuple(map(operator.eq, made_in, spaces))  # an output that is moved is not the value that the body made
    staged = stage_forward(jaxpr, active, BodyKind((True,) * len(operands), here))
    results = mark.run(staged.jaxpr, operands, Params(params),
                       [*spaces, *[jax.memory.Space.Device] * staged.hidden_count])
    residuals = assemble(staged, operands, results)
    return list(results[:count]), MarkedPullback(
        staged.graph, staged.plan, mark, Params(params), tuple(_compat.typeof(x).memory_space for x in operands),
        made_in, residuals)


@pytree
class MarkedPullback:
    """Pullback of a program under a mark: the backward program has the same mark.

    Attributes:
      graph, plan: of the body.
      mark, params: how it runs.
      in_spaces: memory of each operand, where its cotangent goes. The body may see it in another.
      made_in: memory in which the body makes each output, before it is moved.
    """

    graph: Graph = static()
    plan: Plan = static()
    mark: Mark = static()
    params: Params = static()
    in_spaces: tuple[Any, ...] = static()
    made_in: tuple[Any, ...] = static()
    residuals: tuple[Array, ...]

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output, whether it can have a cotangent."""
        return self.graph.out_active

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        given = tuple(i for i, ct in enumerate(cts) if ct is not None)
        seen_in = [*(self.graph.avals[value].memory_space for value in self.plan.saved),
                   *(self.made_in[i] for i in given)]
        args = (*self.residuals, *(cts[i] for i in given))
        if is_transposed(args) or _compat.seeks_nans_at_once():
            moved = list(map(_moved, args, seen_in))
            kept = len(self.residuals)
            return FlatPullback(self.graph, self.plan, tuple(moved[:kept]))(spread(moved[kept:], given, len(cts)))
        avals = [_compat.typeof(x).update(memory_space=space) for x, space in zip(args, seen_in, strict=True)]
        staged = stage_backward(pull_body, (self.graph, self.plan, given), avals, f"pullback({self.graph.name})")
        if not staged.reached:
            return [None] * len(self.graph.inputs)
        results = self.mark.run(staged.jaxpr, args, self.params, [self.in_spaces[i] for i in staged.reached])
        return spread(results, staged.reached, len(self.graph.inputs))


def _moved(x: Array, space: Any) -> Array:
    """The array in the memory in which the body sees it."""
    return x if space in (_compat.typeof(x).memory_space, jax.memory.Space.Any) else jax.device_put(x, space)


# ---- the primitives, once their modules are there ----


def register_program(module: str, name: str, spaces: str | None) -> None:
    """What holds a program."""
    primitive = getattr(importlib.import_module(module), name)
    higher_order(primitive, functools.partial(marked_forward, Mark(primitive, spaces)))


def register_tag() -> None:
    """A tag on the operation that made a value. A cotangent is made by another, and has none."""
    linear(private.tag(), lambda ct, _x, *, xla_metadata_kvs: ct)


def register_parts() -> None:
    """An array of all processes from the part that each has, and back: either is the other's transpose."""
    from jax.experimental.multihost_utils import global_array_to_host_local_array_p as to_parts
    from jax.experimental.multihost_utils import host_local_array_to_global_array_p as to_whole

    linear(to_whole, lambda ct, _x, *, global_mesh, pspec: to_parts.bind(ct, global_mesh=global_mesh, pspec=pspec))
    linear(to_parts, lambda ct, _x, *, global_mesh, pspec: to_whole.bind(ct, global_mesh=global_mesh, pspec=pspec))


for module, name, spaces in private.MARKED_PROGRAMS:
    later(module, functools.partial(register_program, module, name, spaces))
later("jax.experimental.xla_metadata", register_tag)
later("jax.experimental.multihost_utils", register_parts)
