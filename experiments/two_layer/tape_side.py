"""One small case of the classifier on the plain-Python tape, to compare funcgrad with in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments.two_layer import crosschecks, model
from experiments.two_layer.crosschecks import Agreement
from experiments.two_layer.model import Batch, Parameters
from experiments.two_layer.training import Gradient
from reference import scalar_tape

Numbers = list[float]
POINTS, FEATURES, HIDDEN = 6, 2, 3


def _linear(kernel: list[Numbers], bias: Numbers, inputs: Numbers) -> Numbers:
    columns = range(len(bias))
    return [bias[j] + sum(x * row[j] for x, row in zip(inputs, kernel, strict=True)) for j in columns]


def _tape_loss(parameters: dict[str, dict[str, list]], points: list[Numbers], labels: list[int]) -> float:
    """The loss of `model.loss` for two classes, written for plain numbers."""
    total = 0.0
    for point, label in zip(points, labels, strict=True):
        preactivation = _linear(parameters["hidden"]["kernel"], parameters["hidden"]["bias"], point)
        hidden = [scalar_tape.relu(number) for number in preactivation]
        (score,) = _linear(parameters["output"]["kernel"], parameters["output"]["bias"], hidden)
        total = total + scalar_tape.log(1.0 + scalar_tape.exp(-score if label else score))
    return total / len(points)


def _small_case(seed: int) -> tuple[Parameters, Batch]:
    random = np.random.default_rng(seed)
    features = jnp.asarray(random.normal(size=(POINTS, FEATURES)))
    labels = jnp.asarray(np.arange(POINTS) % 2)
    return model.init(jax.random.key(seed), features, HIDDEN, 1), Batch(features, labels)


def compare_with_tape(gradient: Gradient, seed: int) -> list[Agreement]:
    """The gradient of one small case against the tape's, leaf by leaf, in float64."""
    with jax.enable_x64(True):
        parameters, batch = _small_case(seed)
        _loss_and_accuracy, ours = jax.jit(gradient)(parameters, batch)
        plain = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), (parameters, batch))
        derivative = scalar_tape.grad(lambda numbers: _tape_loss(numbers, plain[1].features, plain[1].labels))
        theirs = jax.tree.map(lambda _like, numbers: np.asarray(numbers), ours, derivative(plain[0]))
        scale = crosschecks.gradient_scale(parameters, batch)
        return crosschecks.compare("gradient: tape", ours, theirs, scale, crosschecks.GRADIENT_LIMIT)
