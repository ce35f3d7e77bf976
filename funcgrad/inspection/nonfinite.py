"""`find_nonfinite`: the first operation, with the user's line, that makes a value or a gradient NaN or infinite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad.graph import Graph, carries_gradient
from funcgrad.inspection.arguments import check_function, numbers
from funcgrad.inspection.descent import Found, innermost
from funcgrad.inspection.mending import mends
from funcgrad.inspection.naming import argument_names, value_names
from funcgrad.inspection.origins import Program, Search, bad, host, is_elementwise, search
from funcgrad.inspection.places import Line, Nonfinite, Place
from funcgrad.inspection.replay import Inside
from funcgrad.vjp import record_call
from funcgrad.watching import UNHEARD, WATCHER

Array = Any


def find_nonfinite(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Nonfinite:
    """Where the first NaN or infinity is born that reaches the value or the gradient of a function.

    The function runs once, operation by operation, and its backward sweep after it, with cotangents of one. Programs
    inside it (`jit`, `scan`, `while_loop`, `cond`, `checkpoint`, custom rules) are opened where they are to blame.

    Args:
      fun: a function of arrays and pytrees of arrays, as one gives it to `grad`: not the gradient, the function.
      *args, **kwargs: where it is evaluated; arrays, not tracers. Keyword arguments are not differentiated.

    Returns:
      A report: what, which operation, which line, which step and index, and what to do. It is false when all is finite.

    Raises:
      TypeError: when an argument has no value yet, inside `jit` and the like: use `debug_nonfinite` there.

    >>> import jax.numpy as jnp
    >>> report = find_nonfinite(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0).sum(), jnp.array([1.0, 0.0]))
    >>> report.place.operation, report.place.index
    ('sqrt', (1,))
    """
    check_function(fun, "find_nonfinite(f, x)")
    args, kwargs = numbers("find_nonfinite", (args, kwargs),
                           "; or use `with funcgrad.debug_nonfinite():` around the compiled call")
    with WATCHER(UNHEARD):
        recording, _ = record_call(partial(fun, **kwargs) if kwargs else fun, args)
    seeds = [lax.full_like(out, 1) if carries_gradient(aval) else None
             for out, aval in zip(recording.outputs, recording.out_avals, strict=True)]
    name = getattr(fun, "__name__", type(fun).__name__)
    return report_of(search(Program.of(recording), seeds), name, argument_names(fun, args))


def report_of(found: Search, name: str, arguments: Sequence[str], inside: tuple[Inside, ...] = (),
              around: int = 0) -> Nonfinite:
    """The report of a search through a whole function, whose caller is at `inside`, with so many `vmap`s around."""
    graph, origin = found.program.graph, found.first
    name = "λ" if name == "<lambda>" else name
    if origin is None:
        return Nonfinite(name)
    names = value_names(graph, arguments)
    birth = innermost(found, origin)
    place = _place(birth, names, inside, around)
    told = len(arguments) or len(graph.inputs)  # what comes after the arguments are probes of taps
    leaves = tuple(names[v] for v, flag in zip(graph.inputs[:told], graph.active, strict=False)
                   if flag and v in found.ct_origins)
    counts = place.phase == "cotangent" and place.cotangent not in (0.0, None)  # a cotangent arrives: nothing hides it
    hidden = None if origin.given or found.in_value is not None or counts else _hider(birth)
    return Nonfinite(name, place, found.in_value is not None, leaves, hidden, mends(place, hidden))


# ---- the place ----


def _place(birth: Found, names: Sequence[str], inside: tuple[Inside, ...], around: int) -> Place:
    origin, program = birth.origin, birth.search.program
    graph = program.graph
    if origin.given:
        return _given_place(birth, names, inside)
    node = graph.nodes[origin.index]
    line = _line(birth)
    operand = node.operands[origin.value]
    number = operand if origin.backward else node.outputs[origin.value]
    assert isinstance(number, int)
    array = birth.search.cts[number] if origin.backward else program.read(number)
    index, text = _first_bad(array, _read_at_birth(birth, array.shape))
    way, aval = (*inside, *birth.inside), graph.avals[number]
    shards = next((entry.axes for entry in reversed(way) if entry.axes), ())
    axes = _batch_axes(graph, number, _batches_at(birth) - around, around)
    if aval.shape[:len(shards)] != tuple(size for _, size in shards):  # the same in all shards
        shards, axes = (), ()
    words = (*(f"shard {name}" for name, _ in shards), *["batch index"] * len(axes))
    batch = tuple(Inside(what, number=index[axis]) for what, axis in zip(words, axes, strict=False))
    ct = birth.search.cts.get(node.outputs[0]) if origin.backward and is_elementwise(node) else None
    operands = _operands_at(birth, index) if is_elementwise(node) else ()
    own = jax.core.ShapedArray(aval.shape[len(shards):], aval.dtype)  # as one shard sees it
    return Place(line.operation, line.file, line.line, line.function, line.code, line.expression, line.caller,
                 "cotangent" if origin.backward else "value", text, index[len(shards):], own.str_short(), operands,
                 None if ct is None else _element(ct, index), (*way, *batch))


def _line(birth: Found) -> Line:
    """The line of the birth; where nobody knows it, as in a rule that was staged, that of the program around it."""
    node = birth.search.program.graph.nodes[birth.origin.index]
    own = Line.of(node)
    around = (Line.of(level.program.graph.nodes[index]) for level, index in reversed(birth.outer))
    known = next((line for line in (own, *around) if line.line), own)
    return dataclasses.replace(known, operation=own.operation)


def _given_place(birth: Found, names: Sequence[str], inside: tuple[Inside, ...]) -> Place:
    origin, program = birth.origin, birth.search.program
    graph = program.graph
    if origin.backward:
        return Place("the cotangent given to the pullback", phase="input", inside=inside)
    if origin.value < 0:
        return Place("a constant in the program", phase="constant", number="not finite", inside=inside)
    index, text = _first_bad(program.read(origin.value))
    is_input = origin.value in graph.inputs
    kind = graph.avals[origin.value].str_short()
    if is_input:
        return Place(f"the input `{names[origin.value]}`", phase="input", number=text, index=index, type=kind,
                     inside=inside)
    line = next((Line.of(node) for node in graph.nodes if origin.value in node.operands), Line(""))
    return Place(f"a constant {kind} that the function reads", line.file, line.line, line.function, line.code,
                 line.expression, line.caller, "constant", text, index, kind, inside=inside)


def batches(name_stack: Any) -> int:
    """How many `vmap`s a name stack tells of; their axes are the first ones of an array."""
    return sum(getattr(entry, "name", "") == "vmap" for entry in getattr(name_stack, "stack", ()))


def _batches_at(birth: Found) -> int:
    """How many `vmap`s are around a birth; a user's backward function is recorded without those around its call."""
    count = batches(birth.search.program.graph.nodes[birth.origin.index].source.name_stack)
    if birth.outer and birth.inside[-1:] == (Inside("custom_vjp rule"),):
        level, index = birth.outer[-1]
        count += batches(level.program.graph.nodes[index].source.name_stack)
    return count


