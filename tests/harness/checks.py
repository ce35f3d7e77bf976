"""One function for each comparison of a case. Each raises `Mismatch`; the meta-tests hold that it does."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from tests.cases.case import Args, Boundary, Case
from tests.harness.compare import NUDGES, Mismatch, conditioning, same_type, same_values
from tests.harness.identities import check_adjoint, check_numeric
from tests.harness.products import (
    FAST_COMPILE,
    JAX,
    OURS,
    Leaves,
    Problem,
    first_order,
    inexact,
    is_inexact,
    make_problem,
    products,
)
from tests.harness.table import CLOSE_CALL, cast, draw, epsilon, generator, precision


def check_eager(case: Case, dtype: str) -> None:
    """Value and cotangents op by op: complete trees, types, weak types and every element, against `jax.vjp`."""
    with precision(dtype):
        problem = make_problem(case, cast(draw(case), dtype), generator(case, "seeds"))
        active, rest, seeds = problem.inputs
        value, cts = first_order(OURS, problem, active, rest, seeds["ct"])
        same_cotangent_types(cts, active)
        same_types_as_untraced(problem, value)
        if case.jax_agrees:
            oracle = jax.jit(lambda *inputs: first_order(JAX, problem, *inputs), compiler_options=FAST_COMPILE)
            wanted_value, wanted = oracle(active, rest, seeds["ct"])
            same_type(value, wanted_value, "value")
            spread = conditioning(lambda inputs: inexact(oracle(*inputs)), (active, rest, seeds["ct"]),
                                  generator(case, "nudge"))
            count = len(inexact(wanted_value))
            same_leaves(value, wanted_value, "value", spread[:count], epsilon(dtype))
            same_values(inexact(cts), inexact(wanted), "cotangent", spread=spread[count:], eps=epsilon(dtype),
                        scale=case.scale)


def same_leaves(given: Any, wanted: Any, where: str, spread: Leaves, eps: float) -> None:
    """Two trees of results: numbers as closely as they are conditioned (a contraction rounds in its compiler's own
    order), everything else exactly."""
    exact = [[leaf for leaf in jax.tree.leaves(tree) if not is_inexact(leaf)] for tree in (given, wanted)]
    same_values(*exact, where)
    same_values(inexact(given), inexact(wanted), where, spread=spread, eps=eps, nan=True)


def same_types_as_untraced(problem: Problem, value: Any) -> None:
    """The value has the types that the function gives without a trace."""
    same_type(value, problem.fun(problem.active, problem.rest), "value, against the untraced function")


def same_cotangent_types(cts: Args, active: Args) -> None:
    """Each cotangent has its argument's structure, shape and dtype, float0 for what is no number."""

    def wanted(leaf: Any) -> Any:
        return leaf if is_inexact(leaf) else np.zeros(leaf.shape, jax.dtypes.float0)

    same_type(cts, jax.tree.map(wanted, active), "cotangent, against its argument")


def check_compiled_sweep(case: Case, dtype: str) -> None:
    """The gradient of a scalar outside of `jit`, where the sweep is one program compiled in a way of its own.

    Against the same in `jit`: what is compared is the compilation.
    """
    with precision(dtype):
        problem = make_problem(case, cast(draw(case), dtype), generator(case, "seeds"))
        active, rest, seeds = problem.inputs

        def weighted(*active: Any) -> Any:
            leaves = zip(inexact(problem.fun(active, rest)), seeds["ct"], strict=True)
            return sum((jnp.sum(jnp.real(leaf * ct).astype(dtype)) for leaf, ct in leaves), start=jnp.zeros((), dtype))

        gradient = funcgrad.grad(weighted, tuple(range(len(active))))
        compiled = jax.jit(gradient)
        wanted = inexact(compiled(*active))
        spread = conditioning(lambda inputs: inexact(compiled(*inputs)), active, generator(case, "nudge"))
        same_values(inexact(gradient(*active)), wanted, "cotangent", spread=spread, eps=epsilon(dtype),
                    scale=case.scale, nan=True)


def check_jitted(case: Case, dtype: str) -> None:
    """All products of order 1 and 2 in one compiled program, against JAX's, finite differences and the adjoint."""
    with precision(dtype):
        problem = make_problem(case, cast(draw(case), dtype), generator(case, "seeds"))
        ours = products(OURS, problem, case.orders, mixed=case.jax_agrees)
        found = ours(*problem.inputs)
        if case.jax_agrees:
            compare_with_jax(problem, found, epsilon(dtype))
            if dtype == "float64":
                check_adjoint(problem, found["cotangent"])
        if case.numeric and dtype == "float64":
            check_numeric(problem, ours, found)


def compare_with_jax(problem: Problem, found: dict[str, Leaves], eps: float) -> None:
    """Every product against JAX's, each element as closely as its conditioning allows."""
    oracle = products(JAX, problem, problem.case.orders)
    try:
        compare_products(problem, found, oracle, eps)
    except Mismatch:
        compare_products(problem, found, oracle, eps, close_call=True)


def compare_products(problem: Problem, found: dict[str, Leaves], oracle: Any, eps: float,
                     close_call: bool = False) -> None:
    """One comparison. A close call is judged with more nudges, which find the direction in which a sum moves most, and
    with the rounding of each leaf's largest element: jax.vjp's second order subtracts large parts of some small ones.
    """
    case = problem.case
    wanted = oracle(*problem.inputs)
    names = [name for name in wanted if name != "value"]

    def all_products(inputs: Any) -> Leaves:
        results = oracle(*inputs)
        return inexact(results["value"]) + [leaf for name in names for leaf in results[name]]

    spreads = iter(conditioning(all_products, problem.inputs, generator(case, "nudge"),
                                CLOSE_CALL if close_call else NUDGES))
    value_spread = [next(spreads) for _ in inexact(wanted["value"])]
    same_leaves(found["value"], wanted["value"], "value", value_spread, eps)
    for name in names:
        spread = [next(spreads) + close_call * eps * np.max(np.abs(leaf), initial=0.0) for leaf in wanted[name]]
        same_values(found[name], wanted[name], name, spread=spread, eps=eps, scale=case.scale)
        if name == "forward over reverse":
            same_values(found["jax.jvp of reverse"], wanted[name], "jax.jvp of reverse", spread=spread, eps=eps,
                        scale=case.scale)


def check_boundary(case: Case, boundary: Boundary, dtype: str, jitted: bool = False) -> None:
    """Cotangents of an all-ones seed at a special point: the stated ones, or JAX's."""
    with precision(dtype):
        problem = make_problem(case, cast(boundary.args, dtype), generator(case, "seeds"), ones=True)
        active, rest, seeds = problem.inputs

        def run(ad: Any, jitted: bool) -> Leaves:
            def function(*inputs: Any) -> Leaves:
                return inexact(first_order(ad, problem, *inputs)[1])

            return (jax.jit(function) if jitted else function)(active, rest, seeds["ct"])

        given = run(OURS, jitted)
        tolerance = {"eps": epsilon(dtype), "scale": case.scale, "nan": boundary.nan}
        if boundary.expected is not None:
            same_values(given, inexact(cast(boundary.expected, dtype)), f"at {boundary.label}", **tolerance)
            if boundary.why or not case.jax_agrees:
                return  # JAX says something else there
        try:
            same_values(given, run(JAX, True), f"at {boundary.label}", **tolerance)
        except Mismatch:  # XLA rewrites 0/0 of a compiled `jax.vjp`: what it says op by op counts then
            same_values(given, run(JAX, False), f"at {boundary.label}, JAX op by op", **tolerance)
