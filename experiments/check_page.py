"""`docs/check.md`: what `funcgrad.check` says, each figure and each report from a run.

    python -m experiments.check_page                          the report and the comparison: minutes
    python -m experiments.check_page --reports                only the report
    python -m experiments.check_page --scores M.json ... --alarms A.json ...    only the scores, from saved runs
"""

from __future__ import annotations

import argparse
import collections
import json
import re
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments import checkers, false_alarms, mutation_score, wrong_rule

PAGE = Path(__file__).resolve().parent.parent / "docs" / "check.md"


def block(name: str, text: str, page: str) -> str:
    """The page with the part between ``<!-- name -->`` and ``<!-- /name -->`` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(page), f"the page has no part `{name}`"
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def quoted_report() -> str:
    """The report of the wrong rule inside a Flax model, as printed in words."""
    return f"```text\n{wrong_rule.report().in_words()}\n```"


def scores(mutants: Sequence[Path], alarms: Sequence[Path]) -> str:
    """The figures of saved runs of the two commands.

    Raises:
      ValueError: when a mutant is missing, or there twice.
    """
    entries = [entry for path in mutants for entry in json.loads(path.read_text())]
    found = collections.Counter((entry["primitive"], entry["kind"]) for entry in entries)
    wanted = collections.Counter((mutant.primitive, mutant.kind) for mutant in mutation_score.mutants())
    if found != wanted:
        missing, more = sum((wanted - found).values()), sum((found - wanted).values())
        raise ValueError(f"the scores lack {missing} of {sum(wanted.values())} mutants, and have {more} twice.\n"
                         "To fix: give the files of all shards, each once.")
    lines = [*mutation_score.restored(entries).lines(), *false_alarms.total(alarms).lines()]
    return "\n".join(["```text", *lines, "```"])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", action="store_true")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--scores", type=Path, nargs="+")
    parser.add_argument("--alarms", type=Path, nargs="+")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    page = PAGE.read_text(encoding="utf-8")
    if options.scores:
        page = block("scores", scores(options.scores, options.alarms), page)
    else:
        page = block("report", quoted_report(), page)
    if not options.reports and not options.scores:
        page = block("checkers", checkers.table(options.trials), page)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
