"""The jitted workloads: models, loops and transforms as people write them, with no annotation for funcgrad."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

import funcgrad
from experiments.bench.problem import OURS, POLICIES, Problem, Program, Workload, problem
from reference.flax_models import (
    ConvolutionalClassifier,
    SequenceClassifier,
    TwoLayerClassifier,
    scanned_transformer,
    unrolled_transformer,
)

Peers = Sequence[str]


# ---- classifiers in Flax ----


def flax_problem(module: nnx.Module, inputs: jax.Array, classes: int, derive: Any = None) -> Problem:
    """Cross-entropy of a Flax model on random labels."""
    loss, params, batch = _flax_loss(module, inputs, classes)
    return problem(loss, (params, batch)) if derive is None else problem(loss, (params, batch), derive)


def _flax_loss(module: nnx.Module, inputs: jax.Array, classes: int) -> tuple[Program, Any, tuple]:
    definition, state = nnx.split(module, nnx.Param)

    def loss(params: Any, batch: Any) -> jax.Array:
        logits = nnx.merge(definition, params)(batch[0])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]))

    labels = jax.random.randint(jax.random.key(1), inputs.shape[:1], 0, classes)
    return loss, nnx.to_pure_dict(state), (inputs, labels)


def two_layer_sizes(quick: bool) -> tuple[int, int, int, int]:
    """Points, features, hidden units, classes."""
    return (256, 32, 128, 10) if quick else (2048, 64, 512, 10)


def _two_layer(quick: bool, derive: Any = None, points: int | None = None) -> Problem:
    batch, features, hidden, classes = two_layer_sizes(quick)
    x = jax.random.normal(jax.random.key(0), (points or batch, features))
    return flax_problem(TwoLayerClassifier(features, hidden, classes, rngs=nnx.Rngs(0)), x, classes, derive)


def two_layer(quick: bool, peers: Peers) -> Problem:
    """The classifier of the main job."""
    return _two_layer(quick)


def cnn(quick: bool, peers: Peers) -> Problem:
    """Two convolutions, pooling, a group norm."""
    images = jax.random.normal(jax.random.key(0), (8, 16, 16, 3) if quick else (64, 32, 32, 3))
    return flax_problem(ConvolutionalClassifier(3, 10, rngs=nnx.Rngs(0)), images, 10)


def classifier_hvp(quick: bool, peers: Peers) -> Problem:
    """Forward over reverse: Hessian of the classifier's loss times a vector.

    The vector is an argument of its own: with the parameters themselves XLA would find half of the work done twice.
    """

    def derive(library: Any, loss: Program) -> Program:
        def product(params: Any, batch: Any, vector: Any) -> Any:
            return library.jvp(lambda p: library.grad(loss)(p, batch), (params,), (vector,))[1]

        return product

    made = _two_layer(quick, derive)
    vector = jax.tree.map(jnp.cos, made.args[0])
    return dataclasses.replace(made, args=(*made.args, vector))


def per_example(quick: bool, peers: Peers) -> Problem:
    """One gradient for each point."""

    def derive(library: Any, loss: Program) -> Program:
        def alone(params: Any, x: jax.Array, label: jax.Array) -> jax.Array:
            return loss(params, (x[None], label[None]))

        return lambda params, batch: jax.vmap(library.grad(alone), in_axes=(None, 0, 0))(params, *batch)

    return _two_layer(quick, derive, points=64 if quick else 256)


# ---- loops ----


def scan_problem(make_loss: Callable[[Callable], Program], args: tuple, peers: Peers, budget: float) -> Problem:
    """A loss around a loop body; each policy wraps the body by hand. `budget` is for funcgrad, in bytes."""
    by_hand = {}
    if "checkpoint" in peers:
        for name, policy in POLICIES.items():
            by_hand[name] = make_loss(functools.partial(jax.checkpoint, policy=policy, prevent_cse=False))
    return problem(make_loss(lambda body: body), args, by_hand=by_hand,
                   budget=budget if "policies" in peers else None)


def lstm_problem(steps: int, batch: int, features: int, width: int, peers: Peers) -> Problem:
    """An LSTM cell of Flax under `lax.scan`, and a linear model of its last output."""
    classes = 5
    model = SequenceClassifier(features, width, classes, rngs=nnx.Rngs(0))
    cell, cell_state = nnx.split(model.lstm.cell, nnx.Param)
    output, output_state = nnx.split(model.output, nnx.Param)
    sequences = jax.random.normal(jax.random.key(0), (steps, batch, features))
    labels = jax.random.randint(jax.random.key(1), (batch,), 0, classes)
    params = nnx.to_pure_dict(cell_state), nnx.to_pure_dict(output_state)

    def make_loss(wrapped: Callable) -> Program:
        def loss(params: Any, sequences: jax.Array, labels: jax.Array) -> jax.Array:
            @wrapped
            def body(cell_params: Any, carry: Any, x: jax.Array) -> Any:
                return nnx.merge(cell, cell_params)(carry, x)[0]

            zeros = jnp.zeros((batch, width))
            (_, hidden), _ = lax.scan(lambda carry, x: (body(params[0], carry, x), None), (zeros, zeros), sequences)
            logits = nnx.merge(output, params[1])(hidden)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

        return loss

    return scan_problem(make_loss, (params, sequences, labels), peers, budget=steps * batch * width * 4)


def lstm(quick: bool, peers: Peers) -> Problem:
    """512 steps in both sizes."""
    return lstm_problem(512, *((4, 8, 16) if quick else (16, 32, 64)), peers)


def rk4_problem(steps: int, batch: int, width: int, hidden: int, peers: Peers) -> Problem:
    """An ordinary differential equation whose field is a small network, by the method of Runge and Kutta."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = (jax.random.normal(keys[0], (width, hidden)) / width**0.5,
              jax.random.normal(keys[1], (hidden, width)) / hidden**0.5)
    start = jax.random.normal(keys[2], (batch, width))

    def make_loss(wrapped: Callable) -> Program:
        def loss(params: Any, start: jax.Array) -> jax.Array:
            @wrapped
            def body(params: Any, y: jax.Array) -> jax.Array:
                def field(y: jax.Array) -> jax.Array:
                    return jnp.tanh(y @ params[0]) @ params[1] - y

                dt = 1.0 / steps
                k1 = field(y)
                k2 = field(y + 0.5 * dt * k1)
                k3 = field(y + 0.5 * dt * k2)
                k4 = field(y + dt * k3)
                return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

            end, _ = lax.scan(lambda y, _: (body(params, y), None), start, length=steps)
            return jnp.sum(end**2)

        return loss

    return scan_problem(make_loss, (params, start), peers, budget=steps * batch * width * 4 * 3.5)


