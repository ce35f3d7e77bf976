"""optax's own tests with funcgrad in the place of JAX's transforms, and with both compared, by the pytest plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optax
import pytest

OPTAX = Path(optax.__file__).resolve().parent
#: Files whose tests of gradients are quick; the others wait for optimizers.
FAST = ("losses/_classification_test.py", "losses/_ranking_test.py", "losses/_fenchel_young_test.py")
QUICK = "(grad and not extreme) or fenchel"
#: Outcomes of pytest: everything passed, or some tests failed.
RAN = (0, 1)


def run(targets: Sequence[str], folder: Path, mode: str, keep: str = "") -> tuple[dict[str, Any], set[str], int]:
    """pytest in a process of its own, free of our options: what the plugin found, who failed, how many ran."""
    report, results = folder / f"{mode}.json", folder / f"{mode}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir",
               str(OPTAX), f"--funcgrad={mode}", f"--funcgrad-report={report}", f"--junitxml={results}",
               *(["-k", keep] if keep else []), *(str(OPTAX / target) for target in targets)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in RAN, done.stdout[-4000:] + done.stderr[-4000:]
    cases = list(xml.parse(results).iter("testcase"))
    failed = {f"{case.get('classname')}::{case.get('name')}" for case in cases
              if case.find("failure") is not None or case.find("error") is not None}
    return json.loads(report.read_text()) if mode != "off" else {}, failed, len(cases)


def passes_as_with_jax(targets: Sequence[str], folder: Path, mode: str, fewest: int, keep: str = "") -> None:
    """No test fails with funcgrad that passes with JAX."""
    found, failed, count = run(targets, folder, mode, keep)
    assert count
    assert found["figures"]["taken"] >= fewest, "hardly a gradient was taken: the plugin did not reach these tests"
    assert found["figures"]["wrong"] == 0, found["rows"]
    if failed:  # with JAX alone the files of these are enough
        files = sorted({file_of(name) for name in failed})
        _, plain, _ = run(files, folder, "off", keep)
        assert failed == plain


def file_of(name: str) -> str:
    """The file below optax of ``package.module.Class::test``, as pytest's XML names it."""
    parts = name.split("::")[0].split(".")
    return next(path for n in range(len(parts), 0, -1) if (OPTAX / (path := "/".join(parts[:n]) + ".py")).is_file())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["check", "swap"])
def test_gradients_of_losses(tmp_path: Path, mode: str) -> None:
    passes_as_with_jax(FAST, tmp_path, mode, fewest=5, keep=QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["check", "swap"])
def test_everything(tmp_path: Path, mode: str) -> None:
    passes_as_with_jax([""], tmp_path, mode, fewest=100)
