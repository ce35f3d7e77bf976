"""The items of the battery for one rule: each asks one question of it, and answers with a row.

An item takes a `Subject` and gives a `Finding`, or None when all is well. An exception in the rule is a finding too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad.crosscheck.compare import epsilon, largest, numbers
from funcgrad.crosscheck.report import Verdict

Array = Any
Leaves = list[Any]

#: Roundings allowed between two ways to compute the same numbers.
ROUNDINGS = 32.0
#: Batch size and steps of the items `under vmap` and `inside scan`.
COPIES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A rule, as a map between flat lists of floating and complex arrays.

    Attributes:
      fun: gives the function's floating outputs from its floating inputs; the other inputs are fixed.
      xs: where it is looked at.
      vjp: JAX's or funcgrad's.
      seed: of random cotangents and directions.
    """

    fun: Callable[..., Leaves]
    xs: Leaves
    vjp: Callable[..., Any]
    seed: int = 0

    def pull(self, xs: Leaves, cts: Leaves) -> Leaves:
        """Cotangents of the inputs."""
        return list(self.vjp(self.fun, *xs)[1](cts))

    def random_cts(self, stream: int = 0, xs: Leaves | None = None) -> Leaves:
        """A random cotangent for each output."""
        rng = np.random.default_rng((self.seed, stream))
        return [random_like(leaf, rng) for leaf in jax.eval_shape(self.fun, *(self.xs if xs is None else xs))]

    def moved(self, cts: Leaves, xs: Leaves | None = None) -> list[np.ndarray]:
        """How far each cotangent moves when the inputs move by one last place."""
        rng = np.random.default_rng((self.seed, 1))
        here = self.xs if xs is None else xs
        centre = list(map(numbers, self.pull(here, cts)))
        found = [np.zeros(leaf.shape) for leaf in centre]
        for _draw in range(3):
            near = list(map(numbers, self.pull([nudged(x, rng) for x in here], cts)))
            with np.errstate(invalid="ignore"):
                found = [np.fmax(m, np.abs(a - b)) for m, a, b in zip(found, near, centre, strict=True)]
        return [np.where(np.isfinite(m), m, 0.0) for m in found]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong, in words, and the two numbers that show it."""

    reason: str
    where: str = ""
    given: complex | None = None
    wanted: complex | None = None
    allowed: float | None = None
    verdict: Verdict = Verdict.WRONG


Item = Callable[[Subject], Finding | None]


def random_like(leaf: Any, rng: np.random.Generator) -> Array:
    """Standard normal numbers of a leaf's shape and dtype."""
    values = rng.standard_normal(leaf.shape)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        values = values + 1j * rng.standard_normal(leaf.shape)
    return jnp.asarray(values, leaf.dtype)


def nudged(x: Any, rng: np.random.Generator) -> Array:
    """Each element one unit in the last place to one side."""
    signs = rng.choice([-1.0, 1.0], x.shape)
    return jnp.asarray(numbers(x) * (1 + signs * float(jnp.finfo(x.dtype).eps)), x.dtype)


def first_difference(given: Sequence[Any], wanted: Sequence[Any], reason: str, name: str,
                     moved: Sequence[np.ndarray] | None = None, eps: float | None = None) -> Finding | None:
    """The first leaf that differs by more than rounding, its worst element; NaN must be met by NaN."""
    for i, (mine, theirs) in enumerate(zip(given, wanted, strict=True)):
        a, b = numbers(mine), numbers(theirs)
        unit = max(eps or 0.0, epsilon([theirs]))
        allowed = ROUNDINGS * unit * (np.where(np.isfinite(b), np.abs(b), 0.0) + largest(b)) + float(
            jnp.finfo(theirs.dtype).tiny)
        if moved is not None:
            allowed = allowed + 8 * moved[i]
        with np.errstate(invalid="ignore"):
            same = (np.abs(a - b) <= allowed) | (a == b) | (np.isnan(a) & np.isnan(b))
        if not np.all(same):
            index = tuple(map(int, np.argwhere(~same)[0]))
            return Finding(reason, f"{name}{i}{list(index) if index else ''}", a[index].item(), b[index].item(),
                           float(np.broadcast_to(allowed, b.shape)[index]))
    return None


OPERAND = "cotangent of operand "

# ---- types ----


def types(subject: Subject) -> Finding | None:
    """One cotangent for each input, of its shape and dtype."""
    cts = subject.pull(subject.xs, subject.random_cts())
    for i, (ct, x) in enumerate(zip(cts, subject.xs, strict=True)):
        if ct.shape != x.shape or ct.dtype != x.dtype:
            return Finding(f"the cotangent is {ct.dtype}{list(ct.shape)}, the operand {x.dtype}{list(x.shape)}",
                           f"{OPERAND}{i}")
    return None


def value(subject: Subject) -> Finding | None:
    """The function has the same value whether it is differentiated or not."""
    return first_difference(subject.vjp(subject.fun, *subject.xs)[0], subject.fun(*subject.xs),
                            "the function's value is another one when it is differentiated", "output ")


