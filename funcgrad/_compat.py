"""Floor 0: everything of JAX that is private or moves between versions, each with its reason.

No other file of funcgrad imports ``jax._src``. Nothing here differentiates.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax._src import ad_util as _ad_util
from jax._src import callback as _callback
from jax._src import checkify as _checkify
from jax._src import config as _config
from jax._src import core as _core
from jax._src import custom_batching as _custom_batching
from jax._src import custom_derivatives as _custom_derivatives
from jax._src import custom_partitioning as _custom_partitioning
from jax._src import debugging as _debugging
from jax._src import dtypes as _dtypes
from jax._src import ffi as _ffi
from jax._src import hijax as _hijax
from jax._src import linear_util as _lu
from jax._src import pjit as _pjit
from jax._src import random as _random
from jax._src import shard_alike as _shard_alike
from jax._src import shard_map as _shard_map
from jax._src import source_info_util as _source

# Symbolic zeros that `custom_vjp` and `custom_jvp` hand to the user's own rules; the user sees `jax.custom_derivatives.
# SymbolicZero`, the flattened rules also give back the internal `Zero`.
from jax._src.ad_util import SymbolicZero as SymbolicZero
from jax._src.ad_util import Zero as Zero
from jax._src.ad_util import replace_rule_output_symbolic_zeros as replace_rule_output_symbolic_zeros
from jax._src.ad_util import zeros_like_aval as _zeros_like_aval
from jax._src.cudnn import fused_attention_stablehlo as _attention
from jax._src.cudnn import fusion as _fusion
from jax._src.cudnn import scaled_matmul_stablehlo as _scaled_matmul
from jax._src.export import _export
from jax._src.export import shape_poly as _shape_poly
from jax._src.interpreters import partial_eval as _pe
from jax._src.lax import control_flow as _control_flow
from jax._src.lax import eval_jaxpr as _eval_jaxpr
from jax._src.lax import lax as _lax
from jax._src.lax import parallel as _parallel

# Primitives that are in none of the public lists, though the functions that bind them are public.
from jax._src.lax.lax import ragged_dot_general_p as ragged_dot_general_p
from jax._src.lax.linalg import geqp3_p as geqp3_p
from jax._src.lax.linalg import geqrf_p as geqrf_p
from jax._src.lax.scaled_dot import scaled_dot_p as scaled_dot_p

# `TypedNdArray` is what `jnp` makes of host constants, with a weak type; to build one by `jnp` would use the device.
from jax._src.literals import TypedNdArray as TypedNdArray
from jax._src.random import philox2x32 as _philox2x32
from jax._src.random import philox4x32 as _philox4x32
from jax._src.random import prng as _prng
from jax._src.random import threefry4x32 as _threefry4x32

# The "no sharding given" value of the `jit` primitive's params, needed to give its boundary more outputs.
from jax._src.sharding_impls import UNSPECIFIED as UNSPECIFIED
from jax._src.state import discharge as _discharge
from jax._src.state import primitives as _state
from jax.sharding import PartitionSpec, use_abstract_mesh

Aval = Any
Value = Any

_NUMPY = os.path.dirname(np.__file__) + os.sep

# Primitives without a public name, which `rules.inert` classifies: a rule is bound to the object itself.

#: What `jax.random` does with keys besides the public ones, and generators of bits.
KEYS_AND_BITS = (
    _random.random_clone_p, _prng.random_wrap_p, _prng.random_unwrap_p, _prng.iota_2x32_shape_p,
    _threefry4x32.threefry4x32_p, _philox2x32.philox2x32_p, _philox4x32.philox4x32_p,
)

#: Values that depend on nothing, shapes and platforms as values.
VALUES_OUT_OF_NOTHING = (
    _lax.empty_p, _ad_util.zeros_like_p, _control_flow.platform_index_p, _shape_poly.dim_as_value_p,
    _shape_poly.dimension_size_p,
)

#: `jax.debug` and `jax.experimental.checkify`.
EFFECTS = (
    _debugging.debug_callback_p, _debugging.debug_print_p, _debugging.inspect_sharding_p, _checkify.check_p,
    _shape_poly.shape_assertion_p,
)

#: ``tie(x, y) = y``, ordered after `x`.
tie_p = _lax.tie_p

#: `jax.pure_callback` and `jax.experimental.io_callback`.
HOST_CALLBACKS = (_callback.pure_callback_p, _callback.io_callback_p)

#: `jax.ffi`, `jax.experimental.custom_partitioning` and fusions that cuDNN runs.
FOREIGN_CODE = (_ffi.ffi_call_p, _custom_partitioning.custom_partitioning_p, _fusion.cudnn_fusion_p)

#: Halves of GPU kernels that public functions wrap in a `custom_vjp`.
GPU_KERNELS = (
    _attention._dot_product_attention_fwd_p, _attention._dot_product_attention_fwd_p_wrapper,
    _attention._dot_product_attention_bwd_p, _attention._dot_product_attention_bwd_p_wrapper,
    _attention._dot_product_attention_fp8_fwd_p, _attention._dot_product_attention_fp8_fwd_p_wrapper,
    _attention._dot_product_attention_fp8_bwd_p, _attention._dot_product_attention_fp8_bwd_p_wrapper,
    _scaled_matmul._scaled_matmul_p, _scaled_matmul._scaled_matmul_p_wrapper,
)

#: Mutable containers with no public constructor.
BOXES_AND_LOGS = (
    _hijax.new_box_p, _hijax.box_get_p, _hijax.box_set_p,
    _hijax.new_log_p, _hijax.log_extend_p, _hijax.log_read_p,
)

#: What only the inside of a Pallas kernel binds.
PALLAS_REFERENCES = (_state.pin_p, _state.unpin_p, _state.create_linear_p, _state.broadcast_to_p)

# What `jax.new_ref`, `jax.ref`, `run_state` and, for keys, `lax.convert_element_type` bind.
new_ref_p, empty_ref_p, free_ref_p, freeze_p = _core.ref_p, _core.empty_ref_p, _core.free_ref_p, _core.freeze_p
addupdate_p, run_state_p, accum_grad_in_ref_p = _state.addupdate_p, _discharge.run_state_p, _core.accum_grad_in_ref_p
to_edtype_p, from_edtype_p = _lax.to_edtype_p, _lax.from_edtype_p

# NumPy's indexing in JAX's internal form, applied to the content of a mutable array: read, write, add; and for programs
# that are handed one, JAX's way to run them on its content. None of it differentiates.
read_through, swap_through = _discharge.transform_array, _discharge.transform_swap_array
add_through, discharge_rules = _discharge._addupdate_discharge, _discharge._discharge_rules

#: An open jaxpr whose constants are its first inputs.
constants_first = _pe.convert_constvars_jaxpr


def sparse_kernels() -> tuple[Any, ...]:
    """What the sparse formats' lowerings bind. Importing them brings half of scipy along."""
    from jax.experimental.sparse import _lowerings as _sparse
    return _sparse.coo_spmv_p, _sparse.coo_spmm_p, _sparse.csr_spmv_p, _sparse.csr_spmm_p


