"""JAX programs as plain data: they print as Python that runs, and run as they print.

A `Program` is a list of statements over typed variables, and the numbers it is run at.
"""

from __future__ import annotations

import dataclasses
import functools
import linecache
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: What a printed program begins with. The two helpers give a function a rule of its own, a right one.
PREAMBLE = '''\
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

jax.config.update("jax_enable_x64", True)


def with_custom_vjp(fun):
    wrapped = jax.custom_vjp(fun)
    wrapped.defvjp(lambda *args: (fun(*args), args), lambda args, ct: jax.vjp(fun, *args)[1](ct))
    return wrapped


def with_custom_jvp(fun):
    wrapped = jax.custom_jvp(fun)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(fun, primals, tangents))
    return wrapped
'''


@dataclasses.dataclass(frozen=True, order=True)
class Variable:
    """A typed variable; variables are numbered across a whole program, bodies included."""

    number: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """How it prints."""
        return f"v{self.number}"

    @property
    def inexact(self) -> bool:
        """Whether a cotangent can flow through it."""
        return bool(jnp.issubdtype(self.dtype, jnp.inexact))


@dataclasses.dataclass(frozen=True)
class Value:
    """An array as data: dtype, shape, and its elements as Python numbers that are rounded to the dtype."""

    dtype: str
    shape: tuple[int, ...]
    numbers: tuple[Any, ...]

    @staticmethod
    def of(array: Any) -> Value:
        """The data of an array."""
        array = np.asarray(array)
        wide = array.astype(np.float64) if array.dtype.kind == "V" or str(array.dtype) == "bfloat16" else array
        return Value(str(array.dtype), array.shape, tuple(wide.ravel().tolist()))

    def array(self) -> jax.Array:
        """The array."""
        return jnp.asarray(np.array(self.numbers).reshape(self.shape), dtype=self.dtype)

    def source(self) -> str:
        """The array as an expression."""
        if not self.shape:
            return f"jnp.array({_number(self.numbers[0])}, '{self.dtype}')"
        flat = ", ".join(map(_number, self.numbers))
        tail = "" if len(self.shape) == 1 else f".reshape({', '.join(map(str, self.shape))})"
        return f"jnp.array([{flat}], '{self.dtype}'){tail}"


def _number(value: Any) -> str:
    if isinstance(value, complex):
        return f"complex({_number(value.real)}, {_number(value.imag)})"
    if isinstance(value, float) and not math.isfinite(value):
        return "jnp.nan" if math.isnan(value) else "jnp.inf" if value > 0 else "-jnp.inf"
    return repr(value)


@dataclasses.dataclass(frozen=True)
class Statement:
    """One assignment.

    Attributes:
      op: what it is called in the catalogue ("sin", "scan").
      template: the expression; ``{0}`` is the first operand, ``{f0}`` the first body.
      operands: what it reads, bodies not counted.
      results: what it assigns; several when the expression is a tuple.
      bodies: local functions that it needs.
      oracle: another expression of the same value that JAX can differentiate; empty when `template` is one.
    """

    op: str
    template: str
    operands: tuple[Variable, ...]
    results: tuple[Variable, ...]
    bodies: tuple[Function, ...] = ()
    oracle: str = ""

    def lines(self, oracle: bool = False, noise: bool = False) -> Iterator[str]:
        """The statement as Python."""
        target = self.results[0].number
        names = {f"f{i}": f"f{target}_{i}" for i in range(len(self.bodies))}
        for name, body in zip(names.values(), self.bodies, strict=True):
            yield from body.lines(name, oracle, noise)
        template = self.oracle if oracle and self.oracle else self.template
        value = template.format(*(v.name for v in self.operands), **names)
        yield f"{', '.join(v.name for v in self.results)} = {f'wiggle({value})' if noise else value}"

    def reads(self) -> set[Variable]:
        """Operands, and what the bodies read from outside."""
        return set(self.operands).union(*(body.free() for body in self.bodies))


