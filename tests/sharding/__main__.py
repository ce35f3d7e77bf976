"""Run every program of `programs.py` on 8 forced host devices and print what is wrong, as JSON: name -> message."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import funcgrad
from tests.sharding.programs import EXPLICIT, MANUAL, Program, placed

Array = Any
TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}
#: How XLA compiles what runs once.
FAST = {"xla_backend_optimization_level": 0}


def operands() -> tuple[Array, Array]:
    """The matrices that all programs take."""
    rng = np.random.default_rng(7)
    return tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((8, 4), (4, 6)))


def loss_of(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """A scalar in which every element of the output has a weight of its own."""

    def loss(a: Array, w: Array) -> Array:
        out = function(a, w)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=out.dtype).reshape(out.shape)))

    return loss


def penalty(grad: Callable, loss: Callable) -> Callable[[Array, Array], Array]:
    """Of second order: the squared norm of the gradient."""
    return lambda a, w: sum(jnp.sum(jnp.square(ct)) for ct in grad(loss, (0, 1))(a, w))


@functools.cache
def wanted(plain: Callable[[Array, Array], Array], twice: bool) -> tuple[Array, Array]:
    """JAX's gradient of the plain program, or that of the penalty; one program may have several on a mesh."""
    loss = loss_of(plain)
    gradient = jax.jit(jax.grad(penalty(jax.grad, loss) if twice else loss, (0, 1)), compiler_options=FAST)
    return gradient(*operands())


def check(program: Program, function: Callable, args: tuple[Array, Array], eager: bool, twice: bool) -> None:
    """Gradients of order 1 and if `twice` 2, compiled and if `eager` not, against the plain program's; types too."""
    loss = loss_of(function)
    given = jax.jit(funcgrad.grad(loss, (0, 1)), compiler_options=FAST)(*args)
    for ct, other, arg in zip(given, wanted(program.plain, False), args, strict=True):
        np.testing.assert_allclose(ct, other, **TOLERANCE)
        given_type, type_ = jax.typeof(ct), jax.typeof(arg)
        assert given_type == type_ or type_.sharding.mesh.empty, f"{given_type} for an operand {type_}"
    if eager:
        for ct, other in zip(funcgrad.grad(loss, (0, 1))(*args), wanted(program.plain, False), strict=True):
            np.testing.assert_allclose(ct, other, **TOLERANCE)
    if not twice:
        return
    second = jax.jit(funcgrad.grad(penalty(funcgrad.grad, loss), (0, 1)), compiler_options=FAST)
    for ct, other in zip(second(*args), wanted(program.plain, True), strict=True):
        np.testing.assert_allclose(ct, other, **TOLERANCE)


def runs(function: Callable, args: tuple[Array, Array]) -> str:
    """A message if JAX runs a program outside of `jit` that is said to need it."""
    try:
        function(*args)
    except ValueError:
        return ""
    return "JAX runs it outside of jit: strike out only_jitted"


def outcomes(full: bool) -> dict[str, str]:
    """What went wrong, by program; empty messages for what is right."""
    found: dict[str, str] = {}

    def attempt(name: str, program: Program, function: Callable, args: tuple[Array, Array], twice: bool = True,
                only_jitted: bool = False) -> None:
        try:
            check(program, function, args, full and not only_jitted, twice)
            found[name] = ""
            if full and only_jitted:
                found[name] = runs(function, args)
        except Exception:
            found[name] = traceback.format_exc()[-2000:]

    automatic = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    for name, program in MANUAL.items():
        for vma in program.checks:
            def shard_map(body: Callable, vma: bool = vma, **options: Any) -> Callable:
                return jax.shard_map(body, **{"mesh": automatic, **options}, check_vma=vma)

            attempt(f"{name}[check_vma={vma}]", program, program.build(shard_map), operands(),
                    twice=full or vma is program.checks[0], only_jitted=vma in program.only_jitted)
    for name, program in placed(automatic).items():
        a, w = operands()
        args = (jax.device_put(a, jax.NamedSharding(automatic, P("x", "y"))),
                jax.device_put(w, jax.NamedSharding(automatic, P("y"))))
        attempt(name, program, program.build(jax.shard_map), args)
    explicit = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(explicit):
        for name, program in EXPLICIT.items():
            a, w = operands()
            args = (jax.device_put(a, jax.NamedSharding(explicit, P("x", None))),
                    jax.device_put(w, jax.NamedSharding(explicit, P(None, "y"))))
            attempt(f"explicit {name}", program, program.build(jax.shard_map), args)
    return found


if __name__ == "__main__":
    json.dump(outcomes("--full" in sys.argv), sys.stdout)
