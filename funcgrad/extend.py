"""Floor 8: for people who write rules.

For a JAX primitive of your own, call one of the functions that `funcgrad.registry` describes, which this module passes
on (all but `mutable`, for mutable arrays). The rule uses `lax`, so that it can be differentiated in turn:

>>> import jax
>>> from jax import lax
>>> from jax.extend.core import Primitive
>>> import funcgrad
>>> from funcgrad import extend
>>> cube_p = Primitive("cube")                          # JAX's part: how it runs, and its results' types
>>> _ = cube_p.def_impl(lambda x: x * x * x)
>>> _ = cube_p.def_abstract_eval(lambda x: x)
>>> _ = extend.pointwise(cube_p, lambda _out, x: lax.mul(lax.full_like(x, 3), lax.mul(x, x)))
>>> cube = lambda x: cube_p.bind(jax.numpy.asarray(x))
>>> float(funcgrad.grad(cube)(2.0)), float(funcgrad.grad(funcgrad.grad(cube))(2.0))
(12.0, 12.0)

For a function with a forward and a backward of its own, write a `Function`.

Strong zeros (`funcgrad.strong_zeros`) need to know which elements of a cotangent an element of a rule's result depends
on. Of `linear`, `pointwise` and `bilinear` maps that is known. To `closed_form` and `joint` say it as ``mixes=``, with
one of these words. The default, `EVERYTHING`, is never wrong, but keeps zeros only where all of a cotangent is zero:

    ELEMENTS     only on that in its own place
    AXES         on those along the axes that the params name, as ``axis`` or ``axes``
    MATRICES     on those of its matrix, the last two axes
    EVERYTHING   on all
    PRODUCTS     it is a sum of products with one operand, as a contraction is (`closed_form` only)
    MOVES        cotangents are moved or summed, never multiplied: a zero stays one anyway
"""

from __future__ import annotations

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
from funcgrad.trees import pytree, static
from funcgrad.zeros import AXES, ELEMENTS, EVERYTHING, MATRICES, MOVES, PRODUCTS

__all__ = ["AXES", "ELEMENTS", "EVERYTHING", "MATRICES", "MOVES", "PRODUCTS", "Function", "MapClass", "Over", "VJPRule",
           "bilinear", "closed_form", "constant", "higher_order", "joint", "linear", "lookup", "pointwise",
           "unbroadcast", "unsupported"]


@pytree
class _Residuals:
    """What the user's `forward` keeps, and the types of the arguments for the check of the cotangents."""

    kept: Any
    tree: Any = static()
    avals: tuple[Any, ...] = static()


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

        def forward(*args: Any) -> tuple[Any, _Residuals]:
            out, kept = cls.forward(*args)
            leaves, tree = jax.tree.flatten(args)
            return out, _Residuals(kept, tree, tuple(map(_compat.typeof, map(_compat.canonicalize, leaves))))

        def backward(residuals: _Residuals, ct: Any) -> tuple[Any, ...]:
            cts = cls.backward(residuals.kept, ct)
            return _checked(cls.__name__, cts, residuals.tree, residuals.avals)

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
