"""What programs that must agree are made of, and the table of them."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Program = Callable[[Any], Any]
PROGRAMS: dict[str, Program] = {}

Pair = namedtuple("Pair", ["first", "second"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """A pytree with a static part."""

    weight: Any
    bias: Any
    name: str = dataclasses.field(default="layer", metadata={"static": True})


def program(function: Program) -> Program:
    """Put a program into the table of those that must agree."""
    PROGRAMS[function.__name__] = function
    return function


X = np.array([0.5, -1.5, 2.0], np.float32)
M = np.arange(6, dtype=np.float32).reshape(2, 3) / 4 - 0.6


def loss(x, y=2.0, *, scale=1.0):
    """A scalar of two arguments."""
    return jnp.sum(jnp.sin(x) * y) * scale


def vector(x, y=2.0):
    """A vector of two arguments."""
    return jnp.stack([jnp.sum(x * x) * jnp.sum(y), jnp.prod(x), jnp.sum(jnp.cos(x * y))])
