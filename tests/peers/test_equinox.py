"""equinox's layers: funcgrad's derivatives equal JAX's, element by element."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import nn

from funcgrad.crosscheck.substitute import substitute
from tests.peers.agreement import assert_agrees, weighted_sum

Key = jax.Array
VECTOR, SEQUENCE, LINE, PICTURE, VOLUME = (4,), (5, 4), (4, 7), (4, 6, 6), (2, 4, 4, 4)


def inputs(shape: tuple[int, ...], seed: int = 5) -> jax.Array:
    """Numbers away from the kinks of relu and from ties."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype=jnp.float32)


def mapped(layer: Any) -> Callable[[jax.Array], Any]:
    """A layer of vectors over the rows of a matrix."""
    return eqx.filter_vmap(layer)


def recurrent(cell: Any, state: Callable[[], Any]) -> Callable[[jax.Array], Any]:
    """All states of a cell along a sequence."""

    def run(xs: jax.Array) -> Any:
        def step(carry: Any, x: jax.Array) -> tuple[Any, Any]:
            carry = cell(x, carry)
            return carry, carry

        return jax.lax.scan(step, state(), xs)[1]

    return run


def zeros() -> jax.Array:
    """A state of three numbers."""
    return jnp.zeros(3)


def attend(layer: Any) -> Callable[[jax.Array], Any]:
    """Causal self-attention."""
    return lambda x: layer(x, x, x, mask=jnp.tril(jnp.ones((5, 5), bool)))


def conv(kind: Any, **params: Any) -> Callable[[Key], Any]:
    """A convolution of four channels into two."""
    return lambda key: kind(**{"in_channels": 4, "out_channels": 2, **params}, key=key)


def as_is(layer: Any) -> Any:
    """A layer that is called with one array."""
    return layer


def tied(key: Key) -> nn.Shared:
    """A matrix that is there once and used twice."""
    two = nn.Sequential([nn.Linear(4, 4, key=key), nn.Lambda(jnp.tanh), nn.Linear(4, 4, key=jax.random.key(1))])
    return nn.Shared(two, lambda layers: layers[0].weight, lambda layers: layers[2].weight)


def called_shared(shared: nn.Shared) -> Callable[[jax.Array], Any]:
    """The layers with the matrix in both places."""
    return mapped(shared())


#: A layer's name in the test: how it is made, how it is called, and the shape of its inputs.
LAYERS: dict[str, tuple[Callable[[Key], Any], Callable[[Any], Callable[[jax.Array], Any]], tuple[int, ...]]] = {
    "Linear": (lambda key: nn.Linear(4, 3, key=key), mapped, SEQUENCE),
    "MLP": (lambda key: nn.MLP(4, 3, width_size=6, depth=2, activation=jax.nn.gelu, key=key), mapped, SEQUENCE),
    "Conv1d": (conv(nn.Conv1d, kernel_size=3, padding=1), as_is, LINE),
    "Conv1d stride": (conv(nn.Conv1d, kernel_size=3, stride=2, dilation=2), as_is, LINE),
    "Conv2d": (conv(nn.Conv2d, kernel_size=3, padding="SAME"), as_is, PICTURE),
    "Conv2d groups": (conv(nn.Conv2d, kernel_size=(2, 3), groups=2, stride=(2, 1)), as_is, PICTURE),
    "Conv2d circular": (conv(nn.Conv2d, kernel_size=3, padding=1, padding_mode="CIRCULAR"), as_is, PICTURE),
    "Conv2d reflect": (conv(nn.Conv2d, kernel_size=3, padding=1, padding_mode="REFLECT"), as_is, PICTURE),
    "Conv3d": (conv(nn.Conv3d, in_channels=2, kernel_size=2), as_is, VOLUME),
    "ConvTranspose1d": (conv(nn.ConvTranspose1d, kernel_size=3, stride=2), as_is, LINE),
    "ConvTranspose2d": (conv(nn.ConvTranspose2d, kernel_size=3, stride=2, output_padding=1, groups=2), as_is, PICTURE),
    "ConvTranspose2d same": (conv(nn.ConvTranspose2d, kernel_size=(2, 3), padding="SAME"), as_is, PICTURE),
    "LayerNorm": (lambda key: nn.LayerNorm(4), mapped, SEQUENCE),
    "RMSNorm": (lambda key: nn.RMSNorm(4), mapped, SEQUENCE),
    "GroupNorm": (lambda key: nn.GroupNorm(groups=2, channels=4), as_is, PICTURE),
    "WeightNorm": (lambda key: nn.WeightNorm(nn.Linear(4, 3, key=key)), mapped, SEQUENCE),
    "MultiheadAttention": (lambda key: nn.MultiheadAttention(2, 4, key=key), attend, SEQUENCE),
    "MultiheadAttention with biases": (
        lambda key: nn.MultiheadAttention(2, 4, output_size=3, use_query_bias=True, use_key_bias=True,
                                          use_value_bias=True, use_output_bias=True, key=key), attend, SEQUENCE),
    "GRUCell": (lambda key: nn.GRUCell(4, 3, key=key), lambda cell: recurrent(cell, zeros), SEQUENCE),
    "LSTMCell": (lambda key: nn.LSTMCell(4, 3, key=key),
                 lambda cell: recurrent(cell, lambda: (zeros(), zeros())), SEQUENCE),
    "Embedding": (lambda key: nn.Embedding(7, 4, key=key), lambda layer: jax.vmap(layer), (3,)),
    "RotaryPositionalEmbedding": (
        lambda key: nn.RotaryPositionalEmbedding(4), lambda layer: layer, SEQUENCE),
    "PReLU": (lambda key: nn.PReLU(0.2), as_is, SEQUENCE),
    "Dropout": (lambda key: nn.Dropout(0.4), lambda layer: lambda x: layer(x, key=jax.random.key(2)), SEQUENCE),
    "MaxPool1d": (lambda key: nn.MaxPool1d(3, stride=2, padding=1), as_is, LINE),
    "MaxPool2d": (lambda key: nn.MaxPool2d(3, stride=2, padding=1, use_ceil=True), as_is, PICTURE),
    "AvgPool2d": (lambda key: nn.AvgPool2d(2, stride=1), as_is, PICTURE),
    "AvgPool3d": (lambda key: nn.AvgPool3d(2), as_is, VOLUME),
    "AdaptiveAvgPool2d": (lambda key: nn.AdaptiveAvgPool2d((4, 3)), as_is, PICTURE),
    "ConvTranspose3d": (conv(nn.ConvTranspose3d, in_channels=2, kernel_size=2, stride=2), as_is, VOLUME),
    "Conv": (conv(nn.Conv, num_spatial_dims=2, kernel_size=2), as_is, PICTURE),
    "ConvTranspose": (conv(nn.ConvTranspose, num_spatial_dims=1, kernel_size=2), as_is, LINE),
    "AvgPool1d": (lambda key: nn.AvgPool1d(3, padding=1), as_is, LINE),
    "MaxPool3d": (lambda key: nn.MaxPool3d(2), as_is, VOLUME),
    "Pool": (lambda key: nn.Pool(0.0, jax.lax.add, num_spatial_dims=1, kernel_size=2), as_is, LINE),
    "AdaptiveAvgPool1d": (lambda key: nn.AdaptiveAvgPool1d(3), as_is, LINE),
    "AdaptiveAvgPool3d": (lambda key: nn.AdaptiveAvgPool3d(2), as_is, VOLUME),
    "AdaptiveMaxPool1d": (lambda key: nn.AdaptiveMaxPool1d(3), as_is, LINE),
    "AdaptiveMaxPool3d": (lambda key: nn.AdaptiveMaxPool3d((2, 1, 3)), as_is, VOLUME),
    "AdaptivePool": (lambda key: nn.AdaptivePool(3, num_spatial_dims=1, operation=jnp.max), as_is, LINE),
    "Identity and Lambda": (lambda key: nn.Sequential(
        [nn.Linear(4, 4, key=key), nn.Identity(), nn.Lambda(jax.nn.gelu)]), mapped, SEQUENCE),
    "Shared": (tied, called_shared, SEQUENCE),
    "AdaptiveMaxPool2d": (lambda key: nn.AdaptiveMaxPool2d(4), as_is, PICTURE),
}
#: Layers of which the second order is compared too.
SECOND = ("MLP", "Conv2d groups", "ConvTranspose1d", "LayerNorm", "MultiheadAttention", "GRUCell")
#: Layers that run in every `make test`: one of each kind.
QUICK = ("MLP", "Conv2d groups", "ConvTranspose2d", "GroupNorm", "MultiheadAttention", "Embedding", "MaxPool2d")


