"""Programs that JAX refuses, run with `jax` and with `funcgrad` in its place: both must raise the same exception."""

from tests.harness.misuse import calls, inside  # noqa: F401  their programs join the table
from tests.harness.misuse.table import MISUSES, OTHER_WORDS

__all__ = ["MISUSES", "OTHER_WORDS"]
