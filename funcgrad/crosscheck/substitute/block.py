"""funcgrad in the place of JAX's reverse mode, in a block: `swap` uses it, `check` runs both and compares.

What is put in place are the names ``jax.grad``, ``jax.vjp`` and so on, wherever a module holds them, and the ``vjp``
that JAX's own gradient functions look up when they are called. By the latter a function ``jax.grad(loss)`` that was
made before the block is reached as well.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from funcgrad import transforms
from funcgrad.crosscheck.substitute.calls import checked_hessian, checked_vjp
from funcgrad.crosscheck.substitute.judge import judge
from funcgrad.crosscheck.substitute.program import without_aux
from funcgrad.crosscheck.substitute.rules import listening, note_inner, rules_called
from funcgrad.crosscheck.substitute.session import (
    MODES,
    SIDE,
    Mode,
    Record,
    Side,
    opened,
    session,
)
from funcgrad.trees import canonical_argnums

#: Reverse mode's entry points, as JAX has them.
ORIGINALS: dict[str, Callable[..., Any]] = {
    name: getattr(jax, name) for name in ("grad", "value_and_grad", "vjp", "jacrev", "jacobian", "hessian")}
#: Where JAX's gradient functions look up `vjp` when they are called.
_LOOKED_UP = inspect.unwrap(jax.grad).__globals__
#: Modules of JAX whose use of `vjp` is the user's gradient; in others it is a part of JAX's machinery.
_OF_THE_USER = (_LOOKED_UP["__name__"], "jax._src.public_test_util")


@contextlib.contextmanager
def substitute(mode: Mode, trusted: Sequence[str] = ()) -> Iterator[Record]:
    """funcgrad in the place of ``jax.grad``, ``value_and_grad``, ``vjp``, ``jacrev`` and ``hessian``, in a block.

    Found are also modules that imported those names before, gradient functions made before, and functions that were
    jitted before, which are traced again. Not found: a program that was compiled ahead of time before the block.

    Args:
      mode: "swap": funcgrad computes every gradient. "check": both do, the user gets JAX's, and the two are compared,
        inside compiled programs too; each custom rule is also compared with its primal body once. The function runs
        more than once then.
      trusted: shell patterns ``module.function`` of custom rules that differ from their primal body on purpose.

    Yields:
      A `Record`: `record.figures` counts, `record.report` says what is wrong. Reading either, and leaving the block,
      waits for compiled programs and judges what differs.

    Raises:
      ValueError: for another mode.

    >>> import jax, jax.numpy as jnp
    >>> with substitute("check") as record:
    ...     gradient = jax.jit(jax.grad(jnp.sin))(0.5)
    >>> record.figures.matched, record.report.ok
    (1, True)
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}.\nTo fix: substitute(\"check\") or substitute(\"swap\").")
    record = Record(mode, judge, trusted)
    with opened(record), _in_place():
        yield record
        record.settle()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Gradients of this thread are JAX's alone, and not counted, until the block ends."""
    with SIDE(Side.JAX):
        yield


# ---- which way a call goes ----


def _takes_over() -> bool:
    """Whether funcgrad computes this gradient alone; counts it when it is an outermost one."""
    record = session()
    if record is None or SIDE.value is Side.JAX:
        return False
    if SIDE.value is None and record.mode == "swap":
        record.count()
        return True
    return SIDE.value is Side.FUNCGRAD


@contextlib.contextmanager
def _ours(fun: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[None]:
    """funcgrad computes the gradient of `fun`; which custom rules are in it is noted apart from the outer one's."""
    with SIDE(Side.FUNCGRAD), rules_called() as heard:
        yield
    note_inner(fun, args, heard)


def _stand_in(name: str) -> Callable[..., Any]:
    """What stands in a block where JAX's `grad`, `value_and_grad`, `jacrev` or `jacobian` stood."""
    original, ours = ORIGINALS[name], getattr(transforms, "jacrev" if name == "jacobian" else name)

    @functools.wraps(original)
    def transform(fun: Callable[..., Any], *options: Any, **named: Any) -> Callable[..., Any]:
        theirs = original(fun, *options, **named)

        @functools.wraps(theirs)
        def derivative(*args: Any, **kwargs: Any) -> Any:
            if not _takes_over():
                return theirs(*args, **kwargs)
            with _ours(functools.partial(without_aux(fun) if has_aux else fun, **kwargs), args):
                return ours(fun, *options, **named)(*args, **kwargs)

        has_aux = inspect.signature(original).bind(fun, *options, **named).arguments.get("has_aux", False)
        return derivative

    return transform


@functools.wraps(ORIGINALS["hessian"])
def _hessian(fun: Callable[..., Any], argnums: Any = 0, has_aux: bool = False,
             holomorphic: bool = False) -> Callable[..., Any]:
    theirs = ORIGINALS["hessian"](fun, argnums, has_aux, holomorphic)

    @functools.wraps(theirs)
    def derivative(*args: Any, **kwargs: Any) -> Any:
        if _takes_over():
            with _ours(functools.partial(without_aux(fun) if has_aux else fun, **kwargs), args):
                return transforms.hessian(fun, argnums, has_aux, holomorphic)(*args, **kwargs)
        record = session()
        if record is None or SIDE.value is not None:
            return theirs(*args, **kwargs)
        return checked_hessian(record, fun, canonical_argnums(argnums), has_aux, {"holomorphic": holomorphic},
                               transforms.hessian, args, kwargs)

    return derivative


@functools.wraps(ORIGINALS["vjp"])
def _vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False, reduce_axes: Sequence[Any] = ()) -> Any:
    caller = str(sys._getframe(1).f_globals.get("__name__", ""))
    machinery = caller.startswith(("jax.", "funcgrad.")) and caller not in _OF_THE_USER
    record = session()
    if record is None or machinery or reduce_axes:
        return ORIGINALS["vjp"](fun, *primals, has_aux=has_aux, reduce_axes=reduce_axes)
    if _takes_over():
        with _ours(without_aux(fun) if has_aux else fun, primals):
            return transforms.vjp(fun, *primals, has_aux=has_aux)
    if SIDE.value is not None:
        return ORIGINALS["vjp"](fun, *primals, has_aux=has_aux)
    return checked_vjp(record, fun, primals, has_aux)


STAND_INS: dict[str, Callable[..., Any]] = {
    **{name: _stand_in(name) for name in ("grad", "value_and_grad", "jacrev", "jacobian")}, "hessian": _hessian,
    "vjp": _vjp}


# ---- putting in place ----


@contextlib.contextmanager
def _in_place() -> Iterator[None]:
    """The stand-ins are where JAX's functions were, until the outermost block ends."""
    there = {id(ORIGINALS[name]): STAND_INS[name] for name in ORIGINALS}
    back = {id(STAND_INS[name]): ORIGINALS[name] for name in ORIGINALS}
    if jax.vjp is STAND_INS["vjp"]:  # an outer block has done it
        _exchange(there)
        yield
        return
    with listening():
        _exchange(there)
        _LOOKED_UP["vjp"] = STAND_INS["vjp"]
        try:
            yield
        finally:
            _LOOKED_UP["vjp"] = ORIGINALS["vjp"]
            _exchange(back)


def _exchange(by_identity: dict[int, Callable[..., Any]]) -> None:
    """Replace functions in all modules but JAX's own inner ones and ours."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("jax._src", "jaxlib", "funcgrad.")) or not hasattr(module, "__dict__"):
            continue
        for attribute, value in list(vars(module).items()):
            other = by_identity.get(id(value))
            if other is not None:
                setattr(module, attribute, other)
