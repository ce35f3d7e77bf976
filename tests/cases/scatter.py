"""Cases of the scatter family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

from tests.cases.case import Args, Boundary, Case

Numbers = lax.ScatterDimensionNumbers
ELEMENTS = Numbers(update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,))
ROWS = Numbers(update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,))
WINDOWS = Numbers(update_window_dims=(1, 2), inserted_window_dims=(), scatter_dims_to_operand_dims=(0, 1))
SWAPPED = Numbers(update_window_dims=(0, 2), inserted_window_dims=(), scatter_dims_to_operand_dims=(1, 0))
COLUMNS = Numbers(update_window_dims=(0,), inserted_window_dims=(1,), scatter_dims_to_operand_dims=(1,))
BATCHED = Numbers(update_window_dims=(2,), inserted_window_dims=(1,), scatter_dims_to_operand_dims=(1,),
                  operand_batching_dims=(0,), scatter_indices_batching_dims=(0,))
POINTS = Numbers(update_window_dims=(), inserted_window_dims=(0, 1), scatter_dims_to_operand_dims=(1, 0))

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "scatter": lax.scatter,
    "scatter-add": lax.scatter_add,
    "scatter-sub": lax.scatter_sub,
    "scatter-mul": lax.scatter_mul,
    "scatter-min": lax.scatter_min,
    "scatter-max": lax.scatter_max,
}
# label: numbers, operand, indices (in range, some twice), shape of the updates
LAYOUTS: dict[str, tuple[Numbers, tuple[int, ...], Any, tuple[int, ...]]] = {
    "elements": (ELEMENTS, (6,), [[1], [3], [1], [5]], (4,)),
    "rows": (ROWS, (5, 3), [[4], [0], [4]], (3, 3)),
    "windows": (WINDOWS, (5, 6), [[0, 1], [1, 2], [3, 3]], (3, 2, 3)),
    "full-width windows": (WINDOWS, (5, 3), [[0, 0], [1, 0], [3, 0]], (3, 2, 3)),
    "swapped": (SWAPPED, (5, 6), [[1, 0], [2, 3], [2, 3]], (2, 3, 3)),
    "columns": (COLUMNS, (3, 5), [[4], [0], [4]], (3, 3)),
    "batched": (BATCHED, (3, 5, 2), [[[0], [4]], [[2], [2]], [[3], [1]]], (3, 2, 2)),
    "points": (POINTS, (4, 5), [[4, 0], [2, 3], [4, 0]], (3,)),
}
MODES = ("clip", "fill", "promise_in_bounds")
NOT_UNIQUE = "JAX refuses the updates of scatter_mul unless unique_indices=True"


def scatter(name: str, numbers: Numbers, mode: str | None, is_sorted: bool = False,
            unique: bool = False) -> Callable[..., Any]:
    """One of the scatters with every param spelled out."""
    return lambda x, i, u: FUNCTIONS[name](x, i, u, numbers, indices_are_sorted=is_sorted,
                                           unique_indices=unique, mode=mode)


def into(shape: tuple[int, ...], indices: Any, updates: tuple[int, ...]) -> Callable[..., Args]:
    """Normal operand and updates of these shapes, and these indices."""
    return lambda rng: (rng.standard_normal(shape), np.asarray(indices, np.int32),
                        rng.standard_normal(updates))


def _layout(name: str, label: str) -> Case:
    """Each layout in one mode; the modes take turns, and have their own cases below."""
    numbers, shape, indices, updates = LAYOUTS[label]
    mode = MODES[(list(LAYOUTS).index(label) + list(FUNCTIONS).index(name)) % 3]
    product = name == "scatter-mul"
    return Case(f"{name}[{label}]", (name,), scatter(name, numbers, mode), into(shape, indices, updates),
                jax_agrees=not product, note=NOT_UNIQUE if product else "")


def _unique(name: str) -> Case:
    fun = scatter(name, ROWS, "clip", is_sorted=True, unique=True)
    return Case(f"{name}[sorted,unique]", (name,), fun, into((5, 3), [[0], [2], [4]], (3, 3)))


LAYOUT_CASES = tuple(_layout(name, label) for name in FUNCTIONS for label in LAYOUTS)
UNIQUE_CASES = tuple(_unique(name) for name in FUNCTIONS)

# ---- out of range, in every mode: operand of 5, indices -1, 7 and two in range ----

X = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
FAR = np.array([[-1], [7], [1], [2]])
U = np.array([9.0, 8.0, 7.0, 0.5])
#: What is hit when indices are clamped, and when they are dropped: 0, 4, 1, 2 or just 1, 2.
HIT = {"clip": np.array([1.0, 1, 1, 0, 1]), "drop": np.array([0.0, 1, 1, 0, 0])}
TAKEN = {"clip": np.ones(4), "drop": np.array([0.0, 0, 1, 1])}
AT = {"clip": np.array([1.0, 5, 2, 3]), "drop": np.array([0.0, 0, 2, 3])}

UNCOUNTED = "JAX counts the candidates in the mode `fill`, which drops the clamped ones, and divides by zero"
DROPPED = "XLA drops a scatter out of range: nothing depends on that update; JAX reads the clamped window"


def _far(name: str, mode: str, unique: bool) -> Case:
    """Indices out of range, all different also when clamped; the cotangents worked out by hand."""
    how = "clip" if mode == "clip" else "drop"
    hit, taken = HIT[how], TAKEN[how]
    factors = {"clip": np.array([9.0, 7, 0.5, 1, 8]), "drop": np.array([1.0, 7, 0.5, 1, 1])}[how]
    expected = {
        "scatter": (1 - hit, taken),
        "scatter-add": (np.ones(5), taken),
        "scatter-sub": (np.ones(5), -taken),
        "scatter-mul": (factors, AT[how]),
        # min: only 0.5 at place 2 is smaller; max: all but that one are larger
        "scatter-min": (np.array([1.0, 1, 0, 1, 1]), np.array([0.0, 0, 0, 1])),
        "scatter-max": (1 - hit * np.array([1.0, 1, 0, 1, 1]), taken * np.array([1.0, 1, 1, 0])),
    }[name]
    label = "unique" if unique else "any"
    why = {"promise_in_bounds": DROPPED, "clip": UNCOUNTED if name == "scatter-max" else ""}.get(mode, "")
    refused = name == "scatter-mul" and not unique
    return Case(f"{name}[out of range,{mode},{label}]", (name,), scatter(name, ELEMENTS, mode, unique=unique),
                into((5,), [[0], [4], [1], [2]], (4,)), jax_agrees=not refused,
                note=NOT_UNIQUE if refused else "",
                boundary=(Boundary("out of range", (X, FAR, U), expected=expected, why=why),))


FAR_CASES = tuple(_far(name, mode, unique) for name in FUNCTIONS
                  for mode in MODES for unique in (False, True))

# ---- duplicates, ties, zeros, NaN, empty ----

SAME = np.array([[1], [1], [1]])
MANY = 300
EXTREMA = "the cotangent is shared evenly; JAX counts in the operand's dtype, and bfloat16 stops at 256"


def _ties(name: str, sign: float) -> Case:
    fun = scatter(name, ELEMENTS, "fill")
    tied, third = np.array([[1], [1], [2], [0], [-1]]), 1 / 3
    share = np.float64(1 / (MANY + 1))
    return Case(f"{name}[ties]", (name,), fun, into((6,), [[1], [3], [1], [5]], (4,)), boundary=(
        Boundary("operand and two updates", (sign * np.zeros(3), tied, sign * np.array([0.0, 0, -1, 2, 9])),
                 expected=(np.array([0.0, third, 1]), np.array([third, third, 0, 1, 0]))),
        Boundary("-0.0 and 0.0", (np.array([0.0, -0.0]), np.array([[0], [1]]), np.array([-0.0, 0.0]))),
        Boundary("infinite", (sign * np.full(3, -np.inf), np.array([[0], [0]]),
                              sign * np.array([-np.inf, 1.0]))),
        Boundary("NaN that nothing touches", (np.array([np.nan, 1.0]), np.array([[1]]),
                                              sign * np.array([2.0]))),
        Boundary("many", (np.zeros(2), np.zeros((MANY, 1), np.int32), np.zeros(MANY)),
                 expected=(np.array([share, 1]), np.full(MANY, share)), why=EXTREMA),
    ))


CORNERS = (
    Case("scatter[duplicates]", ("scatter",), scatter("scatter", ELEMENTS, "fill"),
         into((4,), [[1], [1], [2], [1]], (4,)), boundary=(
             Boundary("the last one stands", (np.zeros(3), SAME, np.array([1.0, 2, 3])),
                      expected=(np.array([1.0, 0, 1]), np.array([0.0, 0, 1]))),
             Boundary("equal values", (np.zeros(3), SAME, np.ones(3)),
                      expected=(np.array([1.0, 0, 1]), np.array([0.0, 0, 1]))),
             Boundary("two clamped to one", (np.zeros(3), np.array([[9], [5], [-1]]), np.arange(3.0)),
                      expected=(np.ones(3), np.zeros(3))),
         )),
    Case("scatter[duplicates,clip]", ("scatter",), scatter("scatter", ELEMENTS, "clip"),
         into((4,), [[1], [1], [2], [1]], (4,)), boundary=(
             Boundary("two clamped to one", (np.zeros(3), np.array([[9], [5], [-1]]), np.arange(3.0)),
                      expected=(np.array([0.0, 1, 0]), np.array([0.0, 1, 1]))),)),
    Case("scatter[operand only]", ("scatter",), scatter("scatter", WINDOWS, "clip"),
         into((5, 6), [[0, 1], [1, 2]], (2, 2, 3)), argnums=(0,)),
    Case("scatter[updates only]", ("scatter",), scatter("scatter", WINDOWS, "clip"),
         into((5, 6), [[0, 1], [1, 2]], (2, 2, 3)), argnums=(2,)),
    Case("scatter-mul[duplicates]", ("scatter-mul",), scatter("scatter-mul", ELEMENTS, "fill"),
         into((4,), [[1], [1], [2], [1]], (4,)), jax_agrees=False, note=NOT_UNIQUE, boundary=(
             Boundary("one zero", (np.full(3, 2.0), SAME, np.array([3.0, 0, 5])),
                      expected=(np.array([1.0, 0, 1]), np.array([0.0, 30, 0])), why=NOT_UNIQUE),
             Boundary("two zeros", (np.full(3, 2.0), SAME, np.array([3.0, 0, 0])),
                      expected=(np.array([1.0, 0, 1]), np.zeros(3)), why=NOT_UNIQUE),
             Boundary("zero in the operand", (np.zeros(3), SAME, np.array([3.0, 2, 5])),
                      expected=(np.array([1.0, 30, 1]), np.zeros(3)), why=NOT_UNIQUE),
             Boundary("infinite and dropped", (np.ones(3), np.array([[-1], [9], [1]]),
                                               np.array([np.inf, 0, 5])),
                      expected=(np.array([1.0, 5, 1]), np.array([0.0, 0, 1])), why=NOT_UNIQUE),
             Boundary("no update", (np.ones(3), np.zeros((0, 1), np.int32), np.zeros(0)),
                      expected=(np.ones(3), np.zeros(0)), why=NOT_UNIQUE),
         )),
    Case("scatter-mul[operand only]", ("scatter-mul",), scatter("scatter-mul", WINDOWS, "clip"),
         into((5, 6), [[0, 1], [1, 2]], (2, 2, 3)), argnums=(0,)),
    _ties("scatter-min", -1.0),
    _ties("scatter-max", 1.0),
)


def _complex(name: str) -> Case:
    def args(rng: np.random.Generator) -> Args:
        x, u = (rng.standard_normal(n) + 1j * rng.standard_normal(n) for n in (6, 4))
        return x, np.array([[1], [3], [0], [5]]), u

    return Case(f"{name}[complex]", (name,), scatter(name, ELEMENTS, "fill", unique=True), args,
                dtypes=("float32", "float64"))


def _empty(name: str) -> Case:
    product = name == "scatter-mul"
    return Case(f"{name}[no update]", (name,), scatter(name, ROWS, "fill"),
                into((5, 3), np.zeros((0, 1)), (0, 3)), jax_agrees=not product,
                note=NOT_UNIQUE if product else "")


CASES: tuple[Case, ...] = (
    *LAYOUT_CASES, *UNIQUE_CASES, *FAR_CASES, *CORNERS,
    *map(_complex, ("scatter", "scatter-add", "scatter-sub", "scatter-mul")), *map(_empty, FUNCTIONS))
