"""Operations that hold programs: which, under what name among their params, and all that runs inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from funcgrad import _compat

#: Operations that do nothing but run the program in this param.
RUNS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "checkpoint": "jaxpr",
        "remat": "jaxpr", "remat2": "jaxpr"}
#: Those whose derivative a user may have written, and the param with the primal body.
CUSTOM = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def closed(program: Any) -> Any:
    """A program with its constants; `remat` holds one without."""
    return program if hasattr(program, "consts") else _compat.closed(program)


def equations_in(params: Mapping[str, Any]) -> Iterator[Any]:
    """The equations of all programs in some params, and of those inside."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            program = getattr(item, "jaxpr", item)
            for eqn in getattr(program, "eqns", ()):
                yield eqn
                yield from equations_in(eqn.params)
