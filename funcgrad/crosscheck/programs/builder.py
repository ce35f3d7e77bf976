"""Building a random program: statements are run as they are chosen, so that values stay where operations are defined.

A builder asks one thing of the outside: a number below a bound. Zero is always the simplest choice, so that Hypothesis
shrinks towards simple programs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad.crosscheck.programs.data import Function, Statement, Value, Variable, namespace

Choose = Callable[[int], int]
Families = Mapping[str, Sequence[Callable[["Builder"], Any]]]

#: Main dtypes of a program, and how often each is chosen.
DTYPES = {"float32": 14, "float64": 2, "bfloat16": 1, "float16": 1, "complex64": 2}
SHAPES: tuple[tuple[int, ...], ...] = ((3,), (2, 3), (), (3, 3), (3,), (2, 3), (1, 3), (2, 1), (1,), (0,), (3, 0))
#: Arrays with more elements or dimensions are not made: new shapes are new compilations.
LARGEST, RANK = 12, 3
#: Values beyond this are not computed with, outside of boundaries.
BOUND = {"float16": 30.0, "bfloat16": 100.0}
#: One in so many operands is put on the boundary of the operation's domain.
BOUNDARY_ODDS = 12


@dataclasses.dataclass(frozen=True)
class Domain:
    """Where an operation is smooth, how to get there, and where it ends.

    Attributes:
      inside: whether elements lie inside, away from the boundary.
      mapping: an expression that maps any finite number inside.
      boundary: points on the boundary, and one beside it.
    """

    inside: Callable[[np.ndarray], np.ndarray]
    mapping: str
    boundary: tuple[float, ...]


#: A smooth map of all numbers into (-1, 1) that never levels off.
SOFT = "{0} / (1 + jnp.abs({0}))"
DOMAINS = {
    "real": Domain(lambda x: np.abs(x) < 20, f"5 * {SOFT}", (0.0, -0.0, 1.0, 1.0, -1.0)),
    "small": Domain(lambda x: np.abs(x) < 3, f"2 * {SOFT}", (0.0, -0.0, 1.0, 2.0)),
    "positive": Domain(lambda x: (x > 0.1) & (x < 20), f"1 + 0.8 * {SOFT}", (0.0, 1.0, 0.0)),
    "nonzero": Domain(lambda x: (np.abs(x) > 0.1) & (np.abs(x) < 20), f"jnp.where({{0}} < 0, -0.5, 0.5) + {SOFT}",
                      (0.0, -0.0, 1.0)),
    "unit": Domain(lambda x: np.abs(x) < 0.9, f"0.8 * {SOFT}", (1.0, -1.0, 0.0)),
    "half": Domain(lambda x: (x > 0.1) & (x < 0.9), f"0.5 + 0.4 * {SOFT}", (0.0, 1.0, 0.5)),
    "above one": Domain(lambda x: (x > 1.1) & (x < 20), f"2 + 0.8 * {SOFT}", (1.0, 2.0)),
    "disc": Domain(lambda x: (np.abs(x) > 0.1) & (np.abs(x) < 2), SOFT, (0.0, 1.0)),
}


class Unfit(Exception):
    """What was chosen cannot be built here; something else is tried."""


def wide(array: Any) -> np.ndarray:
    """As float64 or complex128; integers as they are."""
    array = np.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return array
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


class Builder:
    """Statements so far, and the values of all variables; a body's builder has the enclosing one as `parent`."""

    def __init__(self, choose: Choose, dtype: str, table: Families, parent: Builder | None = None,
                 closed: bool = False) -> None:
        self.choose, self.dtype, self.table, self.parent = choose, dtype, table, parent
        self.root: Builder = self if parent is None else parent.root
        self.scope: dict[str, Any] = namespace() if parent is None else parent.scope
        self.variables: list[Variable] = [] if parent is None or closed else list(parent.variables)
        self.inputs: list[Variable] = []
        self.values: list[Value] = []
        self.statements: list[Statement] = []
        self.counter = 0
        self.closed = closed

    # -- choices --

    def one_of(self, options: Sequence[Any]) -> Any:
        """One of the options, the first being the simplest."""
        if not options:
            raise Unfit("nothing to choose from")
        return options[self.choose(len(options))]

    def chance(self, odds: int) -> bool:
        """True once in `odds` times."""
        return self.choose(odds) == odds - 1

    def value_of(self, variable: Variable) -> np.ndarray:
        """The value at which the program is built, widened."""
        return wide(self.scope[variable.name])

    # -- variables --

    def fresh(self, dtype: str, shape: tuple[int, ...]) -> Variable:
        """A new variable."""
        self.root.counter += 1
        return Variable(self.root.counter - 1, dtype, shape)

    def parameter(self, array: Any) -> Variable:
        """A new parameter of this function, which has this value while it is built."""
        array = jnp.asarray(array)
        variable = self.fresh(str(array.dtype), array.shape)
        self.scope[variable.name] = array
        self.inputs.append(variable)
        self.variables.append(variable)
        return variable

    def input(self, value: Value) -> Variable:
        """A new input of the whole program."""
        if self.closed:
            raise Unfit("this function may not read variables of another one")
        array = value.array()
        variable = self.fresh(value.dtype, value.shape)
        self.root.scope[variable.name] = array
        self.root.inputs.append(variable)
        self.root.values.append(value)
        level: Builder | None = self
        while level is not None:
            level.variables.append(variable)
            level = level.parent
        return variable

    def numbers(self, shape: tuple[int, ...], dtype: str) -> Value:
        """Random numbers: mostly scattered, at times ties and zeros."""
        size = math.prod(shape)
        kind = self.choose(8)
        rng = np.random.default_rng(self.choose(1000))
        drawn = rng.choice([0.0, 1.0, 1.0, -1.0, 2.0, -0.0], size) if kind == 7 else np.round(
            rng.standard_normal(size), 2)
        if dtype.startswith("complex"):
            return Value(dtype, shape, tuple((drawn + 1j * np.round(rng.standard_normal(size), 2)).tolist()))
        return Value(dtype, shape, tuple(drawn.tolist()))

    def indices(self, shape: tuple[int, ...], bound: int, out_of_range: bool = False) -> Variable:
        """An integer input with elements below `bound`; at times duplicates, and numbers out of range."""
        low, high = (-bound - 1, 2 * bound) if out_of_range else (0, max(bound, 1))
        drawn = tuple(low + self.choose(max(high - low, 1)) for _ in range(math.prod(shape)))
        return self.input(Value("int32", shape, drawn))

    def mask(self, shape: tuple[int, ...]) -> Variable:
        """A boolean: a comparison of a variable of this shape with zero, or an input."""
        there = [v for v in self.variables if v.shape == shape and v.inexact and not v.dtype.startswith("complex")]
        if there and not self.chance(3):
            return self.apply("gt", "{0} > 0", self.one_of(there))
        return self.input(Value("bool", shape, tuple(bool(self.choose(2)) for _ in range(math.prod(shape)))))

    # -- operands --

    def operand(self, *, where: Callable[[Variable], bool] = lambda v: True, domain: str | None = "real",
                shape: tuple[int, ...] | None = None, dtype: str | None = None) -> Variable:
        """A variable that fits, inside a domain; made from another one, or a new input, when there is none.

        Args:
          where: what must hold for the variable.
          domain: of `DOMAINS`; None for any value.
          shape: the shape it must have.
          dtype: the dtype it must have; default: the program's.
        """
        dtype = dtype or self.dtype
        fits = [v for v in self.variables if v.dtype == dtype and (shape is None or v.shape == shape) and where(v)]
        if fits and not self.chance(8):
            # later variables are likelier: programs should be deep, and share
            variable = fits[-1 - min(self.choose(len(fits)), self.choose(len(fits)))]
        else:
            shapes = [s for s in SHAPES if where(Variable(-1, dtype, s))] if shape is None else [shape]
            variable = self.input(self.numbers(self.one_of(shapes), dtype))
        return variable if domain is None else self.within(variable, domain)

    def within(self, variable: Variable, domain: str) -> Variable:
        """The variable, mapped into a domain when it is outside, or once in a while a point on its boundary."""
        if variable.dtype.startswith("complex"):
            domain = "disc"
        rule = DOMAINS[domain]
        if not self.closed and self.chance(BOUNDARY_ODDS):
            count = math.prod(variable.shape)
            start = self.choose(len(rule.boundary))
            points = tuple(rule.boundary[(start + i) % len(rule.boundary)] for i in range(count))
            return self.input(Value(variable.dtype, variable.shape, points))
        if np.all(rule.inside(self.value_of(variable))):
            return variable
        return self.apply("into " + domain, rule.mapping, variable)

    # -- statements --

    def apply(self, op: str, template: str, *operands: Variable, bodies: tuple[Function, ...] = (),
              oracle: str = "") -> Variable:
        """Append a statement with one result."""
        return self.apply_several(op, template, *operands, bodies=bodies, oracle=oracle)[0]

    def apply_several(self, op: str, template: str, *operands: Variable, bodies: tuple[Function, ...] = (),
                      oracle: str = "") -> tuple[Variable, ...]:
        """Append a statement, run; its results are new variables.

        Raises:
          Unfit: when it cannot be run, or its results are too large or no numbers.
        """
        number = self.root.counter
        trial = Statement(op, template, operands, (Variable(number, "", ()),), bodies, oracle)
        try:
            with jax.disable_jit():  # each operation by itself: their compiled forms are shared by all programs
                exec("\n".join(trial.lines()), self.scope)
        except (TypeError, ValueError, IndexError, ZeroDivisionError, NotImplementedError) as error:
            raise Unfit(str(error)) from error
        value = self.scope[f"v{number}"]
        arrays = [jnp.asarray(leaf) for leaf in (value if isinstance(value, tuple | list) else [value])]
        self._judge(arrays, operands)
        results = tuple(self.fresh(str(array.dtype), array.shape) for array in arrays)
        self.scope.update((v.name, array) for v, array in zip(results, arrays, strict=True))
        self.statements.append(Statement(op, template, operands, results, bodies, oracle))
        self.variables.extend(results)
        return results

    def _judge(self, arrays: Sequence[jax.Array], operands: Sequence[Variable]) -> None:
        for array in arrays:
            if array.size > LARGEST or array.ndim > RANK or array.weak_type:
                raise Unfit("too large, or weakly typed")
            if not jnp.issubdtype(array.dtype, jnp.inexact):
                continue
            values = wide(array)
            if not np.all(np.abs(values) < BOUND.get(str(array.dtype), 1e3)):  # NaN fails too
                at_edge = any(v in self.root.inputs for v in operands)
                if not (at_edge and np.all(np.isfinite(values))):
                    raise Unfit("values out of bounds")

    # -- bodies --

    def body(self, samples: Sequence[Any], statements: int, families: Sequence[str], closed: bool,
             finish: Callable[[Builder], Sequence[Variable]]) -> Function:
        """A local function: parameters with these sample values, some statements, and what `finish` returns."""
        inner = Builder(self.choose, self.dtype, self.table, self, closed)
        for sample in samples:
            inner.parameter(sample)
        inner.extend(1 + self.choose(statements), families)
        outputs = tuple(finish(inner))
        return Function(tuple(inner.inputs), tuple(inner.statements), outputs)

    def fit(self, dtype: str, shape: tuple[int, ...]) -> Variable:
        """A variable of this type that depends on what was computed last."""
        last = next((v for v in reversed(self.variables) if v.inexact), None)
        if last is None:
            raise Unfit("nothing to return")
        if (last.dtype, last.shape) == (dtype, shape):
            return self.apply("soft", SOFT, last)
        real = ".real" if last.dtype.startswith("complex") and not dtype.startswith("complex") else ""
        mean = "jnp.mean" if math.prod(last.shape) else "jnp.sum"
        return self.apply("fit", f"jnp.full({shape}, {mean}({{0}}{real}), '{dtype}') / 20", last)

    def extend(self, count: int, families: Sequence[str]) -> None:
        """Append up to `count` operations of these families."""
        for _ in range(count):
            for _attempt in range(4):
                statements, variables, inputs = len(self.statements), len(self.variables), len(self.root.inputs)
                try:
                    self.one_of(self.table[self.one_of(families)])(self)
                    break
                except Unfit:
                    del self.statements[statements:], self.variables[variables:]
                    if self.root is self:
                        del self.inputs[inputs:], self.values[inputs:]
