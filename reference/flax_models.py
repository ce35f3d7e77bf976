"""Flax NNX models and transformers in plain functions, for tests and experiments that differentiate them.

`build(name, key)` gives `(loss, params, batch)`: `loss(params, batch)` is pure and scalar, `params` is a plain
nested dict of arrays, so any gradient function can be tried on it. `create(name, key)` gives the module itself.

    >>> loss, params, batch = build("two_layer", jax.random.key(0))
    >>> jax.tree.map(jnp.shape, params)["hidden"]
    {'bias': (8,), 'kernel': (2, 8)}
    >>> jax.tree.structure(jax.grad(loss)(params, batch)) == jax.tree.structure(params)
    True

`scanned_transformer` and `unrolled_transformer` build one and the same network, its layers under `lax.scan`
or written out, to measure memory and compile time on; both take a checkpoint policy, for comparison with
rematerialization placed by hand.
"""

import operator

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax


class TwoLayerClassifier(nnx.Module):
    """A linear model, a ReLU, a linear model: `h = relu(lin(x; w, b))`, `m(x) = lin(h; w, b)`.

    The first separates by one line per hidden unit, the ReLU folds the plane along those lines, and in the
    folded space one more separator is enough.

    >>> model = TwoLayerClassifier(2, 8, 3, rngs=nnx.Rngs(0))
    >>> model(jnp.ones((5, 2))).shape
    (5, 3)
    """

    def __init__(self, features, hidden, classes, *, rngs):
        self.hidden = nnx.Linear(features, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.hidden(x)))


class ConvolutionalClassifier(nnx.Module):
    """Two convolutions, one of them strided, max and average pooling and a group norm; images to logits."""

    def __init__(self, channels, classes, *, rngs):
        self.first = nnx.Conv(channels, 4, (3, 3), rngs=rngs)
        self.second = nnx.Conv(4, 6, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.norm = nnx.GroupNorm(6, num_groups=2, rngs=rngs)
        self.output = nnx.Linear(6, classes, rngs=rngs)

    def __call__(self, images):
        x = nnx.max_pool(nnx.relu(self.first(images)), (2, 2), strides=(2, 2))
        x = nnx.relu(self.norm(self.second(x)))
        x = nnx.avg_pool(x, (2, 2), strides=(1, 1))
        return self.output(jnp.mean(x, axis=(1, 2)))


class SequenceClassifier(nnx.Module):
    """An LSTM over time, and a linear model of its last output."""

    def __init__(self, features, width, classes, *, rngs):
        # Without a stream of its own the module holds parameters only; the carry starts from zeros.
        self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(features, width, rngs=rngs), rngs=False)
        self.output = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, sequences):
        zeros = jnp.zeros((sequences.shape[0], self.output.in_features), sequences.dtype)
        return self.output(self.lstm(sequences, initial_carry=(zeros, zeros))[:, -1])


class TransformerBlock(nnx.Module):
    """Causal self-attention and a gelu MLP, each after a layer norm and around a residual connection."""

    def __init__(self, width, heads, *, rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, keep_rngs=False, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.contract(nnx.gelu(self.expand(self.mlp_norm(x))))


class TokenClassifier(nnx.Module):
    """Embedded tokens, one transformer block, and logits for every position."""

    def __init__(self, tokens, width, heads, classes, *, rngs):
        self.embedding = nnx.Embed(tokens, width, rngs=rngs)
        self.block = TransformerBlock(width, heads, rngs=rngs)
        self.output = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, tokens):
        return self.output(self.block(self.embedding(tokens)))


def _two_layer(rngs):
    x = jax.random.normal(rngs.data(), (16, 2))
    return TwoLayerClassifier(2, 8, 3, rngs=rngs), x, jax.random.randint(rngs.data(), (16,), 0, 3)


def _cnn(rngs):
    images = jax.random.normal(rngs.data(), (3, 14, 14, 2))
    return ConvolutionalClassifier(2, 4, rngs=rngs), images, jax.random.randint(rngs.data(), (3,), 0, 4)


def _lstm(rngs):
    sequences = jax.random.normal(rngs.data(), (4, 7, 3))
    return SequenceClassifier(3, 5, 2, rngs=rngs), sequences, jax.random.randint(rngs.data(), (4,), 0, 2)


def _transformer_block(rngs):
    tokens = jax.random.randint(rngs.data(), (2, 6), 0, 11)
    return TokenClassifier(11, 8, 2, 5, rngs=rngs), tokens, jax.random.randint(rngs.data(), (2, 6), 0, 5)


MODELS = {"two_layer": _two_layer, "cnn": _cnn, "lstm": _lstm, "transformer_block": _transformer_block}


