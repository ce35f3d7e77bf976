"""Write `docs/primitives.md` from the rule table and the case table: ``python -m experiments.tables``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import funcgrad  # noqa: F401  (fills the registry)
from funcgrad.registry import rules
from funcgrad.rule import MapClass, VJPRule
from tests.cases.case import Case
from tests.harness.table import CASES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "primitives.md"

HEAD = """# Every primitive and its rule

Written by `python -m experiments.tables` from the rule table and the case table; a test keeps it fresh.

*Keeps* names what the backward step of a rule reads when all operands are active: `out` is the primitive's output,
numbers are operands; `-` is nothing. *Dear* primitives are never computed again by the planner. *Orders* and *dtypes*
are those that the case table tests.

"""


def rows() -> Iterable[str]:
    """One line of the table for each primitive, sorted by name."""
    by_primitive: dict[str, list[Case]] = {}
    for case in CASES:
        for name in case.primitives:
            by_primitive.setdefault(name, []).append(case)
    for primitive, rule in sorted(rules().items(), key=lambda item: (str(item[0]), id(item[0]))):
        if rule.kind is not MapClass.UNSUPPORTED:
            yield _row(str(primitive), rule, by_primitive.get(str(primitive), []))


def _row(name: str, rule: VJPRule, cases: list[Case]) -> str:
    dtypes = sorted({dtype for case in cases for dtype in case.dtypes})
    orders = max((case.orders for case in cases), default=0)
    differences = sorted({f"{boundary.label}: {boundary.why}" for case in cases for boundary in case.boundary
                          if boundary.why} | {case.note for case in cases if not case.jax_agrees})
    cells = [f"`{name}`", rule.kind.value, kept(rule), "dear" if rule.dear else "", str(orders or ""),
             ", ".join(dtypes), "; ".join(differences).replace("|", "\\|").replace("\n", " ")]
    return f"| {' | '.join(cells)} |"


def kept(rule: VJPRule) -> str:
    """What a rule's functions read, in words."""
    if rule.kind is MapClass.HIGHER_ORDER:
        return "its own pullback"
    if rule.kind is MapClass.CONSTANT:
        return "-"
    count = max((len(entry.operands) for entry in rule.functions_read), default=0)
    names = ["out"] if any(entry.out for entry in rule.functions_read) else []
    names += [str(i) for i in range(count) if any(entry.operand(i) for entry in rule.functions_read)]
    names += ["all others"] if any(entry.rest for entry in rule.functions_read) else []
    return ", ".join(names) or "-"


def page() -> str:
    """The whole page."""
    table = ["| primitive | class | keeps | | orders | dtypes | where ours differs from JAX |",
             "|---|---|---|---|---|---|---|"]
    table += rows()
    refused = ["", "## Without a derivative", "", "| primitive | why |", "|---|---|"]
    refused += [f"| `{primitive}` | {rule.reason} |"
                for primitive, rule in sorted(rules().items(), key=lambda item: (str(item[0]), id(item[0])))
                if rule.kind is MapClass.UNSUPPORTED]
    return HEAD + "\n".join([*table, *refused]) + "\n"


def main() -> None:
    """Write the page, or with ``--check`` say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when the page on disk is out of date")
    if parser.parse_args().check:
        raise SystemExit(0 if PAGE.exists() and PAGE.read_text() == page() else 1)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
