"""Coordinates for a layout, for a choice of open boxes. The page's script does the same when a box is opened there."""

from __future__ import annotations

import dataclasses

from funcgrad.inspection.layout import Layout, Level

#: Width of a character of the monospaced font at 12 px, and measures of boxes, all in px.
CHARACTER, LINE = 7.25, 16.0
PADDING, GAP_X, GAP_Y, HEADER = 12.0, 34.0, 46.0, 22.0
ROUNDS = 8
BOW = 44.0

Point = tuple[float, float]
#: Of a vertex in its box: centre, upper and lower end.
Extent = tuple[float, float, float]


@dataclasses.dataclass
class Placement:
    """Where everything is.

    Attributes:
      size: width and height of the picture.
      opened: boxes that are open, and all around them.
      items: for each drawn item its upper left corner.
      boxes: for each drawn box its upper left corner and size.
      links: for each drawn link its number and the points it runs through, top down; links that look alike once.
      upward: boxes of the gradient's program, which is read from below.
      bows: for each link that shares its way with others (``a + a``) how far it bends sideways, in px.
    """

    size: Point
    opened: set[int]
    items: dict[int, Point]
    boxes: dict[int, tuple[float, float, float, float]]
    links: dict[int, list[Point]]
    bows: dict[int, float]
    upward: set[int]


def place(layout: Layout, opened: set[int], item_sizes: dict[int, Point], closed_sizes: list[Point]) -> Placement:
    """Coordinates when these boxes are open.

    Args:
      layout: the order.
      opened: numbers of open boxes; a box counts as open only where the boxes around it are.
      item_sizes: width and height of each item.
      closed_sizes: width and height of each box when it is closed.
    """
    visible = _visible(layout, opened)
    inner: dict[int, list[Extent]] = {}
    sizes = dict(enumerate(closed_sizes))
    for number in sorted(visible, reverse=True):
        level = layout.levels[number]
        assert level is not None
        inner[number], sizes[number] = _place_level(level, item_sizes, sizes, closed_sizes[number][0])
    corners: dict[int, Point] = {0: (0.0, 0.0)}
    items: dict[int, Point] = {}
    boxes = {0: (0.0, 0.0, *sizes[0])}
    for number in sorted(visible):
        level = layout.levels[number]
        assert level is not None
        left, top = corners[number]
        for vertex, (kind, what) in enumerate(level.vertices):
            x, y, _ = inner[number][vertex]
            if kind == "item":
                items[what] = (left + x - item_sizes[what][0] / 2, top + y)
            elif kind == "box":
                corners[what] = (left + x - sizes[what][0] / 2, top + y)
                boxes[what] = (*corners[what], *sizes[what])
    links, bows = _link_points(layout, visible, inner, corners)
    placed = Placement(sizes[0], visible, items, boxes, links, bows, set())
    for number in sorted(visible):
        if layout.boxes[number].kind == "backward":
            _turn_over(layout, placed, number, item_sizes)
    return placed


def _visible(layout: Layout, opened: set[int]) -> set[int]:
    """Open boxes all of whose surroundings are open."""
    visible = {0}
    for number in sorted(opened):
        level = layout.levels[number]
        if level is not None and (level.parent < 0 or level.parent in visible):
            visible.add(number)
    return visible


def _vertex_size(what: tuple[str, int], item_sizes: dict[int, Point], sizes: dict[int, Point]) -> Point:
    kind, number = what
    if kind == "item":
        return item_sizes[number]
    return sizes[number] if kind == "box" else (4.0, 0.0)


def _place_level(level: Level, item_sizes: dict[int, Point], sizes: dict[int, Point],
                 narrowest: float) -> tuple[list[Extent], Point]:
    """(where each vertex is, size of the box) of one level."""
    measures = [_vertex_size(what, item_sizes, sizes) for what in level.vertices]
    centres = _horizontal(level, [width for width, _ in measures])
    left = min((c - w / 2 for c, (w, _) in zip(centres, measures, strict=True)), default=0.0)
    right = max((c + w / 2 for c, (w, _) in zip(centres, measures, strict=True)), default=0.0)
    width = max(right - left, narrowest - 2 * PADDING)
    shift = PADDING - left + (width - (right - left)) / 2
    spans = [(0.0, 0.0)] * len(measures)
    entered = {b for _, b in level.segments}
    y = HEADER + PADDING
    for number, layer in enumerate(level.layers):
        height = max((measures[v][1] for v in layer), default=0.0)
        for vertex in layer:
            spans[vertex] = _span(level.vertices[vertex][0], vertex in entered, y, height, measures[vertex][1])
        y += height
        if number + 1 < len(level.layers):
            y += _gap(level, layer, level.layers[number + 1])
    height = y + PADDING
    for vertex, (kind, _) in enumerate(level.vertices):
        if kind == "out":
            spans[vertex] = height, height
    return [(c + shift, *span) for c, span in zip(centres, spans, strict=True)], (width + 2 * PADDING, height)


def _span(kind: str, entered: bool, top: float, layer: float, own: float) -> tuple[float, float]:
    """Upper and lower end of a vertex: a line passes the whole layer, inputs stay near their readers."""
    if kind == "in":
        return HEADER, HEADER
    if kind == "point":
        return top, top + layer
    top += (layer - own) / 2 if entered else layer - own
    return top, top + own


