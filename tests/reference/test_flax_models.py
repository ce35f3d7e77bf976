"""The reference models: pure, differentiable, trainable, and the same whether scanned or unrolled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from reference import finite_difference, scalar_tape
from reference.flax_models import (
    MODELS,
    TwoLayerClassifier,
    build,
    create,
    scanned_transformer,
    unrolled_transformer,
)

SMALL = {"layers": 2, "width": 16, "heads": 2, "batch": 2, "tokens": 8}


@functools.cache
def built(name):
    """Initializing a model eagerly costs seconds, and nothing here changes one."""
    return build(name, jax.random.key(0))


def widened(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=np.shape(leaf)), tree)


def inner(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return sum(float(np.sum(np.asarray(a) * np.asarray(b))) for a, b in pairs)


def assert_slope_is_that_of_finite_differences(loss, params, batch):
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss))(widened(params), widened(batch))
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(gradient))
    direction = random_like(params, seed=1)
    value, error = finite_difference.directional_derivative(jax.jit(loss), params, direction, batch)
    assert abs(value - inner(gradient, direction)) <= error < 1e-4 * max(1.0, abs(value))


@pytest.mark.parametrize("name", [name if name == "two_layer" else pytest.param(
    name, marks=pytest.mark.slow) for name in MODELS])
def test_gradient_has_the_structure_of_params_and_the_slope_of_finite_differences(name):
    loss, params, batch = built(name)
    gradient = jax.jit(jax.grad(loss))(params, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), gradient) == jax.tree.map(
        lambda leaf: (leaf.shape, jnp.dtype(jnp.float32)), params
    )
    # No parameter is out of reach. (The keys' bias shifts all scores of a query alike: its gradient is 0.)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        name_of_leaf = jax.tree_util.keystr(path)
        assert np.any(leaf != 0.0) or name_of_leaf.endswith("['key']['bias']"), name_of_leaf
    assert_slope_is_that_of_finite_differences(loss, params, batch)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "transformer_block" else name
                                  for name in MODELS])
def test_models_train(name):
    loss, params, batch = built(name)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    first = loss(params, batch)
    for _k in range(150):
        params, state, value = step(params, state)
    assert value < 0.6 * first


@pytest.mark.parametrize("name", MODELS)
def test_build_is_deterministic_and_agrees_with_the_module(name):
    loss, params, batch = built(name)
    model, inputs, labels = create(name, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, batch, (inputs, labels))
    jax.tree.map(np.testing.assert_array_equal, params, nnx.to_pure_dict(nnx.state(model)))
    entropy = optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels)
    np.testing.assert_allclose(loss(params, batch), jnp.mean(entropy), rtol=1e-6)
    # A model holds parameters only, so the loss function forgets nothing; Flax's own State does as well as dicts.
    _graph, state, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    gradient = jax.jit(jax.grad(loss))
    through_state = nnx.to_pure_dict(gradient(state, batch))
    jax.tree.map(np.testing.assert_array_equal, through_state, gradient(params, batch))


def test_unknown_model_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="no model 'gpt'; there are two_layer, cnn, lstm, transformer_block"):
        build("gpt", jax.random.key(0))


def test_two_layer_classifier_is_its_formula_and_agrees_with_the_tape():
    loss, params, (x, labels) = built("two_layer")
    hidden, output = params["hidden"], params["output"]
    h = np.maximum(np.asarray(x) @ hidden["kernel"] + hidden["bias"], 0.0)
    model, _x, _labels = create("two_layer", jax.random.key(0))
    assert isinstance(model, TwoLayerClassifier)
    np.testing.assert_allclose(model(x), h @ output["kernel"] + output["bias"], rtol=1e-5, atol=1e-6)

    def tape_loss(params):
        total = 0.0
        for point, label in zip(np.float64(x).tolist(), labels.tolist(), strict=True):
            for name in ("hidden", "output"):
                kernel, bias = params[name]["kernel"], params[name]["bias"]
                columns = [[row[j] for row in kernel] for j in range(len(bias))]
                point = [
                    sum([p * w for p, w in zip(point, column, strict=True)]) + b
                    for column, b in zip(columns, bias, strict=True)
                ]
                point = [scalar_tape.relu(h) for h in point] if name == "hidden" else point
            total = total + scalar_tape.log(sum([scalar_tape.exp(z) for z in point])) - point[label]
        return total / len(labels)

    numbers = jax.tree.map(lambda leaf: np.float64(leaf).tolist(), params)
    value, gradient = scalar_tape.value_and_grad(tape_loss)(numbers)
    with jax.enable_x64(True):
        want_value, want = jax.value_and_grad(loss)(widened(params), widened((x, labels)))
    np.testing.assert_allclose(value, want_value, rtol=1e-12)
    for name in params:
        for leaf in params[name]:
            np.testing.assert_allclose(gradient[name][leaf], want[name][leaf], rtol=1e-11, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("policy, causal", [(None, False), ("dots_saveable", True)])
def test_scanned_and_unrolled_transformer_are_the_same_network(policy, causal):
    options = {**SMALL, "causal": causal, "remat_policy": policy and getattr(jax.checkpoint_policies, policy)}
    loss, stacked, batch = scanned_transformer(**options)
    unrolled_loss, layers, unrolled_batch = unrolled_transformer(**options)
    value, gradient = jax.jit(jax.value_and_grad(loss))(stacked, batch)
    unrolled_value, unrolled = jax.jit(jax.value_and_grad(unrolled_loss))(layers, unrolled_batch)
    np.testing.assert_allclose(value, unrolled_value, rtol=1e-5)
    restacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *unrolled)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6), gradient, restacked)


def test_scanned_transformer_has_the_slope_of_finite_differences():
    loss, params, batch = scanned_transformer(**SMALL, causal=True, key=jax.random.key(7))
    assert_slope_is_that_of_finite_differences(loss, params, batch)


@pytest.mark.parametrize("causal", [False, True])
def test_causal_attention_does_not_look_ahead(causal):
    loss, params, (x, target) = scanned_transformer(**SMALL, causal=causal)

    def first_output(x):
        # d loss / d target is proportional to output - target, so at position 0 it reads the output there.
        return jax.grad(lambda target: loss(params, (x, target)))(target)[:, 0]

    later_inputs_moved = x.at[:, 1:].add(jax.random.normal(jax.random.key(1), x[:, 1:].shape))
    assert np.allclose(first_output(x), first_output(later_inputs_moved), atol=1e-7) == causal


@pytest.mark.slow
def test_checkpoint_policies_save_memory_under_scan():
    sizes = {}
    for policy in (None, jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.nothing_saveable):
        loss, params, batch = scanned_transformer(4, 32, 4, batch=2, tokens=64, remat_policy=policy)
        analysis = jax.jit(jax.grad(loss)).lower(params, batch).compile().memory_analysis()
        if analysis is None:
            pytest.skip("this platform reports no memory analysis")
        sizes[policy] = analysis.temp_size_in_bytes
    everything, dots, nothing = sizes.values()
    assert nothing < dots < 0.7 * everything
