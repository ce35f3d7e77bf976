"""Cases of the reductions over windows: paddings, strides, both dilations, ties, and reductions JAX cannot reverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from tests.cases.case import Args, Boundary, Case

FULL = ("float32", "float64")
DTYPES = (*FULL, "bfloat16", "float16")
INF = np.inf
Pairs = Sequence[tuple[int, int]]


def window(init: float, computation: Callable[..., Any], size: Sequence[int], strides: Sequence[int], padding: Pairs,
           base: Sequence[int], dilation: Sequence[int]) -> Callable[..., Any]:
    """`lax.reduce_window` with every param spelled out."""
    return lambda x: lax.reduce_window(x, np.array(init, x.dtype), computation, tuple(size), tuple(strides),
                                       tuple(padding), tuple(base), tuple(dilation))


def distinct(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Args]:
    """Numbers of which no two are near each other."""
    return lambda rng: tuple(rng.permutation(int(np.prod(s))).reshape(s) / 8.0 - 1.5 for s in shapes)


def normal_and_distinct(shape: tuple[int, ...], operand: tuple[int, ...]) -> Callable[[np.random.Generator], Args]:
    """A normal array, and one of distinct numbers."""
    return lambda rng: (rng.standard_normal(shape), *distinct(operand)(rng))


# (label, operand, size, strides, padding, base dilation, window dilation, whether JAX reverses a maximum with it)
WINDOWS = (
    ("plain", (4, 5), (2, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), True),
    ("tiles", (2, 4, 6, 2), (1, 2, 3, 1), (1, 2, 3, 1), ((0, 0),) * 4, (1,) * 4, (1,) * 4, True),
    ("tiles, and a rest", (5, 7), (2, 3), (2, 3), ((0, 0), (0, 0)), (1, 1), (1, 1), True),
    ("strides, padding", (1, 6, 5), (1, 3, 2), (1, 2, 3), ((0, 0), (1, 2), (1, 0)), (1, 1, 1), (1, 1, 1), True),
    ("base dilation", (3, 4), (2, 3), (2, 1), ((1, 0), (0, 2)), (2, 3), (1, 1), True),
    ("window dilation", (7, 6), (3, 2), (2, 1), ((1, 1), (0, 2)), (1, 1), (2, 3), False),
    ("negative padding", (6, 7), (2, 2), (1, 2), ((-1, 1), (1, -2)), (1, 1), (1, 1), False),
    ("everything", (5, 4), (2, 2), (2, 3), ((-1, 1), (1, -1)), (2, 2), (1, 3), False),
    ("whole", (5,), (5,), (1,), ((0, 0),), (1,), (1,), True),
)
REFUSED = "JAX reverses no maximum over such windows"
TIE = np.array([[1.0, 3.0, 3.0, 0.0], [3.0, 3.0, 2.0, 2.0]])
REVERSED_TIE = Boundary("ties, dilated", (TIE[0],), expected=(np.array([0.0, 1.0, 1.0, 0.0]),),
                        why="of equal elements the first one has the cotangent, as without dilation")
EXTREMES = (
    Boundary("ties", (TIE,)),
    Boundary("all equal", (np.zeros((4, 4)),)),
    Boundary("infinite", (np.array([[INF, 1.0, -INF], [-INF, -INF, -INF]]),)),
    Boundary("no windows", (np.zeros((1, 1)),)),
    Boundary("empty", (np.zeros((0, 4)),)),
)


def sums() -> tuple[Case, ...]:
    """Sums over each window of the table."""
    return tuple(
        Case(f"reduce_window_sum[{label}]", ("reduce_window_sum",), window(0.0, lax.add, *settings),
             lambda rng, shape=shape: (rng.standard_normal(shape),),
             boundary=EXTREMES if label == "plain" else (), dtypes=DTYPES if label == "plain" else FULL)
        for label, shape, *settings, _ in WINDOWS)


def extremes(name: str, init: float, computation: Callable[..., Any], windows: Any = WINDOWS) -> tuple[Case, ...]:
    """Maxima or minima over each window of the table."""
    return tuple(
        Case(f"{name}[{label}]", (name,), window(init, computation, *settings), distinct(shape),
             boundary=EXTREMES if label == "plain" else (), dtypes=DTYPES if label == "plain" else FULL,
             jax_agrees=known, note="" if known else REFUSED)
        for label, shape, *settings, known in windows)


SUM_COMPLEX = Case("reduce_window_sum[complex]", ("reduce_window_sum",),
                   window(0.0, lax.add, (2,), (2,), ((1, 0),), (1,), (2,)),
                   lambda rng: (rng.standard_normal(7) + 1j * rng.standard_normal(7),))
DILATED_TIES = Case("reduce_window_max[dilated ties]", ("reduce_window_max",),
                    window(-INF, lax.max, (2,), (1,), ((0, 0),), (1,), (2,)), distinct((4,)),
                    boundary=(REVERSED_TIE,), dtypes=FULL, jax_agrees=False, note=REFUSED)

# ---- the two maps behind pooling's derivatives ----


def scatter(select: Any, size: Any, strides: Any, padding: Any) -> Callable[..., Any]:
    """`select_and_scatter_add`, of which there is no public function."""
    return lambda source, operand: p.select_and_scatter_add_p.bind(
        source, operand, select_prim=select, window_dimensions=size, window_strides=strides, padding=padding)


def gather(select: Any, size: Any, strides: Any, padding: Any, base: Any, dilation: Any) -> Callable[..., Any]:
    """`select_and_gather_add`, of which there is no public function."""
    return lambda tangents, operand: p.select_and_gather_add_p.bind(
        tangents, operand, select_prim=select, window_dimensions=size, window_strides=strides, padding=padding,
        base_dilation=base, window_dilation=dilation)


def gathers() -> tuple[Case, ...]:
    """Gathering over each window of the table."""
    return tuple(
        Case(f"select_and_gather_add[{label}]", ("select_and_gather_add",),
             gather(lax.le_p if i % 2 else lax.ge_p, *settings), normal_and_distinct(shape, shape), argnums=(0,),
             dtypes=FULL, jax_agrees=known, note="" if known else REFUSED)
        for i, (label, shape, *settings, known) in enumerate(WINDOWS))


SCATTERS = (
    Case("select_and_scatter_add[max]", ("select_and_scatter_add",),
         scatter(lax.ge_p, (2, 3), (1, 1), ((0, 0), (0, 0))), normal_and_distinct((3, 3), (4, 5)), dtypes=FULL,
         boundary=(Boundary("ties", (np.ones((1, 2)), TIE)),)),
    Case("select_and_scatter_add[min, strides, padding]", ("select_and_scatter_add",),
         scatter(lax.le_p, (3, 2), (2, 3), ((1, 2), (1, 0))), normal_and_distinct((4, 2), (6, 5)), dtypes=FULL),
)

# ---- any reduction ----

FORWARD_ONLY = "JAX has no reverse mode of reduce_window with a program of the user's"


def both(x: Any, y: Any) -> Any:
    """The element with the larger key, of pairs (key, value); the first of equal ones."""
    first = lax.ge(x[0], y[0])
    return lax.select(first, x[0], y[0]), lax.select(first, x[1], y[1])


def pairs(key: Any, value: Any) -> Any:
    """The value at each window's largest key."""
    init = (np.array(-INF, key.dtype), np.array(0, value.dtype))
    return lax.reduce_window((key, value), init, both, (2, 2), (1, 2), ((0, 0), (1, 0)), (1, 1), (2, 1))


