"""A loss of parameters, differentiated by funcgrad and by JAX: every element of value, gradient and Hessian product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from tests.harness.compare import conditioning, same_type, same_values
from tests.harness.products import FAST_COMPILE

#: Roundings of a whole layer, relative to each element and to what the last place of the parameters does to it.
SCALE = 4.0
EPS = float(jnp.finfo(jnp.float32).eps)


def weighted_sum(outputs: Any) -> jax.Array:
    """A scalar that depends on every element of the outputs, each with another weight."""
    leaves = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum(jnp.sum(leaf * np.cos(1.7 * np.arange(leaf.size)).astype(leaf.dtype).reshape(leaf.shape))
               for leaf in leaves)


def assert_agrees(loss: Callable[[Any], jax.Array], params: Any, order: int = 1) -> None:
    """Types and elements of the compiled derivatives; and once more eagerly, types only with loose values.

    Args:
      loss: a real scalar function of `params`.
      params: a tree of float32 arrays.
      order: 2 for the product of the Hessian with a direction as well.
    """
    assert jax.tree.leaves(params), "nothing to differentiate"
    direction = jax.tree.map(lambda leaf: jnp.sin(1 + jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape),
                             params)

    def derivatives(grad: Any, value_and_grad: Any, jvp: Any) -> Callable[[Any], Any]:
        def run(params: Any) -> Any:
            results = value_and_grad(loss)(params)
            return (*results, jvp(grad(loss), (params,), (direction,))[1]) if order == 2 else results

        return jax.jit(run, compiler_options=FAST_COMPILE)

    ours = derivatives(funcgrad.grad, funcgrad.value_and_grad, funcgrad.jvp)(params)
    oracle = derivatives(jax.grad, jax.value_and_grad, jax.jvp)
    theirs = oracle(params)
    same_type(ours, theirs, "compiled")
    spread = conditioning(lambda p: jax.tree.leaves(oracle(p)), params, np.random.default_rng(0))
    names = [jax.tree_util.keystr(path) for path, _leaf in jax.tree.leaves_with_path(theirs)]
    for name, given, wanted, moved in zip(names, jax.tree.leaves(ours), jax.tree.leaves(theirs), spread, strict=True):
        # A sum over many terms is rounded relative to its largest elements.
        floor = EPS * float(np.max(np.abs(wanted), initial=0.0))
        same_values([given], [wanted], name, spread=[moved + floor], eps=EPS, scale=SCALE)
