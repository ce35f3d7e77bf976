"""`shard_map`: the body is staged as one device sees it, forward and backward.

Residuals that the body computes leave the forward `shard_map` and enter the backward one as global arrays whose first
dimension holds the shards of all devices, so that nothing is exchanged for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax
from jax.extend.core import Literal, Primitive
from jax.extend.core import primitives as p
from jax.sharding import PartitionSpec

from funcgrad import _compat
from funcgrad._compat import primitives as private
from funcgrad.evaluation import evaluate
from funcgrad.graph import Graph
from funcgrad.interning import intern_jaxpr
from funcgrad.planning import Plan
from funcgrad.pullback import FlatPullback, zeros_like_aval
from funcgrad.registry import higher_order, lookup
from funcgrad.rules.staging import BodyKind, StagedForward, assemble, spread, stage_backward, stage_forward
from funcgrad.trace import GraphTrace
from funcgrad.tracer import UNKNOWN
from funcgrad.trees import pytree, static

Array = Any


class Region(NamedTuple):
    """Where the body runs: the mesh, its axes that are manual inside, and whether types know what varies."""

    mesh: Any
    axes: frozenset
    check_vma: bool

    def inside(self) -> Any:
        """The context in which the body is traced."""
        return _compat.inside_shard_map(self.mesh, self.axes, self.check_vma)

    def copies(self, spec: Any) -> tuple:
        """Axes along which an operand or output is the same on all devices, where types do not know it."""
        return () if self.check_vma else _compat.unmentioned_axes(spec, self.mesh, self.axes)

    def bind(self, jaxpr: Any, operands: Sequence[Array], in_specs: Sequence[Any], out_specs: Sequence[Any]) -> list:
        """Run a staged body on all devices."""
        return _compat.bind_shard_map(jaxpr, operands, {
            "mesh": self.mesh, "newly_manual_axes": self.axes, "check_vma": self.check_vma,
            "in_specs": tuple(in_specs), "out_specs": tuple(out_specs)})


def shard_map_forward(active: tuple[bool, ...], *operands: Array, jaxpr: Any, mesh: Any, in_specs: Sequence[Any],
                      out_specs: Sequence[Any], check_vma: bool, newly_manual_axes: frozenset) -> tuple[list, Any]:
    """Run the body's forward program on all devices, with its residuals as additional outputs."""
    region = Region(mesh, newly_manual_axes, check_vma)
    count = len(out_specs)
    with region.inside():
        staged = stage_forward(_compat.closed(jaxpr), active, BodyKind((True,) * len(operands), (True,) * count))
        hidden = staged.jaxpr.out_avals[count:]
        program = _with_first_dimension(staged.jaxpr, count) if any(not aval.shape for aval in hidden) else staged.jaxpr
    hidden_specs = [_compat.residual_spec(aval, mesh, newly_manual_axes, check_vma) for aval in hidden]
    results = region.bind(program, operands, in_specs, [*out_specs, *hidden_specs])
    specs = _residual_specs(staged, [*in_specs], [*out_specs, *hidden_specs])
    scalars = tuple(position for position, aval in zip(staged.layout.hidden, hidden, strict=True) if not aval.shape)
    pullback = ShardMapPullback(staged.graph, staged.plan, region, tuple(in_specs), tuple(out_specs), specs, scalars,
                                assemble(staged, operands, results))
    return results[:count], pullback


def _residual_specs(staged: StagedForward, in_specs: list[Any], out_specs: list[Any]) -> tuple[Any, ...]:
    """The spec of each residual: its own if it is an operand or an output, replicated if it is a constant."""
    everywhere = staged._replace(constants=(PartitionSpec(),) * len(staged.constants))
    return assemble(everywhere, in_specs, out_specs)


def _with_first_dimension(jaxpr: Any, count: int) -> Any:
    """The program with its hidden scalar outputs as arrays of one element: only a dimension can be sharded."""

    def program(*args: Array) -> list[Array]:
        results = evaluate(jaxpr, args)
        return results[:count] + [lax.reshape(v, (1,)) if not v.shape else v for v in results[count:]]

    return _compat.stage(program, jaxpr.in_avals, jaxpr.jaxpr.debug_info.func_name)


