"""What the tools see inside `shard_map`, on 8 forced host devices: `python -m tests.inspection.shards` prints JSON.

With "--unchecked" under ``check_vma=False``. With "--replay" every program of `tests.sharding` runs once more on one
device, and what is wrong there is printed.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import funcgrad
from funcgrad._compat import primitives as private
from funcgrad.inspection.shards import shard_run
from funcgrad.vjp import record_call
from tests.sharding.programs import MANUAL, varying

Array = Any
BLOCKS = P("x", "y")
#: Zero at (5, 3): in the shard x 2, y 1, there at (1, 1).
A = np.ones((8, 4), np.float32)
A[5, 3] = 0.0
W = np.ones((4, 6), np.float32)


def masked_root(x: Array) -> Array:
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


def loss(a: Array, w: Array) -> Array:
    return lax.pmean((lax.psum(masked_root(a) @ w, "y") ** 2).mean(), "x")


def own_loss(a: Array, w: Array) -> Array:
    return (masked_root(a) @ w).mean()


def rows(a: Array, w: Array) -> Array:
    start = varying(jnp.zeros(()), a)
    return lax.pmean(lax.scan(lambda total, row: (total + own_loss(row, w), None), start, a)[0], ("x", "y"))


def distances(a: Array, w: Array) -> Array:
    """Infinite where a shard meets itself."""
    return jnp.log(jnp.abs(lax.axis_index("x") - 2.0) + 0 * a) * w.sum()


def loss_of_x(a: Array, w: Array) -> Array:
    """The mean over the shards along x alone."""
    return lax.pmean(own_loss(a, w), "x")


def gradient(a: Array, w: Array) -> Array:
    return funcgrad.grad(loss)(a, w)


def own_gradient(a: Array, w: Array) -> Array:
    return funcgrad.grad(own_loss)(a, w)


def gradient_of_rows(a: Array, w: Array) -> Array:
    return lax.scan(lambda calls, row: (calls, funcgrad.grad(own_loss)(row, w)), 0, a)[1]


def gradients_of_rows(a: Array, w: Array) -> Array:
    return jax.vmap(lambda row: funcgrad.grad(own_loss)(row, w))(a)


def finite(a: Array, w: Array) -> Array:
    return funcgrad.grad(own_loss)(a + 1, w)


def pulled(a: Array, w: Array) -> Array:
    out, pullback = funcgrad.vjp(own_loss, a, w)
    return pullback(jnp.ones_like(out))[0]


@jax.custom_vjp
def own_root(x: Array) -> Array:
    return jnp.sqrt(x)


own_root.defvjp(lambda x: (jnp.sqrt(x), x), lambda x, ct: (ct / (2 * jnp.sqrt(x)),))


def sum_of_roots(a: Array) -> Array:
    return own_root(a).sum()


def own_rule(a: Array, w: Array) -> Array:
    return funcgrad.grad(sum_of_roots)(a) * w.sum()


#: Functions that `find_nonfinite` opens: the body, and its output's spec.
AROUND: dict[str, tuple[Callable[..., Array], Any]] = {"loss": (loss, P()), "rows": (rows, P()),
                                                       "distances": (distances, BLOCKS)}
#: Bodies in which a gradient is taken.
WITHIN: dict[str, Callable[..., Array]] = {
    "gradient": gradient, "own gradient": own_gradient, "gradient of rows": gradient_of_rows,
    "gradients of rows": gradients_of_rows, "finite": finite, "pulled": pulled, "own rule": own_rule}


def mesh(kind: AxisType = AxisType.Auto) -> Any:
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)


def told(report: Any) -> dict[str, Any]:
    """What of a report is compared."""
    place = report.place
    return {"operation": place.operation, "phase": place.phase, "function": place.function, "type": place.type,
            "inside": [str(entry) for entry in place.inside], "index": list(place.index)}


def watched(run: Callable[..., Array]) -> Any:
    """What the context finds; None if nothing."""
    found: list[Any] = []
    with funcgrad.debug_nonfinite(lambda report: found.append(told(report))):
        jax.block_until_ready(run(A, W))
    return found


def reports(vma: bool) -> dict[str, Any]:
    def placed(body: Callable, out: Any) -> Callable:
        return jax.shard_map(body, mesh=mesh(), in_specs=(BLOCKS, P("y")), out_specs=out, check_vma=vma)

    around = {name: placed(body, out) for name, (body, out) in AROUND.items()}
    results: dict[str, Any] = {name: told(funcgrad.find_nonfinite(function, A, W)) for name, function in around.items()}
    results["jit"] = told(funcgrad.find_nonfinite(jax.jit(around["loss"]), A, W))
    results["gradient around"] = watched(jax.jit(funcgrad.grad(around["loss"])))
    results |= {name: watched(jax.jit(placed(body, BLOCKS))) for name, body in WITHIN.items()}
    return results | {f"partly: {name}": found for name, found in partly(vma).items()}


def partly(vma: bool) -> dict[str, Any]:
    """Shards along x alone, under a mesh that `jax.set_mesh` has set."""
    def placed(body: Callable, out: Any, kind: AxisType = AxisType.Auto) -> Callable:
        return jax.jit(jax.shard_map(body, mesh=mesh(kind), in_specs=(P("x"), P()), out_specs=out, axis_names={"x"},
                                     check_vma=vma))

    with jax.set_mesh(mesh()):
        results = {name: watched(placed(WITHIN[name], P("x")))
                   for name in ("own gradient", "gradient of rows", "gradients of rows", "finite", "pulled")}
        if vma:  # else JAX itself runs it in `jit` only
            results["loss"] = told(funcgrad.find_nonfinite(placed(loss_of_x, P()), jnp.array(A), jnp.array(W)))
        results["plain jit"] = watched(jax.jit(funcgrad.grad(own_loss)))
    with jax.set_mesh(mesh(AxisType.Explicit)), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results["explicit"] = watched(placed(own_gradient, P("x"), AxisType.Explicit))
    return results | {"told": [str(entry.message).splitlines()[0] for entry in caught]}


def replayed() -> dict[str, str]:
    """For each program what a `shard_map` in it gives on one device, where that is not what it gave on all."""
    rng = np.random.default_rng(7)
    args = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((8, 4), (4, 6))]
    results = {}
    for name, program in MANUAL.items():
        for vma in program.checks:
            def placed(body: Callable, vma: bool = vma, **options: Any) -> Callable:
                return jax.shard_map(body, **{"mesh": mesh(), **options}, check_vma=vma)

            try:
                recording, _ = record_call(program.build(placed), tuple(args))
            except ValueError as error:
                results[f"{name}[{vma}]"] = f"not run: {error}"[:200]
                continue
            for node in recording.graph.nodes:
                if node.primitive is private.shard_map_p:
                    results[f"{name}[{vma}]"] = _difference(node, recording)
    return results


def _difference(node: Any, recording: Any) -> str:
    try:
        _, again = shard_run(node, recording.read)
        for number, value in zip(node.outputs, again.outputs, strict=True):
            np.testing.assert_allclose(value, np.asarray(recording.read(number)), rtol=1e-5, atol=1e-5)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


if __name__ == "__main__":
    print(json.dumps(replayed() if "--replay" in sys.argv[1:] else reports("--unchecked" not in sys.argv[1:])))
