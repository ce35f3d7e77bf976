"""A number stays a number: plain Python gives the same value traced and untraced, and the right derivative.

Two oracles: finite differences of the untraced function, and `jax.grad`. What would lose the gradient silently is an
error that names the line and the replacement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from reference.finite_difference import directional_derivative
from tests.harness.plain import SAMPLES, TEXTS, Sample

ROWS = [pytest.param(sample, point, id=f"{sample.name}-{','.join(map(str, point))}")
        for sample in SAMPLES for point in sample.points]


@pytest.fixture(autouse=True)
def double_precision():
    """Python's floats have 64 bits; so have the traced ones here."""
    with jax.enable_x64(True):
        yield


FIRST_ROWS = [row for row in ROWS if row.values[1] == row.values[0].points[0]]
#: `jax.grad` cannot format its tracers.
REFUSED_BY_JAX = {"formatting", "text_of_the_value_decides", "plain_text"}
ROWS_OF_JAX = [row for row in ROWS if row.values[0].name not in REFUSED_BY_JAX]


def all_arguments(point: tuple[float, ...]) -> tuple[int, ...]:
    """argnums of every argument."""
    return tuple(range(len(point)))


def test_the_corpus_is_large() -> None:
    assert len(SAMPLES) >= 60
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize(("sample", "point"), ROWS)
def test_value_and_derivative(sample: Sample, point: tuple[float, ...]) -> None:
    plain = sample.fun(*point)
    value, cts = funcgrad.value_and_grad(sample.fun, argnums=all_arguments(point))(*point)
    assert math.isclose(value, plain, rel_tol=1e-13, abs_tol=1e-13)
    for i, ct in enumerate(cts):
        direction = tuple(1.0 if j == i else 0.0 for j in all_arguments(point))
        slope, error = directional_derivative(lambda x: sample.fun(*x), point, direction)
        assert error < 1e-5 * max(1.0, abs(slope))
        assert abs(ct - slope) <= 4 * error + 1e-11 * max(1.0, abs(slope))


# Every second sample: all of them take half a minute.
@pytest.mark.parametrize(("sample", "point"), [
    pytest.param(*row.values, id=row.id, marks=(*row.marks, pytest.mark.slow) if count % 2 else row.marks)
    for count, row in enumerate(FIRST_ROWS)])
def test_second_derivative(sample: Sample, point: tuple[float, ...]) -> None:
    first = funcgrad.grad(sample.fun)
    slope, error = directional_derivative(lambda x: float(first(x, *point[1:])), point[0], 1.0)
    assert error < 1e-4 * max(1.0, abs(slope))
    second = funcgrad.grad(first)(*point)
    assert abs(second - slope) <= 4 * error + 1e-10 * max(1.0, abs(slope))


@pytest.mark.parametrize(("sample", "point"), ROWS_OF_JAX)
def test_same_derivative_as_jax(sample: Sample, point: tuple[float, ...]) -> None:
    wanted = jax.grad(sample.fun, argnums=all_arguments(point))(*point)
    given = funcgrad.grad(sample.fun, argnums=all_arguments(point))(*point)
    np.testing.assert_allclose(given, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_text_of_a_traced_number(number: int) -> None:
    texts = []

    def talks(x, y):
        texts.append(TEXTS[number](x, y))
        return x * y

    talks(1.2345, 2.0)
    funcgrad.grad(talks)(1.2345, 2.0)
    plain, traced = texts
    # An array prints no more digits than it has, a Python float all of 17: compare numbers as numbers.
    assert traced == plain or float(traced) == pytest.approx(float(plain), rel=1e-7)


# ---- what would cut the gradient silently ----


def cut_by_math_sin(x):
    return math.sin(x) * x


def cut_by_math_exp(x):
    return x * math.exp(2 * x)


def cut_by_float(x):
    return float(x) * x


def cut_by_complex(x):
    return complex(x).real * x


def cut_by_asarray(x):
    return jnp.sum(np.asarray(x) * x)


def cut_by_numpy_array(x):
    return jnp.sum(np.array([x, 2 * x]))


def cut_by_numpy_sin(x):
    return np.sin(x) * x


def cut_by_numpy_sum(x):
    return jnp.sum(x * np.sum([x, x]))


def cut_by_item(x):
    return x.item() * x


def cut_by_tolist(x):
    return x.tolist() * x


def cut_by_numpy_assignment(x):
    table = np.zeros(3)
    table[1] = x
    return jnp.sum(table) * x


CUTS = [cut_by_math_sin, cut_by_math_exp, cut_by_float, cut_by_complex, cut_by_asarray, cut_by_numpy_array,
        cut_by_numpy_sin, cut_by_numpy_sum, cut_by_item, cut_by_tolist, cut_by_numpy_assignment]


def raised_by(run: Callable[[], Any]) -> Exception | None:
    """The exception that a call raises."""
    try:
        run()
    except Exception as error:  # noqa: BLE001 (its type is what the caller looks at)
        return error
    return None


@pytest.mark.parametrize("fun", CUTS)
@pytest.mark.parametrize("x", [1.5, np.float64(1.5), np.array(1.5)], ids=["float", "numpy scalar", "array"])
def test_a_silent_loss_of_the_gradient_is_an_error(fun: Callable[[Any], Any], x: Any) -> None:
    wanted = raised_by(lambda: jax.jit(jax.grad(fun))(x))
    given = raised_by(lambda: funcgrad.grad(fun)(x))
    assert wanted is not None
    assert isinstance(given, type(wanted))
    if not isinstance(wanted, jax.errors.JAXTypeError):  # NumPy's own error, which then has JAX's as its cause
        wanted, given = wanted.__cause__, given.__cause__
    assert isinstance(wanted, jax.errors.JAXTypeError) and isinstance(given, type(wanted))
    names_the_line_and_the_replacement(str(given), fun)


def names_the_line_and_the_replacement(message: str, fun: Callable[..., Any]) -> None:
    """The message has the file and a line of the function, its name, and what to write instead."""
    place = re.search(r"test_number\.py:(\d+)", message)
    assert place, f"no line in: {message}"
    first = fun.__code__.co_firstlineno
    assert first < int(place[1]) <= first + 4
    assert fun.__name__ in message
    assert re.search(r"To fix:.*(jnp|jax\.numpy|array|list\(x\))", message, re.DOTALL), message


def test_under_jit_the_value_is_not_there_and_jax_says_so() -> None:
    def branches(x):
        return x * x if x > 0 else x

    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(funcgrad.grad(branches))(1.5)


def test_a_traced_number_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def talks(x):
        print(f"{x:.3f}", x > 1, str(x * 2))
        return x * x

    funcgrad.grad(talks)(1.5)
    assert capsys.readouterr().out == "1.500 True 3.0\n"


def test_integers_stay_integers() -> None:
    def picks(x, i):
        return [x, x * x, x**3][i] * [1.0, 2.0, 3.0][int(i)] + list("abc").index("bca"[i])

    assert funcgrad.grad(picks)(1.5, 1) == pytest.approx(2 * 2 * 1.5)
    assert funcgrad.grad(lambda x, n: sum(x for _k in range(n)))(1.5, 3) == 3.0
