"""The records of `find_nonfinite`: a place in the user's program, and the report."""

from __future__ import annotations

import dataclasses
import json
import linecache
from typing import Any

from funcgrad.graph import Node
from funcgrad.inspection.frames import Frame, is_library, user_frames
from funcgrad.inspection.naming import operation_name
from funcgrad.inspection.replay import Inside


@dataclasses.dataclass(frozen=True)
class Line:
    """An operation and the user's line that ran it.

    Attributes:
      operation: the primitive's name; for a program inside the program also what it is called.
      file, line, function: where the user's program was; empty and 0 where nobody knows.
      code: the text of that line.
      expression: the part of it that ran.
      caller: where that line is a library's, the user's own line that led there.
    """

    operation: str
    file: str = ""
    line: int = 0
    function: str = ""
    code: str = ""
    expression: str = ""
    caller: Line | None = None

    @staticmethod
    def of(node: Node) -> Line:
        """The line of a recorded operation."""
        held = node.params.get("call_jaxpr") if str(node.primitive).startswith("custom_") else None
        operation = operation_name(node) if held is None else held.jaxpr.debug_info.func_name
        frames = user_frames(node.source)
        if not frames:
            return Line(operation)
        own = [frame for frame in frames if not is_library(frame.file)]
        caller = Line._at(operation, own[-1]) if own and is_library(frames[-1].file) else None
        return dataclasses.replace(Line._at(operation, frames[-1]), caller=caller)

    @property
    def whole(self) -> str:
        """`where`, of a library's line also where the user's own line called it."""
        return self.where if self.caller is None else f"{self.where}, called at {self.caller.where}"

    @staticmethod
    def _at(operation: str, frame: Frame) -> Line:
        code = linecache.getline(frame.file, frame.line).strip()
        return Line(operation, frame.file, frame.line, frame.name, code, frame.expression)

    @property
    def where(self) -> str:
        """``model.py:12 in `loss```."""
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line} in `{self.function}`" if self.line else "<unknown>"


@dataclasses.dataclass(frozen=True)
class Place(Line):
    """Where a number stops being finite.

    Attributes:
      phase: "value", when the operation's own result is not finite; "cotangent", when its backward step gives it;
        "input" or "constant", when it came from outside.
      number: what it became there: "nan", "inf" or "-inf".
      index: of the first such element.
      type: of the array, as ``float32[3]``.
      operands: the numbers that the operation read for that element, where it is elementwise.
      cotangent: the number that arrived there in the backward sweep.
      inside: the way into programs inside the program, outermost first: scan steps, iterations, branches, batch index.
    """

    phase: str = "value"
    number: str = "nan"
    index: tuple[int, ...] = ()
    type: str = ""
    operands: tuple[float, ...] = ()
    cotangent: float | None = None
    inside: tuple[Inside, ...] = ()

    @property
    def steps(self) -> dict[str, int]:
        """The numbers of `inside` by what they count: ``{"scan step": 3}``; of two that count the same the inner one is
        the ``"inner scan step"``."""
        found: dict[str, int] = {}
        for entry in self.inside:
            if entry.number is not None:
                what = entry.what
                while what in found:
                    what = f"inner {what}"
                found[what] = entry.number
        return found

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        element = f" at index {self.index if len(self.index) != 1 else self.index[0]}" if self.index else ""
        if self.phase in ("input", "constant"):
            return f"{self.operation} is {self.number} already{element}"
        applied = f"{self.operation}({', '.join(map(_short, self.operands))})" if self.operands else self.operation
        if self.phase == "value":
            return f"the value of {applied} is {self.number}{element}"
        arriving = "" if self.cotangent is None else f", where {_short(self.cotangent)} arrives from its result,"
        return f"the cotangent that {applied} gives to its operand{arriving} is {self.number}{element}"


@dataclasses.dataclass(frozen=True)
class Nonfinite:
    """What `find_nonfinite` found. Prints as a report.

    Attributes:
      function: the name of the function.
      place: where the first NaN or infinity is born that reaches the value or the gradient; None if there is none.
      in_value: whether the function's value is not finite.
      in_gradient: the inputs whose gradient is not finite.
      hidden_by: the operation that hides it in the value (a `where`, a `max`), if one does.
      mends: what can be done, each a text with the user's own line in it.
      compiled_only: whether the compiled program alone gives such a number: all is finite operation by operation.
    """

    function: str
    place: Place | None = None
    in_value: bool = False
    in_gradient: tuple[str, ...] = ()
    hidden_by: Line | None = None
    mends: tuple[str, ...] = ()
    compiled_only: bool = False

    @property
    def ok(self) -> bool:
        """Whether value and gradient are finite."""
        return self.place is None and not self.compiled_only

    @property
    def found(self) -> bool:
        """Whether the value or the gradient is not finite."""
        return not self.ok

    def __bool__(self) -> bool:
        return self.found

    def __str__(self) -> str:
        if self.place is None:
            return f"`{self.function}`: value and gradient are finite" + (
                " operation by operation, but not in the compiled program." if self.compiled_only else ".")
        place, lines = self.place, [f"`{self.function}`: {self._what()} not finite."]
        lines.append(f"  first:   {place.sentence}")
        if place.line:
            lines.append(f"  at:      {place.where}")
            lines.append(f"             {place.code}")
        if place.caller is not None:
            lines += [f"  called:  {place.caller.where}", f"             {place.caller.code}"]
        if place.inside:
            lines.append(f"  inside:  {' › '.join(map(str, place.inside))}")
        if self.hidden_by is not None:
            lines.append(f"  hidden:  `{self.hidden_by.operation}` at {self.hidden_by.where} hides it in the value"
                         + (", not in the gradient" if self.in_gradient else ""))
        return "\n".join([*lines, *(f"{'To fix:' if i == 0 else 'Or:    '} {_indented(mend)}"
                                    for i, mend in enumerate(self.mends))])

    def _what(self) -> str:
        gradient = f"the gradient with respect to {', '.join(self.in_gradient)}" if self.in_gradient else ""
        both = " and ".join(filter(None, ("the value" if self.in_value else "", gradient)))
        return f"{both or 'the value or the gradient'} {'are' if self.in_value and gradient else 'is'}"

    def to_dict(self) -> dict[str, Any]:
        """The report in types that JSON has; NaN and infinities as strings."""
        return {"ok": self.ok, **_plain(dataclasses.asdict(self))}

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)


def _short(number: float) -> str:
    text = f"{number:.4g}"
    return f"{text}.0" if text.lstrip("-").isdigit() else text


def _indented(text: str) -> str:
    return text.replace("\n", "\n          ")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
