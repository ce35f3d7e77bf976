"""The measurement of accuracy and of conventions, on results that are known; and the pages as they are committed."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments import accuracy, conventions
from experiments.accuracy import Row, largest_error, measure
from experiments.truth import NoTruth, Truth, exact_truth, float64_truth, unit
from tests.cases.case import Boundary, Case, normal, uniform
from tests.harness.products import make_problem
from tests.harness.table import CASES, cast, draw, generator, precision

BY_NAME = {case.name: case for case in CASES}
EPS = float(np.finfo(np.float32).eps)


def truth(*values: float) -> Truth:
    """Right values, with one float32 rounding of their own as unit."""
    right = np.array(values)
    return Truth([right], [unit(right, [], "float32")])


@pytest.mark.parametrize("given, right, error", [
    (1.0, 1.0, 0.0), (1 + EPS, 1.0, 1.0), (-1.0, 1.0, 2 / EPS), (np.nan, 1.0, np.inf), (np.inf, 1.0, np.inf),
    (np.inf, 1e300, 0.0), (5.0, np.nan, 0.0), (np.inf, np.inf, 0.0), (0.0, 1e-300, 0.0),
])  # fmt: skip
def test_errors_are_counted_in_roundings(given: float, right: float, error: float) -> None:
    given_leaf = jnp.asarray([1.0, given], dtype=jnp.float32)
    found = largest_error([given_leaf], truth(1.0, right))
    assert found == pytest.approx(error, rel=1e-5)


def test_half_a_rounding_is_no_difference() -> None:
    assert Row("sin", "float32", 1.0, 0.6).verdict == "equal"
    assert Row("sin", "float32", 1.2, 0.6).verdict == "larger"
    assert Row("sin", "float32", 0.6, np.inf).verdict == "smaller"
    assert Row("sin", "float32", np.inf, np.inf).verdict == "equal"
    assert not Row("sin", "float32", 0.3, None).compared


def test_cancellation_in_the_other_rule_is_seen() -> None:
    rows = {row.dtype: row for row in measure(BY_NAME["expm1[levels off]"])}
    assert {"float32", "float64"} <= rows.keys()
    for row in rows.values():
        assert row.ours < 4 and row.verdict == "smaller"


def test_forty_digits_give_the_derivative() -> None:
    case = BY_NAME["sin"]
    with precision("float64"):
        problem = make_problem(case, cast(draw(case), "float64"), generator(case))
        found = exact_truth(case, problem, np.full((2, 5), 3.0))
        np.testing.assert_allclose(found.cts[0], 3 * np.cos(np.asarray(problem.active[0])), rtol=1e-15)


def test_another_function_in_float64_is_no_truth() -> None:
    noise = Case("noise", (), lambda x: x * (1 if x.dtype == np.float32 else 2), normal((3,)), dtypes=("float32",))
    (row,) = measure(noise)
    assert row.untrue and not row.compared


def test_finite_differences_must_confirm_what_jax_does_not() -> None:
    case = Case("stopped", (), lambda x: lax.stop_gradient(lax.exp(x)), uniform(0.5, 1.0, (3,)))
    with precision("float64"):
        problem = make_problem(case, cast(draw(case), "float64"), generator(case))
        run = accuracy.compiled(problem)
        inputs = problem.active, problem.rest, problem.seeds["ct"]
        ours_alone = lambda at: {name: leaves for name, leaves in run(at).items() if name != "jax"}  # noqa: E731
        with pytest.raises(NoTruth):
            float64_truth(ours_alone, inputs, run(inputs)["value"], "float32", np.random.default_rng(0))


def test_the_page_of_accuracy_keeps_its_promise() -> None:
    page = accuracy.PAGE.read_text()
    summary = re.search(r"^\| all \| (\d+) \|.*?\| ([\d.]+)% \|", page, re.MULTILINE)
    assert summary, "run `python -m experiments.accuracy`"
    assert int(summary[1]) > 1000
    assert float(summary[2]) >= 100 * accuracy.WANTED
    assert "unexplained" not in page


def test_a_row_of_the_page_of_conventions() -> None:
    row = conventions.program_row("Kinks", "jnp.abs(x)", (np.array([0.0, -1.0]),))
    assert (row.at, row.theirs, row.ours) == ("[0, -1]", "[1, -1]", "")
    row = conventions.program_row("Powers", "x ** 0.0", (np.zeros(1),))
    assert (row.theirs, row.ours) == ("[nan]", "[0]")
    assert row.proof


@pytest.mark.parametrize("values, shown", [
    (np.array([1.0, np.nan]), "[1, nan]"), (np.array([1 / 3]), "[0.3333]"), (np.array([1 - 2j]), "[1-2i]"),
    (np.arange(99.0), "float64[99]"), (np.int32(3), "3"),
])  # fmt: skip
def test_numbers_are_short(values: Any, shown: str) -> None:
    assert conventions.text(values) == shown


def test_a_difference_without_proof_is_found() -> None:
    case = Case("zeta", ("zeta",), BY_NAME["zeta[shift]"].fun, uniform(1.5, 2, (2,), (2,)), argnums=(1,))
    row = conventions.boundary_row(case, Boundary("anywhere", (np.full(2, 2.0), np.ones(2))))
    assert row.theirs == "refuses"
    assert conventions.unproved([row]) == [row]


def test_the_page_of_conventions_has_every_boundary() -> None:
    page = conventions.PAGE.read_text()
    missing = {boundary.label for case in CASES for boundary in case.boundary if boundary.label not in page}
    assert not missing, "run `python -m experiments.conventions`"
    absent = [source for _subject, source, *_points in conventions.PROGRAMS if f"`{source}`" not in page]
    assert not absent, "run `python -m experiments.conventions`"
