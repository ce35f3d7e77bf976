"""What has no cotangent, what lets one pass, and what cannot have one, with the true reason."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from jax import lax
from jax.extend.core import primitives as p

from funcgrad._compat import primitives as private
from funcgrad.registry import constant, joint, later, linear, unsupported
from funcgrad.taps import tapped_cotangent
from funcgrad.zeros import MOVES

Array = Any
Aval = Any


# ---- identities ----


def barrier_operands(active: tuple, cts: tuple, _outs: tuple, *_operands: Aval) -> list:
    """The identity, behind a barrier again: what the compiler may not move forward it may not move backward."""
    live = [i for i, flag in enumerate(active) if flag and cts[i] is not None]
    results: list[Array | None] = [None] * len(active)
    for i, ct in zip(live, lax.optimization_barrier([cts[i] for i in live]), strict=True):
        results[i] = ct
    return results


joint(lax.optimization_barrier_p, barrier_operands, mixes=MOVES)
linear(p.name_p, lambda ct, _x, *, name: tapped_cotangent(name, ct))
linear(lax.stage_p, lambda ct, _x: ct)
linear(private.tie_p, None, lambda ct, _x, _y: ct)

# ---- values out of nothing ----

constant(p.iota_p, p.empty2_p, p.axis_index_p, p.create_token_p, p.after_all_p, *private.VALUES_OUT_OF_NOTHING)
constant(lax.stop_gradient_p)  # JAX kept a primitive of its own for it, so that a graph shows where the path was cut

# ---- random bits and keys: integers ----

constant(p.random_seed_p, p.random_split_p, p.random_fold_in_p, p.random_bits_p, p.threefry2x32_p,
         p.rng_bit_generator_p, *private.KEYS_AND_BITS)

# ---- effects without a result ----

constant(lax.dce_sink_p, *private.EFFECTS)
later("jax._src.checkify", lambda: constant(private.check()))

# ---- no derivative ----

HOST = ("it runs Python code that nobody can differentiate; jax.grad refuses it too. Give the function around it its "
        "own rule with jax.custom_vjp")
FOREIGN = ("it runs foreign code that nobody can differentiate; jax.grad refuses it too. Give the function around it "
           "its own rule with jax.custom_vjp")
KERNEL = "it is one half of a GPU kernel's custom_vjp, whose rule is used instead; jax.grad refuses it too"
SPARSE = "sparse formats are not supported; convert with `.todense()` before the function that is differentiated"
BOX = "boxes and logs are mutable containers of JAX's own internals; use values or jax.new_ref"
PALLAS = ("a Pallas kernel works on memory, not on values: wrap it in jax.custom_vjp with a kernel for its pullback; "
          "jax.grad refuses it too")
REFERENCE = "it belongs to the inside of a Pallas kernel; jax.grad refuses it too"

for primitive, name in zip(private.HOST_CALLBACKS, ("Pure", "IO"), strict=True):
    unsupported(primitive, reason=f"{name} callbacks do not support JVP: {HOST}", error=ValueError)
for primitive in private.FOREIGN_CODE:
    unsupported(primitive, reason=FOREIGN, error=ValueError)
for primitive in private.GPU_KERNELS:
    unsupported(primitive, reason=KERNEL)
for primitive in private.BOXES_AND_LOGS:
    unsupported(primitive, reason=BOX)
for primitive in private.PALLAS_REFERENCES:
    unsupported(primitive, reason=REFERENCE)


def register_sparse() -> None:
    """What the sparse formats of JAX bind."""
    from jax.experimental import sparse
    from jax.experimental.sparse.linalg import spsolve_p

    for primitive in (
        sparse.bcoo_dot_general_p, sparse.bcoo_dot_general_sampled_p, sparse.bcoo_extract_p,
        sparse.bcoo_fromdense_p, sparse.bcoo_sort_indices_p, sparse.bcoo_spdot_general_p,
        sparse.bcoo_sum_duplicates_p, sparse.bcoo_todense_p,
        sparse.bcoo_transpose_p, sparse.bcsr_dot_general_p, sparse.bcsr_extract_p, sparse.bcsr_fromdense_p,
        sparse.bcsr_todense_p, sparse.coo_fromdense_p, sparse.coo_matmat_p, sparse.coo_matvec_p, sparse.coo_todense_p,
        sparse.csr_fromdense_p, sparse.csr_matmat_p, sparse.csr_matvec_p, sparse.csr_todense_p,
        sparse.todense_p, spsolve_p, *private.sparse_kernels(),
    ):
        unsupported(primitive, reason=SPARSE)


def refuse(module: str, names: tuple[str, ...], reason: str) -> None:
    """What jax.grad refuses with a ValueError."""
    for name in names:
        unsupported(getattr(importlib.import_module(module), name), reason=reason, error=ValueError)


later("jax.experimental.sparse", register_sparse)
for module, names, reason in (
        (*private.KERNELS, PALLAS), (*private.KERNELS_OF_SEVERAL_PROGRAMS, PALLAS),
        (*private.INSIDE_OF_KERNELS, REFERENCE),
        (*private.BUFFER_CALLBACKS, f"buffer callbacks do not support JVP: {HOST}")):
    later(module, functools.partial(refuse, module, names, reason))

unsupported(p.rng_uniform_p, reason=(
    "its sample comes from a hidden state, so it is no function of its bounds; jax.grad refuses it too. "
    "Use jax.random.uniform"))
unsupported(private.call_exported_p, reason=(
    "an exported program keeps no rules; jax.grad refuses it too. "
    "Export with vjp_order >= 1, and call it through jax.export"))
unsupported(private.unreachable_p, reason="it stands for an error that is raised when it runs")
