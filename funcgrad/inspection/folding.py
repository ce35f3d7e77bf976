"""Boxes around the items of a scene: functions and modules, repeated blocks folded, long lists cut into chunks.

A box holds items and boxes in program order. Of a repeated block only the first round is drawn; the items of the other
rounds are represented by those of the first, and so are inputs that are read once per round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from funcgrad.inspection.items import Item, Link, Scene

#: A list of more children is cut into chunks.
LONGEST_LIST = 240
#: Repeats are folded when that leaves out so many operations.
_WORTH_FOLDING = 8
#: Boxes that say nothing about a single operation.
_DISSOLVED = ("call", "jit", "pull")
#: Places where a repeat may begin again that are looked at.
_CANDIDATES = 4


@dataclasses.dataclass(eq=False)
class Box:
    """A scope in the picture.

    Attributes:
      label, kind: see `Scope`; also "repeat" and "chunk".
      children: numbers of items, and boxes.
      count: of how many rounds this is the first.
      size: how many operations it stands for.
      key: tells neighbours apart.
    """

    label: str
    kind: str
    children: list[Child] = dataclasses.field(default_factory=list)
    count: int = 1
    size: int = 0
    key: object = None


Child = int | Box


@dataclasses.dataclass
class Folded:
    """A scene in boxes.

    Attributes:
      root: the outermost box.
      items: those that are drawn have a place in some box.
      links: between items that are drawn, each once.
    """

    root: Box
    items: list[Item]
    links: list[Link]


def fold(scene: Scene) -> Folded:
    """Put a scene's items into boxes and fold what repeats."""
    root = _tree(scene)
    boxes = list(_bottom_up(root))
    for box in boxes:
        _simplify(box)
    stands_for = list(range(len(scene.items)))
    signatures: dict[object, int] = {}
    marks: dict[int, int] = {}
    for box in boxes:
        box.children = _folded_repeats(box.children, scene.items, signatures, marks, stands_for)
        marks[id(box)] = _intern(signatures, (box.label, box.kind, box.count, *(
            _mark(child, scene.items, signatures, marks) for child in box.children)))
    items = _with_outputs(scene.items, _resolved(stands_for))
    items, links, merged = _merged_inputs(items, _links_between(scene.links, stands_for), stands_for)
    _place_leaves(root, items, links, merged)
    for box in list(_bottom_up(root)):
        _cut(box)
    for box in _bottom_up(root):
        box.size = box.count * sum(
            child.size if isinstance(child, Box) else items[child].kind == "op" for child in box.children)
    return Folded(root, items, links)


def _bottom_up(root: Box) -> Iterator[Box]:
    """All boxes, inner ones before the box around them; without recursion."""
    order, stack = [], [root]
    while stack:
        box = stack.pop()
        order.append(box)
        stack.extend(child for child in box.children if isinstance(child, Box))
    return reversed(order)


# ---- the tree of scopes ----


def _tree(scene: Scene) -> Box:
    """Operations in nested boxes: a box lasts while its scope does, and its function runs forward."""
    root = Box(scene.title, "call")
    open_boxes: list[Box] = [root]
    reached: list[int] = [-1]  # for each open box how far its function has run
    for number, item in enumerate(scene.items):
        if item.kind != "op":
            continue
        depth = 0
        for scope in item.scopes:
            if depth + 1 >= len(open_boxes) or open_boxes[depth + 1].key != scope.key or (
                    scope.offset < reached[depth + 1]):
                break
            depth += 1
        del open_boxes[depth + 1:], reached[depth + 1:]
        for scope in item.scopes[depth:]:
            box = Box(scope.label, scope.kind, key=scope.key)
            open_boxes[-1].children.append(box)
            open_boxes.append(box)
            reached.append(scope.offset)
        for level, scope in enumerate(item.scopes, 1):
            reached[level] = scope.offset
        open_boxes[-1].children.append(number)
    return root


