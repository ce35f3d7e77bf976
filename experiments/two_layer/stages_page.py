"""One page on which a trained classifier is looked through: every stage, at every checkpoint, for single examples too.

Everything on it is computed here from the run: lines, points, regions and surfaces from the parameters at each check,
the computation graph with its cotangents by `funcgrad.explain` of one example's loss. The page needs nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from experiments.two_layer import model, plots, views
from experiments.two_layer.datasets import Dataset
from experiments.two_layer.model import Parameters
from experiments.two_layer.runner import Check, Trained
from experiments.two_layer.views import PlaneView
from funcgrad.inspection import render_html

MAX_POINTS, MAX_UNITS = 400, 12
GRID, SURFACE = 72, 36
#: Which examples have their graph shown: at these places when the training points are sorted by their final loss.
EXAMPLES = (("the surest", 0.0), ("a typical one", 0.5), ("a close one", 0.95), ("the worst", 1.0))
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Example(NamedTuple):
    """A training point whose computation graph is shown."""

    index: int
    name: str


def write(path: Path, trained: Trained, data: Dataset) -> None:
    """Write the page of a run."""
    shown = np.arange(len(data.train_labels))[:MAX_POINTS]
    examples = choose_examples(trained.parameters, data, shown)
    plane = views.plane_view(data)
    units = views.unit_order(trained.parameters, data)[:MAX_UNITS]
    content = {
        "name": data.name, "classes": list(data.class_names), "colours": plots.CLASS_COLOURS,
        "onDark": plots.ON_DARK,
        "plane": {"points": _rounded(plane.train[shown]), "limits": plane.limits.tolist(), "axes": plane.axis_names,
                  "note": plane.note},
        "labels": data.train_labels[shown].tolist(), "more": len(data.train_labels) - len(shown),
        "units": [f"h{number}" for number in range(1, len(units) + 1)],
        "unitsLeftOut": int(trained.parameters["hidden"]["bias"].shape[0]) - len(units),
        "examples": [{"index": e.index, "name": e.name, "label": data.class_names[data.train_labels[e.index]]}
                     for e in examples],
        "checkpoints": [_checkpoint(parameters, check, data, plane, units, shown)
                        for parameters, check in zip(trained.checkpoints, trained.checks, strict=True)],
        "graphs": [[json.loads(_graph(parameters, data, example.index)) for example in examples]
                   for parameters in trained.checkpoints],
        "viewer": render_html.page("the loss of one example", "@DATA@"),
    }
    folder = Path(__file__).parent
    parts = {"title": f"{data.name}: the stages of a two-layer classifier",
             "style": (folder / "stages_page.css").read_text(encoding="utf-8"),
             "script": (folder / "stages_page.js").read_text(encoding="utf-8"), "data": _json(content)}
    page = (folder / "stages_page.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace("{{" + name + "}}", text)
    path.write_text(page, encoding="utf-8")


def _json(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("</", "<\\/")  # so that it can stand in a script element


def _rounded(values: np.ndarray) -> list:
    """Nested lists with four digits: enough for a picture."""
    text = json.dumps(np.asarray(values, float).tolist())
    return json.loads(text, parse_float=lambda number: float(f"{float(number):.4g}"))


def choose_examples(parameters: Parameters, data: Dataset, shown: np.ndarray) -> list[Example]:
    """The points of `EXAMPLES` among those shown, each once."""
    scores = model.forward(parameters, data.train_features[shown]).scores
    losses = jax.vmap(model.cross_entropy)(scores[:, None], jnp.asarray(data.train_labels[shown])[:, None])
    order = np.argsort(np.asarray(losses), kind="stable")
    chosen: dict[int, str] = {}
    for name, quantile in EXAMPLES:
        chosen.setdefault(int(shown[order[round(quantile * (len(order) - 1))]]), name)
    return [Example(index, name) for index, name in chosen.items()]


# ---- one checkpoint ----


def _checkpoint(parameters: Parameters, check: Check, data: Dataset, plane: PlaneView, units: np.ndarray,
                shown: np.ndarray) -> dict[str, Any]:
    hidden = views.hidden_view(parameters, data)
    _, _, on_plane = views.grid(plane.limits, GRID)
    _, _, on_hidden = views.grid(hidden.limits, GRID)
    _, _, coarse = views.grid(plane.limits, SURFACE)
    stages = model.forward(parameters, data.train_features[shown])
    return {
        "step": check.step, "loss": check.loss, "accuracy": check.accuracy, "heldOut": check.held_out_accuracy,
        "lines": _rounded(unit_lines(parameters, plane)[units]),
        "hidden": {"points": _rounded(hidden.train[shown]), "limits": hidden.limits.tolist(),
                   "axes": hidden.axis_names, "note": hidden.note, "winner": _winner(hidden.scores_at(on_hidden))},
        "winner": _winner(_scores(parameters, plane, on_plane)),
        "surface": _rounded(margin(_scores(parameters, plane, coarse))),
        "surfaceWinner": _winner(_scores(parameters, plane, coarse)),
        "predicted": np.asarray(model.predict(stages.scores)).tolist(),
        "hiddenValues": _rounded(np.asarray(stages.hidden)[:, units]),
    }


def unit_lines(parameters: Parameters, plane: PlaneView) -> np.ndarray:
    """For each unit (a, b, c): in the plane that is drawn its preactivation is a x + b y + c. float64[units, 3]."""
    low = plane.limits[:, 0]
    corners = np.stack([low, [plane.limits[0, 1], low[1]], [low[0], plane.limits[1, 1]]])
    heights = np.asarray(model.forward(parameters, plane.features_at(corners)).preactivation, np.float64)
    slopes = (heights[1:] - heights[0]) / np.ptp(plane.limits, axis=1)[:, None]
    return np.concatenate([slopes, (heights[0] - low @ slopes)[None]]).T


def _scores(parameters: Parameters, plane: PlaneView, points: np.ndarray) -> np.ndarray:
    return np.asarray(model.forward(parameters, plane.features_at(points)).scores)


def margin(scores: np.ndarray) -> np.ndarray:
    """What decides: the score itself for two classes, the lead of the best over the second for more."""
    if scores.shape[1] == 1:
        return scores[:, 0]
    best = np.sort(scores, axis=1)
    return best[:, -1] - best[:, -2]


def _winner(scores: np.ndarray) -> str:
    """The decision at each point of a grid, one character each."""
    return "".join(DIGITS[label] for label in np.asarray(model.predict(jnp.asarray(scores))))


def _graph(parameters: Parameters, data: Dataset, index: int) -> str:
    """The computation graph of one example's loss with values, cotangents and local partials, for the viewer."""

    def loss(parameters: Parameters, x: jax.Array, label: jax.Array) -> jax.Array:
        return model.cross_entropy(model.forward(parameters, x[None]).scores, label[None])

    told = funcgrad.explain(loss)(parameters, data.train_features[index], data.train_labels[index])
    return render_html.payload(told.draw(limit=40).picture)
