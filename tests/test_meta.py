"""The tests of the rules are tested: a rule wrong on purpose must be caught, in every case that has it."""

from __future__ import annotations

import zlib

import pytest

from funcgrad.errors import MissingRuleError
from funcgrad.registry import rules
from funcgrad.rule import MapClass
from tests.cases.case import Case
from tests.harness.checks import check_boundary, check_eager, check_jitted
from tests.harness.mutants import KINDS, mutated
from tests.harness.products import make_problem
from tests.harness.table import CASES, arguments, best_dtype, generator, ruled_primitives

#: What the kernel or the comparison raises for a wrong rule.
CAUGHT = (AssertionError, TypeError, ValueError, MissingRuleError)
ALIKE = {"swapped"}  # a mutant only where two operands have unlike cotangents of one shape: see `mutants_of`


def mutants_of(name: str) -> list[str]:
    """The kinds of mutant that make sense for a primitive: operands can be swapped where there are two."""
    rule = next(rule for primitive, rule in rules().items() if primitive.name == name)
    two = rule.kind in (MapClass.POINTWISE, MapClass.CLOSED_FORM) and len(rule.functions) >= 2
    return [kind for kind in KINDS if kind not in ALIKE or (two and None not in rule.functions[:2])]


def mutant_rows() -> list:
    """(case, primitive, kind, first). A primitive's first case: all kinds, one of them always; a further: one kind."""
    found, seen = [], set()
    for case in CASES:
        for name in ruled_primitives(case):
            kinds, first = mutants_of(name), name not in seen
            always = kinds[zlib.crc32(name.encode()) % len(kinds)]
            chosen = kinds if first else [kinds[zlib.crc32(f"{case.name} {name}".encode()) % len(kinds)]]
            for kind in chosen:
                found.append(pytest.param(case, name, kind, first, id=f"{case.name}-{name}-{kind}",
                                          marks=() if first and kind == always else pytest.mark.slow))
            seen.add(name)
    return found


def has_no_elements(case: Case, dtype: str) -> bool:
    """Whether nothing comes out of a case, so that every cotangent of it is zero whatever a rule does."""
    with arguments(case, dtype) as args:
        return not any(ct.size for ct in make_problem(case, args, generator(case, "seeds")).seeds["ct"])


@pytest.mark.parametrize(("case", "name", "kind", "first"), mutant_rows())
def test_a_wrong_rule_is_caught(case: Case, name: str, kind: str, first: bool) -> None:
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
    # Operands 0 and 1 of a first case may both be inactive. A further case need not ask this rule: `vmap` turns it into
    # another, or an index alone is used.
    harmless = not calls and (kind == "swapped" or not first)
    assert harmless or has_no_elements(case, dtype), f"{name} {kind}: not caught, wrong {len(calls)} times"


def test_the_right_rules_are_back() -> None:
    before = rules()
    with mutated("sin", "sign"):
        assert rules() != before
    assert rules() == before
