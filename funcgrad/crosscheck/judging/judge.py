"""One problem before all oracles: agreement, a convention at a kink, or a wrong derivative.

Agreement is cheap. Where an oracle disagrees, the element that is off by most is settled by what needs no autodiff of
the point itself: one-sided differences along that element, and the derivatives close by, whose hull is (a box around)
Clarke's subdifferential. An answer inside it is a convention; "within the subdifferential" is a sound verdict (Lee,
Park, Aiken, "On the correctness of automatic differentiation for neural networks", 2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from funcgrad.crosscheck.compare import ROUNDINGS, epsilon, is_inexact, largest, numbers, pairing, tiny
from funcgrad.crosscheck.judging.digits import Lost, exact_slope, lost_digits
from funcgrad.crosscheck.judging.evidence import NO_DIGIT, Evidence, Index, Settled, between
from funcgrad.crosscheck.oracles import (
    Answer,
    FiniteDifferences,
    Float64Truth,
    JaxReverse,
    ManyDigits,
    Oracle,
    Pairing,
    UnderVmap,
    tangents,
)
from funcgrad.crosscheck.problem import CUSTOM, Problem
from funcgrad.crosscheck.report import Verdict


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
#: Two answers that agree are doubted by the derivatives close by only if those differ by this much of the largest.
COARSE = 1e-2
#: The conditioning excuses no answer that is off by this much where the same program's values have no kink.
GROSS = 0.1
#: Directions in which the slopes of a doubted element are added up.
TRIES = 6
#: Why such an answer is doubted.
ALONE = "finite differences in float64, at a single point"


def judge(problem: Problem, oracles: Sequence[Oracle], tolerance: float = 1.0, seed: int = 0) -> list[Judgement]:
    """What the oracles say of each cotangent of a problem, in the order of its values."""
    blind = _cannot_be_judged(problem)
    if blind:
        return [Judgement(Verdict.UNSUPPORTED, i, reason=blind) for i in range(len(problem.values))]
    evidence = Evidence(problem, tolerance, seed)
    suspects: dict[int, dict[Index, str]] = {}
    lost: dict[int, Lost] = {}
    consulted, kinked = [], False
    for oracle in oracles:
        if isinstance(oracle, ManyDigits):
            lost = lost_digits(evidence)
            continue
        if isinstance(oracle, Float64Truth) and not _asks_for_truth(evidence, suspects):
            continue
        answer = _answer(oracle, evidence)
        if answer is not None:
            consulted.append(oracle.name)
            mapped = isinstance(oracle, UnderVmap)
            found = _differences(evidence, answer, isinstance(oracle, Float64Truth))
            if mapped and found:
                under_vmap = judge(dataclasses.replace(problem, ours=tuple(answer)),
                                   [o for o in oracles if not isinstance(o, UnderVmap)], tolerance, seed)
                if any(judgement.verdict is Verdict.WRONG for judgement in under_vmap):
                    return list(map(_under_vmap, under_vmap))
                continue
            for i, places in found.items():
                known = suspects.get(i, {})
                suspects[i] = known | {place: oracle.name for place in places if place not in known}
            continue
        paired = _paired(oracle, evidence)
        if paired is None:
            continue
        consulted.append(oracle.name)
        kinked |= paired[0].kinked
        if paired[1] and not suspects:
            suspects |= {i: {index: oracle.name} for i, index in _locate(oracle, evidence, _disagrees).items()}
        elif not suspects and _stands_alone(evidence, *paired[::2]):
            suspects |= {i: {index: ALONE} for i, index in _locate(oracle, evidence, _stands_alone).items()}
    if not consulted:
        return [Judgement(_unknown(leaf), i, reason="no oracle can judge this operation")
                for i, leaf in enumerate(evidence.ours)]
    settled = [_settle_all(evidence, i, suspects[i]) if i in suspects else _agreement(evidence, i, consulted, kinked)
               for i in range(len(problem.values))]
    settled = [_behind_jax(evidence, judgement, oracles) for judgement in settled]
    return [_without_digits(evidence, i, lost[i]) if i in lost and judgement.verdict in AGREED else judgement
            for i, judgement in enumerate(settled)]


def _under_vmap(judgement: Judgement) -> Judgement:
    """What is said of funcgrad's answer under vmap, which differs from its own answer without.

    Where nobody knows the truth, an answer that depends on being mapped is wrong all the same, and it is funcgrad's.
    """
    if judgement.verdict is not Verdict.WRONG:
        return judgement
    return dataclasses.replace(judgement, subject=judgement.subject or "funcgrad",
                               reason=f"{judgement.reason} (under vmap)")


def _cannot_be_judged(problem: Problem) -> str:
    """Why nothing can be said, if so."""
    if not all(np.all(np.isfinite(numbers(ct))) for ct in problem.cts):
        return "the cotangent that came in is not finite"
    if any(np.any(np.isnan(numbers(v))) for v in problem.values):
        return "an operand is NaN"
    return ""


def _asks_for_truth(evidence: Evidence, suspects: dict[int, Any]) -> bool:
    """One operation's own rounding is no reason to ask; a program's is, and so are users' rules and silence."""
    problem = evidence.problem
    return bool(problem.composite or problem.primitives & CUSTOM or evidence.theirs is None or suspects)


