"""Floor 2: the program that a trace records: nodes in order, no arrays inside, frozen and hashable.

Values are numbered in the order in which the trace met them. A value is an input, a captured constant (an array that
depends on no input), or the output of a node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.errors import shortened
from funcgrad.watching import pulls_of

Aval = Any


class Params(dict):
    """A primitive's params: a dict that is never written to, and hashes."""

    __slots__ = ("_hash",)
    _hash: int

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash = hash(tuple((key, _hash_or_identity(self[key])) for key in sorted(self)))
            return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Params) or self.keys() != other.keys():
            return False
        return all(_same(self[key], other[key]) for key in self)


def _hash_or_identity(value: Any) -> int:
    try:
        return hash(value)
    except TypeError:
        return id(value)


def _same(mine: Any, theirs: Any) -> bool:
    if mine is theirs:
        return True
    try:
        return bool(mine == theirs)
    except (TypeError, ValueError):  # arrays inside: no single truth value
        return False


@dataclasses.dataclass(frozen=True)
class Literal:
    """A scalar constant that stands in the program itself. Equal when bits, dtype and weak type are."""

    value: Any = dataclasses.field(compare=False)
    aval: Aval
    bits: bytes

    @staticmethod
    def of(value: Any) -> Literal:
        """The literal of a host scalar."""
        aval = _compat.typeof(value)
        return Literal(_compat.with_shape(value), aval, np.asarray(value, aval.dtype).tobytes())

    def __repr__(self) -> str:
        return f"{np.asarray(self.value).item()}"


#: What a node reads: the number of a value, or a literal.
Operand = int | Literal


@dataclasses.dataclass(frozen=True)
class PullbackSpec:
    """The static part of a node's own pullback, and where its leaves are among the graph's values."""

    tree: Any
    leaves: tuple[int | Literal, ...]


@dataclasses.dataclass(frozen=True)
class Node:
    """One recorded operation.

    Attributes:
      primitive, params: what was bound.
      operands: values read.
      active: for each operand, whether a cotangent flows to it.
      outputs: numbers of the outputs.
      out_active: for each output, whether it can have a cotangent.
      hidden: numbers of the residuals that only the node's own pullback reads (higher-order primitives).
      pullback: for higher-order primitives, the pullback's static part.
      rerunnable: whether the operation can be run again from its operands.
      setting: the mesh, place and marks that were in force, None where there was none.
      source: where the user's program was; not part of the node's identity.
    """

    primitive: Primitive
    params: Params
    operands: tuple[Operand, ...]
    active: tuple[bool, ...]
    outputs: tuple[int, ...]
    out_active: tuple[bool, ...]
    hidden: tuple[int, ...] = ()
    pullback: PullbackSpec | None = None
    rerunnable: bool = True
    setting: Any = None
    source: Any = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def line(self) -> str:
        """``file.py:12 in `function``` of the user's code."""
        return _compat.source_line(self.source)

    @property
    def called(self) -> str:
        """The operation as a person calls it: the primitive, or a function with a rule of its own by its name."""
        if self.primitive not in (p.custom_jvp_call_p, p.custom_vjp_call_p):
            return str(self.primitive)
        program = self.params.get("call_jaxpr")
        name = program.jaxpr.debug_info.func_name if program is not None else self.params.get("name")
        return str(self.primitive) if name in (None, "<lambda>") else name


@dataclasses.dataclass(frozen=True)
class Graph:
    """An immutable SSA program, equal to another when its structure is.

    Attributes:
      name: the traced function's name.
      inputs: numbers of the inputs.
      active: for each input, whether a cotangent flows to it.
      captured: numbers of the constants that came from outside.
      nodes: the operations, in the order in which they ran.
      outputs: what the function returned.
      avals: for each value its shape, dtype and weak type.
    """

    name: str
    inputs: tuple[int, ...]
    active: tuple[bool, ...]
    captured: tuple[int, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Operand, ...]
    avals: tuple[Aval, ...] = dataclasses.field(repr=False)

    @cached_property
    def _hash(self) -> int:
        return hash((self.inputs, self.active, self.captured, self.nodes, self.outputs, self.avals))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Graph) or hash(self) != hash(other):
            return False
        return (self.inputs, self.active, self.captured, self.outputs, self.avals, self.nodes) == (
            other.inputs, other.active, other.captured, other.outputs, other.avals, other.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __str__(self) -> str:
        return format_graph(self)

    @cached_property
    def out_active(self) -> tuple[bool, ...]:
        """For each output, whether it can have a cotangent that reaches an input."""
        active = {v for v, flag in zip(self.inputs, self.active, strict=True) if flag}
        active |= {v for node in self.nodes for v, flag in zip(node.outputs, node.out_active, strict=True) if flag}
        return tuple(v in active for v in self.outputs)

    @cached_property
    def producers(self) -> dict[int, int]:
        """For each value that a node computes, the node's index."""
        return {v: i for i, node in enumerate(self.nodes) for v in (*node.outputs, *node.hidden)}


@lru_cache(maxsize=1024)
def _is_inexact(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def carries_gradient(aval: Aval) -> bool:
    """True for what can have a cotangent: real and complex arrays, and values of a hijax type that says so."""
    if isinstance(aval, jax.core.ShapedArray):
        return _is_inexact(aval.dtype)
    if not isinstance(aval, _compat.HiType):
        return False
    ct: Aval = aval.to_ct_aval()
    return isinstance(ct, _compat.HiType) or carries_gradient(ct)


# ---- printing ----


def value_name(number: int) -> str:
    """a, b, …, z, aa, ab, … for a value's number."""
    name = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        name = chr(97 + letter) + name
    return name


def format_graph(graph: Graph) -> str:
    """The program as text, one line for each node, with the user's source lines."""

    def typed(value: int) -> str:
        return f"{value_name(value)}:{graph.avals[value].str_short()}"

    lines = [f"{graph.name}({', '.join(map(typed, graph.inputs))}) {{"]
    if graph.captured:
        lines.append(f"  captured {', '.join(map(typed, graph.captured))}")
    lines.extend(_format_node(node, typed) for node in graph.nodes)
    lines.append(f"  return {', '.join(map(_operand_name, graph.outputs))}")
    return "\n".join([*lines, "}"])


def _operand_name(operand: Operand) -> str:
    return value_name(operand) if isinstance(operand, int) else repr(operand)


def _format_node(node: Node, typed: Any) -> str:
    outputs = ", ".join(map(typed, node.outputs)) or "()"
    params = ", ".join(f"{k}={shortened(v, 40)}" for k, v in node.params.items() if v is not None)
    hidden = f"  keeps {', '.join(map(typed, node.hidden))}" if node.hidden else ""
    operands = " ".join(map(_operand_name, node.operands))
    bracket = f"[{params}]" if params else ""
    pulls = "".join(f"pull {operation}, " for _, operation in reversed(pulls_of(node.source)))
    return f"  {outputs} = {node.primitive}{bracket} {operands}{hidden}  # {pulls}{node.line}"
