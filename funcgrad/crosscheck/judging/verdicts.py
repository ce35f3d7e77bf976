"""The verdict on an element that an oracle doubts.

It is settled by what needs no autodiff of the point itself: one-sided differences along that element, and the
derivatives close by, whose hull is (a box around) Clarke's subdifferential. An answer inside it is a convention;
"within the subdifferential" is a sound verdict (Lee, Park, Aiken, "On the correctness of automatic differentiation for
neural networks", 2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from funcgrad.crosscheck.compare import largest, numbers
from funcgrad.crosscheck.judging.bounds import Settled, between
from funcgrad.crosscheck.judging.digits import Lost, exact_slope
from funcgrad.crosscheck.judging.evidence import COARSE, NO_DIGIT, Evidence, Index
from funcgrad.crosscheck.judging.inner_products import disagrees, located
from funcgrad.crosscheck.oracles import FiniteDifferences, JaxReverse, ManyDigits, Oracle, tangents
from funcgrad.crosscheck.report import Verdict

#: Directions in which the slopes of a doubted element are added up.
TRIES = 6
#: Who doubts an answer that two sides agree on: the derivatives close by.
ALONE = "finite differences in float64, at a single point"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is said of the cotangent of one value; numbers are those of its worst element."""

    verdict: Verdict
    position: int
    index: Index = ()
    subject: str = ""
    ours: complex | None = None
    theirs: complex | None = None
    truth: complex | None = None
    allowed: float | None = None
    oracle: str = ""
    reason: str = ""


#: Verdicts that find no fault.
AGREED = (Verdict.MATCH, Verdict.CONVENTION)


@dataclasses.dataclass(frozen=True)
class Doubted:
    """An element of a cotangent that an oracle doubts.

    Attributes:
      evidence: of the problem.
      position, index: which element of which cotangent.
      suspect: the oracle's name.
      ours, theirs: the two answers.
      allowed: what they may be off by.
    """

    evidence: Evidence
    position: int
    index: Index
    suspect: str
    ours: complex
    theirs: complex | None
    allowed: float

    @staticmethod
    def of(evidence: Evidence, position: int, index: Index, suspect: str, wanted: complex) -> Doubted:
        """The element, with what is allowed where it should be `wanted`."""
        ours = evidence.ours[position]
        references = (np.full(ours.shape, wanted), ours if evidence.truth is None else evidence.truth[position])
        allowed = float(max(evidence.allowed(position, leaf, suspect != ALONE, evidence.problem.composite)[index]
                            for leaf in references))
        theirs = None if evidence.theirs is None else evidence.theirs[position][index].item()
        return Doubted(evidence, position, index, suspect, ours[index].item(), theirs, allowed)

    @property
    def apart(self) -> bool:
        """Whether the two answers differ by more than is allowed, or there is only one."""
        return self.theirs is None or not abs(self.ours - self.theirs) <= self.allowed

    def judged(self, verdict: Verdict, oracle: str, **more: Any) -> Judgement:
        """A judgement on this element."""
        return Judgement(verdict, self.position, self.index, ours=self.ours, theirs=self.theirs, allowed=self.allowed,
                         oracle=oracle, **more)


def settle_all(evidence: Evidence, position: int, suspects: dict[Index, str]) -> Judgement:
    """The verdict on the first element without an excuse: the one that is off by most may be so at a kink."""
    judgements = []
    for index, suspect in suspects.items():
        judgements.append(settle(evidence, position, index, suspect))
        if judgements[-1].verdict not in AGREED:
            return judgements[-1]
    return judgements[0]


