"""Primitives that other libraries made: the rules that they gave to JAX.

Somebody who makes a primitive tells JAX its jvp and, where the primitive is linear, its transpose. Like the rule of a
`jax.custom_jvp` function these are the author's own words, no derivative of JAX's, and they are used in the same way:
the jvp is run with tangents whose values nobody knows, and what it does with them is pulled back. There the primitive
may appear again, applied to tangents; then its transpose is the pullback.

A rule in `funcgrad.extend` comes first, and JAX's own rules of JAX's own primitives are never asked (ADR 8).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend.core import Primitive
from jax.interpreters.ad import UndefinedPrimal, Zero, primitive_jvps, primitive_transposes

from funcgrad import _compat
from funcgrad.graph import Params
from funcgrad.pullback import zeros_like_aval
from funcgrad.registry import adopting
from funcgrad.rule import MapClass, VJPRule
from funcgrad.rules.call import forward_of_jvp, is_zero
from funcgrad.trees import pytree, static

Array = Any


@adopting
def foreign_rule(primitive: Primitive) -> VJPRule | None:
    """The rule of somebody else's primitive, from the jvp and the transpose that JAX was told; None without."""
    jvp, transpose = primitive_jvps.get(primitive), primitive_transposes.get(primitive)
    if jvp is None or all(map(_is_of_jax, (jvp, transpose))):
        return None
    return _rule(primitive, jvp, transpose)


@functools.cache
def _rule(primitive: Primitive, jvp: Callable, transpose: Callable | None) -> VJPRule:
    forward = functools.partial(run_jvp, primitive, jvp)
    of_tangents = None if transpose is None else functools.partial(keep_for_transpose, primitive)
    return VJPRule(primitive, MapClass.HIGHER_ORDER, (forward, of_tangents), dear=True, reason="its author's jvp")


def _is_of_jax(rule: Callable | None) -> bool:
    """Whether JAX alone made a rule: `ad.deflinear`, `ad.defjvp` wrap the author's functions in JAX's."""
    return all((getattr(f, "__module__", None) or "").split(".")[0] == "jax" for f in _functions(rule))


def _functions(value: Any) -> Iterator[Callable]:
    if isinstance(value, functools.partial):
        value = (value.func, *value.args, *value.keywords.values())
    if isinstance(value, tuple | list):
        for entry in value:
            yield from _functions(entry)
    elif callable(value) and not isinstance(value, Primitive):
        yield value


def run_jvp(primitive: Primitive, jvp: Callable, active: tuple[bool, ...], *operands: Array,
            **params: Any) -> tuple[list[Array], Any]:
    """Run the author's jvp with unknown tangents."""

    def with_tangents(tangents: Sequence[Array | None]) -> tuple[Sequence[Array], Sequence[Array]]:
        avals = map(_compat.typeof, operands)
        full = tuple(Zero(aval.to_tangent_aval()) if t is None else t for t, aval in zip(tangents, avals, strict=True))
        outputs, moved = jvp(tuple(operands), full, **params)
        return (outputs, moved) if primitive.multiple_results else ([outputs], [moved])

    def alone() -> Sequence[Array]:
        outputs = primitive.bind(*operands, **params)
        return outputs if primitive.multiple_results else [outputs]

    return forward_of_jvp(active, operands, with_tangents, alone, str(primitive))


def keep_for_transpose(primitive: Primitive, active: tuple[bool, ...], *operands: Array,
                       **params: Any) -> tuple[list[Array], Any]:
    """Of tangents nothing is computed; the operands that are known are kept."""
    avals = tuple(map(_compat.typeof, operands))
    out_avals = tuple(_compat.abstract_eval(primitive, list(avals), params))
    known = tuple(operand for operand, flag in zip(operands, active, strict=True) if not flag)
    pullback = TransposePullback(primitive, Params(params), active, avals, out_avals, known)
    return list(map(zeros_like_aval, out_avals)), pullback


@pytree
class TransposePullback:
    """Pullback of a linear primitive: its author's transpose."""

    primitive: Primitive = static()
    params: Params = static()
    active: tuple[bool, ...] = static()
    avals: tuple[Any, ...] = static()
    out_avals: tuple[Any, ...] = static()
    known: tuple[Array, ...]

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        given = [Zero(aval.to_ct_aval()) if ct is None else ct for ct, aval in zip(cts, self.out_avals, strict=True)]
        known = iter(self.known)
        operands = [UndefinedPrimal(aval) if flag else next(known)
                    for flag, aval in zip(self.active, self.avals, strict=True)]
        ct = given if self.primitive.multiple_results else given[0]
        results = primitive_transposes[self.primitive](ct, *operands, **self.params)
        return [None if not flag or result is None or is_zero(result) else result
                for flag, result in zip(self.active, results, strict=True)]
