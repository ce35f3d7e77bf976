"""How many wrong rules `funcgrad.check` catches, and how often it blames the right one.

    python -m experiments.mutation_score
    python -m experiments.mutation_score --shard 0 --shards 8 --save shard0.json     an eighth of them
    python -m experiments.mutation_score --read shard*.json                          the figures of all shards

Every rule of the table that can have a cotangent is made wrong in every way of `tests.harness.mutants`, one way at a
time, and a program of the case table that uses it is checked. A mutant counts when it is asked and changes a number:
one that gives the same cotangents as the right rule to the last places (a transposed symmetric matrix) is no mutant.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from funcgrad.caches import clear_caches
from funcgrad.crosscheck.compare import is_inexact
from funcgrad.crosscheck.problem import our_vjp
from funcgrad.crosscheck.report import Report, Row
from funcgrad.registry import lookup, rules
from funcgrad.rule import MapClass
from tests.cases.case import Case
from tests.harness.mutants import ALL_KINDS, AT_ZERO, forget_staged, mutated
from tests.harness.table import CASES, best_dtype, cast, draw, precision, ruled_primitives

#: Elements of an elementwise program's arguments when one of them is wrong.
MANY = 10_000
#: So many mutants share what was compiled: Linux maps no more than 65,530 pieces of memory for a process.
TOGETHER = 4
#: Primitives whose mutants need several devices or a mutable array.
LEFT_OUT = frozenset({"shard_map"})


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One wrong rule and the program that is checked."""

    case: Case
    primitive: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the check said; `blamed` is the name in the first failing row."""

    mutant: Mutant
    state: str  # "caught", "escaped", "same" (no number changes), "not asked", "alarm" (wrong without the mutant),
    # "singular" (the program has no derivative at zero)
    blamed: str = ""

    @property
    def right(self) -> bool:
        """Whether the blame is on the primitive whose rule is wrong."""
        return self.blamed == self.mutant.primitive


def mutants() -> Iterator[Mutant]:
    """For each primitive the first case that uses it, and every kind of fault."""
    used = set(LEFT_OUT)
    for case in CASES:
        for name in ruled_primitives(case):
            if name not in used:
                used.add(name)
                yield from (Mutant(case, name, kind) for kind in ALL_KINDS if _applies(name, kind))


def _applies(name: str, kind: str) -> bool:
    (primitive,) = (p for p in rules() if p.name == name)
    rule = lookup(primitive)
    assert rule is not None
    if kind == AT_ZERO:
        return rule.kind is MapClass.POINTWISE
    return kind != "second order" or rule.kind is not MapClass.HIGHER_ORDER  # its pullback is made of other rules


def run(mutant: Mutant) -> Outcome:
    """Check the mutant's program with the right rule's cotangents at hand."""
    case, dtype = mutant.case, best_dtype(mutant.case)
    with precision(dtype):
        args = cast(_arguments(mutant), dtype)
        order = 2 if mutant.kind == "second order" else 1
        if mutant.kind == "under vmap" and not _can_be_mapped(case, args):
            return Outcome(mutant, "not asked")
        right = _cotangents(case, args, order)
        with mutated(mutant.primitive, mutant.kind, forget=forget_staged) as calls:
            wrong = None if mutant.kind == "under vmap" else _cotangents(case, args, order)
            if not calls and mutant.kind != "under vmap":
                return Outcome(mutant, "not asked")
            if wrong is not None and _same(right, wrong):
                return Outcome(mutant, "same")
            report = _check(case, args, order)
            if not calls:
                return Outcome(mutant, "not asked")
        ours = _ours(report)
        if not ours:
            return Outcome(mutant, "escaped")
        clean = _is_right(case.name, mutant.kind if mutant.kind in (AT_ZERO, "one in many") else "", order,
                          lambda: _check(case, args, order))
        if not clean and mutant.kind == AT_ZERO:
            return Outcome(mutant, "singular")
        return Outcome(mutant, "caught" if clean else "alarm", ours[0].name)


def _can_be_mapped(case: Case, args: Any) -> bool:
    """Whether JAX has a batching rule for what is mapped over the operands that are differentiated."""
    def moves(i: int, arg: Any) -> bool:
        return any(map(is_inexact, jax.tree.leaves(arg))) and (case.argnums is None or i in case.argnums)

    axes = tuple(0 if moves(i, arg) else None for i, arg in enumerate(args))
    twice = tuple(arg if axis is None else jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), arg)
                  for arg, axis in zip(args, axes, strict=True))
    try:
        jax.eval_shape(jax.vmap(case.fun, axes), *twice)
    except NotImplementedError:
        return False
    return True


# What is said without the mutant, by case, arguments and order: asked once for all of a case's mutants.
_RIGHT: dict[tuple[str, str, int], bool] = {}


def _is_right(case: str, arguments: str, order: int, check: Callable[[], Report]) -> bool:
    key = (case, arguments, order)
    if key not in _RIGHT:
        _RIGHT[key] = not _ours(check())
    return _RIGHT[key]


def _ours(report: Report) -> list[Row]:
    """The failing rows that are not JAX's fault alone: some of its own rules are wrong, mutant or not."""
    return [row for row in report.failing if row.subject != "jax"]


