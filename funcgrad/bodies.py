"""Floor 4: the small programs that `jnp` functions bring along, run whole and noted operation by operation.

`jnp.add(x, 1.0)` arrives at a trace as a `jit` to be inlined: a body of a few operations. Outside `jit`, running
them one by one costs a dispatch each, and finding out again what each of them reads costs more than that. A `Body`
knows both from the first time on: one compiled program computes all of its values, and the steps say which nodes to
note. The untraced call is one compiled program too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
from jax.core import Tracer
from jax.extend.core import Literal as JaxprLiteral
from jax.extend.core import Primitive
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.graph import Literal, Params, carries_gradient
from funcgrad.registry import lookup
from funcgrad.rule import MapClass

Array = Any

#: Kinds of arguments. A scalar of the host has its aval for a kind: it becomes a literal of the graph.
ACTIVE, INACTIVE, OUTSIDE = "active", "inactive", "outside"
_NOTED = (MapClass.CONSTANT, MapClass.LINEAR, MapClass.POINTWISE, MapClass.BILINEAR, MapClass.CLOSED_FORM,
          MapClass.JOINT)


class Step(NamedTuple):
    """One operation of a body that depends on a traced argument.

    Attributes:
      primitive, params: what is bound.
      operands: places that it reads, or literals.
      active: for each operand, whether a cotangent flows to it.
      outputs: places of its results.
      out_active: for each result, whether it can have a cotangent.
      avals: of the results.
    """

    primitive: Primitive
    params: Params
    operands: tuple[int | Literal, ...]
    active: tuple[bool, ...]
    outputs: tuple[int, ...]
    out_active: tuple[bool, ...]
    avals: tuple[Any, ...]


class Body(NamedTuple):
    """An inlined program for arguments of given kinds. Places are numbered: the arguments, then the variables.

    Attributes:
      program: ``program(*args) -> results``, compiled; a value for each of `computed`.
      computed: places of the program's results.
      folded: for each conversion of a host scalar: place read, place written, dtype, weak type.
      steps: the operations to note, in order.
      outputs: places or literals that the body gives back.
    """

    program: Callable[..., Sequence[Array]]
    computed: tuple[int, ...]
    folded: tuple[tuple[int, int, Any, bool], ...]
    steps: tuple[Step, ...]
    outputs: tuple[Any, ...]


def kind_of(value: Any) -> Hashable | None:
    """The kind of an argument from outside the trace, None for one that no body takes."""
    if isinstance(value, jax.Array):
        return None if isinstance(value, Tracer) else OUTSIDE
    if isinstance(value, jax.Ref) or getattr(value, "ndim", 0) != 0:
        return None
    return _compat.typeof(value)


def find_body(jaxpr: Any, kinds: tuple[Hashable, ...], name: str) -> Body | None:
    """The body of a closed jaxpr for arguments of these kinds; None where operations must be noted one by one."""
    known = _BODIES.setdefault(jaxpr, {})
    if kinds not in known:
        known[kinds] = _make_body(jaxpr, kinds, name)
    return known[kinds]


# `jnp`'s small programs run again and again; what is known of them goes when they go.
_BODIES: WeakKeyDictionary[Any, dict[tuple[Hashable, ...], Body | None]] = WeakKeyDictionary()


def _make_body(jaxpr: Any, kinds: tuple[Hashable, ...], name: str) -> Body | None:
    inner = jaxpr.jaxpr
    if jaxpr.consts or inner.effects or not all(map(_can_note, inner.eqns)):
        return None
    places = {variable: place for place, variable in enumerate(inner.invars)}
    known: list[Hashable] = list(kinds)  # the kind of each place
    steps: list[Step] = []
    folded: list[tuple[int, int, Any, bool]] = []
    outside: list[int] = []
    for eqn in inner.eqns:
        operands = tuple(_place_or_literal(atom, places) for atom in eqn.invars)
        outputs = tuple(range(len(known), len(known) + len(eqn.outvars)))
        places |= dict(zip(eqn.outvars, outputs, strict=True))
        read = [known[v] for v in operands if isinstance(v, int)]
        if ACTIVE in read or INACTIVE in read:
            step = _make_step(eqn, operands, outputs, known)
            steps.append(step)
            known += [ACTIVE if flag else INACTIVE for flag in step.out_active]
        elif eqn.primitive is p.convert_element_type_p and OUTSIDE not in read:
            if not read:
                return None
            folded.append((operands[0], outputs[0], eqn.params["new_dtype"], eqn.params["weak_type"]))
            known.append(eqn.outvars[0].aval)
        else:
            outside += outputs
            known += [OUTSIDE] * len(outputs)
    computed = tuple(sorted([*outside, *(v for step in steps for v in step.outputs)]))
    outputs = tuple(_place_or_literal(atom, places) for atom in inner.outvars)
    return Body(_compiled(jaxpr, computed, name), computed, tuple(folded), tuple(steps), outputs)


def _can_note(eqn: Any) -> bool:
    """Whether an operation has a rule of its own, and its line is that of the body's caller."""
    rule = lookup(eqn.primitive)
    return rule is not None and rule.kind in _NOTED and not _compat.has_user_frame(eqn.source_info)


def _place_or_literal(atom: Any, places: dict[Any, int]) -> Any:
    return Literal.of(atom.val) if isinstance(atom, JaxprLiteral) else places[atom]


def _make_step(eqn: Any, operands: tuple, outputs: tuple[int, ...], known: Sequence[Hashable]) -> Step:
    rule = lookup(eqn.primitive)
    assert rule is not None
    moves = rule.kind is not MapClass.CONSTANT
    active = tuple(moves and isinstance(v, int) and known[v] is ACTIVE for v in operands)
    avals = tuple(variable.aval for variable in eqn.outvars)
    out_active = tuple(any(active) and carries_gradient(aval) for aval in avals)
    return Step(eqn.primitive, Params(eqn.params), operands, active, outputs, out_active, avals)


def _compiled(jaxpr: Any, computed: tuple[int, ...], name: str) -> Callable[..., Sequence[Array]]:
    """All values of a body that a graph may hold, in one compiled program."""
    inner = jaxpr.jaxpr

    def body(*args: Array) -> list[Array]:
        values = list(args)
        places = {variable: place for place, variable in enumerate(inner.invars)}
        for eqn in inner.eqns:
            operands = [atom.val if isinstance(atom, JaxprLiteral) else values[places[atom]] for atom in eqn.invars]
            with eqn.ctx.manager:
                results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            places |= {variable: len(values) + i for i, variable in enumerate(eqn.outvars)}
            values += results if eqn.primitive.multiple_results else [results]
        return [values[place] for place in computed]

    body.__name__ = name
    return jax.jit(body)
