"""A picture before it is drawn: boxes, items with their lines of text, the layout, and which boxes are open."""

from __future__ import annotations

import dataclasses
import heapq

from funcgrad.inspection.folding import Box, Folded
from funcgrad.inspection.items import Item
from funcgrad.inspection.layout import Layout
from funcgrad.inspection.placement import CHARACTER, HEADER, LINE, Point

#: A line of an item: pieces of text with their class (name, op, type, value, ct).
Row = list[tuple[str, str]]
_LONGEST = 44


@dataclasses.dataclass
class Picture:
    """Everything that the renderings need.

    Attributes:
      title, note: what is drawn, and what was left out.
      folded, layout: see there.
      opened: numbers of the boxes that are open at first.
      rows: for each item its lines.
      item_sizes, closed_sizes: in px.
    """

    title: str
    note: str
    folded: Folded
    layout: Layout
    opened: set[int]
    rows: list[list[Row]]
    item_sizes: dict[int, Point]
    closed_sizes: list[Point]


def make_picture(folded: Folded, layout: Layout, limit: int, left_out: int) -> Picture:
    """A picture with about `limit` things to be seen at first."""
    rows = [item_rows(item) for item in folded.items]
    sizes = {number: _size(lines) for number, lines in enumerate(rows)}
    closed = [(max(CHARACTER * max(map(len, box_label(box))) + 34, 60.0), HEADER + LINE + 6) for box in layout.boxes]
    note = f"{folded.root.size:,} operations"
    if left_out:
        note += f"; {left_out:,} that change nothing or that nobody reads are left out"
    return Picture(folded.root.label, note, folded, layout, _opened(layout, limit), rows, sizes, closed)


def box_label(box: Box) -> tuple[str, str]:
    """The two lines on a closed box."""
    rounds = f" ×{box.count}" if box.count > 1 else ""
    return f"{box.label}{rounds}", f"{box.size:,} operations"


def item_rows(item: Item) -> list[Row]:
    """The lines of an item: what it computes, its type, its value and cotangent."""
    rounds = f" ×{item.count}" if item.count > 1 else ""
    head: Row = [("name", _short(item.name + rounds))]
    if item.kind == "op":
        head = [("name", item.name), ("op", _short(f" = {item.title}"))] if item.name else [("op", _short(item.title))]
    rows = [head]
    if item.type and (item.type.partition("[")[2] != "]" or not item.value):
        rows.append([("type", item.type)])
    kind = "ct" if item.is_backward else "value"
    numbers: Row = [(kind, item.value)] if item.value and item.value != item.type else []
    if item.ct:
        numbers.append(("ct", ("  " if numbers else "") + f"ct {item.ct}"))
    return [*rows, numbers] if numbers else rows


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _size(rows: list[Row]) -> Point:
    longest = max(sum(len(text) for _, text in row) for row in rows)
    return max(44.0, longest * CHARACTER + 18), len(rows) * LINE + 10


def _opened(layout: Layout, limit: int) -> set[int]:
    """Boxes that are open at first: small and outer ones, as long as there is room."""
    opened, shown = {0}, len(layout.boxes[0].children)
    numbers = {id(box): number for number, box in enumerate(layout.boxes)}
    waiting = [(len(child.children), numbers[id(child)])
               for child in layout.boxes[0].children if isinstance(child, Box)]
    heapq.heapify(waiting)
    while waiting:
        more, number = heapq.heappop(waiting)
        if layout.levels[number] is None or shown + more - 1 > limit:
            continue
        opened.add(number)
        shown += more - 1
        for child in layout.boxes[number].children:
            if isinstance(child, Box):
                heapq.heappush(waiting, (len(child.children), numbers[id(child)]))
    return opened
