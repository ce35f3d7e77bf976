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
from funcgrad import cost, policies
from funcgrad.cost import value_bytes
from funcgrad.graph import Graph
from funcgrad.planning import FLOPS_PER_BYTE, OVERHEAD, Plan, _completed, backward_nodes, make_plan, node_reads
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


def plan_bytes(graph: Graph, plan: Plan) -> int:
    return sum(value_bytes(graph.avals[v]) for v in plan.saved)


def plan_cost(graph: Graph, plan: Plan, times: int) -> float:
    """Bytes kept and, in bytes, operations repeated; infinite when one of those is dear."""
    nodes = [graph.nodes[i] for i in plan.recomputed]
    if any(map(cost.node_is_dear, nodes)):
        return cost.NEVER
    flops = sum(cost.node_flops(node, graph) for node in nodes)
    return plan_bytes(graph, plan) + flops / FLOPS_PER_BYTE + len(nodes) * OVERHEAD * (times == 1)


def cheapest(graph: Graph, times: int) -> float:
    """The least cost of all plans, by trying all sets of values."""
    needed = needed_values(graph)
    best = float(sum(value_bytes(graph.avals[v]) for v in needed))
    for count in range(len(needed) + 1):
        for saved in itertools.combinations(range(len(graph.avals)), count):
            if sum(value_bytes(graph.avals[v]) for v in saved) < best:
                plan = _completed(graph, needed, set(saved))
                if set(plan.saved) <= set(saved):
                    best = min(best, plan_cost(graph, plan, times))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_cut_is_the_cheapest_of_all_sets(seed: int) -> None:
    graph = random_graph(seed)
    if len(needed_values(graph)) > 5:
        graph = record(lambda x: jnp.sum(jnp.exp(jnp.sin(x)) * x[:2].sum()), [jnp.arange(4.0)]).graph
    for times in (1, 10):  # of arrays as small as these all are kept, unless it is in each iteration of a loop
        plan = make_plan(graph, repetitions=times)
        assert plan_cost(graph, plan, times) == pytest.approx(cheapest(graph, times), rel=1e-6)


def test_everything_saves_what_rules_read_and_recomputes_nothing() -> None:
    graph = random_graph(3)
    plan = make_plan(graph, "everything")
    assert set(plan.saved) == needed_values(graph) and plan.recomputed == ()


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown policy 'best'"):
        funcgrad.vjp(jnp.sin, 1.0, policy="best")
    with pytest.raises(TypeError, match="a policy is a name, a budget or a callable, got 3"):
        funcgrad.policy(3)
    with pytest.raises(ValueError, match="a budget is a number of bytes"):
        funcgrad.budget(-1)


def test_a_factory_of_policies_that_was_not_called_is_refused() -> None:
    """Read as true, its answer would save everything."""
    with pytest.raises(TypeError, match="must be called first"):
        funcgrad.vjp(lambda x: jnp.sin(-x), 1.0, policy=jax.checkpoint_policies.save_only_these_names)


@pytest.mark.parametrize("policy", ["auto", "everything", "minimal", funcgrad.budget(20),
                                    jax.checkpoint_policies.dots_saveable])
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


# ---- budgets ----


def test_a_budget_trades_bytes_for_operations() -> None:
    """Less memory never costs fewer operations, and what is kept fits as long as anything does."""
    keys = jax.random.split(jax.random.key(0), 4)
    weights = [jax.random.normal(key, (32, 8 * 2**i)) for i, key in enumerate(keys)]

    def fun(x, *weights):
        return sum(jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w.T) ** 2) for w in weights)

    graph = record(fun, [jnp.ones((64, 32)), *weights]).graph
    free = (*graph.inputs, *graph.captured)
    least = plan_bytes_but(graph, make_plan(graph, "minimal", free), free)
    seen = []
    for limit in (0, 4_000, 16_000, 64_000, 256_000, 10**9):
        plan = make_plan(graph, funcgrad.budget(limit), free)
        kept = plan_bytes_but(graph, plan, free)
        assert kept <= max(limit, least)
        seen.append((kept, sum(cost.node_flops(graph.nodes[i], graph) for i in plan.recomputed)))
    assert seen == sorted(seen, key=lambda pair: (pair[0], -pair[1])) and len(set(seen)) >= 3
    assert make_plan(graph, funcgrad.budget(10**9), free) == make_plan(graph, "auto", free)


def plan_bytes_but(graph: Graph, plan: Plan, free: tuple[int, ...]) -> int:
    return sum(value_bytes(graph.avals[v]) for v in plan.saved if v not in free)


def looped(length: int, reverse: bool):
    """A loop with all that a loop can have: an integer carry, scanned inputs, outputs, invariant values."""

    def fun(w, x, xs):
        def body(carry, row):
            state, count = carry
            state = jnp.tanh(jnp.sin(state @ jnp.exp(w)) + row)
            return (state, count + 1), (jnp.sum(state) * count, count)

        (state, _), (sums, _) = lax.scan(body, (x, 0), xs, reverse=reverse)
        return jnp.sum(sums**2) / length**2 + jnp.sum(state)

    return fun, (jnp.eye(6) * 0.3 - 2.0, jnp.ones((2, 6)), jnp.linspace(0.0, 1.0, length * 6).reshape(length, 1, 6))


