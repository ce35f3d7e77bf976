"""Collectives under `vmap` here, and `shard_map` and meshes on 8 forced host devices in a process of their own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.sharding.programs import EXPLICIT, MANUAL

Array = jax.Array

ROOT = pathlib.Path(__file__).parent.parent
NAMES = (
    *(f"{name}[check_vma={vma}]" for name, program in MANUAL.items() for vma in program.checks),
    "with_sharding_constraint", "device_put", "jit[out_shardings]", "jit[cotangent from elsewhere]",
    *(f"explicit {name}" for name in EXPLICIT),
)


def wrong_on_a_mesh(*options: str) -> dict[str, str]:
    """Run the programs in a process with 8 devices; messages of those that are wrong."""
    done = subprocess.run([sys.executable, "-m", "tests.sharding", *options], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes = json.loads(done.stdout)
    assert sorted(outcomes) == sorted(NAMES)
    return {name: message for name, message in outcomes.items() if message}


def test_gradients_on_a_mesh() -> None:
    wrong = wrong_on_a_mesh()
    assert not wrong, "\n".join(f"{name}:\n{message}" for name, message in wrong.items())


@pytest.mark.slow
def test_gradients_on_a_mesh_eagerly_too() -> None:
    wrong = wrong_on_a_mesh("--full")
    assert not wrong, "\n".join(f"{name}:\n{message}" for name, message in wrong.items())


# ---- under vmap: the gradient of each device's own loss is that of the sum of all losses ----

COLLECTIVES: dict[str, Callable[[Array], Array]] = {
    "psum": lambda x: lax.psum(jnp.sin(x), "i") * x,
    "psum[dimension too]": lambda x: lax.psum(x * x, (0, "i")) * x,
    "pmean": lambda x: lax.pmean(x**2, "i") * x,
    "pmax": lambda x: lax.pmax(jnp.sin(x), "i") * x,
    "pmin": lambda x: lax.pmin(jnp.sin(x), "i") * x,
    "ppermute": lambda x: lax.ppermute(x**2, "i", [(0, 1), (1, 2), (2, 3), (3, 0)]) * x,
    "all_gather": lambda x: lax.all_gather(x**2, "i").sum(0) * x,
    "all_gather[tiled]": lambda x: lax.all_gather(x**2, "i", axis=1, tiled=True).sum(1)[:, None] * x,
    "psum_scatter": lambda x: lax.psum_scatter(x**2, "i") * x,
    "psum_scatter[tiled]": lambda x: lax.psum_scatter(x**2, "i", tiled=True) * x,
    "all_to_all": lambda x: lax.all_to_all(x**2, "i", 0, 0, tiled=True) * x,
    "all_to_all[untiled]": lambda x: lax.all_to_all(jnp.sin(x), "i", 0, 1).T * x.T[..., None].sum(2)[None].sum(),
    "axis_index": lambda x: x**2 * lax.axis_index("i"),
}
# JAX has no rule for pmax and pmin, not even under an outer jax.grad.
PLAIN: dict[str, Callable[[Array], Array]] = {
    "pmax": lambda x: jnp.sin(x).max(0) * x,
    "pmin": lambda x: jnp.sin(x).min(0) * x,
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_collectives_under_vmap(name: str, jit: bool) -> None:
    program = COLLECTIVES[name]
    x = jnp.asarray(np.random.default_rng(3).standard_normal((4, 4, 3)), jnp.float32)

    def own(x: Array) -> Array:
        return program(x).sum()

    def together(x: Array) -> Array:
        return jax.vmap(program, axis_name="i")(x).sum()

    def oracle(x: Array) -> Array:
        return PLAIN[name](x).sum() if name in PLAIN else together(x)

    inside = jax.vmap(funcgrad.grad(own), axis_name="i")
    outside = funcgrad.grad(together)
    wanted = jax.grad(oracle)(x)
    for given in (inside, outside):
        np.testing.assert_allclose((jax.jit(given) if jit else given)(x), wanted, rtol=2e-5, atol=2e-5)
    if not jit:
        return
    squared = jax.jit(funcgrad.grad(lambda x: (jax.vmap(funcgrad.grad(own), axis_name="i")(x) ** 2).sum()))
    wanted = jax.grad(lambda x: (jax.grad(oracle)(x) ** 2).sum())(x)
    np.testing.assert_allclose(squared(x), wanted, rtol=5e-4, atol=5e-4)


def test_devices_that_reach_the_maximum_share_its_cotangent() -> None:
    x = jnp.array([[1.0, 5.0], [2.0, 5.0], [2.0, 0.0]])
    gradient = funcgrad.grad(lambda x: jax.vmap(lambda x: lax.pmax(x, "i"), axis_name="i")(x)[0].sum())(x)
    np.testing.assert_array_equal(gradient, [[0, 0.5], [0.5, 0.5], [0.5, 0]])
    # inside, every device has a loss of its own, and each of the three losses sees the maximum
    inside = jax.vmap(funcgrad.grad(lambda x: lax.pmax(x, "i").sum()), axis_name="i")(x)
    np.testing.assert_array_equal(inside, [[0, 1.5], [1.5, 1.5], [1.5, 0]])
