"""Calls: `jit`, `remat`, `custom_jvp`, `custom_vjp` and the primitives that only hold a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as p
from jax.ref import AbstractRef

from funcgrad import _compat
from funcgrad.evaluation import evaluate
from funcgrad.graph import Graph, Params, carries_gradient
from funcgrad.planning import Plan
from funcgrad.pullback import FlatPullback, zeros_like_aval
from funcgrad.registry import higher_order
from funcgrad.rules.staging import BodyKind, assemble, spread, stage_backward, stage_forward
from funcgrad.trace import is_transposed
from funcgrad.tracer import UNKNOWN
from funcgrad.trees import pytree, static
from funcgrad.vjp import record_linear
from funcgrad.zeros import EVERYTHING, elsewhere, zeros_are_strong

Array = Any


# ---- jit: stays a compiled unit, forward and backward ----


def jit_forward(active: tuple[bool, ...], *operands: Array, jaxpr: Any, **params: Any) -> tuple[list[Array], Any]:
    """Run the jitted body's forward program; the residuals it adds are outputs of the compiled unit."""
    kind = BodyKind((True,) * len(operands), (True,) * len(jaxpr.out_avals))
    staged = stage_forward(jaxpr, active, kind)
    count, more = len(jaxpr.out_avals), staged.hidden_count
    # `params` goes on to `jit` itself: its shardings and layouts grow by the hidden outputs.
    grown = dict(params, out_shardings=params["out_shardings"] + (_compat.UNSPECIFIED,) * more,
                 out_layouts=params["out_layouts"] + (None,) * more,
                 donated_invars=(False,) * len(operands))  # residuals may be operands
    results = p.jit_p.bind(*operands, jaxpr=staged.jaxpr, **grown)
    residuals = assemble(staged, operands, results)
    return list(results[:count]), JitPullback(staged.graph, staged.plan, Params(params), residuals)


@pytree
class JitPullback:
    """Pullback of a jitted function: the backward program is a compiled unit too, of the same mesh and options."""

    graph: Graph = static()
    plan: Plan = static()
    params: Params = static()
    residuals: tuple[Array, ...]

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output, whether it can have a cotangent."""
        return self.graph.out_active

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        given = tuple(i for i, ct in enumerate(cts) if ct is not None)
        args = (*self.residuals, *(_placed(cts[i], self.params["out_shardings"][i]) for i in given))
        # the linear trace sees through the boundary, and somebody who looks for a NaN wants to: no staged detour
        if is_transposed(args) or _compat.seeks_nans_at_once():
            return FlatPullback(self.graph, self.plan, self.residuals)(cts)
        name = f"pullback({self.params['name']})"
        staged = stage_backward(pull_body, (self.graph, self.plan, given), list(map(_compat.typeof, args)), name)
        if not staged.reached:
            return [None] * len(self.graph.inputs)
        results = p.jit_p.bind(*args, jaxpr=staged.jaxpr, **self._params(name, given, staged.reached))
        return spread(results, staged.reached, len(self.graph.inputs))

    def _params(self, name: str, given: Sequence[int], reached: Sequence[int]) -> dict[str, Any]:
        kept = len(self.residuals)
        unspecified, no_layout = (_compat.UNSPECIFIED,) * kept, (None,) * kept
        return dict(
            self.params, name=name, donated_invars=(False,) * (kept + len(given)),
            in_shardings=unspecified + tuple(self.params["out_shardings"][i] for i in given),
            out_shardings=tuple(self.params["in_shardings"][i] for i in reached),
            in_layouts=no_layout + tuple(self.params["out_layouts"][i] for i in given),
            out_layouts=tuple(self.params["in_layouts"][i] for i in reached))


def _placed(ct: Array, sharding: Any) -> Array:
    """The cotangent where its output lies: outside of `jit` it may come from elsewhere, which `jit` would refuse."""
    if not isinstance(sharding, jax.sharding.Sharding) or isinstance(ct, jax.core.Tracer):
        return ct
    return jax.device_put(ct, sharding)


def pull_body(spec: tuple[Graph, Plan, tuple[int, ...]], *args: Array) -> list[Array | None]:
    """Backward sweep of a staged body: ``args`` are its residuals, then the cotangents of the outputs `given`."""
    graph, plan, given = spec
    kept = len(plan.saved)
    return FlatPullback(graph, plan, args[:kept])(spread(args[kept:], given, len(graph.outputs)))


# ---- remat: keeps the inputs and what the user's policy names; runs again when pulled ----


def remat_forward(active: tuple[bool, ...], *operands: Array, jaxpr: Any, prevent_cse: Any, differentiated: bool,
                  policy: Any) -> tuple[list[Array], Any]:
    """Run the body as it is; the pullback runs it again from its operands."""
    del differentiated  # how JAX marks its own backward copies
    closed = _compat.closed(jaxpr)
    kind = BodyKind((True,) * len(operands), (False,) * len(jaxpr.outvars), inline=True,
                    policy=policy if policy is not None else nothing_saveable)
    staged = stage_forward(closed, active, kind)
    results = evaluate(staged.jaxpr, operands)
    residuals = assemble(staged, operands, results)
    fenced = any(prevent_cse) if isinstance(prevent_cse, tuple) else bool(prevent_cse)
    return list(results[: len(jaxpr.outvars)]), RematPullback(staged.graph, staged.plan, fenced, residuals)


def nothing_saveable(primitive: Any, *avals: Any, **params: Any) -> bool:
    """The policy of a plain `checkpoint`: keep the inputs only."""
    return False


@pytree
class RematPullback:
    """Pullback of a `checkpoint`; a fence keeps XLA from merging the second run with the first."""

    graph: Graph = static()
    plan: Plan = static()
    fenced: bool = static()
    residuals: tuple[Array, ...]

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output, whether it can have a cotangent."""
        return self.graph.out_active

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        residuals = self.residuals
        if self.fenced:
            residuals = behind_fence(residuals)
        return FlatPullback(self.graph, self.plan, residuals)(cts)


