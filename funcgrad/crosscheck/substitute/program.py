"""The function that a gradient is taken of: where the user's program calls it, and how it can be run again later."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import take_current_trace

from funcgrad import _compat
from funcgrad.crosscheck.substitute.session import Call
from funcgrad.evaluation import evaluate
from funcgrad.trees import pytree, static

Array = Any
_NOT_THE_USERS = (os.path.dirname(jax.__file__) + os.sep, os.path.dirname(_compat.__file__) + os.sep,
                  contextlib.__file__, functools.__file__)


@pytree
class Program:
    """The differentiated function, so that it can be run again later, and its arguments.

    Attributes:
      function: of the primals, outside `jit`; a program of (constants, flat primals) where it was traced; or None.
      out_tree: structure of what the program gives; None for a plain function.
      primals, consts: arrays.
    """

    function: Any = static()
    out_tree: Any = static()
    primals: tuple[Any, ...]
    consts: tuple[Any, ...]

    def closed(self) -> Callable[..., Any] | None:
        """The function of the primals alone."""
        if self.out_tree is None:
            return self.function
        return functools.partial(_run_staged, self.function.jaxpr, self.out_tree, self.consts)


@dataclasses.dataclass(frozen=True, eq=False)
class _Staged:
    """A jaxpr that compares by identity."""

    jaxpr: Any


def _run_staged(jaxpr: Any, out_tree: Any, consts: Sequence[Array], *primals: Any) -> Any:
    closed = jaxpr.replace(consts=list(consts))
    return jax.tree.unflatten(out_tree, evaluate(closed, jax.tree.leaves(primals)))


def is_staging() -> bool:
    """Whether operations are being traced now, so that the values are not at hand."""
    with take_current_trace() as trace:
        return trace is not _compat.eval_trace


def is_compiling() -> bool:
    """Whether a program is being traced that will run as a whole, under however many `vmap`s and `jvp`s."""
    with take_current_trace() as trace:
        current: Any = trace
    while current is not None and not type(current).__name__.startswith("DynamicJaxpr"):
        current = getattr(current, "parent_trace", getattr(current, "parent", None))
    return current is not None


def program_of(fun: Callable[..., Any], primals: tuple[Any, ...]) -> Program:
    """`fun` as something that outlives the traces that are open now."""
    if not is_staging():
        return Program(fun, None, primals, ())
    try:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*primals)
    except Exception:  # values that steer Python's control flow under `jvp`: nothing can be said later
        return Program(None, None, primals, ())
    return Program(_Staged(closed), jax.tree.structure(shape), primals, tuple(closed.consts))


def without_aux(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` without the second part of its output."""
    @functools.wraps(fun)
    def value(*args: Any) -> Any:
        return fun(*args)[0]

    return value


# ---- where ----


def call_of(fun: Callable[..., Any], kind: str = "vjp") -> Call:
    """Where the user's program is now, and what it differentiates."""
    fun = _without_wrappers(fun)
    name = getattr(fun, "__name__", type(fun).__name__)
    x64 = jax.dtypes.canonicalize_dtype(np.float64).itemsize == 8
    return Call(name, _user_line(), kind, x64)


def _user_line() -> str:
    """The user's line. While `jit` traces, JAX's traceback ends at the traced function, so the frames are walked."""
    line = _compat.source_line(_compat.current_source())
    frame = inspect.currentframe() if line == "<unknown>" else None
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    if frame is None:
        return line
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in `{frame.f_code.co_qualname}`"


def _without_wrappers(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The user's function; JAX's gradient functions hand `vjp` one that fills in the other arguments."""
    if getattr(fun, "__module__", "") == "jax._src.api_util" and inspect.isfunction(fun):
        fun = inspect.getclosurevars(fun).nonlocals.get("f", fun)
    return inspect.unwrap(fun)