# Collectives that `jax.lax.psum`, `all_gather` and `pcast` bind, by the types of mesh axes on both sides.
pbroadcast_p, psum_invariant_p, unreduced_psum_p, preduced_p = (
    _parallel.pbroadcast_p, _parallel.psum_invariant_p, _parallel.unreduced_psum_p, _parallel.preduced_p)
all_gather_invariant_p, all_gather_reduced_p = _parallel.all_gather_invariant_p, _parallel.all_gather_reduced_p
reduce_scatter_p, unreduced_reduce_scatter_p = _parallel.reduce_scatter_p, _parallel.unreduced_reduce_scatter_p
pvary_p, reduced_vary_cast_p = _core.pvary_p, _core.reduced_vary_cast_p
vary_unreduced_cast_p = _parallel.vary_unreduced_cast_p

# What `jax.sharding.reshard`, `with_layout_constraint` and `shard_alike` bind.
reshard_p, layout_constraint_p = _pjit.reshard_p, _pjit.layout_constraint_p
shard_alike_p = _shard_alike.shard_alike_p

#: Halves of collectives, which have no rules in JAX either.
COLLECTIVE_HALVES = (
    _parallel.psend_p, _parallel.precv_p, _parallel.all_gather_start_p, _parallel.all_gather_reduced_start_p,
    _parallel.psum_start_p, _parallel.psum_invariant_start_p, _parallel.unreduced_psum_start_p,
    _parallel.reduce_scatter_start_p, _parallel.unreduced_reduce_scatter_start_p, _parallel.all_to_all_start_p,
    _parallel.pbroadcast_start_p, _parallel.ppermute_start_p, _parallel.all_gather_done_p, _parallel.psum_done_p,
    _parallel.reduce_scatter_done_p, _parallel.all_to_all_done_p, _parallel.pbroadcast_done_p,
    _parallel.ppermute_done_p,
)

