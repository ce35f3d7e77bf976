"""The body of a `shard_map` for all shards on one device, so that it can be searched operation by operation.

The shards are stacked and the axes of the mesh become axes of `vmap`, under which the same collectives mean the same.
What `shard_map` knows of types (along which axes a value varies) nobody keeps account of there: the operations that
only convey it are the identity, and the sums and gathers that respect it are the plain ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Trace
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad._compat import primitives as private
from funcgrad.evaluation import evaluate, evaluate_equation
from funcgrad.graph import Node
from funcgrad.inspection.replay import Inside, Read, operands_of
from funcgrad.vjp import Recording, record
from funcgrad.watching import at_source

Array = Any
#: Names and sizes of mesh axes.
Axes = tuple[tuple[str, int], ...]

#: Operations that change nothing but what a type says of the mesh.
_CASTS = frozenset({private.pvary_p, private.preduced_p, private.vary_unreduced_cast_p,
                    private.reduced_vary_cast_p})


def _sum(x: Array, *, axes: Any) -> Array:
    return lax.psum(x, axes)


def _gather(x: Array, *, all_gather_dimension: int, axis_name: Any, axis_size: int, tiled: bool) -> Array:
    del axis_size
    return lax.all_gather(x, axis_name, axis=all_gather_dimension, tiled=tiled)


def _scatter(x: Array, *, scatter_dimension: int, axis_name: Any, axis_size: int, tiled: bool) -> Array:
    del axis_size
    return lax.psum_scatter(x, axis_name, scatter_dimension=scatter_dimension, tiled=tiled)


#: The others, as they are where types know nothing of the mesh.
_PLAIN: Mapping[Any, Callable[..., Array]] = {
    private.psum_invariant_p: _sum, private.unreduced_psum_p: _sum, private.all_gather_invariant_p: _gather,
    private.all_gather_reduced_p: _gather, private.unreduced_reduce_scatter_p: _scatter}


def manual_axes() -> Axes:
    """The mesh axes along which there are shards, in the body that is being traced now."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple((name, size) for name, size in mesh.shape.items() if name in mesh.manual_axes)


def partly_explicit() -> bool:
    """Whether that body has shards along some of the mesh's axes, and others are explicit: JAX lets no values out."""
    mesh = jax.sharding.get_abstract_mesh()
    return bool(mesh.manual_axes and mesh.explicit_axes)


def axes_of(node: Node) -> Axes:
    """The mesh axes along which the body of a `shard_map` has shards."""
    manual = node.params["newly_manual_axes"]
    return tuple((name, size) for name, size in node.params["mesh"].shape.items() if name in manual)


def all_shards(jaxpr: Any, axes: Axes) -> Callable[..., list[Array]]:
    """The function that runs a body, an open jaxpr, on stacked operands: axis i of each is the i-th of `axes`."""
    body = _compat.closed(jaxpr) if isinstance(jaxpr, Jaxpr) else jaxpr

    def run(*args: Array) -> list[Array]:
        return evaluate(body, args, _step)

    for name, size in reversed(axes):
        run = jax.vmap(run, axis_name=name, axis_size=size)
    return run


def shard_run(node: Node, read: Read) -> tuple[Inside, Recording]:
    """A `shard_map` recorded once more on one device, from its operands to its outputs."""
    axes, params = axes_of(node), node.params

    def run(*operands: Array) -> list[Array]:
        stacked = [split(x, spec, axes) for x, spec in zip(operands, params["in_specs"], strict=True)]
        results = all_shards(params["jaxpr"], axes)(*stacked)
        return [joined(x, spec, axes) for x, spec in zip(results, params["out_specs"], strict=True)]

    operands = [jax.device_put(x, jax.local_devices()[0]) for x in operands_of(node, read)]
    with source_info_util.user_context(node.source.traceback, name_stack=node.source.name_stack):
        recording = record(run, operands, node.active, name="shard_map")
    return Inside("shard_map", axes=axes), recording


# ---- a run inside a body ----


