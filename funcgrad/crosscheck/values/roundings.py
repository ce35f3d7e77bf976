"""What rounding alone does to the result of a program: each operation's result is moved by its last place, at random.

That is Monte Carlo arithmetic (D. S. Parker, "Monte Carlo arithmetic: exploiting randomness in floating-point
arithmetic", UCLA CSD-970002, 1997). It sees what no look at inputs and outputs can: `x - tanh(x)` loses its digits in
between, and `log(1 + exp(-50))` is flat in float64 because of a sum inside. The program runs in float64; how far a
result moves follows from the precision that the program itself computes it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from funcgrad.crosscheck.compare import epsilon, farthest, is_inexact, numbers
from funcgrad.crosscheck.values.wide import double, evaluate_wide, moved_results, widen

Array = Any

#: How often a program is run with other roundings.
DRAWS = 4
#: What gives one of its operands, or a number that needs no rounding; and what holds programs, which round inside.
EXACT = frozenset({
    "abs", "all_gather", "all_gather_invariant", "all_gather_reduced", "all_to_all", "approx_top_k", "argmax",
    "argmin", "bitcast_convert_type", "broadcast_in_dim", "ceil", "checkpoint", "clamp", "closed_call", "complex",
    "concatenate", "cond", "conj", "copy", "copy_p", "core_call", "cummax", "cummin", "custom_jvp_call",
    "custom_vjp_call", "device_put", "dynamic_slice", "dynamic_update_slice", "expand_dims", "floor", "gather", "imag",
    "iota", "jit", "layout_constraint", "max", "min", "name", "neg", "nextafter", "optimization_barrier", "pad",
    "pbroadcast", "pmax", "pmin", "ppermute", "preduced", "pvary", "ragged_all_to_all", "random_bits", "random_unwrap",
    "random_wrap", "real", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "reduced_vary_cast_p",
    "rem", "remat", "remat2", "reshape", "reshard", "rev", "round", "scan", "scatter", "scatter-max", "scatter-min",
    "select_and_gather_add", "select_n", "shard_alike", "sharding_constraint", "sign", "slice", "sort", "split",
    "squeeze", "stack", "stage", "stop_gradient", "tie", "tile", "top_k", "transpose", "unstack",
    "vary_unreduced_cast_p", "while"})


def rounding_noise(fun: Callable[..., Sequence[Array]], args: Sequence[Array], coarsest: float = np.inf,
                   seed: int = 0) -> list[np.ndarray]:
    """How far each element of ``fun(*args)`` moves when every operation in it rounds otherwise.

    Args:
      fun: gives arrays; it is staged in the precision of `args`.
      args: arrays.
      coarsest: the largest machine epsilon that is granted to an operation, whatever it computes in.
      seed: of the roundings.
    """
    program = jax.make_jaxpr(lambda *x: list(fun(*x)))(*args)
    rng = np.random.default_rng(seed)

    def moved(name: str, avals: Sequence[Any], results: Sequence[Array]) -> list[Array]:
        if name in EXACT:
            return list(results)
        return [_nudged(result, min(epsilon([aval]), coarsest), rng) if is_inexact(result) else result
                for result, aval in zip(results, avals, strict=True)]

    def run() -> list[np.ndarray]:
        return list(map(numbers, evaluate_wide(program, list(map(widen, args)))))

    with double():
        centre = run()
        with moved_results(moved):
            found = farthest(centre, (run() for _draw in range(DRAWS)))
    return [np.where(np.isfinite(leaf), leaf, 0.0) for leaf in found]


def _nudged(value: Array, eps: float, rng: np.random.Generator) -> Array:
    return value * jax.numpy.asarray(1 + rng.choice([-eps, eps], np.shape(value)), dtype=value.real.dtype)
