"""Making a failing program small: fewer outputs, fewer statements, values in the place of computations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from funcgrad.crosscheck.programs.data import Function, Program, Statement, Value, Variable

Fails = Callable[[Program], bool]


def reduced(program: Program, fails: Fails, trials: int = 120) -> Program:
    """The smallest program found that still fails.

    Args:
      program: fails.
      fails: whether a program shows the same failure; may raise for programs that do not run.
      trials: how often it is asked at most.
    """
    left = trials

    def still(candidate: Program) -> bool:
        nonlocal left
        left -= 1
        try:
            return fails(candidate)
        except Exception:  # a program that cannot be run shows nothing
            return False

    progress = True
    while progress and left > 0:
        progress = False
        for candidate in _smaller(program):
            if left <= 0:
                break
            if still(candidate):
                program, progress = candidate, True
                break
    return program


def _smaller(program: Program) -> Iterator[Program]:
    values = trace_values(program)
    yield from _single_statements(program, values)
    yield from _bodies_alone(program, values)
    yield from _fewer_outputs(program)
    yield from _shorter(program, values)
    yield from _shorter_bodies(program)
    yield from _simpler_values(program)


def trace_values(program: Program) -> dict[Variable, Any]:
    """The value of each variable of the program proper."""
    every = [v for s in program.function.statements for v in s.results]
    if not every:
        return {}
    whole = dataclasses.replace(program, function=dataclasses.replace(program.function, outputs=tuple(every)))
    results = whole.callable()(*program.args())
    return dict(zip(every, results if len(every) > 1 else [results], strict=True))


def _single_statements(program: Program, values: dict[Variable, Any]) -> Iterator[Program]:
    """Each statement by itself, with values for its operands and a plain cotangent."""
    if len(program.function.statements) < 2:
        return
    given = dict(zip(program.function.inputs, program.values, strict=True))
    for statement in program.function.statements:
        needed = sorted(statement.reads())
        inputs = tuple(given[v] if v in given else Value.of(values[v]) for v in needed)
        outputs = tuple(v for v in statement.results if v.inexact)
        if outputs:
            function = Function(tuple(needed), (statement,), outputs)
            yield Program(function, inputs, tuple(map(_cotangent, outputs)))


def _bodies_alone(program: Program, values: dict[Variable, Any]) -> Iterator[Program]:
    """Each body by itself: its parameters have the values of operands of their types, or one row of such."""
    known = values | {v: value.array() for v, value in zip(program.function.inputs, program.values, strict=True)}
    for statement in program.function.statements:
        for body in statement.bodies:
            outputs = tuple(dict.fromkeys(v for v in body.outputs if v.inexact))
            free = tuple(sorted(body.free()))
            for row in (0, 1, 2) if outputs else ():
                given = [_argument(parameter, [known[v] for v in statement.operands], row) for parameter in body.inputs]
                if all(value is not None for value in given):
                    inputs = tuple(map(Value.of, [*given, *(known[v] for v in free)]))
                    function = Function(body.inputs + free, body.statements, outputs)
                    yield Program(function, inputs, tuple(map(_cotangent, outputs))).trimmed()


def _argument(parameter: Variable, operands: list[Any], row: int) -> Any | None:
    """A value for the parameter of a body; None where no operand has its type."""
    for operand in (operand for operand in operands if operand.dtype == parameter.dtype):
        if operand.shape == parameter.shape:
            return operand
        if operand.shape[1:] == parameter.shape and operand.ndim and len(operand):
            return operand[min(row, len(operand) - 1)]
    return None


def _cotangent(variable: Variable) -> Value:
    drawn = np.round(np.random.default_rng(1).standard_normal(math.prod(variable.shape)), 1) + 0.05
    turned = drawn * (1 + 0.5j) if variable.dtype.startswith("complex") else drawn
    return Value(variable.dtype, variable.shape, tuple(turned.tolist()))


def _fewer_outputs(program: Program) -> Iterator[Program]:
    outputs = program.function.outputs
    if len(outputs) > 1:
        for i, output in enumerate(outputs):
            function = dataclasses.replace(program.function, outputs=(output,))
            yield Program(function, program.values, (program.cotangents[i],)).trimmed()


def _shorter(program: Program, values: dict[Variable, Any]) -> Iterator[Program]:
    """Without one statement: its results become inputs, or are replaced by operands of their types."""
    function = program.function
    for i in reversed(range(len(function.statements))):
        statement = function.statements[i]
        rest = function.statements[:i] + function.statements[i + 1:]
        if set(statement.results) & set(function.outputs):
            for operand in statement.operands:
                if len(statement.results) == 1 and (operand.dtype, operand.shape) == (
                        statement.results[0].dtype, statement.results[0].shape):
                    outputs = tuple(operand if v == statement.results[0] else v for v in function.outputs)
                    if len(set(outputs)) == len(outputs):
                        yield dataclasses.replace(
                            program, function=Function(function.inputs, rest, outputs)).trimmed()
            continue
        inputs = function.inputs + statement.results
        promoted = program.values + tuple(Value.of(values[v]) for v in statement.results)
        yield Program(Function(inputs, rest, function.outputs), promoted, program.cotangents).trimmed()


def _shorter_bodies(program: Program) -> Iterator[Program]:
    """With one statement of a body replaced by one of its operands."""
    for i, statement in enumerate(program.function.statements):
        for j, body in enumerate(statement.bodies):
            for smaller in _without_one(body):
                bodies = statement.bodies[:j] + (smaller,) + statement.bodies[j + 1:]
                changed = dataclasses.replace(statement, bodies=bodies)
                statements = program.function.statements[:i] + (changed,) + program.function.statements[i + 1:]
                yield dataclasses.replace(
                    program, function=dataclasses.replace(program.function, statements=statements)).trimmed()


def _without_one(body: Function) -> Iterator[Function]:
    for i in reversed(range(len(body.statements))):
        statement = body.statements[i]
        if len(statement.results) != 1:
            continue
        result = statement.results[0]
        there = [*body.inputs, *statement.operands]
        for other in dict.fromkeys(v for v in there if (v.dtype, v.shape) == (result.dtype, result.shape)):
            rest = [_renamed(s, result, other) for s in body.statements[:i] + body.statements[i + 1:]]
            outputs = tuple(other if v == result else v for v in body.outputs)
            yield Function(body.inputs, tuple(rest), outputs)


def _renamed(statement: Statement, old: Variable, new: Variable) -> Statement:
    operands = tuple(new if v == old else v for v in statement.operands)
    bodies = tuple(Function(b.inputs, tuple(_renamed(s, old, new) for s in b.statements),
                            tuple(new if v == old else v for v in b.outputs)) for b in statement.bodies)
    return dataclasses.replace(statement, operands=operands, bodies=bodies)


def _simpler_values(program: Program) -> Iterator[Program]:
    for i, value in enumerate(program.values):
        if not jax.numpy.issubdtype(value.dtype, jax.numpy.inexact):
            continue
        for digits in (0, 1, 2):
            rounded = tuple(_rounded(x, digits) for x in value.numbers)
            if rounded != value.numbers and all(math.isfinite(abs(x)) for x in value.numbers):
                values = program.values[:i] + (dataclasses.replace(value, numbers=rounded),) + program.values[i + 1:]
                yield dataclasses.replace(program, values=values)
    ones = tuple(dataclasses.replace(ct, numbers=(1.0,) * len(ct.numbers)) for ct in program.cotangents)
    if ones != program.cotangents:
        yield dataclasses.replace(program, cotangents=ones)


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, complex):
        return complex(round(value.real, digits), round(value.imag, digits))
    return round(value, digits)
