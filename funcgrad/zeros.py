"""Floor 0: strong zeros. A zero cotangent stays zero, whatever it is multiplied with: 0 * inf = 0 and 0 * NaN = 0.

The backward sweep multiplies cotangents with local partials. Where a partial is infinite or NaN and the cotangent zero,
IEEE arithmetic says NaN, while the chain rule means: this path does not count. Here are the products that say so. They
give the bits of the plain ones wherever those are no NaN, and the mask lies on the partial and not on the product, so
that XLA contracts products and sums as it does without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = Any

#: Whether zeros are strong. JAX's own caches have it in their keys, and so do ours (`_compat.trace_context`).
_STRONG = jax.make_user_context(False)


def strong_zeros(enabled: bool | None = True) -> AbstractContextManager[None]:
    """A context in which the backward sweeps that begin there keep zero cotangents zero: 0 * inf = 0, 0 * NaN = 0.

    The transforms take the same as an argument: ``grad(f, strong_zeros=True)``.

    Args:
      enabled: False switches it off inside; None leaves it as it is.

    Raises:
      TypeError: for anything else.

    >>> import funcgrad
    >>> import jax.numpy as jnp
    >>> def root(x):
    ...     return jnp.where(x > 0, jnp.sqrt(x), 0.0)
    >>> with strong_zeros():
    ...     print(funcgrad.grad(root)(0.0))
    0.0
    """
    check_flag(enabled)
    return _STRONG(_STRONG.value if enabled is None else bool(enabled))


def check_flag(enabled: Any) -> None:
    """Raises TypeError for what is neither True, False nor None."""
    if enabled is not None and not isinstance(enabled, bool | np.bool_):
        raise TypeError(f"strong_zeros must be True, False or None, got {enabled!r}.\n"
                        "To fix: pass strong_zeros=True.")


def zeros_are_strong() -> bool:
    """Whether a sweep that runs now keeps zero cotangents zero."""
    return _STRONG.value


# ---- products ----


def _is_mask(partial: Array) -> bool:
    return getattr(partial, "dtype", None) == np.bool_


def weighted(ct: Array, partial: Array) -> Array:
    """``ct * partial``; outside a mask 0, also where `ct` is infinite."""
    if not _is_mask(partial):
        return lax.mul(ct, partial)
    return lax.select(partial, ct, lax.full_like(ct, 0))


def product(ct: Array, partial: Array) -> Array:
    """``ct * partial``, 0 where `ct` is."""
    if _is_mask(partial) or _finite_constant(partial):
        return weighted(ct, partial)
    if np.shape(partial) != ct.shape:
        partial = lax.broadcast_in_dim(partial, ct.shape, range(ct.ndim) if np.ndim(partial) else (),
                                       out_sharding=_sharding(ct))
    counts = lax.bitwise_or(lax.ne(ct, _zero(ct)), _is_finite(partial))
    return lax.mul(ct, lax.select(counts, partial, lax.full_like(partial, 0)))


def quotient(ct: Array, scaled: Array, denominator: Array) -> Array:
    """``scaled / denominator``, where `scaled` is `ct` times something: 0 where `ct` is."""
    plain = lax.div(scaled, denominator)
    return plain if _finite_constant(denominator) else without_nan(plain, _is_zero(ct))


def counted(ct: Array) -> Array:
    """1 where `ct` is not zero, in its dtype: a sum of these says whether any of the summands counts."""
    return lax.convert_element_type(lax.ne(ct, _zero(ct)), ct.dtype)


def without_nan(value: Array, mask: Array) -> Array:
    """`value` with 0 in place of a NaN where the mask, of its shape, holds."""
    return lax.select(lax.bitwise_and(mask, lax.ne(value, value)), lax.full_like(value, 0), value)


def _finite_constant(partial: Array) -> bool:
    """Whether a partial is known to be finite and not zero: a number of the host."""
    if isinstance(partial, jax.Array):
        return False
    return bool(np.all(np.isfinite(partial) & (np.asarray(partial) != 0)))


def _is_finite(x: Array) -> Array:
    if np.issubdtype(x.dtype, np.complexfloating):
        return lax.bitwise_and(lax.is_finite(lax.real(x)), lax.is_finite(lax.imag(x)))
    return lax.is_finite(x)


def _zero(x: Array) -> np.ndarray:
    return np.zeros((), x.dtype)  # the comparisons stretch it


def _is_zero(ct: Array) -> Array:
    return lax.eq(ct, _zero(ct))


def _sharding(x: Array) -> Any:
    sharding = jax.typeof(x).sharding
    return None if sharding.mesh.empty else sharding


# ---- contractions ----


def contraction(transpose: Callable[..., Array | None], ct: Array, leading: tuple, operands: Sequence[Any],
                params: dict[str, Any]) -> Array | None:
    """A bilinear rule's transpose, in which a zero of `ct` adds nothing to any sum.

    It is computed as ever. Only if a NaN comes out it is computed again without the operand's values that are not
    finite. Where such values meet cotangents other than zero, their products are added: infinite if all have one sign,
    else NaN. (Complex numbers: the first result stays there.)
    """
    plain = transpose(ct, *leading, *operands, **params)
    if plain is None:
        return None

    def mended(plain: Array, ct: Array, *operands: Array) -> Array:
        spread = iter(operands)
        full = [next(spread) if read else entry for read, entry in zip(reads, given, strict=True)]

        def apply(change: Callable[[Array], Array], ct: Array) -> Array:
            changed = (change(x) if read else x for read, x in zip(reads, full, strict=True))
            result = transpose(ct, *leading, *changed, **params)
            assert result is not None
            return result

        finite, hits = apply(_finite_part, ct), apply(_odd_part, counted(ct))
        if np.issubdtype(plain.dtype, np.complexfloating):
            return lax.select(_is_zero(hits), finite, plain)
        balance = apply(_infinite_sign, lax.sign(ct))  # as many as `hits` if all the products are +inf
        sign = lax.select(lax.eq(lax.abs(balance), hits), lax.sign(balance), lax.full_like(hits, np.nan))
        infinite = lax.mul(sign, lax.full_like(hits, np.inf))
        return lax.select(_is_zero(hits), finite, lax.add(finite, infinite))

    given = list(operands)
    reads = [_is_inexact_array(x) for x in given]
    values = [x for x, read in zip(given, reads, strict=True) if read]
    return if_any_nan(plain, mended, ct, *values)


def _finite_part(x: Array) -> Array:
    return lax.select(_is_finite(x), x, lax.full_like(x, 0))


def _odd_part(x: Array) -> Array:
    return lax.convert_element_type(lax.bitwise_not(_is_finite(x)), x.dtype)


def _infinite_sign(x: Array) -> Array:
    return lax.select(lax.eq(lax.abs(x), lax.full_like(x, np.inf)), lax.sign(x), lax.full_like(x, 0))


def _is_inexact_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(x.dtype, jnp.inexact)


def if_any_nan(plain: Any, mended: Callable[..., Any], *args: Any) -> Any:
    """`plain`, a tree of arrays; if it has a NaN, ``mended(plain, *args)``, of the same structure."""
    nans = functools.reduce(lax.bitwise_or, [lax.reduce_or(lax.ne(x, x), tuple(range(x.ndim)))
                                             for x in jax.tree.leaves(plain)])
    if not isinstance(nans, jax.core.Tracer):
        return mended(plain, *args) if nans else plain
    return lax.cond(nans, mended, lambda plain, *args: plain, plain, *args)


# ---- all other rules ----

#: Which elements of a cotangent an element of the result depends on: only that in its place; those along the axes among
#: the params (``axis`` or ``axes``); those of its matrix, the last two axes; or all.
ELEMENTS, AXES, MATRICES, EVERYTHING = "elements", "axes", "matrices", "everything"
#: A sum of products with one operand: a contraction though not registered as `bilinear`.
PRODUCTS = "products"
#: Cotangents are moved or summed only: nothing to do.
MOVES = "moves"

_MIXES = (ELEMENTS, AXES, MATRICES, EVERYTHING, PRODUCTS, MOVES)


def check_mixes(mixes: str) -> None:
    """Raises ValueError for what is none of the words above."""
    if mixes not in _MIXES:
        raise ValueError(f"mixes must be one of {', '.join(map(repr, _MIXES))}, got {mixes!r}.\n"
                         "To fix: use a constant of funcgrad.extend, such as extend.ELEMENTS.")


def elsewhere(cts: Sequence[Array | None], result: Array | None, mixes: str, params: dict[str, Any]) -> Array | None:
    """A rule's result with 0 in place of a NaN where all cotangents that it depends on are zero."""
    if result is None or mixes == MOVES or not jnp.issubdtype(result.dtype, jnp.inexact):
        return result
    mask = None
    for ct in cts:
        if ct is not None and jnp.issubdtype(ct.dtype, jnp.inexact):
            zero = _spread(_is_zero(ct), result, mixes, params)
            mask = zero if mask is None else lax.bitwise_and(mask, zero)
    return result if mask is None else without_nan(result, mask)


def _spread(zero: Array, result: Array, mixes: str, params: dict[str, Any]) -> Array:
    """For each element of the result, whether `zero` holds for all that it depends on."""
    shape, rank = result.shape, result.ndim
    if mixes == ELEMENTS and zero.shape == shape:
        return zero
    if mixes == AXES:
        axes = tuple(params["axes"]) if "axes" in params else (params["axis"],)
        if zero.ndim == rank:
            zero = lax.reduce_and(zero, axes)
        return lax.broadcast_in_dim(zero, shape, [i for i in range(rank) if i not in axes])
    batch = max(rank - 2, 0) if mixes == MATRICES else 0
    zero = lax.reduce_and(zero, tuple(range(batch, zero.ndim)))
    return lax.broadcast_in_dim(zero, shape, tuple(range(batch)))
