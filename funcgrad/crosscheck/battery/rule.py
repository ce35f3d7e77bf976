"""``check_rule(f, *args)``: everything that can be wrong with one derivative rule, asked one question at a time."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive

from funcgrad import transforms
from funcgrad.crosscheck.battery import items
from funcgrad.crosscheck.battery.items import Finding, Item, Leaves, Subject
from funcgrad.crosscheck.check import check
from funcgrad.crosscheck.report import Report, Row, Verdict
from funcgrad.errors import MissingRuleError
from funcgrad.extend import Function

Array = Any
PRIMAL_BODY = "autodiff of the primal body"
SECOND_ORDER = "at order 2"
BOUNDARY = "at boundary values"
AGREE = "funcgrad and jax agree"

#: Questions that need nothing but the rule itself, by the name that stands in the report.
ITEMS: dict[str, Item] = {
    "number, shape and dtype of cotangents": items.types,
    "value under differentiation": items.value,
    "additive in the cotangent": items.additive,
    "homogeneous in the cotangent": items.homogeneous,
    "zero to zero": items.zero_to_zero,
    "one output at a time (symbolic zeros)": items.one_output_at_a_time,
    "one input at a time": items.one_input_at_a_time,
    "inputs untouched": items.inputs_untouched,
    "deterministic": items.deterministic,
    "under jit": items.under_jit,
    "under vmap": items.under_vmap,
    "inside scan": items.inside_scan,
    "in low precision": items.in_low_precision,
}
#: Errors that say that there is no derivative, rather than a wrong one.
NO_DERIVATIVE = (MissingRuleError, NotImplementedError)


#: Every question, by the name under which it can be asked alone.
QUESTIONS = (*ITEMS, AGREE, PRIMAL_BODY, SECOND_ORDER, BOUNDARY)


def check_rule(f: Any, *example_args: Any, params: dict[str, Any] | None = None,
               questions: Sequence[str] = QUESTIONS, seed: int = 0) -> Report:
    """The battery for one rule.

    It is compared with autodiff of its primal body (and with finite differences in float64), must be linear in the
    cotangent, treat symbolic and explicit zeros alike, give cotangents of the right number, shape and dtype, leave its
    inputs alone, be deterministic, and do the same under `jit`, `vmap`, inside `scan`, at order 2, in low precision and
    at boundary values (0, -0, tiny, huge, ties).

    Args:
      f: a `jax.custom_vjp` or `jax.custom_jvp` function, a subclass of `funcgrad.extend.Function`, a primitive, or any
        function that calls one.
      *example_args: arrays and pytrees of arrays at which it is looked at; integers and keys stay fixed.
      params: the primitive's params.
      questions: which questions are asked, of `funcgrad.crosscheck.battery.QUESTIONS`; default: all.
      seed: of random cotangents.

    Returns:
      A `Report` with one row for each question; `oracle` is the question.

    Raises:
      TypeError: when `f` cannot be called, or no argument is floating or complex.
      ValueError: for an unknown question.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def clipped(x):
    ...     return 2.0 * x
    >>> clipped.defvjp(lambda x: (2.0 * x, None), lambda _, ct: (jnp.clip(2.0 * ct, -1.0, 1.0),))
    >>> report = check_rule(clipped, jnp.array([0.3, -1.5]))
    >>> report.ok, "additive in the cotangent" in [row.oracle for row in report.failing]
    (False, True)
    """
    unknown = [question for question in questions if question not in QUESTIONS]
    if unknown:
        raise ValueError(f"unknown question {unknown[0]!r}.\nTo fix: choose from {', '.join(QUESTIONS)}.")
    function, name, line = _described(f, params)
    fun, xs, rebuilt = _flattened(function, example_args, name)
    battery = _Battery(name, line, tuple(questions))
    sides = _sides(fun, xs, seed)
    rows: list[Row] = []
    for side, subject in sides.items():
        rows += battery.questions(side if len(sides) > 1 and isinstance(f, Primitive) else "", subject)
        if not isinstance(f, Primitive):
            break  # both run the same rule
    if len(sides) == 2 and AGREE in questions:
        rows.append(battery.agreement(sides["jax"], sides["funcgrad"]))
    rows += battery.truth(rebuilt, xs)
    return Report(name, tuple(rows))


def _described(f: Any, params: dict[str, Any] | None) -> tuple[Callable[..., Any], str, str]:
    """The rule as a function, its name, and where it is defined."""
    if isinstance(f, Primitive):
        primitive, given = f, params or {}
        return lambda *args: primitive.bind(*args, **given), str(f), ""
    if params is not None:
        raise TypeError("`params` belongs to a primitive.\nTo fix: leave it out, or pass the primitive itself.")
    if isinstance(f, type) and issubclass(f, Function):
        return f.apply, f.__name__, _line(f.forward)
    if not callable(f):
        raise TypeError(f"check_rule needs a function or a primitive, got {type(f).__name__}.\n"
                        "To fix: pass the custom_vjp or custom_jvp function itself.")
    return f, getattr(f, "__name__", type(f).__name__), _line(f)


def _line(f: Any) -> str:
    code = getattr(inspect.unwrap(f), "__code__", None)
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}" if code is not None else ""


def _flattened(function: Callable[..., Any], args: tuple[Any, ...],
               name: str) -> tuple[Callable[..., Leaves], Leaves, Callable[..., Leaves]]:
    """The function on its floating leaves, those leaves, and the same function under its own name."""
    leaves, tree = jax.tree.flatten(args)
    leaves = [jnp.asarray(leaf) if isinstance(leaf, bool | int | float | complex | np.ndarray | np.generic) else leaf
              for leaf in leaves]
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not moving:
        raise TypeError(f"`{name}` has no floating or complex argument here.\nTo fix: pass floating arrays.")

    def flat(*xs: Array) -> Leaves:
        full = dict(enumerate(leaves)) | dict(zip(moving, xs, strict=True))
        out = function(*jax.tree.unflatten(tree, full.values()))
        return [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]

    def named(*xs: Array) -> Leaves:
        return flat(*xs)

    named.__name__ = name
    return flat, [leaves[i] for i in moving], named


def _sides(fun: Callable[..., Leaves], xs: Leaves, seed: int) -> dict[str, Subject]:
    """Who can differentiate this at all; an error that is no refusal is a finding, and comes again."""
    found = {}
    for side, vjp in (("jax", jax.vjp), ("funcgrad", transforms.vjp)):
        subject = Subject(fun, xs, vjp, seed)
        try:
            subject.pull(xs, subject.random_cts())
        except NO_DERIVATIVE:
            continue
        except Exception as error:
            if "not implemented" in str(error).lower():
                continue
        found[side] = subject
    return found or {"jax": Subject(fun, xs, jax.vjp, seed)}


@dataclasses.dataclass(frozen=True)
class _Battery:
    """Rows of one rule."""

    name: str
    line: str
    asked: tuple[str, ...]

    def questions(self, side: str, subject: Subject) -> list[Row]:
        """One row for each item; an exception is an answer."""
        return [self._row(f"{question}, {side}" if side else question, self._asked(item, subject), side)
                for question, item in ITEMS.items() if question in self.asked]

    def _asked(self, item: Item, subject: Subject) -> Finding | None:
        try:
            return item(subject)
        except NO_DERIVATIVE as error:
            return Finding(_first_line(error), verdict=Verdict.UNSUPPORTED)
        except Exception as error:
            return Finding(f"{type(error).__name__}: {_first_line(error)}")

    def agreement(self, first: Subject, second: Subject) -> Row:
        """Whether JAX and funcgrad run the same rule to the same end."""

        def compared(subject: Subject) -> Finding | None:
            cts = subject.random_cts()
            return items.first_difference(second.pull(second.xs, cts), first.pull(first.xs, cts),
                                          "funcgrad's cotangent is not jax's", items.OPERAND, first.moved(cts))

        return self._row(AGREE, self._asked(compared, first), "")

    def _row(self, question: str, finding: Finding | None, side: str) -> Row:
        if finding is None:
            return Row(Verdict.MATCH, self.name, line=self.line, oracle=question)
        return Row(finding.verdict, self.name, line=self.line, cotangent=finding.where, oracle=question,
                   subject=side or "both", theirs=finding.given, truth=finding.wanted, allowed=finding.allowed,
                   reason=finding.reason)

    # -- against the truth --

    def truth(self, fun: Callable[..., Leaves], xs: Leaves) -> list[Row]:
        """Against the primal body: where the caller stands, there at order 2, and at boundary values."""
        rows = [self._judged(PRIMAL_BODY, fun, xs, 1)] if PRIMAL_BODY in self.asked else []
        if SECOND_ORDER in self.asked:
            rows.append(self._judged(SECOND_ORDER, fun, xs, 2))
        return [*rows, self._at_boundaries(fun, xs)] if BOUNDARY in self.asked else rows

    def _judged(self, question: str, fun: Callable[..., Leaves], xs: Leaves, order: int) -> Row:
        try:
            report = check(fun, *xs, order=order)
        except Exception as error:
            return self._row(question, Finding(f"{type(error).__name__}: {_first_line(error)}"), "")
        blamed = report.blamed
        if blamed is not None:
            return self._renamed(blamed, question)
        unsupported = next((row for row in report.rows if row.verdict is Verdict.UNSUPPORTED), None)
        if unsupported is not None and all(row.verdict is Verdict.UNSUPPORTED for row in report.rows):
            return self._renamed(unsupported, question)
        conventions = [row for row in report.rows if row.verdict is Verdict.CONVENTION]
        return self._renamed(conventions[0], question) if conventions else self._row(question, None, "")

    def _renamed(self, row: Row, question: str, more: str = "") -> Row:
        known = f" (known by {row.oracle})" if row.oracle else ""
        return dataclasses.replace(row, name=self.name, line=self.line or row.line, oracle=question,
                                   reason=f"{more}{row.reason}{known}")

    def _at_boundaries(self, fun: Callable[..., Leaves], xs: Leaves) -> Row:
        """Wrong is a rule that differs from a truth that is known and finite there."""
        for point, values in items.boundary_points(xs):
            try:
                report = check(fun, *values)
            except Exception:  # outside the function's domain
                continue
            for row in report.failing:
                if row.truth is not None and math.isfinite(abs(row.truth)):
                    wrong = dataclasses.replace(row, verdict=Verdict.WRONG)
                    return self._renamed(wrong, BOUNDARY, f"all operands {point}: ")
        return self._row(BOUNDARY, None, "")


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\nTo fix")[0]
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:3])
