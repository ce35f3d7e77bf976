"""The door of the pytest plugin: its options. A test run that does not ask for funcgrad imports nothing of it, nor JAX.

It lies beside the package because importing `funcgrad` imports JAX, before a conftest could set JAX's environment.
"""

from __future__ import annotations

import pytest

MODES = ("off", "check", "swap")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line and of the ini file."""
    group = parser.getgroup("funcgrad", "gradients checked by a second autodiff")
    group.addoption("--funcgrad", choices=MODES, default=None, help=(
        "check: compute each gradient with jax and with funcgrad, and fail the test that took one that is wrong; "
        "swap: compute each gradient with funcgrad; off: neither (default: the ini option `funcgrad`, or off)"))
    group.addoption("--funcgrad-report", metavar="FILE", default=None,
                    help="write the figures and what was found to FILE, as JSON")
    parser.addini("funcgrad", "what --funcgrad is when it is not given: off, check or swap", default="off")
    parser.addini("funcgrad_trusted", "custom rules that differ from their primal body on purpose: one pattern a line, "
                  "of the function's name or of path/of/file.py:name", type="linelist", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Start, where a mode is chosen."""
    config.addinivalue_line("markers", "funcgrad_exempt(reason): the gradients of this test are jax's alone, and are "
                            "not compared")
    mode = config.getoption("--funcgrad") or config.getini("funcgrad")
    if mode not in MODES:
        raise pytest.UsageError(f"the ini file says funcgrad = {mode!r}.\nTo fix: one of {', '.join(MODES)}.")
    if mode != "off":
        from funcgrad.crosscheck.plugin import start

        start(config, mode)
