"""Layered layout (Sugiyama, Tagawa, Toda 1981), level by level: each box is a small graph of its own.

In a box every child is a vertex; a link to the outside ends in a port at the box's upper or lower edge; a link over
several layers passes through a point in each. So boxes can be opened and closed without a new order: only coordinates
change (`placement`). Layers are longest paths, the order in a layer is by medians of the neighbours
(Gansner et al. 1993).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from funcgrad.inspection.folding import Box, Folded

#: Sweeps up and down in search of an order with few crossings.
_SWEEPS = 6
#: So many links enter a box side by side on their way to one thing in it; further ones share the last one's port.
_PORTS = 24


@dataclasses.dataclass
class Level:
    """One box's own graph.

    Attributes:
      box, parent: its number and that of the box around it, -1 for the outermost.
      vertices: for each vertex its kind and what it refers to: ("item", number), ("box", number), ("in", item),
        ("out", item), ("point", 0).
      layers: vertices from top to bottom, each layer from left to right.
      segments: pairs of vertices in layers that follow each other.
      rank: for each vertex its layer.
      passing: for each vertex the points below it, layer by layer, that its links run through.
    """

    box: int
    parent: int
    vertices: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    layers: list[list[int]] = dataclasses.field(default_factory=list)
    segments: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    rank: list[int] = dataclasses.field(default_factory=list)
    passing: dict[int, list[int]] = dataclasses.field(default_factory=dict)


#: A level and two of its vertices.
Edge = tuple[int, int, int]


@dataclasses.dataclass
class Layout:
    """Order of everything in a picture.

    Attributes:
      boxes: by number, the outermost first; a box comes before those inside it.
      levels: for each box its level, None for one whose inside is not drawn.
      routes: for each link its way: in each level on it the level's number and two vertices. Empty for a link that is
        not drawn, or that crosses from one program to the other.
      crossings: the latter links' numbers.
    """

    boxes: list[Box]
    levels: list[Level | None]
    routes: list[list[Edge]]
    crossings: list[int]

    def way(self, number: int, visible: set[int]) -> list[tuple[int, int]]:
        """A link's vertices in these levels, with the points in between, from the source down to the target."""
        found: list[tuple[int, int]] = []
        for box, first, second in self.routes[number]:
            level = self.levels[box]
            if box in visible and level is not None:
                between = level.rank[second] - level.rank[first] - 1
                points = level.passing[first][:between] if between > 0 else ()
                found += [(box, first), *((box, point) for point in points), (box, second)]
        return found


def lay_out(folded: Folded, limit: int) -> Layout:
    """The layout of a folded scene; boxes beyond about `limit` children, outer ones first, stay closed for good."""
    boxes, parents, inside = _numbered(folded.root, limit)
    home: dict[int, int] = {}
    for number, box in enumerate(boxes):
        if inside[number]:
            home.update((child, number) for child in box.children if isinstance(child, int))
        else:
            home.update((child, number) for child in _items_below(box))
    builder = _Builder(boxes, parents, inside)
    routes = [[] if link.crosses else builder.route(link.source, link.target, home) for link in folded.links]
    _drop_twins(routes, builder.levels)
    for number in range(len(boxes)):
        builder.finish(number)
    crossings = [number for number, link in enumerate(folded.links) if link.crosses]
    return Layout(boxes, builder.levels, routes, crossings)


def _numbered(root: Box, limit: int) -> tuple[list[Box], list[int], list[bool]]:
    """Boxes breadth first with their parents, and which of them are drawn from inside."""
    boxes, parents, inside, drawn = [root], [-1], [], 0
    for number, box in enumerate(boxes):  # grows while we walk
        opened = number == 0 or drawn + len(box.children) <= limit
        inside.append(opened)
        if opened:
            drawn += len(box.children)
            inner = [child for child in box.children if isinstance(child, Box)]
            boxes += inner
            parents += [number] * len(inner)
    return boxes, parents, inside


def _items_below(box: Box) -> Iterable[int]:
    stack = [box]
    while stack:
        for child in stack.pop().children:
            if isinstance(child, Box):
                stack.append(child)
            else:
                yield child


