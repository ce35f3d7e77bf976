"""Pictures of the stages of a trained two-layer classifier, in the order in which it computes them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import font_manager, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure, FigureBase

from experiments.two_layer import model, views
from experiments.two_layer.datasets import Dataset
from experiments.two_layer.model import Parameters
from experiments.two_layer.views import HiddenView, PlaneView

# Okabe and Ito's palette, its yellow darker on a light ground, and two dark colours more, for the ten digits: it stays
# apart for colour-blind readers. Ten colours and seven markers make 70 different classes.
CLASS_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B5A300", "#000000", "#661100",
                 "#332288")
ON_DARK = {"#B5A300": "#F0E442", "#000000": "#FFFFFF", "#661100": "#A65628", "#332288": "#9B8CFF"}
"""What stands for the colours that cannot be seen on a dark ground."""
MARKERS = "os^Dv<P"
LINE_COLOUR = "#333333"
UNIT_MAP = LinearSegmentedColormap.from_list("unit", ["#9C7FB8", "#FFFFFF", "#4D9A5B"])
"""Purple below zero, white at zero, green above."""

# Letters that Matplotlib's own font lacks come from these, where they are installed.
_MORE_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "WenQuanYi Zen Hei", "IPAGothic",
               "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Noto Sans", "Arial Unicode MS")
FONTS = ["DejaVu Sans", *(name for name in _MORE_FONTS if name in font_manager.get_font_names())]

STYLE = {
    "font.family": FONTS,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.framealpha": 0.9,
    "legend.fontsize": 8.5,
    "figure.dpi": 160,
    "savefig.facecolor": "white",
}
MAX_UNITS_DRAWN, UNITS_PER_BAND = 8, 4
# Histograms of so many classes lie over each other, those of more stand in rows; so many rows have a name.
OVERLAID_CLASSES, NAMED_ROWS = 3, 12
UNITS_TITLE = "2  ReLU keeps one side of it"


class Curves(NamedTuple):
    """What was seen at each step and at each check, for the picture of the training."""

    loss: np.ndarray
    accuracy: np.ndarray
    check_steps: list[int]
    held_out_accuracy: list[float]


class Scene(NamedTuple):
    """Everything that the pictures show, computed once."""

    parameters: Parameters
    data: Dataset
    plane: PlaneView
    hidden: HiddenView
    units: np.ndarray
    horizontal: np.ndarray
    vertical: np.ndarray
    on_grid: model.Stages
    on_train: model.Stages


def make_scene(parameters: Parameters, data: Dataset) -> Scene:
    """Choose the planes to look at and the units to show."""
    units = views.unit_order(parameters, data)[:MAX_UNITS_DRAWN]
    plane = views.plane_view(data)
    horizontal, vertical, points = views.grid(plane.limits)
    on_grid, on_train = (
        model.Stages(*map(np.asarray, model.forward(parameters, features)))
        for features in (plane.features_at(points), data.train_features)
    )
    hidden = views.hidden_view(parameters, data)
    return Scene(parameters, data, plane, hidden, units, horizontal, vertical, on_grid, on_train)


def draw_all(folder: Path, parameters: Parameters, data: Dataset, curves: Curves) -> None:
    """Write every picture of `outputs.PICTURES` into the folder."""
    strange = letters_without_a_glyph("".join((*data.feature_names, *data.class_names, data.name)))
    if strange:
        warnings.warn(f"no font here has the letters {strange!r}: the pictures show boxes in their place. To fix: "
                      "install one that has them, as Noto Sans CJK.", stacklevel=2)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # that has been said, once
        scene = make_scene(parameters, data)
        _single(folder / "1_lines.png", scene, draw_lines, scene.plane.note)
        units_figure(scene).savefig(folder / "2_units.png")
        _single(folder / "3_hidden_space.png", scene, draw_hidden_space, scene.hidden.note)
        _single(folder / "4_decision.png", scene, draw_decision, scene.plane.note)
        training_figure(data, curves).savefig(folder / "5_training.png")
        stages_figure(scene).savefig(folder / "stages.png")


def letters_without_a_glyph(text: str) -> str:
    """The letters of a text that none of the fonts can draw, each once."""
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in FONTS]
    return "".join(sorted(c for c in set(text) if not any(font.get_char_index(ord(c)) for font in fonts)))


def _single(path: Path, scene: Scene, draw: Callable[[Axes, Scene], None], note: str) -> None:
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    draw(axes, scene)
    _legend_below(figure, axes)
    _note_above(figure, note)
    figure.savefig(path)


def _note_above(figure: Figure, note: str) -> None:
    if note:
        figure.text(0.99, 0.995, note, fontsize=8.5, color="#555555", ha="right", va="top")
        room = (note.count("\n") + 1) * 0.19 / figure.get_figheight()  # a line of this size is 0.19 inches high
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - room))


def _legend_below(figure: Figure, *panels: Axes) -> None:
    # Below the picture, where it can hide neither a point nor a line; each name once.
    entries = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    handles, names = entries.values(), entries.keys()
    rows = math.ceil(len(handles) / 6)
    figure.legend(handles, names, loc="outside lower center", ncols=math.ceil(len(handles) / rows), markerscale=1.4)


def _colour(label: int) -> str:
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def _class_map(count: int) -> ListedColormap:
    return ListedColormap([_colour(label) for label in range(count)])


def draw_points(axes: Axes, points: np.ndarray, labels: np.ndarray, names: tuple[str, ...], size: float) -> None:
    """One marker and colour per class."""
    for label, name in enumerate(names):
        x, y = points[labels == label].T
        marker = MARKERS[label % len(MARKERS)]
        axes.scatter(
            x, y, s=size, c=_colour(label), marker=marker, linewidths=0.3, edgecolors="white", alpha=0.8, label=name
        )


def _frame(axes: Axes, title: str, axis_names: tuple[str, str], limits: np.ndarray) -> None:
    axes.set_title(title)
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])


def draw_lines(axes: Axes, scene: Scene) -> None:
    """The data, and for each hidden unit the line where lin(x; w_i, b_i) is 0, with arrows to its active side."""
    plane = scene.plane
    draw_points(axes, plane.train, scene.data.train_labels, scene.data.class_names, size=16)
    for number, unit in enumerate(scene.units, 1):
        # Names at different places along the lines, so that those of neighbouring lines stay apart.
        label_at = (0.05, 0.95, 0.25, 0.75)[(number - 1) % 4]
        _draw_unit_line(axes, scene, unit, f"h{number}", label_at)
    axes.plot([], [], color=LINE_COLOUR, label="lin(x; w, b) = 0; arrow: where it is above 0")
    _frame(axes, "1  Each hidden unit draws a line", plane.axis_names, plane.limits)


def _height(scene: Scene, unit: int) -> np.ndarray:
    return scene.on_grid.preactivation[:, unit].reshape(len(scene.vertical), len(scene.horizontal))


def _draw_unit_line(axes: Axes, scene: Scene, unit: int, name: str, label_at: float) -> None:
    horizontal, vertical, height = scene.horizontal, scene.vertical, _height(scene, unit)
    slope_y, slope_x = np.gradient(height, vertical, horizontal)
    # In the plane the preactivation is linear: its slope is the same everywhere.
    normal = np.array([slope_x.mean(), slope_y.mean()])
    crossings = np.argwhere(np.diff(np.sign(height), axis=0) != 0)
    crossings_across = np.argwhere(np.diff(np.sign(height), axis=1) != 0)
    line = np.concatenate([crossings, crossings_across])
    if not len(line) or not np.any(normal):
        return  # this unit's line passes outside the picture
    axes.contour(horizontal, vertical, height, levels=[0.0], colors=LINE_COLOUR, linewidths=1.4)
    extent = np.ptp(scene.plane.limits, axis=1)
    # Where axes have different units, "at right angles" is meant as it looks on paper.
    on_paper = normal * extent
    towards = on_paper / np.linalg.norm(on_paper) * extent * 0.07
    along = np.array([-on_paper[1], on_paper[0]]) * extent
    spots = np.stack([horizontal[line[:, 1]], vertical[line[:, 0]]], axis=1)
    ordered = spots[np.argsort(spots @ (along / extent**2))]
    for fraction in (0.15, 0.85):
        spot = ordered[int(fraction * (len(ordered) - 1))]
        axes.annotate("", spot + towards, spot, arrowprops={"arrowstyle": "-|>", "color": LINE_COLOUR, "lw": 1.4})
    spot = ordered[int(label_at * (len(ordered) - 1))]
    label = axes.text(*spot, name, fontsize=9, fontweight="bold", ha="center", va="center", clip_on=True)
    label.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])


def draw_hidden_space(axes: Axes, scene: Scene) -> None:
    """The points behind ReLU with the separator of the last layer, and the regions it makes."""
    hidden, data = scene.hidden, scene.data
    horizontal, vertical, points = views.grid(hidden.limits)
    _draw_regions(axes, horizontal, vertical, hidden.scores_at(points), alpha=0.15)
    draw_points(axes, hidden.train, data.train_labels, data.class_names, size=16)
    lines = "one line separates" if len(data.class_names) == 2 else "straight lines separate"
    _frame(axes, f"3  After ReLU {lines}", hidden.axis_names, hidden.limits)


def draw_decision(axes: Axes, scene: Scene) -> None:
    """What the classifier says everywhere, and the held-out points with the wrongly classified ones marked."""
    plane, data = scene.plane, scene.data
    _draw_regions(axes, scene.horizontal, scene.vertical, scene.on_grid.scores, alpha=0.25)
    draw_points(axes, plane.test, data.test_labels, data.class_names, size=20)
    scores = model.forward(scene.parameters, data.test_features).scores
    wrong = np.asarray(model.predict(scores)) != data.test_labels
    right_share = 1.0 - wrong.mean()
    ring = {"s": 90, "facecolors": "none", "edgecolors": "black", "linewidths": 1.3}
    axes.scatter(*plane.test[wrong].T, **ring, label="held out, decided wrongly")
    title = f"4  The decision: {right_share:.1%} of held-out points right"
    _frame(axes, title, plane.axis_names, plane.limits)


def _draw_regions(
    axes: Axes, horizontal: np.ndarray, vertical: np.ndarray, scores: np.ndarray, alpha: float
) -> None:
    shape = (len(vertical), len(horizontal))
    classes = max(2, scores.shape[1])
    winner = np.asarray(model.predict(scores)).reshape(shape)
    levels = np.arange(classes + 1) - 0.5
    axes.contourf(horizontal, vertical, winner, levels=levels, cmap=_class_map(classes), alpha=alpha)
    if scores.shape[1] == 1:
        margins = [scores[:, 0]]
    else:
        # The border of class k is where its score equals the best of the others.
        others = [np.delete(scores, label, axis=1).max(axis=1) for label in range(classes)]
        margins = [scores[:, label] - others[label] for label in range(classes)]
    for margin in margins:
        if margin.min() < 0 < margin.max():
            axes.contour(horizontal, vertical, margin.reshape(shape), levels=[0.0], colors="black", linewidths=1.8)


def draw_unit(axes: Axes, scene: Scene, unit: int, after: bool) -> None:
    """One hidden unit before or after ReLU: over the plane for two features, as a histogram for more."""
    if scene.data.train_features.shape[1] == 2:
        _draw_unit_surface(axes, scene, unit, after)
    else:
        _draw_unit_histogram(axes, scene, unit, after)


def _draw_unit_surface(axes: Axes, scene: Scene, unit: int, after: bool) -> None:
    horizontal, vertical, before = scene.horizontal, scene.vertical, _height(scene, unit)
    largest = float(np.abs(before).max()) or 1.0
    height = np.maximum(before, 0.0) if after else before
    norm = TwoSlopeNorm(0.0, -largest, largest)
    axes.pcolormesh(horizontal, vertical, height, cmap=UNIT_MAP, norm=norm, shading="auto", rasterized=True)
    if before.min() < 0 < before.max():
        axes.contour(horizontal, vertical, before, levels=[0.0], colors=LINE_COLOUR, linewidths=1.2)
    for label in range(len(scene.data.class_names)):
        x, y = scene.plane.train[scene.data.train_labels == label].T
        axes.scatter(x, y, s=1.5, c=_colour(label), alpha=0.55, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_unit_histogram(axes: Axes, scene: Scene, unit: int, after: bool) -> None:
    before = scene.on_train.preactivation[:, unit]
    bins = np.linspace(min(before.min(), 0.0), max(before.max(), 0.0) or 1.0, 31)
    values = np.maximum(before, 0.0) if after else before
    names = scene.data.class_names
    for label in range(len(names)):
        chosen = values[scene.data.train_labels == label]
        if len(names) <= OVERLAID_CLASSES:
            axes.hist(chosen, bins=bins, color=_colour(label), alpha=0.45, density=True, histtype="stepfilled")
        else:  # a row for each: more than a few, one over the other, mix to a brown
            counts = np.histogram(chosen, bins)[0]
            axes.stairs(counts / max(1, counts.max()) - label, bins, baseline=-label, color=_colour(label), fill=True)
    axes.axvline(0.0, color=LINE_COLOUR, linewidth=1.2)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    if OVERLAID_CLASSES < len(names) <= NAMED_ROWS:
        axes.set_yticks(0.3 - np.arange(len(names)), names, fontsize=6)
        axes.tick_params(axis="y", length=0)


def draw_unit_rows(figure: FigureBase, scene: Scene, units: np.ndarray, columns: int | None = None) -> None:
    """A row of units before ReLU, and below each the same unit after it."""
    panels = figure.subplots(2, columns or len(units), squeeze=False)
    for empty in panels[:, len(units) :].flat:
        empty.set_axis_off()
    numbers = {unit: number for number, unit in enumerate(scene.units, 1)}
    for column, unit in enumerate(units):
        draw_unit(panels[0, column], scene, int(unit), after=False)
        draw_unit(panels[1, column], scene, int(unit), after=True)
        never_on = scene.on_train.hidden[:, unit].max() == 0.0
        name = f"h{numbers[unit]}" + (" (always 0)" if never_on else "")
        panels[0, column].set_title(name, loc="center", fontsize=10)
    panels[0, 0].set_ylabel("before\nlin(x; w, b)", fontsize=9)
    panels[1, 0].set_ylabel("after\nReLU", fontsize=9)


def units_figure(scene: Scene) -> Figure:
    """Every unit that is drawn, before and after ReLU."""
    columns = min(len(scene.units), UNITS_PER_BAND)
    bands = math.ceil(len(scene.units) / columns)
    figure = Figure(figsize=(max(4.8, 1.7 * columns), 3.7 * bands + 0.4), layout="constrained")
    for number, part in enumerate(figure.subfigures(bands, 1, squeeze=False)[:, 0]):
        draw_unit_rows(part, scene, scene.units[number * columns :][:columns], columns)
    figure.suptitle(UNITS_TITLE, fontsize=11, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(_unit_legend(scene), fontsize=8.5, color="#555555")
    return figure


def _unit_legend(scene: Scene) -> str:
    shown, total = len(scene.units), scene.parameters["hidden"]["bias"].shape[0]
    some = f"the units that weigh most, of {total}; " if shown < total else ""
    if scene.data.train_features.shape[1] == 2:
        return f"{some}green: above 0, white: 0, purple: below 0"
    # Two lines where one would be wider than its place in the picture of the stages.
    which = "by colour" if len(scene.data.class_names) <= OVERLAID_CLASSES else "a row each"
    return some.replace("; ", "\n") + f"how often each class ({which}) has a value; line: 0"


def training_figure(data: Dataset, curves: Curves) -> Figure:
    """Loss and accuracy against the step."""
    figure = Figure(figsize=(6.4, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(curves.loss, color=LINE_COLOUR)
    upper.set_yscale("log")
    upper.set_ylabel("loss (nats)")
    upper.set_title(f"5  Training on {data.name}")
    lower.plot(curves.accuracy, color=LINE_COLOUR, label=f"{len(data.train_labels)} training points")
    held_out = f"{len(data.test_labels)} held-out points"
    lower.plot(curves.check_steps, curves.held_out_accuracy, "o--", color=_colour(1), ms=4, label=held_out)
    lower.set_ylabel("accuracy")
    lower.set_xlabel("step")
    lower.legend(loc="lower right")
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
    return figure


def stages_figure(scene: Scene) -> Figure:
    """The four stages on one page, made to be read at 800 pixels."""
    figure = Figure(figsize=(10.0, 9.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    first, second = upper.subfigures(1, 2)
    third, fourth = lower.subfigures(1, 2)
    for part, draw in ((first, draw_lines), (third, draw_hidden_space), (fourth, draw_decision)):
        draw(part.subplots(), scene)
    draw_unit_rows(second, scene, scene.units[:3])
    second.suptitle(UNITS_TITLE, fontsize=11, fontweight="bold", x=0.01, ha="left")
    second.supxlabel(_unit_legend(scene), fontsize=8.5, color="#555555")
    _legend_below(figure, first.axes[0], fourth.axes[0])
    _note_above(figure, scene.plane.note)
    return figure
