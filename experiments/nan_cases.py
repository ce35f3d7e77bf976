"""Twelve NaN gradients from public issues: programs, and the operation and the line that are to blame.

``python -m experiments.nan_cases`` runs them through funcgrad, ``jax_debug_nans``, ``checkify`` and
``equinox.debug.backward_nan`` (see `experiments.nan_tools`), and writes the tables in `docs/nonfinite.md`.
The programs say what the issues' programs say; none is copied.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = Any

#: In a batch and in a loop this example is the bad one of `EXAMPLES`.
BAD, EXAMPLES = 2, 4


@dataclasses.dataclass(frozen=True)
class Case:
    """One program whose gradient is not finite at one point.

    Attributes:
      issue: where it was asked, as ``owner/repository#number``.
      function: a scalar function of one array.
      bad, good: a point where its gradient is not finite, and one where it is.
      operation: the primitive in which that begins.
      hidden: whether the function's value is finite all the same.
    """

    issue: str
    function: Callable[[Array], Array]
    bad: np.ndarray
    good: np.ndarray
    operation: str
    hidden: bool = True

    @property
    def line(self) -> int:
        """The line to blame: the one in the function that is marked so."""
        lines, first = inspect.getsourcelines(self.function)
        return first + next(i for i, text in enumerate(lines) if text.rstrip().endswith("# here"))

    @property
    def url(self) -> str:
        """Where the issue is."""
        repository, number = self.issue.split("#")
        return f"https://github.com/{repository}/issues/{number}"

    @property
    def examples(self) -> np.ndarray:
        """A batch, or the steps of a loop, with one bad example."""
        return np.stack([self.bad if i == BAD else self.good for i in range(EXAMPLES)])


# ---- the programs ----


def masked_norms(x: Array) -> Array:
    lengths = jnp.sqrt(jnp.sum(x**2, axis=1))  # here
    return jnp.sum(jnp.where(lengths > 0.5, lengths, jnp.ones_like(lengths)))


def masked_angle(a: Array) -> Array:
    angle = jnp.arctan2(a, a)  # here
    return jnp.sum(jnp.where(jnp.abs(a) < 0.5, 0.0, angle))


def root_or_line(x: Array) -> Array:
    return jnp.sum(jnp.where(x < 1.0, x, jnp.sqrt(x)))  # here


def squared_norm(x: Array) -> Array:
    return jnp.linalg.norm(x) ** 2  # here


def spread(x: Array) -> Array:
    return jnp.std(x)  # here


def angle_between(q: Array) -> Array:
    overlap = jnp.vdot(jnp.sqrt(q), jnp.full(4, 0.5))
    return jnp.arccos(overlap)  # here


def log_of_cosine(x: Array) -> Array:
    return jnp.sum(x * jnp.log(jnp.cos(x)))  # here


def impossible_paths(x: Array) -> Array:
    return jax.nn.logsumexp(jnp.stack([x[0], x[0] + x[1]]))  # here


def masked_softmax(x: Array) -> Array:
    where = jnp.array([True, True, False])
    largest = lax.stop_gradient(jnp.max(x, where=where, initial=-jnp.inf))
    weights = jnp.where(where, jnp.exp(x - largest), 0.0)  # here
    return jnp.sum((weights / jnp.sum(weights)) ** 2)


def masked_entropy(x: Array) -> Array:
    where = x[1] > 0
    p = jax.nn.softmax(x[0], where=where)
    p = p * jnp.sum(p) ** -1
    return jnp.sum(p * -jnp.log2(p), where=where, initial=1.0)  # here


def exponential_unit(x: Array) -> Array:
    return jnp.sum(jnp.where(x > 0, x, jnp.expm1(x)))  # here


def unit_vector(x: Array) -> Array:
    length = jnp.sum(jnp.abs(x))
    return jnp.sum(jnp.where(length == 0.0, x, x / length) ** 2)  # here


def _array(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


CASES = (
    Case("jax-ml/jax#347", masked_norms, _array([1, 2], [0, 0]), _array([1, 2], [3, 4]), "sqrt"),
    Case("jax-ml/jax#1052", masked_angle, _array(3, 0, -5), _array(3, 1, -5), "atan2"),
    Case("jax-ml/jax#5798", root_or_line, _array(0, 2), _array(0.5, 2), "sqrt"),
    Case("jax-ml/jax#21723", squared_norm, _array(0, 0), _array(3, 4), "sqrt"),
    Case("jax-ml/jax#11716", spread, _array(1, 1, 1), _array(1, 2, 3), "sqrt"),
    Case("jax-ml/jax#15798", angle_between, _array(0.25, 0.25, 0.25, 0.25), _array(0.1, 0.2, 0.3, 0.2), "acos"),
    Case("jax-ml/jax#29152", log_of_cosine, _array(6, 7, 8), _array(6, 7, 6.5), "log", hidden=False),
    Case("jax-ml/jax#6811", impossible_paths, _array(-np.inf, 1), _array(0, 1), "log", hidden=False),
    Case("jax-ml/jax#17117", masked_softmax, _array(1, 1, 100), _array(1, 1, 2), "exp"),
    Case("jax-ml/jax#17070", masked_entropy, _array([1, 2, 3], [1, 1, 0]), _array([1, 2, 3], [1, 1, 1]), "log"),
    Case("jax-ml/jax#1538", exponential_unit, _array(-1, 100), _array(-1, 1), "expm1"),
    Case("google-deepmind/optax#946", unit_vector, _array(0, 0), _array(1, -2), "div"),
)


# ---- four ways to run them ----


def eager(case: Case) -> tuple[Callable[[Array], Array], np.ndarray]:
    """The function as it is."""
    return case.function, case.bad


def jitted(case: Case) -> tuple[Callable[[Array], Array], np.ndarray]:
    """Compiled."""
    return jax.jit(case.function), case.bad


def scanned(case: Case) -> tuple[Callable[[Array], Array], np.ndarray]:
    """In a loop, with one bad step."""
    def total(xs: Array) -> Array:
        return lax.scan(lambda sum_, x: (sum_ + case.function(x), None), 0.0, xs)[0]

    return total, case.examples


def mapped(case: Case) -> tuple[Callable[[Array], Array], np.ndarray]:
    """Over a batch, with one bad example."""
    def total(xs: Array) -> Array:
        return jnp.sum(jax.vmap(case.function)(xs))

    return total, case.examples


WAYS = {"eager": eager, "jit": jitted, "scan": scanned, "vmap": mapped}


if __name__ == "__main__":
    from experiments.nan_tools import main

    main()
