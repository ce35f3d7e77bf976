"""Programs on a mesh, each beside what it computes written without a mesh: the oracle knows nothing of sharding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

import funcgrad

Array = Any
SHIFT = [(i, (i + 1) % 4) for i in range(4)]
Map = Callable[..., Callable[..., Array]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of ``a`` (8, 4) and ``w`` (4, 6) on a mesh of axes x (4 devices) and y (2 devices).

    Attributes:
      build: ``build(shard_map) -> function``, where `shard_map` knows the mesh and `check_vma`.
      plain: the same function without a mesh.
      checks: values of `check_vma` under which the program is one.
      only_jitted: those of them under which JAX refuses to run it outside of `jit`.
    """

    build: Callable[[Map], Callable[[Array, Array], Array]]
    plain: Callable[[Array, Array], Array]
    checks: tuple[bool, ...] = (True, False)
    only_jitted: tuple[bool, ...] = ()


def sharded(body: Callable[..., Array], in_specs: Any, out_specs: Any, **options: Any) -> Callable[[Map], Any]:
    """`shard_map` of a body on ``(a, w)``."""
    return lambda shard_map: shard_map(body, in_specs=in_specs, out_specs=out_specs, **options)


def varying(value: Array, like: Array) -> Array:
    """`value` with the varying axes of `like`, as the carry of a loop must have them."""
    axes = tuple(jax.typeof(like).mat.varying - jax.typeof(value).mat.varying)
    return lax.pcast(value, axes, to="varying") if axes else value


def ring(a: Array, w: Array) -> Array:
    """Every shard visits every device."""

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        total, visitor = carry
        return (total + jnp.sin(visitor @ w), lax.ppermute(visitor, "x", SHIFT)), None

    return lax.scan(step, (varying(jnp.zeros((2, 6), a.dtype), a), a), None, length=4)[0][0]


def closure(shard_map: Map) -> Callable[[Array, Array], Array]:
    """The body reads a traced array from outside."""
    return lambda a, w: shard_map(lambda a: jnp.sin(a @ w), in_specs=P("x"), out_specs=P("x"))(a)


def in_loop(shard_map: Map) -> Callable[[Array, Array], Array]:
    """A `shard_map` in the body of a scan."""
    step = shard_map(lambda c, w: c + jnp.sin(c @ w @ w.T / 8), in_specs=(P("x"), P()), out_specs=P("x"))
    return lambda a, w: lax.scan(lambda c, _: (step(c, w), None), a, None, length=3)[0]


def nested(shard_map: Map) -> Callable[[Array, Array], Array]:
    """One axis outside, the other inside."""

    def outer(a: Array, w: Array) -> Array:
        inner = partial(shard_map, lambda a, w: lax.psum(jnp.sin(a) @ w, "y"), mesh=None, axis_names={"y"})
        return inner(in_specs=(P(None, "y"), P("y")), out_specs=P())(a, w)

    return shard_map(outer, in_specs=(P("x"), P()), out_specs=P("x"), axis_names={"x"})


def pytrees(shard_map: Map) -> Callable[[Array, Array], Array]:
    """Dictionaries, an integer operand, an integer result and one that nobody reads."""

    def body(tree: dict[str, Array], count: Array) -> dict[str, Array]:
        return {"used": jnp.sin(tree["a"]) * count, "unused": jnp.cos(tree["a"]), "count": count + 1}

    mapped = shard_map(body, in_specs=({"a": P("x")}, P()), out_specs={"used": P("x"), "unused": P("x"), "count": P()})

    def function(a: Array, w: Array) -> Array:
        out = mapped({"a": a}, jnp.int32(3))
        return out["used"] * out["count"] * w[0, 0]

    return function


def untiled(a: Array, w: Array) -> Array:
    """Column i of every shard goes to device i."""
    return lax.all_to_all(jnp.sin(a), "x", 1, 0) * w[0, 0]


def partial_shift(a: Array, w: Array) -> Array:
    """Two devices send, two receive nothing."""
    return lax.ppermute(jnp.sin(a), "x", [(0, 1), (2, 0)]) @ w


def partially_shifted(a: Array, w: Array) -> Array:
    """What `partial_shift` gives."""
    s = jnp.sin(a)
    return jnp.concatenate([s[4:6], s[0:2], jnp.zeros((4, 4), a.dtype)]) @ w


def custom(a: Array) -> Array:
    """Sine with a backward rule of its own."""
    return jnp.sin(a)


