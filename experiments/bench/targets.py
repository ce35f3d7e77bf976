"""What issue 5 asks for, computed from a run's figures: target and figure side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.bench.measure import Figures, geometric_mean, median, ratio
from experiments.bench.problem import BUDGET, JAX, MINIMAL, OURS, POLICIES
from experiments.bench.workloads import two_layer_sizes

Results = Mapping[str, "Measured"]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One workload's figures by peer, with what is needed to read them."""

    kind: str
    what: str
    baseline: str
    quick: bool
    figures: Mapping[str, Figures]
    missing: tuple[str, ...] = ()

    def ratio(self, key: str, peer: str = OURS, baseline: str | None = None) -> float | None:
        """A peer's figure over the baseline's."""
        return ratio(self.figures, key, peer, self.baseline if baseline is None else baseline)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A target and what was measured; `figure` is None when the run did not measure it, `note` says why."""

    what: str
    target: float
    figure: float | None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Met, missed, or why there is no figure."""
        if self.figure is None:
            return self.note or "not in this run"
        return "met" if self.figure <= self.target * 1.0005 else "MISSED"


def outcomes(results: Results) -> list[Outcome]:
    """Every target of the table, in its order."""
    return [*_times(results), *_bytes(results), *_against_policies(results), *_programs(results), *_eager(results),
            *_loops(results)]


def _one(results: Results, name: str, key: str, peer: str = OURS, baseline: str | None = None) -> float | None:
    return results[name].ratio(key, peer, baseline) if name in results else None


def _over_jitted(results: Results, key: str, summary: Callable[[list[float]], float | None]) -> float | None:
    ratios = [measured.ratio(key, OURS, JAX) for measured in results.values() if measured.kind == "jitted"]
    known = [value for value in ratios if value]
    return summary(known) if known else None


def _times(results: Results) -> list[Outcome]:
    return [
        Outcome("step time, geometric mean of the jitted workloads", 0.70,
                _over_jitted(results, "run", geometric_mean)),
        Outcome("step time, worst jitted workload", 1.02, _over_jitted(results, "run", max)),
        Outcome("step time, scanned transformer", 0.55, _one(results, "transformer-scanned", "run")),
        Outcome("step time, unrolled transformer", 0.65, _one(results, "transformer-unrolled", "run")),
    ]


def _bytes(results: Results) -> list[Outcome]:
    rows = [Outcome(f"temporary bytes, {name}", target, _one(results, name, "temp_bytes"))
            for name, target in (("transformer-scanned", 0.37), ("lstm", 0.53), ("rk4", 0.66),
                                 ("transformer-unrolled", 1.0))]
    rows += [Outcome(f"contractions executed, {name}", 1.0, _one(results, name, "contraction_flops"))
             for name in ("transformer-scanned", "lstm", "rk4")]
    for name in ("lstm", "rk4"):
        note = "" if name not in results else "no figure: peer `policies` was left out"
        rows.append(Outcome(f"temporary bytes with a budget, {name}", 0.20,
                            _one(results, name, "temp_bytes", BUDGET), note))
        rows.append(Outcome(f"contractions with that budget, {name}", 1.4,
                            _one(results, name, "contraction_flops", BUDGET), note))
    return rows


def _against_policies(results: Results) -> list[Outcome]:
    """The larger of the ratios of bytes and of contractions, against each hand-placed policy: that of our best plan."""
    rows = []
    for name in ("transformer-scanned", "lstm", "rk4"):
        for policy in POLICIES:
            worse = [(max(ratios), ours) for ours in (OURS, BUDGET, MINIMAL)
                     if None not in (ratios := [_one(results, name, key, ours, policy)
                                                for key in ("temp_bytes", "contraction_flops")])]
            figure, best = min(worse) if worse else (None, "")
            note = "" if name not in results else "no figure: peer `checkpoint` was left out"
            label = f" ({best})" if best else ""
            rows.append(Outcome(f"bytes and FLOPs, {name}{label} / {policy}", 1.0, figure, note))
    return rows


def two_layer_minimum(quick: bool) -> float:
    """FLOPs of the contractions of one gradient of the classifier, on paper.

    Forward X W1 and H W2; backward the cotangents of W2, H and W1 (X needs none): 2 n d h + 2 n h c, then
    2 n h c + 2 n h c + 2 n d h.
    """
    points, features, hidden, classes = two_layer_sizes(quick)
    return 2.0 * points * hidden * (2 * features + 3 * classes)


def _programs(results: Results) -> list[Outcome]:
    measured = results.get("two-layer")
    flops = None
    if measured is not None:
        flops = measured.figures[OURS]["contraction_flops"] / two_layer_minimum(measured.quick)
    return [
        Outcome("contractions of the two-layer step / minimum on paper", 1.0, flops),
        Outcome("equations, geometric mean of the jitted workloads", 0.85,
                _over_jitted(results, "equations", geometric_mean)),
        Outcome("trace + lower, geometric mean of the jitted workloads", 0.50,
                _over_jitted(results, "trace+lower", geometric_mean)),
        Outcome("HLO instructions, worst jitted workload", 1.0, _over_jitted(results, "hlo", max)),
        Outcome("compile time, unrolled transformer", 0.45, _one(results, "transformer-unrolled", "compile")),
        Outcome("planning / recording, chain of 10,000", 0.10, _planning(results)),
    ]


def _planning(results: Results) -> float | None:
    ours = results["chain-10000"].figures[OURS] if "chain-10000" in results else {}
    plan, recorded = median(ours.get("plan", [])), median(ours.get("record", []))
    return plan / recorded if plan and recorded else None


def _eager(results: Results) -> list[Outcome]:
    rows = []
    for name in ("eager-scalar", "eager-mlp"):
        missing = {line.split(":")[0]: line for line in (results[name].missing if name in results else ())}
        for peer, target in ((JAX, 0.10), ("autograd", 1.5), ("torch", 8.0)):
            note = f"no figure: {missing[peer]}" if peer in missing else ""
            rows.append(Outcome(f"{name}, warm / {peer}", target, _one(results, name, "run", OURS, peer), note))
        rows.append(Outcome(f"{name}, first call / jax", 1.0, _one(results, name, "first")))
    return rows


def _loops(results: Results) -> list[Outcome]:
    return [Outcome(f"while_loop of 10,000 iterations, {label} / equinox", 1.0,
                    _one(results, "while-10000", key, OURS, "equinox"))
            for label, key in (("time", "run"), ("bytes", "temp_bytes"))]


def as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a plain record."""
    return {**dataclasses.asdict(outcome), "verdict": outcome.verdict}
