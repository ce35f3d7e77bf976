"""Rules of the contractions: `dot_general`, `ragged_dot_general`, `conv_general_dilated`.

Dimensions are named by labels, as the letters of an einsum are: the dimensions of `lhs` have the labels 0, 1, …;
a batch or contracting dimension of `rhs` has the label of its partner. A cotangent is then the contraction of the
output's cotangent with the other operand, over the labels that the wanted operand lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import primitives as p
from jax.sharding import NamedSharding, PartitionSpec, get_abstract_mesh

from funcgrad._compat.primitives import ragged_dot_general_p, scaled_dot_p
from funcgrad.registry import bilinear, closed_form, unsupported
from funcgrad.rules.backend import on_one_cpu
from funcgrad.rules.products import Factor, Label, Labels, cpu_product, dimension_numbers, positions
from funcgrad.zeros import PRODUCTS

Array = Any
Aval = Any

GROUP = "group"  # label of the group dimension of a ragged contraction


# ---- labels, dtypes, shardings ----


def _dot_labels(lhs_ndim: int, rhs_ndim: int, dimension_numbers: Any, rhs_group: Sequence[int] = ()) -> tuple:
    """Labels of lhs, rhs and output of a contraction."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = dimension_numbers
    lhs = list(range(lhs_ndim))
    partner = dict(zip((*rhs_contract, *rhs_batch), (*lhs_contract, *lhs_batch), strict=True))
    rhs = [GROUP if i in rhs_group else partner.get(i, lhs_ndim + i) for i in range(rhs_ndim)]
    out = [*lhs_batch, *(i for i in lhs if i not in partner.values()),
           *(i for i in rhs if i not in lhs and i != GROUP)]
    return lhs, rhs, out


def _arranged(x: Array, labels: Labels, target: Labels) -> Array:
    """`x` with its dimensions in the order of `target`; no equation when they are."""
    return x if list(labels) == list(target) else lax.transpose(x, positions(target, labels))


def _cast(x: Array, dtype: Any) -> Array:
    """`x` in the operand's dtype. The cotangent of a real operand is the real part."""
    if x.dtype == dtype:
        return x
    if jax.numpy.iscomplexobj(x) and not jax.numpy.issubdtype(dtype, jax.numpy.complexfloating):
        x = lax.real(x)
    return x if x.dtype == dtype else lax.convert_element_type(x, dtype)


def _accumulator(preferred_element_type: Any, dtype: Any) -> Any:
    """The result dtype of a transpose: never narrower than the operand, so that nothing is rounded twice."""
    if preferred_element_type is None or np.dtype(preferred_element_type).itemsize >= dtype.itemsize:
        return preferred_element_type
    return dtype


def _sharding(operand: Array | Aval, order: Sequence[int]) -> NamedSharding | None:
    """Sharding of the operand's cotangent with its dimensions in `order`; None where there is no mesh."""
    aval = operand if isinstance(operand, ShapedArray) else jax.typeof(operand)
    sharding = aval.to_ct_aval().sharding
    if not sharding.mesh.empty:
        spec = sharding.spec
        return sharding.update(spec=spec.update(partitions=tuple(spec.partitions[i] for i in order)))
    mesh = get_abstract_mesh()
    return None if mesh.empty else NamedSharding(mesh, PartitionSpec(*[None] * len(order)))


def _swapped(precision: Any) -> Any:
    """The precision of ``dot(y, x)`` that is the given one for ``dot(x, y)``."""
    if isinstance(precision, lax.DotAlgorithm):
        return precision._replace(lhs_precision_type=precision.rhs_precision_type,
                                  rhs_precision_type=precision.lhs_precision_type,
                                  lhs_component_count=precision.rhs_component_count,
                                  rhs_component_count=precision.lhs_component_count)
    return precision[::-1] if isinstance(precision, tuple) else precision


# ---- dot_general ----