custom_sine = jax.custom_vjp(custom)
custom_sine.defvjp(lambda a: (jnp.sin(a), a), lambda a, ct: (ct * jnp.cos(a),))

ROWS, COLUMNS, BLOCKS = P("x"), P(None, "y"), P("x", "y")

MANUAL: dict[str, Program] = {
    "data parallel": Program(sharded(lambda a, w: lax.pmean((jnp.tanh(a @ w) ** 2).mean(), "x"), (ROWS, P()), P()),
                             lambda a, w: (jnp.tanh(a @ w) ** 2).mean()),
    "tensor parallel": Program(sharded(lambda a, w: lax.psum(jnp.sin(a) @ w, "y") ** 2, (BLOCKS, P("y")), ROWS),
                               lambda a, w: (jnp.sin(a) @ w) ** 2),
    "replicated": Program(sharded(lambda a, w: jnp.exp(a @ w / 4), (P(), P()), P()), lambda a, w: jnp.exp(a @ w / 4)),
    "psum of two axes": Program(
        sharded(lambda a, w: lax.psum(jnp.sin(a).sum(), ("x", "y")) * lax.psum(w.sum(1), "y"), (BLOCKS, COLUMNS), P()),
        lambda a, w: jnp.sin(a).sum() * w.sum(1)),
    "pmax": Program(sharded(lambda a, w: lax.pmax(jnp.sin(a), "x") @ w, (ROWS, P()), P()),
                    lambda a, w: jnp.sin(a).reshape(4, 2, 4).max(0) @ w),
    "pmin": Program(sharded(lambda a, w: lax.pmin(jnp.sin(a), "x") @ w, (ROWS, P()), P()),
                    lambda a, w: jnp.sin(a).reshape(4, 2, 4).min(0) @ w),
    "all_gather": Program(
        sharded(lambda a, w: jnp.sin(lax.all_gather(a, "y", axis=1, tiled=True) @ w), (BLOCKS, COLUMNS), BLOCKS),
        lambda a, w: jnp.sin(a @ w)),
    "all_gather[untiled]": Program(
        sharded(lambda a, w: (lax.all_gather(a, "x") ** 2).sum(0) @ w * a[0, 0], (ROWS, P()), ROWS),
        lambda a, w: jnp.repeat(a[::2, 0], 2)[:, None] * jnp.tile((a.reshape(4, 2, 4) ** 2).sum(0) @ w, (4, 1))),
    "all_gather[invariant]": Program(
        sharded(lambda a, w: jnp.sin(lax.all_gather(a, "y", axis=1, tiled=True, to="invarying") @ w),
                (BLOCKS, P()), ROWS), lambda a, w: jnp.sin(a @ w), checks=(True,)),
    "all_gather[invariant,untiled]": Program(
        sharded(lambda a, w: jnp.sin(lax.all_gather(a, "y", axis=2, to="invarying")).sum(2) @ w[:2], (BLOCKS, P()),
                ROWS), lambda a, w: (jnp.sin(a[:, :2]) + jnp.sin(a[:, 2:])) @ w[:2], checks=(True,)),
    "all_gather[reduced]": Program(
        sharded(lambda a, w: jnp.sin(a @ lax.all_gather(w, "x", tiled=True, to="reduced")), (ROWS, ROWS), ROWS),
        lambda a, w: jnp.sin(a @ w), checks=(True,), only_jitted=(True,)),
    "psum_scatter": Program(
        sharded(lambda a, w: lax.psum_scatter(jnp.sin(a) @ w, "y", scatter_dimension=1, tiled=True) ** 2,
                (BLOCKS, P("y")), BLOCKS), lambda a, w: (jnp.sin(a) @ w) ** 2),
    "psum_scatter[untiled]": Program(
        sharded(lambda a, w: lax.psum_scatter(jnp.sin(a), "y", scatter_dimension=0) * w[0, 0], (BLOCKS, P()),
                P(("x", "y"))),
        lambda a, w: (jnp.sin(a[:, :2]) + jnp.sin(a[:, 2:])).reshape(16) * w[0, 0]),
    "ppermute": Program(sharded(lambda a, w: lax.ppermute(jnp.sin(a), "x", SHIFT) @ w, (ROWS, P()), ROWS),
                        lambda a, w: jnp.roll(jnp.sin(a), 2, 0) @ w),
    "ppermute[some]": Program(sharded(partial_shift, (ROWS, P()), ROWS), partially_shifted),
    "all_to_all": Program(
        sharded(lambda a, w: lax.all_to_all(jnp.sin(a), "x", 1, 0, tiled=True) * w[0, 0], (ROWS, P()), P(None, "x")),
        lambda a, w: jnp.sin(a) * w[0, 0]),
    "all_to_all[untiled]": Program(
        sharded(untiled, (ROWS, P()), ROWS),
        lambda a, w: jnp.sin(a).reshape(4, 2, 4).transpose(2, 0, 1).reshape(16, 2) * w[0, 0]),
    "axis_index": Program(sharded(lambda a, w: a**2 * lax.axis_index("x") * w[0, 0], (ROWS, P()), ROWS),
                          lambda a, w: a**2 * jnp.repeat(jnp.arange(4.0), 2)[:, None] * w[0, 0]),
    "scalar residual": Program(sharded(lambda a, w: jnp.sin(a) * jnp.exp(w[0, 0] * a[0, 0]), (ROWS, P()), ROWS),
                               lambda a, w: jnp.sin(a) * jnp.exp(w[0, 0] * jnp.repeat(a[::2, 0], 2))[:, None]),
    "closure": Program(closure, lambda a, w: jnp.sin(a @ w)),
    "pytrees": Program(pytrees, lambda a, w: jnp.sin(a) * 12 * w[0, 0]),
    "ring": Program(sharded(ring, (ROWS, P()), ROWS),
                    lambda a, w: jnp.tile(jnp.sin(a.reshape(4, 2, 4) @ w).sum(0), (4, 1))),
    "in a loop": Program(in_loop, lambda a, w: lax.scan(
        lambda c, _: (c + jnp.sin(c @ w @ w.T / 8), None), a, None, length=3)[0]),
    "cond inside": Program(
        sharded(lambda a, w: lax.cond(a.sum() > 0, lambda a: jnp.sin(a) @ w, lambda a: (a**2) @ w, a), (ROWS, P()),
                ROWS),
        lambda a, w: jnp.where(jnp.repeat(a.reshape(4, 8).sum(1) > 0, 2)[:, None], jnp.sin(a), a**2) @ w),
    "jit inside": Program(sharded(jax.jit(lambda a, w: lax.psum(jnp.sin(jnp.cos(a) @ w), "x")), (ROWS, P()), P()),
                          lambda a, w: jnp.sin(jnp.cos(a) @ w).reshape(4, 2, 6).sum(0)),
    "checkpoint around": Program(
        lambda shard_map: jax.checkpoint(shard_map(lambda a, w: jnp.sin(jnp.cos(a @ w)), in_specs=(ROWS, P()),
                                                   out_specs=ROWS)), lambda a, w: jnp.sin(jnp.cos(a @ w))),
    "custom_vjp inside": Program(sharded(lambda a, w: custom_sine(a @ w), (ROWS, P()), ROWS),
                                 lambda a, w: jnp.sin(a @ w)),
    "jacobians inside": Program(sharded(lambda a, w: w[0, 0] * a * (
        jnp.diagonal(funcgrad.jacrev(jnp.sin)(a[:, 0])) * jnp.diagonal(funcgrad.jacfwd(jnp.cos)(a[:, 1])))[:, None],
        (ROWS, P()), ROWS), lambda a, w: -w[0, 0] * a * (jnp.cos(a[:, 0]) * jnp.sin(a[:, 1]))[:, None]),
    "one axis manual": Program(
        sharded(lambda a, w: jnp.sin(lax.psum(a @ w, "x")), (ROWS, P()), P(), axis_names={"x"}),
        lambda a, w: jnp.sin((a @ w).reshape(4, 2, 6).sum(0)), only_jitted=(False,)),
    "nested": Program(nested, lambda a, w: jnp.sin(a) @ w, only_jitted=(True, False)),
    "vmap around": Program(
        lambda shard_map: jax.vmap(shard_map(lambda a, w: jnp.sin(a) * w[0, 0], in_specs=(ROWS, P()), out_specs=ROWS),
                                   in_axes=(1, None)), lambda a, w: jnp.sin(a.T) * w[0, 0]),
    "indices inside": Program(
        sharded(lambda a, w: a[jnp.array([1, 1, 0])] * w.at[0].set(1.0)[0, :4], (ROWS, P()), ROWS),
        lambda a, w: a.reshape(4, 2, 4)[:, np.array([1, 1, 0])].reshape(12, 4)),
}

