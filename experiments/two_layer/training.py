"""Training as a pure function: a state and a batch in, the next state and what was seen on the way out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from experiments.two_layer.model import Batch, Parameters

Gradient = Callable[[Parameters, Batch], tuple[tuple[jax.Array, jax.Array], Parameters]]
"""(parameters, batch) -> ((loss, accuracy), gradient), as `value_and_grad(loss, has_aux=True)` gives."""

_OPTIMISERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "sgd": optax.sgd,
}
OPTIMISERS = tuple(_OPTIMISERS)


class TrainingState(NamedTuple):
    """Everything that one step hands to the next."""

    parameters: Parameters
    optimiser_state: optax.OptState


class History(NamedTuple):
    """Loss and accuracy on the training points before each step: float32[steps]."""

    loss: jax.Array
    accuracy: jax.Array


Chunk = Callable[[TrainingState, Batch, int], tuple[TrainingState, History]]


def make_optimiser(name: str, rate: float) -> optax.GradientTransformation:
    """The optimiser of that name with that learning rate."""
    return _OPTIMISERS[name](rate)


def start(parameters: Parameters, optimiser: optax.GradientTransformation) -> TrainingState:
    """The state before the first step."""
    return TrainingState(parameters, optimiser.init(parameters))


def make_chunk(gradient: Gradient, optimiser: optax.GradientTransformation) -> Chunk:
    """A jitted function that takes a number of full-batch steps in one `lax.scan`."""

    def step(state: TrainingState, batch: Batch) -> tuple[TrainingState, History]:
        (loss, accuracy), ct_parameters = gradient(state.parameters, batch)
        updates, optimiser_state = optimiser.update(ct_parameters, state.optimiser_state, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        return TrainingState(parameters, optimiser_state), History(loss, accuracy)

    @functools.partial(jax.jit, static_argnums=2)
    def chunk(state: TrainingState, batch: Batch, steps: int) -> tuple[TrainingState, History]:
        return jax.lax.scan(lambda carry, _unused: step(carry, batch), state, None, length=steps)

    return chunk
