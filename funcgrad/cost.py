"""Floor 3: what it costs to keep a value, and what it costs to compute it again.

Keeping is counted in bytes, computing in floating-point operations. The counts need not be exact: they decide between a
contraction and an addition, not between two additions.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from jax.extend.core import jaxprs_in_params

from funcgrad import _compat
from funcgrad.graph import Graph, Node
from funcgrad.registry import lookup
from funcgrad.rule import MapClass

#: Cannot or must not run again.
NEVER = math.inf

#: Elementwise operations that take many instructions for each element.
TRANSCENDENTAL = frozenset({
    "exp", "exp2", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh",
    "tanh", "asinh", "acosh", "atanh", "logistic", "erf", "erfc", "erf_inv", "lgamma", "digamma", "pow", "sqrt",
    "rsqrt", "cbrt",
})  # fmt: skip
FLOPS_OF_TRANSCENDENTAL = 8.0
#: A `while_loop` does not say how often it runs.
ASSUMED_ITERATIONS = 100
#: Read their whole operand for a small result.
_REDUCING = ("reduce_", "argm", "cum")
#: Collectives: every device waits for all the others.
_COLLECTIVE = ("psum", "pmax", "pmin", "all_gather", "all_to_all", "reduce_scatter", "ppermute", "pbroadcast",
               "ragged_all_to_all", "unreduced_", "psend", "precv")


def value_bytes(aval: Any) -> int:
    """Bytes of one value."""
    if isinstance(aval, _compat.HiType):
        return sum(map(value_bytes, aval.lo_ty()))
    size, dtype = getattr(aval, "size", 0), getattr(aval, "dtype", None)
    return int(size) * int(getattr(dtype, "itemsize", 8))


def node_flops(node: Node, graph: Graph) -> float:
    """Operations that running a node again takes; `NEVER` when it must not run again."""
    weight = elementwise_weight(node.primitive)
    if weight is not None and node.rerunnable:
        return weight * graph.avals[node.outputs[0]].size
    if not node.rerunnable or lookup(node.primitive) is None:
        return NEVER
    operands = [graph.avals[v] if isinstance(v, int) else v.aval for v in node.operands]
    return primitive_flops(node.primitive, operands, [graph.avals[v] for v in node.outputs], node.params)


@cache
def elementwise_weight(primitive: Any) -> float | None:
    """Operations for each element of the result, of primitives for which that is all; None for others."""
    rule, name = lookup(primitive), str(primitive)
    if rule is None or rule.dear or rule.kind is MapClass.HIGHER_ORDER or primitive.multiple_results:
        return None
    if name.startswith((*_COLLECTIVE, *_REDUCING)):
        return None
    return FLOPS_OF_TRANSCENDENTAL if name in TRANSCENDENTAL else 1.0


def primitive_flops(primitive: Any, operands: list[Any], outputs: list[Any], params: dict[str, Any]) -> float:
    """Operations of one primitive; `NEVER` for effects and collectives."""
    name = str(primitive)
    if name.startswith(_COLLECTIVE):
        return NEVER
    out_size = sum(getattr(aval, "size", 0) for aval in outputs)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2.0 * out_size * math.prod(operands[0].shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        features = operands[1].shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * out_size * operands[1].size / max(1, features)
    programs = list(jaxprs_in_params(params))
    if programs:
        return _repetitions(name, params) * sum(map(program_flops, programs))
    if is_dear(primitive, params):  # linear algebra and sorting: an axis more than the result has
        largest = max((aval.size for aval in operands if hasattr(aval, "size")), default=out_size)
        return 2.0 * max(largest, out_size) * max((max(aval.shape, default=1) for aval in operands
                                                   if hasattr(aval, "shape")), default=1)
    if name.startswith(_REDUCING):
        return float(max((aval.size for aval in operands if hasattr(aval, "size")), default=out_size))
    return out_size * (FLOPS_OF_TRANSCENDENTAL if name in TRANSCENDENTAL else 1.0)


def _repetitions(name: str, params: dict[str, Any]) -> int:
    return params["length"] if name == "scan" else ASSUMED_ITERATIONS if name == "while" else 1


def program_flops(jaxpr: Any) -> float:
    """Operations of a program; `NEVER` when it has effects."""
    if jaxpr.effects:
        return NEVER
    return sum(primitive_flops(eqn.primitive, [v.aval for v in eqn.invars], [v.aval for v in eqn.outvars], eqn.params)
               for eqn in jaxpr.eqns)


def runs_loop(node: Node) -> bool:
    """Whether a node is a loop, or runs a program that has one."""
    pending: list[tuple[str, Any]] = [(str(node.primitive), node.params)]
    while pending:
        name, params = pending.pop()
        if name in ("scan", "while"):
            return True
        pending.extend((str(eqn.primitive), eqn.params) for jaxpr in jaxprs_in_params(params) for eqn in jaxpr.eqns)
    return False


def node_is_dear(node: Node) -> bool:
    """True when running a node again costs more than keeping its outputs: contractions, loops, effects."""
    if node.rerunnable and elementwise_weight(node.primitive) is not None:
        return False
    return not node.rerunnable or is_dear(node.primitive, node.params)


def is_dear(primitive: Any, params: dict[str, Any]) -> bool:
    """Whether a primitive, or one in the programs among its params, is registered as dear or has effects."""
    pending = [(primitive, params)]
    while pending:
        primitive, params = pending.pop()
        rule = lookup(primitive)
        if rule is None or rule.dear:
            return True
        for jaxpr in jaxprs_in_params(params):
            if jaxpr.effects:
                return True
            pending.extend((eqn.primitive, eqn.params) for eqn in jaxpr.eqns)
    return False