def _answer(oracle: Oracle, evidence: Evidence) -> Answer | None:
    if isinstance(oracle, JaxReverse):
        return evidence.theirs
    if isinstance(oracle, Float64Truth):
        return evidence.truth
    return oracle.answer(evidence.problem)


def _differences(evidence: Evidence, answer: Answer, program: bool) -> dict[int, list[Index]]:
    """By position, the elements that differ most from an answer; shapes that differ count as their first element."""
    eps = None if program else epsilon((*evidence.problem.values, *evidence.problem.outputs))
    program = program and evidence.problem.composite
    found: dict[int, list[Index]] = {}
    for i, (ours, wanted) in enumerate(zip(evidence.ours, answer, strict=True)):
        if is_inexact(wanted) and wanted.size:
            found[i] = [()] if ours.shape != wanted.shape else evidence.off(i, wanted, program, eps)
    return {i: places for i, places in found.items() if places}


# ---- oracles that give inner products ----


def _paired(oracle: Oracle, evidence: Evidence) -> tuple[Pairing, bool, Sequence[np.ndarray]] | None:
    """(what the oracle says along a random direction, whether our cotangents say something else, the direction)."""
    if not evidence.truth_is_usable:
        return None
    direction = tangents(evidence.problem.values, evidence.rng, scaled=True)
    found = oracle.pairing(evidence.problem, direction)
    return None if found is None else (found, _disagrees(evidence, found, direction), direction)


def _disagrees(evidence: Evidence, found: Pairing, direction: Sequence[np.ndarray]) -> bool:
    total, size, norm = pairing(evidence.ours, direction)
    if not np.isfinite(total):
        return True
    problem = evidence.problem
    relative = evidence.noise if problem.composite else ROUNDINGS * problem.eps
    allowed = relative * (norm + abs(total)) + 1e-12 * (size + found.size)
    allowed += sum(tiny(v.dtype) * v.size for v in problem.values)
    if found.low - allowed <= total <= found.high + allowed:
        return False
    spread = evidence.exact_spread if problem.composite else list(map(np.fmax, evidence.spread, evidence.exact_spread))
    allowed += ROUNDINGS * sum(float(np.sum(s * np.abs(d))) for s, d in zip(spread, direction, strict=True))
    return not found.low - evidence.tolerance * allowed <= total <= found.high + evidence.tolerance * allowed


