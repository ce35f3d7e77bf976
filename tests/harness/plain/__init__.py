"""Plain Python functions of one or two numbers, written with no thought of tracing: a number stays a number."""

from tests.harness.plain import numbers  # noqa: F401  its functions join the corpus
from tests.harness.plain.sample import SAMPLES, Sample
from tests.harness.plain.structures import TEXTS

__all__ = ["SAMPLES", "TEXTS", "Sample"]
