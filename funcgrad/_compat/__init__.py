"""Floor 0: everything of JAX that is private or moves between versions, each with its reason.

Primitives without a public name are in `funcgrad._compat.primitives`; nothing else in funcgrad imports ``jax._src``.
Nothing here differentiates.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax._src import config as _config
from jax._src import core as _core
from jax._src import debugging as _debugging
from jax._src import dtypes as _dtypes
from jax._src import linear_util as _lu
from jax._src import shard_map as _shard_map
from jax._src import source_info_util as _source

# How `jax.checkpoint` is bound with `jax_remat3`: a hijax primitive whose own backward rule is `jax.vjp`.
from jax._src.ad_checkpoint import RematTraced as RematTraced

# Symbolic zeros that `custom_vjp` and `custom_jvp` hand to the user's own rules; the user sees `jax.custom_derivatives.
# SymbolicZero`, the flattened rules also give back the internal `Zero`.
from jax._src.ad_util import SymbolicZero as SymbolicZero
from jax._src.ad_util import Zero as Zero
from jax._src.ad_util import zeros_like_aval as _zeros_like_aval

# The type of a value that is no array, of `jax.experimental.hijax`, which would take its time to import.
from jax._src.hijax import HiType as HiType
from jax._src.interpreters import partial_eval as _pe

# What a hijax primitive's own backward rule adds cotangents to, and may ask to be what it is by `isinstance`.
from jax._src.interpreters.ad import GradAccum as GradAccum
from jax._src.interpreters.ad import NullAccum as NullAccum
from jax._src.interpreters.ad import ValAccum as ValAccum

# `TypedNdArray` is what `jnp` makes of host constants, with a weak type; to build one by `jnp` would use the device.
from jax._src.literals import TypedNdArray as TypedNdArray

# The "no sharding given" value of the `jit` primitive's params, needed to give its boundary more outputs.
from jax._src.sharding_impls import UNSPECIFIED as UNSPECIFIED
from jax._src.state import discharge as _discharge
from jax.sharding import PartitionSpec, use_abstract_mesh

from funcgrad._compat.primitives import shard_map_p

Aval = Any
Value = Any

_NUMPY = os.path.dirname(np.__file__) + os.sep

# NumPy's indexing in JAX's internal form, applied to the content of a mutable array: read, write, add; and for programs
# that are handed one, JAX's way to run them on its content. None of it differentiates.
read_through, swap_through = _discharge.transform_array, _discharge.transform_swap_array
add_through, discharge_rules = _discharge._addupdate_discharge, _discharge._discharge_rules

#: An open jaxpr whose constants are its first inputs.
constants_first = _pe.convert_constvars_jaxpr

#: The bottom trace, which executes at once. Kernels ask whether values are concrete there.
eval_trace = _core.eval_trace

#: dtype of the cotangent of an integer or boolean array.
float0 = _dtypes.float0


class _Perturbed(_pe.DynamicJaxprTracer):
    """A tracer of no trace, whose type says that there may be a cotangent."""
    def __init__(self) -> None:
        self.aval = _core.ShapedArray((), np.dtype(np.float32))


#: `jax.closure_convert` looks into tracers that it does not know: one with this inside counts as differentiated.
PERTURBED = _Perturbed()


def typeof(value: Value) -> Aval:
    """The aval of a value (``jax.typeof`` with the fast path that tracers have)."""
    return value.aval if isinstance(value, _core.Tracer) else _core.typeof(value)


def canonicalize(value: Value, shaped: bool = True) -> Value:
    """A valid JAX value of the dtype that JAX would give it, `shaped` or a number; TypeError for anything else."""
    if isinstance(value, _core.Tracer):
        return value
    canonical = _dtypes.canonicalize_value(value)
    return with_shape(canonical) if shaped else canonical


def with_shape(value: Value) -> Value:
    """Python's numbers as 0-d host arrays of the same weak type: a rule may ask any operand for its shape."""
    if not isinstance(value, bool | int | float | complex) or isinstance(value, np.generic):
        return value
    aval = _core.typeof(value)
    return TypedNdArray(np.asarray(value, aval.dtype), aval)


def on_device(value: Value) -> Value:
    """A host constant as the array that JAX would have made of it, weak as it is; anything else as it is."""
    return jax.lax.stage_p.bind(value) if isinstance(value, TypedNdArray) else value


def without_shape(value: Value) -> Value:
    """The number that `with_shape` was given: JAX hands it to a user's rule, and what it computes then is weak, too."""
    if not isinstance(value, TypedNdArray) or value.shape or not is_weakly_typed(value):
        return value
    return canonicalize(np.asarray(value).item(), shaped=False)


