"""Cases of the contractions and convolutions: every layout, precision and dtype pairing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.cases.case import Args, Boundary, Case, normal

Preset = lax.DotAlgorithmPreset
Ragged = lax.RaggedDotDimensionNumbers
MATMUL = (((1,), (0,)), ((), ()))
FULL = ("float32", "float64")


def dot(numbers: Any, *, precision: Any = None, preferred: Any = None, lhs: Any = None,
        rhs: Any = None) -> Callable[..., Any]:
    """`lax.dot_general` with every param spelled out; operands first converted to `lhs` and `rhs`."""

    def fun(x: Any, y: Any) -> Any:
        x = x if lhs is None else lax.convert_element_type(x, lhs)
        y = y if rhs is None else lax.convert_element_type(y, rhs)
        return lax.dot_general(x, y, numbers, precision=precision, preferred_element_type=preferred,
                               out_sharding=None)

    return fun


def zeros(*shapes: tuple[int, ...]) -> Args:
    """Arguments of zeros; the empty ones are what matters."""
    return tuple(np.zeros(shape) for shape in shapes)


def complex_normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Args]:
    """Complex arguments."""
    return lambda rng: tuple(rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in shapes)


# ---- dot_general ----

ROUNDED = "the operands are rounded to low precision, of which finite differences see only steps"
EMPTY = (
    Boundary("no rows", zeros((0, 4), (4, 5))),
    Boundary("nothing summed", zeros((3, 0), (0, 5))),
    Boundary("infinite", (np.full((3, 4), np.inf), np.ones((4, 5)))),
)


def dot_case(label: str, numbers: Any, *shapes: tuple[int, ...], boundary: tuple[Boundary, ...] = (),
             **fields: Any) -> Case:
    """A product of real operands in one layout."""
    return Case(f"dot_general[{label}]", ("dot_general",), dot(numbers), normal(*shapes), boundary=boundary, **fields)


def rounded(label: str, fun: Callable[..., Any], dtype: str = "float32", **fields: Any) -> Case:
    """A matrix product with operands of a lower precision than the arguments."""
    return Case(f"dot_general[{label}]", ("dot_general",), fun, normal((3, 4), (4, 5)), dtypes=(dtype,),
                numeric=False, note=ROUNDED, **fields)


DOT = (
    dot_case("matmul", MATMUL, (3, 4), (4, 5), boundary=EMPTY),
    dot_case("inner", (((0,), (0,)), ((), ())), (4,), (4,)),
    dot_case("outer", (((), ()), ((), ())), (3,), (2, 2)),
    dot_case("scalars", (((), ()), ((), ())), (), ()),
    dot_case("summed first", (((0,), (1,)), ((), ())), (4, 3), (5, 4)),
    dot_case("several summed, crosswise", (((2, 0), (0, 1)), ((), ())), (2, 3, 4), (4, 2, 5)),
    dot_case("batch", (((2,), (1,)), ((0,), (0,))), (2, 3, 4), (2, 4, 5)),
    dot_case("batch anywhere", (((0,), (2,)), ((3, 1), (0, 3))), (4, 2, 3, 5), (5, 3, 4, 2)),
    dot_case("rows of rows", (((2,), (0,)), ((), ())), (2, 3, 4), (4, 3)),
    dot_case("rows of rows into matrices", (((2,), (0,)), ((), ())), (2, 3, 8), (8, 2, 3)),
    dot_case("tall", MATMUL, (3, 16), (16, 2)),
    dot_case("tall, of rows of rows", (((2,), (0,)), ((), ())), (2, 3, 16), (16, 1, 2)),
    dot_case("tall, batch", (((2,), (2,)), ((0,), (0,))), (2, 3, 2), (2, 16, 2)),
    dot_case("batch only", (((), ()), ((0, 1), (1, 0))), (2, 3), (3, 2)),
    Case("dot_general[complex]", ("dot_general",), dot(MATMUL), complex_normal((3, 4), (4, 5))),
    Case("dot_general[real by complex]", ("dot_general",), dot(MATMUL),
         lambda rng: (rng.standard_normal((3, 4)), *complex_normal((4, 5))(rng))),
    Case("dot_general[complex by real]", ("dot_general",), dot(MATMUL, preferred="complex64"),
         lambda rng: (*complex_normal((3, 4))(rng), rng.standard_normal((4, 5))), dtypes=("float32",)),
    Case("dot_general[precision]", ("dot_general",), dot(MATMUL, precision=lax.Precision.HIGHEST),
         normal((3, 4), (4, 5)), dtypes=FULL),
    Case("dot_general[precision of each]", ("dot_general",),
         dot((((1,), (1,)), ((), ())), precision=(lax.Precision.HIGH, lax.Precision.HIGHEST)),
         normal((3, 4), (5, 4)), dtypes=FULL),
    Case("dot_general[precision of each, tall]", ("dot_general",),
         dot(MATMUL, precision=(lax.Precision.HIGH, lax.Precision.HIGHEST)), normal((3, 16), (16, 1)), dtypes=FULL),
    Case("dot_general[algorithm]", ("dot_general",), dot(MATMUL, precision=Preset.F32_F32_F32),
         normal((3, 4), (4, 5)), dtypes=("float32",)),
    Case("dot_general[preferred wider]", ("dot_general",), dot(MATMUL, preferred="float64"),
         normal((3, 4), (4, 5)), dtypes=("float64",)),
    Case("dot_general[integer operand]", ("dot_general",), dot(MATMUL, rhs="int8"),
         lambda rng: (rng.standard_normal((3, 4)), np.arange(-10, 10).reshape(4, 5)), dtypes=("float32", "bfloat16")),
    rounded("bfloat16 into float32", dot(MATMUL, preferred="float32"), "bfloat16"),
    rounded("float16 into float32", dot(MATMUL, preferred="float32"), "float16"),
    rounded("bfloat16 by float32", dot(MATMUL, lhs="bfloat16")),
    rounded("float8 into float32", dot(MATMUL, preferred="float32", lhs="float8_e4m3fn", rhs="float8_e5m2")),
    rounded("float8", dot(MATMUL, lhs="float8_e4m3fn", rhs="float8_e4m3fn")),
    rounded("algorithm of bfloat16", dot(MATMUL, precision=Preset.BF16_BF16_F32, preferred="float32"), "bfloat16"),
)

# ---- narrower results ----

NARROW = (
    Case("dot_general[preferred narrower]", ("dot_general",), dot(MATMUL, preferred="bfloat16"), normal((3, 4), (4, 5)),
         boundary=(Boundary(
             "third", (np.full((1, 1), 1 / 3), np.full((1, 1), 1 / 3)),
             expected=(np.full((1, 1), np.float32(1 / 3)), np.full((1, 1), np.float32(1 / 3))),
             why="the cotangent of x in x y is ct y in the dtype of x; JAX rounds it to the result's bfloat16"),),
         dtypes=("float32",), jax_agrees=False, numeric=False, note="JAX rounds the cotangents to bfloat16"),
)

# ---- ragged_dot_general ----


def ragged(sizes: Any, numbers: Ragged | None = None, *, preferred: Any = None,
           precision: Any = None) -> Callable[..., Any]:
    """`lax.ragged_dot_general` with groups of these sizes."""
    if numbers is None:
        numbers = Ragged((((1,), (1,)), ((), ())), (0,), (0,))
    return lambda x, y: lax.ragged_dot_general(
        x, y, jnp.asarray(sizes, jnp.int32), numbers, precision=precision, preferred_element_type=preferred,
        group_offset=None, out_sharding=None)


SIZES = [2, 0, 3]  # of 6: one group is empty, and the last row is in none
SIZES_BY_BATCH = [[1, 2, 1], [0, 4, 0]]
NO_ORACLE = "JAX has no transpose in this mode, so neither this order"
ROWS_BY_BATCH = Ragged((((0,), (3,)), ((2,), (1,))), (1,), (0,))
SUMMED = Ragged((((0,), (1,)), ((), ())), (0,), ())
SUMMED_BY_BATCH = Ragged((((3, 2), (0, 1)), ((0,), (3,))), (2,), ())
IN_BATCH = Ragged((((2,), (0,)), ((0,), (2,))), (0,), ())

RAGGED = (
    Case("ragged_dot_general[rows]", ("ragged_dot_general",), ragged(SIZES), normal((6, 4), (3, 4, 5)), orders=1,
         boundary=(Boundary("no rows", zeros((0, 4), (3, 4, 5))),)),
    Case("ragged_dot_general[rows, order 2]", ("ragged_dot_general",), ragged(SIZES), normal((6, 4), (3, 4, 5)),
         dtypes=FULL, jax_agrees=False, note=NO_ORACLE),
    Case("ragged_dot_general[rows by batch]", ("ragged_dot_general",), ragged(SIZES_BY_BATCH, ROWS_BY_BATCH),
         normal((3, 4, 2), (3, 2, 5, 3)), orders=1, dtypes=FULL),
    Case("ragged_dot_general[rows by batch, order 2]", ("ragged_dot_general",), ragged(SIZES_BY_BATCH, ROWS_BY_BATCH),
         normal((3, 4, 2), (3, 2, 5, 3)), dtypes=FULL, jax_agrees=False, note=NO_ORACLE),
    Case("ragged_dot_general[summed]", ("ragged_dot_general",), ragged(SIZES, SUMMED), normal((6, 4), (5, 6)),
         dtypes=FULL, jax_agrees=False, note=NO_ORACLE),
    Case("ragged_dot_general[summed by batch]", ("ragged_dot_general",),
         ragged([[[1, 1, 1]] * 2, [[0, 3, 0]] * 2], SUMMED_BY_BATCH), normal((2, 4, 3, 2), (2, 3, 5, 2)),
         dtypes=FULL, jax_agrees=False, note=NO_ORACLE),
    Case("ragged_dot_general[batch]", ("ragged_dot_general",), ragged([1, 1], IN_BATCH), normal((2, 3, 4), (4, 5, 2)),
         dtypes=FULL, jax_agrees=False, note=NO_ORACLE),
    Case("ragged_dot_general[complex]", ("ragged_dot_general",), ragged(SIZES), complex_normal((6, 4), (3, 4, 5)),
         orders=1),
    Case("ragged_dot_general[bfloat16 into float32]", ("ragged_dot_general",),
         ragged(SIZES, preferred="float32", precision=lax.Precision.HIGHEST), normal((6, 4), (3, 4, 5)), orders=1,
         dtypes=("bfloat16",), numeric=False, note=ROUNDED),
)

# ---- conv_general_dilated ----


def conv(layout: tuple[str, str, str], *, strides: Sequence[int], padding: Any = "VALID",
         lhs_dilation: Sequence[int] | None = None, rhs_dilation: Sequence[int] | None = None, features: int = 1,
         batches: int = 1, precision: Any = None, preferred: Any = None) -> Callable[..., Any]:
    """`lax.conv_general_dilated` with every param spelled out."""
    return lambda x, y: lax.conv_general_dilated(
        x, y, strides, padding, lhs_dilation, rhs_dilation, layout, features, batches, precision, preferred,
        out_sharding=None)


def conv_case(label: str, lhs: tuple[int, ...], rhs: tuple[int, ...], *layout: str,
              boundary: tuple[Boundary, ...] = (), dtypes: tuple[str, ...] = FULL, **params: Any) -> Case:
    """A convolution of real operands."""
    spelled = (layout[0], layout[1], layout[2])
    strides = params.pop("strides", (1,) * (len(lhs) - 2))
    return Case(f"conv_general_dilated[{label}]", ("conv_general_dilated",), conv(spelled, strides=strides, **params),
                normal(lhs, rhs), boundary=boundary, dtypes=dtypes)


NHWC = ("NHWC", "HWIO", "NHWC")
NO_PIXELS = (
    Boundary("no batch", zeros((0, 5, 6, 3), (2, 3, 3, 4))),
    Boundary("no window fits", zeros((2, 1, 6, 3), (2, 3, 3, 4))),
    Boundary("no output features", zeros((2, 5, 6, 3), (2, 3, 3, 0))),
    Boundary("infinite", (np.full((1, 3, 4, 1), np.inf), np.ones((2, 3, 1, 1)))),
)

CONV = (
    conv_case("plain", (2, 5, 6, 3), (2, 3, 3, 4), *NHWC, boundary=NO_PIXELS,
              dtypes=("float32", "float64", "bfloat16", "float16")),
    conv_case("strides, same", (2, 5, 6, 2), (3, 2, 2, 3), *NHWC, strides=(2, 3), padding="SAME"),
    conv_case("channels first", (2, 3, 5, 4), (4, 3, 2, 2), "NCHW", "OIHW", "NCHW", padding=((1, 0), (2, 1))),
    conv_case("layouts mixed", (5, 2, 3, 4), (3, 2, 4, 2), "HNCW", "IWOH", "WCHN", padding=((0, 2), (1, 1))),
    conv_case("one dimension", (2, 7, 3), (3, 3, 2), "NHC", "HIO", "NHC", strides=(3,), padding=((2, 2),)),
    conv_case("no dimension", (2, 3), (3, 4), "NC", "IO", "NC"),
    conv_case("three dimensions", (1, 2, 3, 4, 3), (2, 2, 2, 2, 2), "NCDHW", "OIDHW", "NCDHW", strides=(1, 2, 1)),
    conv_case("lhs dilation", (2, 4, 3, 2), (3, 3, 2, 2), *NHWC, lhs_dilation=(2, 3), padding=((1, 2), (2, 0))),
    conv_case("rhs dilation", (2, 7, 6, 2), (3, 2, 2, 2), *NHWC, rhs_dilation=(2, 3), strides=(1, 2),
              padding=((1, 1), (0, 0))),
    conv_case("all dilations, negative padding", (2, 5, 4, 2), (2, 3, 2, 2), *NHWC, strides=(2, 3),
              lhs_dilation=(3, 2), rhs_dilation=(2, 1), padding=((-1, 2), (3, -2))),
    conv_case("windows in the padding alone", (1, 2, 1), (2, 1, 1), "NHC", "HIO", "NHC", padding=((4, 3),)),
    conv_case("feature groups", (2, 4, 4, 6), (2, 2, 2, 9), *NHWC, features=3, strides=(2, 1), padding="SAME"),
    conv_case("depthwise", (2, 5, 4), (3, 1, 8), "NHC", "HIO", "NHC", features=4, rhs_dilation=(2,)),
    conv_case("batch groups", (6, 4, 4, 2), (2, 3, 2, 6), *NHWC, batches=3, lhs_dilation=(2, 1),
              padding=((0, 1), (1, 0))),
    conv_case("batch groups, layouts mixed", (4, 3, 2), (4, 3, 2), "HCN", "OIH", "CNH", batches=2),
    conv_case("precision", (2, 5, 3), (2, 3, 2), "NHC", "HIO", "NHC",
              precision=(lax.Precision.HIGHEST, lax.Precision.HIGH)),
    Case("conv_general_dilated[complex]", ("conv_general_dilated",), conv(NHWC, strides=(1, 1), features=2),
         complex_normal((1, 3, 4, 4), (2, 2, 2, 2))),
    Case("conv_general_dilated[bfloat16 into float32]", ("conv_general_dilated",),
         conv(NHWC, strides=(1, 1), preferred="float32"), normal((2, 3, 4, 2), (2, 2, 2, 3)), dtypes=("bfloat16",),
         numeric=False, note=ROUNDED),
)

CASES: tuple[Case, ...] = DOT + NARROW + RAGGED + CONV