def _check(case: Case, args: Any, order: int) -> Report:
    return funcgrad.check(case.fun, *args, argnums=case.argnums, order=order)


def _arguments(mutant: Mutant) -> Any:
    """The case's arguments; at a zero for faults there, long arrays where one element of many is wrong."""
    args = draw(mutant.case)
    if mutant.kind == AT_ZERO:
        return tuple(_with_zero(arg) for arg in args)
    if mutant.kind == "one in many" and _is_elementwise(mutant.primitive, args):
        return tuple(np.resize(arg, (MANY,)) if np.ndim(arg) == 1 else arg for arg in args)
    return args


def _is_elementwise(name: str, args: Any) -> bool:
    (primitive,) = (p for p in rules() if p.name == name)
    rule = lookup(primitive)
    assert rule is not None
    return rule.kind is MapClass.POINTWISE and all(np.ndim(arg) == 1 for arg in args)


def _with_zero(arg: Any) -> Any:
    if isinstance(arg, np.ndarray) and arg.dtype.kind in "fc" and arg.size:
        arg = arg.copy()
        arg.flat[0] = 0
    return arg


def _cotangents(case: Case, args: Any, order: int) -> list[np.ndarray] | None:
    """The cotangents for a random seed (of order 2: those of the map to them); None when the rule gives unfit ones."""
    chosen = [i for i, arg in enumerate(args) if case.argnums is None or i in case.argnums]
    leaves, tree = jax.tree.flatten([args[i] for i in chosen])

    def flat(*values: Any) -> list[Any]:
        full = list(args)
        for i, arg in zip(chosen, tree.unflatten(values), strict=True):
            full[i] = arg
        return [leaf for leaf in jax.tree.leaves(case.fun(*full)) if is_inexact(leaf)]

    def first(*values: Any) -> list[Any]:
        found = our_vjp(flat, values[: len(leaves)], values[len(leaves):])
        return [leaf for leaf in found if leaf.dtype != jax.dtypes.float0]

    try:
        inputs = [*leaves, *_seeds(flat(*leaves))]
        found = first(*inputs)
        return list(map(np.asarray, found if order == 1 else our_vjp(first, inputs, _seeds(found))))
    except Exception:  # an unfit cotangent is certainly not the right one
        return None


def _seeds(outputs: list[Any]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(out.shape), out.dtype) for out in outputs]