# ---- programs that say where values lie ----


def placed(mesh: Any) -> dict[str, Program]:
    """Programs for a mesh of automatic axes."""
    at = partial(jax.NamedSharding, mesh)
    return {
        "with_sharding_constraint": Program(
            lambda _: lambda a, w: lax.with_sharding_constraint(jnp.sin(a @ w), at(P("x"))),
            lambda a, w: jnp.sin(a @ w)),
        "device_put": Program(lambda _: lambda a, w: jax.device_put(jnp.sin(a @ w), at(P("y"))),
                              lambda a, w: jnp.sin(a @ w)),
        "jit[out_shardings]": Program(
            lambda _: jax.jit(lambda a, w: jnp.sin(a @ w), out_shardings=at(P("y"))), lambda a, w: jnp.sin(a @ w)),
        "jit[cotangent from elsewhere]": Program(
            lambda _: lambda a, w: jax.device_put(jnp.ones((8, 6)), at(P())) * jax.jit(
                lambda a, w: jnp.sin(a @ w), out_shardings=at(P("y")))(a, w), lambda a, w: jnp.sin(a @ w)),
    }


def in_segments(a: Array, w: Array) -> Array:
    """A loop that a budget cuts, over rows that are laid out over devices."""
    with funcgrad.policy(funcgrad.budget(500)):
        xs = jnp.stack([a * 0.1] * 12)
        return lax.scan(lambda c, x: (jnp.sin(c + x) * w.sum(), None), a, xs)[0]


