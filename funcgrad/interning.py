"""Floor 2: programs that look alike become one object.

`lax.scan` and `lax.cond` trace a fresh closure into a fresh jaxpr at each call, and a jaxpr is compared by identity.
The first of all jaxprs of the same structure stands for them, so graphs compare by structure, and nothing is staged or
compiled twice.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from funcgrad import _compat

_FIRST: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
_CANONICAL: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def intern_params(params: dict[str, Any]) -> dict[str, Any]:
    """Params with each program replaced by the first of its structure."""
    return {key: _intern(value) for key, value in params.items()}


def _intern(value: Any) -> Any:
    if isinstance(value, ClosedJaxpr):
        return intern_jaxpr(value)
    if isinstance(value, tuple) and any(isinstance(entry, ClosedJaxpr) for entry in value):
        entries = map(_intern, value)
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    return value


def intern_jaxpr(jaxpr: Any) -> Any:
    """The first closed jaxpr of this structure, on the same source lines."""
    found = _CANONICAL.get(jaxpr)
    if found is None:
        found = _FIRST.setdefault(structure(jaxpr), jaxpr)
        _CANONICAL[jaxpr] = found
    return found


class Structure(tuple):
    """A jaxpr's structure as a tuple whose hash is computed once."""

    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash = super().__hash__()
            return self._hash


def structure(jaxpr: Any) -> Structure:
    """A hashable description of a closed jaxpr; programs with constants are equal only to themselves."""
    inner, constants = (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())
    numbers: dict[Any, int] = {}
    for variable in (*inner.constvars, *inner.invars):
        numbers[variable] = len(numbers)
    equations = []
    for eqn in inner.eqns:
        operands = tuple(_atom(atom, numbers) for atom in eqn.invars)
        for variable in eqn.outvars:
            numbers[variable] = len(numbers)
        # `ctx` is what was in force: the mesh, the place, how random bits are made. JAX has one object for each.
        equations.append((eqn.primitive, operands, tuple(v.aval for v in eqn.outvars), _params(eqn.params), eqn.ctx,
                          _compat.source_line(eqn.source_info), str(eqn.source_info.name_stack)))
    return Structure((
        inner.debug_info.func_name, tuple(v.aval for v in (*inner.constvars, *inner.invars)),
        tuple(map(id, constants)), tuple(equations), tuple(_atom(atom, numbers) for atom in inner.outvars)))


def _atom(atom: Any, numbers: dict[Any, int]) -> Hashable:
    if not isinstance(atom, Literal):
        return numbers[atom]
    return atom.aval, np.asarray(atom.val).tobytes()


def _params(params: dict[str, Any]) -> Hashable:
    return tuple((key, _param(params[key])) for key in sorted(params))


def _param(value: Any) -> Hashable:
    if isinstance(value, ClosedJaxpr):
        return id(intern_jaxpr(value))
    if isinstance(value, Jaxpr):
        return structure(value)
    if isinstance(value, tuple) and any(isinstance(entry, ClosedJaxpr) for entry in value):
        return tuple(map(_param, value))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
