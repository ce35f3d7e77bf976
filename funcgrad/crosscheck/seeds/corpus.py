"""The seed corpus: gradients that were once, or are still, wrong in JAX, each with its expected value.

`SEEDS` is data, `run_seeds` measures it with the JAX that is installed: which seeds it still has, which funcgrad has,
and what `funcgrad.check` says of them. Numbers are those of issues and pull requests of jax-ml/jax; the programs were
written for this corpus. `tests/crosscheck/test_seeds.py` proves every expected value by other means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcgrad.crosscheck.check import check
from funcgrad.crosscheck.seeds.data import SEEDS
from funcgrad.crosscheck.seeds.model import Array, Born, Seed, close
from funcgrad.transforms import grad as our_grad


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one seed gives today.

    Attributes:
      seed: the seed.
      jax, funcgrad: "right", "wrong" or "refuses".
      jax_value, funcgrad_value: the gradients, or the message of the refusal.
      verdict: what `funcgrad.check` says when JAX or funcgrad is wrong; empty when it was not asked.
    """

    seed: Seed
    jax: str
    funcgrad: str
    jax_value: Any
    funcgrad_value: Any
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """All outcomes.

    Attributes:
      rows: one for each seed.
    """

    rows: tuple[Outcome, ...]

    @property
    def live(self) -> tuple[Outcome, ...]:
        """Seeds that the installed JAX still has."""
        return tuple(row for row in self.rows if row.jax == "wrong")

    @property
    def ours(self) -> tuple[Outcome, ...]:
        """Seeds that funcgrad has."""
        return tuple(row for row in self.rows if row.funcgrad == "wrong")

    @property
    def ok(self) -> bool:
        """Whether no seed born in a rule is wrong here, and every live one is seen by `check` where it was asked."""
        seen = all(not row.verdict or row.verdict in ("wrong", "nonfinite") for row in self.live)
        return seen and all(row.seed.born is not Born.RULE or row.funcgrad == "right" for row in self.rows)

    def __str__(self) -> str:
        head = f"| seed | issue | born in | JAX {jax.__version__} | funcgrad | check says |"
        lines = [head, "|---|---|---|---|---|---|"]
        for row in self.rows:
            issues = ", ".join(f"jax#{number}" for number in row.seed.issues)
            cells = (row.seed.name, issues, row.seed.born, row.jax, row.funcgrad, row.verdict)
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", self.summary()])

    def summary(self) -> str:
        """One line."""
        rules = sum(row.seed.born is Born.RULE for row in self.ours)
        checked = [row for row in self.live if row.verdict]
        seen = sum(row.verdict in ("wrong", "nonfinite") for row in checked)
        return (f"{len(self.rows)} seeds: JAX {jax.__version__} has {len(self.live)}, funcgrad {len(self.ours)} "
                f"({rules} of them born in a rule); check reports {seen} of the {len(checked)} it was asked about")


def run_seed(seed: Seed, with_check: bool = True) -> Outcome:
    """Measure one seed.

    Args:
      seed: the seed.
      with_check: whether `funcgrad.check` is asked when a gradient is wrong.
    """
    with jax.enable_x64(seed.x64):
        args = [jnp.asarray(a) for a in seed.args]
        theirs, their_value = _judge(seed, jax.grad, args)
        mine, my_value = _judge(seed, our_grad, args)
        verdict = _verdict(seed, args) if with_check and "wrong" in (theirs, mine) else ""
    return Outcome(seed, theirs, mine, their_value, my_value, verdict)


def _judge(seed: Seed, grad: Callable[..., Any], args: Sequence[Array]) -> tuple[str, Any]:
    try:
        value = seed.differentiated(grad)(*args)
    except Exception as error:  # a refusal is a result, not a failure of the run
        return "refuses", f"{type(error).__name__}: {error}"
    return ("right" if close(value, seed.expected, seed.rtol) else "wrong"), value


def _verdict(seed: Seed, args: Sequence[Array]) -> str:
    report = check(seed.total, *args, argnums=seed.argnums, order=seed.order)
    return str(report.blamed.verdict) if report.blamed is not None else "ok"


def run_seeds(names: Iterable[str] | None = None, with_check: bool = True) -> Outcomes:
    """Measure the corpus.

    Args:
      names: of the seeds to measure; default: all.
      with_check: whether `funcgrad.check` is asked about those that are wrong.

    Raises:
      ValueError: for a name that no seed has.
    """
    chosen = list(SEEDS)
    if names is not None:
        known = {seed.name: seed for seed in SEEDS}
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ValueError(f"no seed is called {', '.join(map(repr, unknown))}.\nTo fix: choose from "
                             f"{', '.join(known)}.")
        chosen = [known[name] for name in names]
    return Outcomes(tuple(run_seed(seed, with_check) for seed in chosen))


def main(names: Sequence[str] = (), with_check: bool = True) -> int:
    """The command ``python -m funcgrad seeds``: the table, and the exit code.

    Returns:
      0 when funcgrad has no seed that was born in a rule and `check` sees each live one, 1 otherwise.
    """
    outcomes = run_seeds(names or None, with_check)
    print(outcomes)
    return 0 if outcomes.ok else 1


def page(outcomes: Outcomes) -> str:
    """The corpus as a page of Markdown."""
    lines = ["# The seed corpus", "",
             "Written by `python -m funcgrad.crosscheck.seeds` from running the corpus; do not edit.", "",
             "Gradients that were once, or are still, wrong in JAX, each with an expected value that "
             "`tests/crosscheck/test_seeds.py` proves", "by other means than autodiff. *Born in* says where the fault "
             "was: a derivative rule, which funcgrad has its own of; the forward code of", "a library function, whose "
             "program really has that derivative; or a custom rule in it, which any autodiff runs as it is. `check` "
             "needs `mpmath` to see", "those whose slope is below a rounding of the value (tails of `tanh`, `expm1`, "
             "`sigmoid`, `softmax`): [check.md](check.md).", "",
             f"{outcomes.summary()}.", "",
             "| seed | issue | what is wrong | right value known by | born in | JAX | funcgrad | `check` says |",
             "|---|---|---|---|---|---|---|---|"]
    for row in outcomes.rows:
        issues = ", ".join(f"jax#{number}" for number in row.seed.issues)
        cells = (row.seed.name, issues, row.seed.what, row.seed.how, row.seed.born, row.jax, row.funcgrad, row.verdict)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
