"""Programs that are run with `jax` and again with `funcgrad` in its place: ``program(ad) -> results``.

They must give the same trees, shapes, dtypes, weak types and values.
"""

from tests.harness.dropin import arguments, results  # noqa: F401  their programs join the table
from tests.harness.dropin.program import PROGRAMS, Layer, M, Pair, Program, X, loss, vector

__all__ = ["PROGRAMS", "Layer", "M", "Pair", "Program", "X", "loss", "vector"]
