"""Steps of recurrent networks of many sizes: `python -m experiments.bench.recurrent`.

LSTMs under `scan`, their backward loop as it is and in blocks: the figures behind ADR 9. And a network written out as a
loop of Python over the rows of its input, each of which is a slice. Times are the least of many rounds, taken in turn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import funcgrad
from experiments.bench.measure import least_seconds
from experiments.bench.workloads import lstm_problem
from funcgrad.caches import clear_caches
from funcgrad.rules import blocks

ROUNDS = 15
#: (steps, batch, features, width)
SIZES = ((512, 16, 32, 64), (512, 4, 64, 64), (512, 1, 32, 32), (512, 16, 64, 128), (127, 16, 64, 128),
         (128, 32, 64, 128), (128, 16, 256, 512), (64, 2, 256, 512), (128, 1, 256, 512))
#: Rows of the input of the network that is written out, each 256 wide.
ROWS = (50, 200, 800)


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


def written_out(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    """The loss of a network that takes one row of its input after the other."""
    state = jnp.zeros(inputs.shape[1])
    for row in inputs:
        state = jnp.tanh(weights @ state + row)
    return jnp.sum(state**2)


def steps_written_out(rows: int) -> dict[str, Callable[[], Any]]:
    """Compiled steps, JAX's and ours."""
    args = jnp.eye(256) / 2, jnp.full((rows, 256), 0.01)
    return {library.__name__: partial(jax.jit(library.grad(written_out, argnums=(0, 1))).lower(*args).compile(), *args)
            for library in (jax, funcgrad)}


def main() -> int:
    """Print the tables."""
    console = Console()
    table = Table(title="A step of an LSTM, in milliseconds and beside jax.grad")
    for heading in ("steps", "batch", "features", "width", "jax.grad", "as it is", "in blocks", "×", "×"):
        table.add_column(heading, justify="right")
    for size in SIZES:
        times = least_seconds(steps(size), ROUNDS)
        ratios = [times[name] / times["jax"] for name in ("as it is", "in blocks")]
        table.add_row(*map(str, size), *(f"{1e3 * t:.2f}" for t in times.values()), *(f"{r:.2f}" for r in ratios))
    console.print(table)
    table = Table(title="A network written out, in milliseconds and beside jax.grad")
    for heading in ("rows", "jax.grad", "funcgrad", "×"):
        table.add_column(heading, justify="right")
    for rows in ROWS:
        times = least_seconds(steps_written_out(rows), ROUNDS)
        table.add_row(str(rows), *(f"{1e3 * t:.2f}" for t in times.values()), f"{times['funcgrad'] / times['jax']:.2f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
