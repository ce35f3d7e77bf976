"""Cases of identities, and of operations without a cotangent whose results are used."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.multihost_utils import global_array_to_host_local_array, host_local_array_to_global_array
from jax.experimental.xla_metadata import set_xla_metadata

from funcgrad._compat import primitives as private
from tests.cases.case import Case, normal


def with_random_bits(x: Any) -> Any:
    """Keys made, folded, cloned, split, taken apart and put together, and bits of them."""
    key = jax.random.fold_in(jax.random.key(0), jnp.argmax(x))
    key = jax.random.clone(jax.random.split(key)[1])
    key = jax.random.wrap_key_data(jax.random.key_data(key))
    bits = lax.rem(jax.random.bits(key, x.shape, np.uint32), np.uint32(5))
    return lax.mul(x, lax.convert_element_type(bits, x.dtype))


def with_generator(x: Any) -> Any:
    """Bits of the device's own generator, from a key that depends on the input."""
    key = lax.broadcast(lax.convert_element_type(lax.argmax(x, 0, np.int32), np.uint32), (4,))
    _, bits = lax.rng_bit_generator(key, x.shape)
    return lax.mul(x, lax.convert_element_type(lax.rem(bits, np.uint32(5)), x.dtype))


def with_effects(x: Any) -> Any:
    """Prints and callbacks in between."""
    jax.debug.callback(lambda value: None, x)
    lax.dce_sink(x)
    return lax.mul(x, x)


def of_all_processes(x: Any) -> Any:
    """To the array of all processes, here one, and back."""
    mesh = jax.make_mesh((1,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = twice(host_local_array_to_global_array(x, mesh, jax.P("all")))
    return twice(*global_array_to_host_local_array(whole, mesh, jax.P("all")))


def twice(*xs: Any) -> Any:
    """Something that is not linear, behind an identity."""
    return tuple(lax.mul(x, x) for x in xs)


CASES: tuple[Case, ...] = (
    Case("optimization_barrier[several]", ("optimization_barrier",),
         lambda x, y: twice(*lax.optimization_barrier((x, y))), normal((3,), (2, 2))),
    Case("optimization_barrier[one used]", ("optimization_barrier",),
         lambda x, y: twice(lax.optimization_barrier((x, y))[1]), normal((3,), (2, 2))),
    Case("optimization_barrier[with an integer]", ("optimization_barrier",),
         lambda x, i: lax.optimization_barrier((i, x))[1] * lax.convert_element_type(i, x.dtype),
         lambda rng: (rng.standard_normal(3), np.arange(3))),
    Case("name", ("name",), lambda x: twice(checkpoint_name(x, "hidden")), normal((3,))),
    Case("xla_metadata_value", ("xla_metadata_value",), lambda x: twice(set_xla_metadata(x, place="here")),
         normal((3,))),
    Case("host_local_array_to_global_array",
         ("host_local_array_to_global_array", "global_array_to_host_local_array"), of_all_processes, normal((3,))),
    # `stage` gives a traced value back as it is, so its rule is asked only inside programs that others staged.
    Case("stage", (), lambda x: twice(lax.stage_p.bind(x)), normal((3,))),
    Case("tie", ("tie",), lambda x, y: twice(private.tie_p.bind(x, y)), normal((2,), (3,))),
    Case("random keys and bits", ("random_seed", "random_split", "random_fold_in", "random_bits", "random_clone",
                                  "random_wrap", "random_unwrap"), with_random_bits, normal((3,))),
    Case("rng_bit_generator", ("rng_bit_generator",), with_generator, normal((3,))),
    Case("iota", ("iota",), lambda x: lax.mul(x, lax.iota(x.dtype, 3)), normal((3,))),
    Case("debug_callback, dce_sink", ("debug_callback", "dce_sink"), with_effects, normal((3,))),
)
