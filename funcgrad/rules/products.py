"""How a cotangent that is a product is written where one CPU runs the program.

In ``y = x @ w`` the cotangent of ``w`` sums over every dimension of ``x`` but its last: over the first dimensions of
both factors, where the function itself summed over a last one. To XLA's CPU backend it matters how such a sum is spelt
(``python -m experiments.bench.products`` prints the times):

* A sum over several dimensions is first rewritten with a transposed copy of ``x``, into which all elementwise work on
  ``x`` is drawn. The product of two matrices over their first dimensions needs no copy, and takes half the time where
  ``x`` is the wider factor and its width a power of two. A copy of the narrower factor is cheap, and is left.
* A tall result takes up to three times as long as the same with the factors exchanged, which is wide. A transpose
  after that would be folded into the product, and make it tall again, if no dimension of size one stood between them.

Elsewhere the sum is left as it is: other backends take it as it comes, and to merge dimensions would undo how they are
laid out over devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jax import lax

Array = Any
Label = Any
Labels = Sequence[Label]

#: How many times as many rows as columns make a product tall.
TALL = 8


class Factor(NamedTuple):
    """An array, and a label for each of its dimensions."""

    value: Array
    labels: Labels

    def without(self, other: Factor) -> list[Label]:
        """The labels that `other` lacks, in order."""
        return [label for label in self.labels if label not in other.labels]

    def size(self, labels: Iterable[Label]) -> int:
        """How many elements those dimensions have together."""
        return math.prod(self.value.shape[self.labels.index(label)] for label in labels)


def positions(wanted: Labels, labels: Labels) -> tuple[int, ...]:
    """Where the wanted labels are."""
    return tuple(labels.index(label) for label in wanted)


def dimension_numbers(x: Factor, y: Factor, batch: Labels, summed: Labels) -> lax.DotDimensionNumbers:
    """Of a `dot_general` of `x` and `y`."""
    return ((positions(summed, x.labels), positions(summed, y.labels)),
            (positions(batch, x.labels), positions(batch, y.labels)))


def cpu_product(x: Factor, y: Factor, batch: Labels, summed: Labels, precisions: tuple[Any, Any], dtype: Any) -> Array:
    """The sum over the labels `summed` of the products of `x` and `y`.

    Args:
      x, y: the factors; `batch` and `summed` are the labels that they share.
      batch: labels that the result keeps, once.
      summed: labels that it lacks.
      precisions: of ``dot(x, y)`` and of ``dot(y, x)``.
      dtype: preferred_element_type.

    Returns:
      The result; its dimensions are first those of `batch`, then the free ones of `x`, then those of `y`.
    """
    rows, columns = x.without(y), y.without(x)
    shape = [f.value.shape[f.labels.index(label)] for f, free in ((x, [*batch, *rows]), (y, columns)) for label in free]
    first_in_both = [*summed, *rows] == list(x.labels) and [*summed, *columns] == list(y.labels)
    if summed and first_in_both and x.size(rows) > y.size(columns):
        x, y, summed = _matrix(x, summed, "rows"), _matrix(y, summed, "columns"), ["summed"]
    tall = bool(summed) and _is_tall(x, y, batch, summed)
    first, second, precision = (y, x, precisions[1]) if tall else (x, y, precisions[0])
    out = lax.dot_general(first.value, second.value, dimension_numbers(first, second, batch, summed),
                          precision=precision, preferred_element_type=dtype)
    out = _turned(out, len(batch), x.size(x.without(y)), y.size(y.without(x))) if tall else out
    return _reshaped(out, tuple(shape))


def _turned(wide: Array, batch: int, rows: int, columns: int) -> Array:
    """From ``(*batch, columns, rows)`` to ``(*batch, rows, 1, columns)``.

    An `optimization_barrier` would hold product and transpose apart as well, but then XLA lays the product out by
    columns, which aborts the process where the product has a batch (jaxlib 0.10.2).
    """
    one = lax.reshape(wide, (*wide.shape[:batch], columns, rows, 1))
    return lax.transpose(one, (*range(batch), batch + 1, batch + 2, batch))


def _is_tall(x: Factor, y: Factor, batch: Labels, summed: Labels) -> bool:
    """Whether the result has many more rows, from `x`, than columns, and `x` is summed over its first dimensions."""
    rows, columns = x.without(y), y.without(x)
    first = [label for label in x.labels if label not in batch]
    return first == [*summed, *rows] and x.size(rows) >= TALL * y.size(columns) > 0


def _matrix(factor: Factor, summed: Labels, free: Label) -> Factor:
    """The factor as a matrix; its first dimensions become the dimension "summed", the others the dimension `free`."""
    shape = factor.size(summed), factor.size(factor.labels[len(summed):])
    return Factor(_reshaped(factor.value, shape), ["summed", free])


def _reshaped(x: Array, shape: tuple[int, ...]) -> Array:
    """`x` in that shape; no equation when it has it."""
    return x if x.shape == shape else lax.reshape(x, shape)