def rk4(quick: bool, peers: Peers) -> Problem:
    """1,000 steps in both sizes."""
    return rk4_problem(1000, *((4, 8, 16) if quick else (32, 16, 64)), peers)


def _while_problem(loss: Callable[[Callable, Any, Any], Any], args: tuple, most_steps: int, peers: Peers) -> Problem:
    """A loss over `while_loop`, which `jax.grad` refuses; equinox's checkpointed loop is the peer."""
    programs = {OURS: funcgrad.grad(functools.partial(loss, lax.while_loop))}
    missing = ["jax: reverse mode of while_loop is refused"]
    if "equinox" in peers:
        try:
            from equinox.internal import while_loop
        except ImportError:
            missing.append("equinox: not installed")
        else:
            loop = functools.partial(while_loop, kind="checkpointed", max_steps=most_steps)
            programs["equinox"] = jax.grad(functools.partial(loss, loop))
    baseline = "equinox" if "equinox" in programs else OURS
    return Problem(args, programs, baseline=baseline, missing=tuple(missing))


def implicit(quick: bool, peers: Peers) -> Problem:
    """A fixed point, iterated until it stands still."""
    width = 64 if quick else 256
    matrix = jax.random.normal(jax.random.key(0), (width, width)) * (0.9 / (2 * width**0.5))
    bias = jax.random.normal(jax.random.key(1), (width,))

    def loss(while_loop: Callable, matrix: jax.Array, bias: jax.Array) -> jax.Array:
        def moving(state: Any) -> jax.Array:
            return jnp.max(jnp.abs(state[0] - state[1])) > 1e-5

        def step(state: Any) -> Any:
            return jnp.tanh(matrix @ state[0] + bias), state[0]

        solution, _ = while_loop(moving, step, (jnp.zeros(width), jnp.ones(width)))
        return jnp.sum(solution**2)

    return _while_problem(loss, (matrix, bias), 256, peers)


def long_while(quick: bool, peers: Peers) -> Problem:
    """10,000 iterations (1,000 when quick), a count that the program does not know."""
    count = 1_000 if quick else 10_000
    state = jax.random.normal(jax.random.key(0), (64,))

    def loss(while_loop: Callable, state: jax.Array, count: jax.Array) -> jax.Array:
        def step(carry: Any) -> Any:
            i, x = carry
            return i + 1, x + 1e-3 * jnp.sin(x) * jnp.roll(x, 1)

        return jnp.sum(while_loop(lambda carry: carry[0] < count, step, (jnp.int32(0), state))[1] ** 2)

    return _while_problem(loss, (state, jnp.int32(count)), 2 * count, peers)


