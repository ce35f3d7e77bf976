"""Put funcgrad in the place of JAX's transforms: in a ``with`` block, or for a pytest run (``-p tests.peers.swap``).

As a plugin it reads two variables of the environment: FUNCGRAD_SWAP_REPORT, a file for the results (JSON), and
FUNCGRAD_SWAP, which is "0" for the same run with JAX's own transforms.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import funcgrad

#: What is replaced in `jax`, and by what.
REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "grad": funcgrad.grad,
    "value_and_grad": funcgrad.value_and_grad,
    "vjp": funcgrad.vjp,
    "jvp": funcgrad.jvp,
    "jacrev": funcgrad.jacrev,
    "jacobian": funcgrad.jacrev,
    "jacfwd": funcgrad.jacfwd,
    "hessian": funcgrad.hessian,
}


class Calls:
    """How often a replaced transform was called: a swapped run without calls would prove nothing."""

    def __init__(self) -> None:
        self.count = 0

    def counted(self, transform: Callable[..., Any]) -> Callable[..., Any]:
        """The transform, counting."""

        @functools.wraps(transform)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return transform(*args, **kwargs)

        return call


@contextlib.contextmanager
def swapped() -> Iterator[Calls]:
    """funcgrad behind the names ``jax.grad``, ``jax.vjp`` and so on, until the block ends."""
    calls = Calls()
    with pytest.MonkeyPatch.context() as patch:
        for name, transform in REPLACEMENTS.items():
            patch.setattr(jax, name, calls.counted(transform))
        yield calls


class Plugin:
    """Swaps for a whole run and writes down which tests failed."""

    def __init__(self, report: str, swap: bool) -> None:
        self.report = Path(report)
        self.failed: set[str] = set()
        self.passed: set[str] = set()
        self.block = contextlib.ExitStack()
        self.calls = self.block.enter_context(swapped()) if swap else Calls()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sort one result; a test with a failing subtest has failed."""
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.passed and report.when == "call":
            self.passed.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported has failed."""
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the results, and give JAX its transforms back."""
        self.block.close()
        self.report.write_text(json.dumps({"calls": self.calls.count, "failed": sorted(self.failed),
                                           "passed": sorted(self.passed - self.failed)}))


def pytest_configure(config: pytest.Config) -> None:
    """Swap before any test module is imported: some take ``jax.grad`` at import."""
    report = os.environ.get("FUNCGRAD_SWAP_REPORT")
    if report:
        config.pluginmanager.register(Plugin(report, os.environ.get("FUNCGRAD_SWAP") != "0"))