@dataclasses.dataclass(frozen=True)
class Shards:
    """A recorded run in the body of a `shard_map`, as a program that runs once more for all shards.

    Attributes:
      axes: of the mesh.
      jaxpr: from the graph's inputs and captured values to its outputs; None for a run that cannot be repeated.
      active: for each of those whether it is differentiated.
    """

    axes: Axes
    jaxpr: Any
    active: tuple[bool, ...]

    @staticmethod
    def here(recording: Recording, known: Sequence[int]) -> Shards:
        """Of a run in the body that is being traced now.

        Args:
          recording: the run.
          known: numbers of the values that the program will be given.
        """
        graph = recording.graph

        def again(*arrays: Array) -> list[Array]:
            values = dict(zip(known, arrays, strict=True))
            for node in (node for node in graph.nodes if node.outputs):  # what only tells somebody has none
                with _compat.in_setting(node.setting), at_source(node.source):
                    result = node.primitive.bind(*operands_of(node, values.__getitem__),
                                                 **node.primitive.get_bind_params(node.params))
                values |= zip(node.outputs, result if node.primitive.multiple_results else [result], strict=True)
            return [values[v] if isinstance(v, int) else v.value for v in graph.outputs]

        active = dict(zip(graph.inputs, graph.active, strict=True))
        avals = [_compat.typeof(recording.read(v)) for v in known]
        can = all(node.rerunnable for node in graph.nodes)
        jaxpr = _compat.stage(again, avals, graph.name) if can else None
        return Shards(manual_axes(), jaxpr, tuple(active.get(v, False) for v in known))

    def run(self, arrived: Mapping[tuple[int, ...], Sequence[Array]], name: str) -> Recording:
        """Record all shards; where nothing arrived from one, the first that did stands in for it."""
        some = next(iter(arrived.values()))
        sizes = [size for _, size in self.axes]
        rows = [arrived.get(place, some) for place in np.ndindex(*sizes)]
        stacked = [jnp.stack(column).reshape((*sizes, *np.shape(column[0]))) for column in zip(*rows, strict=True)]
        return record(all_shards(self.jaxpr, self.axes), stacked, self.active, name=name)


# ---- from arrays to shards and back ----


def split(x: Array, spec: Any, axes: Axes) -> Array:
    """An array as its shards, stacked; along axes that the spec does not name all are the same."""
    sizes, places, own = _dimensions(x.shape, spec, dict(axes))
    named = [name for name, _ in axes if name in places]
    shards = lax.transpose(lax.reshape(x, sizes), [*(places[name] for name in named), *own])
    stretched = lax.expand_dims(shards, [i for i, (name, _) in enumerate(axes) if name not in places])
    return jnp.broadcast_to(stretched, (*(size for _, size in axes), *(sizes[i] for i in own)))


def joined(shards: Array, spec: Any, axes: Axes) -> Array:
    """The array of stacked shards; along axes that the spec does not name the first counts."""
    count = len(axes)
    names = [(entry,) if isinstance(entry, str) else entry or () for entry in (*spec, *[None] * shards.ndim)]
    local = shards.shape[count:]
    shape = tuple(size * math.prod(dict(axes)[n] for n in names[i]) for i, size in enumerate(local))
    sizes, places, own = _dimensions(shape, spec, dict(axes))
    first = shards[tuple(slice(None) if name in places else 0 for name, _ in axes)]
    order = [*(places[name] for name, _ in axes if name in places), *own]
    return lax.reshape(lax.transpose(first, [order.index(i) for i in range(len(sizes))]), shape)


def _dimensions(shape: Sequence[int], spec: Any,
                axes: Mapping[str, int]) -> tuple[list[int], dict[str, int], list[int]]:
    """The sizes of an array whose sharded dimensions are cut, where in them each axis of the mesh is, and the rest."""
    sizes: list[int] = []
    places: dict[str, int] = {}
    own: list[int] = []
    for size, entry in zip(shape, (*spec, *[None] * (len(shape) - len(spec))), strict=True):
        names = (entry,) if isinstance(entry, str) else tuple(entry or ())
        for name in names:
            places[name] = len(sizes)
            sizes.append(axes[name])
        own.append(len(sizes))
        sizes.append(size // math.prod(axes[name] for name in names))
    return sizes, places, own


# ---- programs without a mesh ----


def _step(trace: Trace, eqn: Any, operands: list[Array]) -> Sequence[Array]:
    """Run one equation of a body; nothing that only tells somebody of something."""
    if not eqn.outvars:
        return []
    if eqn.primitive in _CASTS:
        return operands
    if eqn.primitive in _PLAIN:
        return [_PLAIN[eqn.primitive](*operands, **eqn.params)]
    params = {name: _without_mesh(value) for name, value in eqn.params.items()}
    if eqn.primitive is p.remat_p:
        body = _closed_without_mesh(_compat.closed(eqn.params["jaxpr"]))
        params["jaxpr"] = body.jaxpr if not body.consts else eqn.params["jaxpr"]
    return evaluate_equation(trace, eqn.replace(params=params), operands)


def _without_mesh(param: Any) -> Any:
    if isinstance(param, jax.sharding.Mesh):  # that of `jax.set_mesh`, which a `jit` remembers
        return jax.sharding.Mesh(np.empty((), object), ())
    if isinstance(param, ClosedJaxpr):
        return _closed_without_mesh(param)
    if isinstance(param, tuple) and param and all(isinstance(part, ClosedJaxpr) for part in param):
        return tuple(map(_closed_without_mesh, param))
    return param


def _closed_without_mesh(jaxpr: Any) -> Any:
    avals = [jax.core.ShapedArray(aval.shape, aval.dtype, weak_type=aval.weak_type) for aval in jaxpr.in_avals]
    return _compat.stage(lambda *args: evaluate(jaxpr, args, _step), avals, jaxpr.jaxpr.debug_info.func_name)
