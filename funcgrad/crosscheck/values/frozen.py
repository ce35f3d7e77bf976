"""A program in which what `stop_gradient` cut off stays where it was.

Differences of values follow every path, also one that the user cut on purpose (a target network, the maximum that a
softmax subtracts). The derivative that was asked for takes it as a constant, so a difference must too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from funcgrad.crosscheck.held import equations_in
from funcgrad.crosscheck.values.wide import NotWide

Array = Any
CUT = "stop_gradient"


def frozen(fun: Callable[..., Sequence[Array]], values: Sequence[Array]) -> Callable[..., list[Array]]:
    """The same function, except that each `stop_gradient` in it gives what it gave at `values`.

    Raises:
      NotWide: where one stands inside a loop or a branch.
    """
    program = jax.make_jaxpr(fun)(*values)
    if any(inner.primitive.name == CUT for eqn in program.jaxpr.eqns for inner in equations_in(eqn.params)):
        raise NotWide("a path is cut inside a loop or a branch")
    constants: list[Array] = []

    def noted(value: Array) -> Array:
        constants.append(value)
        return value

    _evaluated(program, values, noted)

    def run(*moved: Array) -> list[Array]:
        rest: Iterator[Array] = iter(constants)
        return _evaluated(program, moved, lambda value: next(rest))

    return run


def _evaluated(program: Any, args: Sequence[Array], cut: Callable[[Array], Array]) -> list[Array]:
    env: dict[Any, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    env |= dict(zip(program.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else env[atom]

    for eqn in program.jaxpr.eqns:
        operands = list(map(read, eqn.invars))
        if eqn.primitive.name == CUT:
            results = [cut(operands[0])]
        else:
            with eqn.ctx.manager:
                found = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            results = list(found) if eqn.primitive.multiple_results else [found]
        env.update(zip(eqn.outvars, results, strict=True))
    return list(map(read, program.jaxpr.outvars))
