"""funcgrad: a second, independent reverse-mode autodiff for JAX programs.

>>> import funcgrad
>>> float(funcgrad.grad(lambda x: x**3)(2.0))
12.0
"""

import importlib
import os
from typing import Any

from funcgrad import _compat
from funcgrad.rules.while_loop import checkpoints as while_checkpoints
from funcgrad.transforms import (
    checkpoint,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jvp,
    make_graph,
    value_and_grad,
    vjp,
)

__all__ = ["checkpoint", "grad", "hessian", "hvp", "jacfwd", "jacrev", "jvp", "make_graph", "value_and_grad", "vjp",
           "while_checkpoints"]
__version__ = "0.1.0"

_compat.hide_frames(os.path.dirname(__file__) + os.sep)


def __getattr__(name: str) -> Any:
    """`explain` and `draw`, imported when first asked for: a gradient alone pays nothing for them."""
    if name in ("explain", "draw"):
        return getattr(importlib.import_module("funcgrad.inspection"), name)
    raise AttributeError(f"module 'funcgrad' has no attribute {name!r}")
