"""Floor 0: who watches the transforms. Nobody does, unless `funcgrad.debug_nonfinite` says so."""

from __future__ import annotations

from typing import Any

import jax

#: What is told of each backward sweep, see `funcgrad.inspection.debugging`; None for nobody. JAX's own caches have it
#: in their keys, so that programs compiled without a watcher stay as they are.
WATCHER = jax.make_user_context(None)


def watcher() -> Any | None:
    """Who watches now."""
    return WATCHER.value
