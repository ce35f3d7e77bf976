"""Floor 3: the traced value. It carries the value itself, so the user cannot tell it from a number."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.core import Trace, Tracer

from funcgrad import _compat, errors

Value = Any


class _Unknown:
    """The value of a tangent in a linear trace: nobody needs it, so nothing is computed (see `GraphTrace`)."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = _Unknown()


class GraphTracer(Tracer):
    """A value with its place in a graph. The user cannot tell it from a number."""

    __slots__ = ("number", "value")
    cell: Any = None  # what a mutable array holds that was made inside the trace: see `rules.state`

    def __init__(self, trace: Trace, aval: Any, number: int, value: Value):
        self._trace = trace
        self.aval = aval
        self.number = number
        self.value = value

    def to_concrete_value(self) -> Any:
        return None if self.value is UNKNOWN else _compat.concrete_or_none(self.value)

    def get_referent(self) -> Any:
        return self if self.value is UNKNOWN or not isinstance(self.value, Tracer) else self.value.get_referent()

    def cur_qdd(self) -> Any:
        return self.value.cur_qdd()

    def _contents(self) -> list[tuple[str, Any]]:
        return [("value", self.value), *([("cotangent", _compat.PERTURBED)] if self.is_active() else [])]

    def __str__(self) -> str:
        concrete = self.to_concrete_value()
        return repr(self) if concrete is None else str(concrete)

    def __format__(self, spec: str) -> str:
        concrete = self.to_concrete_value()
        if concrete is None:
            return format(str(self), spec)
        return format(concrete.item() if np.ndim(concrete) == 0 and spec else concrete, spec)

    def _short_repr(self) -> str:
        concrete = self.to_concrete_value()
        return f"Traced<{self.aval.str_short()}>" + ("" if concrete is None else f"({concrete})")

    # A conversion to a number of Python or NumPy leaves the graph. That is fine for a value without gradient (an
    # integer, a mask, `stop_gradient(x)`), and a silent loss for any other.

    def __float__(self) -> float:
        return float(self._leaving("float()", "use jax.numpy (jnp.sin for math.sin) or keep the value as an array"))

    def __complex__(self) -> complex:
        return complex(self._leaving("complex()", "use jax.numpy or keep the value as an array"))

    def item(self, *args: Any) -> Any:
        """The value as a Python number; an error where a gradient would be lost."""
        return self._leaving("item()", "keep the value as an array").item(*args)

    def tolist(self) -> Any:
        """The value as Python numbers; an error where a gradient would be lost."""
        return self._leaving("tolist()", "use list(x), whose elements stay traced").tolist()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_active():
            raise errors.array_cut("__array__(), which NumPy calls,", _compat.source_line(_compat.current_source()),
                                   "use jax.numpy in place of numpy")
        concrete = self.to_concrete_value()
        return super().__array__(*args, **kwargs) if concrete is None else np.asarray(concrete, *args, **kwargs)

    def is_active(self) -> bool:
        """Whether a cotangent can flow through this value."""
        return self._trace.active[self.number]

    def _leaving(self, what: str, instead: str) -> Any:
        concrete = self.to_concrete_value()
        if concrete is None or self.is_active():
            raise errors.gradient_cut(what, _compat.source_line(_compat.current_source()), instead)
        return np.asarray(concrete)
