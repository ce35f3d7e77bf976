"""The records of a picture before it is laid out: items, the links between them, and the scopes around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Scope:
    """One box around an item.

    Attributes:
      key: what distinguishes it from its neighbours.
      label: what is written on it.
      kind: "call" for a function or module, or the primitive that holds the program.
      offset: how far the function had run; a smaller one than before is another call, or another round of a loop.
    """

    key: Any
    label: str
    kind: str
    offset: int = 0


def are_backward(scopes: Iterable[Scope]) -> bool:
    """Whether what is in these boxes belongs to the gradient's program, where a picture has both."""
    return any(scope.kind == "backward" for scope in scopes)


@dataclasses.dataclass
class Item:
    """One operation, input or constant.

    Attributes:
      kind: "op", "input" or "constant".
      name: the value's name.
      title: the operation as one writes it.
      type, value, ct: in words; empty where unknown.
      line, expression: of the user's program.
      forward, backward: the arithmetic of its step in both sweeps.
      scopes: the boxes around it, outermost first.
      offset: how far the innermost function had run.
      active: whether a cotangent can flow through it.
      output: whether the function returns it.
      count: how many inputs it stands for.
      kept: shown although nobody reads it.
      operation: the primitive's name.
    """

    kind: str
    name: str
    title: str
    type: str = ""
    value: str = ""
    ct: str = ""
    line: str = ""
    expression: str = ""
    forward: str = ""
    backward: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    offset: int = 0
    active: bool = True
    output: bool = False
    count: int = 1
    kept: bool = False
    operation: str = ""

    @property
    def is_backward(self) -> bool:
        """Whether it belongs to the gradient's program, where a picture has both."""
        return are_backward(self.scopes)


@dataclasses.dataclass(frozen=True)
class Link:
    """A value on its way from one item to another; `slot` is the operand's position, `partial` the local partial.

    A link that crosses leads from the function's program to the gradient's.
    """

    source: int
    target: int
    slot: int
    partial: str = ""
    active: bool = True
    crosses: bool = False


@dataclasses.dataclass
class Scene:
    """Items in program order, and the links between them."""

    title: str
    items: list[Item]
    links: list[Link]
    left_out: int = 0


def without_unread(scene: Scene) -> Scene:
    """A scene without operations whose results nobody reads, and without constants that only they read."""
    readers = [0] * len(scene.items)
    sources: dict[int, list[int]] = {}
    for link in scene.links:
        readers[link.source] += 1
        sources.setdefault(link.target, []).append(link.source)
    dropped: set[int] = set()
    pending = [i for i, item in enumerate(scene.items)
               if not (readers[i] or item.output or item.kept or item.kind == "input")]
    while pending:
        index = pending.pop()
        dropped.add(index)
        for source in sources.get(index, ()):
            readers[source] -= 1
            if not readers[source] and not scene.items[source].output and scene.items[source].kind != "input":
                pending.append(source)
    numbers: dict[int, int] = {}
    for index in range(len(scene.items)):
        if index not in dropped:
            numbers[index] = len(numbers)
    links = [dataclasses.replace(link, source=numbers[link.source], target=numbers[link.target])
             for link in scene.links if link.source in numbers and link.target in numbers]
    return Scene(scene.title, [scene.items[i] for i in numbers], links, scene.left_out + len(dropped))
