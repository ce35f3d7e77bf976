"""`docs/check.md`: what `funcgrad.check` says, each figure and each report from a run.

    python -m experiments.check_page            writes the page again: minutes
    python -m experiments.check_page --reports  only what the text quotes, the tables stay
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import jax

from experiments import checkers, wrong_rule

PAGE = Path(__file__).resolve().parent.parent / "docs" / "check.md"


def block(name: str, text: str, page: str) -> str:
    """The page with the part between ``<!-- name -->`` and ``<!-- /name -->`` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(page), f"the page has no part `{name}`"
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def quoted_report() -> str:
    """The report of the wrong rule inside a Flax model, as printed in words."""
    return f"```text\n{wrong_rule.report().in_words()}\n```"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", action="store_true")
    parser.add_argument("--trials", type=int, default=20)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    page = block("report", quoted_report(), PAGE.read_text(encoding="utf-8"))
    if not options.reports:
        page = block("checkers", checkers.table(options.trials), page)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
