"""Trains the two-layer ReLU classifier with funcgrad's gradients, and checks them against other systems.

    python -m experiments.two_layer --data xor
    python -m experiments.two_layer --data digits --hidden 64 --steps 500
    python -m experiments.two_layer --data flowers.csv --label species --out runs/flowers
    python -m experiments.two_layer --data circle --page

Exit code 0: trained, and everything agreed. 1: trained, but something did not agree. 2: the input cannot be used.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import funcgrad
from experiments.two_layer import datasets, outputs, plots, runner, stages_page, training
from experiments.two_layer.bad_input import BadInput, require
from experiments.two_layer.datasets import Dataset
from experiments.two_layer.runner import Check, Plan, Trained

CHECKS_PER_RUN = 20
MAX_HIDDEN = 10_000
MAX_POINTS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Trains a two-layer ReLU classifier and compares each gradient with Flax, jax.grad and a plain-Python tape."""

    data: str = "xor"
    """simple, diag, split, xor, circle, spiral (drawn, in the plane), breast_cancer, digits, wine (real), or a
    path to a CSV file of numbers with a column of labels."""
    label: str | None = None
    """Name of the label column of a CSV file; the last column by default."""
    points: int | None = None
    """How many points to use; a quarter of them is held out. By default what suits the set."""
    hidden: int | None = None
    """Number of hidden units. By default what suits the set."""
    optimiser: str = "adam"
    """adam, adamw, momentum or sgd."""
    rate: float | None = None
    """Learning rate. By default what suits the set."""
    steps: int | None = None
    """Number of steps over all training points. By default what suits the set."""
    seed: int = 0
    """Chooses the points, the held-out part and the start."""
    check_every: int | None = None
    """Steps between two comparisons with Flax. By default twenty comparisons in a run."""
    out: Path | None = None
    """Folder for the results; by default runs/ and the name of the set."""
    page: bool = False
    """Also write page.html: every stage at every checkpoint, and the computation graph of single examples."""


