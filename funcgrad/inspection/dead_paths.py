"""`dead_paths`: which inputs, and which parts of them, have no gradient, and which operation cut each path."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jax import lax

from funcgrad.graph import carries_gradient
from funcgrad.inspection.arguments import check_function, numbers
from funcgrad.inspection.cuts import Cut, cuts_of
from funcgrad.inspection.naming import argument_names
from funcgrad.inspection.origins import Program, bad, search
from funcgrad.vjp import record_call

Array = Any

#: So many rows, columns or elements without gradient are spelled out.
SPELLED_OUT = 6


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the arguments.

    Attributes:
      name: the parameter, and the path inside it.
      type: as ``float32[3,4]``.
      size: how many elements it has.
      dead: how many of them have no gradient: it is exactly 0.
      where: which, as one indexes them; empty where all or none are dead.
      cuts: the operations that cut the paths of the dead ones.
      nonfinite: how many have a gradient that is NaN or infinite.
    """

    name: str
    type: str
    size: int
    dead: int
    where: str = ""
    cuts: tuple[Cut, ...] = ()
    nonfinite: int = 0

    @property
    def ok(self) -> bool:
        """Whether every element has a gradient."""
        return self.dead == 0

    @property
    def text(self) -> str:
        """How much is dead, in words."""
        if self.ok:
            return "none"
        return "all" if self.dead == self.size else f"{self.dead} of {self.size}" + (
            f": {self.where}" if self.where else "")


@dataclasses.dataclass(frozen=True)
class DeadPaths:
    """What `dead_paths` found. Prints as a table.

    Attributes:
      function: the function's name.
      leaves: all leaves of the arguments, in order.
    """

    function: str
    leaves: tuple[Leaf, ...]

    @property
    def dead(self) -> tuple[Leaf, ...]:
        """The leaves that have no gradient, or not everywhere."""
        return tuple(leaf for leaf in self.leaves if not leaf.ok)

    @property
    def ok(self) -> bool:
        """Whether all of them have a gradient everywhere."""
        return not self.dead

    def __str__(self) -> str:
        notes = [f"{leaf.name}: {leaf.type}: the gradient of {leaf.nonfinite} of {leaf.size} is NaN or infinite, which "
                 "is no zero; funcgrad.find_nonfinite says why." for leaf in self.leaves if leaf.nonfinite]
        return "\n".join([self._table(), *notes])

    def _table(self) -> str:
        if not self.leaves:
            return f"`{self.function}`: it was given no arguments."
        if self.ok:
            return f"`{self.function}`: every element of every input has a gradient."
        rows = [("input", "without gradient", "cut by", "line", "because")]
        for leaf in self.dead:
            head = (f"{leaf.name}: {leaf.type}", leaf.text)
            cuts = [(cut.operation, cut.place, cut.because) for cut in leaf.cuts] or [("", "", "")]
            rows += [(*(head if i == 0 else ("", "")), *cells) for i, cells in enumerate(cuts)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        count = len(self.leaves) - len(self.dead)
        return "\n".join([f"`{self.function}`: {len(self.dead)} of {len(self.leaves)} inputs have no gradient, or not "
                          "everywhere." if count or len(self.dead) > 1 else
                          f"`{self.function}`: its input has no gradient, or not everywhere.", *lines])

    def to_dict(self) -> dict[str, Any]:
        """The report in types that JSON has."""
        return {"ok": self.ok, **dataclasses.asdict(self)}

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)


def dead_paths(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> DeadPaths:
    """Which inputs of a function have no gradient at these arguments, and which operations cut the paths.

    The function runs once, and its backward sweep once, with cotangents of one. An element is dead when its gradient is
    exactly 0. From there the paths are followed forward, element by element, to the operations that let nothing
    through: an integer conversion, `round`, a comparison, `argmax`, `stop_gradient`, a slope of 0, a branch that was
    not taken, a relu that does not fire, an index that is not taken.

    Args:
      fun: a function of arrays and pytrees of arrays, as one gives it to `grad`.
      *args, **kwargs: where it is evaluated; arrays, not tracers. Keyword arguments are not differentiated.

    Returns:
      A report with one entry for each leaf of the arguments.

    Raises:
      TypeError: when an argument has no value yet, inside `jit` and the like.

    >>> import jax.numpy as jnp
    >>> report = dead_paths(lambda x, y: jnp.sum(jnp.round(x) * y), jnp.ones(2), jnp.ones(2))
    >>> [(leaf.name, leaf.dead, [cut.operation for cut in leaf.cuts]) for leaf in report.dead]
    [('x', 2, ['round'])]
    """
    check_function(fun, "dead_paths(f, x)")
    args, kwargs = numbers("dead_paths", (args, kwargs))
    recording, _ = record_call(partial(fun, **kwargs) if kwargs else fun, args)
    seeds = [lax.full_like(out, 1) if carries_gradient(aval) else None
             for out, aval in zip(recording.outputs, recording.out_avals, strict=True)]
    program = Program.of(recording)
    cts = search(program, seeds).cts
    leaves = tuple(_leaf(program, cts, number, name)
                   for number, name in zip(recording.graph.inputs, argument_names(fun, args), strict=True))
    name = getattr(fun, "__name__", type(fun).__name__)
    return DeadPaths("λ" if name == "<lambda>" else name, leaves)


def _leaf(program: Program, cts: dict[int, Array], number: int, name: str) -> Leaf:
    aval = program.graph.avals[number]
    shape = getattr(aval, "shape", ())
    size = int(np.prod(shape))
    if not carries_gradient(aval):
        cut = Cut(str(aval.dtype), because="numbers of this type have no gradient", elements=size)
        return Leaf(name, aval.str_short(), size, size, cuts=(cut,))
    mask = np.ones(shape, bool) if cts.get(number) is None else np.asarray(cts[number] == 0)
    dead, nonfinite = int(mask.sum()), int(bad(cts.get(number)).sum())
    if not dead:
        return Leaf(name, aval.str_short(), size, 0, nonfinite=nonfinite)
    where = describe_mask(mask) if dead < size else ""
    return Leaf(name, aval.str_short(), size, dead, where, cuts_of(program, cts, number, mask), nonfinite)


def describe_mask(mask: np.ndarray) -> str:
    """Which elements a mask holds, as one indexes them: whole rows or columns where it is made of them."""
    for axis in range(mask.ndim):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        whole = mask.all(axis=others)
        slices = np.broadcast_to(np.expand_dims(whole, others), mask.shape)
        if whole.any() and np.array_equal(slices, mask) and whole.sum() <= SPELLED_OUT:
            return ", ".join(f"[{', '.join(str(i) if a == axis else ':' for a in range(mask.ndim))}]"
                             for i in np.flatnonzero(whole))
    found = np.argwhere(mask)
    told = ", ".join(str(list(map(int, index))) for index in found[:SPELLED_OUT])
    return told + (", …" if len(found) > SPELLED_OUT else "")
