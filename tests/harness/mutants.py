"""Rules wrong on purpose. A comparison that lets one of them pass proves nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import registry
from funcgrad.caches import clear_caches
from funcgrad.rule import MapClass, Over, Reads, VJPRule

Mutation = Callable[[Any], Any]


def _one_element(ct: Any) -> Any:
    flat = lax.reshape(ct, (ct.size,))
    head = lax.add(lax.slice(flat, (0,), (1,)), jnp.ones((1,), ct.dtype))
    return lax.reshape(lax.concatenate([head, lax.slice(flat, (1,), (ct.size,))], 0), ct.shape)


def _wrong_dtype(ct: Any) -> Any:
    if jnp.iscomplexobj(ct):
        return lax.real(ct)
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


def _transposed(ct: Any) -> Any:
    if ct.ndim < 2:
        return lax.rev(ct, (0,)) if ct.ndim else ct
    return lax.reshape(lax.transpose(ct, tuple(reversed(range(ct.ndim)))), ct.shape)


def _one_in_many(ct: Any) -> Any:
    place = jnp.arange(ct.size) == ct.size // 2
    return ct + lax.convert_element_type(lax.reshape(place, ct.shape), ct.dtype) * (ct + lax.full_like(ct, 0.1))


def _second_order(ct: Any) -> Any:
    return ct + lax.mul(lax.full_like(ct, 0.5), ct - lax.stop_gradient(ct))


def _under_vmap(ct: Any) -> Any:
    return lax.add(ct, ct) if type(ct).__name__ == "BatchTracer" else ct


#: Wrong in a way that only a special look finds. `at zero` needs the operands and acts where one of them is 0.
HIDDEN: dict[str, Mutation] = {
    "transposed": _transposed,
    "one in many": _one_in_many,
    "second order": _second_order,
    "under vmap": _under_vmap,
}
AT_ZERO = "at zero"
ALL_KINDS = (*KINDS, *HIDDEN, AT_ZERO)


@contextlib.contextmanager
def mutated(primitive_name: str, kind: str, operand: int | None = None,
            forget: Callable[[], None] | None = None) -> Iterator[list[str]]:
    """The table with one wrong rule in it; the right one is back afterwards.

    Args:
      primitive_name: whose rule.
      kind: one of `ALL_KINDS`.
      operand: only this operand's cotangent; None: every one.
      forget: what drops programs made with another table; default: JAX's and funcgrad's caches.

    Yields:
      A list that grows whenever the rule gives a wrong result.
    """
    (primitive,) = (p for p in registry.rules() if p.name == primitive_name)
    right = registry._RULES[primitive]
    calls: list[str] = []
    forget = forget or clear_caches  # backward programs compiled with another table must not be used again
    registry._RULES[primitive] = mutant(right, kind, calls, operand)
    forget()
    try:
        yield calls
    finally:
        registry._RULES[primitive] = right
        forget()


def forget_staged() -> None:
    """Drop what funcgrad staged with another table; what JAX compiled for itself and for oracles stays."""
    for name, module in list(sys.modules.items()):
        if name.startswith("funcgrad."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def mutant(right: VJPRule, kind: str, calls: list[str], operand: int | None = None) -> VJPRule:
    """A wrong rule that keeps what the right one keeps; each result that it made wrong is noted in `calls`."""

    def after(function: Callable[..., Any], change: Mutation) -> Callable[..., Any]:
        def wrong(*args: Any, **params: Any) -> Any:
            result = _as_numbers(function(*args, **params), args)
            if _holds_numbers(result):
                calls.append(kind)
            return change(result)

        return wrong

    if kind == AT_ZERO:
        return _wrong_at_zero(right, calls)

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
    functions_read = (Reads(True, (), True),) * len(functions) if kind == "swapped" else right.functions_read
    return dataclasses.replace(right, functions=functions, functions_read=functions_read)


def _as_numbers(result: Any, args: Sequence[Any]) -> Any:
    """A partial that is a mask as zeros and ones of its operand's dtype; all else as it is."""
    return result.astype(args[1].dtype) if getattr(result, "dtype", None) == jnp.bool_ else result


def _holds_numbers(result: Any) -> bool:
    """Whether there is a cotangent, a partial or a pullback in what a rule's function gives."""
    leaves = jax.tree.leaves(result, is_leaf=lambda leaf: isinstance(leaf, Over))
    return any(isinstance(leaf, Over) or leaf.size and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves)


def _wrong_at_zero(right: VJPRule, calls: list[str]) -> VJPRule:
    """A pointwise rule that is off by three where an operand is 0: further than any subdifferential reaches."""
    def after(function: Callable[..., Any], index: int) -> Callable[..., Any]:
        def wrong(out: Any, *operands: Any, **params: Any) -> Any:
            calls.append(AT_ZERO)
            operand = operands[index]

            def change(partial: Any) -> Any:
                at_zero = lax.eq(operand, lax.full_like(operand, 0))
                return partial + 3 * lax.convert_element_type(at_zero, partial.dtype)

            return _spoil_one(_as_numbers(function(out, *operands, **params), (out, operand)), change)

        return wrong

    assert right.kind is MapClass.POINTWISE
    functions = tuple(None if f is None else after(f, i) for i, f in enumerate(right.functions))
    return dataclasses.replace(right, functions=functions,
                               functions_read=(Reads(True, (), True),) * len(functions))


def spoil(cts: Sequence[Any], kind: str, operand: int | None) -> list[Any]:
    """A list of cotangents or partials (None for none), made wrong."""
    if kind == "swapped":
        return [*cts[1::-1], *cts[2:]]
    chosen = [operand in (None, i) for i in range(len(cts))]
    if kind == "dropped":
        return [None if flag else ct for ct, flag in zip(cts, chosen, strict=True)]
    change = MUTATIONS[kind] if kind in MUTATIONS else HIDDEN[kind]
    return [_spoil_one(ct, change) if flag else ct for ct, flag in zip(cts, chosen, strict=True)]


def _spoil_one(ct: Any, change: Mutation) -> Any:
    if ct is None:
        return None
    if isinstance(ct, Over) and change is _under_vmap:  # the numerator may be a constant
        return Over(change(ct.denominator), ct.numerator)
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
