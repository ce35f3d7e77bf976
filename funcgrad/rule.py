"""Floor 1: what a VJP rule is: the functions of one primitive, what they read, and how they are applied.

`funcgrad.registry` has the table of rules and the calls that fill it.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from jax import lax
from jax.extend.core import Primitive

from funcgrad import zeros

Array = Any
Aval = Any


class MapClass(enum.Enum):
    """What kind of map a primitive is, as far as its derivative goes."""

    CONSTANT = "constant"
    LINEAR = "linear"
    POINTWISE = "pointwise"
    BILINEAR = "bilinear"
    CLOSED_FORM = "closed form"
    JOINT = "joint"
    HIGHER_ORDER = "higher order"
    MUTABLE = "mutable array"
    UNSUPPORTED = "unsupported"


@dataclasses.dataclass(frozen=True, eq=False)
class Over:
    """A local partial ``numerator / denominator`` that is applied as ``(ct * numerator) / denominator``.

    One rounding less than multiplying by a reciprocal. ``Over(y)`` is ``1 / y``.

    >>> float(Over(4.0, 2.0).value())
    0.5
    """

    denominator: Array
    numerator: Array | None = None

    def value(self) -> Array:
        """The local partial itself."""
        if self.numerator is None:
            return lax.div(lax.full_like(self.denominator, 1), self.denominator)
        return lax.div(self.numerator, self.denominator)


@dataclasses.dataclass(frozen=True, eq=False)
class Spread:
    """Stands for an operand that is another value with axes of size 1 put in, when the other one's cotangent is wanted.

    So the cotangent of a bias is one sum; with the axes put in and taken out again it would be three operations.

    Attributes:
      aval: of the operand.
      inserted: its axes of size 1 that the other value does not have.
    """

    aval: Aval
    inserted: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The operand's shape."""
        return self.aval.shape

    @property
    def dtype(self) -> Any:
        """The operand's dtype."""
        return self.aval.dtype

    def gathered(self, ct: Array) -> Array:
        """The other value's cotangent."""
        stretched = {i for i, (mine, whole) in enumerate(zip(self.shape, ct.shape, strict=True)) if mine != whole}
        summed = lax.reduce_sum(ct, tuple(sorted(stretched.union(self.inserted))))
        kept = [i for i in range(ct.ndim) if i not in self.inserted]
        back = tuple(kept.index(i) for i in stretched.difference(self.inserted))
        return lax.expand_dims(summed, back) if back else summed


def unbroadcast(ct: Array, operand: Array) -> Array:
    """A cotangent in its operand's dtype and summed to its shape: binary primitives stretch axes of size 1.

    >>> import jax.numpy as jnp
    >>> unbroadcast(jnp.ones((2, 3)), jnp.ones((2, 1))).tolist()
    [[3.0], [3.0]]
    """
    if ct.dtype != operand.dtype:  # `mul` can give a wider result than its operands
        ct = lax.convert_element_type(ct, operand.dtype)
    if isinstance(operand, Spread):
        return operand.gathered(ct)
    if ct.shape == operand.shape:
        return ct
    if operand.shape == ():
        return lax.reduce_sum(ct, tuple(range(ct.ndim)))
    axes = tuple(i for i, (mine, whole) in enumerate(zip(operand.shape, ct.shape, strict=True)) if mine != whole)
    return lax.expand_dims(lax.reduce_sum(ct, axes), axes)


class Reads(NamedTuple):
    """Which values a rule's function reads: the output's, the operands' by position, and all the rest.

    The pullback must keep these, or have them computed again.
    """

    out: bool
    operands: tuple[bool, ...]
    rest: bool

    def operand(self, index: int) -> bool:
        """Whether the value of operand `index` is read."""
        return self.operands[index] if index < len(self.operands) else self.rest


