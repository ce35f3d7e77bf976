"""The same program in float64, with custom rules stripped: what a derivative is compared with.

Every floating array becomes float64 (complex: complex128), wherever the program came from: params that name a dtype or
hold a program are widened with it. A `custom_jvp` or `custom_vjp` function is its primal body. So differentiating the
wide program gives the derivative of the function itself, without the roundings and without the user's rules.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive
from jax.extend.core import Literal as JaxprLiteral

from funcgrad import _compat
from funcgrad.crosscheck.held import CUSTOM, RUNS, closed
from funcgrad.crosscheck.trusting import is_trusted
from funcgrad.crosscheck.values.loops import MOST_STEPS, bounded, repeated, steps_taken
from funcgrad.graph import Literal, Node
from funcgrad.vjp import Recording

Array = Any

#: What samples by rejection: in another precision it draws other numbers, so it stays as it is.
REJECTION_SAMPLERS = frozenset({"random_gamma"})
#: Primitives that look at the bits of a float, or whose result is a matter of its dtype.
_OWN_PRECISION = REJECTION_SAMPLERS | {"bitcast_convert_type", "nextafter", "random_gamma_grad"}
#: Primitives that hold one program and do nothing but run it.
_HELD = RUNS | CUSTOM | {"eval_jaxpr": "jaxpr", "composite": "jaxpr", "custom_lin": "jaxpr", "custom_vmap_call": "call"}


class NotWide(Exception):
    """An operation cannot be run in float64."""


@contextlib.contextmanager
def double() -> Iterator[None]:
    """The context in which arrays of 64 bits exist."""
    with jax.enable_x64(True):
        yield


def wide_dtype(dtype: Any) -> Any:
    """float64 for floats, complex128 for complex numbers, anything else as it is."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return dtype
    return np.dtype(np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64)


def widen(value: Any) -> Any:
    """A value in double precision; integers, booleans and keys as they are."""
    dtype = _compat.typeof(value).dtype
    if _compat.is_extended(dtype) or not jnp.issubdtype(dtype, jnp.inexact):
        return value
    if isinstance(value, jax.core.Tracer):
        return value if dtype == wide_dtype(dtype) else jax.lax.convert_element_type(value, wide_dtype(dtype))
    return jnp.asarray(np.asarray(value).astype(wide_dtype(dtype)))


#: What is done to the results of an operation that `evaluate_wide` runs: (primitive's name, types, results) -> results.
Move = Callable[[str, Sequence[Any], Sequence[Array]], list[Array]]
_MOVE: contextvars.ContextVar[Move | None] = contextvars.ContextVar("funcgrad moved results", default=None)


@contextlib.contextmanager
def moved_results(move: Move) -> Iterator[None]:
    """While this block is open, the results of each operation are moved, also inside loops and branches."""
    token = _MOVE.set(move)
    try:
        yield
    finally:
        _MOVE.reset(token)


def run_wide(primitive: Primitive, params: dict[str, Any], args: Sequence[Array], avals: Sequence[Any],
             steps: int | None = None) -> list[Array]:
    """One operation in double precision.

    Args:
      primitive, params: what the program binds.
      args: its operands, already wide.
      avals: their types in the program itself.
      steps: how many a `while` loop took, where that is known.
    """
    name = primitive.name
    if name == "while" and steps is not None:
        return repeated(params, args, evaluate_wide, steps)
    if name == "while" and not params["cond_jaxpr"].out_avals[0].shape:
        return bounded(params, args, evaluate_wide, MOST_STEPS)[1:]
    if name in _HELD:
        held = closed(params[_HELD[name]])
        if name == "custom_vjp_call" and set(held.jaxpr.outvars) <= set(held.jaxpr.invars):
            raise NotWide("the identity has a custom rule only to change the gradient on purpose")
        if name in CUSTOM and is_trusted(held):
            raise NotWide("a trusted rule differs from its primal body on purpose")
        return evaluate_wide(held, args)
    if name == "custom_linear_solve":
        return _solve(args, **params)
    if name == "reduce_precision":
        return [args[0]]
    if name in _OWN_PRECISION:
        args = [arg if arg.dtype == aval.dtype else jax.lax.convert_element_type(arg, aval.dtype)
                for arg, aval in zip(args, avals, strict=True)]
    elif _MOVE.get() is not None or any(
            _compat.typeof(arg).dtype != aval.dtype for arg, aval in zip(args, avals, strict=True)):
        params = {key: _widened(key, value) for key, value in params.items()}
    results = primitive.bind(*args, **primitive.get_bind_params(params))
    return [widen(result) for result in (results if primitive.multiple_results else [results])]


