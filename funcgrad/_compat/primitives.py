"""Floor 0: primitives that JAX has no public name for. A rule is bound to the object itself, so each must be found.

What binds them is public, as each comment says.
"""

from __future__ import annotations

from typing import Any

from jax._src import ad_util as _ad_util
from jax._src import callback as _callback
from jax._src import core as _core
from jax._src import custom_batching as _custom_batching
from jax._src import custom_derivatives as _custom_derivatives
from jax._src import custom_partitioning as _custom_partitioning
from jax._src import debugging as _debugging
from jax._src import ffi as _ffi
from jax._src import hijax as _hijax
from jax._src import pjit as _pjit
from jax._src import random as _random
from jax._src import shard_alike as _shard_alike
from jax._src import shard_map as _shard_map
from jax._src.cudnn import fused_attention_stablehlo as _attention
from jax._src.cudnn import fusion as _fusion
from jax._src.cudnn import scaled_matmul_stablehlo as _scaled_matmul
from jax._src.export import _export
from jax._src.export import shape_poly as _shape_poly
from jax._src.lax import control_flow as _control_flow
from jax._src.lax import eval_jaxpr as _eval_jaxpr
from jax._src.lax import lax as _lax
from jax._src.lax import linalg as _linalg
from jax._src.lax import parallel as _parallel
from jax._src.lax.scaled_dot import scaled_dot_p as scaled_dot_p
from jax._src.random import philox2x32 as _philox2x32
from jax._src.random import philox4x32 as _philox4x32
from jax._src.random import prng as _prng
from jax._src.random import threefry4x32 as _threefry4x32
from jax._src.state import discharge as _discharge
from jax._src.state import primitives as _state

# ---- with a rule of their own ----

# Contractions and linear algebra.
ragged_dot_general_p = _lax.ragged_dot_general_p  # and `scaled_dot_p`, above: its module is hidden by a function
geqrf_p, geqp3_p = _linalg.geqrf_p, _linalg.geqp3_p

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

# Programs held by a primitive: `jax.custom_derivatives.linear_call`, `custom_vjp(..., optimize_remat=True)`,
# `jax.custom_batching.custom_vmap`, `jax.lax.composite`, a jaxpr run as one operation, and `jax.experimental.hijax`.
linear_call_p, remat_opt_p = _custom_derivatives.linear_call_p, _custom_derivatives.remat_opt_p
custom_vmap_p, composite_p = _custom_batching.custom_vmap_p, _lax.composite_p
eval_jaxpr_p, call_hi_primitive_p = _eval_jaxpr.eval_jaxpr_p, _hijax.call_hi_primitive_p

#: What `jax.shard_map` binds.
shard_map_p = _shard_map.shard_map_p

# What `jax.new_ref`, `jax.ref`, `run_state` and, for keys, `lax.convert_element_type` bind.
new_ref_p, empty_ref_p, free_ref_p, freeze_p = _core.ref_p, _core.empty_ref_p, _core.free_ref_p, _core.freeze_p
addupdate_p, run_state_p, accum_grad_in_ref_p = _state.addupdate_p, _discharge.run_state_p, _core.accum_grad_in_ref_p
to_edtype_p, from_edtype_p = _lax.to_edtype_p, _lax.from_edtype_p

#: ``tie(x, y) = y``, ordered after `x`.
tie_p = _lax.tie_p

# ---- groups without a derivative; `rules.inert` says why ----

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

#: What `jax.debug` and symbolic shapes bind.
EFFECTS = (
    _debugging.debug_callback_p, _debugging.debug_print_p, _debugging.inspect_sharding_p,
    _shape_poly.shape_assertion_p,
)

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

#: Halves of collectives, which have no rules in JAX either.
COLLECTIVE_HALVES = (
    _parallel.psend_p, _parallel.precv_p, _parallel.all_gather_start_p, _parallel.all_gather_reduced_start_p,
    _parallel.psum_start_p, _parallel.psum_invariant_start_p, _parallel.unreduced_psum_start_p,
    _parallel.reduce_scatter_start_p, _parallel.unreduced_reduce_scatter_start_p, _parallel.all_to_all_start_p,
    _parallel.pbroadcast_start_p, _parallel.ppermute_start_p, _parallel.all_gather_done_p, _parallel.psum_done_p,
    _parallel.reduce_scatter_done_p, _parallel.all_to_all_done_p, _parallel.pbroadcast_done_p,
    _parallel.ppermute_done_p,
)

#: A program read back by `jax.export`; and what raises an error when it runs.
call_exported_p, unreachable_p = _export.call_exported_p, _custom_derivatives.unreachable_p


def sparse_kernels() -> tuple[Any, ...]:
    """What the sparse formats' lowerings bind. Importing them brings half of scipy along."""
    from jax.experimental.sparse import _lowerings as _sparse
    return _sparse.coo_spmv_p, _sparse.coo_spmm_p, _sparse.csr_spmv_p, _sparse.csr_spmm_p


# ---- in modules that `import jax` does not bring ----

#: What holds a program: its module, its name there, and its param with the memory of each output.
MARKED_PROGRAMS = (
    ("jax._src.compute_on", "compute_on_p", "out_memory_spaces"),
    ("jax.experimental.fused", "fused_p", "out_spaces"),
    ("jax.experimental.scheduling_groups", "xla_metadata_call_p", None),
)

#: What has no pullback in JAX either, by module: Pallas kernels, what their inside binds, callbacks handed buffers.
KERNELS = ("jax._src.pallas.pallas_call", ("pallas_call_p",))
KERNELS_OF_SEVERAL_PROGRAMS = ("jax._src.pallas.mpmd", ("mpmd_map_p",))
INSIDE_OF_KERNELS = ("jax._src.pallas.primitives", ("load_p", "swap_p"))
BUFFER_CALLBACKS = ("jax._src.buffer_callback", ("buffer_callback_p",))


def tag() -> Any:
    """What `jax.experimental.xla_metadata` binds."""
    from jax._src.xla_metadata import xla_metadata_value_p
    return xla_metadata_value_p


def check() -> Any:
    """What `jax.experimental.checkify` binds."""
    from jax._src.checkify import check_p
    return check_p
