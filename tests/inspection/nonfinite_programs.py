"""Programs in which a NaN is born in one known place, and what they are given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad.inspection import Nonfinite

X = np.array([1.0, 0.0, 4.0], np.float32)
XS = np.stack([X + 1, X + 1, X, X + 1])


def masked_root(x: Any) -> Any:
    return jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0))


@jax.custom_vjp
def doubled(x: Any) -> Any:
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, ct: (2 * ct,))


def code(report: Nonfinite) -> str:
    assert report.place is not None
    return report.place.code


PROGRAMS: dict[str, tuple[Callable[..., Any], Any, dict[str, int]]] = {
    "eager": (masked_root, X, {}),
    "jit": (jax.jit(jax.jit(masked_root)), X, {}),
    "checkpoint": (jax.checkpoint(masked_root), X, {}),
    "scan": (lambda xs: lax.scan(lambda c, x: (c + masked_root(x), None), 0.0, xs)[0], XS, {"scan step": 2}),
    "reversed scan": (lambda xs: lax.scan(lambda c, x: (c + masked_root(x), None), 0.0, xs, reverse=True)[0], XS,
                      {"scan step": 2}),
    "map": (lambda xs: jnp.sum(lax.map(masked_root, xs)), XS, {"scan step": 2}),
    "carried": (lambda x: lax.scan(lambda c, _: (c - 1, masked_root(c)), x, None, length=2)[1].sum(),
                np.array([3.0, 1.0], np.float32), {"scan step": 1}),
    "while": (lambda x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] - 1, s[2] + masked_root(s[1])),
                                       (0, x, 0.0))[2], X + 2, {"while iteration": 2}),
    "cond": (lambda x: lax.cond(x[0] > 0, masked_root, jnp.sum, x), X, {"cond branch": 1}),
    "switch": (lambda x: lax.switch(2, [jnp.sum, jnp.max, masked_root], x), X, {"cond branch": 2}),
    "vmap": (lambda xs: jnp.mean(jax.vmap(masked_root)(xs)), XS, {"batch index": 2}),
    "jit in vmap": (lambda xs: jnp.mean(jax.vmap(jax.jit(masked_root))(xs)), XS, {"batch index": 2}),
    "vmap of the second axis": (lambda xs: jnp.mean(jax.vmap(masked_root, 1)(xs)), XS.T, {"batch index": 2}),
    "nested vmap": (lambda xs: jnp.mean(jax.vmap(jax.vmap(masked_root))(xs)), XS[None],
                    {"batch index": 0, "inner batch index": 2}),
    "vmap in scan": (lambda xs: lax.scan(lambda c, x: (c + jax.vmap(masked_root)(x).sum(), None), 0.0, xs)[0],
                     np.stack([XS + 1, XS]), {"scan step": 1, "batch index": 2}),
    "scan in jit in cond": (
        lambda xs: lax.cond(xs.sum() > 0, jax.jit(lambda xs: lax.scan(
            lambda c, x: (c + masked_root(x), None), 0.0, xs)[0]), jnp.sum, xs), XS,
        {"scan step": 2, "cond branch": 1}),
}  # fmt: skip
