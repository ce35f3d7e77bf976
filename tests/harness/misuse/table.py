"""The table of misuses."""

from __future__ import annotations

from tests.harness.dropin import Program

MISUSES: dict[str, Program] = {}


def misuse(function: Program) -> Program:
    """Put a program into the table of those that must raise."""
    MISUSES[function.__name__] = function
    return function


#: Where the first words are not JAX's, and why.
OTHER_WORDS = {
    "empty_argnums": "JAX's are those of Python's max()",
    "no_cotangent": "Python's own, with the name of our class",
    "the_same_argument_twice": "JAX hands None to the function, which fails in its own way",
}
