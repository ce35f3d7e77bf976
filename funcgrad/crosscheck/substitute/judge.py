"""A closer look at a gradient on which JAX and funcgrad differ, or in which a custom rule is met for the first time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _compat
from funcgrad.crosscheck.check import check
from funcgrad.crosscheck.compare import ROUNDINGS, conditioning, epsilon, numbers, rounding, tiny
from funcgrad.crosscheck.report import Report, Row, Verdict
from funcgrad.crosscheck.substitute.agreement import is_compared
from funcgrad.crosscheck.substitute.session import SIDE, Side, Suspect
from funcgrad.transforms import hessian, vjp

Array = Any
#: JAX's own, whatever stands under their names in a block.
JAX_VJP: Any = jax.vjp
JAX_HESSIAN: Any = jax.hessian

#: How often the inputs are moved by one last place.
NUDGES = 4


def judge(suspect: Suspect) -> tuple[Verdict, tuple[Row, ...]]:
    """The verdict on a gradient, and rows for what is to be reported.

    First the conditioning: how far each element moves when the inputs move by their last place. What that does not
    explain is looked at operation by operation, with `funcgrad.check`.
    """
    call = suspect.call
    with jax.enable_x64(call.x64), _without_debugging():
        if suspect.function is None:
            return _without_function(suspect)
        try:
            excess = _Excess.of(suspect) if suspect.differs else None
            if suspect.differs and excess is None:
                return Verdict.MATCH, ()
            return _blame(suspect, excess)
        except Exception as error:
            if suspect.differs:
                return _without_function(suspect, f" ({type(error).__name__}: {error})")
            words = f"the custom rules in it could not be judged: {type(error).__name__}: {error}"
            return Verdict.UNSUPPORTED, (call.row(Verdict.UNSUPPORTED, words),)


@contextlib.contextmanager
def _without_debugging() -> Iterator[None]:
    """Nudged inputs may be NaN on purpose."""
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


# ---- conditioning ----


@dataclasses.dataclass(frozen=True)
class _Excess:
    """The element that differs most beyond what rounding explains."""

    path: str
    found: complex
    wanted: complex
    allowed: float

    @staticmethod
    def of(suspect: Suspect) -> _Excess | None:
        """The worst element, None when rounding explains them all."""
        spread = conditioning(lambda primals: _derivative(suspect, primals, Side.JAX), suspect.primals,
                              np.random.default_rng(0), NUDGES)
        worst: tuple[float, _Excess] | None = None
        paths = _paths(suspect)
        noises = _noise(suspect)
        for path, mine, theirs, moved, noise in zip(paths, suspect.found, suspect.wanted, spread, noises, strict=True):
            found, wanted = numbers(mine).ravel(), numbers(theirs).ravel()
            allowed = _allowed(np.asarray(theirs), moved).ravel() + noise
            with np.errstate(invalid="ignore", over="ignore"):
                error = np.abs(found - wanted)
                ratio = np.where((found == wanted) | (np.isnan(found) & np.isnan(wanted)), 0.0,
                                 np.where(np.isfinite(error), error / allowed, np.inf))
            top = int(np.argmax(ratio)) if ratio.size else 0
            if ratio.size and ratio[top] > (1.0 if worst is None else worst[0]):
                index = list(map(int, np.unravel_index(top, np.shape(theirs))))
                place = f"cotangent of {path}{index if index else ''}"
                worst = ratio[top], _Excess(place, found[top].item(), wanted[top].item(), float(allowed[top]))
        return None if worst is None else worst[1]


def _allowed(wanted: np.ndarray, moved: np.ndarray) -> np.ndarray:
    return rounding(numbers(wanted), epsilon([wanted]), tiny(wanted.dtype) / ROUNDINGS, moved)


def _noise(suspect: Suspect) -> list[float]:
    """What the rounding of the function's own value means for its slope, for each compared leaf of the primals.

    A value known to one last place says nothing of slopes below ``eps |f| / |x|``: where `tanh` is saturated its
    derivative is the rounding of a difference.
    """
    assert suspect.function is not None
    with SIDE(Side.JAX):
        out = [leaf for leaf in jax.tree.leaves(suspect.function(*suspect.primals)) if is_compared(jnp.asarray(leaf))]
    weights = [ct for ct in jax.tree.leaves(suspect.ct) if is_compared(ct)] if suspect.ct is not None else [
        np.ones(np.shape(leaf)) for leaf in out]
    eps = max((float(jnp.finfo(jnp.asarray(leaf).dtype).eps) for leaf in out), default=0.0)
    size = sum(float(np.sum(np.abs(numbers(leaf)) * np.abs(numbers(ct))))
               for leaf, ct in zip(out, weights, strict=True))
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(suspect.primals) if not _is_key(leaf)]
    widths = [float(np.max(np.abs(numbers(leaf)), initial=0.0)) for leaf in leaves if is_compared(leaf)]
    if len(widths) != len(suspect.wanted) or not np.isfinite(size):  # a Hessian has more leaves than the primals
        return [0.0] * len(suspect.wanted)
    return [eps * size / (width or 1.0) for width in widths]


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.extended))


def _derivative(suspect: Suspect, primals: Any, side: Side) -> list[Array]:
    """The compared leaves of one side's answer."""
    theirs = side is Side.JAX
    assert suspect.function is not None
    with SIDE(side):
        if suspect.ct is None:
            result = (JAX_HESSIAN if theirs else hessian)(suspect.function, tuple(range(len(primals))))(*primals)
        else:
            result = (JAX_VJP if theirs else vjp)(suspect.function, *primals)[1](suspect.ct)
    return [leaf for leaf in jax.tree.leaves(result) if is_compared(leaf)]


