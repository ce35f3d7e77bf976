"""The same classifier in Flax NNX, differentiated by `jax.grad`: what training is compared with."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.two_layer import crosschecks, model
from experiments.two_layer.model import Batch, Parameters
from reference.flax_models import TwoLayerClassifier


class NudgedBatch(NamedTuple):
    """A batch, and by how many ulp each element of its gradient is to be moved: 0 for the gradient itself."""

    batch: Batch
    ulps: jax.Array


class FlaxGradient:
    """`value_and_grad(loss, has_aux=True)` of the Flax model, on parameters as in `experiments.two_layer.model`."""

    def __init__(self, features: int, hidden: int, scores: int) -> None:
        classifier = TwoLayerClassifier(features, hidden, scores, rngs=nnx.Rngs(0))
        # Its own random start is dropped: both systems begin with the same parameters.
        self.graph, _start = nnx.split(classifier, nnx.Param)
        self.derivative = jax.value_and_grad(self._loss, has_aux=True)

    def __call__(
        self, parameters: Parameters, nudged: NudgedBatch
    ) -> tuple[tuple[jax.Array, jax.Array], Parameters]:
        """((loss, accuracy), gradient); the signature of `training.Gradient`."""
        value, gradient = self.derivative(parameters, nudged.batch)
        scale = crosschecks.gradient_scale(parameters, nudged.batch, sides_may_differ=False)
        return value, jax.tree.map(lambda leaf, size: _nudge(leaf, size, nudged.ulps), gradient, scale)

    def _loss(self, parameters: Parameters, batch: Batch) -> tuple[jax.Array, jax.Array]:
        scores = nnx.merge(self.graph, parameters)(batch.features)
        return model.cross_entropy(scores, batch.labels), model.accuracy(scores, batch.labels)


def _nudge(leaf: jax.Array, size: jax.Array, ulps: jax.Array) -> jax.Array:
    # The direction is as good as random and yet the same in every run: the last bit of the number itself.
    last_bit = jax.lax.bitcast_convert_type(leaf, jnp.uint32) & 1
    direction = jnp.where(last_bit == 1, 1.0, -1.0)
    return leaf + ulps * direction * size * jnp.finfo(leaf.dtype).eps
