"""What the tools that run a function themselves are given: a function, and numbers."""

from __future__ import annotations

from typing import Any

import jax

from funcgrad import _compat
from funcgrad.checks import check_callable


def check_function(fun: Any, call: str) -> None:
    """Raises TypeError for what is no function.

    Args:
      fun: what was given.
      call: how the tool is called, with `f` for the function: ``explain(f)(x)``.
    """
    if not callable(fun):
        raise TypeError(f"Expected a callable value, got {fun!r} ({type(fun).__name__}).\n"
                        f"To fix: give the function itself, not its result: funcgrad.{call}.")
    check_callable(fun)


def numbers(tool: str, given: Any, instead: str = "") -> Any:
    """The arguments without what traces them now, such as a `grad` around.

    Raises:
      TypeError: for one that has no value yet; `instead` says what else can be done.
    """
    def number(leaf: Any) -> Any:
        if not isinstance(leaf, jax.core.Tracer):
            return leaf
        value = _compat.concrete_or_none(leaf)
        if value is None:
            raise TypeError(
                f"{tool} runs a function with numbers, but was given a value that is still being traced "
                f"({_compat.typeof(leaf).str_short()}).\nTo fix: call it outside `jit`, `vmap` and `scan`, with a "
                f"function that has them inside{instead}.")
        return value

    return jax.tree.map(number, given)
