"""A run of a function, recorded so that each operation can be judged and run again.

The difference from `funcgrad.vjp.record`: a `custom_jvp` or `custom_vjp` function that is called directly is staged, so
that its primal body is at hand as a program. Where its body cannot be staged (Python control flow on values) it is
recorded as in a gradient, and nobody can look into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive, set_current_trace

from funcgrad import _compat
from funcgrad.evaluation import evaluate
from funcgrad.trace import GraphTrace
from funcgrad.vjp import Recording
from funcgrad.vjp import record as plainly_recorded

Array = Any


class StagingTrace(GraphTrace):
    """Stages custom rules that are called directly, then records them."""

    def process_custom(self, primitive: Primitive, args: Sequence[Any], params: dict, rerunnable: bool) -> Any:
        if rerunnable or not any(self._active(args)):  # staged already, or of no account
            return super().process_custom(primitive, args, params, rerunnable)
        avals = list(map(_compat.typeof, args))
        try:
            jaxpr = _compat.stage(lambda *values: primitive.bind(*values, **params), avals, self.name)
        except jax.errors.ConcretizationTypeError:
            return super().process_custom(primitive, args, params, rerunnable)
        with set_current_trace(self):
            results = evaluate(jaxpr, args, here=True)
        _forget_second_run(params["subfuns"])
        return results


def _forget_second_run(functions: Sequence[Any]) -> None:
    """JAX reads the output's tree from whichever of primal and rule ran, and wants that to be one of them only."""
    primal, rule = functions[:2]
    if any(rule.stores):
        for store in primal.stores:
            if store is not None:
                store.reset()


def record(fun: Callable[..., Any], values: Sequence[Array], name: str,
           active: Sequence[bool] | None = None) -> Recording:
    """Run ``fun(*values)``, flat arrays in, any pytree out, and note each operation that depends on a value."""
    return plainly_recorded(fun, values, active, name=name, trace_type=StagingTrace)


def record_program(jaxpr: Any, values: Sequence[Array], active: Sequence[bool], name: str) -> Recording:
    """Run a closed jaxpr on `values`, operation by operation."""
    return record(lambda *args: evaluate(jaxpr, args), values, name, active)
