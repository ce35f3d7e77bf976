"""Peak memory of one eager program, in a process of its own: ``python -m experiments.bench.memory WORKLOAD PEER``."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import jax

from experiments.bench.eager import CHAINS, EAGER
from experiments.bench.problem import PEERS

ROOT = Path(__file__).resolve().parent.parent.parent


def peak_of(workload: str, peer: str) -> int | None:
    """Bytes by which the peak of a fresh process grows when the program runs ten times; None when it fails."""
    command = [sys.executable, "-m", "experiments.bench.memory", workload, peer]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def peak_bytes() -> int:
    """The most memory that this process has ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage there begins with the peak of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def main(workload: str, peer: str) -> None:
    """Print the growth of this process's peak."""
    problem = {entry.name: entry for entry in (*EAGER, *CHAINS)}[workload].build(False, PEERS)
    args = problem.arguments_of(peer)
    jax.block_until_ready(args)
    before = peak_bytes()
    for _ in range(10):
        jax.block_until_ready(problem.programs[peer](*args))
    print(peak_bytes() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