def _batch_axes(graph: Graph, number: int, count: int, around: int) -> tuple[int, ...]:
    """The axes of a value that are those of `vmap`, of which there are `count`.

    Nothing in a recorded program tells them apart. JAX's rules put most of them first; where one stays behind (an
    elementwise operation under ``in_axes=1``) it is the axis whose length the other operations under that `vmap` have.
    """
    shape = graph.avals[number].shape
    if count <= 0 or len(shape) < count:
        return ()
    if count > 1:
        return tuple(range(count))
    alike = [graph.avals[v].shape for other in graph.nodes if batches(other.source.name_stack) - around == 1
             for v in other.outputs]
    scores = [sum(size in other for other in alike) for size in shape]
    return (scores.index(max(scores)),)


def _read_at_birth(birth: Found, shape: tuple[int, ...]) -> list[np.ndarray]:
    """What an elementwise operation, or its backward step, read to make an array of some shape."""
    origin, program = birth.origin, birth.search.program
    node = program.graph.nodes[origin.index]
    if not is_elementwise(node):
        return []
    read = [program.values[v] if isinstance(v, int) else v.value for v in node.operands]
    read += [birth.search.cts.get(node.outputs[0])] if origin.backward else []
    arrays = [host(value) for value in read if value is not None]
    return [array for array in arrays if array.shape in ((), shape)]


