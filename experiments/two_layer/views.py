"""What the pictures look at: a plane through the data, and a plane through the space behind ReLU."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.two_layer import model
from experiments.two_layer.datasets import Dataset
from experiments.two_layer.model import Parameters

MARGIN = 0.08
"""Free room around the points, as a fraction of their extent."""


class PlaneView(NamedTuple):
    """A plane in which the data are drawn: their own if they have two features, else a projection."""

    train: np.ndarray
    test: np.ndarray
    axis_names: tuple[str, str]
    limits: np.ndarray
    note: str
    features_at: Callable[[np.ndarray], np.ndarray]


class HiddenView(NamedTuple):
    """The points behind ReLU as seen in the plane where the last layer's separator is a straight line."""

    train: np.ndarray
    test: np.ndarray
    axis_names: tuple[str, str]
    limits: np.ndarray
    note: str
    scores_at: Callable[[np.ndarray], np.ndarray]


def limits_around(*clouds: np.ndarray) -> np.ndarray:
    """[[x low, x high], [y low, y high]] with a margin around all points."""
    points = np.concatenate(clouds)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.where(high > low, high - low, 1.0)
    # Near 1e17 so much more that the points of a grid differ.
    extent = np.maximum(extent, 1e-9 * np.maximum(abs(low), abs(high)))
    return np.stack([low - MARGIN * extent, high + MARGIN * extent], axis=1)


def grid(limits: np.ndarray, size: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two axes of a grid over the limits, and its points as [size * size, 2]."""
    horizontal, vertical = (np.linspace(low, high, size) for low, high in limits)
    return horizontal, vertical, np.stack(np.meshgrid(horizontal, vertical), axis=-1).reshape(-1, 2)


def principal_directions(cloud: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions of greatest spread as columns [features, count], and the share of the variance each has.

    Where there are fewer dimensions than asked for, the rest are zero.
    """
    centred = cloud.astype(np.float64) - cloud.mean(axis=0)
    variances, vectors = np.linalg.eigh(centred.T @ centred)
    directions, shares = np.zeros((cloud.shape[1], count)), np.zeros(count)
    available = min(count, cloud.shape[1])
    directions[:, :available] = vectors[:, ::-1][:, :available]
    shares[:available] = np.maximum(variances[::-1][:available], 0.0) / (variances.sum() or 1.0)
    return directions, shares


def plane_view(data: Dataset) -> PlaneView:
    """Raw coordinates for two features; the two principal components of the standardised data for more."""
    if data.train_features.shape[1] == 2:
        train, test = data.restore(data.train_features), data.restore(data.test_features)
        names = (data.feature_names[0], data.feature_names[1])
        return PlaneView(train, test, names, limits_around(train, test), "", data.standardise)
    directions, shares = principal_directions(data.train_features, 2)
    centre = data.train_features.mean(axis=0)
    train, test = (data.train_features - centre) @ directions, (data.test_features - centre) @ directions
    features, share = data.train_features.shape[1], shares.sum()
    note = (f"{features} features, seen in the plane of their two main directions ({share:.0%} of the variance):\n"
            "lines and regions as that plane cuts them, points projected onto it")
    return PlaneView(
        train,
        test,
        ("main direction 1", "main direction 2"),
        limits_around(train, test),
        note,
        lambda points: (centre + points @ directions.T).astype(np.float32),
    )


def hidden_view(parameters: Parameters, data: Dataset) -> HiddenView:
    """The space behind ReLU, looked at so that the last layer's separators keep their true shape.

    Two classes: the horizontal axis is the score m(x) itself, so the separator m = 0 is a vertical line; the
    vertical axis is the direction along the separator in which the points spread most. More classes: the
    two directions of score space in which the points spread most; with three classes that is all there is.
    """
    train, test = (model.forward(parameters, part) for part in (data.train_features, data.test_features))
    if train.scores.shape[1] > 1:
        return _score_plane(np.asarray(train.scores), np.asarray(test.scores), len(data.class_names))
    hidden, hidden_test = np.asarray(train.hidden), np.asarray(test.hidden)
    normal = np.asarray(parameters["output"]["kernel"])[:, 0]
    normal = normal / (np.linalg.norm(normal) or 1.0)
    along = hidden - np.outer(hidden @ normal, normal)
    direction = principal_directions(along, 1)[0][:, 0]
    if direction[np.argmax(np.abs(direction))] < 0:
        direction = -direction
    clouds = [
        np.stack([np.asarray(stages.scores)[:, 0], part @ direction], axis=1)
        for stages, part in ((train, hidden), (test, hidden_test))
    ]
    units = hidden.shape[1]
    return HiddenView(
        *clouds,
        ("m(x) = lin(h; w, b)", "along the separator"),
        limits_around(*clouds),
        f"{units} units: a space of {units} dimensions, seen edge-on to the last separator",
        lambda points: points[:, :1],
    )


def _score_plane(train: np.ndarray, test: np.ndarray, classes: int) -> HiddenView:
    # Only differences of scores decide; without their mean, K scores lie in a space of K - 1 dimensions.
    train, test = (scores - scores.mean(axis=1, keepdims=True) for scores in (train, test))
    centre = train.mean(axis=0)
    directions, shares = principal_directions(train, 2)
    clouds = [(scores - centre) @ directions for scores in (train, test)]
    exact = classes == 3
    seen = "all of it" if exact else f"{shares.sum():.0%} of the variance"
    return HiddenView(
        *clouds,
        ("score direction 1", "score direction 2"),
        limits_around(*clouds),
        f"{classes} scores, linear in h: two directions of theirs ({seen})",
        lambda points: centre + points @ directions.T,
    )


def unit_order(parameters: Parameters, data: Dataset) -> np.ndarray:
    """Hidden units by what they contribute to the scores, the greatest first."""
    hidden = np.asarray(model.forward(parameters, data.train_features).hidden)
    weight = np.abs(np.asarray(parameters["output"]["kernel"])).max(axis=1)
    return np.argsort(-weight * hidden.std(axis=0), kind="stable")
