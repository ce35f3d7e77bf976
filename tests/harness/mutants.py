"""Rules wrong on purpose. A comparison that lets one of them pass proves nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import rule as registry
from funcgrad.caches import clear_caches
from funcgrad.rule import MapClass, Over, VJPRule

Mutation = Callable[[Any], Any]


def _one_element(ct: Any) -> Any:
    flat = lax.reshape(ct, (ct.size,))
    head = lax.add(lax.slice(flat, (0,), (1,)), jnp.ones((1,), ct.dtype))
    return lax.reshape(lax.concatenate([head, lax.slice(flat, (1,), (ct.size,))], 0), ct.shape)


def _wrong_dtype(ct: Any) -> Any:
    return lax.convert_element_type(ct, jnp.bfloat16 if ct.dtype != jnp.bfloat16 else jnp.float32)


#: What is done to a cotangent (or to a local partial). `dropped` and `swapped` act on all operands at once.
MUTATIONS: dict[str, Mutation] = {
    "sign": lambda ct: lax.neg(ct),
    "x1.01": lambda ct: lax.mul(ct, lax.full_like(ct, 1.01)),
    "x2": lambda ct: lax.add(ct, ct),
    "one element": _one_element,
    "wrong dtype": _wrong_dtype,
    "wrong shape": lambda ct: lax.expand_dims(ct, (0,)),
}
KINDS = (*MUTATIONS, "dropped", "swapped")


@contextlib.contextmanager
def mutated(primitive_name: str, kind: str, operand: int | None = None) -> Iterator[list[str]]:
    """The table with one wrong rule in it; the right one is back afterwards.

    Args:
      primitive_name: whose rule.
      kind: one of `KINDS`.
      operand: only this operand's cotangent; None: every one.

    Yields:
      A list that grows whenever a wrong function of the rule is called.
    """
    (primitive,) = (p for p in registry.rules() if p.name == primitive_name)
    right = registry._RULES[primitive]
    calls: list[str] = []
    registry._RULES[primitive] = mutant(right, kind, calls, operand)
    _forget_programs()
    try:
        yield calls
    finally:
        registry._RULES[primitive] = right
        _forget_programs()


def _forget_programs() -> None:
    """Backward programs compiled with another table must not be used again."""
    clear_caches()


def mutant(right: VJPRule, kind: str, calls: list[str], operand: int | None = None) -> VJPRule:
    """A wrong rule that keeps what the right one keeps; each call of a wrong function is noted in `calls`."""

    def after(function: Callable[..., Any], change: Mutation) -> Callable[..., Any]:
        def wrong(*args: Any, **params: Any) -> Any:
            calls.append(kind)
            return change(function(*args, **params))

        return wrong

    if right.kind is MapClass.JOINT:
        functions = (after(right.functions[0], lambda cts: spoil(cts, kind, operand)),)
    elif right.kind is MapClass.HIGHER_ORDER:
        functions = (after(right.functions[0], lambda run: (run[0], SpoiltPullback(run[1], kind, operand))),)
    elif kind == "swapped":
        functions = tuple(after(f, lambda ct: ct) for f in right.functions[1::-1]) + tuple(right.functions[2:])
    else:
        functions = tuple(
            function if function is None or operand not in (None, i)
            else after(function, lambda ct: spoil([ct], kind, None)[0])
            for i, function in enumerate(right.functions))
    kept = (registry.Kept(True, (), True),) * len(functions)
    return dataclasses.replace(right, functions=functions, kept=kept if kind == "swapped" else right.kept)


def spoil(cts: Sequence[Any], kind: str, operand: int | None) -> list[Any]:
    """A list of cotangents or partials (None for none), made wrong."""
    if kind == "swapped":
        return [*cts[1::-1], *cts[2:]]
    chosen = [operand in (None, i) for i in range(len(cts))]
    if kind == "dropped":
        return [None if flag else ct for ct, flag in zip(cts, chosen, strict=True)]
    return [_spoil_one(ct, MUTATIONS[kind]) if flag else ct for ct, flag in zip(cts, chosen, strict=True)]


def _spoil_one(ct: Any, change: Mutation) -> Any:
    if ct is None:
        return None
    if isinstance(ct, Over):
        numerator = lax.full_like(ct.denominator, 1) if ct.numerator is None else ct.numerator
        return Over(ct.denominator, change(numerator))
    ct = jnp.asarray(ct)
    return change(ct) if jnp.issubdtype(ct.dtype, jnp.inexact) else ct


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class SpoiltPullback:
    """A pullback whose cotangents are made wrong."""

    pullback: Callable[..., Any]
    kind: str
    operand: int | None

    def __call__(self, cts: Any) -> list[Any]:
        return spoil(list(self.pullback(cts)), self.kind, self.operand)

    def tree_flatten(self) -> tuple[tuple[Any], tuple[str, int | None]]:
        """The residuals, and what is wrong."""
        return (self.pullback,), (self.kind, self.operand)

    @classmethod
    def tree_unflatten(cls, static: tuple[str, int | None], children: tuple[Any]) -> SpoiltPullback:
        """The pullback again."""
        return cls(*children, *static)
