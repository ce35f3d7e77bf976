"""How XLA's CPU backend takes the ways to write a cotangent: `python -m experiments.bench.products`.

The figures behind ADR 7. Of a weight: a sum over two dimensions as it comes and over one, a result that is tall and the
same computed wide. Of max pooling: scattered to the element chosen, as elsewhere, and as `funcgrad` does on one CPU.
Times are the least of many rounds, taken in turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from rich.console import Console
from rich.table import Table

import funcgrad
from experiments.bench.measure import least_seconds

ROUNDS = 40
#: (batch, tokens, width, width of the next layer) of a layer over sequences.
LAYERS = ((4, 256, 1024, 256), (32, 64, 512, 128), (4, 256, 768, 256), (4, 256, 256, 256), (32, 64, 128, 512))
#: (points, hidden units, classes) of a classifier's last layer.
LAST_LAYERS = ((2048, 512, 10), (512, 64, 10), (2048, 512, 64), (1024, 1024, 256), (256, 512, 128))
#: (batch, height, width, channels) of what is pooled in tiles of 2 by 2.
POOLED = ((64, 32, 32, 4), (64, 28, 28, 32), (32, 64, 64, 64))

Program = Callable[[jax.Array, jax.Array], jax.Array]


def as_it_comes(x: jax.Array, ct: jax.Array) -> jax.Array:
    """One product over all dimensions but the last."""
    summed = tuple(range(x.ndim - 1))
    return lax.dot_general(x, ct, ((summed, summed), ((), ())))


def of_matrices(x: jax.Array, ct: jax.Array) -> jax.Array:
    """The same, those dimensions merged before."""
    return as_it_comes(x.reshape(-1, x.shape[-1]), ct.reshape(-1, ct.shape[-1]))


def wide(x: jax.Array, ct: jax.Array) -> jax.Array:
    """The factors exchanged, and the result transposed with a dimension of size one between."""
    out = as_it_comes(ct, x)
    return out.reshape(*out.shape, 1).transpose(1, 2, 0).reshape(out.shape[::-1])


def layer(product: Program) -> Program:
    """With elementwise work before it, which XLA draws into the copy it makes."""
    return lambda x, ct: product(jnp.tanh(x) * (1 + x), ct)


def pooled(x: jax.Array) -> jax.Array:
    """The largest of each 2 by 2 tile."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def pulled_back(vjp: Callable[..., Any]) -> Program:
    """The cotangent of what is pooled."""
    return lambda x, ct: vjp(pooled, x)[1](ct)[0]


def seconds(programs: Mapping[str, Program], *args: Any) -> dict[str, float]:
    """The least time of each program, over rounds in which each runs once."""
    compiled = {name: jax.jit(program).lower(*args).compile() for name, program in programs.items()}
    return least_seconds({name: partial(program, *args) for name, program in compiled.items()}, ROUNDS)


def table(title: str, headings: tuple[str, ...], found: Mapping[tuple[int, ...], Mapping[str, float]]) -> Table:
    """One row for each shape: the sizes, the times in milliseconds, and their ratio."""
    out = Table(title=title)
    for heading in (*headings, *next(iter(found.values())), "ratio"):
        out.add_column(heading, justify="right")
    for shape, times in found.items():
        before, after = times.values()
        out.add_row(*map(str, shape), f"{1e3 * before:.3f} ms", f"{1e3 * after:.3f} ms", f"{after / before:.2f}")
    return out


def main() -> int:
    """Print the tables."""
    def drawn(*shape: int) -> jax.Array:
        return jax.random.normal(jax.random.key(0), shape)

    console = Console()
    console.print(f"{jax.device_count()} device(s) of {jax.default_backend()}, jaxlib {jax.lib.__version__}")
    forms = {"as it comes": layer(as_it_comes), "of matrices": layer(of_matrices)}
    console.print(table("Sum over batch and tokens", ("batch", "tokens", "width", "next"), {
        shape: seconds(forms, drawn(*shape[:3]), drawn(*shape[:2], shape[3])) for shape in LAYERS}))
    console.print(table("Tall result", ("points", "rows", "columns"), {
        shape: seconds({"tall": as_it_comes, "wide": wide}, drawn(*shape[:2]), drawn(shape[0], shape[2]))
        for shape in LAST_LAYERS}))
    console.print(table("Max pooling", ("batch", "height", "width", "channels"), {
        shape: seconds({"jax.vjp": pulled_back(jax.vjp), "funcgrad.vjp": pulled_back(funcgrad.vjp)}, drawn(*shape),
                       drawn(shape[0], shape[1] // 2, shape[2] // 2, shape[3])) for shape in POOLED}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
