"""The operations that random programs are made of, in families like those of the rule table.

Each is a function that appends statements to a `Builder`, or raises `Unfit`. In the tables an expression stands beside
the domain that its operands must lie in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from funcgrad.crosscheck.programs.arrays import (
    batched,
    control,
    convolution,
    fourier,
    gather,
    inert,
    is_complex,
    linalg,
    listed,
    ordering,
    product,
    random_numbers,
    scatter,
    segment,
    window,
)
from funcgrad.crosscheck.programs.builder import DTYPES, SHAPES, Builder, Choose, Unfit
from funcgrad.crosscheck.programs.data import Function, Program, Value

Operation = Callable[[Builder], Any]

# ---- elementwise ----

UNARY = {
    "real": """-{0}|jnp.sin({0})|jnp.cos({0})|jnp.arctan({0})|jnp.square({0})|{0} ** 2|{0} ** 3|jnp.abs({0})
        jnp.sign({0})|jax.nn.relu({0})|jnp.arcsinh({0})|jnp.floor({0})|jnp.round({0})|jnp.ceil({0})
        jax.nn.leaky_relu({0})|jnp.nan_to_num({0})|jnp.copy({0})|jnp.clip({0}, -1, 1)|jax.nn.relu6({0})
        lax.reduce_precision({0}, 8, 7)|{0} * 2|{0} + 1|1 - {0}|{0} / 3|jax.nn.hard_tanh({0})|jnp.trunc({0})""",
    "small": """jnp.exp({0})|jnp.tanh({0})|jax.nn.sigmoid({0})|jnp.exp2({0})|jnp.expm1({0})|jnp.sinh({0})|jnp.cosh({0})
        jax.nn.softplus({0})|lax.erf({0})|lax.erfc({0})|jax.nn.gelu({0})|jax.nn.silu({0})|jax.nn.elu({0})|jnp.sinc({0})
        jax.nn.log_sigmoid({0})|lax.bessel_i0e({0})|lax.bessel_i1e({0})|jnp.tan(0.5 * {0})|{0} ** 4|jnp.i0({0})
        jax.nn.selu({0})|jax.nn.mish({0})""",
    "nonzero": "1 / {0}|jnp.cbrt({0})|{0} ** -1|{0} ** -2|jnp.reciprocal({0})|jnp.sign({0}) * {0}",
    "positive": """jnp.log({0})|jnp.log1p({0})|jnp.sqrt({0})|lax.rsqrt({0})|lax.lgamma({0})|lax.digamma({0})
        jnp.log2({0})|{0} ** 0.5|{0} ** 1.5|lax.polygamma(jnp.ones_like({0}), {0})|jax.scipy.special.entr({0})""",
    "unit": "jnp.arcsin({0})|jnp.arccos({0})|jnp.arctanh({0})|lax.erf_inv({0})|jnp.log1p({0})",
    "half": """jax.scipy.special.logit({0})|jax.scipy.special.ndtri({0})
        lax.betainc(jnp.full_like({0}, 1.5), jnp.full_like({0}, 2.5), {0})""",
    "above one": "jnp.arccosh({0})|jnp.log({0} - 1)",
}
COMPLEX_UNARY = """-{0}|jnp.sin({0})|jnp.cos({0})|jnp.tanh({0})|jnp.exp({0})|jnp.log({0})|jnp.sqrt({0})|jnp.square({0})
    jnp.conj({0})|{0} ** 3|1 / {0}|{0} * (2 - 1j)|jnp.sinh({0})|jnp.cosh({0})|lax.rsqrt({0})|jnp.expm1({0})"""
COMPLEX_TO_REAL = "jnp.real({0})|jnp.imag({0})|jnp.abs({0})|jnp.abs({0}) ** 2|jnp.angle({0})|({0} * jnp.conj({0})).real"
BINARY = {
    ("real", "real"): """{0} + {1}|{0} * {1}|{0} - {1}|jnp.maximum({0}, {1})|jnp.minimum({0}, {1})
        jnp.logaddexp({0}, {1})|jnp.where({0} > {1}, {0}, {1} * 2)|jnp.copysign({0}, {1})|jnp.heaviside({0}, {1})""",
    ("real", "nonzero"): "{0} / {1}|jnp.hypot({0}, {1})|jnp.arctan2({0}, {1})|jnp.mod({0}, {1})|jnp.fmod({0}, {1})",
    ("positive", "small"): "{0} ** {1}|jnp.power({0}, {1})",
    ("small", "positive"): "jax.scipy.special.xlogy({0}, {1})|{0} * jnp.log({1})",
}
COMPLEX_BINARY = "{0} + {1}|{0} * {1}|{0} - {1}|{0} / {1}|{0} * jnp.conj({1})"
#: `lax` functions that take operands of one shape.
SAME_SHAPE = {
    ("positive", "positive"): "lax.igamma({0}, {1})|lax.igammac({0}, {1})",
    ("real", "nonzero"): "lax.rem({0}, {1})|lax.atan2({0}, {1})",
}


def unary(b: Builder) -> None:
    """A function of one number."""
    if is_complex(b):
        template = b.one_of(listed(COMPLEX_UNARY))
        b.apply(template, template, b.operand(domain="disc"))
        return
    domain = b.one_of(["real", "real", "small", "positive", "nonzero", "unit", "half", "above one"])
    template = b.one_of(listed(UNARY[domain]))
    b.apply(template, template, b.operand(domain=domain))


def broadcasts(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two shapes can be broadcast against each other."""
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(first), reversed(second), strict=False))