def _contract(x: Factor, y: Factor, operand: Any, target: Labels, *, precision: Any,
              preferred_element_type: Any) -> Array:
    """Cotangent of `operand`, labelled `target`: one `dot_general`, and a transpose if no order avoids it."""
    batch = [label for label in target if label in x.labels and label in y.labels]
    summed = [label for label in x.labels if label in y.labels and label not in target]
    if [*batch, *y.without(x), *x.without(y)] == list(target) != [*batch, *x.without(y), *y.without(x)]:
        x, y, precision = y, x, _swapped(precision)
    labels = [*batch, *x.without(y), *y.without(x)]
    dtype = _accumulator(preferred_element_type, operand.dtype)
    if on_one_cpu(x.value, y.value):
        out = cpu_product(x, y, batch, summed, (precision, _swapped(precision)), dtype)
    else:
        out = lax.dot_general(x.value, y.value, dimension_numbers(x, y, batch, summed), precision=precision,
                              preferred_element_type=dtype, out_sharding=_sharding(operand, positions(labels, target)))
    return _cast(_arranged(out, labels, target), operand.dtype)


def dot_general_lhs(ct: Array, _lhs: Aval, rhs: Array, *, dimension_numbers: Any, precision: Any,
                    preferred_element_type: Any, out_sharding: Any) -> Array:
    """Cotangent of lhs: `ct` takes the place of `lhs`, and its precision."""
    del out_sharding
    lhs_labels, rhs_labels, out_labels = _dot_labels(_lhs.ndim, rhs.ndim, dimension_numbers)
    return _contract(Factor(ct, out_labels), Factor(rhs, rhs_labels), _lhs, lhs_labels, precision=precision,
                     preferred_element_type=preferred_element_type)


def dot_general_rhs(ct: Array, lhs: Array, _rhs: Aval, *, dimension_numbers: Any, precision: Any,
                    preferred_element_type: Any, out_sharding: Any) -> Array:
    """Cotangent of rhs: `ct` takes the place of `rhs`, and its precision."""
    del out_sharding
    lhs_labels, rhs_labels, out_labels = _dot_labels(lhs.ndim, _rhs.ndim, dimension_numbers)
    return _contract(Factor(lhs, lhs_labels), Factor(ct, out_labels), _rhs, rhs_labels, precision=precision,
                     preferred_element_type=preferred_element_type)


# ---- ragged_dot_general ----
# One dimension r of lhs is cut into groups, whose number is the size of the group dimension g. Its three modes are
#   r free in lhs:    out[b, m, n]    = sum over k of lhs[b, m, k] rhs[g(m), b, k, n]
#   r contracted:     out[g, b, m, n] = sum over k in group g of lhs[b, m, k] rhs[b, k, n]
#   r a batch dim:    out[b, m, n]    = sum over k of lhs[b, m, k] rhs[b, k, n]
# and they are closed under transposition.


def _ragged_labels(lhs: Any, rhs: Any, numbers: Any) -> tuple:
    """Labels of lhs, rhs and output, the ragged label, the order of labels that the groups' sizes follow."""
    lhs_labels, rhs_labels, out_labels = _dot_labels(
        lhs.ndim, rhs.ndim, numbers.dot_dimension_numbers, numbers.rhs_group_dimensions
    )
    (lhs_contract, _), (lhs_batch, _) = numbers.dot_dimension_numbers
    (ragged,) = numbers.lhs_ragged_dimensions
    if ragged in lhs_contract:
        out_labels = [GROUP, *out_labels]
    first = [*lhs_batch, *lhs_contract]
    order = [*first, *(label for label in lhs_labels + rhs_labels if label not in first)]
    return lhs_labels, rhs_labels, out_labels, ragged, order


