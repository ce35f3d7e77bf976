"""The truth that errors are measured against: the same program in float64, or the function itself in 40 digits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from reference.finite_difference import directional_derivative
from tests.cases.case import Case
from tests.harness.products import FAST_COMPILE, JAX, OURS, Autodiff, Leaves, Problem, first_order, inexact, is_inexact

#: The autodiffs that are measured, ours first.
BOTH = (OURS, JAX)
#: Every operation rounds to its dtype, as it does op by op: no fused multiply-add, no wider intermediate results.
ROUNDING = {**FAST_COMPILE, "xla_allow_excess_precision": False}
#: How far two float64 results may differ, in rounding units of the dtype that is measured, and still be one truth.
SAME = 1e-3
#: How closely a finite difference must confirm a float64 result, relative to the terms of the inner product.
SHARP = 1e-6
#: Largest difference of a value in a dtype and in float64, in roundings; beyond, they are two functions.
VALUE_ROUNDINGS = 16.0
DIGITS = 40


class NoTruth(Exception):
    """Nothing says what the right cotangent is; the message says why."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """Cotangents, element by element in float64, and the size of one rounding of each.

    Attributes:
      cts: the right values.
      units: how far each value moves when it, and every input, moves by one unit in the last place.
    """

    cts: Leaves
    units: list[np.ndarray]


Program = Callable[[tuple[Any, ...]], dict[str, Leaves]]


def program(problem: Problem, autodiffs: Sequence[Autodiff] = BOTH) -> Any:
    """Value and cotangents of a case by each autodiff, jitted; called with ``(active, rest, ct)``."""

    def run(inputs: tuple[Any, ...]) -> dict[str, Leaves]:
        # The value without any autodiff: under `jax.vjp` some primitives compute another one.
        active, rest, _ct = inputs
        found = {"value": inexact(problem.fun(active, rest))}
        return found | {ad.name: inexact(first_order(ad, problem, *inputs)[1]) for ad in autodiffs}

    return jax.jit(run, compiler_options=ROUNDING)


def wide(tree: Any, types: Any) -> Any:
    """A tree in the dtypes of another one, which are no narrower; keys stay."""

    def widen(leaf: Any, like: Any) -> Any:
        return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.asarray(leaf).astype(like.dtype)

    return jax.tree.map(widen, tree, types)


def nudged(tree: Any, eps: float, rng: np.random.Generator) -> Any:
    """Every number moved by one unit in the last place of a dtype, up or down."""

    def move(leaf: Any) -> Any:
        if not is_inexact(leaf):
            return leaf
        values = np.asarray(leaf).astype(complex if np.iscomplexobj(leaf) else float)
        return jnp.asarray(values * (1 + eps * rng.choice([-1.0, 1.0], leaf.shape)), dtype=leaf.dtype)

    return jax.tree.map(move, tree)


def float64_truth(run: Program, inputs: tuple[Any, ...], value: Leaves, dtype: str, rng: np.random.Generator,
                  nudges: int = 6) -> Truth:
    """funcgrad in float64 at the same inputs, confirmed by `jax.vjp` in float64 or by finite differences.

    Args:
      run: the case's program in float64.
      inputs: (active, rest, ct) that were rounded to `dtype` and made float64 again.
      value: what the program computed in `dtype`; it tells whether it is the same function in float64.
      dtype: what is measured.
      rng: draws the nudges.
      nudges: how often the inputs are moved.

    Raises:
      NoTruth: neither confirms it, or the program is another function in float64, as of random numbers.
    """
    found = run(inputs)
    moved = [run(nudged(inputs, float(jnp.finfo(dtype).eps), rng)) for _ in range(nudges)]
    if not _same_values(value, found["value"], [results["value"] for results in moved], dtype):
        raise NoTruth("computes something else in float64")
    cts = [np.asarray(leaf) for leaf in found[OURS.name]]
    units = [unit(ct, [results[OURS.name][i] for results in moved], dtype) for i, ct in enumerate(cts)]
    others = [np.asarray(leaf) for leaf in found.get(JAX.name, [])]
    if not (others and all(map(_same, cts, others, units))):
        _confirm_numerically(run, inputs, cts, rng)
    return Truth(cts, units)


def unit(ct: np.ndarray, moved: Sequence[Any], dtype: str) -> np.ndarray:
    """One rounding of each element: its own last place, and what the last places of the inputs do to it."""
    info = jnp.finfo(dtype)
    with np.errstate(invalid="ignore"):
        spread = np.max([np.abs(np.asarray(other) - ct) for other in moved], axis=0) if moved else 0.0
    size = np.where(np.isfinite(ct), np.abs(ct), 0.0)
    # XLA flushes subnormal numbers to zero, or not, as it likes: below `tiny` everything is equal.
    return float(info.eps) * size + np.where(np.isfinite(spread), spread, 0.0) + float(info.tiny)


def _same_values(value: Leaves, wide_value: Leaves, moved: Sequence[Leaves], dtype: str) -> bool:
    """Whether a value agrees with that of float64 up to rounding of its leaf."""
    for i, (low, high) in enumerate(zip(value, wide_value, strict=True)):
        units = unit(np.asarray(high), [leaves[i] for leaves in moved], dtype)
        # A number rounded on the way is rounded relative to the largest of its array.
        allowed = VALUE_ROUNDINGS * np.max(units, initial=0.0, where=np.isfinite(np.asarray(high)))
        with np.errstate(invalid="ignore"):
            error = np.abs(np.asarray(low).astype(np.asarray(high).dtype) - np.asarray(high))
        if np.any(error[np.isfinite(error)] > allowed):
            return False
    return True


def _same(one: np.ndarray, other: np.ndarray, units: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        close = (one == other) | (np.abs(one - other) <= SAME * units) | (np.isnan(one) & np.isnan(other))
    return bool(np.all(close))


def _confirm_numerically(run: Program, inputs: tuple[Any, ...], cts: Leaves, rng: np.random.Generator) -> None:
    """<ct, J t> by finite differences of the value equals <cts, t>, or NoTruth."""
    active, rest, ct = inputs
    tangents = jax.tree.map(lambda leaf: np.asarray(rng.standard_normal(leaf.shape)).astype(leaf.dtype)
                            if is_inexact(leaf) else leaf, active)
    estimate = directional_derivative(lambda point: run((point, rest, ct))["value"], active, tangents)
    left = _pairing(ct, estimate.value)
    right = _pairing(cts, inexact(tangents))
    slack = sum(float(np.sum(np.abs(seed) * error)) for seed, error in zip(ct, estimate.error, strict=True))
    size = float(np.sum(np.abs(left)) + np.sum(np.abs(right)))
    if not (abs(left.sum() - right.sum()) <= SHARP * size + 4 * slack and slack <= SHARP * size):
        raise NoTruth("JAX has no other answer in float64, and finite differences do not confirm it")


def _pairing(left: Leaves, right: Leaves) -> np.ndarray:
    """The terms of a real inner product of two lists of arrays."""
    terms = [np.ravel(np.real(np.asarray(a) * np.asarray(b))) for a, b in zip(left, right, strict=True)]
    return np.concatenate([np.zeros(1), *terms])


# ---- the functions themselves, in 40 digits ----


def exact_functions() -> dict[str, Callable[..., Any]]:
    """Functions of real numbers by the name of their case."""
    mp = mpmath
    functions: dict[str, Callable[..., Any]] = {
        name: getattr(mp, name) for name in (
            "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
            "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "digamma", "atan2")}
    functions |= {
        "neg": lambda x: -x, "exp2": lambda x: mp.mpf(2) ** x, "rsqrt": lambda x: 1 / mp.sqrt(x),
        "cbrt": lambda x: mp.sign(x) * mp.cbrt(abs(x)), "square": lambda x: x * x,
        "logistic": lambda x: 1 / (1 + mp.exp(-x)), "erf_inv": mp.erfinv, "lgamma": mp.loggamma,
        "lgamma[negative]": lambda x: mp.log(abs(mp.gamma(x))),
        "bessel_i0e": lambda x: mp.exp(-abs(x)) * mp.besseli(0, x),
        "bessel_i1e": lambda x: mp.exp(-abs(x)) * mp.besseli(1, x),
        "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "div": lambda x, y: x / y,
        "pow": lambda x, y: x**y, "polygamma": lambda m, x: mp.psi(int(m), x), "zeta[shift]": mp.zeta,
        "igamma[x]": lambda a, x: mp.gammainc(a, 0, x, regularized=True),
        "igamma[a]": lambda a, x: mp.gammainc(a, 0, x, regularized=True),
        "igammac[x]": lambda a, x: mp.gammainc(a, x, mp.inf, regularized=True),
        "regularized_incomplete_beta[x]": lambda a, b, x: mp.betainc(a, b, 0, x, regularized=True),
    }
    functions |= {f"{name}[levels off]": functions[name] for name in ("expm1", "tanh", "logistic")}
    return functions | {f"integer_pow[{y}]": functools.partial(_power, y=y) for y in (-5, -2, -1, 1, 2, 3, 6)}


def _power(x: Any, y: int) -> Any:
    return x**y


def exact_truth(case: Case, problem: Problem, ct: Any) -> Truth:
    """The cotangents of a function of `exact_functions` at float64 arguments: 40 digits, rounded once."""
    function = exact_functions()[case.name]
    given = iter(problem.active)
    args = [np.asarray(next(given) if i in problem.argnums else arg) for i, arg in enumerate(problem.rest)]
    points = np.broadcast_arrays(*args, np.asarray(ct))
    eps, cts, units = float(np.finfo(float).eps), [], []
    with mpmath.workdps(DIGITS):
        for i in problem.argnums:
            rows = [_slope(function, [float(v) for v in point[:-1]], i, problem.argnums) for point in
                    zip(*map(np.ravel, points), strict=True)]
            slopes, bends = (np.array(column).reshape(points[0].shape) for column in zip(*rows, strict=True))
            cts.append(slopes * points[-1])
            units.append(eps * np.abs(points[-1]) * (np.abs(slopes) * 2 + bends) + float(np.finfo(float).tiny))
    return Truth(cts, units)


def _slope(function: Callable[..., Any], point: list[float], i: int, argnums: Sequence[int]) -> tuple[float, float]:
    """The partial derivative in argument `i`, and how far it moves with the last places of the arguments, in eps."""
    point = [mpmath.mpf(v) for v in point]

    def partial(*orders: int) -> Any:
        along = [j for j in range(len(point)) if orders[j]]
        line = lambda *moved: function(*[moved[along.index(j)] if j in along else v  # noqa: E731
                                         for j, v in enumerate(point)])
        return mpmath.diff(line, tuple(point[j] for j in along), tuple(orders[j] for j in along)) if len(
            along) > 1 else mpmath.diff(line, point[along[0]], orders[along[0]])

    order = [int(j == i) for j in range(len(point))]
    bends = [abs(point[j] * partial(*(n + (k == j) for k, n in enumerate(order)))) for j in argnums]
    return float(mpmath.re(partial(*order))), float(sum(bends))
