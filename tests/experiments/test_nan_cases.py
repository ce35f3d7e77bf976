"""The twelve NaN gradients of public issues: funcgrad names the operation and the line, however they are run."""

import ast
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

import funcgrad
from experiments import nan_tools
from experiments.nan_cases import BAD, CASES, WAYS, Case
from experiments.nan_tools import NOTHING, Said, debug, find, gradient

BY_CASE = [pytest.param(case, id=case.function.__name__) for case in CASES]


@pytest.mark.parametrize("case", BY_CASE)
@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow) if way in ("jit", "vmap") else way
                                 for way in WAYS])
def test_funcgrad_names_operation_line_and_place(case: Case, way: str) -> None:
    said = find(case, way)
    assert said == Said(operation=True, line=True, place=True if way in ("scan", "vmap") else None)


@pytest.mark.slow
@pytest.mark.parametrize("case", BY_CASE)
@pytest.mark.parametrize("way", WAYS)
def test_so_does_the_context_around_the_gradient(case: Case, way: str) -> None:
    said = debug(case, way)
    assert said == Said(operation=True, line=True, place=True if way in ("scan", "vmap") else None)


@pytest.mark.slow
@pytest.mark.parametrize("case", BY_CASE)
def test_each_case_is_bad_at_one_point_only(case: Case) -> None:
    gradient_of = jax.grad(case.function)
    assert not np.isfinite(gradient_of(case.bad)).all()
    assert np.isfinite(gradient_of(case.good)).all()
    assert bool(np.isfinite(case.function(case.bad))) == case.hidden


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.hidden], ids=lambda case: case.function.__name__)
def test_a_good_example_is_not_blamed(case: Case) -> None:
    assert funcgrad.find_nonfinite(case.function, case.good).ok
    report = funcgrad.find_nonfinite(case.function, case.bad)
    assert not report.in_value and report.in_gradient


@pytest.mark.parametrize("name", ["root_or_line", "masked_softmax", "exponential_unit", "unit_vector"])
def test_the_mend_mends(name: str) -> None:
    """The lines that a report proposes, put in place of the user's, give a finite gradient."""
    case = next(case for case in CASES if case.function.__name__ == name)
    report = funcgrad.find_nonfinite(case.function, case.bad)
    _, safe, new, now = report.mends[0].splitlines()
    source = Path(nan_tools.case_file()).read_text(encoding="utf-8").splitlines()
    line = source[case.line - 1]
    assert now.removeprefix("now:  ") == line.strip()
    old = next(ast.unparse(node) for node in ast.walk(ast.parse(line.strip()))
               if isinstance(node, ast.Call) and ast.unparse(node.func) == "jnp.where")
    indent = line[: len(line) - len(line.lstrip())]
    mended = f"{indent}{safe}\n{indent}{ast.unparse(ast.parse(line.strip())).replace(old, new)}"
    functions = ast.parse("\n".join(source[: case.line - 1] + mended.splitlines() + source[case.line :]))
    tree = next(node for node in functions.body if isinstance(node, ast.FunctionDef) and node.name == name)
    scope = dict(vars(importlib.import_module("experiments.nan_cases")))
    exec(compile(ast.Module([tree], []), "mended", "exec"), scope)
    assert np.isfinite(funcgrad.grad(scope[name])(case.bad)).all()
    assert np.array_equal(scope[name](case.bad), case.function(case.bad))


def test_strong_zeros_mend_what_is_hidden_by_a_where() -> None:
    for name in ("masked_norms", "root_or_line", "exponential_unit"):
        case = next(case for case in CASES if case.function.__name__ == name)
        report = funcgrad.find_nonfinite(case.function, case.bad)
        assert any("strong_zeros" in mend for mend in report.mends)
        assert np.isfinite(funcgrad.grad(case.function, strong_zeros=True)(case.bad)).all()


def test_the_page_holds_what_funcgrad_names() -> None:
    """The figures of funcgrad's own rows; those of the other tools are run by the slow test."""
    page = nan_tools.PAGE.read_text(encoding="utf-8")
    row = "| 12, 12 | 12, 12 | 12, 12, 12 | 12, 12, 12 |"
    assert f"| `find_nonfinite` {row}" in page and f"| `debug_nonfinite` {row}" in page
    for case in CASES:
        assert case.url in page and f"`{case.operation}` in `{case.function.__name__}`" in page


@pytest.mark.slow
def test_the_tables_are_those_of_the_present_code() -> None:
    page = nan_tools.PAGE.read_text(encoding="utf-8")
    assert nan_tools.tables(nan_tools.run_all()) in page


def test_a_tool_that_says_nothing_counts_for_nothing() -> None:
    case = CASES[0]
    function, argument = gradient(case, "eager", grad=lambda f: lambda x: x)
    assert np.array_equal(function(argument), case.bad)
    assert str(NOTHING) == "–" and str(Said(True, True, False)) == "ol" and BAD < len(case.examples)