# ---- linear in the cotangent ----


def additive(subject: Subject) -> Finding | None:
    """J^T (a + b) = J^T a + J^T b."""
    first, second = subject.random_cts(1), subject.random_cts(2)
    both = subject.pull(subject.xs, [a + b for a, b in zip(first, second, strict=True)])
    parts = [subject.pull(subject.xs, cts) for cts in (first, second)]
    allowed = [ROUNDINGS * epsilon([a]) * np.asarray(largest(numbers(a)) + largest(numbers(b))) / 8
               for a, b in zip(*parts, strict=True)]
    return first_difference(both, [a + b for a, b in zip(*parts, strict=True)],
                            "not additive: the cotangent of a sum is not the sum of the cotangents", OPERAND, allowed)


def homogeneous(subject: Subject) -> Finding | None:
    """J^T (c ct) = c J^T ct, also for negative and for small c."""
    cts = subject.random_cts(1)
    once = subject.pull(subject.xs, cts)
    for factor in (-2.0, 0.0078125, 64.0):  # powers of two: exact
        scaled = subject.pull(subject.xs, [(factor * ct).astype(ct.dtype) for ct in cts])
        found = first_difference(scaled, [(factor * ct).astype(ct.dtype) for ct in once],
                                 f"not homogeneous: it does not scale with the incoming cotangent (factor {factor})",
                                 OPERAND)
        if found is not None:
            return found
    return None


def zero_to_zero(subject: Subject) -> Finding | None:
    """J^T 0 = 0."""
    cts = subject.pull(subject.xs, [jnp.zeros_like(ct) for ct in subject.random_cts()])
    return first_difference(cts, [jnp.zeros_like(ct) for ct in cts], "a cotangent of zeros does not give zeros",
                            OPERAND)


# ---- zeros that are known ----


def one_output_at_a_time(subject: Subject) -> Finding | None:
    """An output that nobody differentiates counts as a cotangent of zeros."""
    cts = subject.random_cts()
    if len(cts) < 2:
        return None
    for chosen in range(len(cts)):
        alone = dataclasses.replace(subject, fun=lambda *xs, chosen=chosen: [subject.fun(*xs)[chosen]])
        given = alone.pull(subject.xs, [cts[chosen]])
        wanted = subject.pull(subject.xs, [ct if i == chosen else jnp.zeros_like(ct) for i, ct in enumerate(cts)])
        found = first_difference(given, wanted, f"output {chosen} alone is differentiated: a symbolic zero and an "
                                 "array of zeros give different cotangents", OPERAND)
        if found is not None:
            return found
    return None


def one_input_at_a_time(subject: Subject) -> Finding | None:
    """A cotangent does not depend on which other inputs are differentiated."""
    cts = subject.random_cts()
    together = subject.pull(subject.xs, cts)
    if len(subject.xs) < 2:
        return None
    for chosen, x in enumerate(subject.xs):
        def alone(moving: Array, chosen: int = chosen) -> Leaves:
            return subject.fun(*subject.xs[:chosen], moving, *subject.xs[chosen + 1:])

        given = subject.vjp(alone, x)[1](cts)
        found = first_difference(given, [together[chosen]], f"operand {chosen} alone is differentiated: its cotangent "
                                 "is another one than when all are", OPERAND)
        if found is not None:
            return found
    return None


# ---- purity ----


def inputs_untouched(subject: Subject) -> Finding | None:
    """The arrays that were handed in are as before."""
    given = [np.array(x) for x in subject.xs]
    before = [x.copy() for x in given]
    cts = [np.array(ct) for ct in subject.random_cts()]
    cts_before = [ct.copy() for ct in cts]
    subject.fun(*given)
    subject.vjp(subject.fun, *given)[1](cts)
    for i, (mine, theirs) in enumerate(zip(given + cts, before + cts_before, strict=True)):
        if mine.tobytes() != theirs.tobytes():
            what = f"operand {i}" if i < len(given) else f"the incoming cotangent {i - len(given)}"
            return Finding(f"the rule writes into {what}")
    return None


def deterministic(subject: Subject) -> Finding | None:
    """The same bits again: of the same pullback, and of a new one."""
    cts = subject.random_cts()
    _, pullback = subject.vjp(subject.fun, *subject.xs)
    first, second, anew = list(pullback(cts)), list(pullback(cts)), subject.pull(subject.xs, cts)
    for again, reason in ((second, "called twice, the pullback gives another cotangent"),
                          (anew, "differentiated twice, the function gives another cotangent")):
        for i, (mine, theirs) in enumerate(zip(first, again, strict=True)):
            if np.asarray(mine).tobytes() != np.asarray(theirs).tobytes():
                found = first_difference([theirs], [mine], reason, f"{OPERAND}{i}, leaf ", eps=0.0)
                return found or Finding(reason, f"{OPERAND}{i}")
    return None


# ---- under transformations ----


