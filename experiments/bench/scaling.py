"""How recording, planning, the sweep and memory grow with a program: `python -m experiments.bench.scaling`.

A chain of 1,000 to 1,000,000 operations is differentiated under `jit`, each length in a process of its own, whose peak
memory then belongs to it. Seconds are processor time, of which other programs on the machine take little. Writes
a table, by operation, and a picture into the docs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import tyro

from experiments.bench.eager import chain_of
from experiments.bench.memory import ROOT, peak_bytes
from experiments.bench.page import DOCS, with_tables
from experiments.bench.problem import JAX, OURS, Program
from funcgrad.planning import make_plan
from funcgrad.pullback import sweep
from funcgrad.vjp import record

BEGIN = "<!-- scaling: written by `python -m experiments.bench.scaling` -->"
END = "<!-- end of scaling -->"
#: What is measured of each program, and its unit.
PARTS = {OURS: ("record", "plan", "sweep", "peak"), JAX: ("trace", "peak")}
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    lengths: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Operations in a row."""
    docs: Path = DOCS
    """Folder of performance.md, whose table is written, and of images/scaling.png."""
    only: tuple[int, Literal["funcgrad", "jax"]] | None = None
    """One length and one program, measured in this process and printed as JSON: what the parent process calls."""


def seconds_of(loss: Program, x: jax.Array, peer: str) -> Figures:
    """Processor seconds of each stage."""
    found = {}

    def timed(part: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        found[part] = time.process_time() - start
        return result

    def stages(x: jax.Array) -> list[jax.Array]:
        recording = timed("record", lambda: record(loss, [x]))
        timed("plan", lambda: make_plan(recording.graph))
        return timed("sweep", lambda: sweep(recording.graph, recording.read, [jnp.ones_like(x)]))

    if peer == OURS:
        jax.make_jaxpr(stages)(x)
    else:
        timed("trace", lambda: jax.make_jaxpr(jax.grad(loss))(x))
    return found


def measure_here(length: int, peer: str) -> Figures:
    """Seconds of each stage, and bytes by which this process's peak grows."""
    x = jnp.float32(0.5)
    seconds_of(chain_of(500)(False, ()).loss, x, peer)  # loads what is loaded late
    before = peak_bytes()
    found = seconds_of(chain_of(length)(False, ()).loss, x, peer)
    return {**found, "peak": peak_bytes() - before}


def measure(length: int, peer: str) -> Figures:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "experiments.bench.scaling", "--only", str(length), peer]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def table(found: dict[int, dict[str, Figures]]) -> str:
    """Microseconds and kilobytes for one operation, in Markdown."""
    columns = [(peer, part) for peer, parts in PARTS.items() for part in parts]
    head = " | ".join(f"{peer}: {part}" for peer, part in columns)
    lines = [f"| operations | {head} |", "| ---: |" + " ---: |" * len(columns)]
    for length, peers in found.items():
        cells = (f"{peers[peer][part] / length / 1e3:.2f} kB" if part == "peak" else
                 f"{1e6 * peers[peer][part] / length:.1f} µs" for peer, part in columns)
        lines.append(f"| {length:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, found: dict[int, dict[str, Figures]]) -> None:
    """Seconds on the left, memory on the right; a dotted line is proportional to the length."""
    figure, (seconds, memory) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    lengths = list(found)
    for peer, parts in PARTS.items():
        for part in parts:
            axis, unit = (memory, 1e6) if part == "peak" else (seconds, 1.0)
            axis.plot(lengths, [peers[peer][part] / unit for peers in found.values()], label=f"{peer}: {part}",
                      marker="s" if peer == JAX else "o", linestyle="--" if peer == JAX else "-")
    last = found[lengths[-1]][OURS]
    for axis, label, value in ((seconds, "processor seconds", last["record"]),
                               (memory, "growth of the peak memory, MB", last["peak"] / 1e6)):
        axis.plot(lengths, [value * n / lengths[-1] for n in lengths], color="0.5", linestyle=":", label="proportional")
        axis.set(xscale="log", yscale="log", xlabel="operations in a row", ylabel=label)
        axis.grid(color="0.9")
        axis.legend()
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


def main(options: Options) -> int:
    """Measure, and write the table and the picture."""
    if options.only is not None:
        print(json.dumps(measure_here(*options.only)))
        return 0
    found: dict[int, dict[str, Figures]] = {}
    for length in options.lengths:
        found[length] = {peer: measure(length, peer) for peer in PARTS}
        print(f"{length:>9,}  {json.dumps(found[length])}", flush=True)
    page = options.docs / "performance.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8"), table(found), (BEGIN, END)), encoding="utf-8")
    draw(options.docs / "images" / "scaling.png", found)
    print(f"written: {page}, {options.docs / 'images' / 'scaling.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
