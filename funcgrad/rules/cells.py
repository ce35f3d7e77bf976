"""The cells that stand for mutable arrays while a program is traced, and the operations on one.

Reading a cell is indexing its content, writing replaces the content.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad._compat import primitives as private

Array = Any
Aval = Any

#: JAX's name for mutable arrays that let no gradient through.
WITHOUT_GRADIENT = "no_grad_no_remat"


@dataclasses.dataclass(eq=False)
class Cell:
    """A mutable array while it is traced: its type, and what it holds now."""

    aval: Aval
    content: Array

    def write(self, content: Array) -> None:
        """Hold a new content, of the weak type that the array was made with: so loops find one type."""
        wanted = getattr(self.aval.inner_aval, "weak_type", False)
        if wanted != _compat.is_weakly_typed(content):
            content = p.convert_element_type_p.bind(content, new_dtype=content.dtype, weak_type=wanted, sharding=None)
        self.content = lax.stop_gradient(content) if self.aval.kind == WITHOUT_GRADIENT else content


def aval_of(operand: Any) -> Aval:
    """The type of an operand; of a cell that of the mutable array."""
    return operand.aval if isinstance(operand, Cell) else _compat.typeof(operand)


# ---- the operations ----


def new_ref(aval: Aval, initial: Array, *, memory_space: Any, kind: Any) -> list[Cell]:
    """A new cell."""
    del memory_space, kind  # in the aval
    cell = Cell(aval, initial)
    cell.write(initial)
    return [cell]


def empty_ref(aval: Aval, *, ty: Any, memory_space: Any) -> list[Cell]:
    """A new cell of zeros: nobody may rely on what stands in it."""
    del memory_space
    return [Cell(aval, _compat.zeros_like_aval(ty))]


def _view(leaves: Sequence[Array], tree: Any) -> tuple:
    """What part of an array is meant. Numbers that come out of a program are made arrays, as indexing wants them."""
    transforms = jax.tree.unflatten(tree, leaves)
    return tuple(
        dataclasses.replace(step, indices=tuple(np.asarray(i, np.int32) if isinstance(i, int) else i
                                                for i in step.indices)) if hasattr(step, "indices") else step
        for step in transforms)


def get(_aval: Aval, cell: Cell, *leaves: Array, tree: Any) -> list[Array]:
    """The content, or a part of it."""
    return [_compat.read_through(cell.content, _view(leaves, tree))]


def swap(_aval: Aval, cell: Cell, value: Array, *leaves: Array, tree: Any) -> list[Array]:
    """Write `value` into the array or a part of it; what stood there before."""
    before, after = _compat.swap_through(cell.content, _view(leaves, tree), value)
    cell.write(after)
    return [before]


def addupdate(_aval: Aval, cell: Cell, value: Array, *leaves: Array, tree: Any) -> list[Array]:
    """Add `value` to the array or a part of it."""
    transforms = _view(leaves, tree)
    indices = getattr(transforms[0], "indices", None) if len(transforms) == 1 else None
    if indices is None or value.shape == cell.aval.shape or not all(map(_is_plain, indices)):
        cell.write(_compat.add_through(cell.content, value, *jax.tree.flatten(transforms)))
    else:
        cell.write(_add_to_window(cell.content, indices, value))
    return []


def _is_slice(index: Any) -> bool:
    return hasattr(index, "stride")


def _is_plain(index: Any) -> bool:
    """Whether an entry of an indexer is a number, or a slice of a fixed number of elements without gaps."""
    return index.stride == 1 and isinstance(index.size, int) if _is_slice(index) else jnp.ndim(index) == 0


def _add_to_window(content: Array, indices: Sequence[Any], value: Array) -> Array:
    """Add to the window that `lax.dynamic_slice` would read.

    As a scatter its cotangent is the content's own, unchanged; writing the sum of old and new back would touch the
    whole of it in each step of a loop.
    """
    sliced = list(map(_is_slice, indices))
    starts = [index.start if flag else index for index, flag in zip(indices, sliced, strict=True)]
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(value.ndim)),
        inserted_window_dims=tuple(i for i, flag in enumerate(sliced) if not flag),
        scatter_dims_to_operand_dims=tuple(range(content.ndim)))
    position = lax.concatenate([_start(start, size) for start, size in zip(starts, content.shape, strict=True)], 0)
    return lax.scatter_add(content, position, value, numbers, indices_are_sorted=True, unique_indices=True,
                           mode=lax.GatherScatterMode.CLIP)


def _start(index: Any, size: int) -> Array:
    """An index as int32[1], counted from the front."""
    if isinstance(index, int):
        return lax.full((1,), index + size if index < 0 else index, "int32")
    index = lax.convert_element_type(index, "int32")
    return lax.reshape(lax.select(lax.lt(index, lax.full_like(index, 0)), lax.add(index, lax.full_like(index, size)),
                                  index), (1,))


def freeze(_aval: Aval, cell: Cell) -> list[Array]:
    """The content."""
    return [cell.content]


def free_ref(_aval: Aval, cell: Cell) -> list[Array]:
    """Nothing: an array that nobody reads any more costs nothing."""
    del cell
    return []


OPERATIONS: dict[Primitive, Callable[..., list[Any]]] = {
    private.new_ref_p: new_ref, private.empty_ref_p: empty_ref, p.get_p: get, p.swap_p: swap,
    private.addupdate_p: addupdate, private.freeze_p: freeze, private.free_ref_p: free_ref,
}
