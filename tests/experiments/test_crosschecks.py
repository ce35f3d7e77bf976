"""The comparison counts ulp as it says, and a gradient that is wrong is noticed, whichever leaf is wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from experiments.two_layer import crosschecks, datasets, model, runner, tape_side
from experiments.two_layer.bad_input import BadInput
from experiments.two_layer.model import Batch

OURS = funcgrad.value_and_grad(model.loss, has_aux=True)
LEAVES = [("hidden", "kernel"), ("hidden", "bias"), ("output", "kernel"), ("output", "bias")]


def leaf(*numbers):
    return {"hidden": {"kernel": np.array(numbers, np.float32)}}


def worst(ours, theirs, scale):
    (line,) = crosschecks.compare("test", ours, theirs, scale, 16.0)
    return line


def plan(**changes):
    settings = {"hidden": 6, "optimiser": "adam", "rate": 0.05, "steps": 60, "check_every": 20, "seed": 0}
    return runner.Plan(**(settings | changes))


def test_one_ulp_is_one_ulp():
    one = np.float32(1.0)
    line = worst(leaf(1.0, 3.0), leaf(np.nextafter(one, np.float32(2)), 3.0), leaf(0.0, 0.0))
    assert (line.worst_ulp, line.worst_at, line.identical, line.compared) == (1.0, "[0]", 1, 2)


def test_ulp_are_counted_at_the_size_of_the_terms():
    # 1e-3 and 2e-3 as sums of terms of size 1e5 differ by less than one rounding of a term.
    assert worst(leaf(1e-3), leaf(2e-3), leaf(1e5)).worst_ulp < 1.0
    assert not worst(leaf(1e-3), leaf(2e-3), leaf(0.0)).agrees


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_agrees(bad):
    assert not worst(leaf(bad), leaf(1.0), leaf(1.0)).agrees
    assert not worst(leaf(1.0), leaf(bad), leaf(1.0)).agrees
    assert not worst(leaf(bad), leaf(bad), leaf(1.0)).agrees


def test_shapes_and_dtypes_must_be_equal():
    ours = leaf(1.0, 2.0)
    assert not worst(ours, leaf(1.0), ours).agrees
    assert not worst(ours, jax.tree.map(lambda x: x.astype(np.float16), ours), ours).agrees


def test_merging_keeps_the_worst_and_counts_all():
    small = worst(leaf(1.0), leaf(1.0), leaf(1.0))
    large = worst(leaf(1.0), leaf(2.0), leaf(1.0))
    (merged,) = crosschecks.merge([small, large, small])
    assert merged.worst_ulp == large.worst_ulp
    assert (merged.compared, merged.identical) == (3, 2)


@pytest.mark.parametrize("scores", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_scale_bounds_the_gradient(scores):
    random = np.random.default_rng(0)
    features = jnp.asarray(random.normal(size=(40, 3)), jnp.float32)
    batch = Batch(features, jnp.asarray(random.integers(0, max(2, scores), 40)))
    parameters = model.init(jax.random.key(0), features, 5, scores)
    _value, gradient = OURS(parameters, batch)
    scale = crosschecks.gradient_scale(parameters, batch)
    for size, element in zip(jax.tree.leaves(scale), jax.tree.leaves(gradient), strict=True):
        assert np.all(np.abs(element) <= size * (1 + 1e-5))


def test_a_training_agrees_with_flax_and_with_the_tape():
    trained = runner.train(datasets.load("xor", 200, 0), plan())
    assert [check.step for check in trained.checks] == [0, 20, 40, 60]
    assert {line.subject for line in trained.agreements} == {"gradient: Flax", "parameters: Flax", "gradient: tape"}
    assert len(trained.agreements) == 3 * len(LEAVES)
    for line in trained.agreements:
        assert line.agrees, line


@pytest.mark.slow
def test_three_classes_and_a_last_chunk_of_another_length():
    trained = runner.train(datasets.load("wine", None, 1), plan(steps=50, optimiser="momentum"))
    assert [check.step for check in trained.checks] == [0, 20, 40, 50]
    assert trained.history.loss.shape == (50,)
    assert all(line.agrees for line in trained.agreements)


@pytest.mark.parametrize(("layer", "name"), LEAVES)
def test_a_gradient_wrong_by_one_part_in_a_thousand_is_noticed(layer, name):
    def wrong(parameters, batch):
        value, gradient = OURS(parameters, batch)
        spoiled = gradient[layer] | {name: gradient[layer][name] * 1.001}
        return value, gradient | {layer: spoiled}

    trained = runner.train(datasets.load("xor", 200, 0), plan(), gradient=wrong)
    noticed = {(line.subject, line.leaf) for line in trained.agreements if not line.agrees}
    assert ("gradient: Flax", f"{layer}.{name}") in noticed
    assert ("gradient: tape", f"{layer}.{name}") in noticed
    unspoiled = {f"{a}.{b}" for a, b in LEAVES} - {f"{layer}.{name}"}
    assert not any(subject.startswith("gradient") and leaf in unspoiled for subject, leaf in noticed)


@pytest.mark.parametrize("seed", range(5))
def test_the_tape_agrees_on_other_small_cases(seed):
    for line in tape_side.compare_with_tape(OURS, seed):
        assert line.agrees, line


def test_a_loss_that_becomes_nan_is_refused_with_its_step():
    with pytest.raises(BadInput, match=r"at step \d+; try a --rate smaller"):
        runner.train(datasets.load("xor", 100, 0), plan(optimiser="sgd", rate=1e30))
