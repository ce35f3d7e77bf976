"""Floor 0: who watches the transforms. Nobody does, unless a tool that looks inside a derivative says so."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from jax.extend import source_info_util

#: Who is told of each backward sweep, see `funcgrad.inspection.debugging`; None for nobody. JAX's own caches have it in
#: their keys, so that programs compiled without a watcher stay as they are.
WATCHER = jax.make_user_context(None)


class Unheard:
    """A watcher that listens to nobody: while it is set, backward sweeps carry the lines of the forward pass."""

    def swept(self, *args: Any) -> None:
        """Nothing."""

    def pulled(self, *args: Any) -> None:
        """Nothing."""


UNHEARD = Unheard()

# How the name stack of an operation says that it is part of a backward step: the step's number, and what is pulled.
_PULL = re.compile(r"pull\[(\d+)\] (.+)")


def at_source(source: Any) -> AbstractContextManager:
    """While somebody watches, a context in which operations count as run from the line of `source`."""
    if WATCHER.value is None or source is None:
        return nullcontext()
    return source_info_util.user_context(source.traceback, name_stack=source.name_stack)


def pulling(node: Any, index: int) -> AbstractContextManager:
    """While somebody watches, a context in which operations count as the backward step of a graph's node."""
    if WATCHER.value is None or node.source is None:
        return nullcontext()
    stack = node.source.name_stack.extend(f"pull[{index}] {node.called}")
    return source_info_util.user_context(node.source.traceback, name_stack=stack)


def pulls_of(source: Any) -> list[tuple[int, str]]:
    """The backward steps that an operation is part of, as (number, operation pulled); the innermost sweep's first."""
    found = (_PULL.fullmatch(entry.name) for entry in getattr(getattr(source, "name_stack", None), "stack", ()))
    return [(int(match[1]), match[2]) for match in found if match]
