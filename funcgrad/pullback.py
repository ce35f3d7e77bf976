"""Floor 4: the pullback as a pytree, and the backward sweep.

A pullback is data: its static part is a graph and a plan, its leaves are the residual arrays. So it crosses `jit`,
`scan`, `vmap` and every other boundary by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import primitives as p

from funcgrad import _compat, errors
from funcgrad.checks import check_cotangent, check_one_cotangent
from funcgrad.detours import Around, Detours
from funcgrad.graph import Graph, Literal, Node, carries_gradient
from funcgrad.pending import Pending, piece_of
from funcgrad.planning import Plan
from funcgrad.policies import given as policy_in_force
from funcgrad.registry import lookup
from funcgrad.rule import MapClass, VJPRule
from funcgrad.taps import Functions, taps_in_force
from funcgrad.tracer import UNKNOWN, GraphTracer
from funcgrad.trees import pytree, static
from funcgrad.watching import WATCHER, pulling
from funcgrad.zeros import strong_zeros, zeros_are_strong

Array = Any
Read = Callable[[int], Array]

_WHERE: Any = vars(jax)["ad"]  # a namespace that JAX makes when it is imported, which type checkers do not see


def zeros_like_aval(aval: Any) -> Array:
    """Zeros of an aval's cotangent type; float0 for integers, booleans and keys."""
    if not carries_gradient(aval):
        return np.zeros(getattr(aval, "shape", ()), _compat.float0)
    return _compat.zeros_like_aval(aval.to_ct_aval())


def materialize(ct: Array | None, aval: Any) -> Array:
    """A cotangent as the user sees it: zeros for None, a `jax.Array`, and of the primal's weak type."""
    if ct is None:
        return zeros_like_aval(aval)
    if isinstance(aval, _compat.HiType) or isinstance(ct, jax.Array) and _compat.is_weakly_typed(ct) == aval.weak_type:
        return ct
    return p.convert_element_type_p.bind(ct, new_dtype=ct.dtype, weak_type=aval.weak_type, sharding=None)


# ---- one node forward, one node backward ----


def run_node(node: Node, read: Read) -> list[Array]:
    """Run a recorded operation again; its outputs, then its hidden residuals."""
    operands = [read(v) if isinstance(v, int) else v.value for v in node.operands]
    if node.pullback is None:
        result = node.primitive.bind(*operands, **node.primitive.get_bind_params(node.params))
        return list(result) if node.primitive.multiple_results else [result]
    rule = lookup(node.primitive)
    assert rule is not None
    outputs, pullback = rule.forward(node.active, *operands, **node.params)
    leaves = jax.tree.leaves(pullback)
    hidden = dict(zip(node.pullback.leaves, leaves, strict=True))
    return [*outputs, *(hidden[v] for v in node.hidden)]


def node_cotangents(node: Node, avals: Sequence[Any], read: Read, cts: Sequence[Array | None],
                    around: Around | None = None) -> Sequence[Array | None]:
    """The backward step of one node: cotangents of its operands from those of its outputs.

    Of an operand in `around` it is the cotangent of the value that the operand was made of.
    """
    if node.pullback is not None:
        leaves = [read(v) if isinstance(v, int) else v.value for v in node.pullback.leaves]
        return jax.tree.unflatten(node.pullback.tree, leaves)(tuple(cts))
    rule = lookup(node.primitive)
    if rule is None or rule.kind in (MapClass.CONSTANT, MapClass.UNSUPPORTED):
        return [None] * len(node.operands)
    return _apply_rule(rule, node, avals, read, cts, around or {})


def _apply_rule(rule: VJPRule, node: Node, avals: Sequence[Any], read: Read, cts: Sequence[Array | None],
                around: Around) -> Sequence[Array | None]:
    reads_out, reads_operands = rule.reads(node.active)
    operands = [
        (v.value if kept else v.aval) if isinstance(v, Literal) else (read(v) if kept else avals[v])
        for v, kept in zip(node.operands, reads_operands, strict=True)
    ]
    outs = tuple(read(v) if reads_out else avals[v] for v in node.outputs)
    several = node.primitive.multiple_results
    shapes = [around[i][0] if i in around else operand for i, operand in enumerate(operands)] if around else operands
    return rule.cotangents(node.active, tuple(cts) if several else cts[0], outs if several else outs[0],
                           shapes if rule.kind is MapClass.LINEAR else operands, node.params, shapes)


