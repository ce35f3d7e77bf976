"""Floor 1: what a VJP rule is, and the table of them.

A rule belongs to one primitive. The call that registers it names the class of the map, and **the signature of its
functions says what is kept**: a positional parameter whose name begins with an underscore arrives as an aval (shape and
dtype only), so its value need not survive the forward pass. ``*operands`` reads all the rest, ``*_operands`` none.

    constant(p)                         zero almost everywhere, or no cotangent at all
    linear(p, *transposes)              transpose_i(ct, *operands, **params) -> ct of operand i
    pointwise(p, *partials)             partial_i(out, *operands, **params) -> local partial of operand i
    bilinear(p, *transposes)            as `linear`; linear in each operand apart; dear to recompute
    closed_form(p, *vjps)               vjp_i(ct, out, *operands, **params) -> ct of operand i
    joint(p, vjp)                       vjp(active, ct, out, *operands, **params) -> all cotangents at once
    higher_order(p, forward)            forward(active, *operands, **params) -> outputs, pullback
    mutable(p, process)                 process(trace, primitive, args, params) -> results
    unsupported(p, reason=...)

One function for each operand, ``None`` for an operand that never has a cotangent (an index, a predicate). For a
primitive with several results `ct` and `out` are tuples, and a `ct` may hold None, the symbolic zero. A function is
called for active operands only and may give back None: no cotangent.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import types
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from jax import lax
from jax.extend.core import Primitive

from funcgrad import zeros
from funcgrad.errors import DuplicateRuleError

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


@dataclasses.dataclass(frozen=True)
class Over:
    """A local partial ``numerator / denominator`` that is applied as ``(ct * numerator) / denominator``.

    One rounding less than multiplying by a reciprocal. ``Over(y)`` is ``1 / y``.
    """

    denominator: Array
    numerator: Array | None = None

    def value(self) -> Array:
        """The local partial itself."""
        if self.numerator is None:
            return lax.div(lax.full_like(self.denominator, 1), self.denominator)
        return lax.div(self.numerator, self.denominator)


@dataclasses.dataclass(frozen=True)
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
    """A cotangent in its operand's dtype and summed to its shape: binary primitives stretch axes of size 1."""
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


@dataclasses.dataclass(frozen=True)
class Kept:
    """Which values a rule's function reads: the output's, the operands' by position, and all the rest."""

    out: bool
    operands: tuple[bool, ...]
    rest: bool

    def reads_operand(self, index: int) -> bool:
        """Whether the value of operand `index` is read."""
        return self.operands[index] if index < len(self.operands) else self.rest


_NOTHING = Kept(False, (), False)
_LEADING = {  # parameters before the operands: how many, and the position of `out` among them
    MapClass.LINEAR: (1, None),
    MapClass.BILINEAR: (1, None),
    MapClass.POINTWISE: (1, 0),
    MapClass.CLOSED_FORM: (2, 1),
    MapClass.JOINT: (3, 2),
}


@dataclasses.dataclass(frozen=True)
class VJPRule:
    """One primitive's rule. Immutable; `kept` is read off the signatures once.

    Attributes:
      primitive: the primitive it belongs to.
      kind: the class of the map.
      functions: one for each operand (None: never a cotangent), or a single one for `joint` and `higher_order`.
      dear: recomputing the primitive costs more than keeping its outputs.
      mixes: for a `closed_form` or `joint` map, which cotangents meet in one result (see `funcgrad.zeros`).
      reason: why it is unsupported, or a note for the table.
      error: what JAX raises for an unsupported primitive; our error is one of those too.
    """

    primitive: Primitive
    kind: MapClass
    functions: tuple[Callable[..., Any] | None, ...] = ()
    dear: bool = False
    reason: str = ""
    error: type[Exception] = NotImplementedError
    kept: tuple[Kept, ...] = ()
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

    def keeps(self, active: tuple[bool, ...]) -> tuple[bool, tuple[bool, ...]]:
        """(is the output's value read, is each operand's value read) when these operands are active."""
        return _keeps(self, active)

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
          out: the output, or its aval where `keeps` says that it is not read; a tuple for several results.
          operands: values, or avals where `keeps` says so.
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
def _keeps(rule: VJPRule, active: tuple[bool, ...]) -> tuple[bool, tuple[bool, ...]]:
    if rule.kind is MapClass.JOINT:
        used = rule.kept
    else:
        used = tuple(kept for kept, flag in zip(rule.kept, active, strict=True) if flag)
    operands = tuple(any(kept.reads_operand(i) for kept in used) for i in range(len(active)))
    return any(kept.out for kept in used), operands