class _Builder:
    """Collects vertices and edges of all levels."""

    def __init__(self, boxes: list[Box], parents: list[int], inside: list[bool]):
        self.parents = parents
        self.levels = [Level(i, parents[i]) if inside[i] else None for i in range(len(boxes))]
        self.found: list[dict[tuple[str, int], int]] = [{} for _ in boxes]
        self.edges: list[dict[tuple[int, int], None]] = [{} for _ in boxes]
        self.ports: dict[tuple[int, tuple[str, int]], dict[int, int]] = {}
        numbers = {id(box): number for number, box in enumerate(boxes)}
        for level in self.levels:
            if level is not None:
                for child in boxes[level.box].children:
                    self.vertex(level.box, ("item", child) if isinstance(child, int) else ("box", numbers[id(child)]))

    def vertex(self, box: int, what: tuple[str, int]) -> int:
        """The vertex of a level that stands for this."""
        level = self.levels[box]
        assert level is not None
        number = self.found[box].get(what)
        if number is None:
            number = self.found[box][what] = len(level.vertices)
            level.vertices.append(what)
        return number

    def up(self, item: int, home: dict[int, int]) -> list[tuple[int, tuple[str, int]]]:
        """An item's vertex in its own level, and in each level around it that of the box it is in."""
        box = home[item]
        what = ("item", item)
        found = []
        if self.levels[box] is None:  # closed for good: the box stands for the item
            what, box = ("box", box), self.parents[box]
        while box >= 0:
            found.append((box, what))
            what, box = ("box", box), self.parents[box]
        return found

    def route(self, source: int, target: int, home: dict[int, int]) -> list[Edge]:
        """Edges on the way of a link, without the points in between: up to the common level and down again."""
        begin, end = self.up(source, home), self.up(target, home)
        while len(begin) > 1 and len(end) > 1 and begin[-1] == end[-1]:
            del begin[-1], end[-1]
        if begin[-1] == end[-1]:  # both in one box that is closed for good
            return []
        way: list[Edge] = []
        for box, what in begin[:-1]:
            way.append(self.edge(box, what, ("out", source)))
        way.append(self.edge(begin[-1][0], begin[-1][1], end[-1][1]))
        for box, what in reversed(end[:-1]):
            way.append(self.edge(box, self.port(box, source, what), what))
        return way

    def port(self, box: int, source: int, what: tuple[str, int]) -> tuple[str, int]:
        """Where a link enters a box on its way to a thing in it."""
        ports = self.ports.setdefault((box, what), {})
        if source not in ports:
            ports[source] = source if len(ports) < _PORTS else next(reversed(ports.values()))
        return "in", ports[source]

    def edge(self, box: int, first: tuple[str, int], second: tuple[str, int]) -> Edge:
        """An edge of a level."""
        pair = self.vertex(box, first), self.vertex(box, second)
        self.edges[box][pair] = None
        return box, *pair

    def finish(self, box: int) -> None:
        """Layers and order of one level, with a point wherever an edge passes a layer."""
        level = self.levels[box]
        if level is None:
            return
        edges = list(self.edges[box])
        rank = level.rank = _ranks(level.vertices, edges)
        segments: dict[tuple[int, int], None] = {}
        for first, second in edges:
            points = level.passing.setdefault(first, [])  # shared by all edges that begin there
            between = max(0, rank[second] - rank[first] - 1)
            for layer in range(rank[first] + 1 + len(points), rank[second]):
                points.append(len(level.vertices))
                level.vertices.append(("point", 0))
                rank.append(layer)
            chain = [first, *points[:between], second]
            segments.update(dict.fromkeys(zip(chain, chain[1:], strict=False)))
        level.segments = list(segments)
        layers: list[list[int]] = [[] for _ in range(max(rank, default=0) + 1)]
        for vertex, layer in enumerate(rank):
            layers[layer].append(vertex)
        level.layers = _ordered(layers, level.segments, len(level.vertices))


def _drop_twins(routes: list[list[Edge]], levels: list[Level | None]) -> None:
    """Between boxes that are closed for good one link is enough."""
    known: set[tuple] = set()
    for route in routes:
        if not route:
            continue
        ends = route[0][:2], (route[-1][0], route[-1][2])
        if ends in known and any(levels[box].vertices[v][0] == "box" for box, v in ends):  # type: ignore[union-attr]
            route.clear()
        known.add(ends)


# ---- layers and order ----