def make_plan(settings: Settings) -> Plan:
    """Fill in what the user left open, and refuse what cannot be.

    Raises:
        BadInput: a setting is out of range.
    """
    recipe = datasets.recipe(settings.data)
    hidden = recipe.hidden if settings.hidden is None else settings.hidden
    rate = recipe.rate if settings.rate is None else settings.rate
    steps = recipe.steps if settings.steps is None else settings.steps
    check_every = max(1, steps // CHECKS_PER_RUN) if settings.check_every is None else settings.check_every
    names = ", ".join(training.OPTIMISERS)
    require(settings.optimiser in training.OPTIMISERS, f"--optimiser {settings.optimiser}: unknown. Known: {names}.")
    require(math.isfinite(rate) and rate > 0, f"--rate {rate:g}: must be a positive number.")
    single = np.finfo(np.float32)
    fits = float(single.tiny) <= rate <= float(single.max)
    require(fits, f"--rate {rate:g}: must be between {single.tiny:.2g} and {single.max:.2g} (single precision).")
    require(1 <= hidden <= MAX_HIDDEN, f"--hidden {hidden}: must be between 1 and {MAX_HIDDEN}.")
    require(steps >= 1, f"--steps {steps}: must be at least 1.")
    require(check_every >= 1, f"--check-every {check_every}: must be at least 1.")
    require(0 <= settings.seed < 2**32, f"--seed {settings.seed}: must be between 0 and {2**32 - 1}.")
    if settings.points is not None:
        require(settings.points >= 1, f"--points {settings.points}: there must be points to train on.")
        require(settings.points <= MAX_POINTS, f"--points {settings.points}: must be at most {MAX_POINTS}.")
    has_columns = settings.data not in datasets.NAMES
    require(settings.label is None or has_columns, f"--label {settings.label}: is for CSV files, not {settings.data}.")
    return Plan(hidden, settings.optimiser, rate, steps, check_every, settings.seed)


def run(settings: Settings, console: Console) -> int:
    """Train, compare, write the results; returns the exit code."""
    plan = make_plan(settings)
    data = datasets.load(settings.data, settings.points, settings.seed, settings.label)
    target = (settings.out or Path("runs") / data.name).absolute()
    with outputs.results_folder(target) as folder:
        started = time.perf_counter()
        trained = _train_with_progress(data, plan, console)
        seconds = time.perf_counter() - started
        curves = plots.Curves(
            trained.history.loss,
            trained.history.accuracy,
            [check.step for check in trained.checks],
            [check.held_out_accuracy for check in trained.checks],
        )
        plots.draw_all(folder, trained.parameters, data, curves)
        outputs.write_metrics(folder, _metrics(trained))
        outputs.write_parameters(folder, trained.parameters, data)
        outputs.write_summary(folder, _summary(settings, plan, data, trained, seconds))
        if settings.page:
            outputs.write_checkpoints(folder, [check.step for check in trained.checks], trained.checkpoints)
            stages_page.write(folder / outputs.PAGE, trained, data)
    return _conclude(trained, data, target, console)


def _train_with_progress(data: Dataset, plan: Plan, console: Console) -> Trained:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  accuracy {task.fields[accuracy]}  left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(data.name, total=plan.steps, loss="-", accuracy="-")

        def report(check: Check) -> None:
            progress.update(
                task, completed=check.step, loss=f"{check.loss:.4f}", accuracy=f"{check.accuracy:.3f}"
            )

        return runner.train(data, plan, report=report)


def _metrics(trained: Trained) -> list[dict]:
    """One record per step, with the held-out accuracy and the comparison where there was a check."""
    steps = zip(trained.history.loss, trained.history.accuracy, strict=True)
    records = [
        {"step": step, "loss": float(loss), "accuracy": float(accuracy)} for step, (loss, accuracy) in enumerate(steps)
    ]
    final = trained.checks[-1]
    records.append({"step": final.step, "loss": final.loss, "accuracy": final.accuracy})
    for check in trained.checks:
        records[check.step]["held_out_accuracy"] = check.held_out_accuracy
        records[check.step]["gradient_worst_ulp"] = _json_number(check.gradient_worst_ulp)
    return records


def _json_number(number: float) -> float | str:
    # JSON knows no infinity, which stands for NaN and for unequal shapes here.
    return number if math.isfinite(number) else str(number)


def _summary(settings: Settings, plan: Plan, data: Dataset, trained: Trained, seconds: float) -> dict:
    final = trained.checks[-1]
    compared = [
        agreement._asdict()
        | {"worst_ulp": _json_number(agreement.worst_ulp), "limit": _json_number(agreement.limit)}
        | {"agrees": agreement.agrees}
        for agreement in trained.agreements
    ]
    return {
        "data": {
            "name": data.name,
            "features": len(data.feature_names),
            "classes": list(data.class_names),
            "training_points": len(data.train_labels),
            "held_out_points": len(data.test_labels),
        },
        "settings": dataclasses.asdict(settings),
        "plan": plan._asdict(),
        "loss": final.loss,
        "accuracy": final.accuracy,
        "held_out_accuracy": final.held_out_accuracy,
        "agreed": all(agreement.agrees for agreement in trained.agreements),
        "comparisons": compared,
        "parameters_moved_by_one_ulp_nudges": _json_number(trained.nudge_ulp),
        "seconds": round(seconds, 3),
        "versions": {"funcgrad": funcgrad.__version__, "jax": jax.__version__, "numpy": np.__version__},
        "device": str(jax.devices()[0]),
    }


def _conclude(trained: Trained, data: Dataset, target: Path, console: Console) -> int:
    console.print(
        f"funcgrad against Flax with jax.grad ({len(trained.checks)} checks, and the parameters at the end), "
        "and against the scalar tape (one small case):",
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("compared", "leaf", "count", "same", "worst ulp", "limit", "verdict"):
        is_text = heading in ("compared", "leaf", "verdict")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for line in trained.agreements:
        verdict = "[green]agrees[/]" if line.agrees else "[bold red]DIFFERS[/]"
        same = f"{line.identical / line.compared:.0%}"
        row = (line.subject, line.leaf, str(line.compared), same, _short(line.worst_ulp), _short(line.limit), verdict)
        table.add_row(*row)
    console.print(table)
    final = trained.checks[-1]
    held_out = f"{final.held_out_accuracy:.3f} on {len(data.test_labels)} held-out points"
    training_part = f"{final.accuracy:.3f} on {len(data.train_labels)} training points"
    console.print(f"{data.name}: accuracy {held_out}, {training_part}; loss {final.loss:.4f}", soft_wrap=True)
    console.print(f"results and pictures: {target}", soft_wrap=True)
    wrong = [line for line in trained.agreements if not line.agrees]
    for line in wrong:
        console.print(f"{line.subject} differs in {line.leaf}, most at {line.worst_at}", markup=False)
    return 1 if wrong else 0


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 1e4 else f"{number:.1e}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    settings = tyro.cli(Settings, prog="python -m experiments.two_layer", args=arguments, description=__doc__)
    try:
        # Some accelerators round the factors of a product to 10 bits by default, which no comparison survives.
        with jax.default_matmul_precision("highest"):
            return run(settings, Console(highlight=False))
    except BadInput as error:
        print(f"two_layer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("two_layer: stopped; nothing was written.", file=sys.stderr)
        return 130