def _stands_alone(evidence: Evidence, found: Pairing, direction: Sequence[np.ndarray]) -> bool:
    """Whether a program has this derivative at this one point, another one all around, and its values no kink.

    The last place of an input then means everything, and would excuse it: |x| in a function that is smooth at zero.
    """
    if not evidence.problem.composite or found.kinked or evidence.truth is None:
        return False
    total, exact = (pairing(answer, direction)[0] for answer in (evidence.ours, evidence.truth))
    size = max(map(abs, (total, found.low, found.high)))
    return max(found.low - total, total - found.high) > GROSS * size and abs(exact - total) <= COARSE * size


def _locate(oracle: Oracle, evidence: Evidence,
            doubted: Callable[[Evidence, Pairing, Sequence[np.ndarray]], bool]) -> dict[int, Index]:
    """The element that an inner product is wrong for, by halving the direction; nothing when no half is wrong."""
    whole = tangents(evidence.problem.values, evidence.rng, scaled=True)
    flat = np.concatenate([np.zeros(0), *(arrow.reshape(-1) for arrow in whole)])
    elements = np.flatnonzero(flat)
    while elements.size > 1:
        middle = elements.size // 2
        for half in (elements[:middle], elements[middle:]):
            direction = _unflatten(np.where(np.isin(np.arange(flat.size), half), flat, 0), whole)
            found = oracle.pairing(evidence.problem, direction)
            if found is not None and doubted(evidence, found, direction):
                elements = half
                break
        else:
            return {}
    if not elements.size:
        return {}
    ends = np.cumsum([arrow.size for arrow in whole])
    position = int(np.searchsorted(ends, elements[0], side="right"))
    inner = int(elements[0] - (ends[position] - whole[position].size))
    return {position: tuple(int(k) for k in np.unravel_index(inner, whole[position].shape))}