def _ranks(vertices: list[tuple[str, int]], edges: list[tuple[int, int]]) -> list[int]:
    """Longest path from the top; what hangs on inputs alone is pulled down to its reader; ports at the rims.

    Edges that would close a circle (chunks of a program can depend on each other both ways) do not count.
    """
    order = _topological(vertices, edges)
    place = {vertex: i for i, vertex in enumerate(order)}
    forward = [(a, b) for a, b in edges if place[a] < place[b]]
    after: dict[int, list[int]] = {}
    for a, b in forward:
        after.setdefault(a, []).append(b)
    ports = any(kind == "in" for kind, _ in vertices)
    rank = [0 if kind == "in" else int(ports) for kind, _ in vertices]
    for vertex in order:
        for reader in after.get(vertex, ()):
            rank[reader] = max(rank[reader], rank[vertex] + 1)
    loose = [kind != "in" for kind, _ in vertices]  # hangs on nothing but sources that nobody else reads
    for a, b in sorted(forward, key=lambda edge: place[edge[0]]):
        loose[b] = loose[b] and loose[a] and len(after[a]) == 1
    for vertex in reversed(order):
        if loose[vertex] and after.get(vertex):
            rank[vertex] = min(rank[reader] for reader in after[vertex]) - 1
    inner = [rank[v] for v, (kind, _) in enumerate(vertices) if kind != "out"]
    last = max(inner, default=0) + 1
    return [last if kind == "out" else rank[v] for v, (kind, _) in enumerate(vertices)]


def _topological(vertices: list[tuple[str, int]], edges: list[tuple[int, int]]) -> list[int]:
    """An order in which edges lead forward; where there is a circle, the vertex first met goes first."""
    after: dict[int, list[int]] = {}
    missing = [0] * len(vertices)
    for a, b in edges:
        after.setdefault(a, []).append(b)
        missing[b] += 1
    order: list[int] = []
    done = [False] * len(vertices)
    ready = [v for v in range(len(vertices) - 1, -1, -1) if not missing[v]]
    first = 0
    while len(order) < len(vertices):
        while ready:
            vertex = ready.pop()
            if done[vertex]:
                continue
            done[vertex] = True
            order.append(vertex)
            for reader in after.get(vertex, ()):
                missing[reader] -= 1
                if missing[reader] == 0:
                    ready.append(reader)
        while first < len(vertices) and done[first]:
            first += 1
        if first < len(vertices):
            ready.append(first)
    return order


def _ordered(layers: list[list[int]], segments: list[tuple[int, int]], count: int) -> list[list[int]]:
    """The layers with few crossings: sweeps by medians, the best of them is kept."""
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for a, b in segments:
        above[b].append(a)
        below[a].append(b)
    layers = [list(layer) for layer in layers]
    best, fewest = [list(layer) for layer in layers], _crossings(layers, below, count)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        downward = sweep % 2 == 0
        numbers = range(1, len(layers)) if downward else range(len(layers) - 2, -1, -1)
        for number in numbers:
            fixed = layers[number - 1 if downward else number + 1]
            place = {vertex: i for i, vertex in enumerate(fixed)}
            layers[number] = _by_median(layers[number], above if downward else below, place)
        crossings = _crossings(layers, below, count)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    return best


def _by_median(layer: list[int], neighbours: list[list[int]], place: dict[int, int]) -> list[int]:
    def median(position: int, vertex: int) -> float:
        places = sorted(place[other] for other in neighbours[vertex] if other in place)
        if not places:
            return position
        half = len(places) // 2
        return places[half] if len(places) % 2 else (places[half - 1] + places[half]) / 2

    keys = {vertex: median(position, vertex) for position, vertex in enumerate(layer)}
    return sorted(layer, key=keys.__getitem__)


def _crossings(layers: list[list[int]], below: list[list[int]], count: int) -> int:
    """How many pairs of segments cross (accumulator tree of Barth, Jünger, Mutzel 2002)."""
    place = [0] * count
    for layer in layers:
        for i, vertex in enumerate(layer):
            place[vertex] = i
    total = 0
    for layer, following in zip(layers, layers[1:], strict=False):
        size = 1 << max(1, len(following)).bit_length()
        tree = [0] * (2 * size)
        for end in (e for vertex in layer for e in sorted(place[other] for other in below[vertex])):
            node = end + size
            while node > 1:
                if node % 2 == 0:
                    total += tree[node + 1]
                tree[node] += 1
                node //= 2
    return total
