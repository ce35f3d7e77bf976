"""One problem before all oracles: who was asked, and which elements of our answer somebody doubts.

Agreement is cheap. Where an oracle disagrees, the elements that are off by most are settled one by one (`verdicts`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from funcgrad.crosscheck.compare import epsilon, is_inexact, numbers
from funcgrad.crosscheck.held import CUSTOM
from funcgrad.crosscheck.judging.digits import Lost, lost_digits
from funcgrad.crosscheck.judging.evidence import Evidence, Index
from funcgrad.crosscheck.judging.inner_products import disagrees, located, paired, stands_alone
from funcgrad.crosscheck.judging.verdicts import (
    AGREED,
    ALONE,
    Judgement,
    agreement,
    behind_jax,
    settle_all,
    unknown,
    without_digits,
)
from funcgrad.crosscheck.oracles import Answer, Float64Truth, JaxReverse, ManyDigits, Oracle, UnderVmap
from funcgrad.crosscheck.problem import Problem
from funcgrad.crosscheck.report import Verdict

__all__ = ["Judgement", "judge"]


def judge(problem: Problem, oracles: Sequence[Oracle], tolerance: float = 1.0, seed: int = 0) -> list[Judgement]:
    """What the oracles say of each cotangent of a problem, in the order of its values."""
    blind = _cannot_be_judged(problem)
    if blind:
        return [Judgement(Verdict.UNSUPPORTED, i, reason=blind) for i in range(len(problem.values))]
    hearing = Hearing(Evidence(problem, tolerance, seed))
    for oracle in oracles:
        answer = hearing.ask(oracle)
        if isinstance(oracle, UnderVmap) and answer is not None and hearing.differences(oracle, answer):
            under_vmap = judge(dataclasses.replace(problem, ours=tuple(answer)),
                               [o for o in oracles if not isinstance(o, UnderVmap)], tolerance, seed)
            if any(judgement.verdict is Verdict.WRONG for judgement in under_vmap):
                return list(map(_under_vmap, under_vmap))
    return hearing.verdicts(oracles)


class Hearing:
    """What the oracles said so far.

    Attributes:
      evidence: of the problem.
      suspects: by position, the elements that somebody doubts, and who.
      lost: by position, an element of whose answer no digit is right.
      consulted: names of the oracles that had an answer.
      kinked: whether some direction has another slope forward than backward.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.suspects: dict[int, dict[Index, str]] = {}
        self.lost: dict[int, Lost] = {}
        self.consulted: list[str] = []
        self.kinked = False

    def ask(self, oracle: Oracle) -> Answer | None:
        """Hear one oracle; its answer, where it has a whole one."""
        if isinstance(oracle, ManyDigits):
            self.lost = lost_digits(self.evidence)
            return None
        if isinstance(oracle, Float64Truth) and not self._asks_for_truth():
            return None
        answer = self._answer(oracle)
        if answer is None:
            self._ask_for_inner_product(oracle)
            return None
        self.consulted.append(oracle.name)
        if not isinstance(oracle, UnderVmap):  # its answer is funcgrad's own, and a problem of its own
            for i, places in self.differences(oracle, answer).items():
                known = self.suspects.get(i, {})
                self.suspects[i] = known | {place: oracle.name for place in places if place not in known}
        return answer

    def _asks_for_truth(self) -> bool:
        """One operation's own rounding is no reason to ask; a program's is, and so are users' rules and silence."""
        problem = self.evidence.problem
        written_by_users = problem.primitives & CUSTOM.keys()
        return bool(problem.composite or written_by_users or self.evidence.theirs is None or self.suspects)

    def _answer(self, oracle: Oracle) -> Answer | None:
        if isinstance(oracle, JaxReverse):
            return self.evidence.theirs
        if isinstance(oracle, Float64Truth):
            return self.evidence.truth
        return oracle.answer(self.evidence.problem)

    def differences(self, oracle: Oracle, answer: Answer) -> dict[int, list[Index]]:
        """By position, the elements that differ most from an answer; shapes that differ count as the first element."""
        problem, exact = self.evidence.problem, isinstance(oracle, Float64Truth)
        eps = None if exact else epsilon((*problem.values, *problem.outputs))
        found: dict[int, list[Index]] = {}
        for i, (ours, wanted) in enumerate(zip(self.evidence.ours, answer, strict=True)):
            if is_inexact(wanted) and wanted.size:
                unlike = ours.shape != wanted.shape
                found[i] = [()] if unlike else self.evidence.off(i, wanted, exact and problem.composite, eps)
        return {i: places for i, places in found.items() if places}

    def _ask_for_inner_product(self, oracle: Oracle) -> None:
        evidence = self.evidence
        heard = paired(oracle, evidence)
        if heard is None:
            return
        found, wrong, direction = heard
        self.consulted.append(oracle.name)
        self.kinked |= found.kinked
        if self.suspects:
            return
        if wrong:
            places, doubt = located(oracle, evidence, disagrees), oracle.name
        elif stands_alone(evidence, found, direction):
            places, doubt = located(oracle, evidence, stands_alone), ALONE
        else:
            return
        self.suspects = {i: {index: doubt} for i, index in places.items()}

    def verdicts(self, oracles: Sequence[Oracle]) -> list[Judgement]:
        """One judgement for each cotangent."""
        evidence, suspects, lost = self.evidence, self.suspects, self.lost
        if not self.consulted:
            return [Judgement(unknown(leaf), i, reason="no oracle can judge this operation")
                    for i, leaf in enumerate(evidence.ours)]
        settled = [settle_all(evidence, i, suspects[i]) if i in suspects
                   else agreement(evidence, i, self.consulted, self.kinked) for i in range(len(evidence.ours))]
        settled = [behind_jax(evidence, judgement, oracles) for judgement in settled]
        return [without_digits(evidence, i, lost[i]) if i in lost and judgement.verdict in AGREED else judgement
                for i, judgement in enumerate(settled)]


def _cannot_be_judged(problem: Problem) -> str:
    """Why nothing can be said, if so."""
    if not all(np.all(np.isfinite(numbers(ct))) for ct in problem.cts):
        return "the cotangent that came in is not finite"
    if any(np.any(np.isnan(numbers(v))) for v in problem.values):
        return "an operand is NaN"
    return ""


def _under_vmap(judgement: Judgement) -> Judgement:
    """What is said of funcgrad's answer under vmap, which differs from its own answer without.

    Where nobody knows the truth, an answer that depends on being mapped is wrong all the same, and it is funcgrad's.
    """
    if judgement.verdict is not Verdict.WRONG:
        return judgement
    return dataclasses.replace(judgement, subject=judgement.subject or "funcgrad",
                               reason=f"{judgement.reason} (under vmap)")