def _paths(suspect: Suspect) -> list[str]:
    """Names of the compared leaves: ``primals[0]['w']``."""
    named = [(f"primals{jax.tree_util.keystr(path)}", leaf)
             for path, leaf in jax.tree.leaves_with_path(suspect.primals)]
    inexact = [name for name, leaf in named if is_compared(np.asarray(leaf) if not hasattr(leaf, "dtype") else leaf)]
    count = len(suspect.wanted)
    return inexact if len(inexact) == count else [f"leaf {i} of the derivative" for i in range(count)]


# ---- blame ----


def _blame(suspect: Suspect, excess: _Excess | None) -> tuple[Verdict, tuple[Row, ...]]:
    """What the cross-checker says of the function at these primals, with this cotangent."""
    assert suspect.function is not None
    report = _checked(suspect, suspect.function, suspect.primals, ct=suspect.ct,
                      order=1 if suspect.ct is not None else 2)
    wrong = _wrong_rows(report)
    for inner in suspect.inner:
        with contextlib.suppress(Exception):  # it may close over what is known only inside the outer function
            wrong += _wrong_rows(_checked(suspect, inner.function, inner.primals))
    if wrong:
        return Verdict.WRONG, wrong
    if excess is None:
        return Verdict.MATCH, ()
    if any(row.verdict is Verdict.CONVENTION for row in report.rows):
        return Verdict.CONVENTION, ()
    far = _far_apart(suspect, _noise(suspect))
    if far is None:  # roundings inside the function, which the check knows from running it in float64
        return Verdict.MATCH, ()
    return _difference(suspect, far, "the two gradients differ here, but not when the function is run again, "
                       "operation by operation")


def _checked(suspect: Suspect, function: Callable[..., Any], primals: Sequence[Any], **options: Any) -> Report:
    """A check of the whole; of the operations one by one only where that is wrong, or a trusted rule hides them."""
    here = _compat.source_line(_compat.current_source())

    def named(*args: Any) -> Any:
        return function(*args)

    named.__name__ = suspect.call.name
    with SIDE(Side.JAX):
        report = check(named, *primals, depth="local" if suspect.trusted else "global", trusted=suspect.trusted,
                       **options)
    # an operation with no frame of the user's around it is where the gradient was asked for, not where we are now
    return dataclasses.replace(report, rows=tuple(
        dataclasses.replace(row, line=suspect.call.line) if row.line in ("", here) else row for row in report.rows))


def _wrong_rows(report: Report) -> tuple[Row, ...]:
    return tuple(row for row in report.rows if row.verdict is Verdict.WRONG)


def _difference(suspect: Suspect, excess: _Excess, reason: str) -> tuple[Verdict, tuple[Row, ...]]:
    row = suspect.call.row(
        Verdict.WRONG, reason, cotangent=excess.path, oracle="jax against funcgrad", ours=excess.found,
        theirs=excess.wanted, allowed=excess.allowed,
        error_rel=abs(excess.found - excess.wanted) / max(abs(excess.wanted), 1e-300))
    return Verdict.WRONG, (row,)


def _without_function(suspect: Suspect, why: str = "") -> tuple[Verdict, tuple[Row, ...]]:
    """A verdict from the two answers alone: wrong where they have hardly a digit in common."""
    far = _far_apart(suspect)
    if far is not None:
        return _difference(suspect, far, "the two gradients differ; the function could not be run again to see "
                           f"where{why}")
    words = f"the gradients differ in their last digits; the function could not be run again to judge that{why}"
    return Verdict.UNSUPPORTED, (suspect.call.row(Verdict.UNSUPPORTED, words),)


def _far_apart(suspect: Suspect, noises: Sequence[float] | None = None) -> _Excess | None:
    """An element in which the two answers agree in less than half of their digits."""
    noises = noises or [0.0] * len(suspect.wanted)
    for path, mine, theirs, noise in zip(_paths(suspect), suspect.found, suspect.wanted, noises, strict=True):
        found, wanted = numbers(mine), numbers(theirs)
        coarse = float(np.sqrt(float(jnp.finfo(theirs.dtype).eps)))
        with np.errstate(invalid="ignore"):
            size = np.where(np.isfinite(wanted), np.abs(wanted), 0.0)
            allowed = coarse * (size + np.max(size, initial=0.0)) + float(jnp.finfo(theirs.dtype).tiny) + noise
            far = ~((np.abs(found - wanted) <= allowed) | (found == wanted) | (np.isnan(found) & np.isnan(wanted)))
        if np.any(far):
            index = tuple(np.argwhere(far)[0])
            place = f"cotangent of {path}{list(map(int, index)) or ''}"
            return _Excess(place, found[index].item(), wanted[index].item(), float(allowed[index]))
    return None
