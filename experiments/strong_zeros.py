"""What strong zeros cost: `python -m experiments.strong_zeros` writes the table of docs/strong_zeros.md.

Equations and FLOPs are without noise; times are taken in turn, the ratio is the median of pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import funcgrad
from reference import flax_models

ROUNDS, SHORTEST = 15, 0.05
PAGE = Path(__file__).resolve().parent.parent / "docs" / "strong_zeros.md"
BEGIN, END = "<!-- written by python -m experiments.strong_zeros -->", "<!-- end -->"


def workloads() -> dict[str, tuple[Callable[..., Any], tuple]]:
    """By name a loss and its arguments."""
    two_layer = flax_models.build("two_layer", jax.random.key(0))
    unrolled = flax_models.unrolled_transformer(layers=4, width=64, heads=4, batch=4, tokens=64)
    scanned = flax_models.scanned_transformer(layers=4, width=64, heads=4, batch=4, tokens=64)
    programs = {"two-layer classifier": two_layer, "transformer, unrolled": unrolled, "transformer, scanned": scanned}
    return {name: (loss, tuple(args)) for name, (loss, *args) in programs.items()}


def seconds(run: Callable[..., Any], args: tuple, repeat: int) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    for _ in range(repeat):
        jax.block_until_ready(run(*args))
    return (time.perf_counter() - started) / repeat


def gradients(loss: Callable[..., Any]) -> list[Any]:
    """The jitted gradient without and with strong zeros."""
    return [jax.jit(funcgrad.grad(loss, strong_zeros=strong)) for strong in (False, True)]


def counts(loss: Callable[..., Any], args: tuple) -> str:
    """Ratios with / without strong zeros, as two cells: equations at the top level, FLOPs."""
    both = gradients(loss)
    equations = [len(jax.make_jaxpr(gradient)(*args).jaxpr.eqns[0].params["jaxpr"].eqns) for gradient in both]
    flops = [gradient.lower(*args).compile().cost_analysis()["flops"] for gradient in both]
    return f"{equations[1] / equations[0]:.2f}× | {flops[1] / flops[0]:.2f}×"


def time_ratio(loss: Callable[..., Any], args: tuple) -> float:
    """How much longer a step takes with strong zeros."""
    compiled = [gradient.lower(*args).compile() for gradient in gradients(loss)]
    once = max(seconds(program, args, 2) for program in compiled)
    repeat = max(1, int(SHORTEST / once))
    pairs = [[seconds(program, args, repeat) for program in compiled] for _ in range(ROUNDS)]
    return statistics.median(strong / plain for plain, strong in pairs)


def main() -> None:
    """Print the table and write it into the page."""
    rows = ["| gradient of | equations | FLOPs | time |", "|---|---|---|---|"]
    rows += [f"| {name} | {counts(*program)} | {time_ratio(*program):.2f}× |" for name, program in workloads().items()]
    table = "\n".join(rows)
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
