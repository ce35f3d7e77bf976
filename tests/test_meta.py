"""The tests of the rules are tested: a rule wrong on purpose must be caught, in every case that has it."""

from __future__ import annotations

import zlib

import pytest

from funcgrad.rule import MapClass, rules
from tests.cases.case import Case
from tests.harness.checks import check_boundary, check_eager, check_jitted
from tests.harness.mutants import KINDS, mutated
from tests.harness.table import CASES, best_dtype, ruled_primitives

#: What the kernel or the comparison raises for a wrong rule.
CAUGHT = (AssertionError, TypeError, ValueError)
ALIKE = {"swapped"}  # a mutant only where two operands have unlike cotangents of one shape: see `mutants_of`


def mutants_of(name: str) -> list[str]:
    """The kinds of mutant that make sense for a primitive: operands can be swapped where there are two."""
    rule = next(rule for primitive, rule in rules().items() if primitive.name == name)
    two = rule.kind in (MapClass.POINTWISE, MapClass.CLOSED_FORM) and len(rule.functions) >= 2
    return [kind for kind in KINDS if kind not in ALIKE or (two and None not in rule.functions[:2])]


def mutant_rows() -> list:
    """(case, primitive, kind). The first case of a primitive: every kind, one of them always; other cases: one kind."""
    found, seen = [], set()
    for case in CASES:
        for name in ruled_primitives(case):
            kinds = mutants_of(name)
            always = kinds[zlib.crc32(name.encode()) % len(kinds)]
            chosen = [kinds[zlib.crc32(f"{case.name} {name}".encode()) % len(kinds)]] if name in seen else kinds
            for kind in chosen:
                fast = kind == always and name not in seen
                found.append(pytest.param(case, name, kind, id=f"{case.name}-{name}-{kind}",
                                          marks=() if fast else pytest.mark.slow))
            seen.add(name)
    return found


@pytest.mark.parametrize(("case", "name", "kind"), mutant_rows())
def test_a_wrong_rule_is_caught(case: Case, name: str, kind: str) -> None:
    dtype = best_dtype(case)
    with mutated(name, kind) as calls:
        try:
            if case.jax_agrees:
                check_eager(case, dtype)
            check_jitted(case, dtype)  # some rules are first asked at order 2
            for boundary in case.boundary:
                check_boundary(case, boundary, dtype)
        except CAUGHT:
            return
    # Operands 0 and 1 of this case may both be inactive; everything else must have been asked, and caught.
    assert kind == "swapped" and not calls, f"{name} {kind}: not caught, asked {len(calls)} times"


def test_the_right_rules_are_back() -> None:
    before = rules()
    with mutated("sin", "sign"):
        assert rules() != before
    assert rules() == before
