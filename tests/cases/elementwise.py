"""Cases of arithmetic, exponentials, trigonometry, comparison, selection and conversion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from tests.cases.case import Args, Boundary, Case, normal, uniform

INF, NAN = np.inf, np.nan
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, INF, -INF, NAN])
HIGHEST = lax.AccuracyMode.HIGHEST


def unary(name: str, fun: Callable[..., Any], low: float, high: float, *boundary: Boundary, **fields: Any) -> Case:
    """A function of one real argument drawn from [low, high)."""
    label, _, _ = name.partition("[")
    at_special = Boundary("zeros, ones, infinities, nan", (SPECIAL,), nan=True)
    return Case(name, (label,), fun, uniform(low, high, (2, 5)), boundary=boundary or (at_special,), **fields)


def away_from_zero(rng: np.random.Generator) -> Args:
    """Ten numbers of both signs, at least 0.3 large."""
    return (rng.uniform(0.3, 2.5, (2, 5)) * rng.choice([-1.0, 1.0], (2, 5)),)


def near_and_far(rng: np.random.Generator) -> Args:
    """Ten numbers of both signs, every second one beyond 900, where exponentials overflow in every dtype."""
    return (away_from_zero(rng)[0] * np.where(np.arange(10).reshape(2, 5) % 2, 3000.0, 1.0),)


def disc(low: float, high: float, *shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Args]:
    """Complex numbers with absolute values in [low, high)."""

    def draw(rng: np.random.Generator) -> Args:
        return tuple(rng.uniform(low, high, s) * np.exp(1j * rng.uniform(-np.pi, np.pi, s)) for s in shapes)

    return draw


def complex_unary(name: str, fun: Callable[..., Any], low: float = 0.2, high: float = 0.9, **fields: Any) -> Case:
    """A function of one complex argument with its absolute value in [low, high)."""
    return Case(f"{name}[complex]", (name,), fun, disc(low, high, (2, 5)), **fields)


def pairs(*columns: tuple[float, ...]) -> Args:
    """Arguments from a list of points (x, y, ...)."""
    return tuple(np.array(row, dtype=float) for row in zip(*columns, strict=True))


# ---- one argument ----

UNARY = (
    unary("neg", lax.neg, -2, 2),
    unary("exp", partial(lax.exp, accuracy=None), -3, 3),
    unary("exp[accuracy]", partial(lax.exp, accuracy=HIGHEST), -3, 3, dtypes=("float32",)),
    unary("exp2", partial(lax.exp2, accuracy=None), -3, 3),
    unary("expm1", partial(lax.expm1, accuracy=None), -1, 3),
    unary("expm1[levels off]", partial(lax.expm1, accuracy=None), -20, -8,
          Boundary("far left", (np.array([-10.0]),), expected=(np.array([np.exp(-10.0)]),),
                   why="the derivative of expm1 is exp; JAX adds 1 to a result that was rounded next to -1"),
          dtypes=("float32", "float64"), jax_agrees=False, note="JAX cancels there: exp(x) - 1 + 1"),
    unary("expm1[accuracy]", partial(lax.expm1, accuracy=HIGHEST), -1, 3, dtypes=("float32",)),
    unary("log", partial(lax.log, accuracy=None), 0.3, 3),
    unary("log1p", partial(lax.log1p, accuracy=None), -0.6, 3),
    unary("sqrt", partial(lax.sqrt, accuracy=None), 0.3, 3),
    unary("rsqrt", partial(lax.rsqrt, accuracy=None), 0.3, 3),
    Case("cbrt", ("cbrt",), partial(lax.cbrt, accuracy=None), away_from_zero,
         boundary=(Boundary("zeros, ones, infinities", (SPECIAL[:6],)),)),
    unary("square", lax.square, -2, 2),
    unary("sin", partial(lax.sin, accuracy=None), -3, 3),
    unary("cos", partial(lax.cos, accuracy=None), -3, 3),
    unary("tan", partial(lax.tan, accuracy=None), -1.2, 1.2),
    unary("asin", lax.asin, -0.9, 0.9),
    unary("acos", lax.acos, -0.9, 0.9),
    unary("atan", lax.atan, -3, 3),
    unary("sinh", lax.sinh, -3, 3),
    unary("cosh", lax.cosh, -3, 3),
    unary("tanh", partial(lax.tanh, accuracy=None), -1.5, 1.5),
    unary("tanh[accuracy]", partial(lax.tanh, accuracy=HIGHEST), -1.5, 1.5, dtypes=("float32",)),
    unary("tanh[levels off]", partial(lax.tanh, accuracy=None), 4, 9,
          Boundary("far right", (np.array([8.0]),), expected=(1 / np.cosh(np.array([8.0])) ** 2,),
                   why="the derivative is 1 / cosh(x)**2; JAX subtracts from 1 a result that was rounded next to 1"),
          jax_agrees=False, note="JAX cancels there: 1 - tanh(x)"),
    Case("tanh[far out]", ("tanh",), partial(lax.tanh, accuracy=None), near_and_far),
    unary("asinh", lax.asinh, -3, 3),
    unary("acosh", lax.acosh, 1.2, 4,
          Boundary("zero, one, infinity, nan", (np.array([0.0, 1.0, INF, NAN]),), nan=True)),
    unary("atanh", lax.atanh, -0.8, 0.8),
    unary("logistic", partial(lax.logistic, accuracy=None), -3, 3),
    unary("logistic[accuracy]", partial(lax.logistic, accuracy=HIGHEST), -3, 3, dtypes=("float32",)),
    unary("logistic[levels off]", partial(lax.logistic, accuracy=None), 9, 17,
          Boundary("far right", (np.array([16.0]),), expected=(np.array([np.exp(-16) / (1 + np.exp(-16)) ** 2]),),
                   why="the derivative is y (1 - y) with y = 1 - 1.1e-7, which JAX rounds before it subtracts"),
          jax_agrees=False, note="JAX cancels there: 1 - logistic(x)"),
    Case("abs", ("abs",), lax.abs, away_from_zero, boundary=(Boundary("zeros, ones, infinities, nan", (SPECIAL,)),)),
    Case("sign[real]", (), lax.sign, away_from_zero, boundary=(Boundary("zeros, ones, infinities", (SPECIAL[:6],)),)),
    unary("copy", p.copy_p.bind, -2, 2),
)

POWERS = tuple(
    Case(f"integer_pow[{y}]", ("integer_pow",) if y else (), partial(lax.integer_pow, y=y), away_from_zero,
         boundary=(Boundary("zeros, ones, infinities, nan", (SPECIAL,), nan=True),),
         dtypes=("float32", "float64", "bfloat16", "float16") if y in (-2, 3) else ("float32", "float64"))
    for y in (-5, -2, -1, 0, 1, 2, 3, 6)
)

TURN = ("the sign z / |z| turns with the argument of z: d sign = i sign Im(conj(sign) dz) / |z|; JAX's rule is zero")
CUT = ("one square root of a product has the wrong sign in the left half-plane, where the slope of acosh is "
       "1 / (sqrt(z - 1) sqrt(z + 1)); JAX's is minus that")

ROOT_3 = np.sqrt(3)


def on_cut(name: str, fun: Callable[..., Any], points: list[complex], slopes: list[complex], why: str) -> Case:
    """An inverse function at points on its branch cuts."""
    boundary = Boundary("on the cut", (np.array(points, complex),), expected=(np.array(slopes, complex),),
                        why=f"{why}; JAX takes the square root from the other side on one of the cuts")
    return Case(f"{name}[cut]", (name,), fun, disc(0.2, 0.9, (2, 5)), boundary=(boundary,), jax_agrees=name != "acosh",
                note=CUT if name == "acosh" else "")


COMPLEX = (
    complex_unary("neg", lax.neg),
    complex_unary("exp", lax.exp),
    complex_unary("exp2", lax.exp2),
    complex_unary("expm1", lax.expm1),
    complex_unary("log", lax.log),
    complex_unary("log1p", lax.log1p),
    complex_unary("sqrt", lax.sqrt),
    complex_unary("rsqrt", lax.rsqrt),
    complex_unary("square", lax.square),
    complex_unary("sin", lax.sin),
    complex_unary("cos", lax.cos),
    complex_unary("tan", lax.tan),
    complex_unary("asin", lax.asin),
    complex_unary("acos", lax.acos),
    complex_unary("atan", lax.atan),
    complex_unary("sinh", lax.sinh),
    complex_unary("cosh", lax.cosh),
    complex_unary("tanh", lax.tanh),
    complex_unary("asinh", lax.asinh),
    complex_unary("acosh", lax.acosh, 1.2, 3, jax_agrees=False, note=CUT),
    complex_unary("atanh", lax.atanh),
    complex_unary("logistic", lax.logistic),
    Case("integer_pow[complex,-3]", ("integer_pow",), partial(lax.integer_pow, y=-3), disc(0.4, 1.5, (2, 5))),
    complex_unary("copy", p.copy_p.bind),
    Case("abs[complex]", ("abs",), lax.abs, disc(0.3, 2, (2, 5)),
         boundary=(Boundary("zero", (np.array([0j, 3 + 4j, -2j]),)),
                   Boundary("infinite", (np.array([complex(INF, 0), complex(-INF, 3), complex(3, -INF)]),),
                            expected=(np.array([1 + 0j, -1 + 0j, 1j]),),
                            why="conj of the direction; JAX divides inf by inf"))),
    Case("sign[complex]", ("sign",), lax.sign, disc(0.3, 2, (2, 5)), jax_agrees=False, note=TURN,
         boundary=(Boundary("zero", (np.array([0j, 2 + 0j, -4j]),), expected=(np.array([0j, 0j, 0.25 + 0j]),),
                            why=TURN),)),
    on_cut("asin", lax.asin, [2, -2], [1j / ROOT_3, -1j / ROOT_3], "asin(x) = pi/2 + i acosh(x) above x > 1"),
    on_cut("acos", lax.acos, [2, -2], [-1j / ROOT_3, 1j / ROOT_3], "acos(x) = pi/2 - asin(x)"),
    on_cut("asinh", lax.asinh, [2j, complex(0, -2)], [-1j / ROOT_3, 1j / ROOT_3],
           "asinh(i y) = acosh(y) + i pi/2 right of y > 1, and asinh(conj(z)) = conj(asinh(z))"),
    on_cut("acosh", lax.acosh, [-2, -0.5], [-1 / ROOT_3, -1j / np.sqrt(0.75)],
           "acosh(x) = acosh(-x) + i pi above x < -1 and i acos(x) above |x| < 1"),
    complex_unary("real", lax.real),
    complex_unary("imag", lax.imag),
    complex_unary("conj", lax.conj),
    Case("conj[real input]", ("conj",), lambda x: lax.conj_p.bind(x, input_dtype=x.dtype), normal((2, 3)),
         dtypes=("float32", "float64")),
    Case("complex", ("complex",), lax.complex, normal((2, 3), (2, 3)), dtypes=("float32", "float64")),
    Case("complex[broadcast]", ("complex",), lax.complex, normal((), (2, 3)), dtypes=("float32", "float64")),
)

# ---- two arguments ----

BINARY = {
    "add": lax.add, "sub": lax.sub, "mul": partial(lax.mul, out_dtype=None), "div": lax.div, "rem": lax.rem,
    "max": lax.max, "min": lax.min, "atan2": lax.atan2, "pow": lax.pow,
}  # fmt: skip


def apart(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Args]:
    """Positive numbers, no two alike and no small quotient near an integer: no ties, no kinks."""

    def draw(rng: np.random.Generator) -> Args:
        sizes = [int(np.prod(shape)) for shape in shapes]
        values = rng.permutation(np.linspace(0.413, 2.087, sum(sizes)))
        return tuple(part.reshape(s) for part, s in zip(np.split(values, np.cumsum(sizes)[:-1]), shapes, strict=True))

    return draw


def binary(name: str, label: str, *shapes: tuple[int, ...], **fields: Any) -> Case:
    """A function of two arguments of these shapes."""
    return Case(f"{name}[{label}]" if label else name, (name,), BINARY[name], apart(*shapes), **fields)


TIES = pairs((1, 1), (0, -0.0), (-0.0, 0), (INF, INF), (-INF, -INF), (1, 2), (NAN, 1), (1, NAN))
POWER_WHY = "x**0 is 1 for every x, so its slope in x is 0 at x = 0 too; JAX gives 0 * inf = nan"
MIXED = "operands in half precision, product in single precision"
REM_WHY = "the quotient was truncated to 9 (the remainder is 0.0999..), but 1 / 0.1 rounds to 10, which JAX uses"

BOUNDARY = {
    "add": (Boundary("infinities", pairs((INF, 1), (INF, -INF), (0, -0.0))),),
    "mul": (Boundary("zero times infinity", pairs((0, INF), (INF, 2), (-0.0, 3))),),
    "div": (Boundary("zero", pairs((1, 0), (1, -0.0), (0, 2), (-1, 0), (0, INF), (1, INF))),
            Boundary("zero by zero", pairs((0, 0),), nan=True)),
    "rem": (Boundary("multiples, signs, infinity", pairs((4, 2), (-7, 3), (7, -3), (0, 3), (1, INF), (-6, 3))),
            Boundary("by zero", pairs((1.5, 0), (-1.5, -0.0)), nan=True, expected=(np.ones(2), np.full(2, np.nan)),
                     why="the remainder is NaN, a function without a slope; JAX's is the quotient, an infinity")),
    "max": (Boundary("ties, nan", TIES),),
    "min": (Boundary("ties, nan", TIES),),
    "atan2": (Boundary("axes", pairs((0, 1), (1, 0), (0, -1), (-1, 0), (-0.0, -1))),
              Boundary("origin", pairs((0, 0),), nan=True),
              Boundary("tiny", pairs((6.103515625e-05, 0.0), (0.0, 6.103515625e-05)),
                       expected=(np.array([0.0, 16384.0]), np.array([-16384.0, 0.0])),
                       why="the slopes are 1/x and -1/y; in half precision JAX's squares vanish")),
    "pow": (
        Boundary("zero to the zero", pairs((0, 0),), expected=(np.zeros(1), np.zeros(1)), why=POWER_WHY),
        Boundary("corners in the base", pairs((0, 1), (0, 2), (0, 0.5), (2, 0), (1, 0), (3, 1), (INF, 2), (INF, 1))),
        Boundary("negative base", pairs((-2, 3), (-2, 0), (-1, -2), (-2, 0.5)), nan=True),
        Boundary("zero to a negative power", pairs((0, -1), (0, -0.5)), nan=True),
    ),
}

ARITHMETIC = (
    *(binary(name, "", (2, 3), (2, 3), boundary=BOUNDARY.get(name, ())) for name in BINARY),
    *(binary(name, "scalar", (2, 3), (), dtypes=("float32", "float64")) for name in BINARY),
    *(binary(name, "scalar first", (), (2, 3), dtypes=("float64",)) for name in BINARY),
    *(binary(name, "stretched", (2, 1, 3), (1, 4, 3), dtypes=("float32", "float64")) for name in BINARY),
    *(Case(f"{name}[empty]", (), BINARY[name], normal((0, 3), (1, 3)), dtypes=("float32",)) for name in BINARY),
    *(Case(f"{name}[complex]", (name,), BINARY[name], disc(0.5, 2, (2, 3), (2, 3)))
      for name in ("add", "sub", "mul", "div", "pow", "max", "min")),
    Case("atan2[complex]", ("atan2",), lax.atan2, disc(0.3, 0.6, (2, 3), (2, 3))),
    Case("mul[out_dtype]", (), partial(lax.mul, out_dtype=jnp.float32), normal((2, 3), (2, 3)),
         dtypes=("bfloat16", "float16"), orders=1, numeric=False, note=MIXED),
    Case("mul[out_dtype,stretched]", (), partial(lax.mul, out_dtype=jnp.float32), normal((2, 1), (2, 3)),
         dtypes=("bfloat16", "float16"), orders=1, numeric=False, note=MIXED),
    Case("rem[quotient rounds up]", ("rem",), lax.rem, lambda rng: (np.array([1.04, 2.03]), np.array([0.1, 0.1])),
         dtypes=("float32", "float64"),
         boundary=(Boundary("one by a tenth", pairs((1, 0.1),), expected=(np.ones(1), np.array([-9.0])),
                            why=REM_WHY),)),
    Case("pow[integer exponent]", ("pow",), lax.pow, lambda rng: (rng.uniform(0.4, 2, 5), np.array([-2, -1, 0, 1, 3])),
         boundary=(Boundary("zero base", (np.zeros(4), np.array([0, 1, 2, -1]))),
                   Boundary("negative base", (np.array([-2.0, -1.0]), np.array([3, 0]))))),
    Case("pow[unsigned exponent]", ("pow",), lax.pow,
         lambda rng: (rng.uniform(0.4, 2, 3), np.array([0, 1, 3], np.uint8)), dtypes=("float32", "float64")),
    Case("pow[integer scalar exponent]", ("pow",), lax.pow, lambda rng: (rng.uniform(0.4, 2, (2, 3)), np.int32(3)),
         dtypes=("float32", "float64")),
    Case("pow[exponent zero]", ("pow",), lax.pow, lambda rng: (rng.uniform(0.4, 2, 4), np.zeros(4)),
         dtypes=("float32", "float64")),
    Case("nextafter", ("nextafter",), lax.nextafter, apart((2, 3), (2, 3)), dtypes=("float32", "float64"),
         jax_agrees=False,
         note="JAX has no rule; x plus one unit in the last place has slope 1, and y gives the direction",
         boundary=(Boundary("stretched", (np.array(1.0), np.array([0.0, 2.0])), expected=(np.array(2.0), np.zeros(2)),
                            why="JAX has no rule; the slope in x is 1"),)),
    Case("add_any", ("add_any",), p.add_jaxvals_p.bind, normal((2, 3), (2, 3))),
)

# ---- selection ----

CLAMP_WHY = "low > high: XLA's clamp gives high whatever x is; JAX's rule gives high no cotangent where x < high"
SCALAR_BOUNDS = "JAX's rule fails on scalar bounds that are differentiated: its select gets unequal shapes"
RANGE_WHY = "XLA clamps the index to the first or the last case; JAX's rule gives no case a cotangent"

SELECTION = (
    Case("clamp", ("clamp",), lax.clamp,
         lambda rng: (rng.uniform(-0.6, -0.4, 5), np.array([-2.0, 0.1, 2.0, 0.3, -0.9]), rng.uniform(0.4, 0.6, 5)),
         boundary=(Boundary("ties", pairs((0, 0, 1), (0, 1, 1), (0, 0, 0), (0, NAN, 1), (0, INF, 1), (0, -INF, 1))),
                   Boundary("low above high", pairs((2, 0, 1), (2, 1.5, 1), (2, 3, 1)),
                            expected=(np.zeros(3), np.zeros(3), np.ones(3)), why=CLAMP_WHY))),
    Case("clamp[scalar bounds]", ("clamp",), lax.clamp,
         lambda rng: (np.array(-0.5), np.array([[-2.0, 0.1, 2.0], [0.3, 3.0, -0.9]]), np.array(0.5)),
         dtypes=("float32", "float64"), jax_agrees=False, note=SCALAR_BOUNDS,
         boundary=(Boundary("outside", (np.array(-0.5), np.array([-2.0, 0.1, 2.0, 3.0]), np.array(0.5)),
                            expected=(np.array(1.0), np.array([0.0, 1.0, 0.0, 0.0]), np.array(2.0)),
                            why=SCALAR_BOUNDS),)),
    Case("clamp[constant bounds]", ("clamp",), lambda x: lax.clamp(np.array(-0.5, x.dtype), x, np.array(0.5, x.dtype)),
         lambda rng: (np.array([[-2.0, 0.1, 2.0], [0.3, 3.0, -0.9]]),)),
    Case("select_n[bool]", ("select_n",), lax.select_n,
         lambda rng: (rng.random((2, 3)) < 0.5, *normal((2, 3), (2, 3))(rng))),
    Case("select_n[scalar]", ("select_n",), lax.select_n, lambda rng: (np.array(True), *normal((2, 3), (2, 3))(rng)),
         dtypes=("float32", "float64"), boundary=(Boundary("false", (np.array(False), np.ones(2), np.zeros(2))),)),
    Case("select_n[one case]", ("select_n",), lax.select_n, lambda rng: (np.array([0, 0, 0]), *normal((3,))(rng)),
         dtypes=("float32", "float64")),
    Case("select_n[one bool case]", ("select_n",), lax.select_n, lambda rng: (np.zeros(3, bool), *normal((3,))(rng)),
         dtypes=("float64",), jax_agrees=False, note="JAX's transpose asks for a second case and raises IndexError"),
    Case("select_n[integer]", ("select_n",), lax.select_n,
         lambda rng: (np.array([0, 1, 2, 3, 1], np.int32), *normal((5,), (5,), (5,), (5,))(rng)),
         dtypes=("float32", "float64"),
         boundary=(Boundary("out of range", (np.array([-3, 4, 99, 3]), *[np.zeros(4)] * 4),
                            expected=(np.array([1.0, 0, 0, 0]), np.zeros(4), np.zeros(4), np.array([0.0, 1, 1, 1])),
                            why=RANGE_WHY),)),
    Case("select_n[integer scalar]", ("select_n",), lax.select_n,
         lambda rng: (np.int32(1), *normal((2, 2), (2, 2), (2, 2))(rng)), dtypes=("float32", "float64")),
    Case("select_n[unsigned]", ("select_n",), lax.select_n,
         lambda rng: (np.array([0, 2, 1], np.uint8), *normal((3,), (3,), (3,))(rng)), dtypes=("float64",),
         boundary=(Boundary("out of range", (np.array([255, 0], np.uint8), *[np.zeros(2)] * 3),
                            expected=(np.array([0.0, 1]), np.zeros(2), np.array([1.0, 0])), why=RANGE_WHY),)),
    Case("select_n[two integer cases]", ("select_n",), lax.select_n,
         lambda rng: (np.array([0, 1, 1], np.int32), *normal((3,), (3,))(rng)), argnums=(2,), dtypes=("float64",)),
    Case("select_n[complex]", ("select_n",), lax.select_n,
         lambda rng: (np.array([True, False]), *disc(0.5, 2, (2,), (2,))(rng))),
)

# ---- conversions ----


def convert(dtype: Any) -> Callable[[Any], Any]:
    """`lax.convert_element_type` to a fixed dtype."""
    return lambda x: lax.convert_element_type(x, dtype)


def convert_weak(x: Any) -> Any:
    """To the same dtype, weakly typed."""
    return p.convert_element_type_p.bind(x, new_dtype=x.dtype, weak_type=True, sharding=None)


# Cases that round to half precision name no primitive: a slope wrong by a hundredth hides in their rounding errors. The
# rules are held by the other cases.
ROUNDED = "rounded to fewer bits: a staircase for finite differences"

CONVERSIONS = (
    Case("convert_element_type[narrow]", (), convert(jnp.bfloat16), normal((2, 3)),
         dtypes=("float32", "float16"), numeric=False, note=ROUNDED),
    Case("convert_element_type[wide]", (), convert(jnp.float32), normal((2, 3)),
         dtypes=("bfloat16", "float16", "float32")),
    Case("convert_element_type[float8]", (), convert(jnp.float8_e4m3fn), normal((2, 3)),
         dtypes=("float32", "bfloat16"), orders=1, numeric=False, note=ROUNDED),
    Case("convert_element_type[weak]", ("convert_element_type",), convert_weak, normal((2, 3)),
         dtypes=("float32", "float64")),
    Case("convert_element_type[to complex]", ("convert_element_type",), convert(jnp.complex64), normal((2, 3)),
         dtypes=("float32", "bfloat16")),
    Case("convert_element_type[to complex128]", ("convert_element_type",), convert(jnp.complex128), normal((2, 3)),
         dtypes=("float64",)),
    Case("convert_element_type[complex to real]", ("convert_element_type",),
         lambda z: p.convert_element_type_p.bind(z, new_dtype=np.finfo(z.dtype).dtype, weak_type=False, sharding=None),
         disc(0.5, 2, (2, 3))),
    Case("convert_element_type[complex to half]", (),
         lambda z: p.convert_element_type_p.bind(z, new_dtype=jnp.bfloat16, weak_type=False, sharding=None),
         disc(0.5, 2, (2, 3)), dtypes=("float32",), numeric=False, note=ROUNDED),
    Case("convert_element_type[through integers]", ("mul",),
         lambda x: lax.mul(x, lax.convert_element_type(lax.convert_element_type(x, np.int32), x.dtype)),
         uniform(1.2, 1.8, (4,)), dtypes=("float32", "float64")),
    Case("convert_element_type[from integers]", ("mul",),
         lambda x, n: lax.mul(x, lax.convert_element_type(n, x.dtype)),
         lambda rng: (rng.standard_normal(3), np.arange(3)),
         dtypes=("float32", "float64")),
    Case("reduce_precision", ("reduce_precision",), partial(lax.reduce_precision, exponent_bits=5, mantissa_bits=4),
         normal((2, 3)), dtypes=("float32", "bfloat16"), numeric=False, note=ROUNDED),
    Case("bitcast_convert_type", ("bitcast_convert_type",), lambda x: lax.bitcast_convert_type(x, np.int32),
         normal((2, 3)), dtypes=("float32",)),
)

# ---- no cotangent ----


def bits(x: Any, i: Any, j: Any) -> Any:
    """All bitwise operations, as a factor of `x`."""
    shifted = [lax.shift_left(i, j), lax.shift_right_arithmetic(i, j), lax.shift_right_logical(i, j)]
    logic = [lax.bitwise_and(i, j), lax.bitwise_or(i, j), lax.bitwise_xor(i, j), lax.bitwise_not(i)]
    counts = [lax.population_count(i), lax.clz(i)]
    total = sum([*shifted, *logic, *counts])
    return lax.mul(x, lax.convert_element_type(total, x.dtype))


def comparisons(x: Any, y: Any) -> Any:
    """All comparisons, as a factor of `x`."""
    flags = [f(x, y) for f in (lax.eq, lax.ne, lax.ge, lax.gt, lax.le, lax.lt)]
    flags += [q.bind(x, y) for q in (p.eq_to_p, p.le_to_p, p.lt_to_p)]
    return lax.mul(x, sum(lax.convert_element_type(flag, x.dtype) for flag in (*flags, lax.is_finite(y))))


def stepped(x: Any) -> Any:
    """All steps, as a factor of `x`."""
    even, away = lax.RoundingMethod.TO_NEAREST_EVEN, lax.RoundingMethod.AWAY_FROM_ZERO
    return lax.mul(x, lax.floor(x) + lax.ceil(x) + lax.round(x, even) + lax.round(x, away) + lax.stop_gradient(x))


CONSTANT = (
    Case("floor[and other steps]", ("floor", "ceil", "round", "mul"), stepped,
         lambda rng: (np.array([-1.3, 0.2, 0.7, 2.6]),),
         numeric=False, note="stop_gradient hides a slope from JAX and from us, not from finite differences",
         boundary=(Boundary("on the steps", (np.array([0.0, -0.0, 0.5, 1.0, -1.5, 2.5]),)),)),
    Case("eq[and other comparisons]",
         ("eq", "ne", "ge", "gt", "le", "lt", "eq_to", "le_to", "lt_to", "is_finite", "mul"), comparisons,
         apart((4,), (4,)), boundary=(Boundary("ties", TIES),)),
    Case("and[and other bitwise operations]",
         ("and", "or", "xor", "not", "shift_left", "shift_right_arithmetic", "shift_right_logical", "population_count",
          "clz", "mul"), bits,
         lambda rng: (rng.standard_normal(3), np.array([5, 9, 12], np.int32), np.array([1, 2, 3], np.int32)),
         dtypes=("float32", "float64")),
    # XLA cannot fuse `mulhi` with anything on the CPU: it stands beside.
    Case("mulhi", ("mulhi", "neg"), lambda x, i, j: (lax.neg(x), lax.mulhi_p.bind(i, j)),
         lambda rng: (rng.standard_normal(3), np.array([5, -9, 2**30], np.int32), np.array([1, 2, 9], np.int32)),
         dtypes=("float32", "float64")),
)

CASES = (*UNARY, *POWERS, *COMPLEX, *ARITHMETIC, *SELECTION, *CONVERSIONS, *CONSTANT)