def _simplify(box: Box) -> None:
    """Replace functions and `jit`s around a single thing by that thing, and empty boxes by nothing."""
    children: list[Child] = []
    for child in box.children:
        if isinstance(child, Box) and (len(child.children) <= 1 and child.kind in _DISSOLVED or not child.children):
            children.extend(child.children)
        else:
            children.append(child)
    box.children = children


# ---- repeats ----


def _intern(table: dict[object, int], key: object) -> int:
    return table.setdefault(key, len(table))


def _mark(child: Child, items: list[Item], signatures: dict[object, int], marks: dict[int, int]) -> int:
    """A number that is the same for children that look alike."""
    if isinstance(child, Box):
        return marks[id(child)]
    item = items[child]
    return _intern(signatures, (item.operation, item.type, item.line, item.offset))


def _folded_repeats(children: list[Child], items: list[Item], signatures: dict[object, int], marks: dict[int, int],
                    stands_for: list[int]) -> list[Child]:
    """The children with each run of equal blocks replaced by one box; inner repeats first, then those around them."""
    for _ in range(4):
        sequence = [_mark(child, items, signatures, marks) for child in children]
        later = _next_alike(sequence)
        found: list[Child] = []
        position = 0
        while position < len(children):
            period, rounds = _repeat_at(sequence, later, position, children)
            block = children[position: position + period]
            if rounds > 1:
                for other in range(1, rounds):
                    start = position + other * period
                    _represent(block, children[start: start + period], stands_for)
                box = block[0] if period == 1 and isinstance(block[0], Box) and block[0].count == 1 else Box(
                    _block_label(block, items), "repeat", list(block))
                box.count = rounds
                marks[id(box)] = _intern(signatures, ("repeat", rounds, tuple(sequence[position: position + period])))
                found.append(box)
            else:
                found += block
            position += period * rounds
        if len(found) == len(children):
            break
        children = found
    return children


def _next_alike(sequence: list[int]) -> list[int]:
    """For each place the next one with the same mark, or 0."""
    later = [0] * len(sequence)
    seen: dict[int, int] = {}
    for place in range(len(sequence) - 1, -1, -1):
        later[place] = seen.get(sequence[place], 0)
        seen[sequence[place]] = place
    return later


def _repeat_at(sequence: list[int], later: list[int], start: int, children: list[Child]) -> tuple[int, int]:
    """(period, rounds) of the repeat that begins here and leaves out most; (1, 1) when none is worth it."""
    best, saved, candidate = (1, 1), _WORTH_FOLDING - 1, start
    for _ in range(_CANDIDATES):
        candidate = later[candidate]
        if not candidate:
            break
        period, end = candidate - start, candidate
        while end < len(sequence) and sequence[end] == sequence[end - period]:
            end += 1
        rounds = (end - start) // period
        gain = (rounds - 1) * sum(_weight(child) for child in children[start:candidate])
        if rounds > 1 and gain > saved:
            best, saved = (period, rounds), gain
    return best


def _weight(child: Child) -> int:
    """How many operations a child holds, at least."""
    return max(1, len(child.children) * child.count) if isinstance(child, Box) else 1


def _block_label(block: list[Child], items: list[Item]) -> str:
    if len(block) == 1 and isinstance(block[0], int):
        return items[block[0]].title
    inner = [child.label for child in block if isinstance(child, Box)]
    return inner[0] if len(inner) == 1 else "block"


def _represent(first: list[Child], other: list[Child], stands_for: list[int]) -> None:
    """The items of one round are represented by those of the first, place by place."""
    pairs = list(zip(first, other, strict=True))
    while pairs:
        mine, theirs = pairs.pop()
        if isinstance(mine, Box) and isinstance(theirs, Box):
            pairs += zip(mine.children, theirs.children, strict=True)
        elif isinstance(mine, int) and isinstance(theirs, int):
            stands_for[theirs] = mine


