"""Oracles that need no other reverse mode: the adjoint identity and finite differences, in several directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reference.finite_difference import Estimate, directional_derivative
from tests.cases.case import Args
from tests.harness.compare import Mismatch, conditioning
from tests.harness.products import FAST_COMPILE, Leaves, Problem, Seeds, forward, inexact, is_inexact
from tests.harness.table import generator

#: Directions of each finite difference and each adjoint identity.
DIRECTIONS = 3
#: Largest relative error of a finite difference that still counts as an oracle.
SHARP = 1e-5
EPS = float(np.finfo(np.float64).eps)
#: Rounding errors allowed in an inner product, relative to the sum of its terms' sizes.
ROUNDINGS = 1e3 * EPS


def check_adjoint(problem: Problem, cts: Leaves) -> None:
    """<ct, J t> = <J^T ct, t> with JAX's forward mode."""
    active, rest, seeds = problem.inputs
    push = jax.jit(lambda active, rest, t: forward(problem, active, rest, t), compiler_options=FAST_COMPILE)
    for i in range(DIRECTIONS):
        rng = generator(problem.case, f"adjoint {i}")
        tangents = fresh(seeds["t"], rng)
        # JAX's forward mode rounds too: by as much as its results move with the last place of the inputs.
        spread = conditioning(lambda inputs: push(*inputs), (active, rest, tangents), rng, draws=1)
        slack = 8 * weighted(seeds["ct"], spread)
        same_pairing((seeds["ct"], push(active, rest, tangents)), (cts, tangents), "adjoint identity",
                     ROUNDINGS * problem.case.scale, slack)


def check_numeric(problem: Problem, ours: Callable[..., dict[str, Leaves]], found: dict[str, Leaves]) -> None:
    """Cotangents, and their tangents, against finite differences of the program itself."""
    active, rest, seeds = problem.inputs

    def moved(active: Args, ct: Leaves) -> tuple[Leaves, Leaves]:
        results = ours(active, rest, {**seeds, "ct": ct})
        return inexact(results["value"]), results["cotangent"]

    for i in range(DIRECTIONS):
        rng = generator(problem.case, f"numeric {i}")
        turned: Seeds = {**seeds, "t": fresh(seeds["t"], rng), "t_ct": fresh(seeds["t_ct"], rng)}
        estimate = derivative(moved, problem, turned)
        slope, bend = estimate.value
        slope_error, bend_error = estimate.error
        slack = 4 * weighted(seeds["ct"], slope_error)
        same_pairing((seeds["ct"], slope), (found["cotangent"], turned["t"]), "finite difference",
                     ROUNDINGS * problem.case.scale, slack)
        if problem.case.orders >= 2:
            same_slopes(ours(active, rest, turned)["forward over reverse"], bend, bend_error)


def derivative(fun: Callable[[Args, Leaves], Any], problem: Problem, seeds: Seeds) -> Estimate:
    """The derivative of ``fun(active, ct)`` along (t, t_ct), by finite differences."""
    leaves, tree = jax.tree.flatten(problem.active)
    places = [i for i, leaf in enumerate(leaves) if is_inexact(leaf)]

    def flat(point: tuple[Leaves, Leaves]) -> Any:
        full = dict(enumerate(leaves)) | dict(zip(places, point[0], strict=True))
        return fun(jax.tree.unflatten(tree, full.values()), point[1])

    point = ([leaves[i] for i in places], seeds["ct"])
    return directional_derivative(flat, point, (seeds["t"], seeds["t_ct"]))


def weighted(cts: Leaves, errors: Leaves) -> float:
    """The error of <ct, y> when each element of y has an error."""
    return sum(float(np.sum(np.abs(ct) * error)) for ct, error in zip(cts, errors, strict=True))


def fresh(leaves: Leaves, rng: np.random.Generator) -> Leaves:
    """Another random direction of the same types."""
    return [jnp.asarray(rng.standard_normal(leaf.shape) + (1j * rng.standard_normal(leaf.shape) if np.iscomplexobj(
        leaf) else 0), dtype=leaf.dtype) for leaf in leaves]


def same_pairing(left: tuple[Leaves, Leaves], right: tuple[Leaves, Leaves], where: str, relative: float,
                 absolute: float = 0.0) -> None:
    """Two inner products agree, relative to the sum of their terms' sizes."""
    terms = [[np.real(np.asarray(a) * np.asarray(b)) for a, b in zip(*pair, strict=True)] for pair in (left, right)]
    first, second = (float(sum(np.sum(term) for term in side)) for side in terms)
    size = float(sum(np.sum(np.abs(term)) for side in terms for term in side))
    if not absolute <= SHARP * max(1.0, size):
        raise Mismatch(f"{where}: no oracle here, its error is {absolute:.3g}; say numeric=False and why")
    if not abs(first - second) <= relative * size + absolute + float(np.finfo(np.float64).tiny):
        raise Mismatch(f"{where}: <ct, J t> = {first!r}, <J^T ct, t> = {second!r}")


def same_slopes(given: Leaves, slopes: Leaves, errors: Leaves) -> None:
    """Each element of the tangents lies within the error of its finite difference, and that error is small."""
    for i, (leaf, slope, error) in enumerate(zip(map(np.asarray, given), slopes, errors, strict=True)):
        size = np.maximum(1.0, np.abs(slope))
        allowed = 4 * error + ROUNDINGS * size
        wrong = np.asarray(~((np.abs(leaf - slope) <= allowed) & (allowed <= SHARP * size)))
        if np.any(wrong):
            index = tuple(int(k) for k in np.argwhere(wrong)[0])
            raise Mismatch(f"finite difference of the cotangent, leaf {i} at {list(index)}: given {leaf[index]!r}, "
                           f"wanted {np.asarray(slope)[index]!r} within {np.asarray(allowed)[index]:.3g}")
