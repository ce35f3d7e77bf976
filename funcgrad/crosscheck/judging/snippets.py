"""A failing row as a program of its own, with JAX, NumPy and funcgrad and nothing else.

The operation is written down as the primitives that it is made of. Where a custom rule belongs to it, `primal` is its
body and `rule` is what the rule computes, so that the two stand side by side without the user's module.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import Literal as JaxprLiteral
from jax.extend.core import primitives

from funcgrad.crosscheck.compare import is_inexact
from funcgrad.crosscheck.held import CUSTOM, RUNS, closed
from funcgrad.crosscheck.oracles import attempt
from funcgrad.crosscheck.problem import Problem, our_vjp

#: Arrays with more elements altogether are not written down.
MOST_ELEMENTS = 400
#: More operations make no snippet.
MOST_OPERATIONS = 200
#: Operations of which the program inside is written down.
_HELD = RUNS | CUSTOM
HEADER = ("import jax", "import jax.numpy as jnp", "import numpy as np",
          "from jax.extend.core import primitives as p", "", "import funcgrad", "", "nan, inf = np.nan, np.inf")


class Unwritable(Exception):
    """A param or an operation that has no short spelling."""


def snippet(problem: Problem, position: int, index: tuple[int, ...], truth: complex | None) -> str:
    """Python source that shows the values side by side; nothing where the operation cannot be written down.

    Args:
      problem: what was judged.
      position, index: the element to show.
      truth: what it should be, None where nobody knows.
    """
    return attempt(lambda: _written(problem, position, index, truth)) or ""


def _written(problem: Problem, position: int, index: tuple[int, ...], truth: complex | None) -> str:
    values, cts = problem.values, problem.cts
    if sum(np.size(x) for x in (*values, *cts)) > MOST_ELEMENTS:
        raise Unwritable("large arrays")
    names, ct_names = [f"x{i}" for i in range(len(values))], [f"ct{i}" for i in range(len(cts))]
    lines = [*HEADER]
    if any(x.dtype in (np.float64, np.complex128, np.int64) for x in map(np.asarray, (*values, *cts))):
        lines.append('jax.config.update("jax_enable_x64", True)')
    lines += [f"{name} = {_array(x)}" for name, x in zip((*names, *ct_names), (*values, *cts), strict=True)]
    lines += ["", "", *_function("primal", jax.make_jaxpr(problem.fun)(*values), names)]
    element = f"[{position}]" + (f"[{', '.join(map(str, index))}]" if index else "")
    seeds = f"[{', '.join(ct_names)}]"
    given = ", ".join(names)
    if problem.primitives & CUSTOM.keys():
        rule = jax.make_jaxpr(lambda *x: our_vjp(problem.fun, x[: len(values)], x[len(values):]))(*values, *cts)
        lines += ["", "", *_function("rule", rule, [*names, *ct_names])]
        shown = [("the rule", f"rule({given}, {', '.join(ct_names)})"),
                 ("autodiff of the primal", f"jax.vjp(primal, {given})[1]({seeds})")]
    else:
        shown = [("jax", f"jax.vjp(primal, {given})[1]({seeds})"),
                 ("funcgrad", f"funcgrad.vjp(primal, {given})[1]({seeds})")]
    lines += ["", ""] + [f'print("{label + ":":24}", {value}{element})' for label, value in shown]
    if truth is not None:
        lines.append(f'print("{"expected:":24}", {truth!r})')
    return "\n".join(lines) + "\n"


# ---- a jaxpr as Python ----


def _function(name: str, jaxpr: Any, arguments: Sequence[str]) -> list[str]:
    """A closed jaxpr as a Python function that returns a list."""
    lines = [f"def {name}({', '.join(arguments)}):"]
    body: list[str] = []
    results = _statements(jaxpr, list(arguments), body, [0])
    return lines + [f"    {line}" for line in [*body, f"return [{', '.join(results)}]"]]


def _statements(jaxpr: Any, arguments: Sequence[str], body: list[str], counter: list[int]) -> list[str]:
    """Write a program's operations to `body`; the names of its results."""
    env: dict[Any, str] = dict(zip(jaxpr.jaxpr.invars, arguments, strict=True))
    env |= {v: _array(x) for v, x in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True)}

    def read(atom: Any) -> str:
        return _scalar(atom) if isinstance(atom, JaxprLiteral) else env[atom]

    for eqn in jaxpr.jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in _HELD:
            results = _statements(closed(eqn.params[_HELD[name]]), operands, body, counter)
        else:
            if len(body) >= MOST_OPERATIONS:
                raise Unwritable("a long program")
            results = [f"v{counter[0] + i}" for i in range(len(eqn.outvars))]
            counter[0] += len(results)
            params = "".join(f", {key}={literal(value)}" for key, value in eqn.params.items())
            target = ", ".join(results) + ("," if eqn.primitive.multiple_results and len(results) == 1 else "")
            body.append(f"{target} = {_primitive(eqn.primitive)}.bind({', '.join(operands)}{params})")
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


def _primitive(primitive: Any) -> str:
    """The public spelling of a primitive."""
    for name, value in vars(primitives).items():
        if value is primitive:
            return f"p.{name}"
    raise Unwritable(f"`{primitive}` has no public name")


def _scalar(atom: Any) -> str:
    return f'np.asarray({np.asarray(atom.val).item()!r}, jnp.dtype("{atom.aval.dtype.name}"))'


def _array(value: Any) -> str:
    array = np.asarray(value)
    if array.size > MOST_ELEMENTS:
        raise Unwritable("large arrays")
    data = array.tolist()
    if is_inexact(array) and not np.iscomplexobj(array) and array.dtype != np.float64:  # as few digits as tell it apart
        data = np.array([float(str(x)) for x in array.reshape(-1)]).reshape(array.shape).tolist()
    return f'jnp.asarray(np.array({data!r}).reshape({array.shape}), jnp.dtype("{array.dtype.name}"))'


def literal(value: Any) -> str:
    """A param as Python source. Raises Unwritable for what has none."""
    if value is None or isinstance(value, bool | int | str | float):
        return repr(value)
    if isinstance(value, enum.Enum):
        return f"jax.lax.{_public(type(value))}.{value.name}"
    if isinstance(value, np.dtype):
        return f'jnp.dtype("{value.name}")'
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _call(value, value._fields)
    if isinstance(value, tuple | list):
        inner = ", ".join(map(literal, value))
        return f"({inner}{',' if len(value) == 1 else ''})"
    if dataclasses.is_dataclass(value):
        return _call(value, [field.name for field in dataclasses.fields(value)])
    if hasattr(value, "eqns") and not value.constvars:
        avals = ", ".join(f'jax.ShapeDtypeStruct({v.aval.shape}, jnp.dtype("{v.aval.dtype.name}"))'
                          for v in value.invars)
        names = [f"a{i}" for i in range(len(value.invars))]
        body: list[str] = []
        results = _statements(closed(value), names, body, [0])
        if len(body) == 1 and len(results) == 1:
            expression = body[0].partition(" = ")[2]
            return f"jax.make_jaxpr(lambda {', '.join(names)}: {expression})({avals}).jaxpr"
    raise Unwritable(f"a param of type {type(value).__name__}")


def _call(value: Any, fields: Sequence[str]) -> str:
    inner = ", ".join(f"{name}={literal(getattr(value, name))}" for name in fields)
    return f"jax.lax.{_public(type(value))}({inner})"


def _public(kind: type) -> str:
    if getattr(lax, kind.__name__, None) is not kind:
        raise Unwritable(f"{kind.__name__} is not public")
    return kind.__name__