def settle(evidence: Evidence, position: int, index: Index, suspect: str) -> Judgement:
    """The verdict on one element that an oracle doubts."""
    ours, theirs = evidence.ours[position], None if evidence.theirs is None else evidence.theirs[position]
    if theirs is not None and theirs.shape != ours.shape:
        return Judgement(Verdict.WRONG, position, (), "funcgrad", oracle=suspect,
                         reason=f"the cotangent has shape {ours.shape}, the operand {theirs.shape}")
    settled, close_by = between(evidence, position, index)
    doubted = Doubted.of(evidence, position, index, suspect, 0.0 if settled is None else settled.value)
    if settled is None:
        return _undecided(doubted)
    if doubted.apart and close_by is not None and settled.holds(doubted.ours, doubted.allowed):
        settled = close_by  # differences alone are too coarse to tell the two answers apart
    slack = doubted.allowed + (1e-3 * settled.width if settled.kinked else 0.0)
    if not doubted.apart and settled is close_by:
        slack += COARSE * largest(ours if evidence.truth is None else evidence.truth[position])
    good, theirs_good, rounded = _inside(doubted, settled, slack)
    if good and theirs_good:
        verdict = Verdict.CONVENTION if settled.kinked else Verdict.MATCH
        return doubted.judged(verdict, settled.known_by, truth=None if settled.kinked else settled.value,
                              reason="at a tie or a kink; inside the subdifferential" if settled.kinked else "")
    return _at_fault(doubted, settled, good, theirs_good, rounded)


def _inside(doubted: Doubted, settled: Settled, slack: float) -> tuple[bool, bool, float]:
    """Whether our answer and the other lie where they must, and what the roundings inside excuse."""

    def holds(answer: complex | None, more: float = 0.0) -> bool:
        return answer is None or settled.holds(answer, slack + more)

    good, theirs_good = holds(doubted.ours), holds(doubted.theirs)
    if good and theirs_good:
        return True, True, 0.0
    # an answer may round in between, as long as one digit of it is right
    noise = doubted.evidence.rounded(doubted.position, doubted.index)
    mine, yours = (min(each, NO_DIGIT * abs(settled.value)) for each in noise)
    return good or holds(doubted.ours, mine), theirs_good or holds(doubted.theirs, yours), max(mine, yours)


def _at_fault(doubted: Doubted, settled: Settled, good: bool, theirs_good: bool, rounded: float) -> Judgement:
    """Whose answer is wrong, unless hundreds of digits or the lack of any derivative excuse it."""
    evidence, position, index = doubted.evidence, doubted.position, doubted.index
    subject = "jax" if good else ("funcgrad" if doubted.theirs is None or theirs_good else "both")
    bad = doubted.ours if not good else doubted.theirs
    assert bad is not None
    exact = exact_slope(evidence, position, index) if evidence.problem.composite else None
    if exact is not None and all(abs(answer - exact) <= doubted.allowed + rounded for answer in (doubted.ours, bad)):
        return doubted.judged(Verdict.MATCH, ManyDigits().name, truth=exact)
    if subject == "both" and not doubted.apart and not _slopes_add_up(evidence, position, index):
        return doubted.judged(
            Verdict.CONVENTION, settled.known_by,
            reason="at a tie: slopes in different directions do not add up, so there is no derivative")
    verdict = Verdict.WRONG if np.isfinite(bad) else Verdict.NONFINITE
    return doubted.judged(verdict, settled.known_by, subject=subject, truth=settled.value,
                          reason=_why(evidence, settled, verdict, doubted.suspect))


def _slopes_add_up(evidence: Evidence, position: int, index: Index) -> bool:
    """Whether the slope along a direction is that without one element and that of the element together.

    At a tie of many elements each may move alone without a change (a median) and without a kink that differences see.
    """
    differences = FiniteDifferences()
    rng = np.random.default_rng(0)
    for _draw in range(TRIES):
        whole = [leaf * rng.choice([-1.0, 1.0], leaf.shape)
                 for leaf in tangents(evidence.problem.values, rng, scaled=True)]
        rest, alone = list(map(np.array, whole)), [np.zeros(leaf.shape, leaf.dtype) for leaf in whole]
        alone[position][index], rest[position][index] = whole[position][index], 0
        found = [differences.pairing(evidence.problem, direction) for direction in (whole, rest, alone)]
        if None in found:
            continue
        slopes = [(each.low + each.high) / 2 for each in found if each is not None]
        doubted = evidence.ours[position][index] * whole[position][index]
        if abs(slopes[0] - slopes[1] - slopes[2]) > COARSE * (sum(map(abs, slopes)) + abs(doubted)):
            return False
    return True


