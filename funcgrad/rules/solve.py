"""`custom_linear_solve`: the derivative of the solution, whatever the solver did.

For ``A x = b`` with the cotangent ct of x (Giles, "Collected matrix derivative results", 2008, section 2.3):

    ct_b = A^-T ct          the transposed solve, the same primitive with its programs exchanged
    ct_A = -ct_b x^T        the pullback of the user's ``matvec`` with respect to what it closes over, at x, of -ct_b

`jax.lax.custom_root` needs no rule: it arrives as a `custom_jvp` that calls `custom_linear_solve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import lax
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.evaluation import evaluate
from funcgrad.graph import Params
from funcgrad.pullback import sweep, zeros_like_aval
from funcgrad.registry import higher_order
from funcgrad.trace import Mode, is_transposed
from funcgrad.trees import pytree, static
from funcgrad.vjp import record
from funcgrad.zeros import EVERYTHING, elsewhere, zeros_are_strong

Array = Any


def linear_solve_forward(active: tuple[bool, ...], *operands: Array, const_lengths: Any,
                         jaxprs: Any) -> tuple[list[Array], Any]:
    """Solve; keep the operands, and the solution when the matrix is active."""
    jaxprs = type(const_lengths)(*jaxprs)  # matvec, vecmat, solve, transpose_solve, in the one NamedTuple or the other
    params = {"const_lengths": const_lengths, "jaxprs": jaxprs}
    num_consts = sum(const_lengths)
    if jaxprs.solve is None:
        # The transpose of a solve that has no transpose: only forward mode comes here, and it has no use for values.
        outputs = [_compat.zeros_like_aval(v.aval) for v in jaxprs.transpose_solve.jaxpr.invars[-_unknowns(
            operands, num_consts):]]
    else:
        outputs = p.linear_solve_p.bind(*operands, **params)
    moving = active[:const_lengths.matvec]
    solution = tuple(outputs[:_unknowns(operands, num_consts)]) if any(moving) else ()
    return list(outputs), LinearSolvePullback(Params(params), moving, tuple(operands[:num_consts]), solution,
                                              tuple(map(_compat.typeof, operands[num_consts:])))


def _unknowns(operands: Sequence[Array], num_consts: int) -> int:
    return len(operands) - num_consts


@pytree
class LinearSolvePullback:
    """Pullback of a linear solve.

    Attributes:
      params: of the primitive.
      moving: for each const of `matvec`, whether a cotangent flows to it.
      consts: of the four programs.
      solution: what was found, if some const is moving.
      avals: of the right-hand side and of the solution.
    """

    params: Params = static()
    moving: tuple[bool, ...] = static()
    consts: tuple[Array, ...]
    solution: tuple[Array, ...]
    avals: tuple[Any, ...] = static()

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        given = list(cts[:len(self.avals)])  # what comes after the solution is auxiliary
        none: list[Array | None] = [None] * (len(self.consts) + len(self.avals))
        if all(ct is None for ct in given):
            return none
        ct_b = self._transposed_solve([
            zeros_like_aval(aval) if ct is None else ct for ct, aval in zip(given, self.avals, strict=True)])
        if zeros_are_strong():
            ct_b = [elsewhere(given, ct, EVERYTHING, {}) for ct in ct_b]
        rest = none[len(self.moving):len(self.consts)]
        return [*self._matvec_cotangents(ct_b), *rest, *ct_b]

    def _transposed_solve(self, cts: Sequence[Array]) -> list[Array]:
        lengths, jaxprs = self.params["const_lengths"], self.params["jaxprs"]
        if jaxprs.transpose_solve is None and not is_transposed(cts):
            raise TypeError(
                "transpose_solve required for backwards mode automatic differentiation of custom_linear_solve: it "
                "solves the transposed equation.\n"
                "To fix: pass transpose_solve, or symmetric=True for a symmetric matrix.")
        groups, start = [], 0
        for length in lengths:
            groups.append(self.consts[start:start + length])
            start += length
        consts = [const for group in type(lengths)(*groups).transpose() for const in group]
        results = p.linear_solve_p.bind(*consts, *cts, const_lengths=lengths.transpose(), jaxprs=jaxprs.transpose())
        return list(results[:len(self.avals)])

    def _matvec_cotangents(self, ct_b: Sequence[Array]) -> list[Array | None]:
        """Cotangents of what `matvec` closes over."""
        count = len(self.moving)
        if not any(self.moving):
            return [None] * count
        matvec = self.params["jaxprs"].matvec
        recording = record(lambda *args: evaluate(matvec, args), (*self.consts[:count], *self.solution),
                           self.moving + (False,) * len(self.solution), name=matvec.jaxpr.debug_info.func_name,
                           mode=Mode(inline=True))
        return sweep(recording.graph, recording.read, list(map(lax.neg, ct_b)))[:count]


higher_order(p.linear_solve_p, linear_solve_forward, dear=True)