def is_extended(dtype: Any) -> bool:
    """True for PRNG keys and other dtypes that are no numbers."""
    return _dtypes.issubdtype(dtype, _dtypes.extended)


def typecompat(expected: Aval, given: Aval) -> bool:
    """True when two avals agree in all but weak type."""
    return _core.typecompat(expected, given)


def is_weakly_typed(value: Value) -> bool:
    """True for values whose dtype gives way to others', such as Python numbers."""
    return _dtypes.is_weakly_typed(value)


def concrete_or_none(value: Value) -> Any:
    """The concrete array behind a value, or None while it is being traced."""
    return _core.to_concrete_value(value)


def executes_at_once() -> bool:
    """Whether operations run now, on arrays, and nobody asked to see each of them (`disable_jit`, `debug_nans`, …)."""
    return is_eager(_core.trace_ctx.trace)


def is_eager(trace: Any) -> bool:
    """Whether `trace` computes at once, and nobody asked to see each operation."""
    return trace is eval_trace and not (_config.disable_jit.value or _config.debug_key_reuse.value or _seeks_nans())


def seeks_nans_at_once() -> bool:
    """Whether operations run now and JAX is to raise where a NaN or an infinity is born.

    Of a compiled program that has one, `jit` runs the function again, operation by operation; the primitive cannot.
    """
    return _core.trace_ctx.trace is eval_trace and _seeks_nans()


def _seeks_nans() -> bool:
    return _config.debug_nans.value or _config.debug_infs.value


def trace_context() -> Any:
    """What, besides its arguments, the result of tracing depends on: x64 mode, mesh, axis names, …

    A cache of traced programs must have it in its key. There is no public spelling.
    """
    return _config.trace_context()


def current_source() -> Any:
    """Where the program is now: a traceback without frames' locals, and the name stack."""
    return _source.current()


def source_line(source: Any) -> str:
    """``file.py:12 in `function``` for the user's innermost frame, or ``<unknown>``."""
    frame = user_frame(source.traceback) if source is not None else None
    if frame is None:
        return "<unknown>"
    return f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.start_line} in `{frame.function_name}`"


@lru_cache(maxsize=4096)
def user_frame(traceback: Any) -> Any | None:
    """The innermost frame outside JAX, funcgrad and NumPy (whose `np.sum(x)` calls back into JAX), or None."""
    frames = _source.user_frames(traceback)
    return next((frame for frame in frames if not frame.file_name.startswith(_NUMPY)), None)


def current_setting() -> Any | None:
    """What is in force around an operation, as JAX notes it: the abstract mesh, `compute_on`, `set_xla_metadata`.

    None where there is nothing of it.
    """
    bare = (jax.sharding.get_abstract_mesh().empty and _config.compute_on_context_manager.value is None
            and not _config.xla_metadata_context_manager.value)
    return None if bare else _core.current_jaxpr_eqn_context()


def in_setting(setting: Any | None) -> contextlib.AbstractContextManager:
    """A context in which `setting` is in force; nothing to do where there is none or it is in force already."""
    if setting is None or setting is _core.current_jaxpr_eqn_context():
        return contextlib.nullcontext()
    return setting.manager


def has_user_frame(source: Any) -> bool:
    """Whether any frame of a source is the user's."""
    return user_frame(source.traceback) is not None


def hide_frames(path: str) -> None:
    """Do not count files below `path` as the user's when a source line is named."""
    _source.register_exclusion(path)


def stage(fun: Callable[..., Sequence[Value]], avals: Sequence[Aval], name: str) -> Any:
    """The closed jaxpr of ``fun(*flat) -> flat`` at `avals`, without equations that nothing reads.

    `jax.make_jaxpr` would lose the avals' mesh axes and keep dead equations.
    """
    debug = _lu.DebugInfo("funcgrad", name, tuple(f"arg{i}" for i in range(len(avals))), None)
    wrapped = _lu.wrap_init(fun, debug_info=debug._replace(result_paths=None))
    jaxpr, _, consts = _pe.trace_to_jaxpr_dynamic(wrapped, tuple(avals), auto_dce=True)
    return _core.ClosedJaxpr(jaxpr, consts)


def closed(jaxpr: Any) -> Any:
    """A closed jaxpr from a jaxpr without constants (``remat`` holds open ones), the same object each time."""
    return _pe.close_jaxpr(jaxpr)


def abstract_eval(primitive: Any, avals: Sequence[Aval], params: dict[str, Any]) -> list[Aval]:
    """Output avals of one operation, nothing computed."""
    out, _ = primitive.abstract_eval(*avals, **params)
    return list(out) if primitive.multiple_results else [out]