def _undecided(doubted: Doubted) -> Judgement:
    """No finite difference says where the element must lie."""
    ours, theirs, suspect = doubted.ours, doubted.theirs, doubted.suspect
    if not np.isfinite(ours):
        return doubted.judged(Verdict.NONFINITE, suspect, subject="funcgrad", reason="the derivative is not finite")
    noise = doubted.evidence.rounded
    if theirs is not None and abs(ours - theirs) <= sum(noise(doubted.position, doubted.index)):
        return doubted.judged(Verdict.MATCH, JaxReverse().name,
                              reason="the answers differ by no more than the roundings inside explain")
    by_jax = suspect == JaxReverse().name
    return doubted.judged(Verdict.WRONG, suspect, subject="" if by_jax else "funcgrad",
                          truth=None if by_jax else theirs,
                          reason="the answers differ, and no finite difference can say which is right")


def _why(evidence: Evidence, settled: Settled, verdict: Verdict, suspect: str) -> str:
    outputs = evidence.problem.outputs
    if verdict is Verdict.NONFINITE:
        return "the derivative exists and is finite, the answer is not"
    if not all(np.all(np.isfinite(numbers(leaf))) for leaf in outputs):
        return "the value itself is not finite in this precision; in float64 it is"
    if suspect == ALONE:
        return "something inside has a kink here that the function has not; all around, the derivative is another one"
    if settled.kinked:
        return "there is a kink, and the answer lies outside the one-sided derivatives"
    return "the answer is not the derivative of the function"


# ---- verdicts that no doubt leads to ----


def agreement(evidence: Evidence, position: int, consulted: Sequence[str], kinked: bool) -> Judgement:
    ours, theirs = evidence.ours[position], evidence.theirs
    index: Index = (0,) * ours.ndim
    if not np.all(np.isfinite(ours)):
        index = tuple(int(k) for k in np.argwhere(~np.isfinite(ours))[0])
        return Judgement(Verdict.NONFINITE, position, index, "both" if theirs is not None else "funcgrad",
                         ours[index].item(), None if theirs is None else theirs[position][index].item(),
                         oracle=consulted[0], reason="the derivative is not finite here")
    verdict = Verdict.CONVENTION if kinked else Verdict.MATCH
    if not ours.size:
        return Judgement(verdict, position, oracle=consulted[0])
    index = tuple(int(k) for k in np.unravel_index(int(np.argmax(np.abs(ours))), ours.shape))
    reason = "at a tie or a kink; the answer lies between the one-sided derivatives" if kinked else ""
    return Judgement(verdict, position, index, "", ours[index].item(),
                     None if theirs is None else theirs[position][index].item(), oracle=consulted[0], reason=reason)


def unknown(ours: np.ndarray) -> Verdict:
    return Verdict.UNSUPPORTED if np.all(np.isfinite(ours)) else Verdict.NONFINITE


def behind_jax(evidence: Evidence, judgement: Judgement, oracles: Sequence[Oracle]) -> Judgement:
    """Where JAX is to blame for the element that differs most: whether funcgrad is for another one."""
    differences = next((oracle for oracle in oracles if isinstance(oracle, FiniteDifferences)), None)
    if judgement.subject != "jax" or judgement.verdict is not Verdict.WRONG or differences is None:
        return judgement
    index = located(differences, evidence, disagrees).get(judgement.position)
    if index is None:
        return judgement
    behind = settle(evidence, judgement.position, index, differences.name)
    return behind if behind.verdict is Verdict.WRONG and behind.subject != "jax" else judgement


def without_digits(evidence: Evidence, position: int, lost: Lost) -> Judgement:
    theirs = evidence.theirs
    return Judgement(Verdict.WRONG, position, lost.index, lost.subject, evidence.ours[position][lost.index].item(),
                     None if theirs is None else theirs[position][lost.index].item(), lost.truth, lost.allowed,
                     ManyDigits().name, "the slope is small, and of the answer not one digit is right")
