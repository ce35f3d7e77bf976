"""Every rule, by every case of the table: against JAX, the adjoint identity and finite differences.

`make test` runs every primitive eagerly, and compiled at orders 1 and 2 in the dtype that shows most, with the boundary
values of its first case; `make test-all` runs the whole matrix of case, dtype and transformation.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from funcgrad.registry import rules
from funcgrad.rule import MapClass
from tests.cases.case import Boundary, Case
from tests.harness.checks import check_boundary, check_compiled_sweep, check_eager, check_jitted
from tests.harness.table import CASES, COVER, WITHOUT_COTANGENT, best_dtype, dtypes_of, has_complex
from tests.harness.transformed import (
    SETTINGS,
    check_third_order,
    check_transformed,
    check_under_checks,
    check_under_settings,
)

HALF = ("bfloat16", "float16")

#: A representative of each family.
FAMILIES = ("mul", "tanh", "dot_general[batch]", "conv_general_dilated[plain]", "cumprod[rows]", "fft[RFFT, 7]",
            "gather[rows,clip]", "scatter-add[rows]", "cholesky", "sort[key and payload]", "reduce_max[rows]",
            "reduce_window_max[plain]", "pad[interior]", "igamma[x]")


def rows(chosen: Iterable[tuple[Case, str]], always: Iterable[tuple[Case, str]]) -> list:
    """Parameters (case, dtype); those not in `always` are slow."""
    fast = {(case.name, dtype) for case, dtype in always}
    return [pytest.param(case, dtype, id=f"{case.name}-{dtype}",
                         marks=() if (case.name, dtype) in fast else pytest.mark.slow)
            for case, dtype in chosen]


MATRIX = [(case, dtype) for case in CASES for dtype in dtypes_of(case)]
FULL_PRECISION = [(case, dtype) for case, dtype in MATRIX if dtype not in HALF]
BEST = [(case, best_dtype(case)) for case in CASES]
#: One case of each family goes through every transformation in `make test`; the slow tests take all.
FEW = [(case, best_dtype(case)) for case in CASES if case.name in FAMILIES]
#: XLA took the rows of complex matrices for their columns where its fusion was switched off.
SWEPT = [(case, dtype) for case, dtype in BEST if case.name in (
    "conv_general_dilated[complex]", "ragged_dot_general[complex]", "dot_general[batch]", "tanh", "cholesky")]
COVERED = [(case, dtype) for case, dtype in MATRIX if case.name in COVER]


@pytest.mark.parametrize(("case", "dtype"), rows(
    MATRIX, [(case, dtype) for case, dtype in COVERED
             if dtype == dtypes_of(case)[0] or dtype == "bfloat16" and case.name in FAMILIES]))
def test_eager(case: Case, dtype: str) -> None:
    check_eager(case, dtype)


@pytest.mark.parametrize(("case", "dtype"), rows(
    FULL_PRECISION, [(case, dtype) for case, dtype in BEST if case.name in COVER]))
def test_jitted_orders_one_and_two(case: Case, dtype: str) -> None:
    check_jitted(case, dtype)


@pytest.mark.parametrize(("case", "dtype"), rows(BEST, SWEPT))
def test_sweep_compiled_outside_of_jit(case: Case, dtype: str) -> None:
    check_compiled_sweep(case, dtype)


@pytest.mark.parametrize(("case", "dtype"), rows(BEST, FEW))
def test_transformed(case: Case, dtype: str) -> None:
    check_transformed(case, dtype)


@pytest.mark.parametrize(("case", "dtype"), rows(
    [(case, dtype) for case, dtype in BEST if case.name in COVER and case.jax_agrees and case.orders >= 2], FEW))
def test_third_order(case: Case, dtype: str) -> None:
    check_third_order(case, dtype)


@pytest.mark.parametrize(("case", "dtype"), rows([row for row in BEST if row[0].name in COVER], FEW))
def test_under_jax_checks(case: Case, dtype: str) -> None:
    check_under_checks(case, dtype)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("case", "dtype"), rows([row for row in BEST if row[0].name in COVER], FEW[::3]))
def test_under_settings_of_jax(case: Case, dtype: str, setting: str) -> None:
    check_under_settings(case, dtype, setting)


def boundary_rows(jitted: bool) -> list:
    """Parameters (case, boundary, dtype). Not slow: a primitive's first case, compiled, in its first dtype."""
    found = []
    for case in CASES:
        for boundary in case.boundary:
            for dtype in dtypes_of(case):
                slow = not jitted or dtype != dtypes_of(case)[0] or case.name not in COVER
                found.append(pytest.param(case, boundary, dtype, id=f"{case.name}-{boundary.label}-{dtype}",
                                          marks=pytest.mark.slow if slow else ()))
    return found


@pytest.mark.parametrize(("case", "boundary", "dtype"), boundary_rows(jitted=False))
def test_boundary(case: Case, boundary: Boundary, dtype: str) -> None:
    check_boundary(case, boundary, dtype)


@pytest.mark.parametrize(("case", "boundary", "dtype"), boundary_rows(jitted=True))
def test_boundary_jitted(case: Case, boundary: Boundary, dtype: str) -> None:
    check_boundary(case, boundary, dtype, jitted=True)


def test_the_table_is_not_empty() -> None:
    assert CASES and len(FEW) == len(FAMILIES)
    assert {name for case in CASES for name in case.primitives} == {
        name for case in CASES if case.name in COVER for name in case.primitives}


#: Rules that need several devices (tests/sharding), mutable arrays, or a program that somebody else staged.
OUTSIDE_THE_TABLE = {
    "accum_grad_in_ref", "addupdate", "empty_ref", "free_ref", "freeze", "get", "new_ref", "swap",
    "all_gather", "all_gather_invariant", "all_gather_reduced", "all_to_all", "layout_constraint", "pbroadcast", "pmax",
    "pmin", "ppermute", "preduced", "psum", "psum_invariant", "pvary", "ragged_all_to_all", "reduce_scatter",
    "reduced_vary_cast_p", "reshard", "shard_alike", "sharding_constraint", "stage", "unreduced_psum",
    "unreduced_reduce_scatter", "vary_unreduced_cast_p",
}  # fmt: skip


def test_every_rule_of_first_order_has_a_case() -> None:
    ruled = {primitive.name for primitive, rule in rules().items()
             if rule.kind not in (*WITHOUT_COTANGENT, MapClass.HIGHER_ORDER)}
    in_the_table = {name for case in CASES for name in case.primitives}
    assert not ruled - in_the_table - OUTSIDE_THE_TABLE
    assert not in_the_table & OUTSIDE_THE_TABLE


def test_exceptions_of_the_table_say_why() -> None:
    for case in CASES:
        plain = case.jax_agrees and case.numeric and case.scale == 1.0
        assert plain or case.note, f"{case.name}: an exception without a note"
        assert case.jax_agrees or case.numeric or case.boundary or has_complex(case), f"{case.name}: no oracle"
