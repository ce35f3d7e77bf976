"""The documentation's examples give what they say, and its pictures are those of the present code."""

import doctest
import re
from pathlib import Path

import pytest

from tests.inspection.pictures import IMAGES, PICTURES

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", ["explain.md", "draw.md", "while_loop.md"])
def test_examples_give_what_they_say(page: str) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(str(DOCS / page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert attempted and not failed


def without_lines(svg: str) -> str:
    """Without the tooltips, which name lines of files."""
    return re.sub(r"<title>.*?</title>", "", svg, flags=re.DOTALL)


def without_numbers(svg: str) -> str:
    """Without the tooltips and without all numbers: the last digits of a model's loss are another machine's."""
    return re.sub(r"-?[\d.]+(e-?\d+)?", "#", without_lines(svg))


SMALL = ["graph_product_and_log", "graph_twice", "graph_gradient"]


@pytest.mark.parametrize("name", [*SMALL, pytest.param("graph_transformer", marks=pytest.mark.slow)])
def test_pictures_are_those_of_the_present_code(name: str) -> None:
    assert without_lines(PICTURES[name]().svg) == without_lines((IMAGES / f"{name}.svg").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graph_two_layer", "graph_transformer_scan"])
def test_pictures_of_models_are_those_of_the_present_code(name: str) -> None:
    kept = (IMAGES / f"{name}.svg").read_text(encoding="utf-8")
    assert without_numbers(PICTURES[name]().svg) == without_numbers(kept)


def test_every_picture_is_made_by_a_run() -> None:
    assert {path.stem for path in IMAGES.glob("graph_*")} == set(PICTURES)