def _first_bad(array: Array, read: Sequence[np.ndarray] = ()) -> tuple[tuple[int, ...], str]:
    """The index of the first element that is not finite, and what it is.

    First come those made of finite numbers, then NaN made of infinities, then the others, which were handed on.
    """
    wrong = bad(array)
    of_finite = reduce(np.logical_and, map(np.isfinite, read), wrong)
    of_numbers = reduce(np.logical_and, (~np.isnan(part) for part in read), np.isnan(host(array)))
    wrong = next((made for made in (of_finite, of_numbers) if made.any()), wrong) if read else wrong
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape)) if wrong.shape else ()
    number = host(array)[index]
    return index, "nan" if np.isnan(number) else str(number.real if np.isinf(number.real) else number.imag)


def _element(array: Array, index: tuple[int, ...]) -> float | None:
    """The element of an array, or of one that is stretched, as a number."""
    values = host(array)
    if values.ndim and values.ndim != len(index):
        return None
    number = values[tuple(min(i, size - 1) for i, size in zip(index, values.shape, strict=False))]
    return None if values.dtype.kind == "c" else float(number)


def _operands_at(birth: Found, index: tuple[int, ...]) -> tuple[float, ...]:
    program = birth.search.program
    node = program.graph.nodes[birth.origin.index]
    values = [program.values[v] if isinstance(v, int) else v.value for v in node.operands]
    found = [None if value is None else _element(value, index) for value in values]
    return () if any(number is None for number in found) else tuple(found)  # type: ignore[arg-type]


# ---- what hides it ----


def _hider(birth: Found) -> Line | None:
    """The first operation after the birth that takes it and gives finite numbers, in this program or one above."""
    origin = birth.origin
    node = birth.search.program.graph.nodes[origin.index]
    levels = [(birth.search, origin.index, node.outputs), *((s, i, s.program.graph.nodes[i].outputs)
                                                            for s, i in reversed(birth.outer))]
    for level, index, outputs in levels:
        found = _hider_after(level, index, set(outputs))
        if found is not None:
            return found
    return None


def _hider_after(level: Search, index: int, tainted: set[int]) -> Line | None:
    graph = level.program.graph
    for node in graph.nodes[index + 1:]:
        if not tainted.intersection(v for v in node.operands if isinstance(v, int)):
            continue
        if not any(carries_gradient(graph.avals[v]) for v in node.outputs):
            continue  # a comparison says something of it, and hides nothing
        takes = any(v in level.values for v in node.operands if isinstance(v, int))
        gives = any(v in level.values for v in (*node.outputs, *node.hidden))
        if _selects(node) or (takes and not gives):
            line = Line.of(node)
            return dataclasses.replace(line, operation=line.operation.removeprefix("jit ").lstrip("_"))
        tainted.update(node.outputs)
    return None


def _selects(node: Any) -> bool:
    """Whether an operation can drop one of its operands' numbers."""
    if str(node.primitive) in ("select_n", "max", "min", "clamp", "argmax", "gather", "dynamic_slice"):
        return True
    return str(node.primitive) == "jit" and node.params.get("name") in ("_where", "where", "clip")