def evaluate_wide(jaxpr: Any, args: Sequence[Array]) -> list[Array]:
    """A closed jaxpr in double precision, custom rules stripped; `args` are wide already."""
    env: dict[Any, Any] = dict(zip(jaxpr.jaxpr.constvars, map(widen, jaxpr.consts), strict=True))
    env |= dict(zip(jaxpr.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return widen(_strong(atom.val, atom.aval)) if isinstance(atom, JaxprLiteral) else env[atom]

    for eqn in jaxpr.jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        with eqn.ctx.manager, double():
            results = run_wide(eqn.primitive, eqn.params, values, [atom.aval for atom in eqn.invars])
            move = _MOVE.get()
            if move is not None:
                results = move(eqn.primitive.name, [v.aval for v in eqn.outvars], results)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


def _strong(value: Any, aval: Any) -> Any:
    """A host scalar as an array of the type that the program gives it."""
    return np.asarray(value, aval.dtype) if isinstance(value, bool | int | float | complex) else value


def wide_graph(recording: Recording) -> Callable[..., list[Array]]:
    """A recording as a function of its inputs, in double precision: ``run(*inputs) -> outputs``."""
    graph = recording.graph
    steps = {id(node): steps_of(node, recording) for node in graph.nodes if node.primitive.name == "while"}

    def run(*inputs: Array) -> list[Array]:
        values: dict[int, Any] = dict(zip(graph.inputs, map(widen, inputs), strict=True))
        values |= {number: widen(recording.values[number]) for number in graph.captured}
        for node in graph.nodes:
            if not node.rerunnable:
                raise NotWide(f"`{node.primitive}` at {node.line} runs Python code that depends on values")
            args = [wide_operand(v, values) for v in node.operands]
            avals = [v.aval if isinstance(v, Literal) else graph.avals[v] for v in node.operands]
            with _compat.in_setting(node.setting):
                results = run_wide(node.primitive, dict(node.params), args, avals, steps.get(id(node)))
            values.update(zip(node.outputs, results, strict=True))
        return [wide_operand(v, values) for v in graph.outputs]

    return run


def steps_of(node: Node, recording: Recording) -> int | None:
    """How many steps a `while` loop took in a run."""
    if node.primitive.name != "while":
        return None
    return steps_taken(node.params, [v.value if isinstance(v, Literal) else recording.read(v) for v in node.operands])


def wide_operand(operand: Any, values: dict[int, Any]) -> Any:
    """What a node reads."""
    return widen(_strong(np.asarray(operand.value, operand.aval.dtype), operand.aval)) if isinstance(
        operand, Literal) else values[operand]


def _widened(key: str, value: Any) -> Any:
    """A param in double precision."""
    if isinstance(value, ClosedJaxpr):
        return _wide_program(value)
    if isinstance(value, Jaxpr):
        program = _wide_program(closed(value))
        if program.consts:
            raise NotWide("a program in a param has constants")
        return program.jaxpr
    if isinstance(value, tuple) and value and all(isinstance(item, ClosedJaxpr | Jaxpr) for item in value):
        return tuple(_widened(key, item) for item in value)
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return wide_dtype(np.dtype(value))
    return None if key == "precision" else value  # precisions of the device, and algorithms in float32


def _wide_program(jaxpr: Any) -> Any:
    avals = [jax.ShapeDtypeStruct(v.shape, wide_dtype(v.dtype), weak_type=False) for v in jaxpr.in_avals]
    with double():
        return jax.make_jaxpr(lambda *args: evaluate_wide(jaxpr, args))(*avals)


def _solve(args: Sequence[Array], *, const_lengths: Any, jaxprs: Any, **params: Any) -> list[Array]:
    """A linear solve as a function of the matrix that `matvec` applies, whatever factors the solver was given.

    JAX defines its derivative by ``matvec(x) = b``, and the solver's own operands have none. Two steps of iterative
    refinement say the same without a rule: they are exact where they stand, and their first two derivatives are those
    of the solution.
    """
    del params
    ends = np.cumsum([int(length) for length in const_lengths])
    matrix, solver = list(args[: ends[0]]), list(args[ends[1] : ends[2]])
    b = list(args[ends[-1]:])
    x = evaluate_wide(closed(jaxprs.solve), [*solver, *b])
    for _refinement in range(2):
        product = evaluate_wide(closed(jaxprs.matvec), [*matrix, *x[: len(b)]])
        residual = [jax.lax.sub(mine, theirs) for mine, theirs in zip(b, product, strict=True)]
        correction = evaluate_wide(closed(jaxprs.solve), [*solver, *residual])
        x = [jax.lax.add(old, new) for old, new in zip(x, correction, strict=True)]
    return x


__all__ = ["REJECTION_SAMPLERS", "NotWide", "double", "evaluate_wide", "moved_results", "run_wide", "steps_of",
           "wide_dtype", "wide_graph", "widen"]