def binary(b: Builder) -> None:
    """A function of two numbers, with broadcasting."""
    domains = b.one_of(list(BINARY))
    template = b.one_of(listed(COMPLEX_BINARY if is_complex(b) else BINARY[domains]))
    x = b.operand(domain=domains[0])
    y = b.operand(domain=domains[1], where=lambda v: broadcasts(x.shape, v.shape))
    b.apply(template, template, x, y)


def same_shape(b: Builder) -> None:
    """A `lax` function of two arrays of one shape."""
    if is_complex(b):
        raise Unfit("real only")
    domains = b.one_of(list(SAME_SHAPE))
    template = b.one_of(listed(SAME_SHAPE[domains]))
    x = b.operand(domain=domains[0])
    b.apply(template, template, x, b.operand(domain=domains[1], shape=x.shape))


def select(b: Builder) -> None:
    """A choice by a mask."""
    x = b.operand()
    y = b.operand(shape=x.shape)
    template = b.one_of(["jnp.where({0}, {1}, {2})", "lax.select({0}, {1}, {2})", "lax.select_n({0}, {1}, {2})"])
    b.apply(template, template, b.mask(x.shape), x, y)


def clamp(b: Builder) -> None:
    """A clamp between two arrays."""
    if is_complex(b):
        raise Unfit("real only")
    x = b.operand()
    b.apply("clamp", "lax.clamp({0} - 1, {1}, {0} + 1)", b.operand(shape=x.shape), x)


def convert(b: Builder) -> None:
    """To another dtype and back, or through a complex number."""
    x = b.operand()
    if is_complex(b):
        template = b.one_of(listed(COMPLEX_TO_REAL))
        back = b.apply(template, template, b.within(x, "disc"))
        b.apply("complex", "lax.complex({0}, {1})", back, b.operand(shape=x.shape, dtype="float32"))
        return
    other = b.one_of(["bfloat16", "float32", "float16", "int32", "float64"])
    b.apply(f"astype {other}", f"{{0}}.astype('{other}').astype('{b.dtype}') * {{0}}", x)


# ---- shapes ----


