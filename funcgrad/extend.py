"""Floor 8: for people who write rules.

For a JAX primitive of your own, call one of the functions that `funcgrad.rule` describes, which this module passes on
(all but `mutable`, for mutable arrays):

>>> from jax import lax
>>> from jax.extend.core import Primitive
>>> from funcgrad import extend
>>> cube_p = Primitive("cube")
>>> rule = extend.pointwise(cube_p, lambda _out, x: lax.mul(lax.full_like(x, 3), lax.mul(x, x)))

For a function with a forward and a backward of its own, write a `Function`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax

from funcgrad import _compat, errors
from funcgrad.graph import carries_gradient
from funcgrad.registry import (
    bilinear,
    closed_form,
    constant,
    higher_order,
    joint,
    linear,
    lookup,
    pointwise,
    unsupported,
)
from funcgrad.rule import MapClass, Over, VJPRule, unbroadcast

__all__ = ["Function", "MapClass", "Over", "VJPRule", "bilinear", "closed_form", "constant", "higher_order", "joint",
           "linear", "lookup", "pointwise", "unbroadcast", "unsupported"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Kept:
    """The user's residuals, and the types of the arguments for the check of the cotangents."""

    residuals: Any
    tree: Any = dataclasses.field(metadata={"static": True})
    avals: tuple[Any, ...] = dataclasses.field(metadata={"static": True})


class Function:
    """A function with a forward and a backward of its own: subclass it, write the two, call `apply`.

    It is differentiated by funcgrad and by ``jax.grad`` alike, under `jit` and `vmap`.

    * ``forward(*args)`` gives the output and the residuals, a pytree of arrays that `backward` will read.
    * ``backward(residuals, ct)`` gives one cotangent for each argument, None for zero.

    >>> class Mul(Function):
    ...     @staticmethod
    ...     def forward(x, y):
    ...         return x * y, (x, y)
    ...     @staticmethod
    ...     def backward(residuals, ct):
    ...         x, y = residuals
    ...         return ct * y, ct * x
    >>> import funcgrad
    >>> mul = Mul.apply
    >>> [float(ct) for ct in funcgrad.grad(mul, (0, 1))(2.0, 3.0)]
    [3.0, 2.0]
    """

    _custom: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def primal(*args: Any) -> Any:
            return cls.forward(*args)[0]

        def forward(*args: Any) -> tuple[Any, _Kept]:
            out, residuals = cls.forward(*args)
            leaves, tree = jax.tree.flatten(args)
            return out, _Kept(residuals, tree, tuple(map(_compat.typeof, map(_compat.canonicalize, leaves))))

        def backward(kept: _Kept, ct: Any) -> tuple[Any, ...]:
            cts = cls.backward(kept.residuals, ct)
            return _checked(cls.__name__, cts, kept.tree, kept.avals)

        primal.__name__ = cls.__name__
        custom = jax.custom_vjp(primal)
        custom.defvjp(forward, backward)
        cls._custom = staticmethod(custom)

    @staticmethod
    def forward(*args: Any) -> tuple[Any, Any]:
        """``(output, residuals)``."""
        raise NotImplementedError("a Function needs a static method `forward(*args) -> (output, residuals)`")

    @staticmethod
    def backward(residuals: Any, ct: Any) -> Any:
        """One cotangent for each argument."""
        raise NotImplementedError("a Function needs a static method `backward(residuals, ct) -> cotangents`")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The function's value; its derivative is `backward`.

        Raises:
          RuleError: during differentiation, when `backward` gives cotangents that do not fit the arguments.
        """
        return cls._custom(*args)


def _checked(name: str, cts: Any, tree: Any, avals: Sequence[Any]) -> tuple[Any, ...]:
    """The cotangents as a tuple, once their number, structure, shapes and dtypes fit the arguments'."""
    args = tree.unflatten(avals)
    cts = tuple(cts) if isinstance(cts, tuple | list) else (cts,)
    source = _compat.source_line(_compat.current_source())
    if len(cts) != len(args):
        raise errors.wrong_count(name, len(args), len(cts), source)
    for position, (ct, wanted) in enumerate(zip(cts, args, strict=True)):
        if ct is not None:
            _check_argument(name, position, ct, wanted, source)
    return cts


def _check_argument(name: str, position: int, ct: Any, wanted: Any, source: str) -> None:
    given_tree, wanted_tree = jax.tree.structure(ct), jax.tree.structure(wanted)
    if str(given_tree) != str(wanted_tree):  # as text: a namedtuple of the same name and fields is as good
        raise errors.wrong_cotangent(name, position, str(wanted_tree), str(given_tree), source)
    for leaf, aval in zip(jax.tree.leaves(ct), jax.tree.leaves(wanted), strict=True):
        given = _compat.typeof(_compat.canonicalize(leaf))
        if carries_gradient(aval) and (given.shape != aval.shape or given.dtype != aval.dtype):
            raise errors.wrong_cotangent(name, position, aval.str_short(), given.str_short(), source)