def _ragged_contract(x: Array, x_labels: Labels, y: Array, y_labels: Labels, group_sizes: Array,
                     ragged: Label, order: Labels, operand: Any, target: Labels, *, precision: Any,
                     preferred_element_type: Any, group_offset: Any) -> Array:
    """Cotangent of `operand` by one `ragged_dot_general`. `x` has the ragged label, `y` or `target` the group."""
    shared = [label for label in order if label in x_labels and label in y_labels]
    batch = [label for label in shared if label in target]
    summed = [label for label in shared if label not in target]
    x_free = [label for label in x_labels if label not in y_labels]
    if group_sizes.ndim > 1 and ragged in x_free:  # the sizes' leading dimensions are those before r, in `order`
        ordered = [label for label in order if label in x_free]
        arranged = [*batch, *summed, *ordered]
        x, x_labels, x_free = _arranged(x, x_labels, arranged), arranged, ordered
    y_free = [label for label in y_labels if label not in x_labels and label != GROUP]
    labels = [*([GROUP] if ragged in summed else []), *batch, *x_free, *y_free]
    numbers = lax.RaggedDotDimensionNumbers(
        ((positions(summed, x_labels), positions(summed, y_labels)),
         (positions(batch, x_labels), positions(batch, y_labels))),
        positions([ragged], x_labels),
        positions([GROUP], y_labels) if ragged in x_free else (),
    )
    out = lax.ragged_dot_general(x, y, group_sizes, numbers, precision=precision, group_offset=group_offset,
                                 preferred_element_type=_accumulator(preferred_element_type, operand.dtype),
                                 out_sharding=_sharding(operand, positions(labels, target)))
    return _cast(_arranged(out, labels, target), operand.dtype)


def ragged_dot_lhs(ct: Array, _out: Aval, _lhs: Aval, rhs: Array, group_sizes: Array, *,
                   ragged_dot_dimension_numbers: Any, precision: Any, preferred_element_type: Any,
                   group_offset: Any, out_sharding: Any) -> Array:
    """Cotangent of lhs. When r is contracted, rhs is the ragged operand and the cotangent has the groups."""
    del out_sharding
    lhs_labels, rhs_labels, out_labels, ragged, order = _ragged_labels(_lhs, rhs, ragged_dot_dimension_numbers)
    pair = (rhs, rhs_labels, ct, out_labels) if GROUP in out_labels else (ct, out_labels, rhs, rhs_labels)
    precision = _swapped(precision) if GROUP in out_labels else precision
    return _ragged_contract(*pair, group_sizes, ragged, order, _lhs, lhs_labels, precision=precision,
                            preferred_element_type=preferred_element_type, group_offset=group_offset)


def ragged_dot_rhs(ct: Array, _out: Aval, lhs: Array, _rhs: Aval, group_sizes: Array, *,
                   ragged_dot_dimension_numbers: Any, precision: Any, preferred_element_type: Any,
                   group_offset: Any, out_sharding: Any) -> Array:
    """Cotangent of rhs. When r is free in lhs, it is contracted here, and the groups come out."""
    del out_sharding
    lhs_labels, rhs_labels, out_labels, ragged, order = _ragged_labels(lhs, _rhs, ragged_dot_dimension_numbers)
    return _ragged_contract(lhs, lhs_labels, ct, out_labels, group_sizes, ragged, order, _rhs, rhs_labels,
                            precision=precision, preferred_element_type=preferred_element_type,
                            group_offset=group_offset)


# ---- conv_general_dilated ----
# In one spatial dimension, with stride s, low padding l, and dilations a (lhs) and b (rhs):
#   out[o] = sum over k of lhs[i] rhs[k],  where o s + k b = i a + l.
# Solved for i it is a convolution of `ct` with the reversed kernel, strides and lhs dilation exchanged; solved for k
# it is one of lhs with the kernel `ct`, strides and rhs dilation exchanged. The wanted size gives the high padding.


def dilated(size: int, dilation: int) -> int:
    """The extent of `size` elements with holes between them."""
    return 0 if size == 0 else (size - 1) * dilation + 1


def _high_padding(lhs: int, rhs: int, out: int, stride: int, low: int, lhs_dilation: int, rhs_dilation: int) -> int:
    """High padding with which a convolution of these sizes gives exactly `out` elements."""
    return (out - 1) * stride + dilated(rhs, rhs_dilation) - dilated(lhs, lhs_dilation) - low


def _spatial(x: Any, spec: Sequence[int]) -> list[int]:
    return [x.shape[i] for i in spec[2:]]