def _same(right: list[np.ndarray] | None, wrong: list[np.ndarray] | None) -> bool:
    """Whether the mutant changes no number by more than a rounding."""
    if right is None or wrong is None:
        return False
    for a, b in zip(right, wrong, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.dtype != jax.dtypes.float0 and not np.allclose(a.astype(np.complex128), b.astype(np.complex128),
                                                            rtol=1e-12, atol=1e-300, equal_nan=True):
            return False
    return True


@dataclasses.dataclass(frozen=True)
class Score:
    """How many mutants were caught, and of these how many were blamed on the right primitive."""

    outcomes: tuple[Outcome, ...]

    def count(self, *states: str) -> int:
        """How many outcomes are in one of these states."""
        return sum(outcome.state in states for outcome in self.outcomes)

    @property
    def blamed(self) -> int:
        """How many of the caught are blamed on the right primitive."""
        return sum(outcome.state == "caught" and outcome.right for outcome in self.outcomes)

    def lines(self) -> list[str]:
        """The figures, and each mutant that escaped or was blamed on another primitive."""
        caught, real = self.count("caught"), self.count("caught", "escaped", "alarm")
        found = [f"mutants that change a number: {real}", f"caught: {caught} ({_percent(caught, real)})",
                 f"blamed on the right primitive: {self.blamed} ({_percent(self.blamed, caught)} of the caught)",
                 f"left out: {self.count('same')} change no number, {self.count('not asked')} are never asked, "
                 f"{self.count('singular')} are where the program has no derivative"]
        kinds = collections.Counter(outcome.mutant.kind for outcome in self.outcomes
                                    if outcome.state in ("caught", "escaped", "alarm"))
        found.append("by fault: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
        return found + [f"  {outcome.state}: {outcome.mutant.primitive}, {outcome.mutant.kind}, in "
                        f"`{outcome.mutant.case.name}`" + (f", blamed on `{outcome.blamed}`" if outcome.blamed else "")
                        for outcome in self.outcomes
                        if outcome.state in ("escaped", "alarm") or (outcome.state == "caught" and not outcome.right)]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def score(chosen: Sequence[Mutant], seconds: float = float("inf"), progress: bool = False) -> Score:
    """Run mutants, as many as the time allows."""
    start, outcomes = time.monotonic(), []
    for index, mutant in enumerate(chosen):
        if time.monotonic() - start > seconds:
            break
        if index % TOGETHER == TOGETHER - 1:
            clear_caches()
        outcomes.append(run(mutant))
        if progress and index % 20 == 0:
            print(f"{index}/{len(chosen)}", file=sys.stderr, flush=True)
    return Score(tuple(outcomes))


def saved(found: Score) -> list[dict[str, str]]:
    """The outcomes as JSON knows them."""
    return [{"case": o.mutant.case.name, "primitive": o.mutant.primitive, "kind": o.mutant.kind, "state": o.state,
             "blamed": o.blamed} for o in found.outcomes]


def restored(entries: Sequence[dict[str, str]]) -> Score:
    """The score that `saved` wrote."""
    cases = {case.name: case for case in CASES}
    return Score(tuple(Outcome(Mutant(cases[e["case"]], e["primitive"], e["kind"]), e["state"], e["blamed"])
                       for e in entries))


def main() -> None:
    """Print the score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10**9, help="at most so many, spread over the table")
    parser.add_argument("--kind", choices=ALL_KINDS, help="only mutants of this kind")
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start none after so many seconds")
    parser.add_argument("--save", type=Path, help="write the outcomes to this file")
    parser.add_argument("--read", type=Path, nargs="+", help="run nothing, print the figures of these files")
    options = parser.parse_args()
    if options.read:
        entries = [entry for path in options.read for entry in json.loads(path.read_text())]
        print("\n".join(restored(entries).lines()))
        return
    jax.config.update("jax_platforms", "cpu")
    chosen = [mutant for mutant in mutants() if options.kind in (None, mutant.kind)]
    chosen = chosen[:: max(1, len(chosen) // options.mutants)]
    first, last = (len(chosen) * k // options.shards for k in (options.shard, options.shard + 1))
    found = score(chosen[first:last], options.seconds, progress=True)
    if options.save:
        options.save.write_text(json.dumps(saved(found)))
    print("\n".join(found.lines()))


if __name__ == "__main__":
    main()
