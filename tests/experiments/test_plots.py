"""The pictures of the classifier: what is written on them can be read."""

from __future__ import annotations

import math

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.two_layer import datasets, model, plots, views


def test_each_of_ten_classes_has_a_colour_of_its_own_on_light_and_on_dark() -> None:
    on_dark = [plots.ON_DARK.get(colour, colour) for colour in plots.CLASS_COLOURS]
    assert len(set(plots.CLASS_COLOURS)) == len(set(on_dark)) == 10
    assert math.gcd(len(plots.CLASS_COLOURS), len(plots.MARKERS)) == 1  # so that colour and marker repeat together late


def test_letters_that_no_font_has_are_told_once() -> None:
    assert plots.letters_without_a_glyph("Größe, длина, μ") == ""
    assert plots.letters_without_a_glyph("a\U00013000b\U00013000") == "\U00013000"


def test_a_constant_column_of_large_numbers_has_a_grid_whose_points_differ() -> None:
    for number in (0.0, 1e17, -3e30):
        cloud = np.stack([np.full(5, number), np.arange(5.0)], axis=1)
        for axis in views.grid(views.limits_around(cloud))[:2]:
            assert np.all(np.diff(axis) > 0)


@pytest.mark.parametrize("classes", [3, 10])
def test_histograms_of_many_classes_stand_in_rows(classes: int) -> None:
    data = datasets.load("digits" if classes == 10 else "wine", None, seed=0)
    parameters = model.init(jax.random.key(0), data.train_features, 4, classes)
    axes = Figure().subplots()
    plots.draw_unit(axes, plots.make_scene(parameters, data), 0, after=False)
    rows = classes if classes > plots.OVERLAID_CLASSES else 0
    assert [text.get_text() for text in axes.get_yticklabels()] == list(data.class_names)[:rows]
    lows = {round(float(patch.get_path().vertices[:, 1].min())) for patch in axes.patches}
    assert len(lows) == max(rows, 1)


@pytest.mark.parametrize("name", [pytest.param("digits", marks=pytest.mark.slow), "spiral", "wine"])
def test_no_text_is_cut_at_the_edge_of_the_stages(name: str) -> None:
    data = datasets.load(name, None, seed=0)
    scores = model.score_count(len(data.class_names))
    parameters = model.init(jax.random.key(0), data.train_features, 32, scores)
    with matplotlib.rc_context(plots.STYLE):
        figure = plots.stages_figure(plots.make_scene(parameters, data))
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
    page = figure.bbox.extents
    captions = [text for text in figure.findobj(matplotlib.text.Text) if "the units that weigh most" in text.get_text()]
    assert captions
    for text in captions:
        left, bottom, right, top = text.get_window_extent(renderer).extents
        inside = np.array([left, bottom]) >= page[:2] - 1, np.array([right, top]) <= page[2:] + 1
        assert np.all(inside), f"{text.get_text()!r} reaches from {left:.0f} to {right:.0f} of {page[2]:.0f} pixels"