def from_init(x: Any, init: Any) -> Any:
    """Products that begin with a number that is differentiated too."""
    return lax.reduce_window(x, init, lax.mul, (2, 2), (1, 1), ((0, 1), (0, 0)), (1, 1), (1, 1))


FROM_HALF = Boundary(
    "padding", (np.array([[2.0, 3.0]]), np.array(0.5)), expected=(np.array([[1.5, 1.0]]), np.array(6.0)),
    why="the window's value is init * 2 * 3: XLA steps over the padding")


def generic(label: str, fun: Callable[..., Any], shape: tuple[int, ...], *boundary: Boundary) -> Case:
    """A reduction with a program of its own."""
    return Case(f"reduce_window[{label}]", ("reduce_window",), fun, lambda rng: (rng.uniform(0.3, 1.5, shape),),
                boundary=boundary, dtypes=FULL, jax_agrees=False, note=FORWARD_ONLY)


PRODUCT_OF_ZEROS = Boundary(
    "zeros", (np.array([0.0, 2.0, 3.0, 0.0, 0.0]),), expected=(np.array([6.0, 0.0, 0.0, 6.0, 0.0]),),
    why="a window's partial is the product of its other elements: 2*3 for the first zero and for the next")

GENERIC = (
    generic("product", window(1.0, lax.mul, (3,), (1,), ((0, 0),), (1,), (1,)), (5,), PRODUCT_OF_ZEROS),
    generic("product, everything", window(1.0, lax.mul, *WINDOWS[5][2:7]), WINDOWS[5][1]),
    generic("sum from 2", window(2.0, lax.add, *WINDOWS[1][2:7]), WINDOWS[1][1]),
    generic("maximum from 1", window(1.0, lax.max, *WINDOWS[2][2:7]), WINDOWS[2][1]),
    generic("logaddexp", window(-30.0, jnp.logaddexp, (2, 2), (1, 2), ((1, 0), (0, 0)), (1, 1), (1, 1)), (3, 4)),
    Case("reduce_window[pairs]", ("reduce_window",), pairs, distinct((4, 4), (4, 4)), dtypes=FULL, jax_agrees=False,
         note=FORWARD_ONLY),
    Case("reduce_window[initial value]", ("reduce_window",), from_init,
         lambda rng: (rng.uniform(0.5, 1.5, (3, 3)), rng.uniform(0.5, 1.5)), boundary=(FROM_HALF,), dtypes=("float32",),
         jax_agrees=False, numeric=False, note="JAX refuses tangents of the initial value"),
)

CASES: tuple[Case, ...] = (
    *sums(), SUM_COMPLEX, *extremes("reduce_window_max", -INF, lax.max),
    *extremes("reduce_window_min", INF, lax.min, WINDOWS[:6:5]), DILATED_TIES, *gathers(), *SCATTERS, *GENERIC)