def create(name, key):
    """Make a model by name, with an example batch.

    Args:
        name: a key of `MODELS`: "two_layer", "cnn", "lstm" or "transformer_block".
        key: a JAX random key; it decides parameters and batch.
    Returns:
        The Flax module, its float32 (or int32 token) inputs, and int32 labels.
    Raises:
        ValueError: there is no model of that name.

    >>> model, x, labels = create("cnn", jax.random.key(0))
    >>> x.shape, labels.shape, model(x).shape
    ((3, 14, 14, 2), (3,), (3, 4))
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; there are {', '.join(MODELS)}")
    params_key, data_key = jax.random.split(key)
    return MODELS[name](nnx.Rngs(params=params_key, data=data_key))


def build(name, key):
    """Make a model by name, as a pure function of its parameters.

    Args:
        name, key: as for `create`.
    Returns:
        `loss(params, batch)`, the mean softmax cross-entropy; `params`, nested dicts; `batch`, (inputs, labels).
    """
    model, inputs, labels = create(name, key)
    graph, state = nnx.split(model, nnx.Param)

    def loss(params, batch):
        inputs, labels = batch
        logits = nnx.merge(graph, params)(inputs)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    return loss, nnx.to_pure_dict(state), (inputs, labels)


def scanned_transformer(
    layers=8, width=256, heads=8, *, batch=4, tokens=256, causal=False, remat_policy=None, key=None
):
    """Make a deep transformer whose layers run under `lax.scan` over stacked parameters.

    Args:
        layers, width, heads, batch, tokens: sizes; the defaults are those that memory is measured at.
        causal: a position attends to itself and earlier ones only, instead of to all.
        remat_policy: one of `jax.checkpoint_policies`; each layer is then wrapped in `jax.checkpoint`.
        key: a JAX random key; `jax.random.key(0)` by default.
    Returns:
        `loss(params, batch)`, a mean square; `params`, arrays stacked over layers; `batch`, float32
        (batch, tokens, width) of inputs and targets.

    >>> loss, params, batch = scanned_transformer(layers=2, width=8, heads=2, batch=1, tokens=4)
    >>> params["expand"].shape
    (2, 8, 32)
    """
    params, pair = _transformer_data(layers, width, batch, tokens, key)
    layer = _checkpointed(_transformer_layer(heads, causal), remat_policy, prevent_cse=False)

    def loss(params, batch):
        x, target = batch
        out, _none = lax.scan(lambda x, layer_params: (layer(layer_params, x), None), x, params)
        return jnp.mean((out - target) ** 2)

    return loss, params, pair


def unrolled_transformer(
    layers=8, width=256, heads=8, *, batch=4, tokens=256, causal=False, remat_policy=None, key=None
):
    """Make the network of `scanned_transformer` with its layers written out; `params` has one dict per layer.

    >>> loss, params, batch = unrolled_transformer(layers=2, width=8, heads=2, batch=1, tokens=4)
    >>> scanned_loss, stacked, same_batch = scanned_transformer(layers=2, width=8, heads=2, batch=1, tokens=4)
    >>> jnp.allclose(loss(params, batch), scanned_loss(stacked, same_batch))
    Array(True, dtype=bool)
    """
    stacked, pair = _transformer_data(layers, width, batch, tokens, key)
    # Under scan the loop keeps the second forward pass apart from the first; here only `prevent_cse` does.
    layer = _checkpointed(_transformer_layer(heads, causal), remat_policy, prevent_cse=True)

    def loss(params, batch):
        x, target = batch
        for layer_params in params:
            x = layer(layer_params, x)
        return jnp.mean((x - target) ** 2)

    return loss, [jax.tree.map(operator.itemgetter(k), stacked) for k in range(layers)], pair


def _checkpointed(layer, policy, prevent_cse):
    return layer if policy is None else jax.checkpoint(layer, policy=policy, prevent_cse=prevent_cse)


def _transformer_data(layers, width, batch, tokens, key):
    """Return stacked parameters, and a batch of inputs and targets."""
    shapes = {
        "query_key_value": (width, 3 * width),
        "projection": (width, width),
        "expand": (width, 4 * width),
        "contract": (4 * width, width),
    }
    keys = iter(jax.random.split(jax.random.key(0) if key is None else key, len(shapes) + 2))
    params = {}
    for name, shape in shapes.items():
        params[name] = jax.random.normal(next(keys), (layers, *shape)) / shape[0] ** 0.5
    params["expand_bias"] = jnp.zeros((layers, 4 * width))
    params["contract_bias"] = jnp.zeros((layers, width))
    for norm in ("attention_norm", "mlp_norm"):
        params[norm] = {"scale": jnp.ones((layers, width)), "bias": jnp.zeros((layers, width))}
    x, target = (jax.random.normal(next(keys), (batch, tokens, width)) for _name in ("x", "target"))
    return params, (x, target)


def _layer_norm(params, x):
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centered**2, axis=-1, keepdims=True)
    return centered * lax.rsqrt(variance + 1e-6) * params["scale"] + params["bias"]


def _attention(params, x, heads, causal):
    batch, tokens, width = x.shape
    mixed = (x @ params["query_key_value"]).reshape(batch, tokens, 3, heads, width // heads)
    query, key, value = (mixed[:, :, k] for k in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / (width // heads) ** 0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((tokens, tokens), bool)), scores, -jnp.inf)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)
    return mixed.reshape(batch, tokens, width) @ params["projection"]


def _transformer_layer(heads, causal):
    """Return `layer(params, x)`: attention and a gelu MLP, each after a layer norm and added to its input."""

    def layer(params, x):
        x = x + _attention(params, _layer_norm(params["attention_norm"], x), heads, causal)
        hidden = jax.nn.gelu(_layer_norm(params["mlp_norm"], x) @ params["expand"] + params["expand_bias"])
        return x + hidden @ params["contract"] + params["contract_bias"]

    return layer
