"""Data to classify: six drawn sets in the plane, the real sets inside scikit-learn, or a CSV file."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.two_layer.bad_input import BadInput, require
from experiments.two_layer.csv_table import read_csv

HELD_OUT_FRACTION = 0.25


class Table(NamedTuple):
    """Rows as they came: float64[points, features], int[points] and what they are called."""

    features: np.ndarray
    labels: np.ndarray
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]


class Recipe(NamedTuple):
    """Settings that work for a set when the user names none. `points=None` means all there are."""

    points: int | None
    hidden: int
    steps: int
    rate: float


class Dataset(NamedTuple):
    """A set that is ready to train on: standardised, and split into training and held-out points."""

    name: str
    train_features: np.ndarray
    train_labels: np.ndarray
    test_features: np.ndarray
    test_labels: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]

    def standardise(self, raw: np.ndarray) -> np.ndarray:
        """Raw features to the classifier's: mean 0 and standard deviation 1 over the training points."""
        return ((raw - self.centre) / self.spread).astype(np.float32)

    def restore(self, features: np.ndarray) -> np.ndarray:
        """The classifier's features back to raw ones."""
        return features * self.spread + self.centre


def _uniform(points: int, random: np.random.Generator) -> np.ndarray:
    return random.uniform(0.0, 1.0, size=(points, 2))


def _simple(points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = _uniform(points, random)
    return x, x[:, 0] < 0.5


def _diag(points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = _uniform(points, random)
    return x, x[:, 0] + x[:, 1] < 0.5


def _split(points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = _uniform(points, random)
    return x, (x[:, 0] < 0.2) | (x[:, 0] > 0.8)


def _xor(points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = _uniform(points, random)
    return x, (x[:, 0] < 0.5) != (x[:, 1] < 0.5)


def _circle(points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = _uniform(points, random)
    return x, np.sum((x - 0.5) ** 2, axis=1) > 0.1


def _spiral(points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    # Archimedean spirals r = a·t, one turned by half a turn; sqrt spreads the points evenly along the arm.
    labels = np.arange(points) % 2 == 0
    turn = 3.0 * np.pi * np.sqrt(random.uniform(0.02, 1.0, size=points))
    radius = 0.46 * turn / (3.0 * np.pi)
    angle = turn + np.pi * labels
    arms = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return 0.5 + arms + random.normal(0.0, 0.006, size=arms.shape), labels


_DRAWN: dict[str, Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "simple": _simple,
    "diag": _diag,
    "split": _split,
    "xor": _xor,
    "circle": _circle,
    "spiral": _spiral,
}
_SHIPPED = ("breast_cancer", "digits", "wine")
DRAWN_NAMES = tuple(_DRAWN)
NAMES = (*_DRAWN, *_SHIPPED)

_RECIPES = {
    "simple": Recipe(points=800, hidden=2, steps=1000, rate=0.05),
    "diag": Recipe(points=800, hidden=4, steps=1000, rate=0.05),
    "split": Recipe(points=800, hidden=6, steps=1500, rate=0.05),
    "xor": Recipe(points=800, hidden=6, steps=1500, rate=0.05),
    "circle": Recipe(points=800, hidden=12, steps=1500, rate=0.05),
    "spiral": Recipe(points=1600, hidden=48, steps=4000, rate=0.02),
    "breast_cancer": Recipe(points=None, hidden=8, steps=300, rate=0.01),
    "digits": Recipe(points=None, hidden=32, steps=400, rate=0.01),
    "wine": Recipe(points=None, hidden=8, steps=300, rate=0.01),
}
_CSV_RECIPE = Recipe(points=None, hidden=16, steps=1000, rate=0.01)


def recipe(name: str) -> Recipe:
    """The default settings of a set, or those for a CSV file."""
    return _RECIPES.get(name, _CSV_RECIPE)


def is_csv(name: str) -> bool:
    """Whether a data set's name is meant as a path to a CSV file."""
    return name.lower().endswith(".csv") or Path(name).is_file()


def load(name: str, points: int | None, seed: int, label_column: str | None = None) -> Dataset:
    """Read or draw a set, choose `points` of its rows, split off the held-out ones and standardise.

    Raises:
        BadInput: the name is unknown, the file cannot be used, or too few points or classes are left.
    """
    random = np.random.default_rng(seed)
    table = _table(name, points, random, label_column)
    require(len(table.labels) > 0, f"{name}: the set has no points.")
    if points is not None:
        available = len(table.labels)
        require(points <= available, f"--points {points}: {name} has only {available} points.")
        chosen = np.sort(random.permutation(len(table.labels))[:points])
        table = table._replace(features=table.features[chosen], labels=table.labels[chosen])
    _check_classes(name, table)
    return _split_and_standardise(Path(name).stem if is_csv(name) else name, table, random)


def _table(name: str, points: int | None, random: np.random.Generator, label_column: str | None) -> Table:
    if name in _DRAWN:
        features, labels = _DRAWN[name](points or _RECIPES[name].points or 0, random)
        return Table(features, labels.astype(np.int32), ("x1", "x2"), ("class 0", "class 1"))
    if name in _SHIPPED:
        return _shipped(name)
    if is_csv(name):
        return Table(*read_csv(Path(name), label_column))
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise BadInput(f"--data {name}: unknown set.{hint} Known: {', '.join(NAMES)}, or a path ending in .csv.")


def _shipped(name: str) -> Table:
    # Imported here because scikit-learn takes a second to load and the drawn sets do not need it.
    from sklearn import datasets as sklearn_datasets

    bunch = getattr(sklearn_datasets, f"load_{name}")()
    return Table(
        np.asarray(bunch.data, np.float64),
        np.asarray(bunch.target, np.int32),
        tuple(str(feature) for feature in bunch.feature_names),
        tuple(str(label) for label in bunch.target_names),
    )


def _check_classes(name: str, table: Table) -> None:
    counts = np.bincount(table.labels, minlength=len(table.class_names))
    present = np.flatnonzero(counts)
    if len(present) == 1:
        raise BadInput(f"{name}: every point is of class {table.class_names[present[0]]!r}; two are needed.")
    rare = np.flatnonzero(counts < 2)
    if len(rare):
        rarest, count = table.class_names[rare[0]], counts[rare[0]]
        needed = "it needs at least one to train on and one to hold out"
        raise BadInput(f"{name}: class {rarest!r} has too few points ({count}); {needed}.")


def _split_and_standardise(name: str, table: Table, random: np.random.Generator) -> Dataset:
    held_out = np.zeros(len(table.labels), bool)
    for label in range(len(table.class_names)):
        rows = random.permutation(np.flatnonzero(table.labels == label))
        held_out[rows[: max(1, round(HELD_OUT_FRACTION * len(rows)))]] = True
    train = table.features[~held_out]
    with np.errstate(over="ignore", invalid="ignore"):
        centre, spread = train.mean(axis=0), train.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)  # a constant column tells nothing and does no harm
        standardised = ((table.features - centre) / spread).astype(np.float32)
    usable = np.isfinite(centre) & np.isfinite(spread) & np.all(np.isfinite(standardised), axis=0)
    unusable = np.flatnonzero(~usable)
    if len(unusable):
        column = table.feature_names[unusable[0]]
        raise BadInput(f"{name}: column {column!r} has numbers too large to be standardised.")
    return Dataset(
        name,
        standardised[~held_out],
        table.labels[~held_out],
        standardised[held_out],
        table.labels[held_out],
        centre,
        spread,
        table.feature_names,
        table.class_names,
    )
