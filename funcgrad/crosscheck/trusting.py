"""Custom rules that differ from their primal body on purpose: straight-through estimators, gradient clipping.

What they give is taken as it is. A function that has one in it is no longer judged by its values, only by comparing
JAX with funcgrad; the operations beside it are judged as ever.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Any

_PATTERNS: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("funcgrad trusted rules", default=())


@contextlib.contextmanager
def trusting(patterns: Sequence[str]) -> Iterator[None]:
    """While this block is open, rules that match one of these patterns are trusted."""
    token = _PATTERNS.set(tuple(patterns))
    try:
        yield
    finally:
        _PATTERNS.reset(token)


def matches(name: str, file: str, patterns: Sequence[str]) -> bool:
    """Whether a function's name, or ``path/of/file.py:name``, is one of these shell patterns."""
    return any(fnmatch(text, pattern) for pattern in patterns for text in (name, f"{file}:{name}"))


def is_trusted(program: Any) -> bool:
    """Whether a custom rule with this primal body is trusted now."""
    about = program.jaxpr.debug_info
    return matches(str(about.func_name), str(about.func_filename), _PATTERNS.get())
