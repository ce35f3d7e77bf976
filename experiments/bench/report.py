"""What a run leaves behind: tables on the terminal and in Markdown, JSON, and a chart."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib
from rich.console import Console
from rich.table import Table

from experiments.bench.measure import median
from experiments.bench.problem import JAX, OURS
from experiments.bench.targets import Measured, Outcome, Results, as_json

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of a backend without display)

PACKAGES = ("funcgrad", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "equinox", "autograd", "torch")
COLUMNS = ("workload", "program", "run ms", "×", "temp MB", "×", "GFLOP", "×", "equations", "×", "trace+lower ms", "×",
           "compile s", "×", "first ms", "peak MB")


def machine() -> dict[str, Any]:
    """Processor, cores, load, and the versions of all that took part."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {"processor": _processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
            "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
            "device": jax.devices()[0].device_kind, "versions": versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def machine_lines(found: dict[str, Any], when: str) -> list[str]:
    """The machine in words; `when` is the load's moment."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    return [f"{found['processor']}, {found['cores']} cores, {found['system']}, device {found['device']}, "
            f"load average {found['load']} {when}", f"Python {found['python']}, {versions}"]


# ---- rows ----


def rows(results: Results) -> list[tuple[str, ...]]:
    """One row for each program of each workload."""
    return [(name if first else "", *_cells(measured, peer))
            for name, measured in results.items()
            for first, peer in zip((True, *[False] * len(measured.figures)), measured.figures, strict=False)]


def _cells(measured: Measured, peer: str) -> tuple[str, ...]:
    figures = measured.figures[peer]

    def pair(key: str, unit: float, digits: int) -> tuple[str, str]:
        parts = [figures.get(part) for part in key.split("+")]
        values = [median(part) if isinstance(part, list) else part for part in parts]
        share = measured.ratio(key, peer)
        shown = "" if any(v is None for v in values) else f"{sum(v for v in values if v) / unit:,.{digits}f}"
        return shown, "" if share is None or peer == measured.baseline else f"{share:.2f}"

    staged = "trace+lower" if figures.get("lower") else "trace"  # long chains are only traced
    first, peak = median(figures.get("first", [])), figures.get("peak")
    return (peer, *pair("run", 1e-3, 3), *pair("temp_bytes", 1e6, 2), *pair("contraction_flops", 1e9, 3),
            *pair("equations", 1, 0), *pair(staged, 1e-3, 0), *pair("compile", 1, 2),
            "" if first is None else f"{first * 1e3:.0f}", "" if peak is None else f"{peak / 1e6:.0f}")


def figure_text(outcome: Outcome) -> str:
    """The figure with the digits that matter."""
    return "" if outcome.figure is None else f"{outcome.figure:.3f}"


def print_tables(console: Console, results: Results, found: Sequence[Outcome]) -> None:
    """All figures, then the targets."""
    table = Table(*COLUMNS, title="Figures; × is the ratio to the baseline, the median over rounds side by side")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows(results):
        table.add_row(*row, end_section=False)
    console.print(table)
    verdicts = Table("target", "≤", "figure", "", title="Targets (quick sizes do not decide them)")
    for outcome in found:
        style = "red" if outcome.verdict == "MISSED" else "green" if outcome.verdict == "met" else "dim"
        verdicts.add_row(outcome.what, f"{outcome.target:g}", figure_text(outcome), outcome.verdict, style=style)
    console.print(verdicts)
    for name, measured in results.items():
        for line in measured.missing:
            console.print(f"{name}: {line}", style="dim")


def markdown(results: Results, found: Sequence[Outcome], machine_text: Sequence[str], command: str) -> str:
    """The same as Markdown, for the documentation."""
    lines = [f"`{command}`", "", *(f"{line}  " for line in machine_text), "",
             _line(("target", "≤", "figure", "verdict")), _line(["---"] * 4)]
    lines += [_line((o.what, f"{o.target:g}", figure_text(o), o.verdict)) for o in found]
    lines += ["", _line(COLUMNS), _line(["---"] * 2 + ["---:"] * (len(COLUMNS) - 2)), *map(_line, rows(results))]
    lines += ["", *(f"* {name}: {line}" for name, measured in results.items() for line in measured.missing)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# ---- files ----


def write(folder: Path, results: Results, found: Sequence[Outcome], about: dict[str, Any], text: str) -> list[Path]:
    """Write `bench.json`, `bench.md` and `bench.png`; each takes its name only when it is complete."""
    record = {"about": about, "targets": [as_json(outcome) for outcome in found],
              "workloads": {name: dataclasses.asdict(measured) for name, measured in results.items()}}
    written = []
    for name, save in (("bench.json", lambda path: path.write_text(json.dumps(record, indent=1) + "\n")),
                       ("bench.md", lambda path: path.write_text(text)),
                       ("bench.png", lambda path: chart(path, results))):
        unfinished = folder / f".unfinished-{name}"
        save(unfinished)
        written.append(unfinished.replace(folder / name))
    return written


# ---- the chart ----


def chart(path: Path, results: Results) -> None:
    """Ratios of funcgrad to the baseline, workload by workload, and how the chain's stages grow."""
    chains = {name: m for name, m in results.items() if m.kind == "chain"}
    others = {name: m for name, m in results.items() if m.kind != "chain"}
    panels = [draw for draw, part in ((_draw_ratios, others), (_draw_chains, chains)) if part]
    figure, axes = plt.subplots(1, max(1, len(panels)), figsize=(7 * max(1, len(panels)), 6), squeeze=False,
                                layout="constrained")
    for axis, draw in zip(axes[0], panels, strict=False):
        draw(axis, others if draw is _draw_ratios else chains)
    figure.savefig(path, dpi=130, format="png")
    plt.close(figure)


