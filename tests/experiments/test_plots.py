"""The pictures of the classifier: what is written on them can be read."""

from __future__ import annotations

import math

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.two_layer import datasets, model, plots


def test_each_of_ten_classes_has_a_colour_of_its_own_on_light_and_on_dark() -> None:
    on_dark = [plots.ON_DARK.get(colour, colour) for colour in plots.CLASS_COLOURS]
    assert len(set(plots.CLASS_COLOURS)) == len(set(on_dark)) == 10
    assert math.gcd(len(plots.CLASS_COLOURS), len(plots.MARKERS)) == 1  # so that colour and marker repeat together late


def test_letters_that_no_font_has_are_told_once() -> None:
    assert plots.letters_without_a_glyph("Größe, длина, μ") == ""
    assert plots.letters_without_a_glyph("a\U00013000b\U00013000") == "\U00013000"


@pytest.mark.parametrize("name", ["digits", "spiral", "wine"])
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
