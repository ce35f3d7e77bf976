"""Where an operation came from: the user's frames, the expression that ran, and the variable that it was given to.

A recorded traceback holds code objects and instruction offsets; Python knows which characters of the source each
instruction belongs to, and these name the module (`self.hidden(x)`) and the variable (`logits = ...`) in a picture.
"""

from __future__ import annotations

import ast
import dataclasses
import linecache
import os
from functools import lru_cache
from typing import Any

import jax
import numpy as np

_HERE = os.path.dirname(os.path.dirname(__file__))
#: Files below these folders are not the user's.
_FOREIGN = tuple(os.path.dirname(path) + os.sep for path in (jax.__file__, np.__file__, os.__file__))
#: Frames that Python makes by itself: their code belongs to the function around them.
_ANONYMOUS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")
_SITE_PACKAGES = f"{os.sep}site-packages{os.sep}"

Span = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of the user's program.

    Attributes:
      function: the function's qualified name.
      file, line: where it stood.
      offset: the instruction; grows along the function's text.
      span: first line, last line, first and last column of the expression, None where Python does not know.
    """

    function: str
    file: str
    line: int
    offset: int
    span: Span | None

    @property
    def name(self) -> str:
        """The function as a person calls it: a method ``__call__`` by its class."""
        name = self.function.removesuffix(".__call__").rsplit("<locals>.", 1)[-1]
        return "λ" if name == "<lambda>" else name

    @property
    def expression(self) -> str:
        """The source text of the expression that ran; empty where there is none."""
        return _text(self.file, self.span) if self.span else ""

    @property
    def callee(self) -> str:
        """What is called here, without `self.`: ``hidden`` for ``self.hidden(x)``."""
        text = self.expression
        called = text.partition("(")[0]
        if not called.replace(".", "").isidentifier() or _closing(text, len(called)) != len(text) - 1:
            return ""
        return called.removeprefix("self.")

    @property
    def variable(self) -> str:
        """The variable that the expression's value is assigned to, empty where it is not assigned as it is."""
        return _assignments(self.file).get(self.span, "") if self.span else ""


def user_frames(source: Any) -> tuple[Frame, ...]:
    """The user's frames of a recorded source, outermost first."""
    traceback = getattr(source, "traceback", None)
    return _frames(traceback) if traceback is not None else ()


@lru_cache(maxsize=65536)
def _frames(traceback: Any) -> tuple[Frame, ...]:
    codes, offsets = traceback.raw_frames()
    found = (_frame(code, offset) for code, offset in zip(codes, offsets, strict=True))
    return tuple(frame for frame in found if frame is not None)[::-1]


# One entry for each place of the program, however many operations it runs.
@lru_cache(maxsize=65536)
def _frame(code: Any, offset: int) -> Frame | None:
    if not is_users(code.co_filename) or code.co_name in _ANONYMOUS:
        return None
    positions = list(code.co_positions())
    first, last, begin, end = positions[offset // 2] if offset // 2 < len(positions) else (None,) * 4
    span = None if None in (first, last, begin, end) else (first, last, begin, end)
    name = getattr(code, "co_qualname", code.co_name)
    return Frame(name, code.co_filename, first or code.co_firstlineno, offset, span)  # type: ignore[arg-type]


@lru_cache(maxsize=4096)
def is_users(file: str) -> bool:
    if file.startswith(_HERE + os.sep) or file.startswith("<frozen"):
        return False
    return not file.startswith(_FOREIGN) or (_SITE_PACKAGES in file and not file.startswith(_FOREIGN[:2]))


def is_library(file: str) -> bool:
    """Whether a file was installed, and is not the user's to change."""
    return _SITE_PACKAGES in file


def _text(file: str, span: Span) -> str:
    first, last, begin, end = span
    lines = [linecache.getline(file, number).encode() for number in range(first, last + 1)]  # columns count bytes
    if not all(lines):
        return ""
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][begin:]
    return " ".join(b" ".join(lines).decode(errors="replace").split())


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes; brackets in strings are not looked for."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return -1


@lru_cache(maxsize=256)
def _assignments(file: str) -> dict[Span | None, str]:
    """For each expression of a file that is assigned to one variable, the variable."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    found: dict[Span | None, str] = {}
    target: ast.expr
    value: ast.expr | ast.stmt
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            target, value = node.target, node.value
        elif isinstance(node, ast.AugAssign):
            target, value = node.target, node  # the operation's position is the whole statement's
        else:
            continue
        if isinstance(target, ast.Name) and value.end_lineno is not None and value.end_col_offset is not None:
            found[(value.lineno, value.end_lineno, value.col_offset, value.end_col_offset)] = target.id
    return found
