"""funcgrad: a second, independent reverse-mode autodiff for JAX programs.

>>> import funcgrad
>>> float(funcgrad.grad(lambda x: x**3)(2.0))
12.0
"""

import importlib
import os
from typing import Any

from funcgrad import _compat
from funcgrad.policies import budget, policy
from funcgrad.rules.while_loop import checkpoints as while_checkpoints
from funcgrad.taps import Tapped, tap
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
from funcgrad.zeros import strong_zeros

__all__ = ["budget", "checkpoint", "grad", "hessian", "hvp", "jacfwd", "jacrev", "jvp", "make_graph", "policy",
           "Tapped", "strong_zeros", "tap", "value_and_grad", "vjp", "while_checkpoints"]
__version__ = "0.1.0"

_compat.hide_frames(os.path.dirname(__file__) + os.sep)

#: Imported when first asked for: a gradient alone pays nothing for them.
_LAZY = {
    "residuals": "funcgrad.inspection.kept",
    "explain": "funcgrad.inspection",
    "draw": "funcgrad.inspection",
    "find_nonfinite": "funcgrad.inspection",
    "debug_nonfinite": "funcgrad.inspection",
    "NonfiniteError": "funcgrad.inspection",
    "dead_paths": "funcgrad.inspection",
    "check": "funcgrad.crosscheck.check",
    "check_rule": "funcgrad.crosscheck.rule_battery",
    "substitute": "funcgrad.crosscheck.substitute",
    "programs": "funcgrad.crosscheck.programs",
    "Report": "funcgrad.crosscheck.report",
    "Row": "funcgrad.crosscheck.report",
    "Verdict": "funcgrad.crosscheck.report",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'funcgrad' has no attribute {name!r}")
