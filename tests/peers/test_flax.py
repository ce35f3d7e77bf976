"""Flax's layers and models: funcgrad's derivatives equal JAX's, element by element."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import funcgrad
from funcgrad.crosscheck.substitute import substitute
from reference.flax_models import MODELS, build
from tests.harness.compare import Mismatch
from tests.peers.agreement import assert_agrees, weighted_sum

Rngs = nnx.Rngs
VECTORS, IMAGES, SEQUENCES, TOKENS = (3, 4), (2, 6, 6, 4), (2, 5, 4), (2, 3)


def inputs(shape: tuple[int, ...]) -> jax.Array:
    """Numbers away from the kinks of relu and from ties."""
    return jnp.asarray(np.random.default_rng(5).standard_normal(shape), dtype=jnp.float32)


#: A layer's name in the test: how it is made, and the shape of its inputs.
LAYERS: dict[str, tuple[Callable[[Rngs], Any], tuple[int, ...]]] = {
    "Linear": (lambda r: nnx.Linear(4, 3, rngs=r), VECTORS),
    "Linear without bias": (lambda r: nnx.Linear(4, 3, use_bias=False, rngs=r), SEQUENCES),
    "LinearGeneral": (lambda r: nnx.LinearGeneral((5, 4), (2, 3), axis=(-2, -1), rngs=r), SEQUENCES),
    "Einsum": (lambda r: nnx.Einsum("bsd,dhk->bshk", (4, 2, 3), (2, 3), rngs=r), SEQUENCES),
    "LoRA": (lambda r: nnx.LoRALinear(4, 3, lora_rank=2, b_initializer=nnx.initializers.normal(), rngs=r), VECTORS),
    "LoRA alone": (lambda r: nnx.LoRA(4, 2, 3, b_initializer=nnx.initializers.normal(), rngs=r), VECTORS),
    "PReLU": (lambda r: nnx.Sequential(nnx.Linear(4, 3, rngs=r), nnx.PReLU()), VECTORS),
    "Conv": (lambda r: nnx.Conv(4, 3, (3, 3), rngs=r), IMAGES),
    "Conv strides": (lambda r: nnx.Conv(4, 3, (3, 2), strides=(2, 1), padding="VALID", rngs=r), IMAGES),
    "Conv groups": (lambda r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r), IMAGES),
    "Conv depthwise": (lambda r: nnx.Conv(4, 8, (3, 3), feature_group_count=4, strides=2, rngs=r), IMAGES),
    "Conv dilations": (lambda r: nnx.Conv(4, 2, (2, 2), kernel_dilation=2, input_dilation=2,
                                         padding=((1, 0), (0, 2)), rngs=r), IMAGES),
    "Conv circular": (lambda r: nnx.Conv(4, 2, (3, 3), padding="CIRCULAR", rngs=r), IMAGES),
    "Conv causal": (lambda r: nnx.Conv(4, 2, (3,), padding="CAUSAL", rngs=r), SEQUENCES),
    "ConvTranspose": (lambda r: nnx.ConvTranspose(4, 2, (3, 3), strides=2, rngs=r), IMAGES),
    "ConvTranspose valid": (lambda r: nnx.ConvTranspose(4, 2, (3, 2), strides=(2, 1), padding="VALID",
                                                         transpose_kernel=False, rngs=r), IMAGES),
    "BatchNorm": (lambda r: nnx.BatchNorm(4, rngs=r), IMAGES),
    "BatchNorm in use": (lambda r: nnx.BatchNorm(4, use_running_average=True, rngs=r), IMAGES),
    "LayerNorm": (lambda r: nnx.LayerNorm(4, rngs=r), SEQUENCES),
    "RMSNorm": (lambda r: nnx.RMSNorm(4, rngs=r), SEQUENCES),
    "GroupNorm": (lambda r: nnx.GroupNorm(4, num_groups=2, rngs=r), IMAGES),
    "InstanceNorm": (lambda r: nnx.InstanceNorm(4, rngs=r), IMAGES),
    "WeightNorm": (lambda r: nnx.WeightNorm(nnx.Linear(4, 3, rngs=r), rngs=r), VECTORS),
    "SpectralNorm": (lambda r: nnx.SpectralNorm(nnx.Linear(4, 3, rngs=r), n_steps=2, rngs=r), VECTORS),
    "MultiHeadAttention": (lambda r: nnx.MultiHeadAttention(2, 4, decode=False, rngs=r), SEQUENCES),
    "MultiHeadAttention with norms": (lambda r: nnx.MultiHeadAttention(2, 4, qkv_features=8, normalize_qk=True,
                                                                        decode=False, rngs=r), SEQUENCES),
    "LSTMCell": (lambda r: nnx.RNN(nnx.LSTMCell(4, 3, rngs=r), rngs=r), SEQUENCES),
    "OptimizedLSTMCell": (lambda r: nnx.RNN(nnx.OptimizedLSTMCell(4, 3, rngs=r), rngs=r, reverse=True), SEQUENCES),
    "GRUCell": (lambda r: nnx.RNN(nnx.GRUCell(4, 3, rngs=r), rngs=r, unroll=2), SEQUENCES),
    "SimpleCell": (lambda r: nnx.RNN(nnx.SimpleCell(4, 3, rngs=r), rngs=r), SEQUENCES),
    "Bidirectional": (lambda r: nnx.Bidirectional(nnx.RNN(nnx.GRUCell(4, 3, rngs=r), rngs=r),
                                                  nnx.RNN(nnx.SimpleCell(4, 3, rngs=r), rngs=r)), SEQUENCES),
    "Embed": (lambda r: nnx.Embed(7, 4, rngs=r), TOKENS),
    "Dropout": (lambda r: nnx.Sequential(nnx.Linear(4, 8, rngs=r), nnx.Dropout(0.5, rngs=r)), VECTORS),
    "Dropout, broadcast": (lambda r: nnx.Sequential(nnx.Linear(4, 8, rngs=r),
                                                    nnx.Dropout(0.5, broadcast_dims=(0,), rngs=r)), IMAGES),
    "activations": (lambda r: nnx.Sequential(
        nnx.Linear(4, 4, rngs=r), nnx.relu, nnx.Linear(4, 4, rngs=r), nnx.gelu, nnx.silu, nnx.elu, nnx.softplus,
        nnx.leaky_relu, nnx.celu, nnx.selu, nnx.hard_tanh, nnx.log_softmax, nnx.glu), VECTORS),
    "more activations": (lambda r: nnx.Sequential(
        nnx.Linear(4, 4, rngs=r), nnx.tanh, nnx.Linear(4, 4, rngs=r), nnx.relu6, nnx.sigmoid, nnx.hard_sigmoid,
        nnx.standardize, nnx.hard_silu, nnx.soft_sign, nnx.log_sigmoid, nnx.softmax), VECTORS),
    "pooling": (lambda r: nnx.Sequential(
        nnx.Conv(4, 3, (2, 2), rngs=r), lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)),
        lambda x: nnx.avg_pool(x, (2, 2), padding="SAME", count_include_pad=False),
        lambda x: nnx.min_pool(x, (2, 1))), IMAGES),
}
#: Layers of which the second order is compared too.
SECOND = ("Linear", "Conv groups", "ConvTranspose", "BatchNorm", "RMSNorm", "MultiHeadAttention", "GRUCell")
#: Layers that run in every `make test`: one of each kind.
QUICK = ("Linear", "Conv groups", "ConvTranspose", "BatchNorm", "LayerNorm", "GRUCell", "Embed", "Dropout")


def functional(name: str) -> tuple[Callable[[Any], jax.Array], Any]:
    """A layer as a loss of (parameters, inputs): every stochastic layer draws the same numbers each time."""
    make, shape = LAYERS[name]
    graph, params, rest = nnx.split(make(Rngs(0)), nnx.Param, ...)
    x = jnp.arange(6).reshape(shape) % 7 if shape is TOKENS else inputs(shape)

    def loss(point: Any) -> jax.Array:
        params, x = point
        return weighted_sum(nnx.merge(graph, params, rest, copy=True)(x))

    return (lambda params: loss((params, x)), params) if shape is TOKENS else (loss, (params, x))


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in LAYERS])
def test_layer(name: str) -> None:
    assert_agrees(*functional(name), order=2 if name in SECOND else 1)


def test_every_layer_of_the_library_is_here() -> None:
    containers = {"Module", "RNNCellBase", "Dict", "List"}
    layers = {name for name, kind in vars(nnx).items() if inspect.isclass(kind) and issubclass(kind, nnx.Module)}
    source = Path(__file__).read_text()
    assert {name for name in layers - containers if f"nnx.{name}(" not in source} == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    loss, params, batch = build(name, jax.random.key(0))
    assert_agrees(lambda params: loss(params, batch), params, order=2 if name in ("two_layer", "cnn") else 1)


def test_a_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(fun: Any) -> Any:
        def run(params: Any) -> Any:
            value, gradient = jax.value_and_grad(fun)(params)
            return value, jax.tree.map(lambda ct: ct * (1 + 1e-5), gradient)

        return run

    monkeypatch.setattr(funcgrad, "value_and_grad", wrong)
    with pytest.raises(Mismatch):
        assert_agrees(*functional("Linear"))


def trained(steps: int = 3) -> Any:
    """Parameters and statistics after a few steps with Flax's own gradient, jitted, the module changed in place."""
    rngs = Rngs(0, dropout=1)
    model = nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs), nnx.relu,
                           nnx.Dropout(0.25, rngs=rngs), nnx.Linear(6, 2, rngs=rngs))
    x = inputs((8, 4))

    @nnx.jit
    def step(model: Any) -> jax.Array:
        loss, gradient = nnx.value_and_grad(lambda model: jnp.mean(model(x) ** 2))(model)
        nnx.update(model, jax.tree.map(lambda p, ct: p - 0.1 * ct, nnx.state(model, nnx.Param), gradient))
        return loss

    losses = [step(model) for _ in range(steps)]
    return losses, nnx.to_pure_dict(nnx.state(model, nnx.Param)), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def test_flax_differentiates_with_what_jax_offers() -> None:
    wanted = trained()
    with substitute("swap") as record:
        found = trained()
    assert record.figures.taken > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


def test_flax_gradient_of_chosen_parameters() -> None:
    model = nnx.Linear(4, 2, rngs=Rngs(0))
    x = inputs(VECTORS)

    def gradient() -> Any:
        biases = nnx.DiffState(0, nnx.All(nnx.Param, nnx.PathContains("bias")))
        return nnx.grad(lambda model: jnp.sum(jnp.tanh(model(x))), argnums=biases)(model)

    wanted = gradient()
    with substitute("swap") as record:
        found = gradient()
    assert record.figures.taken > 0
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
