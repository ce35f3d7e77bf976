"""Oracles that give inner products of the derivative with directions: does ours agree, and if not, in which element?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from funcgrad.crosscheck.compare import ROUNDINGS, pairing, tiny
from funcgrad.crosscheck.judging.evidence import COARSE, Evidence, Index
from funcgrad.crosscheck.oracles import Oracle, Pairing, tangents

#: The conditioning excuses no answer that is off by this much where the same program's values have no kink.
GROSS = 0.1


def paired(oracle: Oracle, evidence: Evidence) -> tuple[Pairing, bool, Sequence[np.ndarray]] | None:
    """(what the oracle says along a random direction, whether our cotangents say something else, the direction)."""
    if not evidence.truth_is_usable:
        return None
    direction = tangents(evidence.problem.values, evidence.rng, scaled=True)
    found = oracle.pairing(evidence.problem, direction)
    return None if found is None else (found, disagrees(evidence, found, direction), direction)


def disagrees(evidence: Evidence, found: Pairing, direction: Sequence[np.ndarray]) -> bool:
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


def stands_alone(evidence: Evidence, found: Pairing, direction: Sequence[np.ndarray]) -> bool:
    """Whether a program has this derivative at this one point, another one all around, and its values no kink.

    The last place of an input then means everything, and would excuse it: |x| in a function that is smooth at zero.
    """
    if not evidence.problem.composite or found.kinked or evidence.truth is None:
        return False
    total, exact = (pairing(answer, direction)[0] for answer in (evidence.ours, evidence.truth))
    size = max(map(abs, (total, found.low, found.high)))
    return max(found.low - total, total - found.high) > GROSS * size and abs(exact - total) <= COARSE * size


def located(oracle: Oracle, evidence: Evidence,
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
