"""Floor 0: who watches the transforms. Nobody does, unless `funcgrad.debug_nonfinite` says so."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from jax.extend import source_info_util

#: Who is told of each backward sweep, see `funcgrad.inspection.debugging`; None for nobody. JAX's own caches have it in
#: their keys, so that programs compiled without a watcher stay as they are.
WATCHER = jax.make_user_context(None)


def at_source(source: Any) -> AbstractContextManager:
    """While somebody watches, a context in which operations count as run from the line of `source`."""
    if WATCHER.value is None or source is None:
        return nullcontext()
    return source_info_util.user_context(source.traceback, name_stack=source.name_stack)
