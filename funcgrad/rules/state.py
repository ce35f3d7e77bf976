"""Mutable arrays: `jax.new_ref`, reading, writing and adding to one, `jax.freeze`, and programs that are handed one.

A mutable array that is made inside the traced function never reaches the graph: it is a cell that holds a traced value
(see `cells` and `cell_programs`). So nothing here has a derivative of its own.

A mutable array from outside stays what it is. What is read from it is a constant, and what is written into it must not
carry a gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive, set_current_trace
from jax.extend.core import primitives as p
from jax.ref import AbstractRef

from funcgrad import _compat, errors
from funcgrad._compat import primitives as private
from funcgrad.evaluation import evaluate
from funcgrad.pullback import FlatPullback
from funcgrad.registry import higher_order, linear, lookup, mutable, unsupported
from funcgrad.rule import VJPRule
from funcgrad.rules.cell_programs import CUSTOM, operate, places_of, pure, source_line, update
from funcgrad.rules.cells import OPERATIONS, WITHOUT_GRADIENT, Cell
from funcgrad.rules.staging import BodyKind, assemble, stage_forward
from funcgrad.trace import GraphTrace
from funcgrad.tracer import UNKNOWN, GraphTracer
from funcgrad.trees import pytree, static

Array = Any


class ReferenceTracer(GraphTracer):
    """A mutable array that was made inside the trace. `cell` says what it holds now."""

    __slots__ = ("cell",)

    def __init__(self, trace: GraphTrace, cell: Cell):
        self._trace = trace
        self.aval = cell.aval
        self.number = trace.new_tracer(None, cell.aval, False).number
        self.cell = cell

    @property
    def value(self) -> Any:
        """The array as the trace below knows it: a mutable array of what is held now."""
        content, kind = self._trace.lower(self.cell.content), self.cell.aval.kind
        with set_current_trace(self._trace.parent):
            return private.new_ref_p.bind(content, memory_space=None, kind=kind)

    def to_concrete_value(self) -> Any:
        return None

    def get_referent(self) -> Any:
        return self


def process(trace: GraphTrace, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """Trace an operation on mutable arrays, or a program that is handed one made inside the trace."""
    operands = [arg.cell if isinstance(arg, ReferenceTracer) and trace.owns(arg) else arg for arg in args]
    if args and primitive in OPERATIONS and isinstance(getattr(args[0], "aval", None), AbstractRef) and not (
            isinstance(operands[0], Cell)):
        return _from_outside(trace, primitive, args, params)
    if primitive in CUSTOM:
        return _custom_call(trace, primitive, operands, params)
    with set_current_trace(trace):
        results = [ReferenceTracer(trace, result) if isinstance(result, Cell) else result
                   for result in operate(primitive, operands, params)]
    return results if primitive.multiple_results else results[0]


def _from_outside(trace: GraphTrace, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """An operation on a mutable array that the function did not make: done at once, noted, never done again."""
    reference, *rest = args
    aval = _compat.typeof(reference)
    lowered = list(map(trace.lower, args))
    writes = primitive in (p.swap_p, private.addupdate_p)
    cut = writes and aval.kind != WITHOUT_GRADIENT and trace.owns(rest[0]) and rest[0].is_active()
    if cut or any(value is UNKNOWN for value in lowered):
        raise errors.reference_cut(str(primitive), aval.str_short(), source_line())
    found = primitive.bind_with_trace(trace.parent, lowered, tuple(map(_compat.typeof, lowered)), params)
    if not trace.mode.constants and not any(map(trace.owns, args)):
        return found
    results = list(found) if primitive.multiple_results else [found]
    avals = list(map(_compat.typeof, results))
    noted = trace._record(primitive, params, list(map(trace.operand, args)), (False,) * len(args), results, avals)
    trace.nodes[-1] = dataclasses.replace(trace.nodes[-1], rerunnable=False)
    return noted if primitive.multiple_results else noted[0]


for primitive in OPERATIONS:
    mutable(primitive, process)


# ---- custom_jvp and custom_vjp: a user's own rule is handed a mutable array that exists for the time of the call ----


def _custom_call(trace: GraphTrace, primitive: Primitive, operands: list[Any], params: dict[str, Any]) -> list[Array]:
    _, cells = places_of(operands)
    for cell in cells:
        if trace.owns(cell.content) and cell.content.is_active():
            raise errors.mutable_operand(str(primitive), "its content has a gradient, which the function's own "
                                         "rule does not see", source_line())
    rule = lookup(primitive)
    assert rule is not None
    kinds = {i: operand.aval.kind for i, operand in enumerate(operands) if isinstance(operand, Cell)}
    on_contents = dataclasses.replace(rule, functions=(partial(custom_forward, rule, kinds),))
    contents = [operand.content if isinstance(operand, Cell) else operand for operand in operands]
    results = trace._process_higher_order(primitive, on_contents, contents, params, rerunnable=False)
    return update(cells, results)


def custom_forward(rule: VJPRule, kinds: dict[int, Any], active: tuple[bool, ...], *operands: Array,
                   **params: Any) -> tuple[list[Array], Any]:
    """The user's forward rule on arrays that are mutable where `kinds` says; their contents are further outputs."""
    made = {i: private.new_ref_p.bind(operands[i], memory_space=None, kind=kind) for i, kind in kinds.items()}
    outputs, pullback = rule.forward(active, *(made.get(i, v) for i, v in enumerate(operands)), **params)
    contents = {id(reference): private.freeze_p.bind(reference) for reference in made.values()}
    leaves, tree = jax.tree.flatten(pullback)
    mutable_leaves = tuple(i for i, leaf in enumerate(leaves) if id(leaf) in contents)
    flags = getattr(pullback, "out_active", (True,) * len(outputs)) + (False,) * len(made)
    kept = tuple(contents.get(id(leaf), leaf) for leaf in leaves)
    return [*outputs, *contents.values()], CustomPullback(tree, mutable_leaves, flags, len(outputs), kept)