def functional(name: str) -> tuple[Callable[[Any], jax.Array], Any]:
    """A layer as a loss of (arrays of the layer, inputs)."""
    make, called, shape = LAYERS[name]
    arrays, rest = eqx.partition(make(jax.random.key(0)), eqx.is_inexact_array)
    if name == "Embedding":
        tokens = jnp.arange(*shape) * 3 % 7
        return lambda arrays: weighted_sum(called(eqx.combine(arrays, rest))(tokens)), arrays
    return lambda point: weighted_sum(called(eqx.combine(point[0], rest))(point[1])), (arrays, inputs(shape))


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in LAYERS])
def test_layer(name: str) -> None:
    assert_agrees(*functional(name), order=2 if name in SECOND else 1)


def test_every_layer_of_the_library_is_here() -> None:
    helpers = {"State", "StateIndex", "StatefulLayer"}
    layers = {name for name, kind in vars(nn).items() if inspect.isclass(kind)}
    source = Path(__file__).read_text()
    assert {name for name in layers - helpers if not re.search(rf"\bnn\.{name}[(,]", source)} == set()


def batch_norm_and_spectral_norm() -> tuple[Callable[[Any], jax.Array], Any]:
    """Layers whose statistics travel beside them, in training, over a named axis."""
    make = lambda: nn.Sequential([  # noqa: E731
        nn.SpectralNorm(nn.Linear(4, 3, key=jax.random.key(0)), weight_name="weight", key=jax.random.key(1)),
        nn.BatchNorm(3, axis_name="batch", mode="batch")])
    model, state = nn.make_with_state(make)()
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def loss(point: Any) -> jax.Array:
        arrays, x = point
        run = jax.vmap(eqx.combine(arrays, rest), axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return weighted_sum(run(x, state)[0])

    return loss, (arrays, inputs(SEQUENCE))


@pytest.mark.slow
def test_layers_with_state() -> None:
    assert_agrees(*batch_norm_and_spectral_norm())


def test_filter_value_and_grad_with_the_swap() -> None:
    model = nn.MLP(4, "scalar", width_size=6, depth=1, activation=jnp.tanh, key=jax.random.key(0))

    @eqx.filter_value_and_grad
    def loss(model: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(model)(x) ** 2)

    wanted = eqx.filter_jit(loss)(model, inputs(SEQUENCE))
    with substitute("swap") as record:
        found = eqx.filter_jit(lambda model, x: loss(model, x))(model, inputs(SEQUENCE))
    assert record.figures.taken > 0
    assert eqx.tree_equal(jax.tree.structure(found), jax.tree.structure(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, wanted)