def in_blocks(a: Array, w: Array) -> Array:
    """A loop whose matrix is so large that its cotangent is made in blocks of iterations."""
    matrix = jnp.roll(jnp.eye(160, dtype=w.dtype), 1, 0) * w.sum()
    return lax.scan(lambda c, _: (jnp.tanh(c @ matrix), None), a @ jnp.full((4, 160), 0.1, a.dtype), None, length=20)[0]


EXPLICIT: dict[str, Program] = {
    "matmul": Program(lambda _: lambda a, w: jnp.sin(a @ w), lambda a, w: jnp.sin(a @ w)),
    "elementwise": Program(lambda _: lambda a, w: jnp.where(a > 0, jnp.tanh(a), a**2).sum() * w,
                           lambda a, w: jnp.where(a > 0, jnp.tanh(a), a**2).sum() * w),
    "reshard": Program(lambda _: lambda a, w: jax.sharding.reshard(jnp.sin(a @ w), P(None, "y")) ** 2,
                       lambda a, w: jnp.sin(a @ w) ** 2),
    "reductions": Program(lambda _: lambda a, w: a.sum(1) * a.max(1) * jnp.prod(w, 0).sum(),
                          lambda a, w: a.sum(1) * a.max(1) * jnp.prod(w, 0).sum()),
    "softmax": Program(lambda _: lambda a, w: jax.nn.softmax(a @ w, axis=0),
                       lambda a, w: jax.nn.softmax(a @ w, axis=0)),
    "scan": Program(
        lambda _: lambda a, w: lax.scan(lambda c, _: (jnp.sin(c) * w.sum(), None), a, None, length=3)[0],
        lambda a, w: lax.scan(lambda c, _: (jnp.sin(c) * w.sum(), None), a, None, length=3)[0]),
    "scan in segments": Program(lambda _: in_segments, in_segments),
    "scan in blocks": Program(lambda _: in_blocks, in_blocks),
    "indices": Program(
        lambda _: lambda a, w: a[:, jnp.array([1, 1, 2])] * lax.dynamic_slice_in_dim(a, 1, 3, 1) * w.sum(),
        lambda a, w: a[:, np.array([1, 1, 2])] * a[:, 1:] * w.sum()),
    "updates": Program(lambda _: lambda a, w: a.at[:, jnp.array([0, 0])].add(a[:, 2:]).at[:, 1].set(a[:, 0]) * w.sum(),
                       lambda a, w: jnp.stack([a[:, 0] + a[:, 2] + a[:, 3], a[:, 0], a[:, 2], a[:, 3]], 1) * w.sum()),
    "sort": Program(lambda _: lambda a, w: jnp.sort(a, 1) * jnp.cumsum(a, 1) * w.sum(),
                    lambda a, w: jnp.sort(a, 1) * jnp.cumsum(a, 1) * w.sum()),
    "shard_map": Program(
        lambda _: jax.shard_map(lambda a, w: jnp.sin(a) @ w, in_specs=(ROWS, COLUMNS), out_specs=BLOCKS),
        lambda a, w: jnp.sin(a) @ w),
}