@dataclasses.dataclass(frozen=True)
class Function:
    """Parameters, statements and what is returned."""

    inputs: tuple[Variable, ...]
    statements: tuple[Statement, ...]
    outputs: tuple[Variable, ...]

    def lines(self, name: str, oracle: bool = False, noise: bool = False) -> Iterator[str]:
        """The function as Python."""
        yield f"def {name}({', '.join(v.name for v in self.inputs)}):"
        for statement in self.statements:
            yield from (f"    {line}" for line in statement.lines(oracle, noise))
        yield f"    return {', '.join(v.name for v in self.outputs)}"

    def free(self) -> set[Variable]:
        """Variables of an enclosing function."""
        bound = set(self.inputs).union(*(s.results for s in self.statements))
        return set(self.outputs).union(*(s.reads() for s in self.statements)) - bound

    def ops(self) -> list[str]:
        """The operations in order, those of bodies before their statement's."""
        return [op for s in self.statements for op in (*(o for body in s.bodies for o in body.ops()), s.op)]


@dataclasses.dataclass(frozen=True, repr=False)
class Program:
    """A function, where it is evaluated, and the cotangents of its outputs.

    Attributes:
      function: the program proper.
      values: one for each input of `function`.
      cotangents: one for each output, which are all real or complex.
    """

    function: Function
    values: tuple[Value, ...]
    cotangents: tuple[Value, ...]

    def __str__(self) -> str:
        return "\n".join(self.function.lines("program"))

    def __repr__(self) -> str:  # what Hypothesis shows of a failure
        return f"Program of {len(self.function.statements)} statements:\n{self.script()}"

    def args(self) -> list[jax.Array]:
        """The arrays of `values`."""
        return [value.array() for value in self.values]

    def cts(self) -> tuple[jax.Array, ...] | jax.Array:
        """The arrays of `cotangents`, in the structure of the output."""
        arrays = tuple(value.array() for value in self.cotangents)
        return arrays if len(arrays) > 1 else arrays[0]

    def callable(self, oracle: bool = False, wiggle: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
        """The function as Python runs it.

        Args:
          oracle: use expressions that JAX can differentiate (its reverse mode has no `while_loop`).
          wiggle: applied to what each statement gives.
        """
        text = "\n".join(self.function.lines("program", oracle, noise=wiggle is not None)) + "\n"
        scope = dict(namespace(), wiggle=wiggle)
        name = f"<program {hash(text) & 0xFFFFFFFF:08x}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), scope)
        return scope["program"]

    def script(self) -> str:
        """A Python program that compares both gradients and shows them."""
        several = len(self.cotangents) > 1
        cts = ", ".join(value.source() for value in self.cotangents)
        lines = [PREAMBLE, "", *self.function.lines("program"), "", ""]
        theirs = "program"
        if any(s.oracle for s in _all_statements(self.function)):
            theirs = "oracle"
            lines += ["# The same function in words that jax.vjp can differentiate.",
                      *self.function.lines("oracle", oracle=True), "", ""]
        lines += ["args = [", *(f"    {value.source()}," for value in self.values), "]",
                  f"ct = ({cts})" if several else f"ct = {cts}", "", "if __name__ == \"__main__\":",
                  "    import funcgrad", "",
                  "    print(\"value   \", program(*args))",
                  f"    print(\"jax     \", jax.vjp({theirs}, *args)[1](ct))",
                  "    print(\"funcgrad\", funcgrad.vjp(program, *args)[1](ct))"]
        return "\n".join(lines) + "\n"

    def trimmed(self) -> Program:
        """The same program without statements and inputs that no output depends on."""
        needed = set(self.function.outputs)
        kept: list[Statement] = []
        for statement in reversed(self.function.statements):
            if needed.intersection(statement.results):
                kept.append(statement)
                needed |= statement.reads()
        pairs = [(v, value) for v, value in zip(self.function.inputs, self.values, strict=True) if v in needed]
        function = Function(tuple(v for v, _ in pairs), tuple(reversed(kept)), self.function.outputs)
        return Program(function, tuple(value for _, value in pairs), self.cotangents)


def _all_statements(function: Function) -> Iterator[Statement]:
    for statement in function.statements:
        yield statement
        for body in statement.bodies:
            yield from _all_statements(body)


@functools.cache
def _namespace() -> dict[str, Any]:
    scope: dict[str, Any] = {}
    text = "\n".join(line for line in PREAMBLE.splitlines() if "config.update" not in line)
    exec(compile(text, "<preamble of random programs>", "exec"), scope)
    return scope


def namespace() -> dict[str, Any]:
    """The names that a program may use."""
    return dict(_namespace())