def _moved_group(x: Array, source: int, target: int, groups: int) -> Array:
    """The leading factor `groups` of dimension `source` made the leading factor of dimension `target`."""
    shape = list(x.shape)
    shape[source : source + 1] = [groups, shape[source] // groups]
    place = target + (target > source)  # of `target`, now that there is one dimension more
    kept = [i for i in range(len(shape)) if i != source]
    order = [j for i in kept for j in ((source, i) if i == place else (i,))]
    merged = list(x.shape)
    merged[source] //= groups
    merged[target] *= groups
    return lax.reshape(lax.transpose(lax.reshape(x, shape), order), merged)


def conv_lhs(ct: Array, _lhs: Aval, rhs: Array, *, window_strides: Any, padding: Any, lhs_dilation: Any,
             rhs_dilation: Any, dimension_numbers: Any, feature_group_count: int, batch_group_count: int,
             precision: Any, preferred_element_type: Any, out_sharding: Any) -> Array | None:
    """Cotangent of lhs: `ct` convolved with the kernel reversed, its input and output features exchanged."""
    del out_sharding
    if 0 in (ct.size, _lhs.size, rhs.size):
        return None
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    lows = [
        dilated(k, b) - 1 - low
        for k, b, (low, _) in zip(_spatial(rhs, rhs_spec), rhs_dilation, padding, strict=True)
    ]
    highs = map(_high_padding, _spatial(ct, out_spec), _spatial(rhs, rhs_spec), _spatial(_lhs, lhs_spec),
                lhs_dilation, lows, window_strides, rhs_dilation)
    groups = max(feature_group_count, batch_group_count)
    kernel = lax.rev(rhs, rhs_spec[2:]) if math.prod(_spatial(rhs, rhs_spec)) > 1 else rhs
    if groups > 1:  # out[m, g o] = lhs[m, g i] rhs[g o, i], so ct_lhs[m, g i] = ct[m, g o] rhs[g i, o]
        kernel = _moved_group(kernel, rhs_spec[0], rhs_spec[1], groups)
    out = lax.conv_general_dilated(
        ct,
        _cast(kernel, ct.dtype),
        window_strides=lhs_dilation,
        padding=tuple(zip(lows, highs, strict=True)),
        lhs_dilation=window_strides,
        rhs_dilation=rhs_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(
            out_spec, (rhs_spec[1], rhs_spec[0], *rhs_spec[2:]), lhs_spec
        ),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=_sharding(_lhs, range(_lhs.ndim)),
    )
    if batch_group_count > 1:  # [m, g i] -> [g m, i]
        out = _moved_group(out, lhs_spec[1], lhs_spec[0], groups)
    return _cast(out, _lhs.dtype)


def conv_rhs(ct: Array, lhs: Array, _rhs: Aval, *, window_strides: Any, padding: Any, lhs_dilation: Any,
             rhs_dilation: Any, dimension_numbers: Any, feature_group_count: int, batch_group_count: int,
             precision: Any, preferred_element_type: Any, out_sharding: Any) -> Array | None:
    """Cotangent of rhs: lhs convolved with `ct` as its kernel, batch and features exchanged in both."""
    del out_sharding
    if 0 in (ct.size, lhs.size, _rhs.size):
        return None
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    lows = [low for low, _ in padding]
    highs = map(_high_padding, _spatial(lhs, lhs_spec), _spatial(ct, out_spec), _spatial(_rhs, rhs_spec),
                rhs_dilation, lows, lhs_dilation, window_strides)
    exchanged = [(spec[1], spec[0], *spec[2:]) for spec in (lhs_spec, out_spec, rhs_spec)]
    out = lax.conv_general_dilated(_cast(lhs, ct.dtype), ct, window_strides=rhs_dilation,
                                   padding=tuple(zip(lows, highs, strict=True)), lhs_dilation=lhs_dilation,
                                   rhs_dilation=window_strides,
                                   dimension_numbers=lax.ConvDimensionNumbers(*exchanged),
                                   feature_group_count=batch_group_count,
                                   batch_group_count=feature_group_count, precision=precision,
                                   preferred_element_type=preferred_element_type,
                                   out_sharding=_sharding(_rhs, range(_rhs.ndim)))
    return _cast(out, _rhs.dtype)


bilinear(p.dot_general_p, dot_general_lhs, dot_general_rhs)
bilinear(p.conv_general_dilated_p, conv_lhs, conv_rhs)
closed_form(ragged_dot_general_p, ragged_dot_lhs, ragged_dot_rhs, None, dear=True, mixes=PRODUCTS)
unsupported(
    scaled_dot_p,
    reason="its arithmetic is the platform's own block-scaled product, for which JAX defines no "
    "derivative; jax.grad refuses it too",
)
