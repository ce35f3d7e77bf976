"""The planner: the cut is minimal, what is free is not copied, and the figures of the scanned transformer hold."""

from __future__ import annotations

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.graph import Graph
from funcgrad.planning import Plan, backward_nodes, is_dear, make_plan, node_reads, value_bytes
from funcgrad.vjp import record
from reference.flax_models import scanned_transformer

UNARY = (jnp.sin, jnp.exp, jnp.tanh, lambda x: x * x, lambda x: x + 1.0, jnp.cumsum)
BINARY = (jnp.add, jnp.multiply, jnp.maximum, lambda x, y: jnp.where(x > y, x, y), lambda x, y: x[:2].sum() * y)


def random_graph(seed: int) -> Graph:
    """The graph of a small random program with values of several sizes."""
    rng = random.Random(seed)

    def program(x, y):
        values = [x, y]
        for _ in range(5):
            if rng.random() < 0.5:
                values.append(rng.choice(UNARY)(rng.choice(values)))
            else:
                values.append(rng.choice(BINARY)(rng.choice(values), rng.choice(values)))
        return sum(jnp.sum(value) for value in values[2:])

    return record(program, [jnp.arange(4.0), jnp.arange(4.0) + 1]).graph


def needed_values(graph: Graph) -> set[int]:
    """What the backward sweep reads."""
    return {value for index in backward_nodes(graph) for value in node_reads(graph.nodes[index])}


def computable(graph: Graph, saved: set[int]) -> set[int]:
    """All values that can be computed from `saved` without running a dear node."""
    have = set(saved)
    for node in graph.nodes:
        if not is_dear(node) and all(v in have for v in node.operands if isinstance(v, int)):
            have.update(node.outputs)
    return have


def cheapest(graph: Graph) -> int:
    """Bytes of the cheapest set of values that suffices, by trying all sets among the candidates."""
    needed = needed_values(graph)
    candidates = sorted({v for v in range(len(graph.avals))})
    best = sum(value_bytes(graph.avals[v]) for v in needed)
    for count in range(len(needed) + 1):
        for saved in itertools.combinations(candidates, count):
            size = sum(value_bytes(graph.avals[v]) for v in saved)
            if size < best and needed <= computable(graph, set(saved)):
                best = size
    return best


def plan_bytes(graph: Graph, plan: Plan) -> int:
    return sum(value_bytes(graph.avals[v]) for v in plan.saved)


@pytest.mark.parametrize("seed", range(12))
def test_the_cut_is_the_cheapest_of_all_sets(seed: int) -> None:
    graph = random_graph(seed)
    if len(needed_values(graph)) > 5:
        graph = record(lambda x: jnp.sum(jnp.exp(jnp.sin(x)) * x[:2].sum()), [jnp.arange(4.0)]).graph
    plan = make_plan(graph)
    assert needed_values(graph) <= computable(graph, set(plan.saved))
    assert plan_bytes(graph, plan) == cheapest(graph)


def test_everything_saves_what_rules_read_and_recomputes_nothing() -> None:
    graph = random_graph(3)
    plan = make_plan(graph, "everything")
    assert set(plan.saved) == needed_values(graph) and plan.recomputed == ()


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown policy 'best'"):
        funcgrad.vjp(jnp.sin, 1.0, policy="best")


@pytest.mark.parametrize("policy", ["everything", "minimal", jax.checkpoint_policies.dots_saveable])
def test_policies_change_what_is_kept_and_not_the_result(policy) -> None:
    def fun(x, w):
        return jnp.sum(jnp.tanh(jnp.sin(x) @ w) ** 2)

    x, w = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), jnp.linspace(0.0, 1.0, 20).reshape(4, 5)
    out, pullback = funcgrad.vjp(fun, x, w, policy=policy)
    expected, reference = jax.vjp(fun, x, w)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    for ct, wanted in zip(pullback(1.0), reference(1.0), strict=True):
        np.testing.assert_allclose(ct, wanted, rtol=1e-5, atol=1e-7)


def test_inputs_and_loop_invariant_values_are_not_stacked() -> None:
    """The residuals of a loop over a weight matrix hold that matrix once, and one carry for each step."""

    def fun(w, x):
        return lax.scan(lambda carry, row: (jnp.tanh(carry @ jnp.exp(w)) + row, None), x, jnp.ones((7, 4)))[0]

    _, pullback = funcgrad.vjp(fun, jnp.ones((4, 4)), jnp.ones(4))
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(pullback))
    assert (7, 4, 4) not in shapes, "exp(w) is the same in each step"
    assert sum(np.prod(shape) for shape in shapes) <= 4 * 4 + 2 * 7 * 4


def test_a_constant_mask_in_a_loop_is_computed_again() -> None:
    def fun(x):
        def body(carry, _):
            mask = jnp.tril(jnp.ones((16, 16), bool))
            return jnp.sum(jnp.where(mask, carry[:, None] * jnp.sin(carry), 0.0), axis=0), None

        return lax.scan(body, x, None, length=9)[0]

    _, pullback = funcgrad.vjp(fun, jnp.linspace(0.0, 1.0, 16))
    assert max((leaf.size for leaf in jax.tree.leaves(pullback)), default=0) <= 9 * 16


def test_memory_and_flops_of_the_scanned_transformer() -> None:
    """Design, section 4: with no annotation at most half the bytes of jax.grad, and no more FLOPs than dots_saveable.

    XLA counts the body of a loop once; all three programs have one forward and one backward body.
    """
    loss, params, batch = scanned_transformer()
    by_hand, _, _ = scanned_transformer(remat_policy=jax.checkpoint_policies.dots_saveable)

    def figures(gradient):
        compiled = jax.jit(gradient).lower(params, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes, compiled.cost_analysis()["flops"]

    ours, plain, checkpointed = map(figures, (funcgrad.grad(loss), jax.grad(loss), jax.grad(by_hand)))
    assert ours[0] <= 0.5 * plain[0]
    assert ours[1] <= checkpointed[1]