def behind_fence(values: Sequence[Array]) -> tuple[Array, ...]:
    """The values behind an optimization barrier, one for each set of mesh axes: a barrier makes its operands alike."""
    groups: dict[Any, list[int]] = {}
    for position, value in enumerate(values):
        if isinstance(_compat.typeof(value), AbstractRef | _compat.HiType):  # a barrier takes arrays only
            continue
        groups.setdefault(_compat.varying_axes(value), []).append(position)
    fenced = list(values)
    for positions in groups.values():
        for position, value in zip(positions, lax.optimization_barrier([values[i] for i in positions]), strict=True):
            fenced[position] = value
    return tuple(fenced)


# ---- custom_jvp: the user's rule is linear in the tangents; its transpose is our vjp of it ----


def custom_jvp_forward(active: tuple[bool, ...], *operands: Array, symbolic_zeros: bool,
                       **params: Any) -> tuple[list[Array], Any]:
    """Run the user's jvp with unknown tangents; the graph of the tangents is linear, and pulled back as such."""
    if "subfuns" not in params:  # staged: the programs become functions again
        params = p.custom_jvp_call_p.get_bind_params(params)
    _, jvp = params["subfuns"]
    given = list(map(_compat.without_shape, operands))

    def with_tangents(tangents: Sequence[Array | None]) -> tuple[Sequence[Array], Sequence[Array]]:
        full = [zero_tangent(_compat.typeof(x), symbolic_zeros) if t is None else t
                for t, x in zip(tangents, operands, strict=True)]
        results = jvp.call_wrapped(*given, *full)
        return results[: len(results) // 2], results[len(results) // 2:]

    def alone() -> Sequence[Array]:  # by the rule again: a call that JAX makes allows one of its two functions
        return with_tangents([None] * len(operands))[0]

    return forward_of_jvp(active, operands, with_tangents, alone, jvp.debug_info.func_name)


def forward_of_jvp(active: tuple[bool, ...], operands: Sequence[Array], jvp: Callable[..., tuple],
                   alone: Callable[[], Sequence[Array]], name: str) -> tuple[list[Array], CustomJVPPullback]:
    """Run somebody's jvp rule with unknown tangents, and take what it does with them as the pullback.

    Args:
      active: which operands move.
      operands: their values.
      jvp: from tangents, None for what does not move, to the outputs and their tangents.
      alone: the outputs without the rule.
      name: the rule's, for messages.
    """

    def tangent_map(*tangents: Array) -> tuple[dict[int, Array], list[Array]]:
        remaining = iter(tangents)
        outputs, moved = jvp([next(remaining) if flag else None for flag in active])
        return {i: t for i, t in enumerate(moved) if not is_zero(t)}, list(outputs)

    avals = map(_compat.typeof, operands)
    moving = [aval.to_tangent_aval() for aval, flag in zip(avals, active, strict=True) if flag]
    linear = record_linear(tangent_map, moving, name, has_aux=True)
    outputs = linear.aux
    if any(v is UNKNOWN for v in outputs):
        outputs = alone()  # the rule mixed primal and tangent in one program
    indices = tuple(jax.tree.unflatten(linear.out_tree, range(linear.out_tree.num_leaves)))
    return list(map(_compat.canonicalize, outputs)), CustomJVPPullback(active, indices, linear.pullback("everything"))


@pytree
class CustomJVPPullback:
    """Pullback of the tangent map of a `custom_jvp` function."""

    active: tuple[bool, ...] = static()
    indices: tuple[int, ...] = static()
    tangents: FlatPullback

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        results = iter(self.tangents([cts[i] for i in self.indices]))
        return [next(results) if flag else None for flag in self.active]


def zero_tangent(aval: Any, symbolic: bool) -> Any:
    """The zero that a user's rule is given for an operand that does not move."""
    return _compat.SymbolicZero(aval.to_tangent_aval()) if symbolic else zeros_like_aval(aval)


def is_zero(value: Any) -> bool:
    """True for the symbolic zeros that a user's rule may give back."""
    return isinstance(value, _compat.SymbolicZero | _compat.Zero) or (
        getattr(value, "dtype", None) == _compat.float0)


# ---- custom_vjp: the user's forward and backward ----


def custom_vjp_forward(active: tuple[bool, ...], *operands: Array, out_trees: Callable, symbolic_zeros: bool,
                       **params: Any) -> tuple[list[Array], Any]:
    """Run the user's forward rule; what it keeps are the leaves of the pullback."""
    if "subfuns" not in params:
        params = p.custom_vjp_call_p.get_bind_params(dict(params, out_trees=out_trees, symbolic_zeros=symbolic_zeros))
    _, fwd, bwd = params["subfuns"]
    given = map(_compat.without_shape, operands)
    results = fwd.call_wrapped(*(entry for pair in zip(given, active, strict=True) for entry in pair))
    _, res_tree, forwarded = out_trees()
    own = iter(results)
    kept = [next(own) if index is None else operands[index] for index in forwarded]
    outputs = list(map(_compat.canonicalize, own))
    pullback = CustomVJPPullback(
        BackwardRule.of(bwd, out_trees), symbolic_zeros, active, tuple(map(_compat.typeof, operands)),
        tuple(map(_compat.typeof, outputs)), tuple(kept))
    return outputs, pullback


@dataclasses.dataclass(frozen=True)
class BackwardRule:
    """A user's backward function; equal to another when function, trees and static arguments are."""

    function: Any = dataclasses.field(compare=False)
    key: Hashable

    @staticmethod
    def of(bwd: Any, out_trees: Callable) -> BackwardRule:
        """`out_trees` is a fresh thunk in each call; what it holds is compared instead."""
        steps = tuple((step, tuple(out_trees() if arg is out_trees else arg for arg in args))
                      for step, args in bwd.transforms)
        key: Hashable = (bwd.f, _frozen(steps), bwd.params)
        try:
            hash(key)
        except TypeError:  # a static argument that does not hash: this very rule only
            key = (id(bwd),)
        return BackwardRule(bwd, key)


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that a key hashes."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@pytree
class CustomVJPPullback:
    """The user's own pullback."""

    backward: BackwardRule = static()
    symbolic_zeros: bool = static()
    active: tuple[bool, ...] = static()
    in_avals: tuple[Any, ...] = static()
    out_avals: tuple[Any, ...] = static()
    residuals: tuple[Array, ...]

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        given = [zero_tangent(aval, self.symbolic_zeros) if ct is None else ct
                 for ct, aval in zip(cts, self.out_avals, strict=True)]
        results = self.backward.function.call_wrapped(*self.residuals, *given)
        results = [None if is_zero(ct) or not flag else _of_dtype(ct, aval)
                   for ct, flag, aval in zip(results, self.active, self.in_avals, strict=True)]
        return [elsewhere(cts, ct, EVERYTHING, {}) for ct in results] if zeros_are_strong() else results


def _of_dtype(ct: Any, aval: Any) -> Array:
    """A user's cotangent in its operand's dtype: JAX lets a float32 one pass for a bfloat16 operand, and so do we.

    NumPy's arrays get the dtype that JAX gives them; a number of Python has none of its own.
    """
    if not isinstance(ct, jax.Array):
        ct = _compat.canonicalize(float(ct) if isinstance(ct, int) else ct)
    if _compat.typeof(ct).dtype == aval.dtype or not carries_gradient(_compat.typeof(ct)):
        return ct
    is_real = not jnp.issubdtype(aval.dtype, jnp.complexfloating)
    return lax.convert_element_type(lax.real(ct) if is_real and jnp.iscomplexobj(ct) else ct, aval.dtype)


# ---- programs that are only held: the pullback is the body's ----


def held_program_forward(active: tuple[bool, ...], *operands: Array, jaxpr: Any) -> tuple[list[Array], Any]:
    """Run a program inline; what its plan keeps are leaves of the pullback."""
    kind = BodyKind((True,) * len(operands), (True,) * len(jaxpr.out_avals))
    staged = stage_forward(jaxpr, active, kind)
    results = evaluate(staged.jaxpr, operands)
    flat = FlatPullback(staged.graph, staged.plan, assemble(staged, operands, results))
    return list(results[: len(jaxpr.out_avals)]), flat


def closed_call_forward(active: tuple[bool, ...], *operands: Array, call_jaxpr: Any,
                        **params: Any) -> tuple[list[Array], Any]:
    """`closed_call` and `core_call` that come out of a staged program."""
    del params  # name and the like: nothing that changes the value
    return held_program_forward(active, *operands, jaxpr=call_jaxpr)


def call_forward(active: tuple[bool, ...], *operands: Array, call_jaxpr: Any, **params: Any) -> tuple[list[Array], Any]:
    """`core.call`, whose program has no constants of its own."""
    del params  # its name
    return held_program_forward(active, *operands, jaxpr=_compat.closed(call_jaxpr))


higher_order(p.jit_p, jit_forward)
higher_order(p.remat_p, remat_forward)
higher_order(p.custom_jvp_call_p, custom_jvp_forward)
higher_order(p.custom_vjp_call_p, custom_vjp_forward, dear=True)
higher_order(p.closed_call_p, closed_call_forward)
higher_order(p.call_p, call_forward)