# ---- transformers and long rows ----


def _transformer(make: Callable, quick: bool, peers: Peers) -> Problem:
    sizes = dict(layers=4, width=64, heads=4, batch=2, tokens=64) if quick else {}
    loss, params, batch = make(**sizes)
    budget = None
    if "policies" in peers:  # what `dots_with_no_batch_dims_saveable` keeps: all products but that of Q and K
        shape = {**dict(layers=8, width=256, heads=8, batch=4, tokens=256), **sizes}
        rows = shape["layers"] * shape["batch"] * shape["tokens"]
        budget = 4 * rows * shape["width"] * 9.1
    by_hand = {}
    if "checkpoint" in peers:
        by_hand = {name: make(**sizes, remat_policy=policy)[0] for name, policy in POLICIES.items()}
    return problem(loss, (params, batch), by_hand=by_hand, budget=budget)


def transformer_scanned(quick: bool, peers: Peers) -> Problem:
    """Layers under `lax.scan`; the size of the design's section 4."""
    return _transformer(scanned_transformer, quick, peers)


def transformer_unrolled(quick: bool, peers: Peers) -> Problem:
    """The same network, its layers written out."""
    return _transformer(unrolled_transformer, quick, peers)


def attention(quick: bool, peers: Peers) -> Problem:
    """Softmax over rows of 2,048 (512 when quick)."""
    tokens, heads, width = (512, 2, 16) if quick else (2048, 4, 32)
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value, target = (jax.random.normal(k, (tokens, heads, width)) for k in keys)

    def loss(arrays: Any, target: jax.Array) -> jax.Array:
        query, key, value = arrays
        scores = jnp.einsum("qhd,khd->hqk", query, key) / width**0.5
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores, axis=-1), value)
        return jnp.mean((mixed - target) ** 2)

    return problem(loss, ((query, key, value), target))


def diffusion(quick: bool, peers: Peers) -> Problem:
    """A denoiser: sinusoidal times, layer norms, modulated swish layers; many elementwise operations."""
    batch, width, layers = (64, 64, 4) if quick else (512, 256, 6)
    keys = iter(jax.random.split(jax.random.key(0), 2 * layers + 3))

    def matrix(rows: int, columns: int) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns)) / rows**0.5

    params = [{"mix": matrix(width, width), "modulate": matrix(width, 2 * width), "bias": jnp.zeros(width)}
              for _ in range(layers)]
    clean, noise = (jax.random.normal(next(keys), (batch, width)) for _ in range(2))
    time = jax.random.uniform(next(keys), (batch, 1))

    def loss(params: Any, clean: jax.Array, noise: jax.Array, time: jax.Array) -> jax.Array:
        angles = time * jnp.exp(jnp.linspace(0.0, 6.0, width // 2))
        embedded = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        alpha, sigma = jnp.cos(time), jnp.sin(time)
        x = alpha * clean + sigma * noise
        for layer in params:
            scale, shift = jnp.split(embedded @ layer["modulate"], 2, axis=-1)
            centered = x - jnp.mean(x, axis=-1, keepdims=True)
            normal = centered * lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + 1e-5)
            x = x + jax.nn.swish((1 + scale) * normal + shift) @ layer["mix"] + layer["bias"]
        weight = 1 / (1 + jnp.exp(-(alpha**2) / (sigma**2 + 1e-3)))
        return jnp.mean(weight * (x - noise) ** 2)

    return problem(loss, (params, clean, noise, time))


JITTED = (
    Workload("two-layer", "ReLU classifier in Flax", "jitted", two_layer),
    Workload("cnn", "CNN in Flax", "jitted", cnn),
    Workload("lstm", "LSTM cell of Flax, 512 steps of scan", "jitted", lstm),
    Workload("transformer-scanned", "8 layers under scan", "jitted", transformer_scanned),
    Workload("transformer-unrolled", "8 layers written out", "jitted", transformer_unrolled),
    Workload("diffusion", "denoising MLP, many elementwise operations", "jitted", diffusion),
    Workload("rk4", "Runge-Kutta, 1,000 steps of scan", "jitted", rk4),
    Workload("implicit", "fixed point by while_loop", "jitted", implicit),
    Workload("while-10000", "while_loop of 10,000 iterations", "jitted", long_while),
    Workload("attention", "softmax over long rows", "jitted", attention),
    Workload("hvp", "Hessian-vector product of the classifier", "jitted", classifier_hvp),
    Workload("per-example", "vmap(grad) of the classifier", "jitted", per_example),
)
