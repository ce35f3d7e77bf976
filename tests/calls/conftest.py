"""All tests of calls run in float64."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """float64, so that equal means equal."""
    with jax.enable_x64(True):
        yield
