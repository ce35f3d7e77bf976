"""The derivative products of a case, written once for any autodiff that has `vjp` and `jvp` with JAX's signatures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from tests.cases.case import Args, Case

Leaves = list[Any]
Seeds = dict[str, Leaves]
# XLA's expensive passes change no derivative and take most of the time of these small programs.
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Autodiff:
    """The two functions from which everything here is built."""

    name: str
    vjp: Callable[..., Any]
    jvp: Callable[..., Any]


OURS = Autodiff("funcgrad", funcgrad.vjp, funcgrad.jvp)
JAX = Autodiff("jax", jax.vjp, jax.jvp)
#: JAX's forward mode over our reverse mode.
MIXED = Autodiff("jax.jvp of funcgrad.vjp", funcgrad.vjp, jax.jvp)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A case at given arguments.

    Attributes:
      case: the case.
      argnums: positions of the differentiated arguments.
      active: those arguments.
      rest: the others, with None at the places of `active`.
      seeds: random inexact arrays: ct (one for each inexact output), t (tangents of `active`), u (cotangents of the
        cotangents of `active`) and t_ct (tangents of ct).
    """

    case: Case
    argnums: tuple[int, ...]
    active: Args
    rest: Args
    seeds: Seeds

    @property
    def inputs(self) -> tuple[Args, Args, Seeds]:
        """What every product is a function of."""
        return self.active, self.rest, self.seeds

    def fun(self, active: Args, rest: Args) -> Any:
        """The case's function, its arguments put together again."""
        given = iter(active)
        return self.case.fun(*(next(given) if i in self.argnums else arg for i, arg in enumerate(rest)))


def make_problem(case: Case, args: Args, rng: np.random.Generator, ones: bool = False) -> Problem:
    """The problem of a case at `args`; with `ones`, the cotangent is all ones, else random."""
    argnums = case.argnums
    if argnums is None:
        argnums = tuple(i for i, arg in enumerate(args) if inexact(arg))
    active = tuple(args[i] for i in argnums)
    rest = tuple(None if i in argnums else arg for i, arg in enumerate(args))
    out = jax.eval_shape(Problem(case, argnums, (), (), {}).fun, active, rest)

    def seed(tree: Any) -> Leaves:
        return [_random_like(leaf, rng) for leaf in inexact(tree)]

    ct = [jnp.ones(leaf.shape, leaf.dtype) for leaf in inexact(out)] if ones else seed(out)
    return Problem(case, argnums, active, rest, {"ct": ct, "t": seed(active), "u": seed(active), "t_ct": seed(out)})


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is floating or complex, so that its cotangent holds numbers."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def inexact(tree: Any) -> Leaves:
    """The floating and complex leaves of a tree."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]


def fill(tree: Any, leaves: Leaves) -> Any:
    """A tangent or cotangent of `tree`: the given leaves at its inexact places, float0 zeros at the others."""
    given = iter(leaves)
    return jax.tree.map(
        lambda leaf: next(given) if is_inexact(leaf) else np.zeros(leaf.shape, jax.dtypes.float0), tree)


def _random_like(leaf: Any, rng: np.random.Generator) -> jax.Array:
    values = rng.standard_normal(leaf.shape)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        values = values + 1j * rng.standard_normal(leaf.shape)
    return jnp.asarray(values, dtype=leaf.dtype)


def first_order(ad: Autodiff, problem: Problem, active: Args, rest: Args, ct: Leaves) -> tuple[Any, Args]:
    """(value, cotangents of the active arguments), complete trees."""
    out, pullback = ad.vjp(lambda *a: problem.fun(a, rest), *active)
    return out, pullback(fill(out, ct))


def reverse_over_reverse(ad: Autodiff, problem: Problem, active: Args, rest: Args, seeds: Seeds) -> Leaves:
    """Cotangents of (active, ct) in the map to the first cotangents."""
    _, pullback = ad.vjp(lambda a, ct: inexact(first_order(ad, problem, a, rest, ct)[1]), active, seeds["ct"])
    return inexact(pullback(seeds["u"]))


def forward_over_reverse(ad: Autodiff, problem: Problem, active: Args, rest: Args, seeds: Seeds) -> Leaves:
    """The tangent of the first cotangents when (active, ct) move along (t, t_ct)."""
    _, tangents = ad.jvp(lambda a, ct: inexact(first_order(ad, problem, a, rest, ct)[1]),
                         (active, seeds["ct"]), (fill(active, seeds["t"]), seeds["t_ct"]))
    return tangents


def products(ad: Autodiff, problem: Problem, orders: int, mixed: bool = False) -> Callable[..., dict[str, Leaves]]:
    """A jitted function ``(active, rest, seeds) -> {name: leaves}`` of all products: one program, one compilation."""

    def run(active: Args, rest: Args, seeds: Seeds) -> dict[str, Leaves]:
        value, cts = first_order(ad, problem, active, rest, seeds["ct"])
        found = {"value": jax.tree.leaves(value), "cotangent": inexact(cts)}
        if orders >= 2:
            found["reverse over reverse"] = reverse_over_reverse(ad, problem, active, rest, seeds)
            found["forward over reverse"] = forward_over_reverse(ad, problem, active, rest, seeds)
            if mixed:
                found["jax.jvp of reverse"] = forward_over_reverse(MIXED, problem, active, rest, seeds)
        return found

    return jax.jit(run, compiler_options=FAST_COMPILE)


def forward(problem: Problem, active: Args, rest: Args, tangents: Leaves) -> Leaves:
    """J t by JAX's forward mode, the inexact outputs only."""
    _, moved = jax.jvp(lambda *a: problem.fun(a, rest), active, fill(active, tangents))
    return [leaf for leaf in jax.tree.leaves(moved) if leaf.dtype != jax.dtypes.float0]
