"""`draw`: a picture of a graph or of an explained run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from funcgrad.graph import Graph
from funcgrad.inspection.folding import fold
from funcgrad.inspection.layout import lay_out
from funcgrad.inspection.picture import Picture, make_picture
from funcgrad.inspection.render_html import html
from funcgrad.inspection.render_svg import svg
from funcgrad.inspection.render_text import dot, mermaid
from funcgrad.inspection.scene import build_scene
from funcgrad.inspection.steps import Run

#: So many operations can be looked at in a page; what lies deeper in a larger graph is counted, not drawn.
LARGEST_PAGE = 6000


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture as text of several kinds; in a notebook it shows itself as a page to look around in."""

    picture: Picture

    @cached_property
    def svg(self) -> str:
        """A still picture."""
        return svg(self.picture)

    @cached_property
    def html(self) -> str:
        """A page that needs nothing else: pan, zoom, open and close boxes, step through both sweeps."""
        return html(self.picture)

    @cached_property
    def mermaid(self) -> str:
        """A Mermaid flowchart."""
        return mermaid(self.picture)

    @cached_property
    def dot(self) -> str:
        """A Graphviz digraph."""
        return dot(self.picture)

    def save(self, path: str | Path) -> Path:
        """Write the picture; the ending chooses the kind: .svg, .html, .mmd (Mermaid) or .dot.

        Raises:
          ValueError: for another ending.
        """
        path = Path(path)
        kinds = {".svg": "svg", ".html": "html", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot"}
        if path.suffix not in kinds:
            raise ValueError(f"no picture ends in {path.suffix!r}.\nTo fix: use one of {', '.join(kinds)}.")
        path.write_text(getattr(self, kinds[path.suffix]), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        # a frame of its own: the page's styles and keys stay inside
        page = self.html.replace("&", "&amp;").replace('"', "&quot;")
        return f'<iframe srcdoc="{page}" style="width:100%;height:620px;border:0"></iframe>'

    def _repr_svg_(self) -> str:
        return self.svg


def draw(shown: Graph | Run, *, limit: int = 60, everything: bool = False,
         names: Sequence[str] = ()) -> Drawing:
    """A picture of a graph, or of an explanation with its values, cotangents and local partials.

    Args:
      shown: what `make_graph` or `explain` gave.
      limit: how many things are to be seen at first; boxes beyond it are closed.
      everything: also conversions that change nothing, and values that nobody reads.
      names: for a graph, what its inputs are called; an explanation knows.

    Raises:
      TypeError: when it is neither.
      ValueError: when there are not as many names as inputs.

    >>> from funcgrad import make_graph
    >>> print(draw(make_graph(lambda x, y: x * y)(2.0, 3.0), names=("x", "y")).mermaid)
    flowchart TD
      n0["x<br/>f32#91;#93;"]
      n1["y<br/>f32#91;#93;"]
      n2["c = x · y<br/>f32#91;#93;"]
      n0 --> n2
      n1 --> n2
    """
    if not isinstance(shown, Graph | Run):
        raise TypeError(f"draw takes what `make_graph` or `explain` gave, but was given {shown!r}.\n"
                        "To fix: draw(funcgrad.make_graph(f)(x)), or funcgrad.explain(f)(x).draw() for its numbers.")
    if isinstance(shown, Graph) and len(names) not in (0, len(shown.inputs)):
        raise ValueError(f"{len(names)} names for the {len(shown.inputs)} inputs of `{shown.name}`.\n"
                         "To fix: one name for each leaf of the arguments.")
    scene = build_scene(shown, everything, names)
    folded = fold(scene)
    layout = lay_out(folded, LARGEST_PAGE)
    return Drawing(make_picture(folded, layout, limit, scene.left_out))