def _draw_ratios(axis: Any, results: Results) -> None:
    names = list(results)
    marks = (("run", "run time", "o"), ("temp_bytes", "temporary bytes", "s"), ("equations", "equations", "^"),
             ("trace+lower", "trace + lower", "D"), ("compile", "compile", "v"))
    for offset, (key, label, marker) in enumerate(marks):
        points = [(results[name].ratio(key), i + (offset - 2) * 0.13) for i, name in enumerate(names)]
        shown = [(x, y) for x, y in points if x]
        if shown:
            axis.plot(*zip(*shown, strict=True), marker, label=label, markersize=6)
    axis.axvline(1.0, color="0.3", linewidth=1)
    axis.set_xscale("log")
    axis.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    axis.minorticks_off()
    axis.set_yticks(range(len(names)), [f"{n} / {results[n].baseline}" for n in names])
    axis.invert_yaxis()
    axis.grid(axis="y", color="0.9")
    axis.set_xlabel("funcgrad / baseline (left of the line: less)")
    axis.set_title("Side by side, one run")
    axis.legend(fontsize=8)


def _draw_chains(axis: Any, results: Results) -> None:
    lengths = [int(name.split("-")[1]) for name in results]
    parts = (("record", "funcgrad: record", OURS), ("plan", "funcgrad: plan", OURS), ("sweep", "funcgrad: sweep", OURS),
             ("trace", "funcgrad: trace in all", OURS), ("trace", "jax: trace in all", JAX))
    for key, label, peer in parts:
        seconds = [median(measured.figures[peer].get(key, [])) for measured in results.values()]
        shown = [(n, s) for n, s in zip(lengths, seconds, strict=True) if s]
        if shown:
            axis.plot(*zip(*shown, strict=True), "--" if peer == JAX else "-", marker="o", label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations in a row")
    axis.set_ylabel("seconds")
    axis.grid(color="0.9")
    axis.set_title("Chains: linear is a straight line of slope 1")
    axis.legend(fontsize=8)


