"""Activations at their edges, distributions in and out of their support: the derivatives are JAX's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.stats
import numpy as np
import pytest

import funcgrad
from tests.harness.compare import same_type

Arguments = tuple[Any, ...]


def arguments() -> dict[str, Arguments]:
    """What distributions take: one to four vectors."""
    v, w, u = np.random.default_rng(0).uniform(0.15, 0.9, (3, 4)).astype(np.float32)
    return {"v": (v,), "vv": (v, w), "vvv": (v, v + w, w), "vvvv": (v, w, u, v + u)}


def closed(function: Callable[..., Any], args: Arguments) -> tuple[Callable[..., Any], list[Any]]:
    """The function of its inexact arguments alone, which gives its inexact results, and those arguments."""
    leaves, tree = jax.tree.flatten(args)
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def run(*values: Any) -> list[Any]:
        full = list(leaves)
        for place, value in zip(places, values, strict=True):
            full[place] = value
        results = jax.tree.leaves(function(*jax.tree.unflatten(tree, full)))
        return [leaf for leaf in results if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)]

    return run, [leaves[i] for i in places]


def takes(run: Callable[..., Any], values: list[Any]) -> bool:
    """Whether the function takes these arguments and gives something that can be differentiated."""
    try:
        return bool(values) and bool(jax.eval_shape(run, *values))
    except Exception:  # noqa: BLE001 (each function refuses in its own way)
        return False


def weights(leaf: Any) -> np.ndarray:
    """A cotangent that is different for each element."""
    real = np.cos(1.7 * np.arange(leaf.size) + 0.3).reshape(leaf.shape)
    return np.asarray(real * (1 + 0.5j) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else real).astype(leaf.dtype)


def attempt(transforms: Any, run: Callable[..., Any], values: list[Any]) -> Any:
    """Value and cotangents, or the error."""
    try:
        out, pullback = transforms.vjp(run, *values)
        return out, pullback([weights(leaf) for leaf in out])
    except Exception as error:  # noqa: BLE001 (compared by type)
        return error


def difference(given: Any, wanted: Any) -> str | None:
    """In what two attempts differ; None where JAX refuses and funcgrad does not."""
    if isinstance(wanted, Exception):
        return None if not isinstance(given, Exception) or isinstance(given, type(wanted)) else f"raises {given!r}"
    if isinstance(given, Exception):
        return f"raises {given!r}"
    try:
        same_type(given, wanted, "result")
    except AssertionError as error:
        return str(error)
    numbers = [np.asarray(leaf, np.complex128) for leaf in jax.tree.leaves(wanted)]
    scale = max(np.max(np.abs(leaf), where=np.isfinite(leaf), initial=0.0) for leaf in numbers)  # of what was summed
    for ours, theirs, number in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), numbers, strict=True):
        if isinstance(theirs, jax.Array) and not isinstance(ours, jax.Array):
            return f"gives a {type(ours).__name__}"
        eps = float(jnp.finfo(theirs.dtype).eps)
        if not np.allclose(np.asarray(ours, np.complex128), number, rtol=64 * eps, atol=8 * eps * scale + 1e-30,
                           equal_nan=True):
            return f"gives {ours}, JAX {theirs}"
    return None


ACTIVATIONS = ("relu", "relu6", "silu", "gelu", "elu", "celu", "selu", "softplus", "log_sigmoid", "hard_tanh",
               "hard_sigmoid", "hard_swish", "leaky_relu", "soft_sign", "sparse_plus", "squareplus", "mish", "sigmoid")
EDGES = np.array([0, -0.0, 1, -1, 3, -3, 6, 100, -100, np.inf, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_zero_and_far_out(name: str) -> None:
    run = getattr(jax.nn, name)
    assert difference(attempt(funcgrad, lambda x: [run(x)], [EDGES]),
                      attempt(jax, lambda x: [run(x)], [EDGES])) is None


DEAR = ("truncnorm.logpdf", "beta.logpdf")
DISTRIBUTIONS = ("norm.logpdf", "cauchy.logpdf", "laplace.logpdf", "logistic.logpdf", "t.logpdf", "gamma.logpdf",
                 "gamma.cdf", "chi2.logcdf", "expon.logpdf", "beta.logpdf", "uniform.logpdf", "pareto.logpdf",
                 "truncnorm.logpdf", "gennorm.logpdf", "poisson.logpmf")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in DEAR else name
                                  for name in DISTRIBUTIONS])
def test_distributions_inside_and_outside_of_their_support(name: str) -> None:
    module, _, function = name.partition(".")
    kinds = arguments()
    run = getattr(getattr(jax.scipy.stats, module), function)
    fitting = [found for found in (closed(run, kinds[kind]) for kind in ("v", "vv", "vvv", "vvvv")) if takes(*found)]
    assert fitting
    for program, values in fitting:
        for moved in (values, [values[0] - 1, *values[1:]]):
            assert difference(attempt(funcgrad, program, moved), attempt(jax, program, moved)) is None
