"""Floor 4: run a staged program in the current trace, one equation after the other.

Two things differ from `jax.core.eval_jaxpr`: a conversion of a host scalar stays on the host (so that it can be a
literal), and custom rules with a traced operand keep their staged form, which can be run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import jax
from jax.core import Trace, Tracer
from jax.extend import source_info_util
from jax.extend.core import Literal as JaxprLiteral
from jax.extend.core import primitives as p
from jax.extend.core import take_current_trace

from funcgrad import _compat
from funcgrad.tracer import GraphTracer

Value = Any

_CUSTOM = (p.custom_jvp_call_p, p.custom_vjp_call_p)
# `jnp`'s small programs run again and again; what is found in them goes when they go.
_LAST_USES: WeakKeyDictionary[Any, dict[int, list[Any]]] = WeakKeyDictionary()


def evaluate(jaxpr: Any, args: Sequence[Value], step: Callable[..., Sequence[Value]] | None = None,
             here: bool = False) -> list[Value]:
    """Run a closed jaxpr in the current trace, each equation by ``step(trace, equation, operands)`` if given.

    `here` says that the program was traced for this very call, so JAX's settings are those it was traced with: an
    equation of `jnp` then needs no context of its own, which is half of the time that an eager operation takes.
    """
    with take_current_trace() as current:
        trace = current
    stack, outer = source_info_util.current_name_stack(), _compat.current_source()
    env: dict[Any, Value] = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    env |= dict(zip(jaxpr.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Value:
        return atom.val if isinstance(atom, JaxprLiteral) else env[atom]

    last = _LAST_USES.get(jaxpr.jaxpr)
    if last is None:
        last = _LAST_USES[jaxpr.jaxpr] = _last_uses(jaxpr.jaxpr)
    for index, eqn in enumerate(jaxpr.jaxpr.eqns):
        info = eqn.source_info  # of jnp's own programs all frames are JAX's: then the line that called them counts
        own_line, values = _compat.has_user_frame(info), [read(atom) for atom in eqn.invars]
        if here and not own_line:
            results = (step or evaluate_equation)(trace, eqn, values)
        else:
            traceback = info.traceback if own_line else outer.traceback
            with (source_info_util.user_context(traceback, name_stack=stack + info.name_stack), eqn.ctx.manager):
                results = (step or evaluate_equation)(trace, eqn, values)
        env.update(zip(eqn.outvars, results, strict=True))
        for variable in last.get(index, ()):
            env.pop(variable, None)
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


def _last_uses(jaxpr: Any) -> dict[int, list[Any]]:
    """For each equation, the variables that nothing reads after it (so that eager evaluation frees their arrays)."""
    kept = {id(atom) for atom in jaxpr.outvars}
    last = {atom: index for index, eqn in enumerate(jaxpr.eqns)
            for atom in eqn.invars if not isinstance(atom, JaxprLiteral) and id(atom) not in kept}
    uses: dict[int, list[Any]] = {}
    for variable, index in last.items():
        uses.setdefault(index, []).append(variable)
    return uses


def evaluate_equation(trace: Trace, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """Run one equation of a jaxpr."""
    primitive, params = eqn.primitive, eqn.params
    if primitive is p.convert_element_type_p and not isinstance(values[0], Tracer | jax.Array):
        folded = _compat.fold_constant(values[0], params["new_dtype"], params["weak_type"])
        if folded is not None:
            return [folded]
    if primitive in _CUSTOM and any(isinstance(value, GraphTracer) and value._trace is trace for value in values):
        graph_trace: Any = trace  # the trace of `funcgrad.trace`, on a floor above
        return graph_trace.process_custom(primitive, values, params, rerunnable=True)
    results = primitive.bind(*values, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]
