"""Writes results so that a folder holds either all of a run or nothing of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.two_layer.bad_input import BadInput
from experiments.two_layer.crosschecks import leaf_names
from experiments.two_layer.datasets import Dataset
from experiments.two_layer.model import Parameters

METRICS, SUMMARY, PARAMETERS = "metrics.jsonl", "summary.json", "parameters.npz"
PICTURES = (
    "1_lines.png",
    "2_units.png",
    "3_hidden_space.png",
    "4_decision.png",
    "5_training.png",
    "stages.png",
)
OWN_FILES = frozenset((METRICS, SUMMARY, PARAMETERS, *PICTURES))
PAGE, CHECKPOINTS = "page.html", "checkpoints.npz"
OPTIONAL_FILES = frozenset((PAGE, CHECKPOINTS))
"""What `--page` adds."""


@contextlib.contextmanager
def results_folder(target: Path) -> Iterator[Path]:
    """A fresh temporary folder that takes the target's name when the block ends well, and vanishes otherwise.

    An earlier run's results are replaced; a folder that holds anything else is left alone. A link stays one: what it
    leads to is replaced.

    Raises:
        BadInput: the target cannot be written, or holds files that this program did not write.
    """
    target = target.resolve() if target.is_symlink() else target
    try:
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _temporary_name(target, "unfinished")
        unfinished.mkdir()
    except OSError as error:
        raise BadInput(f"--out {target}: cannot be written: {error.strerror or error}.") from error
    try:
        yield unfinished
        _check_replaceable(target)
        _put_in_place(unfinished, target)
    except OSError as error:
        raise BadInput(f"--out {target}: cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    foreign = sorted(path.name for path in target.iterdir() if path.name not in OWN_FILES | OPTIONAL_FILES)
    if foreign:
        raise BadInput(f"--out {target}: holds {foreign[0]!r}, which is not of this program; name another.")


def _put_in_place(unfinished: Path, target: Path) -> None:
    if not target.exists():
        os.rename(unfinished, target)
        return
    # A folder cannot be renamed onto a full one: move the earlier results aside first.
    earlier = _temporary_name(target, "earlier")
    os.rename(target, earlier)
    os.rename(unfinished, target)
    shutil.rmtree(earlier, ignore_errors=True)


def _temporary_name(target: Path, state: str) -> Path:
    # Beside the target, because a rename works within one file system only.
    return target.with_name(f".{target.name}.{state}-{secrets.token_hex(4)}")


def write_metrics(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line."""
    lines = (json.dumps(record, allow_nan=False) + "\n" for record in records)
    (folder / METRICS).write_text("".join(lines), encoding="utf-8")


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """The whole run in one JSON object."""
    text = json.dumps(summary, indent=2, allow_nan=False, default=str)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")


def write_parameters(folder: Path, parameters: Parameters, data: Dataset) -> None:
    """The trained leaves, by names such as `hidden.kernel`, and what raw features need before they fit."""
    leaves = zip(leaf_names(parameters), jax.tree.leaves(parameters), strict=True)
    arrays = {name: np.asarray(leaf) for name, leaf in leaves}
    np.savez(
        folder / PARAMETERS,
        **arrays,
        centre=data.centre,
        spread=data.spread,
        feature_names=np.array(data.feature_names),
        class_names=np.array(data.class_names),
    )


def write_checkpoints(folder: Path, steps: Sequence[int], checkpoints: Sequence[Parameters]) -> None:
    """The leaves at each check, stacked: `hidden.kernel` has shape [checks, features, units]; and the steps."""
    names = leaf_names(checkpoints[0])
    leaves = zip(*map(jax.tree.leaves, checkpoints), strict=True)
    arrays = {name: np.stack(leaf) for name, leaf in zip(names, leaves, strict=True)}
    np.savez(folder / CHECKPOINTS, **arrays, steps=np.asarray(steps))