# Programs held by a primitive: `jax.custom_derivatives.linear_call`, `custom_vjp(..., optimize_remat=True)`,
# `jax.custom_batching.custom_vmap`, `jax.lax.composite`, a jaxpr run as one operation, and `jax.experimental.hijax`.
linear_call_p, remat_opt_p = _custom_derivatives.linear_call_p, _custom_derivatives.remat_opt_p
custom_vmap_p, composite_p = _custom_batching.custom_vmap_p, _lax.composite_p
eval_jaxpr_p, call_hi_primitive_p = _eval_jaxpr.eval_jaxpr_p, _hijax.call_hi_primitive_p

#: A program read back by `jax.export`; and what raises an error when it runs.
call_exported_p, unreachable_p = _export.call_exported_p, _custom_derivatives.unreachable_p

#: The bottom trace, which executes at once. Kernels ask whether values are concrete there.
eval_trace = _core.eval_trace

#: dtype of the cotangent of an integer or boolean array.
float0 = _dtypes.float0

#: Private in `jax.core`; the class that binds a user's subfunctions as `WrappedFun`s.
CallPrimitive = _core.CallPrimitive


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


def is_extended(dtype: Any) -> bool:
    """True for PRNG keys and other dtypes that are no numbers."""
    return _dtypes.issubdtype(dtype, _dtypes.extended)


def typecompat(expected: Aval, given: Aval) -> bool:
    """True when two avals agree in all but weak type."""
    return _core.typecompat(expected, given)


def typematch(expected: Aval, given: Aval) -> bool:
    """True when two avals agree in all but weak type and sharding axes that vary."""
    return _core.typematch(expected, given)


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
    watched = (_config.disable_jit.value or _config.debug_nans.value or _config.debug_infs.value
               or _config.debug_key_reuse.value)
    return trace is eval_trace and not watched


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


def current_mesh() -> Any | None:
    """The abstract mesh in force, None where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def in_mesh(mesh: Any | None) -> contextlib.AbstractContextManager:
    """A context in which `mesh` is in force; nothing to do where there is none or it is in force already."""
    if mesh is None or mesh == jax.sharding.get_abstract_mesh():
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh)


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
    """Zeros of an aval, with its weak type, sharding and varying mesh axes; public `full` takes only some of them."""
    return _zeros_like_aval(aval)


def varying_axes(value: Value) -> frozenset:
    """Mesh axes along which a value may differ, as `jax.shard_map` knows with ``check_vma``; empty without."""
    return typeof(value).mat.varying


def pvary(value: Value, axes: tuple) -> Value:
    """Forget that a value is the same along these axes; itself where nobody keeps account (``check_vma=False``)."""
    if not _config._check_vma.value:
        return value
    return _core.pvary(value, tuple(axis for axis in axes if axis not in varying_axes(value)))


#: What `jax.shard_map` binds. It has no public name.
shard_map_p = _shard_map.shard_map_p


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


def may_run_again(effect: Any) -> bool:
    """Whether a program with this effect can run twice: names of axes, arrays of its own, and debug prints can."""
    return isinstance(effect, _core.NamedAxisEffect | _core.InternalMutableArrayEffect | _debugging.DebugEffect
                      | _debugging.OrderedDebugEffect)
