"""The two-layer ReLU classifier as pure functions of its parameters.

    hidden[i] = ReLU(lin(x; w_i, b_i))        each unit draws a line and keeps one side of it
    m(x)      = lin(hidden; w, b)             one more line, in the space that the units span

Two classes need one score, whose sign decides; K > 2 classes need K scores, the largest of which decides.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

Parameters = dict[str, dict[str, jax.Array]]


class Batch(NamedTuple):
    """Examples and their classes: float[points, features] and int[points]."""

    features: jax.Array
    labels: jax.Array


class Stages(NamedTuple):
    """What the classifier computes on its way, each of shape [points, units of that stage]."""

    preactivation: jax.Array
    hidden: jax.Array
    scores: jax.Array


def score_count(class_count: int) -> int:
    """Number of scores for a number of classes."""
    return 1 if class_count == 2 else class_count


def init(key: jax.Array, features: jax.Array, hidden: int, scores: int) -> Parameters:
    """Random start for the training features [points, features].

    The kernels follow He et al. 2015 (arXiv 1502.01852), eq. 10. Each hidden bias makes its unit's line pass
    half-way between two training points picked at random, so that no unit starts with all points on one
    side, where it could learn nothing.
    """
    key_first, key_points, key_last = jax.random.split(key, 3)
    points, width = features.shape
    kernel = jax.random.normal(key_first, (width, hidden)) * (2.0 / width) ** 0.5
    pairs = features[jax.random.randint(key_points, (2, hidden), 0, points)]
    through = jnp.mean(pairs, axis=0)
    return {
        "hidden": {"kernel": kernel, "bias": -jnp.sum(through * kernel.T, axis=1)},
        "output": {
            "kernel": jax.random.normal(key_last, (hidden, scores)) * (2.0 / hidden) ** 0.5,
            "bias": jnp.zeros((scores,)),
        },
    }


def forward(parameters: Parameters, features: jax.Array) -> Stages:
    """All stages of the classifier for features of shape [points, features]."""
    hidden_layer, output_layer = parameters["hidden"], parameters["output"]
    preactivation = features @ hidden_layer["kernel"] + hidden_layer["bias"]
    hidden = jax.nn.relu(preactivation)
    return Stages(preactivation, hidden, hidden @ output_layer["kernel"] + output_layer["bias"])


def predict(scores: jax.Array) -> jax.Array:
    """Class of each row of scores."""
    if scores.shape[-1] == 1:
        return (scores[:, 0] > 0).astype(jnp.int32)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean negative log probability of the right class, in nats."""
    if scores.shape[-1] == 1:
        losses = optax.losses.sigmoid_binary_cross_entropy(scores[:, 0], labels.astype(scores.dtype))
    else:
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels)
    return jnp.mean(losses)


def accuracy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Fraction of examples whose class is predicted."""
    return jnp.mean((predict(scores) == labels).astype(jnp.float32))


def loss(parameters: Parameters, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy, the value to differentiate, and with it the accuracy."""
    scores = forward(parameters, batch.features).scores
    return cross_entropy(scores, batch.labels), accuracy(scores, batch.labels)
