"""What strong zeros cost: `python -m experiments.strong_zeros` prints a table of jitted gradients with and without.

Equations and FLOPs are without noise; times are taken in turn, the ratio is the median of pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

import funcgrad
from reference import flax_models

ROUNDS, SHORTEST = 15, 0.05


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


def measure(loss: Callable[..., Any], args: tuple) -> tuple[float, float, float]:
    """Ratios with / without strong zeros: equations at the top level, FLOPs, time."""
    gradients = [jax.jit(funcgrad.grad(loss, strong_zeros=strong)) for strong in (False, True)]
    equations = [len(jax.make_jaxpr(gradient)(*args).jaxpr.eqns[0].params["jaxpr"].eqns) for gradient in gradients]
    compiled = [gradient.lower(*args).compile() for gradient in gradients]
    flops = [program.cost_analysis()["flops"] for program in compiled]
    once = max(seconds(program, args, 2) for program in compiled)
    repeat = max(1, int(SHORTEST / once))
    pairs = [[seconds(program, args, repeat) for program in compiled] for _ in range(ROUNDS)]
    ratio = statistics.median(strong / plain for plain, strong in pairs)
    return equations[1] / equations[0], flops[1] / flops[0], ratio


def main() -> None:
    """Print the table."""
    print("| gradient of | equations | FLOPs | time |\n|---|---|---|---|")
    for name, (loss, args) in workloads().items():
        print("| " + " | ".join([name, *(f"{ratio:.2f}×" for ratio in measure(loss, args))]) + " |")


if __name__ == "__main__":
    main()
