"""A deliberately wrong rule inside a Flax model, and what `funcgrad.check` says of it.

    python -m experiments.wrong_rule

The model is a classifier whose hidden layer uses a `jax.custom_vjp` activation. Its author dropped a term of the
derivative. `jax.grad` and `funcgrad.grad` both run the user's rule, so they agree, and training "works".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import funcgrad
from funcgrad.crosscheck.report import Report


@jax.custom_vjp
def swish(x: jax.Array) -> jax.Array:
    """x * sigmoid(x)."""
    return x * jax.nn.sigmoid(x)


def swish_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The value, and what the backward rule reads."""
    return swish(x), x


def swish_backward(x: jax.Array, ct: jax.Array) -> tuple[jax.Array]:
    """Wrong: the term x * sigmoid'(x) is missing."""
    return (ct * jax.nn.sigmoid(x),)


swish.defvjp(swish_forward, swish_backward)


class Classifier(nn.Module):
    """Two dense layers with the activation in between."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(8)(x)
        x = swish(x)
        return nn.Dense(3)(x)


def report() -> Report:
    """Check the gradient of the model's loss with respect to its parameters."""
    rng = np.random.default_rng(0)
    images, labels = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32), jnp.array([0, 2, 1, 0])
    model = Classifier()
    params = model.init(jax.random.key(0), images)

    def loss(params: Any) -> jax.Array:
        logits = model.apply(params, images)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), labels])

    return funcgrad.check(loss, params)


if __name__ == "__main__":
    print(report())
