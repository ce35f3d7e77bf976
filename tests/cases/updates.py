"""Cases of indexing as users write it: `x[...]`, `x.at[...]`, `take_along_axis`, `segment_sum` and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.cases.case import Boundary, Case, normal, uniform
from tests.cases.scatter import NOT_UNIQUE

Array = Any
FULL = ("float32", "float64")
I = np.array([3, -1, 3], np.int32)  # noqa: E741  (int64 would be kept by JAX from x64 mode on)
MASK = np.array([True, False, True, False, True])
IDS = np.array([0, 2, -1, 2, 7], np.int32)
EVERY_ID = np.array([0, 2, 1, 2, 7], np.int32)
INTO_NOTHING = (Boundary(
    "no rows", (np.zeros((0, 4)), np.ones((3, 4))), expected=(np.zeros((0, 4)), np.zeros((3, 4))),
    why="all updates are dropped; JAX's rule gathers from an array without rows, which its gather refuses"),)


def read(label: str, fun: Callable[[Array], Array]) -> Case:
    """Something read out of a (5, 4) array."""
    return Case(f"gather[{label}]", ("gather",), fun, normal((5, 4)), dtypes=FULL)


def write(primitive: str, label: str, fun: Callable[[Array, Array], Array], positive: bool = False,
          unique: bool = True) -> Case:
    """A (3, 4) array written into a (5, 4) array. JAX has no rule for products into one place."""
    draw = (uniform(0.5, 2.0, (5, 4), (3, 4)) if positive else normal((5, 4), (3, 4)))
    return Case(f"{primitive}[{label}]", (primitive,), fun, draw, dtypes=FULL, jax_agrees=unique,
                boundary=INTO_NOTHING if label.startswith("x.at[i].") else (), note="" if unique else NOT_UNIQUE)


def segments(primitive: str, label: str, fun: Callable[..., Array], ids: np.ndarray, unique: bool = True) -> Case:
    """Segments of five rows, one of them with an id out of range."""
    return Case(f"{primitive}[{label}]", (primitive,), lambda x: fun(x, ids, 3), normal((5, 4)), dtypes=FULL,
                jax_agrees=unique, note="" if unique else NOT_UNIQUE)


CASES: tuple[Case, ...] = (
    read("x[i]", lambda x: x[I]),
    read("x[traced i]", lambda x: x[jnp.argmax(x, 0)]),
    read("x[i, j]", lambda x: x[I, np.array([0, -2, 0], np.int32)]),
    read("x[:, i]", lambda x: x[:, I]),
    read("x[mask]", lambda x: x[MASK]),
    read("x[i, None, ::-2]", lambda x: x[I, None, ::-2]),
    read("take,clip", lambda x: jnp.take(x, np.array([1, 7, -9], np.int32), 0, mode="clip")),
    read("take,fill", lambda x: jnp.take(x, np.array([1, 7, -9], np.int32), 0, mode="fill", fill_value=0)),
    read("take,wrap", lambda x: jnp.take(x, np.array([1, 7, -9], np.int32), 0, mode="wrap")),
    read("take_along_axis", lambda x: jnp.take_along_axis(x, np.array([[0, -1, 2], [1, 1, 1]] * 2 + [[0, 0, 3]]), 1)),
    read("vmap of x[i]", lambda x: jax.vmap(lambda row, i: row[i])(x, np.array([0, 3, 1, 1, 2]))),
    Case("dynamic_slice[x[-1] traced]", ("dynamic_slice",), lambda x, i: x[i], lambda rng: (
        rng.standard_normal((5, 4)), np.int32(-1)), dtypes=FULL),
    Case("dynamic_slice[vmap]", ("dynamic_slice",), jax.vmap(lambda x, i: lax.dynamic_slice(x, (i,), (2,))),
         lambda rng: (rng.standard_normal((5, 4)), np.array([0, 3, -1, 9, 2])), dtypes=FULL),
    Case("dynamic_update_slice[vmap]", ("dynamic_update_slice",),
         jax.vmap(lambda x, u, i: lax.dynamic_update_slice(x, u, (i,))),
         lambda rng: (rng.standard_normal((5, 4)), rng.standard_normal((5, 2)), np.array([0, 3, -1, 9, 2])),
         dtypes=FULL),
    write("scatter", "x.at[i].set", lambda x, v: x.at[I].set(v)),
    write("scatter", "x.at[mask].set", lambda x, v: x.at[MASK].set(v)),
    write("scatter", "x.at[slice].set", lambda x, v: x.at[1:4].set(v)),
    write("scatter", "x.at[i, j].set", lambda x, v: x.at[2, 1].set(v[0, 0])),
    write("scatter", "vmap of set", lambda x, v: jax.vmap(lambda r, s, i: r.at[i].set(s[0]))(
        x[:3], v, np.array([[0, 0], [1, 2], [3, 9]]))),
    write("scatter-add", "x.at[i].add", lambda x, v: x.at[I].add(v)),
    write("scatter-sub", "x.at[i].subtract", lambda x, v: x.at[I].subtract(v)),
    write("scatter-mul", "x.at[i].multiply", lambda x, v: x.at[I].multiply(v), unique=False),
    write("scatter-mul", "x.at[i].divide", lambda x, v: x.at[I].divide(v), positive=True, unique=False),
    write("scatter-min", "x.at[i].min", lambda x, v: x.at[I].min(v)),
    write("scatter-max", "x.at[i].max", lambda x, v: x.at[I].max(v)),
    segments("scatter-add", "segment_sum", jax.ops.segment_sum, IDS),
    segments("scatter-mul", "segment_prod", jax.ops.segment_prod, IDS, unique=False),
    segments("scatter-min", "segment_min", jax.ops.segment_min, EVERY_ID),
    segments("scatter-max", "segment_max", jax.ops.segment_max, EVERY_ID),
)
