"""Primitives that hold a program: `linear_call`, `composite`, `custom_vmap`, `hijax` primitives and the like.

Forward they run as they are, so that a kernel behind a `composite` or a rule behind a `custom_vmap` is used. Their
pullback is that of the program they hold, or the user's own where there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from funcgrad import _compat
from funcgrad._compat import primitives as private
from funcgrad.evaluation import evaluate
from funcgrad.interning import intern_jaxpr
from funcgrad.pullback import FlatPullback, zeros_like_aval
from funcgrad.registry import higher_order
from funcgrad.rules.call import held_program_forward, is_zero, nothing_saveable, remat_forward
from funcgrad.rules.staging import BodyKind, assemble, stage_backward, stage_forward
from funcgrad.trees import pytree, static

Array = Any


def pullback_of_program(active: tuple[bool, ...], operands: Sequence[Array], jaxpr: Any) -> FlatPullback:
    """The pullback of a program that ran elsewhere: it keeps the operands and runs again what it needs."""
    kind = BodyKind((True,) * len(operands), (False,) * len(jaxpr.out_avals), inline=True, policy=nothing_saveable)
    staged = stage_forward(jaxpr, active, kind)
    return FlatPullback(staged.graph, staged.plan, assemble(staged, operands, ()))


# ---- composite and custom_vmap ----


def composite_forward(active: tuple[bool, ...], *operands: Array, jaxpr: Any, **params: Any) -> tuple[list, Any]:
    """A `composite` has the derivative of its decomposition (jax.grad refuses it)."""
    outputs = private.composite_p.bind(*operands, jaxpr=jaxpr, **params)  # name, version, attributes: the kernel's
    return list(outputs), pullback_of_program(active, operands, jaxpr)


def custom_vmap_forward(active: tuple[bool, ...], *operands: Array, call: Any, **params: Any) -> tuple[list, Any]:
    """A function with its own batching rule, which `params` hold; its derivative is batched as any other program."""
    outputs = private.custom_vmap_p.bind(*operands, call=call, **params)
    return list(outputs), pullback_of_program(active, operands, call)


# ---- programs without any meaning of their own ----


def remat_opt_forward(active: tuple[bool, ...], *operands: Array, num_consts: int, num_res: int, fwd_jaxpr: Any,
                      fun_jaxpr_thunk: Callable[[], Any]) -> tuple[list, Any]:
    """The forward rule of a `custom_vjp` with ``optimize_remat``, differentiated once more."""
    del num_consts, num_res, fun_jaxpr_thunk  # for JAX's dead code elimination
    return held_program_forward(active, *operands, jaxpr=fwd_jaxpr)


# ---- linear_call: the user's own transpose ----


def linear_call_forward(active: tuple[bool, ...], *operands: Array, callee: Any, transpose_thunk: Callable[[], Any],
                        num_callee_consts: int, num_res: int) -> tuple[list, Any]:
    """The user's transpose for the linear operands; for the others, in which JAX has none, the program's pullback."""
    outputs = private.linear_call_p.bind(*operands, callee=callee, transpose_thunk=transpose_thunk,
                                             num_callee_consts=num_callee_consts, num_res=num_res)
    transposed, constants = transpose_thunk()
    fixed = num_callee_consts + num_res
    of_rest = None
    if any(active[:fixed]):
        of_rest = pullback_of_program(active[:fixed] + (False,) * (len(operands) - fixed), operands, callee)
    return list(outputs), LinearCallPullback(
        callee, intern_jaxpr(transposed), len(operands), tuple(operands[:num_callee_consts]),
        tuple(operands[num_callee_consts:fixed]), tuple(constants), of_rest)


@pytree
class LinearCallPullback:
    """Pullback of a `linear_call`: a `linear_call` of the transpose, whose transpose is the function again.

    Attributes:
      callee: the program.
      transposed: the user's transpose of it.
      operands: how many there are.
      callee_constants, constants: what the two programs close over.
      residuals: operands in which they are not linear.
      of_rest: pullback for what is not linear, if a cotangent flows there.
    """

    callee: Any = static()
    transposed: Any = static()
    operands: int = static()
    callee_constants: tuple[Array, ...]
    residuals: tuple[Array, ...]
    constants: tuple[Array, ...]
    of_rest: FlatPullback | None

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        full = [zeros_like_aval(aval) if ct is None else ct
                for ct, aval in zip(cts, self.callee.out_avals, strict=True)]
        fixed = (*self.callee_constants, *self.constants, *self.residuals)
        programs = (self.callee, self.transposed, len(self.callee_constants), len(self.constants))
        avals, name = list(map(_compat.typeof, fixed)), self.callee.jaxpr.debug_info.func_name
        tangents = self.callee.in_avals[len(self.callee_constants) + len(self.residuals):]
        forward = stage_backward(run_callee, programs, [*avals, *tangents], name).jaxpr
        backward = stage_backward(run_transposed, programs, [*avals, *map(_compat.typeof, full)], name).jaxpr
        linear = private.linear_call_p.bind(*fixed, *full, callee=backward, transpose_thunk=Thunk(forward),
                                                num_callee_consts=0, num_res=len(fixed))
        rest = [None] * self.operands if self.of_rest is None else self.of_rest(cts)
        return [*rest[:self.operands - len(linear)], *linear]


def run_callee(programs: tuple, *args: Array) -> list[Array]:
    """The program, from the constants of both, the residuals, and what it is linear in."""
    callee, _, count, more = programs
    return evaluate(callee, [*args[:count], *args[count + more:]])


def run_transposed(programs: tuple, *args: Array) -> list[Array]:
    """Its transpose, from the same and the cotangents."""
    _, transposed, count, _ = programs
    return evaluate(transposed, args[count:])


@dataclasses.dataclass(frozen=True)
class Thunk:
    """What `linear_call` asks for the transpose of its program. No arrays: it is a part of staged programs."""

    jaxpr: Any

    def __call__(self) -> tuple[Any, tuple[Array, ...]]:
        return self.jaxpr, ()


# ---- hijax: primitives with methods of their own ----


def hi_primitive_forward(active: tuple[bool, ...], *operands: Array, _prim: Any) -> tuple[list, Any]:
    """The primitive's own forward rule, but our own for a `checkpoint`; what it keeps are leaves of the pullback."""
    if isinstance(_prim, _compat.RematTraced) and not _prim.jaxpr.consts:
        return remat_forward(active, *operands, jaxpr=_prim.jaxpr.jaxpr, prevent_cse=True, differentiated=False,
                             policy=_prim.policy)
    nonzero = jax.tree.unflatten(_prim.in_tree, active)
    output, residuals, *_ = _prim.vjp_fwd(nonzero, *jax.tree.unflatten(_prim.in_tree, operands))
    return _prim.out_tree.flatten_up_to(output), HiPrimitivePullback(_prim, tuple(active), residuals)


