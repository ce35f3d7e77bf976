"""The records of an explanation: a run, its steps, and the edges along which cotangents flow."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from funcgrad.graph import Graph
from funcgrad.inspection.naming import operand_name
from funcgrad.inspection.values import Summary


@dataclasses.dataclass(frozen=True)
class Edge:
    """One operand of a step.

    Attributes:
      operand: its number in the graph, None for a literal.
      name, value: what it is.
      active: whether a cotangent flows along this edge.
      partial: the local partial, where the operation has one: it is elementwise, or a scalar of a scalar.
      contribution: what the edge adds to the operand's cotangent: the partial times the output's cotangent.
    """

    operand: int | None
    name: str
    value: Summary
    active: bool
    partial: Summary | None = None
    contribution: Summary | None = None

    def to_dict(self) -> dict[str, Any]:
        """The edge in types that JSON has."""
        return {"name": self.name, "value": self.value.to_dict(), "active": self.active,
                "partial": _dict(self.partial), "contribution": _dict(self.contribution)}


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation of the run.

    Attributes:
      operation: the primitive's name; for a program inside the program also what it is called.
      names, values, cotangents: of its outputs. A cotangent is None where none arrives.
      edges: its operands.
      line: where the user's program was; where that is a library's line, also the user's own that led there.
      expression: the source text that ran.
      inner: for a program inside the program (`jit`, a taken branch) its own explanation.
      pull: its backward step as a program, where that was asked for.
    """

    operation: str
    names: tuple[str, ...]
    values: tuple[Summary, ...]
    cotangents: tuple[Summary | None, ...]
    edges: tuple[Edge, ...]
    line: str
    expression: str
    inner: Run | None = None
    pull: Pull | None = None

    def to_dict(self) -> dict[str, Any]:
        """The step in types that JSON has."""
        outputs = [{"name": name, "value": value.to_dict(), "cotangent": _dict(ct)}
                   for name, value, ct in zip(self.names, self.values, self.cotangents, strict=True)]
        found = {"operation": self.operation, "outputs": outputs, "operands": [e.to_dict() for e in self.edges],
                 "line": self.line, "expression": self.expression}
        return found if self.inner is None else {**found, "inner": self.inner.to_dict()}


@dataclasses.dataclass(frozen=True)
class Pull:
    """The backward step of one operation as a program of its own.

    Attributes:
      run: the program with its numbers.
      values, cts: its inputs: values of the forward program that it reads, then values whose cotangents it is given.
      slots: for each of its outputs the operand whose cotangent it is.
    """

    run: Run
    values: tuple[int, ...]
    cts: tuple[int, ...]
    slots: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and its backward sweep.

    Attributes:
      graph: the recorded program.
      names: for each value of the graph what it is called.
      values, cotangents: for each value of the graph; the last are None where no cotangent arrives.
      steps: one for each node, in order.
    """

    graph: Graph
    names: tuple[str, ...]
    values: tuple[Summary, ...]
    cotangents: tuple[Summary | None, ...]
    steps: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything in types that JSON has."""
        def value(number: int) -> dict[str, Any]:
            return {"name": self.names[number], "value": self.values[number].to_dict(),
                    "cotangent": _dict(self.cotangents[number])}

        return {"function": self.graph.name, "inputs": [value(v) for v in self.graph.inputs],
                "constants": [value(v) for v in self.graph.captured],
                "steps": [step.to_dict() for step in self.steps],
                "outputs": [operand_name(v, self.names) for v in self.graph.outputs]}

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as JSON text; NaN and infinities are strings."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)


def _dict(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else summary.to_dict()
