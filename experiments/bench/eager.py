"""The workloads outside `jit`: a scalar expression, a small MLP, and chains of operations."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from experiments.bench.problem import JAX, OURS, Problem, Program, Workload

Peers = Sequence[str]


def eager_problem(make_loss: Callable[[Any], Program], arrays: Sequence[np.ndarray], argnums: Sequence[int],
                  peers: Peers) -> Problem:
    """One loss, written against the interface that NumPy, jax.numpy and torch share, for each library.

    Args:
      make_loss: ``make_loss(library)`` gives the loss, library being jax.numpy, autograd.numpy or torch.
      arrays: float32 arguments.
      argnums: which of them to differentiate.
      peers: which of autograd and torch to try.
    """
    numbers = tuple(argnums)
    programs = {OURS: funcgrad.grad(make_loss(jnp), numbers), JAX: jax.grad(make_loss(jnp), numbers)}
    on_device = tuple(map(jnp.asarray, arrays))
    arguments: dict[str, tuple] = {OURS: on_device, JAX: on_device}
    missing = []
    for peer, attach in (("autograd", _autograd), ("torch", _torch)):
        if peer in peers:
            try:
                programs[peer], arguments[peer] = attach(make_loss, arrays, numbers)
            except ImportError:
                missing.append(f"{peer}: not installed")
    return Problem(on_device, programs, arguments, missing=tuple(missing))


def _autograd(make_loss: Callable, arrays: Sequence[np.ndarray], argnums: tuple[int, ...]) -> tuple[Program, tuple]:
    library = importlib.import_module("autograd")
    return library.grad(make_loss(importlib.import_module("autograd.numpy")), argnums), tuple(arrays)


def _torch(make_loss: Callable, arrays: Sequence[np.ndarray], argnums: tuple[int, ...]) -> tuple[Program, tuple]:
    torch = importlib.import_module("torch")
    loss = make_loss(torch)
    tensors = tuple(torch.tensor(array, requires_grad=i in argnums) for i, array in enumerate(arrays))
    return lambda *args: torch.autograd.grad(loss(*args), [args[i] for i in argnums]), tensors


def scalar(quick: bool, peers: Peers) -> Problem:
    """A dozen operations on two numbers."""

    def make_loss(np_like: Any) -> Program:
        def expression(x: Any, y: Any) -> Any:
            z = np_like.sin(x * y) + np_like.exp(-x) * y
            return z * z / (1.0 + y * y) + np_like.tanh(x - y)

        return expression

    return eager_problem(make_loss, [np.float32(0.7), np.float32(1.3)], (0, 1), peers)


def mlp(quick: bool, peers: Peers) -> Problem:
    """Two tanh layers and a mean square on 32 points."""
    rng = np.random.default_rng(0)
    shapes = [(8, 16), (16,), (16, 16), (16,), (16, 1)]
    arrays = [rng.normal(size=shape).astype(np.float32) / 4 for shape in shapes]
    arrays += [rng.normal(size=(32, 8)).astype(np.float32), rng.normal(size=(32, 1)).astype(np.float32)]

    def make_loss(np_like: Any) -> Program:
        def loss(w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, x: Any, target: Any) -> Any:
            hidden = np_like.tanh(np_like.tanh(x @ w1 + b1) @ w2 + b2)
            return np_like.mean((hidden @ w3 - target) ** 2)

        return loss

    return eager_problem(make_loss, arrays, range(5), peers)


def chain_of(nodes: int) -> Callable[[bool, Peers], Problem]:
    """A builder of chains: `nodes` operations one after the other."""

    def chain(x: jax.Array) -> jax.Array:
        for index in range(nodes):
            x = jnp.sin(x) if index % 2 else x * 1.01
        return x

    def build(quick: bool, peers: Peers) -> Problem:
        programs = {OURS: funcgrad.grad(chain), JAX: jax.grad(chain)}
        short = nodes <= 1_000
        return Problem((jnp.float32(0.5),), programs, loss=chain, nodes=nodes, run=short, lower=short)

    return build


EAGER = (
    Workload("eager-scalar", "a dozen operations on two numbers", "eager", scalar),
    Workload("eager-mlp", "two tanh layers, 32 points", "eager", mlp),
)
CHAINS = tuple(Workload(f"chain-{n}", f"{n:,} operations in a row", "chain", chain_of(n))
               for n in (10, 100, 1_000, 10_000, 100_000, 1_000_000))
