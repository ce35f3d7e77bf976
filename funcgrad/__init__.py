"""funcgrad: a second, independent reverse-mode autodiff for JAX programs."""

import os

from funcgrad import _compat, rules
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

__all__ = ["checkpoint", "grad", "hessian", "hvp", "jacfwd", "jacrev", "jvp", "make_graph", "value_and_grad", "vjp"]
__version__ = "0.1.0"

_compat.hide_frames(os.path.dirname(__file__) + os.sep)
del rules