def reshape(b: Builder) -> None:
    """A change of shape, order or extent of one array."""
    x = b.operand(domain=None)
    rank = len(x.shape)
    options = ["{0}.reshape(-1)", "{0}[None]", "jnp.ravel({0})", "jnp.broadcast_to({0}, (2, *{0}.shape))",
               "jnp.stack([{0}, {0} * 2])"]
    if rank:
        axis = b.choose(rank)
        options += [f"jnp.flip({{0}}, {axis})", "{0}[::2]", "{0}[1:]", "{0}[..., ::-1]", f"jnp.roll({{0}}, 1, {axis})",
                    f"jnp.repeat({{0}}, 2, {axis})", f"jnp.expand_dims({{0}}, {axis})", "jnp.tile({0}, 2)",
                    "jnp.atleast_2d({0})", "lax.pad({0}, jnp.zeros((), {0}.dtype), [(1, 0, 1)] + [(0, -1, 0)] * "
                    f"{rank - 1})", "jnp.pad({0}, 1)", f"jnp.concatenate([{{0}}, {{0}}], {axis})",
                    "jnp.pad({0}, 1, mode='edge')", "{0}[:0]", f"lax.rev({{0}}, ({axis},))"]
        if x.shape[axis] == 1:
            options += [f"jnp.squeeze({{0}}, {axis})"] * 4
    if rank >= 2:
        options += ["{0}.T", "jnp.swapaxes({0}, 0, 1)", "jnp.tril({0})", "jnp.triu({0})", "jnp.moveaxis({0}, 0, -1)",
                    "jnp.diagonal({0})", "{0}[0]", "{0}[:, 0]", "jnp.rot90({0})"]
    template = b.one_of(options)
    b.apply(template, template, x)


def join(b: Builder) -> None:
    """Two arrays side by side."""
    x = b.operand(domain=None, where=lambda v: bool(v.shape))
    y = b.operand(domain=None, shape=x.shape)
    axis = b.choose(len(x.shape))
    template = b.one_of([f"jnp.concatenate([{{0}}, {{1}}], {axis})", f"jnp.stack([{{0}}, {{1}}], {axis})",
                         f"jnp.concatenate([{{0}}, {{1}}, {{0}}], {axis})"])
    b.apply(template, template, x, y)


def split(b: Builder) -> None:
    """Two pieces of an array."""
    x = b.operand(domain=None, where=lambda v: bool(v.shape) and v.shape[0] >= 2)
    template = b.one_of([f"jnp.split({{0}}, [{1 + b.choose(x.shape[0] - 1)}])",
                         f"lax.split({{0}}, (1, {x.shape[0] - 1}))"])
    b.apply_several(template, f"tuple({template})", x)


# ---- reductions ----

REDUCTIONS = "jnp.sum|jnp.mean|jnp.max|jnp.min|jnp.prod|jnp.var|jax.nn.logsumexp|jnp.std|jnp.nansum|jnp.ptp|jnp.median"
ALONG = "jax.nn.softmax|jax.nn.log_softmax|jnp.cumsum|jnp.cumprod|jax.nn.standardize"
CUMULATIVE = "lax.cumsum|lax.cumprod|lax.cummax|lax.cummin|lax.cumlogsumexp"


def reduction(b: Builder) -> None:
    """Fewer numbers from many."""
    name = b.one_of(["jnp.sum", "jnp.mean", "jnp.prod"] if is_complex(b) else listed(REDUCTIONS))
    x = b.operand(where=lambda v: bool(v.shape) and (math.prod(v.shape) > 0 or name == "jnp.sum"))
    axis = b.one_of([None, 0, -1])
    keep = ", keepdims=True" if b.chance(3) else ""
    b.apply(name, f"{name}({{0}}, axis={axis}{keep})", x)


