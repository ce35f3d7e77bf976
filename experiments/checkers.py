"""`funcgrad.check` beside `jax.test_util.check_grads`: the same rules, at the same sizes and points.

    python -m experiments.checkers --trials 20

Each situation is one that people report (a checker that lets a wrong rule pass, or flags a right one).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.test_util import check_grads

import funcgrad

Array = Any


@dataclasses.dataclass(frozen=True)
class Situation:
    """A function, where it is checked, and whether its derivative is right.

    Attributes:
      words: what it is.
      fun: the function.
      point: ``point(rng) -> argument``.
      order: of derivative.
      modes: what `check_grads` looks at.
      right: whether a good checker lets it pass.
    """

    words: str
    fun: Callable[[Array], Array]
    point: Callable[[np.random.Generator], np.ndarray]
    right: bool
    order: int = 1
    modes: tuple[str, ...] = ("fwd", "rev")


def _custom_jvp(value: Callable, slope: Callable) -> Callable:
    fun = jax.custom_jvp(value)
    fun.defjvp(lambda primals, tangents: (value(*primals), slope(*primals) * tangents[0]))
    return fun


def _custom_vjp(value: Callable, pull: Callable) -> Callable:
    fun = jax.custom_vjp(value)
    fun.defvjp(lambda x: (value(x), x), lambda x, ct: (pull(x, ct),))
    return fun


def _one_wrong(x: Array, ct: Array) -> Array:
    right = ct * jnp.cos(x)
    return right.at[x.size // 3].multiply(2.0)


def _normal(size: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.standard_normal(size).astype(np.float32)


def _one_outside(rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([rng.uniform(1, 2, 9), [-1.0]]).astype(np.float32)


SITUATIONS = (
    Situation("forward rule wrong by 2x, 1,000 elements", _custom_jvp(jnp.sin, lambda x: 2 * jnp.cos(x)),
              _normal(1000), False, modes=("fwd",)),
    Situation("one element of 10,000 wrong by 2x", _custom_vjp(jnp.sin, _one_wrong), _normal(10_000), False,
              modes=("rev",)),
    Situation("rule wrong by 17x, one sample outside the domain",
              _custom_vjp(lambda x: jnp.sum(jnp.sqrt(x)), lambda x, ct: 17 * ct / (2 * jnp.sqrt(x))), _one_outside,
              False, modes=("rev",)),
    Situation("relu, right, 30 elements", lambda x: jnp.maximum(x, 0), _normal(30), True),
    Situation("relu at zeros, right", lambda x: jax.nn.relu(x), lambda rng: np.round(_normal(10)(rng)), True),
    Situation("smooth and right, order 2", lambda x: jnp.sum(jnp.tanh(x.reshape(5, 6) @ jnp.sin(x).reshape(6, 5)) ** 3),
              _normal(30), True, order=2),
    Situation("sort with ties, right", lambda x: jnp.sort(x) * jnp.arange(10.0), lambda rng: np.round(_normal(10)(rng)),
              True),
    Situation("logsumexp, right, float32", lambda x: jax.nn.logsumexp(10 * x), _normal(30), True),
    Situation("second derivative dropped, order 2",
              _custom_vjp(lambda x: jnp.sum(jnp.sin(x)), lambda x, ct: ct * lax.stop_gradient(jnp.cos(x))), _normal(10),
              False, order=2, modes=("rev",)),
)


def flagged_by_jax(situation: Situation, x: np.ndarray) -> bool:
    """Whether `check_grads` raises."""
    try:
        check_grads(situation.fun, (x,), situation.order, modes=situation.modes)
    except AssertionError:
        return True
    return False


def flagged_by_us(situation: Situation, x: np.ndarray) -> bool:
    """Whether the report is not `ok`."""
    return not funcgrad.check(situation.fun, x, order=situation.order).ok


def rows(trials: int) -> list[tuple[str, str, str, str]]:
    """(situation, right answer, flagged by check_grads, flagged by check), the last two with seconds for one call."""
    found = []
    for situation in SITUATIONS:
        points = [situation.point(np.random.default_rng(seed)) for seed in range(trials)]
        cells = []
        for checker in (flagged_by_jax, flagged_by_us):
            start = time.monotonic()
            flags = sum(checker(situation, x) for x in points)
            cells.append(f"{flags} of {trials}, {(time.monotonic() - start) / trials:.2f} s")
        found.append((situation.words, "none" if situation.right else "all", *cells))
    return found


def table(trials: int) -> str:
    """The comparison as a table in Markdown."""
    lines = ["| situation | should be flagged | `jax.test_util.check_grads` | `funcgrad.check` |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows(trials)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    jax.config.update("jax_platforms", "cpu")
    print(table(parser.parse_args().trials))


if __name__ == "__main__":
    main()
