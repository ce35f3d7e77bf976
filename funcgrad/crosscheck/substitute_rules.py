"""Which custom rules a function calls: both sides run those, so that comparing the two says nothing about them."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import Any

import jax

_LISTENER: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar("funcgrad custom rules", default=None)


@contextlib.contextmanager
def rules_called() -> Iterator[list[Any]]:
    """A list that grows with each custom rule that is called in this block and in this thread."""
    found: list[Any] = []
    token = _LISTENER.set(found)
    try:
        yield found
    finally:
        _LISTENER.reset(token)


def heard(custom: Any) -> None:
    """A `custom_jvp` or `custom_vjp` function is being called."""
    listener = _LISTENER.get()
    if listener is None:
        return
    function = inspect.unwrap(custom.fun)
    if str(getattr(function, "__module__", "")).split(".")[0] != "jax":  # its own are in the tables of our tests
        listener.append(Rule.of(function))


class Rule(tuple):
    """A custom rule: its module, its qualified name, and the code of its primal body."""

    __slots__ = ()

    @staticmethod
    def of(function: Callable[..., Any]) -> Rule:
        """The rule of a function; one that is made anew in each call is one rule."""
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return Rule((f"{getattr(function, '__module__', '')}.{name}", getattr(function, "__code__", None)))

    def matches(self, patterns: tuple[str, ...]) -> bool:
        """Whether ``module.name`` is one of these shell patterns."""
        return any(fnmatch(self[0], pattern) for pattern in patterns)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """While this block is open, calls of custom rules are heard."""
    kinds = (jax.custom_jvp, jax.custom_vjp)
    before = [kind.__call__ for kind in kinds]

    def told(call: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            heard(self)
            return call(self, *args, **kwargs)

        return __call__

    for kind, call in zip(kinds, before, strict=True):
        kind.__call__ = told(call)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, call in zip(kinds, before, strict=True):
            kind.__call__ = call  # type: ignore[method-assign]