def under_jit(subject: Subject) -> Finding | None:
    """Compiled, the cotangents are the same."""
    cts = subject.random_cts()
    return first_difference(jax.jit(subject.pull)(subject.xs, cts), subject.pull(subject.xs, cts),
                            "under jit the cotangent is another one", OPERAND, subject.moved(cts))


def under_vmap(subject: Subject) -> Finding | None:
    """A batch is like its elements one by one."""
    points, cts, wanted, moved = _copies(subject)
    given = jax.vmap(subject.pull)(_stacked(points), _stacked(cts))
    return first_difference(given, wanted, "under vmap (the first axis) the cotangent is another one", OPERAND, moved)


def inside_scan(subject: Subject) -> Finding | None:
    """The steps of a scan are like calls one by one, differentiated through the scan."""
    points, cts, wanted, moved = _copies(subject)

    def steps(*stacked: Array) -> Leaves:
        return jax.lax.scan(lambda carry, xs: (carry, subject.fun(*xs)), 0.0, list(stacked))[1]

    given = subject.vjp(steps, *_stacked(points))[1](_stacked(cts))
    return first_difference(given, wanted, "inside scan (the first axis is the step) the cotangent is another one",
                            OPERAND, moved)


def _copies(subject: Subject) -> tuple[list[Leaves], list[Leaves], Leaves, list[np.ndarray]]:
    """A few points near the first, cotangents there, the pulled ones, and how far rounding moves them."""
    points = [[(x * (1 + k / 16)).astype(x.dtype) for x in subject.xs] for k in range(COPIES)]
    cts = [subject.random_cts(3 + k) for k in range(COPIES)]
    pulled = [subject.pull(xs, ct) for xs, ct in zip(points, cts, strict=True)]
    moved = [subject.moved(ct, xs) for xs, ct in zip(points, cts, strict=True)]
    return points, cts, _stacked(pulled), [np.stack(some) for some in zip(*moved, strict=True)]


def _stacked(rows: Sequence[Leaves]) -> Leaves:
    return [jnp.stack(leaves) for leaves in zip(*rows, strict=True)]


# ---- precision ----


def in_low_precision(subject: Subject) -> Finding | None:
    """In bfloat16 and float16: cotangents of that dtype, near those in the precision given."""
    if any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in subject.xs):
        return None
    for dtype in (jnp.bfloat16, jnp.float16):
        xs = [x.astype(dtype) for x in subject.xs]
        try:
            cts = subject.random_cts(xs=xs)
        except Exception as error:
            return Finding(f"the function takes no {dtype.__name__}: {error}", verdict=Verdict.UNSUPPORTED)
        given = subject.pull(xs, cts)
        for i, ct in enumerate(given):
            if ct.dtype != dtype:
                return Finding(f"in {dtype.__name__} the cotangent is {ct.dtype}", f"{OPERAND}{i}")
        wide = [x.astype(old.dtype) for x, old in zip(xs, subject.xs, strict=True)]
        outs = subject.random_cts(xs=wide)
        wanted = subject.pull(wide, [ct.astype(out.dtype) for ct, out in zip(cts, outs, strict=True)])
        moved = [_moved_by(subject, wide, [c.astype(o.dtype) for c, o in zip(cts, outs, strict=True)], dtype)][0]
        found = first_difference(given, wanted, f"in {dtype.__name__} the cotangent is another one", OPERAND, moved,
                                 float(jnp.finfo(dtype).eps) / 2)
        if found is not None and np.all(np.isfinite([abs(found.given or 0), abs(found.wanted or 0)])):
            return found
    return None


def _moved_by(subject: Subject, xs: Leaves, cts: Leaves, dtype: Any) -> list[np.ndarray]:
    """How far cotangents move when the inputs move by one last place of a lower precision."""
    rng = np.random.default_rng((subject.seed, 2))
    centre = list(map(numbers, subject.pull(xs, cts)))
    found = [np.zeros(leaf.shape) for leaf in centre]
    for _draw in range(3):
        near = [jnp.asarray(numbers(x) * (1 + rng.choice([-1.0, 1.0], x.shape) * float(jnp.finfo(dtype).eps)), x.dtype)
                for x in xs]
        found = [np.fmax(m, np.abs(numbers(a) - b)) for m, a, b in zip(
            found, subject.pull(near, cts), centre, strict=True)]
    return [np.where(np.isfinite(m), m, 0.0) for m in found]


# ---- boundary values ----


def boundary_points(xs: Leaves) -> Iterator[tuple[str, Leaves]]:
    """The inputs replaced, all at once, by values at which formulas break."""
    for name in ("0", "-0", "tiny", "huge", "ties"):
        yield name, [_boundary(name, x) for x in xs]


def _boundary(name: str, x: Array) -> Array:
    info = jnp.finfo(x.dtype)
    if name == "ties":
        return jnp.full_like(x, x.ravel()[0] if x.size else 0)
    fill = {"0": 0.0, "-0": -0.0, "tiny": float(info.tiny) ** 0.5, "huge": float(info.max) ** 0.25}[name]
    return jnp.full_like(x, fill)
