"""The exception that means: the user's input cannot be used. It becomes one line and exit code 2."""

from __future__ import annotations


class BadInput(ValueError):
    """Says in one line what is wrong with the input and how to mend it."""


def require(holds: bool, message: str) -> None:
    """Raise BadInput with the message unless the condition holds."""
    if not holds:
        raise BadInput(message)