def sweep(graph: Graph, read: Read, cts: Sequence[Array | None]) -> list[Array | None]:
    """The backward sweep: cotangents of a graph's inputs from those of its outputs. None is zero on both sides.

    Walks the nodes in reverse, asks the rule table, and sums where paths meet.

    Raises:
      RuleError: when a rule gives cotangents that do not fit.
    """
    if zeros_are_strong() and any(isinstance(ct, GraphTracer) and ct.value is UNKNOWN for ct in cts):
        with strong_zeros(False):  # recorded to be transposed: where cotangents have no values, none is known as zero
            return sweep(graph, read, cts)
    pending = Pending(graph.avals)
    pending.add(graph.outputs, cts)
    detours = Detours(graph)
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        # a user's cotangent of an output that reaches no input goes nowhere, as the plan assumes
        node_cts = [pending.take(v) if flag else None
                    for v, flag in zip(node.outputs, node.out_active, strict=True)]
        if not any(node.active) or all(ct is None for ct in node_cts):
            continue
        piece = piece_of(node, index, graph.avals, node_cts[0])
        if piece is not None:
            pending.place(piece)
            continue
        with _compat.in_setting(node.setting), pulling(node, index):
            operands, contributions = _step(node, index, read, node_cts, detours)
            _check(node, operands, graph, contributions)
            pending.add(operands, contributions, node.active)
    return [pending.take(v) if flag else None for v, flag in zip(graph.inputs, graph.active, strict=True)]


def _step(node: Node, index: int, read: Read, cts: Sequence[Array | None],
          detours: Detours) -> tuple[Sequence[Any], Sequence[Array | None]]:
    """What gets a cotangent when a node is pulled, by the shortest way, and the cotangents."""
    softmax = detours.softmaxes.get(index)
    if softmax is not None:
        return [softmax.operand, None], [softmax.cotangent(cts[0], read(node.outputs[0])), None]
    past = detours.past_sum(node, cts[0]) if len(node.operands) == 1 else None
    if past is not None:
        return [past[1]], [past[0]]
    around = detours.around(node)
    contributions = node_cotangents(node, detours.graph.avals, read, cts, around)
    return [around[i][1] if i in around else v for i, v in enumerate(node.operands)], contributions


def _check(node: Node, operands: Sequence[Any], graph: Graph, cts: Sequence[Array | None]) -> None:
    """Raise RuleError unless each cotangent fits its operand."""
    name = str(node.primitive)
    if len(cts) != len(node.operands):
        raise errors.wrong_count(name, len(node.operands), len(cts), node.line)
    for position, (operand, ct, flag) in enumerate(zip(operands, cts, node.active, strict=True)):
        if ct is None or not flag or not isinstance(operand, int):
            continue
        wanted, given = graph.avals[operand], _compat.typeof(ct)
        if isinstance(wanted, _compat.HiType):
            wanted = wanted.to_ct_aval()
            fits = _compat.typecompat(wanted, given)
        else:
            fits = given.shape == wanted.shape and given.dtype == wanted.dtype
        if not fits:
            raise errors.wrong_cotangent(name, position, wanted.str_short(), given.str_short(), node.line)


# ---- pullbacks ----


@pytree
class FlatPullback:
    """A graph's pullback on flat lists: ``pullback(cts) -> cotangents of the inputs``, None being zero on both sides.

    Attributes:
      graph: the recorded program (static).
      plan: what is kept and what is computed again (static).
      residuals: arrays, one for each of ``plan.saved``.
    """

    graph: Graph = static()
    plan: Plan = static()
    residuals: tuple[Array, ...]

    @property
    def out_active(self) -> tuple[bool, ...]:
        """For each output, whether it can have a cotangent."""
        return self.graph.out_active

    def __call__(self, cts: Sequence[Array | None]) -> list[Array | None]:
        values = dict(zip(self.plan.saved, self.residuals, strict=True))
        with policy_in_force(self.plan.nested):  # programs inside keep what they kept when they were recorded
            recompute(self.graph, self.plan.recomputed, values)
        return sweep(self.graph, values.__getitem__, cts)


