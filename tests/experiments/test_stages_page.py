"""The page of the stages, opened and clicked in Chromium; what it shows is what the run computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.two_layer import command, datasets, model, outputs, stages_page, views
from tests.browser import chromium, note_failures


def run(folder: Path, *more: str) -> Path:
    arguments = ["--data", "xor", "--points", "80", "--hidden", "3", "--steps", "30", "--check-every", "10"]
    assert command.main([*arguments, "--page", "--out", str(folder), *more]) == 0
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("stages") / "xor")


@pytest.fixture(scope="module")
def content(results: Path) -> dict:
    """What the page was given."""
    page = (results / outputs.PAGE).read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


@pytest.fixture(scope="module")
def page(results: Path):
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1200, "height": 1100})
        errors: list[str] = []
        note_failures(opened, errors)
        requests: list[str] = []
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto((results / outputs.PAGE).as_uri())
        yield opened
    assert not errors
    assert all(url.startswith(("file:", "about:", "data:")) for url in requests), "the page needs nothing else"


# ---- what stands in the page ----


def test_checkpoints_are_saved_and_are_those_of_the_run(results: Path, content: dict) -> None:
    records = [json.loads(line) for line in (results / outputs.METRICS).read_text().splitlines()]
    with np.load(results / outputs.CHECKPOINTS) as saved, np.load(results / outputs.PARAMETERS) as final:
        assert saved["steps"].tolist() == [0, 10, 20, 30] == [c["step"] for c in content["checkpoints"]]
        for name in ("hidden.kernel", "hidden.bias", "output.kernel", "output.bias"):
            np.testing.assert_array_equal(saved[name][-1], final[name])
    for checkpoint in content["checkpoints"]:
        assert checkpoint["loss"] == records[checkpoint["step"]]["loss"]
    assert {path.name for path in results.iterdir()} == outputs.OWN_FILES | outputs.OPTIONAL_FILES


def test_lines_points_surface_and_graph_are_the_classifiers(results: Path, content: dict) -> None:
    data = datasets.load("xor", 80, 0)
    with np.load(results / outputs.CHECKPOINTS) as saved:
        parameters = {layer: {part: saved[f"{layer}.{part}"][2] for part in ("kernel", "bias")}
                      for layer in ("hidden", "output")}
    told = content["checkpoints"][2]
    points = np.array(content["plane"]["points"])
    stages = model.forward(parameters, data.train_features)
    lines = np.array(told["lines"])
    heights = points @ lines[:, :2].T + lines[:, 2]
    shown = views.unit_order({k: {n: saved_array(results, k, n, -1) for n in v} for k, v in parameters.items()}, data)
    np.testing.assert_allclose(heights, np.asarray(stages.preactivation)[:, shown], atol=2e-2)
    assert told["predicted"] == np.asarray(model.predict(stages.scores)).tolist()
    limits = np.array(content["plane"]["limits"])
    _, _, grid = views.grid(limits, stages_page.SURFACE)
    surface = np.asarray(model.forward(parameters, data.standardise(grid)).scores)[:, 0]
    np.testing.assert_allclose(told["surface"], surface, rtol=1e-3, atol=1e-3)
    # the input's cotangent in the graph is the gradient of this example's loss
    example = content["examples"][0]["index"]
    slope = jax.grad(lambda x: model.cross_entropy(
        model.forward(parameters, x[None]).scores, data.train_labels[example][None]))(data.train_features[example])
    text = " ".join(row for item in content["graphs"][2][0]["items"] if item and item["name"] == "x"
                    for row in map(str, item["rows"]))
    for number in np.asarray(slope):
        assert f"{number:.4g}" in text


def saved_array(results: Path, layer: str, part: str, check: int) -> np.ndarray:
    with np.load(results / outputs.CHECKPOINTS) as saved:
        return saved[f"{layer}.{part}"][check]


@pytest.mark.slow
def test_more_features_and_classes(tmp_path: Path) -> None:
    content = (run(tmp_path / "wine", "--data", "wine", "--points", "120") / outputs.PAGE).read_text(encoding="utf-8")
    assert "main direction 1" in content and "NaN" not in content


# ---- in the browser ----


def picture(page, name: str) -> str:
    return page.evaluate(f"document.getElementById('{name}').toDataURL()")


def graph(page):
    frame = page.frame_locator("#graph")
    frame.locator("#story").wait_for()
    return frame


def test_the_slider_changes_every_picture(page) -> None:
    last = {name: picture(page, name) for name in ("lines", "hidden", "surface")}
    assert "step 30" in page.inner_text("#told")
    page.locator("#checkpoint").fill("0")
    assert "step 0" in page.inner_text("#told")
    for name, before in last.items():
        assert len(before) > 3000 and picture(page, name) != before
    page.locator("#checkpoint").press("End")
    assert {name: picture(page, name) for name in last} == last


def test_an_example_is_chosen_by_list_and_by_click(page, content: dict) -> None:
    page.select_option("#example", "0")
    assert content["examples"][0]["label"] in page.inner_text("#example-told")
    first = graph(page).locator("#scene").text_content()
    page.select_option("#example", str(len(content["examples"]) - 1))
    page.wait_for_timeout(300)
    assert graph(page).locator("#scene").text_content() != first
    target = content["examples"][0]["index"]
    box = page.locator("#lines").bounding_box()
    (x, y), (horizontal, vertical) = content["plane"]["points"][target], content["plane"]["limits"]
    across, up = (x - horizontal[0]) / np.ptp(horizontal), (y - vertical[0]) / np.ptp(vertical)
    page.click("#lines", position={"x": 42 + across * (box["width"] - 50),
                                   "y": box["height"] - 30 - up * (box["height"] - 38)})
    assert page.input_value("#example") == "0"


def test_the_graph_steps_backward_with_its_arithmetic(page) -> None:
    page.locator("#checkpoint").fill("0")
    frame = graph(page)
    frame.locator("#first").click()
    frame.locator("#next").click()
    assert "Forward 1" in frame.locator("#story").inner_text()
    frame.locator("#last").click()
    assert "ct_x +=" in frame.locator("#story").inner_text()


def test_plays_and_turns(page) -> None:
    page.locator("#checkpoint").fill("0")
    before = picture(page, "surface")
    page.focus("#surface")
    page.keyboard.press("ArrowRight")
    assert picture(page, "surface") != before
    page.click("#play")
    page.wait_for_function("document.getElementById('told').textContent.includes('step 30')")
    page.wait_for_function("document.getElementById('play').textContent === 'Play'")
