"""What is measured in docs/performance.md and README.md, from a run's JSON: ``python -m experiments.bench.page``.

The words around it are written by hand and stay. The run's JSON (times with four digits) and its chart are copied
beside the page, so that a test can say whether the tables are those of the data.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import tyro

from experiments.bench.problem import JAX, OURS
from experiments.bench.report import machine_lines, markdown
from experiments.bench.targets import Measured, outcomes

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
BEGIN = "<!-- measured: written by `python -m experiments.bench.page` -->"
END = "<!-- end of what is measured -->"
DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """What to write."""

    run: Path = Path("runs/bench")
    """Folder with bench.json and bench.png."""
    docs: Path = DOCS
    """Folder of performance.md; README.md is beside it."""


def rounded(value: Any) -> Any:
    """Data with `DIGITS` significant digits."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return list(map(rounded, value))
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) and abs(value) < 1e3 else value


def tables(record: dict[str, Any]) -> str:
    """The measured part of the page: the command, the machine, targets and figures."""
    results = {name: Measured(**{**entry, "missing": tuple(entry["missing"])})
               for name, entry in record["workloads"].items()}
    about = record["about"]
    lines = machine_lines(about, "at the start")
    kind = ", at quick sizes, which decide nothing" * about["quick"] + ", without times" * about["static"]
    lines.append(f"The run took {about['seconds']} s{kind}.")
    return markdown(results, outcomes(results), lines, about["command"])


#: Columns of README's table: heading, figure.
HEADLINES = (("step time", "run"), ("temporary bytes", "temp_bytes"), ("equations", "equations"),
             ("trace + lower", "trace+lower"), ("compile", "compile"))


def headlines(record: dict[str, Any]) -> str:
    """README's table: each jitted workload beside plain `jax.grad`, as ratios."""
    names = [heading for heading, _key in HEADLINES]
    lines = [f"| as a ratio to `jax.grad` | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for name, entry in record["workloads"].items():
        measured = Measured(**{**entry, "missing": tuple(entry["missing"])})
        if measured.kind == "jitted" and measured.baseline == JAX:
            ratios = [measured.ratio(key, OURS, JAX) for _heading, key in HEADLINES]
            lines.append(f"| {name}: {measured.what} | {' | '.join('' if r is None else f'{r:.2f}' for r in ratios)} |")
    return "\n".join(lines) + "\n"


def with_tables(page: str, text: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """A page with what is between the marks replaced; raises ValueError when they are not there."""
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the page has no part between {marks[0]!r} and {marks[1]!r}.\nTo fix: put both lines in.")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def main(options: Options) -> int:
    """Write the page. Returns the exit code."""
    source = options.run / "bench.json"
    if not source.exists():
        print(f"{source}: there is no such file.\nTo fix: run `python -m experiments.bench` first.", file=sys.stderr)
        return 2
    record = rounded(json.loads(source.read_text(encoding="utf-8")))
    page = options.docs / "performance.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8"), tables(record)), encoding="utf-8")
    readme = options.docs.parent / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8"), headlines(record)), encoding="utf-8")
    (options.docs / "benchmark.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    shutil.copyfile(options.run / "bench.png", options.docs / "images" / "benchmark.png")
    print(f"written: {readme}, {page}, {options.docs / 'benchmark.json'}, {options.docs / 'images' / 'benchmark.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
