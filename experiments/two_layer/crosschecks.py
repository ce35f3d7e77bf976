"""Does funcgrad's gradient agree with systems that share nothing with it?

Three questions are asked, each answered per leaf of the parameters:

* The gradient, at the same parameters: funcgrad on `experiments.two_layer.model` against `jax.grad` on the Flax model.
* The parameters after training: both systems start alike and train apart.
* A small case in float64: funcgrad against the plain-Python tape in `reference/scalar_tape.py`.

This file measures; the other systems are in `flax_side.py` and `tape_side.py`.

Distances are counted in ulp: how many steps between neighbouring floating-point numbers of a given size. An
element of a gradient is a sum over points, and what rounding does to a sum depends on the size of its terms,
not on that of its result, where they may cancel. So one ulp is taken at the size of the summed magnitudes of
the terms, for each element by itself (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 4.2).

Two trainings drift apart by rounding, on some data fast and on some slowly. How fast is measured, not
guessed: the Flax model trains a second time with each element of each gradient moved by one ulp. One ulp of a
trained parameter is taken at the size of the largest element of its leaf.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.two_layer import model
from experiments.two_layer.model import Batch, Parameters

GRADIENT_LIMIT = 16.0
"""Ulp that two correct gradients may differ by: a few roundings per layer, in another order."""

DRIFT_FLOOR, DRIFT_FACTOR = 64.0, 16.0
"""Trained parameters may differ by `DRIFT_FLOOR` ulp or `DRIFT_FACTOR` times what a one-ulp nudge does."""


class Agreement(NamedTuple):
    """How far two leaves of one name lie apart."""

    subject: str
    leaf: str
    compared: int
    identical: int
    worst_ulp: float
    worst_at: str
    limit: float

    @property
    def agrees(self) -> bool:
        """Whether the worst element is within the limit; NaN anywhere is not."""
        return self.worst_ulp <= self.limit


def leaf_names(parameters: Parameters) -> list[str]:
    """Names such as `hidden.kernel`, in the order of `jax.tree.leaves`."""
    return [".".join(key.key for key in path) for path, _leaf in jax.tree.leaves_with_path(parameters)]


def compare(
    subject: str, ours: Parameters, theirs: Parameters, scale: Parameters, limit: float
) -> list[Agreement]:
    """Each leaf's distance in ulp, where one ulp is that of `scale`, element by element."""
    leaves = zip(*(jax.tree.leaves(tree) for tree in (ours, theirs, scale)), strict=True)
    return [
        _compare_leaf(subject, name, *(np.asarray(leaf) for leaf in triple), limit)
        for name, triple in zip(leaf_names(ours), leaves, strict=True)
    ]


def _compare_leaf(
    subject: str, name: str, ours: np.ndarray, theirs: np.ndarray, scale: np.ndarray, limit: float
) -> Agreement:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        mismatch = f"{ours.dtype}{list(ours.shape)} against {theirs.dtype}{list(theirs.shape)}"
        return Agreement(subject, name, ours.size, 0, float("inf"), mismatch, limit)
    # At least the size of the results themselves, and of the smallest normal number.
    size = np.maximum(np.maximum(np.abs(ours), np.abs(theirs)), scale)
    step = np.spacing(np.maximum(size, np.finfo(ours.dtype).tiny)).astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which the next line calls infinitely far
        distance = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)) / step
    distance = np.where(np.isfinite(distance), distance, np.inf)
    at = np.unravel_index(np.argmax(distance), distance.shape)
    where = "[" + ", ".join(str(index) for index in at) + "]"
    identical = int(np.count_nonzero(ours == theirs))
    return Agreement(subject, name, ours.size, identical, float(distance[at]), where, limit)


def merge(agreements: Iterable[Agreement]) -> list[Agreement]:
    """One line per subject and leaf out of the lines of many checks: counts are summed, the worst is kept."""
    merged: dict[tuple[str, str], Agreement] = {}
    for new in agreements:
        key = (new.subject, new.leaf)
        old = merged.get(key)
        if old is None:
            merged[key] = new
            continue
        worse = new if new.worst_ulp > old.worst_ulp else old
        merged[key] = worse._replace(
            compared=old.compared + new.compared, identical=old.identical + new.identical
        )
    return list(merged.values())


def gradient_scale(parameters: Parameters, batch: Batch, *, sides_may_differ: bool = True) -> Parameters:
    """The size of what each element of the gradient sums up: its formula with all terms made positive.

    Where rounding decides on which side of a unit's line a point lies, two correct systems may count that
    point or not. With `sides_may_differ` its whole contribution is then worth one ulp.
    """
    hidden_layer = parameters["hidden"]
    stages = model.forward(parameters, batch.features)
    epsilon = jnp.finfo(stages.scores.dtype).eps
    size = jnp.abs(batch.features) @ jnp.abs(hidden_layer["kernel"]) + jnp.abs(hidden_layer["bias"])
    undecided = jnp.abs(stages.preactivation) <= 4 * epsilon * size
    count = batch.labels.shape[0]
    if stages.scores.shape[-1] == 1:
        signs = jnp.where(batch.labels == 1, -1.0, 1.0).astype(stages.scores.dtype)
        ct_scores = jax.nn.sigmoid(signs[:, None] * stages.scores) / count
    else:
        wanted = jax.nn.one_hot(batch.labels, stages.scores.shape[-1], dtype=stages.scores.dtype)
        ct_scores = (jax.nn.softmax(stages.scores) + wanted) / count  # it is a difference of these two
    ct_hidden = ct_scores @ jnp.abs(parameters["output"]["kernel"]).T
    ct_preactivation = jnp.where(stages.preactivation > 0, ct_hidden, 0.0)
    if sides_may_differ:
        ct_preactivation = jnp.where(undecided, ct_hidden / epsilon, ct_preactivation)
    kernel = jnp.abs(batch.features).T @ ct_preactivation
    return {
        "hidden": {"kernel": kernel, "bias": ct_preactivation.sum(axis=0)},
        "output": {"kernel": stages.hidden.T @ ct_scores, "bias": ct_scores.sum(axis=0)},
    }
