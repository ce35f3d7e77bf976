"""Trains the classifier with funcgrad and, beside it, the Flax model with `jax.grad`; compares them on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from experiments.two_layer import crosschecks, model, tape_side, training
from experiments.two_layer.bad_input import BadInput
from experiments.two_layer.crosschecks import Agreement
from experiments.two_layer.datasets import Dataset
from experiments.two_layer.flax_side import FlaxGradient, NudgedBatch
from experiments.two_layer.model import Batch, Parameters
from experiments.two_layer.training import Chunk, Gradient, History, TrainingState


class Plan(NamedTuple):
    """What to train and how often to look."""

    hidden: int
    optimiser: str
    rate: float
    steps: int
    check_every: int
    seed: int


class Check(NamedTuple):
    """What was seen at one check, before the step of that number."""

    step: int
    loss: float
    accuracy: float
    held_out_accuracy: float
    gradient_worst_ulp: float


class Trained(NamedTuple):
    """The result: parameters, what was seen at each step and at each check, what agreed, parameters at each check."""

    parameters: Parameters
    history: History
    checks: list[Check]
    agreements: list[Agreement]
    nudge_ulp: float
    checkpoints: list[Parameters]


class _Systems(NamedTuple):
    """The same training three times: funcgrad's, Flax's, and Flax's with its gradients moved by one ulp."""

    ours: TrainingState
    flax: TrainingState
    nudged: TrainingState


def train(data: Dataset, plan: Plan, gradient: Gradient | None = None, report: Callable | None = None) -> Trained:
    """Train as planned and compare with Flax at every check, and with the scalar tape once.

    Args:
        data: what to train on, and the held-out points.
        plan: how.
        gradient: what to train with; `funcgrad.value_and_grad` of the loss unless a test gives another.
        report: called with each `Check` as soon as it is made.

    Raises:
        BadInput: the loss or a parameter became infinite or NaN.
    """
    gradient = gradient or funcgrad.value_and_grad(model.loss, has_aux=True)
    optimiser = training.make_optimiser(plan.optimiser, plan.rate)
    batch = Batch(jnp.asarray(data.train_features), jnp.asarray(data.train_labels))
    parameters = model.init(
        jax.random.key(plan.seed), batch.features, plan.hidden, model.score_count(len(data.class_names))
    )
    flax_gradient = FlaxGradient(batch.features.shape[1], plan.hidden, parameters["output"]["bias"].shape[0])
    chunks = training.make_chunk(gradient, optimiser), training.make_chunk(flax_gradient, optimiser)
    check = _make_check(data, batch, gradient, flax_gradient)

    systems = _Systems(*(training.start(parameters, optimiser) for _system in _Systems._fields))
    histories: list[History] = []
    checks: list[Check] = []
    agreements: list[Agreement] = []
    checkpoints: list[Parameters] = []
    for step in [*range(0, plan.steps, plan.check_every), plan.steps]:
        if step > 0:
            taken = step - checks[-1].step
            systems, history = _advance(systems, chunks, batch, taken)
            histories.append(History(*(np.asarray(part) for part in history)))
            _require_finite(histories[-1], systems.ours.parameters, checks[-1].step, plan.rate)
        seen, compared = check(step, systems.ours.parameters)
        checks.append(seen)
        checkpoints.append(systems.ours.parameters)
        agreements = crosschecks.merge([*agreements, *compared])
        if report is not None:
            report(seen)
    drift, nudge_ulp = _compare_trained(systems)
    history = History(*(np.concatenate(parts) for parts in zip(*histories, strict=True)))
    compared = [*agreements, *drift, *tape_side.compare_with_tape(gradient, plan.seed)]
    return Trained(systems.ours.parameters, history, checks, compared, nudge_ulp, checkpoints)


def _advance(
    systems: _Systems, chunks: tuple[Chunk, Chunk], batch: Batch, steps: int
) -> tuple[_Systems, History]:
    our_chunk, flax_chunk = chunks
    ours, history = our_chunk(systems.ours, batch, steps)
    flax, _history = flax_chunk(systems.flax, NudgedBatch(batch, jnp.float32(0.0)), steps)
    nudged, _history = flax_chunk(systems.nudged, NudgedBatch(batch, jnp.float32(1.0)), steps)
    return _Systems(ours, flax, nudged), history


def _make_check(
    data: Dataset, batch: Batch, gradient: Gradient, flax_gradient: FlaxGradient
) -> Callable[[int, Parameters], tuple[Check, list[Agreement]]]:
    # Two programs, not one: within one, XLA could find that both compute the same and do it once.
    ours, theirs = jax.jit(gradient), jax.jit(flax_gradient)
    scale_of = jax.jit(crosschecks.gradient_scale)
    loss_of = jax.jit(model.loss)
    held_out = Batch(jnp.asarray(data.test_features), jnp.asarray(data.test_labels))

    def check(step: int, parameters: Parameters) -> tuple[Check, list[Agreement]]:
        (loss, accuracy), our_gradient = ours(parameters, batch)
        _value, their_gradient = theirs(parameters, NudgedBatch(batch, jnp.float32(0.0)))
        scale = scale_of(parameters, batch)
        compared = crosschecks.compare(
            "gradient: Flax", our_gradient, their_gradient, scale, crosschecks.GRADIENT_LIMIT
        )
        worst = max(agreement.worst_ulp for agreement in compared)
        _loss, held_out_accuracy = loss_of(parameters, held_out)
        return Check(step, float(loss), float(accuracy), float(held_out_accuracy), worst), compared

    return check


def _compare_trained(systems: _Systems) -> tuple[list[Agreement], float]:
    ours, flax, nudged = (state.parameters for state in systems)
    subject = "parameters: Flax"
    # A layer's output hardly depends on the digits of a weight far smaller than its neighbours.
    size = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.max(jnp.abs(leaf))), flax)
    moved = crosschecks.compare(subject, nudged, flax, size, math.inf)
    nudge_ulp = max(agreement.worst_ulp for agreement in moved)
    limit = crosschecks.DRIFT_FLOOR + crosschecks.DRIFT_FACTOR * nudge_ulp
    return crosschecks.compare(subject, ours, flax, size, limit), nudge_ulp


def _require_finite(history: History, parameters: Parameters, start: int, rate: float) -> None:
    bad = np.flatnonzero(~np.isfinite(history.loss))
    if len(bad):
        value = "NaN" if np.isnan(history.loss[bad[0]]) else "infinite"
        raise BadInput(f"the loss became {value} at step {start + bad[0]}; try a --rate smaller than {rate:g}.")
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(parameters)):
        last = start + len(history.loss)
        raise BadInput(f"a parameter became NaN or infinite by step {last}; try a --rate smaller than {rate:g}.")