def _kept(function: Callable[..., Any] | None, kind: MapClass) -> Kept:
    """What one function reads, from the names in its signature."""
    if function is None:
        return _NOTHING
    leading, out_position = _LEADING[kind]
    positional, rest = _parameters(function)
    if len(positional) < leading:
        raise TypeError(f"a {kind.value} rule takes at least {leading} positional parameters; {function} has "
                        f"{len(positional)}")
    return Kept(
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


# ---- the registry: what funcgrad changes after import, beside caches and the count of structures in `eager` ----

_RULES: dict[Primitive, VJPRule] = {}


def register(rule: VJPRule) -> VJPRule:
    """Put a rule into the table. Raises DuplicateRuleError when its primitive has one already."""
    if rule.primitive in _RULES:
        raise DuplicateRuleError(
            f"the primitive `{rule.primitive}` has a rule already ({_RULES[rule.primitive].kind.value}).\n"
            "To fix: remove one of the two registrations."
        )
    _RULES[rule.primitive] = rule
    return rule


# Rules of libraries that cost too much to import for everybody: by the library's name, what registers them.
_LATE: dict[str, Callable[[], None]] = {}


def later(module: str, register_all: Callable[[], None]) -> None:
    """Register the rules of a library's primitives when somebody has imported it: nobody else can bind them."""
    _LATE[module] = register_all


# What makes a rule for a primitive that is not in the table, or gives None.
_ADOPTING: list[Callable[[Primitive], VJPRule | None]] = []


def adopting(adopt: Callable[[Primitive], VJPRule | None]) -> Callable[[Primitive], VJPRule | None]:
    """Ask this function, too, for the rules of primitives that are not in the table."""
    _ADOPTING.append(adopt)
    return adopt


def lookup(primitive: Primitive) -> VJPRule | None:
    """The rule of a primitive, or None."""
    rule = _RULES.get(primitive)
    if rule is None and not _LATE.keys().isdisjoint(sys.modules):
        for module in [name for name in _LATE if name in sys.modules]:
            _LATE.pop(module)()
        rule = _RULES.get(primitive)
    return rule if rule is not None else next(filter(None, (adopt(primitive) for adopt in _ADOPTING)), None)


def rules() -> dict[Primitive, VJPRule]:
    """A copy of the whole table, libraries included."""
    while _LATE:
        _LATE.popitem()[1]()
    return dict(_RULES)


def _register(primitive: Primitive, kind: MapClass, functions: tuple, dear: bool,
              mixes: str = zeros.EVERYTHING) -> VJPRule:
    kept = tuple(_kept(function, kind) for function in functions)
    return register(VJPRule(primitive, kind, functions, dear=dear, kept=kept, mixes=mixes))


def constant(*primitives: Primitive) -> None:
    """Register primitives whose derivative is zero almost everywhere, or that have no cotangent at all."""
    for primitive in primitives:
        register(VJPRule(primitive, MapClass.CONSTANT))


def linear(primitive: Primitive, *transposes: Callable | None, dear: bool = False) -> VJPRule:
    """Register a linear map by its transposes, ``(ct, *operands, **params) -> ct of operand i``."""
    return _register(primitive, MapClass.LINEAR, transposes, dear)


def pointwise(primitive: Primitive, *partials: Callable | None) -> VJPRule:
    """Register an elementwise map by its local partials, ``(out, *operands, **params) -> partial`` or `Over`."""
    return _register(primitive, MapClass.POINTWISE, partials, False)


def bilinear(primitive: Primitive, *transposes: Callable | None) -> VJPRule:
    """Register a contraction: linear in each operand apart, ``(ct, *operands, **params) -> ct of operand i``."""
    return _register(primitive, MapClass.BILINEAR, transposes, True)


def closed_form(primitive: Primitive, *vjps: Callable | None, dear: bool = False,
                mixes: str = zeros.EVERYTHING) -> VJPRule:
    """Register a general map, ``(ct, out, *operands, **params) -> ct of operand i``."""
    return _register(primitive, MapClass.CLOSED_FORM, vjps, dear, mixes)


def joint(primitive: Primitive, vjp: Callable, dear: bool = False, mixes: str = zeros.EVERYTHING) -> VJPRule:
    """Register a map whose cotangents share work or whose operands vary in number.

    ``vjp(active, ct, out, *operands, **params)`` gives one cotangent (or None) for each operand.
    """
    return _register(primitive, MapClass.JOINT, (vjp,), dear, mixes)


def higher_order(primitive: Primitive, forward: Callable, dear: bool = False) -> VJPRule:
    """Register a primitive that runs programs: ``forward(active, *operands, **params) -> outputs, pullback``.

    `pullback` is a callable pytree; ``pullback(cts)`` takes a tuple with None for zeros and gives one cotangent (or
    None) for each operand. Its leaves are the residuals.
    """
    return register(VJPRule(primitive, MapClass.HIGHER_ORDER, (forward,), dear=dear))


def mutable(primitive: Primitive, process: Callable[..., Any]) -> VJPRule:
    """Register an operation on mutable arrays, which becomes operations on their contents while it is traced.

    ``process(trace, primitive, args, params) -> results`` is called in place of all other recording.
    """
    return register(VJPRule(primitive, MapClass.MUTABLE, (process,)))


def unsupported(primitive: Primitive, *, reason: str, error: type[Exception] = NotImplementedError) -> VJPRule:
    """Register the true reason why a primitive has no derivative here, and the type of error that JAX raises."""
    return register(VJPRule(primitive, MapClass.UNSUPPORTED, reason=reason, error=error))
