"""The one thing that rules ask about the machine; why they may is in ADR 7."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import get_abstract_mesh

Array = Any


def on_one_cpu(*operands: Array) -> bool:
    """Whether a program traced now runs on one CPU, with no mesh around and no operand laid out over one."""
    return (jax.default_backend() == "cpu" and jax.device_count() == 1 and get_abstract_mesh().empty
            and all(jax.typeof(x).sharding.mesh.empty for x in operands))
