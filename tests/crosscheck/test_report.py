"""The report is a value: verdicts decide `ok`, the first failing row is blamed, JSON gives back the same report."""

from __future__ import annotations

import json
import math

import pytest

from funcgrad.crosscheck.report import Report, Row, Verdict
from funcgrad.errors import WrongGradientError

MATCH = Row(Verdict.MATCH, "sin", line="model.py:3 in `loss`")
WRONG = Row(Verdict.WRONG, "cube", place=("jit `loss`", "scan step 3"), line="model.py:7 in `cube`",
            cotangent="cotangent of operand 0[2, 0]", oracle="autodiff of the primal body", subject="both", ours=2.5,
            theirs=2.5, truth=3.0, error_ulp=1e6, error_rel=0.1667, allowed=1e-6, operands=("float32[2,1] = [1, 2]",),
            ct="float32[2,1] = [1, 1]", snippet="import jax\nprint(1)\n", reason="the rule drops a term")
NAN = Row(Verdict.NONFINITE, "sqrt", ours=math.nan, theirs=math.inf, truth=complex(1, -2))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_only_wrong_and_nonfinite_are_not_ok(verdict: Verdict) -> None:
    report = Report("f", (MATCH, Row(verdict, "mul")))
    assert report.ok == (verdict not in (Verdict.WRONG, Verdict.NONFINITE))
    assert (report.blamed is None) == report.ok


def test_the_first_failing_row_is_blamed() -> None:
    assert Report("f", (MATCH, WRONG, NAN)).blamed == WRONG


def test_counts_and_merging() -> None:
    report = Report("f", (MATCH, WRONG)).merge(Report("h", (MATCH, NAN)))
    assert report.name == "f"
    assert report.counts == {"match": 2, "wrong": 1, "nonfinite": 1}


def test_json_gives_back_the_same_report() -> None:
    report = Report("f", (MATCH, WRONG))
    assert Report.from_json(report.to_json()) == report
    text = Report("f", (NAN,)).to_json()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["rows"][0]["ours"] == "nan"
    (row,) = Report.from_json(text).rows
    assert math.isnan(abs(row.ours or 0)) and row.theirs == math.inf and row.truth == complex(1, -2)


def test_a_wrong_gradient_is_an_assertion_error_that_says_all() -> None:
    Report("f", (MATCH,)).raise_if_wrong()
    with pytest.raises(AssertionError) as caught:
        Report("loss", (MATCH, WRONG)).raise_if_wrong()
    assert isinstance(caught.value, WrongGradientError)
    for said in ("`loss`", "`cube`", "model.py:7", "scan step 3", "operand 0[2, 0]", "2.5", "3",
                 "autodiff of the primal", "jax and funcgrad", "the rule drops a term", "    print(1)"):
        assert said in str(caught.value)


def test_the_table_names_each_row_and_folds_equal_ones() -> None:
    text = str(Report("loss", (MATCH,) * 500 + (WRONG, NAN)))
    assert text.count("model.py:3") == 1
    assert "cube" in text and "sqrt" in text and "500 match" in text
    assert "\x1b" not in text


def test_many_failing_rows_do_not_flood_the_message() -> None:
    text = Report("loss", (WRONG,) * 100).in_words()
    assert "97 more" in text and text.count("wrong: ") == 3


def test_an_empty_report_is_ok() -> None:
    assert Report("f").ok and "nothing to judge" in Report("f").summary()
