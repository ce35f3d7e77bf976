"""Cases of sorting and selection: several operands, keys, ties, infinities, NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.cases.case import Args, Boundary, Case, normal

INF, NAN = np.inf, np.nan
TIES = np.array([[2.0, 1.0, 2.0, 1.0, 0.0], [0.0, -0.0, 0.0, -0.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
SPECIAL = np.array([[INF, -INF, INF, 0.0, 1.0], [NAN, 1.0, NAN, -INF, 0.0], [NAN, -0.0, 0.0, INF, -1.0]])
POINTS = (Boundary("ties", (TIES,)), Boundary("infinities and NaN", (SPECIAL,)), Boundary("empty", (np.zeros((3, 0)),)))


def sort(dimension: int, num_keys: int, is_stable: bool = True) -> Callable[..., Any]:
    """`lax.sort` of several operands with every param spelled out."""
    return lambda *xs: lax.sort(xs, dimension=dimension, is_stable=is_stable, num_keys=num_keys)


def few_values(*shape: int) -> np.ndarray:
    """A key with many ties, the same each time."""
    return (np.arange(np.prod(shape)) * 7 % 3).astype(np.int32).reshape(shape)


def keyed(rng: np.random.Generator) -> Args:
    """An integer key with ties, and two payloads."""
    return few_values(3, 5), rng.standard_normal((3, 5)), rng.standard_normal((3, 5))


SORT = (
    *(Case(f"sort[dimension {d}]", ("sort",), sort(d, 1), normal((3, 5)), boundary=POINTS) for d in (0, 1)),
    Case("sort[vector]", ("sort",), sort(0, 1), normal((5,)), boundary=(Boundary("ties", (TIES[0],)),)),
    Case("sort[key and payload]", ("sort",), sort(1, 1), normal((3, 5), (3, 5)), boundary=(
        Boundary("ties", (TIES, TIES[:, ::-1])), Boundary("infinities and NaN", (SPECIAL, TIES)))),
    Case("sort[two keys]", ("sort",), sort(1, 2), normal((3, 5), (3, 5)), boundary=(
        Boundary("ties", (TIES, TIES[:, ::-1])),)),
    Case("sort[unstable]", ("sort",), sort(0, 1, is_stable=False), normal((3, 5), (3, 5))),
    Case("sort[integer key]", ("sort",), sort(1, 1), keyed),
    Case("sort[integer key, then a float]", ("sort",), sort(0, 2), keyed),
    Case("sort[payload alone used]", ("sort",), lambda x, y: sort(1, 1)(x, y)[1], normal((3, 5), (3, 5))),
    Case("sort[payload alone active]", ("sort",), sort(1, 1), normal((3, 5), (3, 5)), argnums=(1,)),
    Case("sort[complex]", ("sort",), sort(0, 1), lambda rng: (rng.standard_normal(5) + 1j * rng.standard_normal(5),),
         dtypes=("float32", "float64")),
    Case("sort[argsort]", (), lambda x: lax.mul(x, lax.convert_element_type(jnp.argsort(x), x.dtype)),
         normal((3, 5))),
    Case("sort[mapped]", ("sort",), jax.vmap(lambda x, y: sort(0, 1)(x, y), in_axes=(1, None)), normal((5, 2), (5,))),
)

TOP = tuple(
    Case(f"top_k[k {k}, axis {axis}]", ("top_k",), lambda x, k=k, axis=axis: lax.top_k(x, k, axis=axis),
         normal((3, 5)), boundary=(Boundary("ties", (TIES,)), Boundary("infinities and NaN", (SPECIAL,))))
    for k, axis in ((2, 1), (3, 0), (5, 1), (0, 1), (1, 0))
) + (
    Case("top_k[indices alone used]", (),
         lambda x: lax.mul(lax.slice(x, (0, 0), (3, 2)), lax.convert_element_type(lax.top_k(x, 2)[1], x.dtype)),
         normal((3, 5))),
)


def approx(function: Callable[..., Any], dimension: int, aggregate: bool) -> Callable[..., Any]:
    """Approximate selection with every param spelled out."""
    return lambda x: function(x, 2, reduction_dimension=dimension, recall_target=0.9,
                              reduction_input_size_override=-1, aggregate_to_topk=aggregate)


APPROX = tuple(
    Case(f"approx_top_k[{label}, dimension {dimension}, {'aggregated' if aggregate else 'not aggregated'}]",
         ("approx_top_k",), approx(function, dimension, aggregate), normal((3, 5)))
    for label, function in (("max", lax.approx_max_k), ("min", lax.approx_min_k))
    for dimension, aggregate in ((-1, True), (0, True), (1, False))
)

CASES: tuple[Case, ...] = (*SORT, *TOP, *APPROX)
