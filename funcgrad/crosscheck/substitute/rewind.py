"""A function runs twice in a `check` block. What it left behind in Python's containers is put back in between.

Flax's gradient, for one, takes the parts of a model out of a deque while it runs: a second run would find it empty.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

Container = list | dict | set | deque
#: So many objects behind a function are looked at.
LOOKED_AT = 300


@dataclasses.dataclass(frozen=True, eq=False)
class Rewound:
    """A function that finds, whenever it is called, the containers behind it as they were when this was made.

    What stands in them otherwise is there again afterwards.
    """

    fun: Callable[..., Any]
    held: tuple[tuple[Any, Any], ...]

    @staticmethod
    def of(fun: Callable[..., Any]) -> Rewound:
        """Remember lists, dicts, sets and deques that `fun` closes over, or holds as attributes."""
        return Rewound(fun, tuple((container, _content(container)) for container in containers_behind(fun)))

    def __call__(self, *args: Any) -> Any:
        now = [(container, _content(container)) for container, _ in self.held]
        _put_back(self.held)
        try:
            return self.fun(*args)
        finally:
            _put_back(now)


def containers_behind(fun: Callable[..., Any]) -> list[Any]:
    """The containers that a function reaches through closures, wrappers, partials, methods and callable objects."""
    waiting: deque[Any] = deque([fun])
    seen: set[int] = set()
    found: list[Any] = []
    while waiting and len(seen) < LOOKED_AT:
        value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Container):
            found.append(value)
        elif callable(value) and not isinstance(value, type | types.BuiltinFunctionType):
            waiting.extend(_behind(value))
    return found


def _behind(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value):
        cells = [cell for cell in value.__closure__ or () if _is_filled(cell)]
        return [*(cell.cell_contents for cell in cells), *vars(value).values()]  # `__wrapped__` is one of the latter
    return list(getattr(value, "__dict__", {}).values())


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _content(container: Any) -> Any:
    return tuple(container.items()) if isinstance(container, dict) else tuple(container)


def _same(mine: Any, theirs: Any) -> bool:
    """The very same objects, in order."""
    flat = [part for side in (mine, theirs) for entry in side for part in (
        entry if isinstance(entry, tuple) else (entry,))]
    half = len(flat) // 2
    return len(mine) == len(theirs) and len(flat) % 2 == 0 and all(
        a is b for a, b in zip(flat[:half], flat[half:], strict=True))


def _put_back(held: Iterable[tuple[Any, Any]]) -> None:
    for container, content in held:
        if not _same(_content(container), content):
            container.clear()
            (container.update if isinstance(container, dict | set) else container.extend)(content)