@pytree
class CustomPullback:
    """Pullback of a user's own rule among whose residuals are mutable arrays: it is handed new ones of that content."""

    tree: Any = static()
    mutable_leaves: tuple[int, ...] = static()
    out_active: tuple[bool, ...] = static()
    count: int = static()
    leaves: tuple[Array, ...]

    def __call__(self, cts: Sequence[Array | None]) -> Sequence[Array | None]:
        leaves = [jax.new_ref(leaf) if i in self.mutable_leaves else leaf for i, leaf in enumerate(self.leaves)]
        return jax.tree.unflatten(self.tree, leaves)(tuple(cts[: self.count]))


# ---- run_state: a program whose operands are contents ----


def run_state_forward(active: tuple[bool, ...], *operands: Array, jaxpr: Any, which_linear: Any,
                      is_initialized: tuple[bool, ...]) -> tuple[list[Array], Any]:
    """Run the program on cells that hold the operands; its results are what they hold in the end."""
    del which_linear
    if not all(is_initialized):
        raise errors.mutable_operand("run_state", "it is not initialized", source_line())
    closed = _compat.closed(jaxpr)
    body = pure(closed, tuple(range(len(operands))), tuple(closed.in_avals))
    staged = stage_forward(body, active, BodyKind((True,) * len(operands), (True,) * len(operands)))
    results = evaluate(staged.jaxpr, operands)
    return list(results[: len(operands)]), FlatPullback(staged.graph, staged.plan, assemble(staged, operands, results))


higher_order(private.run_state_p, run_state_forward)

# ---- what stands beside them in JAX ----

linear(private.accum_grad_in_ref_p, lambda ct, _x: ct)  # the identity; it says where JAX should sum a cotangent

EXTENDED = ("it converts between numbers and an extended dtype, which has no cotangent; the public ones, keys, are "
            "made of integers")
unsupported(private.to_edtype_p, reason=EXTENDED)
unsupported(private.from_edtype_p, reason=EXTENDED)
