"""How often `funcgrad.check` calls a correct program wrong.

    python -m experiments.false_alarms --evaluations 100000
    python -m experiments.false_alarms --evaluations 2000 --order 2

One evaluation is one number of a gradient that is judged: an element of a cotangent, of an operation or of the whole
function, in float32, float16, bfloat16 or float64, at random points and exactly at kinks and ties.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad
from funcgrad.crosscheck.report import Report

Array = Any
DTYPES = ("float32", "bfloat16", "float16", "float64")

#: Correct functions of one vector. Half precision where its linear algebra exists.
PROGRAMS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: jnp.sum(jax.nn.relu(x) * jnp.arange(1, x.size + 1, dtype=x.dtype)),
    "leaky relu": lambda x: jnp.sum(jax.nn.leaky_relu(x)),
    "abs": lambda x: jnp.sum(jnp.abs(x)),
    "maximum": lambda x: jnp.sum(jnp.maximum(x, x[::-1] * 2)),
    "minimum": lambda x: jnp.sum(jnp.minimum(x, 0)),
    "max": jnp.max,
    "min": lambda x: jnp.min(x.reshape(2, -1), axis=1).sum(),
    "sort": lambda x: jnp.sum(jnp.sort(x) * jnp.arange(x.size, dtype=x.dtype)),
    "top_k": lambda x: lax.top_k(x, 3)[0].sum(),
    "median": jnp.median,
    "clip": lambda x: jnp.sum(jnp.clip(x, -1, 1)),
    "norm": lambda x: jnp.linalg.norm(x + 3),
    "hinge": lambda x: jnp.sum(jnp.maximum(0, 1 - x)),
    "huber": lambda x: jnp.sum(jnp.where(jnp.abs(x) < 1, x * x / 2, jnp.abs(x) - 0.5)),
    "tanh": lambda x: jnp.sum(jnp.tanh(x)),
    "gelu": lambda x: jnp.sum(jax.nn.gelu(x)),
    "softplus": lambda x: jnp.sum(jax.nn.softplus(x)),
    "log softmax": lambda x: jax.nn.log_softmax(x)[1],
    "layer norm": lambda x: jnp.sum((x - x.mean()) / jnp.sqrt(x.var() + 1) * jnp.arange(x.size, dtype=x.dtype)),
    "cumulative": lambda x: jnp.sum(jnp.cumsum(x) ** 2) + jnp.sum(lax.cummax(x)),
    "matmul": lambda x: jnp.sum(jnp.sin(x.reshape(2, -1) @ x.reshape(-1, 2))),
    "gather": lambda x: jnp.sum(x[jnp.array([0, 0, 2, 1])] ** 2),
    "scan": lambda x: lax.scan(lambda c, t: (jnp.tanh(c + t), c * t), x[0], x)[1].sum(),
}


@dataclasses.dataclass(frozen=True)
class Tally:
    """What was judged and what was said."""

    evaluations: int
    reports: int
    verdicts: dict[str, int]
    alarms: tuple[str, ...]

    def lines(self) -> list[str]:
        """The figures, and each alarm."""
        said = ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.items())
        return [f"evaluations: {self.evaluations} numbers in {self.reports} reports ({said})",
                f"false alarms: {len(self.alarms)}", *self.alarms]


def point(rng: np.random.Generator, size: int, kind: int) -> np.ndarray:
    """A random vector; of every three one has values exactly at kinks, one has ties."""
    x = rng.standard_normal(size) * rng.choice([0.1, 1.0, 3.0])
    if kind % 3 == 1:
        x = np.where(rng.uniform(size=size) < 0.4, rng.choice([0.0, -0.0, 1.0, -1.0], size), x)
    if kind % 3 == 2:
        x = np.round(x)  # ties everywhere
    return x


def tally(evaluations: int, order: int = 1, seed: int = 0, size: int = 32, seconds: float = float("inf")) -> Tally:
    """Check correct programs until so many numbers are judged."""
    rng, start = np.random.default_rng(seed), time.monotonic()
    verdicts: collections.Counter[str] = collections.Counter()
    alarms, judged, reports, round_ = [], 0, 0, 0
    while judged < evaluations and time.monotonic() - start < seconds:
        for index, (name, fun) in enumerate(PROGRAMS.items()):
            dtype = DTYPES[(round_ + index) % len(DTYPES)]  # in twelve rounds every dtype meets every kind of point
            with jax.enable_x64(dtype == "float64"):
                x = jnp.asarray(point(rng, size, round_), dtype)
                report = funcgrad.check(fun, x, order=order, seed=reports)
            reports += 1
            judged += _numbers(report)
            verdicts.update(report.counts)
            alarms += [f"  {name} in {dtype} at {np.asarray(x, np.float64).tolist()}: {row.in_words()}"
                       for row in report.failing[:1]]
            if judged >= evaluations or time.monotonic() - start > seconds:
                break
        round_ += 1
    return Tally(judged, reports, dict(verdicts), tuple(alarms))


def total(paths: Sequence[Path]) -> Tally:
    """The sum of saved tallies."""
    parts = [json.loads(path.read_text()) for path in paths]
    verdicts: collections.Counter[str] = collections.Counter()
    for part in parts:
        verdicts.update(part["verdicts"])
    return Tally(sum(p["evaluations"] for p in parts), sum(p["reports"] for p in parts), dict(verdicts),
                 tuple(alarm for p in parts for alarm in p["alarms"]))


def _numbers(report: Report) -> int:
    """How many numbers the rows of a report judge."""
    return sum(max(row.elements, 1) for row in report.rows)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--order", type=int, default=1, choices=(1, 2))
    parser.add_argument("--size", type=int, default=32, help="length of the vector, a multiple of 2 and at least 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many seconds")
    parser.add_argument("--save", type=Path, help="write the figures to this file")
    parser.add_argument("--read", type=Path, nargs="+", help="run nothing, print the sum of these files")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    if options.read:
        found = total(options.read)
    else:
        found = tally(options.evaluations, options.order, options.seed, options.size, options.seconds)
    if options.save:
        options.save.write_text(json.dumps(dataclasses.asdict(found)))
    print("\n".join(found.lines()))


if __name__ == "__main__":
    main()
