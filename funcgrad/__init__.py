"""funcgrad: a second, independent reverse-mode autodiff for JAX programs.

>>> import funcgrad
>>> float(funcgrad.grad(lambda x: x**3)(2.0))
12.0
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from funcgrad import _compat
from funcgrad.policies import budget, policy
from funcgrad.rules.while_loop import while_checkpoints
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

if TYPE_CHECKING:
    from funcgrad.crosscheck.battery import check_rule as check_rule
    from funcgrad.crosscheck.check import check as check
    from funcgrad.crosscheck.programs import programs as programs
    from funcgrad.crosscheck.report import Report as Report
    from funcgrad.crosscheck.report import Row as Row
    from funcgrad.crosscheck.report import Verdict as Verdict
    from funcgrad.crosscheck.substitute import substitute as substitute
    from funcgrad.inspection import NonfiniteError as NonfiniteError
    from funcgrad.inspection import debug_nonfinite as debug_nonfinite
    from funcgrad.inspection import draw as draw
    from funcgrad.inspection import explain as explain
    from funcgrad.inspection import find_nonfinite as find_nonfinite
    from funcgrad.inspection.dead_paths import dead_paths as dead_paths
    from funcgrad.inspection.kept import residuals as residuals

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
    "check_rule": "funcgrad.crosscheck.battery",
    "substitute": "funcgrad.crosscheck.substitute",
    "programs": "funcgrad.crosscheck.programs",
    "Report": "funcgrad.crosscheck.report",
    "Row": "funcgrad.crosscheck.report",
    "Verdict": "funcgrad.crosscheck.report",
}
_LAZY_MODULES = ("crosscheck", "extend", "inspection")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(f"funcgrad.{name}")
    raise AttributeError(f"module 'funcgrad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_MODULES})