def along(b: Builder) -> None:
    """As many numbers as before, each of them from many."""
    x = b.operand(where=lambda v: bool(v.shape) and math.prod(v.shape) > 0)
    axis = b.choose(len(x.shape))
    if is_complex(b) or b.chance(2):
        name = b.one_of(["lax.cumsum", "lax.cumprod"] if is_complex(b) else listed(CUMULATIVE))
        b.apply(name, f"{name}({{0}}, axis={axis}, reverse={b.chance(2)})", x)
    else:
        name = b.one_of(listed(ALONG))
        b.apply(name, f"{name}({{0}}, axis={axis})", x)


def position(b: Builder) -> None:
    """An integer from an array, that scales it."""
    if is_complex(b):
        raise Unfit("real only")
    x = b.operand(where=lambda v: bool(v.shape) and math.prod(v.shape) > 0)
    name = b.one_of(["jnp.argmax", "jnp.argmin", "jnp.count_nonzero"])
    b.apply(name, f"{{0}} * {name}({{0}}).astype({{0}}.dtype)", x)


FAMILIES: dict[str, tuple[Operation, ...]] = {
    "elementwise": (unary, unary, binary, binary, select, clamp, same_shape),
    "conversion": (convert,),
    "shape": (reshape, reshape, join, split),
    "reduction": (reduction, reduction, position),
    "cumulative": (along,),
    "contraction": (product, batched, convolution),
    "indexing": (gather, scatter, segment),
    "ordering": (ordering,),
    "window": (window,),
    "linalg": (linalg,),
    "fourier": (fourier,),
    "inert": (inert,),
    "random": (random_numbers,),
    "control": (control,),
}
WEIGHTS = {"elementwise": 12, "shape": 5, "reduction": 4, "indexing": 4, "contraction": 3, "conversion": 1, "window": 1,
           "inert": 1, "random": 1, "linalg": 1, "fourier": 1, "control": 2, "cumulative": 2, "ordering": 2}


# ---- whole programs ----


def build(choose: Choose, statements: int, families: Iterable[str] | None, dtypes: Iterable[str] | None) -> Program:
    """A random program."""
    usable = {name: DTYPES.get(name, 1) for name in dtypes or DTYPES
              if name != "float64" or jax.config.read("jax_enable_x64")}
    dtype = _weighted(choose, usable)
    chosen = list(families or FAMILIES)
    unknown = sorted(set(chosen) - set(FAMILIES))
    if unknown:
        raise ValueError(f"no such family: {', '.join(unknown)}.\nTo fix: choose from {', '.join(FAMILIES)}.")
    spread = [name for name in chosen for _ in range(WEIGHTS.get(name, 2))]
    builder = Builder(choose, dtype, FAMILIES)
    for _ in range(1 + choose(2)):
        builder.input(builder.numbers(builder.one_of(SHAPES), dtype))
    builder.extend(1 + choose(statements), spread)
    return _finished(builder)


def _weighted(choose: Choose, weights: dict[str, int]) -> str:
    return [name for name, weight in weights.items() for _ in range(weight)][choose(sum(weights.values()))]


def _finished(builder: Builder) -> Program:
    """The program: its outputs are the variables that nothing reads."""
    read = {v for s in builder.statements for v in s.reads()}
    results = [v for s in builder.statements for v in s.results if v.inexact]
    outputs = [v for v in results if v not in read][-3:] or results[-1:] or [
        v for v in builder.inputs if v.inexact][-1:]
    rng = np.random.default_rng(builder.choose(1000))
    cotangents = []
    for variable in outputs:
        drawn = np.round(rng.standard_normal(math.prod(variable.shape)) + 0.005, 2)
        drawn = drawn + 1j * np.round(rng.standard_normal(drawn.size), 2) if variable.dtype.startswith("c") else drawn
        cotangents.append(Value(variable.dtype, variable.shape, tuple(drawn.tolist())))
    function = Function(tuple(builder.inputs), tuple(builder.statements), tuple(outputs))
    return Program(function, tuple(builder.values), tuple(cotangents)).trimmed()
