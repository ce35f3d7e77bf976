"""Floor 0: everything of JAX that is private or moves between versions, each with its reason.

No other file of funcgrad imports ``jax._src``. Nothing here differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax._src import config as _config
from jax._src import core as _core
from jax._src import dtypes as _dtypes
from jax._src import linear_util as _lu
from jax._src import source_info_util as _source

# Symbolic zeros that `custom_vjp` and `custom_jvp` hand to the user's own rules; the user sees `jax.custom_derivatives.
# SymbolicZero`, the flattened rules also give back the internal `Zero`.
from jax._src.ad_util import SymbolicZero as SymbolicZero
from jax._src.ad_util import Zero as Zero
from jax._src.ad_util import replace_rule_output_symbolic_zeros as replace_rule_output_symbolic_zeros

# `jnp` turns host constants into this ndarray with a weak type; the one public constructor is `jnp` itself, which would
# put the constant on the device.
from jax._src.interpreters import partial_eval as _pe
from jax._src.literals import TypedNdArray as TypedNdArray

# The "no sharding given" value of the `jit` primitive's params, needed to give its boundary more outputs.
from jax._src.sharding_impls import UNSPECIFIED as UNSPECIFIED

Aval = Any
Value = Any

#: The bottom trace, which executes at once. Kernels ask whether values are concrete there.
eval_trace = _core.eval_trace

#: dtype of the cotangent of an integer or boolean array.
float0 = _dtypes.float0

#: Private in `jax.core`; the class that binds a user's subfunctions as `WrappedFun`s.
CallPrimitive = _core.CallPrimitive


def typeof(value: Value) -> Aval:
    """The aval of a value (``jax.typeof`` with the fast path that tracers have)."""
    return value.aval if isinstance(value, _core.Tracer) else _core.typeof(value)


def canonicalize(value: Value) -> Value:
    """A valid JAX value of the dtype that JAX would give it; raises TypeError for anything else."""
    return value if isinstance(value, _core.Tracer) else _dtypes.canonicalize_value(value)


def is_extended(dtype: Any) -> bool:
    """True for PRNG keys and other dtypes that are no numbers."""
    return _dtypes.issubdtype(dtype, _dtypes.extended)


def typecompat(expected: Aval, given: Aval) -> bool:
    """True when two avals agree in all but weak type."""
    return _core.typecompat(expected, given)


def typematch(expected: Aval, given: Aval) -> bool:
    """True when two avals agree in all but weak type and sharding axes that vary."""
    return _core.typematch(expected, given)


def is_weakly_typed(value: Value) -> bool:
    """True for values whose dtype gives way to others', such as Python numbers."""
    return _dtypes.is_weakly_typed(value)


def concrete_or_none(value: Value) -> Any:
    """The concrete array behind a value, or None while it is being traced."""
    return _core.to_concrete_value(value)


def trace_context() -> Any:
    """What, besides its arguments, the result of tracing depends on: x64 mode, mesh, axis names, …

    A cache of traced programs must have it in its key. There is no public spelling.
    """
    return _config.trace_context()


def current_source() -> Any:
    """Where the program is now: a traceback without frames' locals, and the name stack."""
    return _source.current()


def source_line(source: Any) -> str:
    """``file.py:12 (function)`` for the user's innermost frame, or ``<unknown>``."""
    frame = _source.user_frame(source.traceback) if source is not None else None
    if frame is None:
        return "<unknown>"
    return f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.start_line} in `{frame.function_name}`"


def hide_frames(path: str) -> None:
    """Do not count files below `path` as the user's when a source line is named."""
    _source.register_exclusion(path)


def stage(fun: Callable[..., Sequence[Value]], avals: Sequence[Aval], name: str) -> Any:
    """The closed jaxpr of ``fun(*flat) -> flat`` at `avals`, without equations that nothing reads.

    `jax.make_jaxpr` would lose the avals' mesh axes and keep dead equations.
    """
    debug = _lu.DebugInfo("funcgrad", name, tuple(f"arg{i}" for i in range(len(avals))), None)
    wrapped = _lu.wrap_init(fun, debug_info=debug._replace(result_paths=None))
    jaxpr, _, consts = _pe.trace_to_jaxpr_dynamic(wrapped, tuple(avals), auto_dce=True)
    return _core.ClosedJaxpr(jaxpr, consts)


def closed(jaxpr: Any) -> Any:
    """A closed jaxpr from a jaxpr without constants (``remat`` holds open ones), the same object each time."""
    return _pe.close_jaxpr(jaxpr)


def abstract_eval(primitive: Any, avals: Sequence[Aval], params: dict[str, Any]) -> list[Aval]:
    """Output avals of one operation, nothing computed."""
    out, _ = primitive.abstract_eval(*avals, **params)
    return list(out) if primitive.multiple_results else [out]


def fold_constant(value: Value, dtype: Any, weak_type: bool) -> Value | None:
    """Convert a host scalar on the host, as JAX's own staging does; None when it is no host scalar."""
    if isinstance(value, _core.Tracer) or np.ndim(value) != 0:
        return None
    if not isinstance(value, bool | int | float | complex | np.generic | np.ndarray):
        return None
    converted = np.asarray(value).astype(dtype)
    return TypedNdArray(converted, _core.ShapedArray((), converted.dtype, weak_type=weak_type))


def to_concrete_error(message: str) -> TypeError:
    """A ``jax.errors.ConcretizationTypeError`` with our words; its constructor wants a tracer and adds JAX's."""
    error = _core.ConcretizationTypeError.__new__(_core.ConcretizationTypeError)
    TypeError.__init__(error, message)
    return error