@pytree
class ShardMapPullback:
    """Pullback of a `shard_map`: the body's pullback on all devices.

    Attributes:
      graph, plan: the body's.
      region: where it runs.
      in_specs, out_specs: of the operands and outputs.
      residual_specs: of the residuals.
      scalars: positions of residuals that are scalars inside.
      residuals: global arrays.
    """

    graph: Graph = static()
    plan: Plan = static()
    region: Region = static()
    in_specs: tuple[Any, ...] = static()
    out_specs: tuple[Any, ...] = static()
    residual_specs: tuple[Any, ...] = static()
    scalars: tuple[int, ...] = static()
    residuals: tuple[Array, ...] = ()

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        region, given = self.region, tuple(i for i, ct in enumerate(cts) if ct is not None)
        args = (*self.residuals, *(cts[i] for i in given))
        specs = (*self.residual_specs, *(self.out_specs[i].to_ct_spec() for i in given))
        avals = [_compat.shard_aval(_compat.typeof(arg), spec, region.mesh, region.axes, region.check_vma)
                 for arg, spec in zip(args, specs, strict=True)]
        body = dataclasses.replace(self, residuals=())
        with region.inside():
            staged = stage_backward(_pull_body, (body, given), avals, f"pullback({self.graph.name})")
        if not staged.reached:
            return [None] * len(self.in_specs)
        results = region.bind(staged.jaxpr, args, specs, [self.in_specs[i].to_ct_spec() for i in staged.reached])
        return spread(results, staged.reached, len(self.in_specs))


def _pull_body(spec: tuple[ShardMapPullback, tuple[int, ...]], *args: Array) -> list[Array | None]:
    """Backward sweep of the body on one device.

    Without ``check_vma`` nobody knows which values are the same everywhere. An output that the specs call a copy shares
    its cotangent among the devices; the cotangents of an operand that went to several devices are added.
    """
    body, given = spec
    kept = len(body.plan.saved)
    residuals = [lax.squeeze(v, (0,)) if i in body.scalars else v for i, v in enumerate(args[:kept])]
    cts = [_shared(ct, body.region, body.out_specs[i]) for i, ct in zip(given, args[kept:], strict=True)]
    in_cts = FlatPullback(body.graph, body.plan, tuple(residuals))(spread(cts, given, len(body.out_specs)))
    return [_added(ct, body.region, spec) for ct, spec in zip(in_cts, body.in_specs, strict=True)]


def _shared(ct: Array, region: Region, spec: Any) -> Array:
    copies = int(np.prod([region.mesh.shape[axis] for axis in region.copies(spec.to_ct_spec())]))
    return ct if copies == 1 else lax.div(ct, lax.full_like(ct, copies))


def _added(ct: Array | None, region: Region, spec: Any) -> Array | None:
    axes = region.copies(spec.to_ct_spec())
    return ct if ct is None or not axes else p.psum_p.bind(ct, axes=axes, axis_index_groups=None)


higher_order(private.shard_map_p, shard_map_forward)


# ---- recording: JAX gives each of its traces a method of this name ----


def process_shard_map(trace: GraphTrace, primitive: Primitive, fun: Callable[..., Any], args: Sequence[Any], /,
                      **params: Any) -> Any:
    """Stage a `shard_map` of the user's function, then record it with the program that came of it.

    Values of the trace that the function closes over become replicated operands.
    """
    found: list[Any] = []

    def program(*values: Any) -> list[Any]:
        found.append(primitive.bind(*values, subfuns=(fun,), **params))
        return list(found[0])

    staged = _compat.stage(program, list(map(_compat.typeof, args)), "shard_map")
    inner = staged.jaxpr
    if not inner.eqns:  # no outputs
        return found[0]
    (equation,) = inner.eqns
    values = dict(zip((*inner.constvars, *inner.invars), (*staged.consts, *args), strict=True))
    operands = [atom.val if isinstance(atom, Literal) else values[atom] for atom in equation.invars]
    body = intern_jaxpr(_compat.closed(equation.params["jaxpr"]))
    results = _record(trace, primitive, operands, dict(equation.params, jaxpr=body.jaxpr))
    by_variable = dict(zip(equation.outvars, results, strict=True))
    return found[0].update([by_variable[v] for v in inner.outvars])


def _record(trace: GraphTrace, primitive: Primitive, operands: Sequence[Any], params: dict[str, Any]) -> Sequence[Any]:
    rule = lookup(primitive)
    assert rule is not None
    if any(trace._active(operands)):
        return trace._process_higher_order(primitive, rule, operands, params)
    lowered = [trace.lower(value) for value in operands]
    values = [zeros_like_aval(v.aval) if low is UNKNOWN else low for v, low in zip(operands, lowered, strict=True)]
    avals = tuple(map(_compat.typeof, values))
    results = list(primitive.bind_with_trace(trace.parent, values, avals, primitive.get_bind_params(params)))
    if not any(map(trace.owns, operands)):
        return results
    return trace._record(primitive, params, list(map(trace.operand, operands)), (False,) * len(operands), results,
                         list(map(_compat.typeof, results)))


GraphTrace.process_shard_map = process_shard_map  # type: ignore[attr-defined]
