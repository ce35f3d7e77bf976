"""Where a NaN comes from inside `shard_map`: the operation, the line, the shard; on 8 forced host devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Programs that JAX itself does not run outside `jit`, and those whose shards `vmap` cannot hold.
NOT_RUN = {"all_gather[reduced][True]", "one axis manual[False]", "nested[True]", "nested[False]"}
NAMED_AS_A_WHOLE = {"ppermute[some][True]", "ppermute[some][False]"}


def on_shards(*options: str) -> dict[str, Any]:
    """What a process with 8 devices says."""
    done = subprocess.run([sys.executable, "-m", "tests.inspection.shards", *options], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def place(*before: str, kind: str = "float32[2,2]", index: tuple[int, ...] = (1, 1),
          after: tuple[str, ...] = ()) -> dict[str, Any]:
    """The square root of the zero at (5, 3)."""
    return {"operation": "sqrt", "phase": "cotangent", "function": "masked_root", "type": kind,
            "inside": [*before, "shard_map", *after, "shard x 2", "shard y 1"], "index": list(index)}


@pytest.mark.parametrize("options", [(), pytest.param(("--unchecked",), marks=pytest.mark.slow)],
                         ids=["check_vma", "unchecked"])
def test_the_shard_to_blame_is_named(options: tuple[str, ...]) -> None:
    row = {"kind": "float32[2]", "index": (1,)}

    def whole(function: str) -> dict[str, Any]:
        return {"operation": f"a part of `{function}`", "phase": "value", "function": "", "type": "",
                "inside": ["shard_map", "shard x 2", "shard y 1"], "index": []}

    def of_x(*before: str, kind: str = "float32[2,4]", index: tuple[int, ...] = (1, 3)) -> dict[str, Any]:
        return {**place(kind=kind, index=index), "inside": [*before, "shard_map", "shard x 2"]}

    long_row = {"kind": "float32[4]", "index": (3,)}
    found = on_shards(*options)
    told = found.pop("partly: told")
    assert len(told) == 1 and "does not watch `own_loss`" in told[0] and "('y',) are explicit" in told[0]
    if not options:
        assert found.pop("partly: loss") == of_x("jit `loss_of_x`")
    assert found == {
        # a function that holds a shard_map
        "loss": place(), "jit": place("jit `loss`"), "rows": place(after=("scan step 1",), **row),
        "gradient around": [place()],
        "distances": {"operation": "log", "phase": "value", "function": "distances", "type": "float32[2,2]",
                      "inside": ["shard_map", "shard x 2", "shard y 0"], "index": [0, 0]},
        # a gradient in the body of one
        "gradient": [place()], "own gradient": [place()], "gradient of rows": [place("call `own_loss` 1", **row)],
        "gradients of rows": [place("batch index 1", **row)], "finite": [],
        "own rule": [whole("sum_of_roots")],  # it does not run again
        # shards along one axis of the mesh only
        "partly: own gradient": [of_x()], "partly: gradient of rows": [of_x("call `own_loss` 1", **long_row)],
        "partly: gradients of rows": [of_x("batch index 1", **long_row)], "partly: finite": [],
        "partly: pulled": [of_x()] if options else [{**whole("own_loss"), "inside": ["shard_map", "shard x 2"]}],
        "partly: explicit": [],
        "partly: plain jit": [{**place(kind="float32[8,4]", index=(5, 3)), "inside": []}],
        "pulled": [place()] if options else [whole("own_loss")],  # a shard alone has no mesh that its types may name
    }


@pytest.mark.slow
def test_all_shards_on_one_device_compute_what_they_do_on_eight() -> None:
    outcomes = on_shards("--replay")
    assert {name for name, message in outcomes.items() if message.startswith("not run")} == NOT_RUN
    assert {name for name, message in outcomes.items() if message} == NOT_RUN | NAMED_AS_A_WHOLE
    assert len(outcomes) > 50
