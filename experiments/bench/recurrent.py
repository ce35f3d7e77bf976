"""A step of LSTMs of many sizes, their backward loop as it is and in blocks: `python -m experiments.bench.recurrent`.

The figures behind ADR 9. Times are the least of many rounds, taken in turn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import jax
from rich.console import Console
from rich.table import Table

from experiments.bench.measure import least_seconds
from experiments.bench.workloads import lstm_problem
from funcgrad.caches import clear_caches
from funcgrad.rules import blocks

ROUNDS = 15
#: (steps, batch, features, width)
SIZES = ((512, 16, 32, 64), (512, 4, 64, 64), (512, 1, 32, 32), (512, 16, 64, 128), (127, 16, 64, 128),
         (128, 32, 64, 128), (128, 16, 256, 512), (64, 2, 256, 512), (128, 1, 256, 512))


def steps(size: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """Compiled steps: JAX's, and ours without and with blocks."""
    problem = lstm_problem(*size, ())
    found = {}
    for name, program, smallest in (("jax", "jax", math.inf), ("as it is", "funcgrad", math.inf),
                                    ("in blocks", "funcgrad", blocks.SMALLEST)):
        clear_caches()
        with mock.patch.object(blocks, "SMALLEST", smallest):
            found[name] = partial(jax.jit(problem.programs[program]).lower(*problem.args).compile(), *problem.args)
    return found


def main() -> int:
    """Print the table."""
    table = Table(title="A step of an LSTM, in milliseconds and beside jax.grad")
    for heading in ("steps", "batch", "features", "width", "jax.grad", "as it is", "in blocks", "×", "×"):
        table.add_column(heading, justify="right")
    for size in SIZES:
        times = least_seconds(steps(size), ROUNDS)
        ratios = [times[name] / times["jax"] for name in ("as it is", "in blocks")]
        table.add_row(*map(str, size), *(f"{1e3 * t:.2f}" for t in times.values()), *(f"{r:.2f}" for r in ratios))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