@dataclasses.dataclass(frozen=True, eq=False)
class VJPRule:
    """One primitive's rule. Immutable.

    Attributes:
      primitive: the primitive it belongs to.
      kind: the class of the map.
      functions: one for each operand (None: never a cotangent), or a single one for `joint` and `higher_order`.
      dear: recomputing the primitive costs more than keeping its outputs.
      mixes: for a `closed_form` or `joint` map, which cotangents meet in one result (see `funcgrad.zeros`).
      reason: why it is unsupported, or a note for the table.
      error: what JAX raises for an unsupported primitive; our error is one of those too.
      functions_read: what each of `functions` reads, as its signature says.
    """

    primitive: Primitive
    kind: MapClass
    functions: tuple[Callable[..., Any] | None, ...] = ()
    dear: bool = False
    reason: str = ""
    error: type[Exception] = NotImplementedError
    functions_read: tuple[Reads, ...] = ()
    mixes: str = zeros.EVERYTHING

    @property
    def forward(self) -> Callable[..., Any]:
        """The function of a `higher_order` rule."""
        function = self.functions[0]
        assert self.kind is MapClass.HIGHER_ORDER and function is not None
        return function

    @property
    def forward_of_tangents(self) -> Callable[..., Any]:
        """The same for tangents, whose values nobody knows; `forward` where there is no other."""
        return self.functions[-1] or self.forward

    @property
    def process(self) -> Callable[..., Any]:
        """The function of a `mutable` rule."""
        (function,) = self.functions
        assert self.kind is MapClass.MUTABLE and function is not None
        return function

    def reads(self, active: tuple[bool, ...]) -> tuple[bool, tuple[bool, ...]]:
        """(is the output's value read, is each operand's value read) when these operands are active."""
        return _reads(self, active)

    def partials(self, active: Sequence[bool], out: Array, operands: Sequence[Array], params: dict[str, Any]) -> list:
        """Local partials of a `pointwise` primitive, None where inactive. One may be an `Over`, or a mask."""
        assert self.kind is MapClass.POINTWISE
        return [
            function(out, *operands, **params) if flag and function is not None else None
            for flag, function in zip(active, self.functions, strict=True)
        ]

    def cotangents(self, active: Sequence[bool], ct: Any, out: Any, operands: Sequence[Any], params: dict[str, Any],
                   shapes: Sequence[Any] | None = None) -> Sequence[Array | None]:
        """Cotangents of the operands, None for inactive ones and for symbolic zeros.

        Args:
          active: one flag for each operand.
          ct: cotangent of the output; a tuple with None for zeros when the primitive has several results.
          out: the output, or its aval where `reads` says that it is not read; a tuple for several results.
          operands: values, or avals where `reads` says so.
          params: the primitive's params.
          shapes: of elementwise maps, what to sum to: the operands themselves, unless there is a `Spread` among them.
        """
        if self.kind is MapClass.POINTWISE:
            partials = self.partials(active, out, operands, params)
            weighted = _weighted_strongly if zeros.zeros_are_strong() else _weighted
            return [None if partial is None else weighted(ct, partial, operand)
                    for partial, operand in zip(partials, shapes or operands, strict=True)]
        if zeros.zeros_are_strong() and (self.kind is MapClass.BILINEAR or self.mixes == zeros.PRODUCTS):
            leading = (out,) if self.kind is MapClass.CLOSED_FORM else ()
            return [
                zeros.contraction(function, ct, leading, operands, params) if flag and function is not None
                else None
                for flag, function in zip(active, self.functions, strict=True)
            ]
        results = self._general(active, ct, out, operands, params)
        if not zeros.zeros_are_strong() or self.kind is MapClass.LINEAR:
            return results
        cts = ct if isinstance(ct, tuple) else (ct,)
        return [zeros.elsewhere(cts, result, self.mixes, params) for result in results]

    def _general(self, active: Sequence[bool], ct: Any, out: Any, operands: Sequence[Any],
                 params: dict[str, Any]) -> Sequence[Array | None]:
        if self.kind is MapClass.JOINT:
            (function,) = self.functions
            assert function is not None
            return function(tuple(active), ct, out, *operands, **params)
        leading = (ct, out) if self.kind is MapClass.CLOSED_FORM else (ct,)
        return [
            function(*leading, *operands, **params) if flag and function is not None else None
            for flag, function in zip(active, self.functions, strict=True)
        ]