def _resolved(stands_for: list[int]) -> list[int]:
    """Representatives of representatives followed to the end; a first round comes before the others."""
    for number, other in enumerate(stands_for):
        stands_for[number] = stands_for[other] if other != number else number
    return stands_for


def _with_outputs(items: list[Item], stands_for: list[int]) -> list[Item]:
    """An item that stands for an output is drawn as one."""
    items = list(items)
    for number, first in enumerate(stands_for):
        if items[number].output and number != first:
            items[first] = dataclasses.replace(items[first], output=True)
    return items


def _links_between(links: list[Link], stands_for: list[int]) -> list[Link]:
    """Links between representatives, each once; those from one round to the next are left out."""
    found: dict[tuple[int, int, int], Link] = {}
    for link in links:
        source, target = stands_for[link.source], stands_for[link.target]
        if source < target:
            found.setdefault((source, target, link.slot), dataclasses.replace(link, source=source, target=target))
    return list(found.values())


def _merged_inputs(items: list[Item], links: list[Link],
                   stands_for: list[int]) -> tuple[list[Item], list[Link], set[int]]:
    """Inputs that different rounds of one block read in the same place become one; the third result are the others."""
    readers: dict[int, list[tuple[int, int]]] = {}
    for link in links:
        if items[link.source].kind != "op":
            readers.setdefault(link.source, []).append((link.target, link.slot))
    repeated = {target for number, target in enumerate(stands_for) if number != target}
    groups: dict[object, list[int]] = {}
    for number, places in readers.items():
        if all(target in repeated for target, _ in places):
            groups.setdefault((tuple(sorted(places)), items[number].type, items[number].kind), []).append(number)
    items, same = list(items), list(range(len(items)))
    for members in groups.values():
        if len(members) > 1:
            names = [items[number].name for number in members]
            items[members[0]] = dataclasses.replace(items[members[0]], name=_common_name(names), count=len(members),
                                                    value="", ct="")
            for number in members:
                same[number] = members[0]
    return items, _links_between(links, same), {number for number, first in enumerate(same) if number != first}


def _common_name(names: list[str]) -> str:
    """Names that differ in one part, with a star for it: ``params.*.kernel``."""
    parts = [name.split(".") for name in names]
    if len({len(part) for part in parts}) > 1:
        return names[0]
    return ".".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))


# ---- inputs, and lists that are too long ----


def _place_leaves(root: Box, items: list[Item], links: list[Link], merged: set[int]) -> None:
    """Put each input and constant into the innermost box that holds all its readers."""
    around: dict[int, tuple[Box, ...]] = {}
    stack: list[tuple[Box, ...]] = [(root,)]
    while stack:
        path = stack.pop()
        for child in path[-1].children:
            if isinstance(child, Box):
                stack.append((*path, child))
            else:
                around[child] = path
    readers: dict[int, list[int]] = {}
    for link in links:
        if items[link.source].kind != "op" and not link.crosses:
            readers.setdefault(link.source, []).append(link.target)
    for number in sorted(readers, reverse=True):
        paths = [around[target] for target in readers[number] if target in around]
        if not paths:
            continue
        common = paths[0]
        for path in paths[1:]:
            length = next((i for i, (a, b) in enumerate(zip(common, path, strict=False)) if a is not b),
                          min(len(common), len(path)))
            common = common[:length]
        common[-1].children.insert(0, number)
    known = readers.keys() | merged
    root.children[:0] = [number for number, item in enumerate(items) if item.kind == "input" and number not in known]


def _cut(box: Box) -> None:
    """Cut a long list of children into chunks, and chunks of chunks where it is very long."""
    while len(box.children) > LONGEST_LIST:
        width = max(24, round(len(box.children) ** 0.5))
        pieces = [box.children[i: i + width] for i in range(0, len(box.children), width)]
        box.children = [Box(f"part {i} of {len(pieces)}", "chunk", piece) for i, piece in enumerate(pieces, 1)]
