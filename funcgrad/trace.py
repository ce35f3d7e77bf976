"""Floor 5: number -> traced value. A trace records each operation that depends on an input.

A `GraphTracer` carries the value itself, so Python's control flow and formatting work as with a number, and the place
of the value in the graph. Operations run in the trace below (eager, `jit`, `vmap`, another funcgrad trace, …) and are
noted as nodes. Nothing is differentiated here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Trace, Tracer
from jax.extend.core import Primitive, TraceTag, set_current_trace, take_current_trace
from jax.extend.core import primitives as p

from funcgrad import _compat, errors
from funcgrad._compat import primitives as private
from funcgrad.bodies import ACTIVE, INACTIVE, Body, find_body, kind_of
from funcgrad.evaluation import evaluate
from funcgrad.graph import Literal, Node, Operand, Params, PullbackSpec, carries_gradient
from funcgrad.interning import intern_params
from funcgrad.linearity import Place, check_linear, unknown_outputs
from funcgrad.pullback import zeros_like_aval
from funcgrad.registry import lookup
from funcgrad.rule import MapClass, VJPRule
from funcgrad.tracer import UNKNOWN, GraphTracer

Value = Any


class Mode(NamedTuple):
    """How a function is recorded.

    Attributes:
      linear: inputs are tangents without values.
      inline: nested `jit`s become part of the graph; otherwise they stay compiled units.
      constants: operations that depend on no input are recorded too, so that a staged body can run them again in place
        of saving their results.
    """

    linear: bool = False
    inline: bool = False
    constants: bool = False


#: How a user's function is recorded.
PLAIN = Mode()


class GraphTrace(Trace):
    """Records operations on top of a parent trace.

    In a linear trace (``mode.linear``) the inputs are tangents or cotangents whose values do not matter, because the
    traced function is linear in them: their value is `UNKNOWN` and what depends on them is recorded, not computed.
    """

    def __init__(self, parent: Trace, name: str, mode: Mode):
        super().__init__()
        self.parent = parent
        self.tag = TraceTag()
        self.name = name
        self.mode = mode
        self.nodes: list[Node] = []
        self.avals: list[Any] = []
        self.values: list[Value] = []
        self.active: list[bool] = []
        self.captured: dict[int, int] = {}  # id of an array from outside -> its number
        self.requires_low = False

    # -- values --

    def new_tracer(self, value: Value, aval: Any, active: bool) -> GraphTracer:
        """Give a value a number."""
        return GraphTracer(self, aval, self._number(value, aval, active), value)

    def _number(self, value: Value, aval: Any, active: bool) -> int:
        self.avals.append(aval)
        self.values.append(value)
        self.active.append(active)
        return len(self.avals) - 1

    def owns(self, value: Value) -> bool:
        """Whether a value is a tracer of this trace."""
        return isinstance(value, GraphTracer) and value._trace is self

    def operand(self, value: Value) -> Operand:
        """What a node reads when it is given `value`: a number, or a literal for scalars of the host."""
        if isinstance(value, GraphTracer) and value._trace is self:
            return value.number
        if not isinstance(value, Tracer | jax.Array | jax.Ref) and np.ndim(value) == 0:
            return Literal.of(value)
        return self._capture(value)

    def _capture(self, value: Value) -> int:
        number = self.captured.get(id(value))
        if number is None:  # `values` keeps the array alive, so its id stays its own
            number = self.captured[id(value)] = self._number(value, _compat.typeof(value), False)
        return number

    def lower(self, value: Value) -> Value:
        """The value as the parent trace knows it."""
        return value.value if isinstance(value, GraphTracer) and value._trace is self else value

    # -- the interface that JAX calls --

    def process_primitive(self, primitive: Primitive, args: Sequence[Value], params: dict, /) -> Any:
        rule = lookup(primitive)
        if rule is not None and rule.kind is MapClass.MUTABLE:
            return rule.process(self, primitive, args, params)
        if not self.mode.constants and not any(self.owns(value) for value in args):
            return self._bind(primitive, args, params)
        if primitive is p.jit_p and (params["inline"] or self.mode.inline):
            return self._inline(params["jaxpr"], args, params["name"])
        if rule is None or rule.kind is MapClass.UNSUPPORTED:
            return self._process_unruled(primitive, rule, args, params)
        if rule.kind is MapClass.HIGHER_ORDER:
            results = self._process_higher_order(primitive, rule, args, params)
            return results if primitive.multiple_results else results[0]
        return self._process_first_order(primitive, rule, args, params)

    def process_call(self, call_primitive: Any, f: Any, args: Sequence[Value], params: dict, /) -> Any:
        with set_current_trace(self):
            return f.call_wrapped(*args)

    def process_custom_jvp_call(self, primitive: Primitive, fun: Any, jvp: Any, args: Sequence[Value], /, *,
                                symbolic_zeros: bool) -> Any:
        for wrapped in (fun, jvp):
            self._lower_static(wrapped)
        params = {"subfuns": (fun, jvp), "symbolic_zeros": symbolic_zeros}
        return self.process_custom(primitive, args, params, rerunnable=False)

    def process_custom_vjp_call(self, primitive: Primitive, fun: Any, fwd: Any, bwd: Any, args: Sequence[Value], /, *,
                                out_trees: Any, symbolic_zeros: bool) -> Any:
        params = {"subfuns": (fun, fwd, bwd), "out_trees": out_trees, "symbolic_zeros": symbolic_zeros}
        return self.process_custom(primitive, args, params, rerunnable=False)

    def stage_value(self, value: Value) -> Value:
        return value if self.owns(value) else self.parent.stage_value(value)

    def cur_qdd(self, value: Value) -> Any:
        with set_current_trace(self.parent):
            return self.lower(value).cur_qdd()

    # -- recording --

    def _bind(self, primitive: Primitive, values: Sequence[Value], params: dict) -> Any:
        return primitive.bind_with_trace(self.parent, values, tuple(map(_compat.typeof, values)), params)

    def _active(self, args: Sequence[Value]) -> tuple[bool, ...]:
        return tuple(self.owns(value) and self.active[value.number] for value in args)

    def _inline(self, jaxpr: Any, args: Sequence[Value], name: str) -> list[Value]:
        body = self._body(jaxpr, args, name)
        if body is not None:
            return self._note_body(body, args)
        with set_current_trace(self):
            return evaluate(jaxpr, args, here=True)

    def _body(self, jaxpr: Any, args: Sequence[Value], name: str) -> Body | None:
        """What is known of an inlined program that can run whole, here and now; else None."""
        if self.mode != PLAIN or not _compat.is_eager(self.parent):
            return None
        kinds = tuple((ACTIVE if self.active[value.number] else INACTIVE) if self.owns(value) else kind_of(value)
                      for value in args)
        if None in kinds or any(self.owns(value) and isinstance(value.value, Tracer) for value in args):
            return None
        return find_body(jaxpr, kinds, name)

    def _note_body(self, body: Body, args: Sequence[Value]) -> list[Value]:
        """Run a body at once, then note its operations as if they had come one by one."""
        values: dict[int, Value] = dict(enumerate(args))
        with set_current_trace(self.parent):
            results = body.program(*map(self.lower, args))
        computed = dict(zip(body.computed, results, strict=True))
        for read, written, dtype, weak_type in body.folded:
            values[written] = _compat.fold_constant(values[read], dtype, weak_type)
        values |= computed
        setting, source = _compat.current_setting(), _compat.current_source()
        for step in body.steps:
            operands = tuple(self.operand(values[v]) if isinstance(v, int) else v for v in step.operands)
            for v, aval, flag in zip(step.outputs, step.avals, step.out_active, strict=True):
                values[v] = self.new_tracer(computed[v], aval, flag)
            numbers = tuple(values[v].number for v in step.outputs)
            self.nodes.append(Node(step.primitive, step.params, operands, step.active, numbers, step.out_active,
                                   setting=setting, source=source))
        return [values[v] if isinstance(v, int) else v.value for v in body.outputs]

    def _process_first_order(self, primitive: Primitive, rule: VJPRule, args: Sequence[Value], params: dict) -> Any:
        lowered = [self.lower(value) for value in args]
        if any(value is UNKNOWN for value in lowered):
            unknown = [value is UNKNOWN for value in lowered]
            check_linear(rule, self._active(args), unknown, Place(self.name, _compat.current_source()))
            avals = _compat.abstract_eval(primitive, list(map(_compat.typeof, args)), params)
            results: Sequence[Value] = [UNKNOWN] * len(avals)
        else:
            bound = self._bind(primitive, lowered, params)
            results = bound if primitive.multiple_results else [bound]
            avals = list(map(_compat.typeof, results))
        active = self._active(args) if rule.kind is not MapClass.CONSTANT else (False,) * len(args)
        tracers = self._record(primitive, params, list(map(self.operand, args)), active, results, avals)
        return tracers if primitive.multiple_results else tracers[0]

    def _record(self, primitive: Primitive, params: dict, operands: Sequence[Operand], active: tuple[bool, ...],
                results: Sequence[Value], avals: Sequence[Any],
                reached: Sequence[bool] | None = None, rerunnable: bool = True) -> list[GraphTracer]:
        """Note a node; `reached` says which outputs depend on active operands, where that is known."""
        alive = [any(active)] * len(avals) if reached is None else reached
        out_active = tuple(flag and carries_gradient(aval) for flag, aval in zip(alive, avals, strict=True))
        tracers = [self.new_tracer(v, aval, flag) for v, aval, flag in zip(results, avals, out_active, strict=True)]
        outputs = tuple(tracer.number for tracer in tracers)
        self.nodes.append(Node(primitive, Params(params), tuple(operands), active, outputs, out_active,
                               rerunnable=rerunnable, setting=_compat.current_setting(),
                               source=_compat.current_source()))
        return tracers

    def _process_unruled(self, primitive: Primitive, rule: VJPRule | None, args: Sequence[Value], params: dict) -> Any:
        active = self._active(args)
        if any(active):
            raise errors.missing_rule(
                primitive, list(map(_compat.typeof, args)), active, params,
                _compat.source_line(_compat.current_source()),
                rule.reason if rule is not None else "the primitive is not in the table",
                rule.error if rule is not None else NotImplementedError)
        inert = VJPRule(primitive, MapClass.CONSTANT)
        return self._process_first_order(primitive, inert, args, params)

    # -- programs inside programs --
    # A pullback may have `out_active`, a flag for each output: a loop counter beside an active carry has no cotangent.

    def _process_higher_order(self, primitive: Primitive, rule: VJPRule, args: Sequence[Value], params: dict,
                              rerunnable: bool = True) -> list[GraphTracer]:
        """Run a primitive that gives back its own pullback, and note the pullback's leaves as hidden outputs."""
        active = self._active(args)
        params = intern_params(params) if rerunnable else params
        if any(self.owns(value) and value.cell is not None for value in args):
            mutable = lookup(private.new_ref_p)
            assert mutable is not None
            return mutable.process(self, primitive, args, params)
        if not any(active) and rerunnable:
            outputs = self._process_first_order(primitive, VJPRule(primitive, MapClass.CONSTANT), args, params)
            return outputs if primitive.multiple_results else [outputs]
        unknown = [self.lower(value) is UNKNOWN for value in args]
        if any(unknown) and primitive is p.custom_jvp_call_p:
            return self._call_of_tangents(primitive, args, params)
        flags = self._unknown_outputs(primitive, params, unknown)
        values = [_instantiate(self.lower(value), value) for value in args]
        with set_current_trace(self.parent):
            forward = rule.forward_of_tangents if any(unknown) else rule.forward
            outputs, pullback = forward(active, *values, **params)
        avals = list(map(_compat.typeof, outputs))
        results = [UNKNOWN if flag else output for flag, output in zip(flags, outputs, strict=False)]
        operands, noted = list(map(self.operand, args)), params if rerunnable else _name_alone(params)
        tracers = self._record(primitive, noted, operands, active, results, avals,
                               getattr(pullback, "out_active", None))
        self._attach(pullback, values, operands, outputs, tracers, rerunnable)
        return tracers

    def _unknown_outputs(self, primitive: Primitive, params: dict, unknown: Sequence[bool]) -> Iterable[bool]:
        if not any(unknown):
            return itertools.repeat(False)
        flags = unknown_outputs(primitive, params, unknown, Place(self.name, _compat.current_source()))
        return itertools.repeat(True) if flags is None else flags

    def _call_of_tangents(self, primitive: Primitive, args: Sequence[Value], params: dict) -> list[Value]:
        """A function with a jvp rule, in the tangents of another: linear, so its operations are pulled back.

        Not by its rule, in which it may be called again, without end.
        """
        fun, _ = (params if "subfuns" in params else primitive.get_bind_params(params))["subfuns"]
        with set_current_trace(self):
            return list(fun.call_wrapped(*args))

    def _attach(self, pullback: Any, values: Sequence[Value], operands: Sequence[Operand], outputs: Sequence[Value],
                tracers: Sequence[GraphTracer], rerunnable: bool) -> None:
        """Give the last node its pullback: a leaf that is an operand or an output is that value, the rest is hidden.

        A number of Python stays one, since the pullback may ask it for its truth.
        """
        leaves, tree = jax.tree.flatten(pullback)
        known: dict[int, Operand] = {id(v): t.number for v, t in zip(outputs, tracers, strict=True)}
        known |= {id(v): operand for v, operand in zip(values, operands, strict=True)}
        hidden: list[int] = []
        numbers: list[Operand] = []
        for leaf in leaves:
            if isinstance(leaf, bool | int | float | complex | np.generic):
                numbers.append(dataclasses.replace(Literal.of(leaf), value=leaf))
                continue
            if id(leaf) not in known:
                known[id(leaf)] = number = self._number(leaf, _compat.typeof(leaf), False)
                hidden.append(number)
            numbers.append(known[id(leaf)])
        node = self.nodes[-1]
        self.nodes[-1] = Node(node.primitive, node.params, node.operands, node.active, node.outputs, node.out_active,
                              tuple(hidden), PullbackSpec(tree, tuple(numbers)), rerunnable, node.setting, node.source)

    def process_custom(self, primitive: Primitive, args: Sequence[Value], params: dict, rerunnable: bool) -> Any:
        """A `custom_jvp` or `custom_vjp` function.

        Args:
          primitive: one of the two.
          args: what it is applied to, some of it traced here.
          params: as they are bound; staged ones where it is part of a program.
          rerunnable: whether it can run again: a function that the user calls directly runs once, here and now.
        """
        rule = lookup(primitive)
        assert rule is not None
        if any(self._active(args)):
            return self._process_higher_order(primitive, rule, args, params, rerunnable)
        return self.hand_on(primitive, args, params, rerunnable)

    def _lower_static(self, wrapped: Any) -> None:
        """Traced values among the `nondiff_argnums` of a call: JAX has stopped their gradient, and here they end."""
        for _step, static in wrapped.transforms:
            for box in (entry for group in static if isinstance(group, tuple) for entry in group):
                if any(map(self.owns, jax.tree.leaves(getattr(box, "val", None)))):
                    box.val = jax.tree.map(self.lower, box.val)  # the box was made for this call

    def hand_on(self, primitive: Primitive, args: Sequence[Value], params: dict, rerunnable: bool) -> Sequence[Value]:
        """A custom rule that is inactive here goes whole to the trace below, where it may be active."""
        lowered = [_instantiate(self.lower(value), value) for value in args]
        bound = params if "subfuns" in params else primitive.get_bind_params(params)
        with set_current_trace(self.parent):
            results = self._bind(primitive, lowered, bound)
        if not any(map(self.owns, args)):
            return results
        return self._record(primitive, params if rerunnable else _name_alone(params), list(map(self.operand, args)),
                            (False,) * len(args), results, list(map(_compat.typeof, results)), rerunnable=rerunnable)


def _name_alone(params: dict) -> dict:
    """What is noted of a function that runs once, here and now: what the user calls it."""
    return {"name": params["subfuns"][0].debug_info.func_name} if "subfuns" in params else {}


def is_transposed(args: Sequence[Value]) -> bool:
    """Whether a backward program is only being recorded, as a linear function of cotangents without values."""
    with take_current_trace() as trace:
        return isinstance(trace, GraphTrace) and trace.mode.linear and any(
            isinstance(arg, GraphTracer) and trace.lower(arg) is UNKNOWN for arg in args)


def _instantiate(lowered: Value, value: Value) -> Value:
    """A value that can be computed with: zeros for an unknown tangent, for a function linear in it."""
    return zeros_like_aval(value.aval) if lowered is UNKNOWN else lowered
