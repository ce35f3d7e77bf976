"""Headless Chromium for the tests that open a page. REQUIRE_BROWSER=1: a failure where it or Playwright is absent."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright's, closed at the end; the test is skipped where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if sync_playwright is None or EXECUTABLE is None:
        what = "Playwright" if sync_playwright is None else "Chromium"
        assert not os.environ.get("REQUIRE_BROWSER"), f"{what} is not installed"
        pytest.skip(f"{what} is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=["--no-sandbox"])
        yield browser
        browser.close()


def note_failures(page: Any, failures: list[str]) -> None:
    """From now on, add what goes wrong in the scripts of a page."""
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)