def recompute(graph: Graph, indices: Iterable[int], values: dict[int, Array]) -> None:
    """Run nodes again, in order, and add their outputs to `values`."""
    for index in indices:
        node = graph.nodes[index]
        with _compat.in_setting(node.setting):
            results = run_node(node, values.__getitem__)
        for number, result in zip((*node.outputs, *node.hidden), results, strict=True):
            values.setdefault(number, result)


@pytree
class Pullback:
    """What ``vjp`` gives back: cotangents of the inputs from a cotangent of the output.

    A pytree: the leaves are the residual arrays, the static part compares and hashes by structure, so a jitted consumer
    of pullbacks compiles once.
    """

    flat: FlatPullback
    in_tree: Any = static()
    out_tree: Any = static()
    in_avals: tuple[Any, ...] = static()
    out_avals: tuple[Any, ...] = static()
    strong_zeros: bool = static(default=False)
    taps: Functions = static(default=())

    def __call__(self, out_ct: Any, *more: Any) -> Any:
        """Apply the transposed Jacobian.

        Args:
          out_ct: cotangent of the output, of its tree structure, shapes and dtypes (float0 for integer outputs; what
            else is given for them is not read).

        Returns:
          A tuple with one cotangent for each argument of the traced function; float0 zeros for integer leaves.

        Raises:
          TypeError: for more than one argument.
          ValueError: for another tree structure, shape or dtype than the output's.
        """
        name = self.flat.graph.name
        check_one_cotangent(name, 1 + len(more))
        leaves = check_cotangent(name, out_ct, self.out_tree, self.out_avals)
        # what a profile shows; and zeros and taps are those with which the pullback was made, wherever it is called
        with (jax.named_scope(f"pullback({name})"), strong_zeros(self.strong_zeros),
              taps_in_force(self.taps)):
            cts = self._pulled(leaves)
        full = [materialize(ct, aval) for ct, aval in zip(cts, self.in_avals, strict=True)]
        return jax.tree.unflatten(self.in_tree, full)

    def with_refs(self, *wanted: Any) -> Callable[[Any], Any]:
        """The pullback as a function that adds cotangents to mutable arrays, as that of ``jax.vjp`` has it.

        Args:
          *wanted: one for each argument of the traced function, in its tree structure. For each leaf a mutable array
            (`jax.Ref`) that its cotangent is added to, ``jax.ad.GradValue()`` to be given it, or ``jax.ad.DontWant()``;
            or what JAX hands to the ``vjp_bwd`` of a `jax.experimental.hijax` primitive to add cotangents to.

        Returns:
          A function of the cotangent. It gives what the pullback does, but ``jax.ad.GradRef()`` and
          ``jax.ad.DidntWant()`` where the cotangent went elsewhere.

        Raises:
          ValueError: for another tree structure than that of the arguments.
        """
        places, tree = jax.tree.flatten(wanted)
        if tree != self.in_tree:
            raise ValueError(f"with_refs is given {tree}, but the arguments of `{self.flat.graph.name}` are "
                             f"{self.in_tree}.\nTo fix: give one mutable array, jax.ad.GradValue() or "
                             "jax.ad.DontWant() for each leaf of the arguments.")

        def pull(out_ct: Any) -> Any:
            cts = jax.tree.leaves(self(out_ct))
            return jax.tree.unflatten(self.in_tree, list(map(_delivered, cts, places)))

        return pull

    def _pulled(self, leaves: Sequence[Array]) -> list[Array | None]:
        cts = [leaf if carries_gradient(aval) else None for leaf, aval in zip(leaves, self.out_avals, strict=True)]
        results = self.flat(cts)
        if WATCHER.value is not None:
            WATCHER.value.pulled(self.flat, self.in_tree, cts, results)
        return results


def _delivered(ct: Array, place: Any) -> Any:
    """A cotangent, or what stands for it when it is wanted elsewhere or not at all."""
    if isinstance(place, _WHERE.DontWant | _compat.NullAccum):
        return _WHERE.DidntWant()
    if isinstance(place, _compat.GradAccum):
        place.accum(ct)
        return place.freeze() if isinstance(place, _compat.ValAccum) else _WHERE.GradRef()
    if not isinstance(place, jax.Ref):
        return ct
    jax.ref.addupdate(place, ..., ct)
    return _WHERE.GradRef()
