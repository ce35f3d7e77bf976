"""Floor 8: forgetting what was staged and compiled."""

from __future__ import annotations

import sys
from weakref import WeakKeyDictionary, WeakValueDictionary

import jax


def clear_caches() -> None:
    """Forget every program that JAX and funcgrad staged or compiled, as in a process that has just begun.

    Needed by whoever changes a rule, a benchmark or a test of rules that are wrong on purpose; never for right results.

    >>> clear_caches()
    """
    jax.clear_caches()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "funcgrad":
            continue
        for value in list(vars(module).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()
            elif isinstance(value, WeakKeyDictionary | WeakValueDictionary):
                value.clear()