def zeros_like_aval(aval: Aval) -> Value:
    """Zeros of an aval, with its weak type, sharding and varying mesh axes; public `full` takes only some of them.

    Of a key: one whose data are zeros. JAX's zero of it is that of its tangents, float0.
    """
    if is_extended(aval.dtype):
        return jax.lax.full(aval.shape, 0, aval.dtype)
    return _zeros_like_aval(aval)


def varying_axes(value: Value) -> frozenset:
    """Mesh axes along which a value may differ, as `jax.shard_map` knows with ``check_vma``; empty without."""
    aval = typeof(value)
    return frozenset() if isinstance(aval, HiType) else aval.mat.varying


def pvary(value: Value, axes: tuple) -> Value:
    """Forget that a value is the same along these axes; itself where nobody keeps account (``check_vma=False``)."""
    if not _config._check_vma.value:
        return value
    return _core.pvary(value, tuple(axis for axis in axes if axis not in varying_axes(value)))


@contextlib.contextmanager
def inside_shard_map(mesh: Any, axes: frozenset, check_vma: bool) -> Iterator[None]:
    """The context in which the body of a `shard_map` is traced: its axes have names, its mesh is manual."""
    with (_shard_map._extend_axis_env(mesh, axes), use_abstract_mesh(_shard_map._as_manual_mesh(mesh, axes)),
          _config._check_vma(check_vma)):
        yield


def shard_aval(aval: Aval, spec: Any, mesh: Any, axes: frozenset, check_vma: bool) -> Aval:
    """What the body of a `shard_map` sees of an operand."""
    return _core.shard_aval(mesh, axes, check_vma, spec, aval)


def residual_spec(aval: Aval, mesh: Any, axes: frozenset, check_vma: bool) -> Any:
    """The spec that takes any value of a `shard_map`'s body out and in: all its shards along the first dimension."""
    if not check_vma:
        return PartitionSpec(tuple(_shard_map._all_newly_manual_mesh_names(mesh, axes)))
    kind = aval.mat  # what varies along the axes of an outer `shard_map` stays as it is
    along = tuple(axis for axis in mesh.axis_names if axis in kind.varying & axes)
    return PartitionSpec(*(along,) if along else (), unreduced=kind.unreduced, reduced=kind.reduced)


def unmentioned_axes(spec: Any, mesh: Any, axes: frozenset) -> tuple:
    """Manual axes along which an operand or output with this spec is the same everywhere."""
    return tuple(_shard_map._unmentioned2(mesh, spec, axes))


def bind_shard_map(jaxpr: Any, operands: Sequence[Value], params: dict[str, Any]) -> list[Value]:
    """`shard_map` of a staged body; constants of the body become replicated operands."""
    params = dict(params, jaxpr=jaxpr.jaxpr)
    if jaxpr.consts:
        replicated = (PartitionSpec(),) * len(jaxpr.consts)
        params.update(jaxpr=_pe.convert_constvars_jaxpr(jaxpr.jaxpr), in_specs=replicated + tuple(params["in_specs"]))
    return list(shard_map_p.bind(*jaxpr.consts, *operands, **shard_map_p.get_bind_params(params)))


def fold_constant(value: Value, dtype: Any, weak_type: bool) -> Value | None:
    """Convert a host scalar on the host, as JAX's own staging does; None when it is no host scalar."""
    if isinstance(value, _core.Tracer) or np.ndim(value) != 0:
        return None
    if not isinstance(value, bool | int | float | complex | np.generic | np.ndarray):
        return None
    converted = np.asarray(value).astype(dtype)
    return TypedNdArray(converted, _core.ShapedArray((), converted.dtype, weak_type=weak_type))


def without_dead_code(jaxpr: Any, used_outputs: tuple[bool, ...]) -> tuple[Any, list[bool]]:
    """A closed jaxpr of these outputs alone, the same object each time, and which inputs it still has."""
    return _pe._cached_closed_call_dce(jaxpr, used_outputs)


def has_collectives(jaxpr: Any) -> bool:
    """Whether a program names axes of a mesh or of `vmap`: then all along them must run it."""
    return any(isinstance(effect, _core.NamedAxisEffect) for effect in jaxpr.effects)


def may_run_again(effect: Any) -> bool:
    """Whether a program with this effect can run twice: names of axes, arrays of its own, and debug prints can."""
    return isinstance(effect, _core.NamedAxisEffect | _core.InternalMutableArrayEffect | _debugging.DebugEffect
                      | _debugging.OrderedDebugEffect)
