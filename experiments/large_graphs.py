"""How long large graphs take to draw and to open: `python -m experiments.large_graphs`, the table of `docs/draw.md`.

Recording the graph is not counted. Opening needs Playwright and Chromium; without them that column is empty.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from funcgrad.inspection import Drawing, draw
from funcgrad.transforms import make_graph
from tests.browser import chromium
from tests.inspection.pictures import random_program

#: What a graph of five thousand operations may take, in seconds.
TARGET = 5.0


def loop(rounds: int) -> Callable[[Any], Any]:
    """The same two operations again and again."""

    def program(x: Any) -> Any:
        for _ in range(rounds):
            x = jnp.sin(x) * x
        return x

    return program


PROGRAMS = (
    ("random program, two reads a value", random_program(5_000), (1.0, 2.0)),
    ("the same", random_program(100_000), (1.0, 2.0)),
    ("one loop of 50,000 rounds", loop(50_000), (1.0,)),
)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of a call, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def opening(drawing: Drawing) -> str:
    """How long Chromium takes until the picture stands, as text; empty without a browser."""
    try:
        with tempfile.TemporaryDirectory() as folder, chromium() as browser:
            address = drawing.save(Path(folder) / "graph.html").as_uri()
            page = browser.new_page()
            return f"{seconds(lambda: (page.goto(address), page.wait_for_selector('svg')))[0]:.1f} s"
    except pytest.skip.Exception:
        return ""


def main() -> int:
    """Print the table; 0 if the smallest graph meets its target."""
    print("| | operations | `draw` and `.svg` | `.html` | to open in Chromium |\n|---|---|---|---|---|")
    met = True
    for name, program, args in PROGRAMS:
        graph = make_graph(program)(*args)
        to_draw, drawing = seconds(lambda graph=graph: _drawn(graph))
        to_page, page = seconds(lambda drawing=drawing: drawing.html)
        met &= len(graph) > 10_000 or to_draw + to_page <= TARGET
        print(f"| {name} | {len(graph):,} | {to_draw:.1f} s | {to_page:.1f} s, {len(page) / 1e6:.1f} MB "
              f"| {opening(drawing)} |", flush=True)
    return 0 if met else 1


def _drawn(graph: Any) -> Drawing:
    drawing = draw(graph)
    assert drawing.svg
    return drawing


if __name__ == "__main__":
    sys.exit(main())