def _weighted(ct: Array, partial: Array | Over, operand: Array) -> Array:
    """The cotangent of one operand of an elementwise map: the partial times `ct`, summed to the operand's shape."""
    if not isinstance(partial, Over):
        return unbroadcast(zeros.weighted(ct, partial), operand)
    scaled = ct if partial.numerator is None else lax.mul(ct, partial.numerator)
    if partial.denominator.shape == operand.shape:  # a stretched denominator: one small division after the sum
        return lax.div(unbroadcast(scaled, operand), partial.denominator)
    return unbroadcast(lax.div(scaled, partial.denominator), operand)


def _weighted_strongly(ct: Array, partial: Array | Over, operand: Array) -> Array:
    """As `_weighted`, in the same order; 0 where `ct` is."""
    if not isinstance(partial, Over):
        return unbroadcast(zeros.product(ct, partial), operand)
    scaled = ct if partial.numerator is None else zeros.product(ct, partial.numerator)
    if partial.denominator.shape == operand.shape:
        counted = ct if ct.shape == operand.shape else unbroadcast(zeros.counted(ct), operand)
        return zeros.quotient(counted, unbroadcast(scaled, operand), partial.denominator)
    return unbroadcast(zeros.quotient(ct, scaled, partial.denominator), operand)


# Rules are frozen and few, activity masks are short: the cache stays small.
@cache
def _reads(rule: VJPRule, active: tuple[bool, ...]) -> tuple[bool, tuple[bool, ...]]:
    called = rule.functions_read
    if rule.kind is not MapClass.JOINT:
        called = tuple(reads for reads, flag in zip(called, active, strict=True) if flag)
    operands = tuple(any(reads.operand(i) for reads in called) for i in range(len(active)))
    return any(reads.out for reads in called), operands


# ---- what a function reads, from the names in its signature ----

_LEADING = {  # parameters before the operands: how many, and the position of `out` among them
    MapClass.LINEAR: (1, None),
    MapClass.BILINEAR: (1, None),
    MapClass.POINTWISE: (1, 0),
    MapClass.CLOSED_FORM: (2, 1),
    MapClass.JOINT: (3, 2),
}


def reads_of(function: Callable[..., Any] | None, kind: MapClass) -> Reads:
    """What one function of a rule reads: the parameters whose names begin with no underscore.

    Raises:
      TypeError: when it has fewer parameters than the class of the map gives it.
    """
    if function is None:
        return Reads(False, (), False)
    leading, out_position = _LEADING[kind]
    positional, rest = _parameters(function)
    if len(positional) < leading:
        raise TypeError(f"a {kind.value} rule takes at least {leading} positional parameters; {function} has "
                        f"{len(positional)}")
    return Reads(
        out=out_position is not None and not positional[out_position].startswith("_"),
        operands=tuple(not name.startswith("_") for name in positional[leading:]),
        rest=rest is not None and not rest.startswith("_"),
    )


def _parameters(function: Callable[..., Any]) -> tuple[list[str], str | None]:
    """Names of a function's positional parameters, and of that which takes the rest."""
    if isinstance(function, types.FunctionType) and not hasattr(function, "__wrapped__"):
        # as `inspect.signature` has it, at a twentieth of its price: that counts when funcgrad is imported
        code = function.__code__
        names, count = code.co_varnames, code.co_argcount
        rest = names[count + code.co_kwonlyargcount] if code.co_flags & inspect.CO_VARARGS else None
        return list(names[:count]), rest
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return positional, next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
