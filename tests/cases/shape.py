"""Cases of shape changes, cuts and joins, and placement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from tests.cases.case import Boundary, Case, normal

GRID = np.arange(1.0, 7.0).reshape(2, 3)
EMPTY = np.zeros((0, 3))


def broadcast(shape: Sequence[int], dims: Sequence[int]) -> Callable[..., Any]:
    """`lax.broadcast_in_dim` with every param spelled out."""
    return lambda x: lax.broadcast_in_dim(x, tuple(shape), tuple(dims), out_sharding=None)


BROADCAST = tuple(
    Case(f"broadcast_in_dim[{label}]", ("broadcast_in_dim",), broadcast(shape, dims), normal(operand))
    for label, operand, shape, dims in (
        ("scalar", (), (2, 3), ()),
        ("new dimensions", (2, 3), (4, 2, 5, 3), (1, 3)),
        ("stretched", (1, 3), (2, 3), (0, 1)),
        ("stretched and new", (2, 1), (4, 2, 3), (1, 2)),
        ("unit kept", (1, 3), (1, 2, 3), (0, 2)),
        ("only unit dimensions added", (2, 3), (1, 2, 1, 3), (1, 3)),
        ("same shape", (2, 3), (2, 3), (0, 1)),
        ("empty", (0, 1), (4, 0, 3), (1, 2)),
        ("to empty", (1, 3), (0, 3), (0, 1)),
    )
) + (
    Case("broadcast_in_dim[transposing]", ("broadcast_in_dim",), broadcast((3, 4, 2), (2, 0)), normal((2, 3)),
         jax_agrees=False, note="jax.vjp raises: its transpose leaves the dimensions in the output's order"),
    Case("broadcast_in_dim[transposing, stretched]", ("broadcast_in_dim",), broadcast((3, 4, 2), (2, 1, 0)),
         normal((2, 1, 3)), jax_agrees=False, note="jax.vjp raises, as above"),
)

RESHAPE = tuple(
    Case(f"reshape[{label}]", ("reshape",), lambda x, n=sizes, d=dims: lax.reshape(x, n, d, out_sharding=None),
         normal(operand))
    for label, operand, sizes, dims in (
        ("split", (6, 2), (2, 3, 2), None),
        ("merge", (2, 3, 2), (6, 2), None),
        ("to scalar", (1, 1), (), None),
        ("from scalar", (), (1, 1), None),
        ("dimensions", (2, 3, 4), (4, 6), (2, 0, 1)),
        ("dimensions, same shape", (3, 3), (3, 3), (1, 0)),
        ("empty", (0, 3), (3, 0, 2), None),
    )
)

REORDER = (
    Case("squeeze[some]", ("squeeze",), lambda x: lax.squeeze(x, (0, 2)), normal((1, 3, 1, 1))),
    Case("squeeze[none]", ("squeeze",), lambda x: p.squeeze_p.bind(x, dimensions=()), normal((1, 3))),
    Case("squeeze[all]", ("squeeze",), lambda x: lax.squeeze(x, (0, 1)), normal((1, 1))),
    Case("transpose[cycle]", ("transpose",), lambda x: lax.transpose(x, (1, 2, 0)), normal((2, 3, 4))),
    Case("transpose[empty]", ("transpose",), lambda x: lax.transpose(x, (1, 0)), normal((0, 3))),
    Case("rev[one]", ("rev",), lambda x: lax.rev(x, (1,)), normal((2, 3))),
    Case("rev[both]", ("rev",), lambda x: lax.rev(x, (0, 1)), normal((2, 3))),
    Case("rev[none]", ("rev",), lambda x: lax.rev(x, ()), normal((2, 3))),
    Case("tile[one]", ("tile",), lambda x: lax.tile(x, (3, 1)), normal((2, 3))),
    Case("tile[both]", ("tile",), lambda x: lax.tile(x, (3, 2)), normal((2, 3))),
    Case("tile[trivial]", ("tile",), lambda x: lax.tile(x, (1, 1)), normal((2, 3))),
    Case("tile[zero times]", ("tile",), lambda x: lax.tile(x, (0, 2)), normal((2, 3))),
    Case("device_put[device]", ("device_put",), lambda x: jax.device_put(x, jax.devices()[0]), normal((2, 3))),
    Case("device_put[nowhere, several]", ("device_put",),
         lambda x, y: jax.device_put((x, y), (None, jax.devices()[0]), src=(jax.devices()[0], None))[1],
         normal((2, 3), (2,))),
)

JOIN = (
    Case("concatenate[several]", ("concatenate",), lambda x, y, z: lax.concatenate([x, y, z, x], 1),
         normal((2, 3), (2, 0), (2, 1))),
    Case("concatenate[one]", ("concatenate",), lambda x: lax.concatenate_p.bind(x, dimension=0), normal((2, 3))),
    Case("concatenate[one active]", ("concatenate",), lambda x, y, z: lax.concatenate([x, y, z], 0),
         normal((2, 3), (1, 3), (4, 3)), argnums=(1,)),
    Case("concatenate[some active]", ("concatenate",), lambda x, y, z: lax.concatenate([x, y, z], 0),
         normal((2, 3), (1, 3), (4, 3)), argnums=(0, 2)),
    Case("split[all]", ("split",), lambda x: tuple(lax.split(x, (1, 3, 0), 1)), normal((2, 4))),
    Case("split[one used]", ("split",), lambda x: lax.split(x, (1, 3, 2), 0)[1], normal((6, 2))),
    Case("split[some used]", ("split",), lambda x: tuple(lax.split(x, (1, 3, 2), 0)[::2]), normal((6, 2))),
    Case("split[whole]", ("split",), lambda x: lax.split(x, (6,), 0)[0], normal((6, 2))),
    Case("stack[all]", ("stack",), lambda x, y: lax.stack([x, y, x], axis=1), normal((2, 3), (2, 3))),
    Case("stack[one active]", ("stack",), lambda x, y: lax.stack([x, y], axis=2), normal((2, 3), (2, 3)),
         argnums=(1,)),
    Case("stack[scalars]", ("stack",), lambda x, y: lax.stack([x, y], axis=0), normal((), ())),
    Case("unstack[all]", ("unstack",), lambda x: tuple(lax.unstack(x, axis=1)), normal((2, 3))),
    Case("unstack[one used]", ("unstack",), lambda x: lax.unstack(x, axis=0)[1], normal((3, 2))),
    Case("unstack[some used]", ("unstack",), lambda x: tuple(lax.unstack(x, axis=0)[::2]), normal((3, 2))),
)

SLICE = tuple(
    Case(f"slice[{label}]", ("slice",), lambda x, a=start, b=limit, s=strides: lax.slice(x, a, b, s), normal((4, 7)))
    for label, start, limit, strides in (
        ("plain", (1, 2), (3, 7), None),
        ("strides", (0, 1), (4, 7), (2, 3)),
        ("stride that leaves a rest", (1, 0), (4, 6), (2, 4)),
        ("stride beyond the end", (0, 3), (4, 5), (9, 9)),
        ("empty", (2, 3), (2, 5), (1, 2)),
        ("everything", (0, 0), (4, 7), (1, 1)),
    )
)

PAD_VALUE = ("the sum over the padding; jax.vjp subtracts two sums over everything, which cancels, "
             "and gives NaN where a cotangent is infinite")


def pad(*config: tuple[int, int, int]) -> Callable[..., Any]:
    """`lax.pad` with this configuration."""
    return lambda x, value: lax.pad(x, value, config)


PAD = tuple(
    Case(f"pad[{label}]", ("pad",), pad(*config), normal((2, 3), ()), scale=16.0,
         note="jax.vjp subtracts two sums for the value's cotangent, which cancels")
    for label, config in (
        ("both sides", ((1, 2, 0), (0, 3, 0))),
        ("interior", ((0, 0, 2), (1, 0, 1))),
        ("negative", ((-1, 2, 0), (1, -2, 0))),
        ("negative and interior", ((-1, 0, 2), (2, -3, 1))),
        ("cropped away", ((-3, 4, 0), (0, -1, 3))),
        ("nothing", ((0, 0, 0), (0, 0, 0))),
    )
) + (
    Case("pad[empty operand]", ("pad",), pad((1, 2, 1), (0, 0, 0)), normal((0, 3), ())),
    Case("pad[value alone]", ("pad",), pad((1, 2, 0), (0, 3, 1)), normal((2, 3), ()), argnums=(1,),
         jax_agrees=False, note="jax.vjp raises: its rule for the value needs the operand's cotangent"),
    Case("pad[large cotangents]", ("pad",),
         lambda x, value: lax.mul(lax.pad(x, value, ((1, 0, 0),)), np.array([1.0, 1e7, -3e7, 1e7], x.dtype)),
         normal((3,), ()), dtypes=("float32", "float64"), jax_agrees=False, note=PAD_VALUE, boundary=(
             Boundary("ones", (np.ones(3), np.float64(1.0)),
                      expected=(np.array([1e7, -3e7, 1e7]), np.float64(1.0)), why=PAD_VALUE),
         )),
)


def _complex(name: str, fun: Callable[..., Any]) -> Case:
    def args(rng: np.random.Generator) -> tuple[Any, ...]:
        return (rng.standard_normal((2, 3)) + 1j * rng.standard_normal((2, 3)),)

    return Case(f"{name}[complex]", (name,), fun, args, dtypes=("float32", "float64"))


COMPLEX = (
    _complex("broadcast_in_dim", broadcast((4, 2, 3), (1, 2))),
    _complex("pad", lambda x: lax.pad(x, np.zeros((), x.dtype), ((1, -1, 0), (0, 1, 1)))),
    _complex("transpose", lambda x: lax.transpose(x, (1, 0))),
    _complex("tile", lambda x: lax.tile(x, (2, 1))),
)

CASES: tuple[Case, ...] = (*BROADCAST, *RESHAPE, *REORDER, *JOIN, *SLICE, *PAD, *COMPLEX)
