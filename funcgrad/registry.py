"""Floor 1: the rule table, and the calls that fill it.

One call for one primitive. Its name says the class of the map, and **the signature of its functions says what is
kept**: a positional parameter whose name begins with an underscore arrives as an aval (shape and dtype only), so its
value need not survive the forward pass. ``*operands`` reads all the rest, ``*_operands`` none.

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
called for active operands only and may give back None: no cotangent. What it gives back has the operand's shape and
dtype; a local partial has the operand's or the output's shape, and the table sums.

All of them raise `funcgrad.errors.DuplicateRuleError` for a primitive that has a rule already, and TypeError for a
function that has too few parameters for its class.

``dear=True`` says that the outputs are worth keeping, because the operation costs more than their memory. `mixes` says
which cotangents meet in one result; strong zeros need it (`funcgrad.extend` explains the words).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from jax.extend.core import Primitive

from funcgrad import zeros
from funcgrad.errors import duplicate_rule
from funcgrad.rule import MapClass, VJPRule, reads_of

# ---- the table: what funcgrad changes after import, beside caches and the count of structures in `eager` ----

_RULES: dict[Primitive, VJPRule] = {}


def register(rule: VJPRule) -> VJPRule:
    """Put a rule into the table. Raises DuplicateRuleError when its primitive has one already."""
    if rule.primitive in _RULES:
        raise duplicate_rule(rule.primitive, _RULES[rule.primitive].kind.value)
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
    """The rule of a primitive, or None.

    >>> lookup(Primitive("cube")) is None
    True
    """
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


# ---- the calls, one for each class of map ----


def _register(primitive: Primitive, kind: MapClass, functions: tuple, dear: bool,
              mixes: str = zeros.EVERYTHING) -> VJPRule:
    zeros.check_mixes(mixes)
    functions_read = tuple(reads_of(function, kind) for function in functions)
    return register(VJPRule(primitive, kind, functions, dear=dear, functions_read=functions_read, mixes=mixes))


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
