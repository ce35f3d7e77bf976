"""The seed corpus: every expected value is proven here by other means than autodiff, and the runner tells the truth."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
import pytest

from funcgrad.crosscheck.seeds import SEEDS, Born, Outcome, Outcomes, Seed, run_seed, run_seeds
from funcgrad.crosscheck.seeds.data import WEIGHTS
from funcgrad.crosscheck.seeds.model import close

BY_NAME = {seed.name: seed for seed in SEEDS}
SCALE, ALPHA = mp.mpf("1.0507009873554804934"), mp.mpf("1.6732632423543772848")


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def variance(_nan: Any, *x: Any) -> Any:
    mean = sum(x) / len(x)
    return sum((v - mean) ** 2 for v in x) / len(x)


def cholesky(a: Any, b: Any, _c: Any, d: Any) -> Any:
    return mp.sqrt(a) + b / mp.sqrt(a) + mp.sqrt(d - b * b / a)


def determinant(*x: Any) -> Any:
    a, b, c, d, e, f, g, h, i = x
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def gram_schmidt(a: Any, b: Any, c: Any, d: Any) -> Any:
    """|r11| + |r12| + |r22| of [[a, b], [c, d]]."""
    first = mp.sqrt(a * a + c * c)
    return first + abs(a * b + c * d) / first + abs(a * d - b * c) / first


def beta_logpdf(a: Any, b: Any) -> Any:
    x = mp.mpf("0.25")
    return (a - 1) * mp.log(x) + (b - 1) * mp.log(1 - x) - mp.log(mp.beta(a, b))


def norm(*x: Any) -> Any:
    return mp.sqrt(sum(v * v for v in x))


#: What the seed's function is, written for mpmath: of all numbers in its floating arguments, complex ones as two.
FORMULAS: dict[str, Callable[..., Any]] = {
    "expm1 far left": mp.expm1,
    "elu far left": mp.expm1,
    "selu far left": lambda x: SCALE * ALPHA * mp.expm1(x),
    "tanh tail, float64": mp.tanh,
    "tanh tail, float32": mp.tanh,
    "tanh overflow": lambda x, y: mp.tanh(x) + mp.tanh(y),
    "tanh saturated, order 2": lambda v: mp.tanh(-(10**8) * v) * (10**8 * v) ** 2,
    "sigmoid tail": sigmoid,
    "sigmoid by hand": lambda x, y: sigmoid(x) + sigmoid(y),
    "softplus at zero": lambda x: mp.log(1 + mp.exp(x)),
    "log_sigmoid at zero": lambda x: mp.log(sigmoid(x)),
    "i0 at zero": lambda x: mp.besseli(0, x),
    "i0 of an affine function": lambda t: mp.besseli(0, 2 * t - 1),
    "i0 close to zero": lambda x: mp.besseli(0, x),
    "sinc close to zero": lambda x: mp.sin(mp.pi * x) / (mp.pi * x),
    "digamma on the left": mp.digamma,
    "lgamma on the left, order 2": lambda x: mp.log(abs(mp.gamma(x))),
    "ldexp is flat": lambda x: 2 * x,
    "ldexp at zero": lambda x: 2 * x,
    "remainder of negative numbers": lambda y: -19 - y * mp.ceil(-19 / y),
    "power of an integer array": lambda z: 1 + z,
    "zeroth power under jit": lambda x: mp.mpf(1),
    "zeroth power, floating": lambda x: mp.mpf(1),
    "first power of complex infinity": lambda re, im: re,
    "abs of complex infinity": norm,
    "conjugate in real and imag": norm,
    "square and root of a tiny number": abs,
    "select by an index out of range": lambda x, y: y,
    "where beside a root": lambda x: mp.sqrt(x) if x > 0 else mp.mpf(0),
    "logsumexp, weights with a zero": lambda *b: mp.log(sum(b)),
    "logsumexp with a mask": lambda a, b: a,
    "softmax with a mask": lambda a, b, c: mp.exp(a) / (mp.exp(a) + mp.exp(b)),
    "log_softmax with a mask": lambda a, b, c: a + b - 2 * mp.log(mp.exp(a) + mp.exp(b)),
    "masked sum of exponentials": lambda a, b: mp.exp(a),
    "softmax of two far apart": lambda a, b: mp.exp(a) / (mp.exp(a) + mp.exp(b)),
    "nanvar": variance,
    "nanstd": lambda *x: mp.sqrt(variance(*x)),
    "norm squared at zero": lambda x, y: x * x + y * y,
    "norm in float16": norm,
    "beta.logpdf of the uniform law": beta_logpdf,
    "chi2.logpdf at zero": lambda x: -x / 2 - mp.log(2),
    "gamma.pdf at zero": lambda x: mp.exp(-x),
    "beta.pdf of the uniform law at its ends": lambda x, y: mp.mpf(2),
    "betaln, order 2": lambda t: mp.log(mp.beta(mp.exp(t), 1)) - mp.log(mp.beta(mp.exp(t) + 1, 1)),
    "cholesky of the upper triangle": cholesky,
    "determinant of the zero matrix": determinant,
    "determinant of rank n - 1": determinant,
    "R of a QR decomposition": gram_schmidt,
    "eigenvalues of a complex matrix": lambda a, _b, _c, _d, _e, _f, g, _h: a + g,
    "a matrix taken apart with equal singular values": norm,
    "segment_sum beyond the segments": lambda x, y: mp.mpf(0),
    "a clipped index under vmap": lambda p: 2 * p,
    "products at equal indices": lambda a, b, c, d: a * c * d + b,
    "maximum at a clipped index": lambda a, b, c: a + max(b, c),
    "cond inside scan": lambda x: x**4,
    "custom_vjp under scan and vmap": lambda *x: 3 * sum(x),
    "custom_jvp, rematerialized, order 2": mp.sin,
    "custom_jvp, scanned, order 2": mp.sin,
    "a scalar in a mapped logaddexp": lambda z: 3 * mp.log(mp.exp(z) + mp.exp(2 + z)),
}


def polar(a: np.ndarray) -> float:
    u, _, vh = np.linalg.svd(a)
    return float(np.sum(WEIGHTS * (u @ vh)))


def projector(a: np.ndarray) -> float:
    v = np.linalg.eigh((a + a.T) / 2)[1][:, -1]
    return float(np.sum(WEIGHTS * np.outer(v, v)))


def convolutions(x: np.ndarray) -> float:
    y = np.pad(x, 2)
    y = 0.5 * (y[:-4] + y[2:-2] + y[4:])
    return float(np.sum(np.sin(y[0::2] + y[1::2])))


#: The same for NumPy in float64, where a formula would be long: differentiated by differences.
PROGRAMS: dict[str, Callable[[np.ndarray], float]] = {
    "polar factor with equal singular values": polar,
    "projector beside equal eigenvalues": projector,
    "convolutions, order 2": convolutions,
}


def numbers_of(seed: Seed) -> list[mp.mpf]:
    """All numbers in the floating arguments; infinity is a large number, NaN is never read."""
    flat = [np.asarray(seed.args[i]).astype(np.complex128) for i in seed.argnums]
    found = []
    for array, i in zip(flat, seed.argnums, strict=True):
        for z in array.ravel():
            found += [z.real, z.imag] if np.asarray(seed.args[i]).dtype.kind == "c" else [z.real]
    return [mp.mpf("1e30") if np.isinf(x) else mp.mpf(0) if np.isnan(x) else mp.mpf(float(x)) for x in found]


def gradient_by_formula(seed: Seed) -> list[np.ndarray]:
    """The expected gradient from the formula, with 60 digits."""
    fun, point = FORMULAS[seed.name], numbers_of(seed)
    with mp.workdps(60):
        slopes = [mp.diff(lambda t, i=i: fun(*point[:i], t, *point[i + 1:]), x, seed.order,
                          relative=bool(x)) for i, x in enumerate(point)]
    rest = iter([float(mp.re(slope)) for slope in slopes])
    result = []
    for i in seed.argnums:
        array = np.asarray(seed.args[i])
        step = 2 if array.dtype.kind == "c" else 1
        taken = np.array(list(itertools.islice(rest, array.size * step)))
        result.append((taken[::2] - 1j * taken[1::2] if step == 2 else taken).reshape(array.shape))
    return result


def gradient_by_differences(fun: Callable[[np.ndarray], float], x: np.ndarray, order: int) -> np.ndarray:
    """Central differences; at order 2 those of the sum of the gradient."""
    step = 1e-5 if order == 1 else 1e-3

    def inner(point: np.ndarray) -> float:
        return fun(point) if order == 1 else float(np.sum(gradient_by_differences(fun, point, 1)))

    moves = np.eye(x.size).reshape(x.size, *x.shape) * step
    return np.array([(inner(x + move) - inner(x - move)) / (2 * step) for move in moves]).reshape(x.shape)


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(SEEDS) >= 40 and len(BY_NAME) == len(SEEDS)
    assert all(seed.issues for seed in SEEDS)
    assert {seed.born for seed in SEEDS} == set(Born)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_expected_value_is_proven(name: str) -> None:
    seed = BY_NAME[name]
    if name in PROGRAMS:
        x = np.asarray(seed.args[0], np.float64)
        found = [gradient_by_differences(PROGRAMS[name], x, seed.order)]
        np.testing.assert_allclose(found[0], np.asarray(seed.expected[0]), rtol=1e-4, atol=1e-6)
    else:
        for value, wanted in zip(gradient_by_formula(seed), seed.expected, strict=True):
            # below the smallest normal number of the seed's dtype everything is zero
            np.testing.assert_allclose(value, np.asarray(wanted), rtol=2e-6, atol=1e-40)


def test_nan_agrees_with_nothing() -> None:
    assert close([np.array([1.0, 0.0])], [[1.0, 0.0]], 1e-6)
    assert not close([np.array([np.nan])], [[np.nan]], 1e-6)
    assert not close([np.array([1.01])], [[1.0]], 1e-3)
    assert not close([np.array([1e-3])], [[0.0]], 1e-3)
    assert not close([np.array([1.0, 1.0])], [1.0], 1e-3)


def test_a_wrong_seed_and_a_right_one() -> None:
    wrong, right = run_seed(BY_NAME["cholesky of the upper triangle"]), run_seed(BY_NAME["softplus at zero"])
    assert (wrong.jax, wrong.funcgrad, wrong.verdict) == ("wrong", "right", "wrong")
    assert (right.jax, right.funcgrad, right.verdict) == ("right", "right", "")
    outcomes = Outcomes((wrong, right))
    assert outcomes.ok and len(outcomes.live) == 1 and not outcomes.ours
    assert "jax#40421" in str(outcomes) and "2 seeds" in outcomes.summary()


def test_a_rule_of_ours_that_is_wrong_or_a_missed_seed_is_not_ok() -> None:
    seed = BY_NAME["expm1 far left"]
    assert not Outcomes((Outcome(seed, "wrong", "wrong", 0, 0, "wrong"),)).ok
    assert not Outcomes((Outcome(seed, "wrong", "right", 0, 0, "ok"),)).ok


def test_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match="no seed is called 'nonsense'"):
        run_seeds(["nonsense"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, seed in BY_NAME.items() if seed.born is Born.RULE])
def test_no_seed_born_in_a_rule_is_ours(name: str) -> None:
    assert run_seed(BY_NAME[name], with_check=False).funcgrad == "right"


def rows_of_the_page() -> dict[str, list[str]]:
    """By seed: what JAX has, what funcgrad has, what `check` says."""
    page = (Path(__file__).resolve().parent.parent.parent / "docs" / "seeds.md").read_text(encoding="utf-8")
    lines = [line.removesuffix(" |").split(" | ") for line in page.splitlines() if "jax#" in line]
    return {line[0].removeprefix("| "): [cell.strip() for cell in line[-3:]] for line in lines}


def test_on_the_page_check_sees_every_live_seed() -> None:
    rows = rows_of_the_page()
    assert set(rows) == set(BY_NAME)
    assert {verdict for jax, _, verdict in rows.values() if jax == "wrong"} == {"wrong", "nonfinite"}
    assert all(verdict == "" for jax, ours, verdict in rows.values() if "wrong" not in (jax, ours))


@pytest.mark.slow
def test_the_page_is_fresh() -> None:
    rows = rows_of_the_page()
    for row in run_seeds(with_check=False).rows:
        assert rows[row.seed.name][:2] == [row.jax, row.funcgrad], row.seed.name


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_check_says_what_is_on_the_page(name: str) -> None:
    assert run_seed(BY_NAME[name]).verdict == rows_of_the_page()[name][2]
