"""Which custom rules a function calls: both sides run those, so that comparing the two says nothing about them."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from funcgrad.crosscheck.held import CUSTOM
from funcgrad.crosscheck.trusting import matches
from funcgrad.graph import Graph

_LISTENER: contextvars.ContextVar[list[Rule] | None] = contextvars.ContextVar("funcgrad custom rules", default=None)
#: JAX's own rules are in the tables of our tests.
_JAX = os.path.dirname(jax.__file__) + os.sep


@dataclasses.dataclass(frozen=True)
class Rule:
    """A custom rule: where its primal body stands. One that is made anew in each call is one rule."""

    name: str
    file: str
    line: int

    def matches(self, patterns: tuple[str, ...]) -> bool:
        """Whether the function's name, or ``path/of/file.py:name``, is one of these shell patterns."""
        return matches(self.name, self.file, patterns)


# ---- rules in programs ----

# JAX's programs are many and long-lived; what is found in them goes when they go.
_FOUND: WeakKeyDictionary[Any, tuple[Rule, ...]] = WeakKeyDictionary()


def rules_in(graph: Graph) -> tuple[Rule, ...]:
    """The rules in the programs that a graph's nodes hold."""
    return tuple(rule for node in graph.nodes for value in node.params.values() for rule in _rules_of(value))


def _rules_of(value: Any) -> tuple[Rule, ...]:
    if isinstance(value, ClosedJaxpr):
        return _rules_of(value.jaxpr)
    if isinstance(value, tuple | list):
        return tuple(rule for inner in value for rule in _rules_of(inner))
    if not isinstance(value, Jaxpr):
        return ()
    found = _FOUND.get(value)
    if found is None:
        found = _FOUND[value] = tuple(dict.fromkeys(rule for eqn in value.eqns for rule in _rules_of_equation(eqn)))
    return found


def _rules_of_equation(eqn: Any) -> Iterator[Rule]:
    if eqn.primitive.name in CUSTOM:
        about = eqn.params["call_jaxpr"].jaxpr.debug_info
        if not str(about.func_filename).startswith(_JAX):
            yield Rule(about.func_name, str(about.func_filename), int(about.func_lineno or 0))
    for value in eqn.params.values():
        yield from _rules_of(value)


# ---- rules that are called directly ----


@contextlib.contextmanager
def rules_called() -> Iterator[list[Rule]]:
    """A list that grows with each custom rule that is called in this block and in this thread."""
    found: list[Rule] = []
    token = _LISTENER.set(found)
    try:
        yield found
    finally:
        _LISTENER.reset(token)


@dataclasses.dataclass(frozen=True, eq=False)
class Inner:
    """A gradient taken inside a function that is differentiated itself.

    The outer gradient says nothing of the custom rules in it: of those only the derivatives' derivatives are left.
    """

    function: Callable[..., Any]
    primals: tuple[Any, ...]
    rules: tuple[Rule, ...]


_INSIDE: contextvars.ContextVar[list[Inner] | None] = contextvars.ContextVar("funcgrad inner gradients", default=None)


@contextlib.contextmanager
def gradients_inside() -> Iterator[list[Inner]]:
    """A list that grows with each gradient in this block that calls custom rules, where its primals are known."""
    found: list[Inner] = []
    token = _INSIDE.set(found)
    try:
        yield found
    finally:
        _INSIDE.reset(token)


def note_inner(function: Callable[..., Any], primals: Sequence[Any], rules: Sequence[Rule]) -> None:
    """A gradient was taken inside another one."""
    inside = _INSIDE.get()
    leaves, tree = jax.tree.flatten(primals)
    known = [leaf.to_concrete_value() if isinstance(leaf, jax.core.Tracer) else leaf for leaf in leaves]
    if inside is not None and rules and not any(leaf is None for leaf in known):
        inside.append(Inner(function, tuple(jax.tree.unflatten(tree, known)), tuple(rules)))


def _heard(custom: Any) -> None:
    """A `custom_jvp` or `custom_vjp` function is being called."""
    listener = _LISTENER.get()
    if listener is None:
        return
    function = inspect.unwrap(custom.fun)
    code = getattr(function, "__code__", None)
    file, line = (code.co_filename, code.co_firstlineno) if code else (getattr(function, "__module__", ""), 0)
    if not file.startswith(_JAX):
        listener.append(Rule(getattr(function, "__name__", type(function).__name__), file, line))


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """While this block is open, calls of custom rules are heard."""
    kinds: tuple[Any, ...] = (jax.custom_jvp, jax.custom_vjp)
    before = [kind.__call__ for kind in kinds]

    def told(call: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            _heard(self)
            return call(self, *args, **kwargs)

        return __call__

    for kind, call in zip(kinds, before, strict=True):
        kind.__call__ = told(call)
    try:
        yield
    finally:
        for kind, call in zip(kinds, before, strict=True):
            kind.__call__ = call