@pytest.mark.parametrize("length, reverse, limit", [
    pytest.param(100, False, 2_000, marks=pytest.mark.slow), (97, True, 2_000),
    pytest.param(64, True, 0, marks=pytest.mark.slow), (100, False, 10**6), (3, False, 0)])
def test_a_loop_in_segments_has_the_same_gradient(length: int, reverse: bool, limit: int) -> None:
    fun, args = looped(length, reverse)
    expected = jax.jit(jax.grad(fun, (0, 1, 2)))(*args)
    found = jax.jit(funcgrad.grad(fun, (0, 1, 2), policy=funcgrad.budget(limit)))(*args)
    for ct, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(ct, wanted, rtol=1e-4, atol=1e-6)


def test_a_long_loop_keeps_the_root_of_its_states() -> None:
    """2,500 states of 48 bytes; two levels of checkpoints keep 100 or so."""
    def fun(w, x):
        return jnp.sum(lax.scan(lambda y, _: (jnp.tanh(jnp.sin(y @ w)), None), x, length=2_500)[0])

    def temporary(policy):
        compiled = jax.jit(funcgrad.grad(fun, policy=policy)).lower(jnp.eye(6), jnp.ones((2, 6))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary("minimal") >= 2_500 * 48
    assert temporary(funcgrad.budget(200 * 48)) <= 0.15 * 2_500 * 48


@pytest.mark.slow
def test_segments_have_derivatives_of_second_order() -> None:
    fun, args = looped(36, False)

    def squared(gradient):
        return lambda x: jnp.sum(gradient(args[0], x, args[2]) ** 2)

    with funcgrad.policy(funcgrad.budget(500)):
        found = jax.jit(funcgrad.grad(squared(funcgrad.grad(fun, 1))))(args[1])
    np.testing.assert_allclose(found, jax.grad(squared(jax.grad(fun, 1)))(args[1]), rtol=1e-3, atol=1e-5)


def test_a_policy_in_force_when_a_pullback_was_made_holds_when_it_is_called() -> None:
    """Its loops and jitted parts run again with the residuals that they had, whatever is in force by then."""
    fun, args = looped(20, False)

    def outer(*args):
        return jnp.sin(jax.jit(fun)(*args))

    expected = jax.grad(outer, (0, 1, 2))(*args)
    with funcgrad.policy("minimal"):
        _, pullback = funcgrad.vjp(outer, *args)
    with funcgrad.policy("everything"):
        found = pullback(1.0)
    for ct, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(ct, wanted, rtol=1e-4, atol=1e-6)


def test_jit_sees_the_policy() -> None:
    """A context of JAX: a function that was traced under one policy is traced anew under another."""
    fun, args = looped(50, False)
    traces = []

    @jax.jit
    def gradient(*args):
        traces.append(policies.in_force())
        return funcgrad.grad(fun)(*args)

    for policy in ("auto", "minimal", "auto"):
        with funcgrad.policy(policy):
            gradient(*args)
    assert traces == ["auto", "minimal"]


# ---- lean programs ----


@pytest.mark.parametrize("shapes", [((5,), (3, 5)), ((5,), (2, 3, 5)), ((3, 5), (2, 3, 5)), ((1, 5), (2, 3, 5)),
                                    ((), (2, 3)), ((5,), (1, 5))])
@pytest.mark.parametrize("combine", [jnp.add, jnp.subtract, lambda x, b: b - x, jnp.multiply,
                                     lambda x, b: (x + b) * b])
def test_the_cotangent_of_a_bias_is_one_sum(shapes, combine) -> None:
    bias, x = (jnp.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape) for shape in shapes)

    def fun(x, bias):
        return jnp.sum(jnp.sin(combine(x, bias)))

    for ct, wanted in zip(funcgrad.grad(fun, (0, 1))(x, bias), jax.grad(fun, (0, 1))(x, bias), strict=True):
        np.testing.assert_allclose(ct, wanted, rtol=1e-5, atol=1e-6)
    if shapes == ((5,), (3, 5)) and combine is jnp.add:
        jaxpr = jax.make_jaxpr(funcgrad.vjp(lambda b: x + b, bias)[1])(x)
        assert [eqn.primitive.name for eqn in jaxpr.eqns] == ["reduce_sum"]


@pytest.mark.parametrize("axis", [0, 1, (0, 2), None])
def test_the_cotangent_of_a_mean_is_one_broadcast(axis) -> None:
    x = jnp.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)

    def fun(x):
        total = jnp.sum(x, axis=axis, keepdims=True)
        centered = x - total / 7
        return jnp.sum(jnp.sin(centered) * total.reshape(total.shape))

    np.testing.assert_allclose(funcgrad.grad(fun)(x), jax.grad(fun)(x), rtol=1e-5, atol=1e-6)

    def twice(x):  # the sum is read as it is, too
        total = jnp.sum(x, axis=0)
        return jnp.sum(jnp.sin(x * total[None]) + jnp.cos(total))

    np.testing.assert_allclose(funcgrad.grad(twice)(x), jax.grad(twice)(x), rtol=1e-5, atol=1e-6)
    if axis == 1:
        jaxpr = jax.make_jaxpr(funcgrad.vjp(lambda x: jnp.sum(x, axis=1, keepdims=True), x)[1])(x[:, :1])
        assert [eqn.primitive.name for eqn in jaxpr.eqns] == ["broadcast_in_dim"]
