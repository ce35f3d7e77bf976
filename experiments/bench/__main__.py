"""Gradients side by side: funcgrad, jax.grad, jax.grad with checkpoints by hand, equinox, autograd and torch.

Times are taken in turn in one process and compared round by round; bytes, FLOPs and equations have no noise. Ends with
the project's targets beside the figures, and says plainly where it misses.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.bench.eager import CHAINS, EAGER
from experiments.bench.measure import Figures, measure, measure_static
from experiments.bench.memory import peak_of
from experiments.bench.problem import PEERS, Workload
from experiments.bench.report import machine, machine_lines, markdown, print_tables, write
from experiments.bench.targets import Measured, outcomes
from experiments.bench.workloads import JITTED

WORKLOADS = {workload.name: workload for workload in (*JITTED, *EAGER, *CHAINS)}
#: Takes minutes and gigabytes: runs only when it is named.
ONLY_WHEN_NAMED = ("chain-1000000",)
NOT_QUICK = ("chain-100000",)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    workloads: Annotated[tuple[Literal[tuple(WORKLOADS)], ...], tyro.conf.arg(metavar="NAME ...")] = ()  # type: ignore
    """Workloads, all but the longest chain by default."""
    peers: tuple[Literal[PEERS], ...] = PEERS  # type: ignore[valid-type]
    """Peers beside plain jax.grad; a peer that is not installed is left out with a line."""
    quick: bool = False
    """Small sizes and few rounds: two minutes in all, and figures that decide nothing."""
    static: bool = False
    """Only what has no noise, of the jitted workloads at full size: bytes, FLOPs, equations. No times are kept."""
    out: Path = Path("runs/bench")
    """Folder for bench.json, bench.md and bench.png."""


def chosen(options: Options) -> list[Workload]:
    """The workloads of a run, in their order."""
    left_out = ONLY_WHEN_NAMED + (NOT_QUICK if options.quick else ())
    every = JITTED if options.static else WORKLOADS.values()
    names = options.workloads or tuple(workload.name for workload in every if workload.name not in left_out)
    return [WORKLOADS[name] for name in WORKLOADS if name in names]


def measured(workload: Workload, options: Options) -> Measured:
    """Build and measure one workload."""
    problem = workload.build(options.quick, options.peers)
    if options.static:
        figures = measure_static(workload, problem)
    elif options.quick:
        figures = measure(workload, problem, seconds=0.5, rounds=2, compilations=1)
    else:
        figures = measure(workload, problem, seconds=4.0, rounds=5, compilations=2)
        if workload.kind == "eager":
            add_peaks(workload, figures)
    return Measured(workload.kind, workload.what, problem.baseline, options.quick, figures, problem.missing)


def add_peaks(workload: Workload, figures: dict[str, Figures]) -> None:
    """Peak memory of each program, in a process of its own."""
    for peer in figures:
        figures[peer]["peak"] = peak_of(workload.name, peer)


def main(options: Options) -> int:
    """Measure, print, write. Returns the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"--out {options.out}: cannot be written: {error.strerror or error}.", file=sys.stderr)
        return 2
    jax.config.update("jax_enable_compilation_cache", False)  # compile times would be those of reading a file
    started, found = time.perf_counter(), machine()
    for line in machine_lines(found, "at the start"):
        console.print(line)
    results: dict[str, Measured] = {}
    columns = (TextColumn("{task.description:24}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        workloads = chosen(options)
        task = progress.add_task("", total=len(workloads))
        for workload in workloads:
            progress.update(task, description=workload.name)
            results[workload.name] = measured(workload, options)
            progress.advance(task)
    found["seconds"] = round(time.perf_counter() - started)
    reached = outcomes(results)
    print_tables(console, results, reached)
    command = shlex.join(["python", "-m", "experiments.bench", *sys.argv[1:]])
    about = found | {"command": command, "quick": options.quick, "static": options.static}
    text = markdown(results, reached, machine_lines(found, "at the start"), command)
    written = write(options.out, results, reached, about, text)
    console.print(f"{found['seconds']} s; written: {', '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