def _unflatten(flat: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    ends = np.cumsum([leaf.size for leaf in like])[:-1]
    return [part.reshape(leaf.shape) if np.iscomplexobj(leaf) else np.real(part).reshape(leaf.shape)
            for part, leaf in zip(np.split(flat, ends), like, strict=True)]


# ---- verdicts ----


def _agreement(evidence: Evidence, position: int, consulted: Sequence[str], kinked: bool) -> Judgement:
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


def _unknown(ours: np.ndarray) -> Verdict:
    return Verdict.UNSUPPORTED if np.all(np.isfinite(ours)) else Verdict.NONFINITE


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


def _settle_all(evidence: Evidence, position: int, suspects: dict[Index, str]) -> Judgement:
    """The verdict on the first element without an excuse: the one that is off by most may be so at a kink."""
    judgements = []
    for index, suspect in suspects.items():
        judgements.append(_settle(evidence, position, index, suspect))
        if judgements[-1].verdict not in AGREED:
            return judgements[-1]
    return judgements[0]


def _settle(evidence: Evidence, position: int, index: Index, suspect: str) -> Judgement:
    """The verdict on an element that an oracle doubts."""
    ours = evidence.ours[position]
    theirs = None if evidence.theirs is None else evidence.theirs[position]
    if theirs is not None and theirs.shape != ours.shape:
        return Judgement(Verdict.WRONG, position, (), "funcgrad", oracle=suspect,
                         reason=f"the cotangent has shape {ours.shape}, the operand {theirs.shape}")
    mine = ours[index].item()
    yours = None if theirs is None else theirs[index].item()
    settled, close_by = between(evidence, position, index)
    wanted = np.full(ours.shape, 0.0 if settled is None else settled.value)
    reference = ours if evidence.truth is None else evidence.truth[position]
    program = evidence.problem.composite
    allowed = float(max(evidence.allowed(position, leaf, suspect != ALONE, program)[index]
                        for leaf in (wanted, reference)))
    common: dict[str, Any] = {"position": position, "index": index, "ours": mine, "theirs": yours, "allowed": allowed}
    if settled is None:
        return _undecided(evidence, suspect, common)
    apart = yours is None or not abs(mine - yours) <= allowed
    if apart and close_by is not None and settled.holds(mine, allowed):
        settled = close_by  # differences alone are too coarse to tell the two answers apart
    slack = allowed if apart or settled is not close_by else allowed + COARSE * largest(reference)
    slack += 1e-3 * settled.width if settled.kinked else 0.0
    good = settled.holds(mine, slack)
    theirs_good = yours is None or settled.holds(yours, slack)
    rounded = [0.0, 0.0]
    if not (good and theirs_good):  # an answer may round in between, as long as one digit of it is right
        rounded = [min(noise, NO_DIGIT * abs(settled.value)) for noise in evidence.rounded(position, index)]
        good = good or settled.holds(mine, slack + rounded[0])
        theirs_good = theirs_good or yours is None or settled.holds(yours, slack + rounded[1])
    if good and theirs_good:
        verdict = Verdict.CONVENTION if settled.kinked else Verdict.MATCH
        return Judgement(verdict, oracle=settled.known_by, truth=None if settled.kinked else settled.value,
                         reason="at a tie or a kink; inside the subdifferential" if settled.kinked else "", **common)
    subject = "jax" if good else ("funcgrad" if yours is None or theirs_good else "both")
    bad = mine if not good else yours
    assert bad is not None
    exact = exact_slope(evidence, position, index) if program else None
    if exact is not None and all(abs(answer - exact) <= allowed + max(rounded) for answer in (mine, bad)):
        return Judgement(Verdict.MATCH, oracle=ManyDigits().name, truth=exact, **common)
    if subject == "both" and not apart and not _slopes_add_up(evidence, position, index):
        return Judgement(Verdict.CONVENTION, oracle=settled.known_by, **common,
                         reason="at a tie: slopes in different directions do not add up, so there is no derivative")
    verdict = Verdict.WRONG if np.isfinite(bad) else Verdict.NONFINITE
    return Judgement(verdict, subject=subject, oracle=settled.known_by, truth=settled.value,
                     reason=_why(evidence, settled, verdict, suspect), **common)


def _behind_jax(evidence: Evidence, judgement: Judgement, oracles: Sequence[Oracle]) -> Judgement:
    """Where JAX is to blame for the element that differs most: whether funcgrad is for another one."""
    differences = next((oracle for oracle in oracles if isinstance(oracle, FiniteDifferences)), None)
    if judgement.subject != "jax" or judgement.verdict is not Verdict.WRONG or differences is None:
        return judgement
    index = _locate(differences, evidence, _disagrees).get(judgement.position)
    if index is None:
        return judgement
    behind = _settle(evidence, judgement.position, index, differences.name)
    return behind if behind.verdict is Verdict.WRONG and behind.subject != "jax" else judgement


def _without_digits(evidence: Evidence, position: int, lost: Lost) -> Judgement:
    theirs = evidence.theirs
    return Judgement(Verdict.WRONG, position, lost.index, lost.subject, evidence.ours[position][lost.index].item(),
                     None if theirs is None else theirs[position][lost.index].item(), lost.truth, lost.allowed,
                     ManyDigits().name, "the slope is small, and of the answer not one digit is right")


def _undecided(evidence: Evidence, suspect: str, common: dict[str, Any]) -> Judgement:
    mine, yours = common["ours"], common["theirs"]
    if not np.isfinite(mine):
        return Judgement(Verdict.NONFINITE, oracle=suspect, subject="funcgrad", reason="the derivative is not finite",
                         **common)
    if yours is not None and abs(mine - yours) <= sum(evidence.rounded(common["position"], common["index"])):
        return Judgement(Verdict.MATCH, oracle=JaxReverse().name, **common,
                         reason="the answers differ by no more than the roundings inside explain")
    return Judgement(Verdict.WRONG, oracle=suspect, subject="" if suspect == JaxReverse().name else "funcgrad",
                     truth=None if suspect == JaxReverse().name else yours,
                     reason="the answers differ, and no finite difference can say which is right", **common)


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