def _gap(level: Level, layer: list[int], following: list[int]) -> float:
    """The space between two layers: less at the rims, where there are ports only."""
    if all(level.vertices[v][0] == "out" for v in following):
        return 6.0
    return GAP_Y * 0.6 if all(level.vertices[v][0] == "in" for v in layer) else GAP_Y


def _horizontal(level: Level, widths: list[float]) -> list[float]:
    """Centres: each vertex goes to the mean of its neighbours as far as its layer's order lets it."""
    near: tuple[list[list[int]], list[list[int]]] = ([[] for _ in widths], [[] for _ in widths])
    for a, b in level.segments:
        near[0][b].append(a)
        near[1][a].append(b)
    centres = [0.0] * len(widths)
    for layer in level.layers:
        x = 0.0
        for vertex in layer:
            centres[vertex] = x + widths[vertex] / 2
            x += widths[vertex] + GAP_X
        for vertex in layer:
            centres[vertex] -= (x - GAP_X) / 2
    for number in range(ROUNDS):
        downward = number % 2 == 0
        for layer in level.layers if downward else level.layers[::-1]:
            _settle(layer, centres, widths, near[0 if downward else 1])
    return centres


def _settle(layer: list[int], centres: list[float], widths: list[float], near: list[list[int]]) -> None:
    """Move a layer's vertices towards their neighbours; the mean of pushing from the left and from the right."""
    wanted = [sum(centres[o] for o in near[v]) / len(near[v]) if near[v] else centres[v] for v in layer]
    from_left, from_right = list(wanted), list(wanted)
    for i in range(1, len(layer)):
        apart = (widths[layer[i]] + widths[layer[i - 1]]) / 2 + GAP_X
        from_left[i] = max(wanted[i], from_left[i - 1] + apart)
    for i in range(len(layer) - 2, -1, -1):
        apart = (widths[layer[i]] + widths[layer[i + 1]]) / 2 + GAP_X
        from_right[i] = min(wanted[i], from_right[i + 1] - apart)
    for i, vertex in enumerate(layer):
        centres[vertex] = (from_left[i] + from_right[i]) / 2


def _link_points(layout: Layout, visible: set[int], inner: dict[int, list[Extent]],
                 corners: dict[int, Point]) -> tuple[dict[int, list[Point]], dict[int, float]]:
    """The points of each link that can be seen, and the bows of those that share a way."""
    found: dict[int, list[Point]] = {}
    alike: dict[tuple, list[int]] = {}
    for number in range(len(layout.routes)):
        way = layout.way(number, visible)
        if len(way) < 2:
            continue
        twins = alike.setdefault((way[0], way[-1]), [])
        ends = {layout.levels[box].vertices[vertex][0] for box, vertex in (way[0], way[-1])}  # type: ignore[union-attr]
        if twins and ends != {"item"}:
            continue  # to or from a closed box: once is enough
        twins.append(number)
        points = []
        for position, (box, vertex) in enumerate(way):
            level = layout.levels[box]
            assert level is not None
            kind, what = level.vertices[vertex]
            if kind == "box" and what in visible:
                continue  # its ports are on the way
            left, top = corners[box]
            x, begin, end = inner[box][vertex]
            if position > 0:
                points.append((left + x, top + begin))
            if position == 0 or (kind == "point" and end > begin):
                points.append((left + x, top + end))
        found[number] = points
    bows = {number: (i - (len(twins) - 1) / 2) * BOW for twins in alike.values() if len(twins) > 1
            for i, number in enumerate(twins)}
    return found, bows


def _turn_over(layout: Layout, placed: Placement, number: int, item_sizes: dict[int, Point]) -> None:
    """Let a box's inside run upwards."""
    _, top, _, height = placed.boxes[number]
    whole = 2 * top + height + HEADER
    turned = {number}
    for box in sorted(placed.opened):
        level = layout.levels[box]
        assert level is not None
        if level.parent in turned:
            turned.add(box)
        if box in turned:
            for kind, what in level.vertices:
                if kind == "item":
                    x, y = placed.items[what]
                    placed.items[what] = x, whole - y - item_sizes[what][1]
                elif kind == "box":
                    left, y, width, tall = placed.boxes[what]
                    placed.boxes[what] = left, whole - y - tall, width, tall
                    placed.upward.add(what)
    for link, points in placed.links.items():
        if layout.routes[link][0][0] in turned:
            placed.links[link] = [(x, whole - y) for x, y in points]


def crossing_points(layout: Layout, placed: Placement, ends: dict[int, tuple[int, int]],
                    item_sizes: dict[int, Point]) -> dict[int, tuple[Point, Point]]:
    """For each crossing link whose two items are seen: from the side of one to the side of the other."""
    found = {}
    for number in layout.crossings:
        source, target = ends[number]
        if source in placed.items and target in placed.items:
            (x, y), (w, h) = placed.items[source], item_sizes[source]
            to_x, to_y = placed.items[target]
            found[number] = (x + w, y + h / 2), (to_x, to_y + item_sizes[target][1] / 2)
    return found
