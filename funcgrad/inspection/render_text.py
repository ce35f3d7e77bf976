"""A picture as Mermaid and as DOT text, for those who have a renderer of their own."""

from __future__ import annotations

from collections.abc import Callable

from funcgrad.inspection.folding import Box
from funcgrad.inspection.picture import Picture, box_label
from funcgrad.inspection.placement import place


def mermaid(picture: Picture) -> str:
    """A Mermaid flowchart with the boxes that are open at first as subgraphs."""
    def quoted(lines: list[str]) -> str:
        text = "<br/>".join(lines)
        for sign, entity in (("#", "#35;"), ('"', "#quot;"), ("[", "#91;"), ("]", "#93;")):
            text = text.replace(sign, entity)
        return f'["{text}"]'

    def begin(name: str, lines: list[str]) -> str:
        return f"subgraph {name} {quoted(lines)}"

    def node(name: str, lines: list[str]) -> str:
        return f"{name}{quoted(lines)}"

    body = _nested(picture, begin, "end", node)
    links = [f'  {a} -->|"∂ {label}"| {b}' if label else f"  {a} {'-->' if active else '-.->'} {b}"
             for a, b, label, active in _edges(picture)]
    return "\n".join(["flowchart TD", *body, *links]) + "\n"


def dot(picture: Picture) -> str:
    """A Graphviz digraph with the boxes that are open at first as clusters."""
    def quoted(lines: list[str]) -> str:
        return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'

    def begin(name: str, lines: list[str]) -> str:
        return f"subgraph cluster_{name} {{ label={quoted(lines)};"

    def node(name: str, lines: list[str]) -> str:
        return f"{name} [label={quoted(lines)}];"

    body = _nested(picture, begin, "}", node)
    links = [f"  {a} -> {b}" + (f" [label={quoted([f'∂ {label}'])}]" if label else "" if active else " [style=dashed]")
             + ";" for a, b, label, active in _edges(picture)]
    head = [f"digraph {quoted([picture.title])} {{", '  node [shape=box, fontname="monospace"];']
    return "\n".join([*head, *body, *links, "}"]) + "\n"


def _nested(picture: Picture, begin: Callable[[str, list[str]], str], end: str,
            node: Callable[[str, list[str]], str]) -> list[str]:
    """Items and boxes in program order, indented; without recursion."""
    layout = picture.layout
    numbers = {id(box): number for number, box in enumerate(layout.boxes)}
    lines: list[str] = []
    stack: list[tuple[int | Box | str, int]] = [(child, 1) for child in reversed(layout.boxes[0].children)]
    while stack:
        what, depth = stack.pop()
        indent = "  " * depth
        if isinstance(what, str):
            lines.append(indent + what)
        elif isinstance(what, int):
            rows = ["".join(text for _, text in row) for row in picture.rows[what]]
            lines.append(indent + node(f"n{what}", rows))
        elif numbers[id(what)] in picture.opened:
            lines.append(indent + begin(f"b{numbers[id(what)]}", [box_label(what)[0]]))
            stack.append((end, depth))
            stack += [(child, depth + 1) for child in reversed(what.children)]
        else:
            lines.append(indent + node(f"b{numbers[id(what)]}", list(box_label(what))))
    return lines


def _edges(picture: Picture) -> list[tuple[str, str, str, bool]]:
    """The links that can be seen: both ends, the local partial, whether a cotangent flows."""
    placed = place(picture.layout, picture.opened, picture.item_sizes, picture.closed_sizes)
    found = []
    for number in placed.links:
        way = picture.layout.way(number, placed.opened)
        ends = []
        for box, vertex in (way[0], way[-1]):
            level = picture.layout.levels[box]
            kind, what = level.vertices[vertex] if level else ("box", box)
            ends.append(f"{'n' if kind == 'item' else 'b'}{what}")
        link = picture.folded.links[number]
        found.append((ends[0], ends[1], link.partial, link.active))
    return found