@pytree
class HiPrimitivePullback:
    """The primitive's own pullback. Its rule is written for accumulators of JAX's, to which it hands each cotangent.

    It may ask for them by `isinstance`, and pass them on to the pullback of `jax.vjp`, which takes no others.
    """

    primitive: Any = static()
    active: tuple[bool, ...] = static()
    residuals: Any

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        primitive = self.primitive
        full = [_compat.Zero(aval.to_ct_aval()) if ct is None else ct
                for ct, aval in zip(cts, primitive.out_avals_flat, strict=True)]
        sums = [(_compat.ValAccum if flag else _compat.NullAccum)(aval.to_ct_aval())
                for aval, flag in zip(primitive.in_avals_flat, self.active, strict=True)]
        ct_out = jax.tree.unflatten(primitive.out_tree, full)
        primitive.vjp_bwd(self.residuals, ct_out, *jax.tree.unflatten(primitive.in_tree, sums))
        totals = [entry.freeze() if flag else None for entry, flag in zip(sums, self.active, strict=True)]
        return [None if total is None or is_zero(total) else total for total in totals]


higher_order(private.composite_p, composite_forward)
higher_order(private.custom_vmap_p, custom_vmap_forward)
higher_order(private.eval_jaxpr_p, held_program_forward)
higher_order(private.remat_opt_p, remat_opt_forward, dear=True)
higher_order(private.linear_call_p, linear_call_forward)
higher_order(private.call_hi_primitive_p, hi_primitive_forward, dear=True)
