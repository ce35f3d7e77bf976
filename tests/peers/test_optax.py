"""optax's own tests with funcgrad in the place of JAX's transforms: what passes with JAX passes with funcgrad."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optax
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OPTAX = Path(optax.__file__).resolve().parent
#: Files whose tests of gradients are quick; the others wait for optimizers.
FAST = ("losses/_classification_test.py", "losses/_ranking_test.py", "losses/_fenchel_young_test.py")
#: Outcomes of pytest: everything passed, or some tests failed.
RAN = (0, 1)


def run(targets: Sequence[str], report: Path, swap: bool, keep: str = "") -> dict[str, Any]:
    """pytest in a process of its own, free of this project's options; the results by name of the test."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.peers.swap", "-p", "no:cacheprovider",
               "-c", os.devnull, "--rootdir", str(OPTAX), *(["-k", keep] if keep else []),
               *(str(OPTAX / target) for target in targets)]
    environment = {**os.environ, "FUNCGRAD_SWAP_REPORT": str(report), "FUNCGRAD_SWAP": str(int(swap)),
                   "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in RAN, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads(report.read_text())


def passes_as_with_jax(targets: Sequence[str], folder: Path, fewest_calls: int, keep: str = "") -> None:
    """No test fails with funcgrad that passes with JAX."""
    found = run(targets, folder / "swapped.json", swap=True, keep=keep)
    assert found["calls"] >= fewest_calls, "hardly a transform was called: the swap did not reach these tests"
    assert found["passed"]
    if found["failed"]:
        plain = run(found["failed"], folder / "plain.json", swap=False)
        assert found["failed"] == plain["failed"]


def test_gradients_of_losses(tmp_path: Path) -> None:
    passes_as_with_jax(FAST, tmp_path, fewest_calls=5, keep="(grad and not extreme) or fenchel")


@pytest.mark.slow
def test_everything(tmp_path: Path) -> None:
    passes_as_with_jax([""], tmp_path, fewest_calls=500)
