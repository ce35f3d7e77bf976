"""``check(fun, *args)``: is this gradient right, and if not, whose rule is to blame?"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _compat
from funcgrad.checks import check_callable
from funcgrad.crosscheck.compare import is_inexact, numbers
from funcgrad.crosscheck.judging.blame import Settings, judged_sweep, row_of
from funcgrad.crosscheck.judging.judge import judge
from funcgrad.crosscheck.judging.second import second_order
from funcgrad.crosscheck.oracles import DEFAULT, JaxReverse, ManyDigits, Oracle
from funcgrad.crosscheck.problem import Problem, whole_problem
from funcgrad.crosscheck.recording import record
from funcgrad.crosscheck.report import Report, Row, Verdict
from funcgrad.crosscheck.trusting import trusting
from funcgrad.errors import MissingRuleError
from funcgrad.graph import Graph, Node
from funcgrad.pullback import sweep
from funcgrad.trees import canonical_argnums, split_arguments
from funcgrad.vjp import Recording

Array = Any


def check(fun: Callable[..., Any], *args: Any, argnums: int | Sequence[int] | None = None, order: int = 1,
          ct: Any = None, depth: Literal["local", "global"] = "local", oracles: Sequence[Oracle] = DEFAULT,
          tolerance: float = 1.0, seed: int = 0, trusted: Sequence[str] = (), **kwargs: Any) -> Report:
    """Judge the gradient of ``fun(*args, **kwargs)``: of the whole function, and of each operation in it.

    The function runs once. Every operation is judged at the operands and cotangents that really occurred, against
    oracles that share no code with the rule; then the whole gradient is.

    Args:
      fun: a function of arrays and pytrees of arrays; it may return any pytree of arrays.
      *args: where it is judged.
      argnums: which arguments are differentiated; default: all, their floating and complex leaves.
      order: 1, or 2 to judge derivatives of the derivatives too.
      ct: the cotangent of the output; default: 1 for a real scalar, else random.
      depth: "local" judges each operation; "global" the whole gradient, and the operations only if that is not right:
        much cheaper when all is well.
      oracles: whom to ask.
      tolerance: factor on the rounding that is allowed.
      seed: of random directions and cotangents.
      trusted: rules that differ from their primal body on purpose: patterns of a name or ``path/of/file.py:name``.
      **kwargs: handed on to `fun`.

    Returns:
      A `Report`. Its first failing row is the first wrong operation in the order of the backward sweep.

    Raises:
      ValueError: for an `order` other than 1 and 2 or an unknown `depth`.
      TypeError: when no leaf of the chosen arguments is floating or complex.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def cube(x):
    ...     return x**3
    >>> cube.defvjp(lambda x: (cube(x), x), lambda x, ct: (2 * x**2 * ct,))
    >>> report = check(lambda x: jnp.sum(cube(x)), jnp.array([1.0, 2.0]))
    >>> report.ok, report.blamed.name, report.blamed.subject
    (False, 'cube', 'both')
    """
    check_callable(fun)
    _check_options(order, depth)
    if not args:
        raise TypeError(f"`{_name(fun)}` is given no arguments.\nTo fix: pass those at which its gradient is judged.")
    numbers_of = tuple(range(len(args))) if argnums is None else canonical_argnums(argnums)
    chosen_numbers = (numbers_of,) if isinstance(numbers_of, int) else tuple(numbers_of)
    partial, chosen = split_arguments(fun, chosen_numbers, args, kwargs)
    leaves, tree = jax.tree.flatten(chosen)
    leaves = list(map(_compat.canonicalize, leaves))
    if not any(map(_is_float, leaves)):
        raise TypeError(
            f"`{_name(fun)}` has no floating or complex argument to differentiate: "
            f"{', '.join(_compat.typeof(leaf).str_short() for leaf in leaves) or 'no arguments'}.\n"
            "To fix: pass floating arrays, or choose others with `argnums`.")
    names = [_label(path, chosen_numbers) for path, _ in jax.tree.leaves_with_path(chosen)]

    def flat(*values: Array) -> list[Array]:
        return jax.tree.leaves(partial(*jax.tree.unflatten(tree, values)))

    settings = Settings(tuple(oracles), order, tolerance, seed)
    with trusting([trusted] if isinstance(trusted, str) else trusted):
        return _Check(fun, flat, leaves, names, ct, depth, settings).report()


def _check_options(order: int, depth: str) -> None:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}.")
    if depth not in ("local", "global"):
        raise ValueError(f'depth must be "local" or "global", got {depth!r}.')


@dataclasses.dataclass(frozen=True, eq=False)
class _Check:
    """One call of `check`, its arguments flat."""

    fun: Callable[..., Any]
    flat: Callable[..., list[Array]]
    leaves: list[Array]
    names: list[str]
    ct: Any
    depth: str
    settings: Settings

    def report(self) -> Report:
        """All rows."""
        name = _name(self.fun)
        try:
            recording = record(self.flat, self.leaves, name, list(map(_is_float, self.leaves)))
        except MissingRuleError as error:
            return Report(name, (Row(Verdict.UNSUPPORTED, name, reason=str(error).splitlines()[0]),))
        cts = self._cotangents(recording)
        if self.depth == "global":
            found = sweep(recording.graph, recording.read, cts)
            rows = self._whole(recording, cts, found)
            if not any(row.failing for row in rows):
                return Report(name, tuple([*rows, *_dead(recording, found, self.names)]))
        rows, found = judged_sweep(recording, cts, self.settings, mapped=_is_vmap(self.fun))
        whole = self._whole(recording, cts, found)
        return Report(name, tuple([*_in_context(rows, whole), *whole, *_dead(recording, found, self.names)]))

    def _cotangents(self, recording: Recording) -> list[Array | None]:
        """A cotangent for each output that carries a gradient."""
        given = None if self.ct is None else jax.tree.leaves(self.ct)
        if given is not None and len(given) != len(recording.outputs):
            raise ValueError(f"`ct` has {len(given)} leaves, the output of `{recording.graph.name}` has "
                             f"{len(recording.outputs)}.\nTo fix: give it the structure of the output.")
        active = recording.graph.out_active
        if given is not None:
            return [jnp.asarray(ct, out.dtype) if flag else None
                    for ct, out, flag in zip(given, recording.outputs, active, strict=True)]
        rng = np.random.default_rng(self.settings.seed)
        scalar = len(recording.outputs) == 1 and recording.outputs[0].shape == ()
        return [_seed(out, rng, scalar) if flag else None
                for out, flag in zip(recording.outputs, active, strict=True)]

    def _whole(self, recording: Recording, cts: list[Array | None], found: list[Array | None]) -> list[Row]:
        """The rows of the whole gradient."""
        if all(ct is None for ct in cts):
            return []
        problem: Problem | None = whole_problem(recording, self.flat, cts, found)
        rows: list[Row] = []
        for order in range(1, self.settings.order + 1):
            if problem is not None and order > 1:
                problem = second_order(problem, self.settings.seed, refuted=any(row.failing for row in rows))
            if problem is None:
                break
            rows += self._judged(problem, recording, order)
            if any(row.failing and row.subject != "jax" for row in rows):
                break
        return rows

    def _judged(self, problem: Problem, recording: Recording, order: int) -> list[Row]:
        settings, graph = self.settings, recording.graph
        moving = [i for i, flag in enumerate(graph.active) if flag]
        mapped = _mapped_axes(self.fun)
        rows = []
        for judgement in judge(problem, settings.oracles, settings.tolerance, settings.seed):
            inside = judgement.position < len(moving)
            what = f"cotangent of {self.names[moving[judgement.position]]}" if inside else (
                f"cotangent of the cotangent {judgement.position - len(moving)}")
            batch = judgement.index[0] if mapped and judgement.index else None
            place = (f"vmap index {batch}",) if batch is not None and judgement.verdict is Verdict.WRONG else ()
            rows.append(row_of(judgement, problem, what, place, order, None))
        return rows


def _in_context(rows: list[Row], whole: list[Row]) -> list[Row]:
    """The operations' rows in the light of the whole gradient.

    A NaN inside that does not reach the gradient (`where` takes the other branch) is nobody's fault. Nor is a rule of
    JAX that is right only for the operands which the program gives it (`eigh` after symmetrizing), when JAX's whole
    gradient is right; nor a slope that is lost where it counts for nothing.
    """
    if not whole or any(row.verdict is Verdict.NONFINITE for row in whole):
        return rows
    right = all(row.verdict in (Verdict.MATCH, Verdict.CONVENTION) for row in whole)
    agreed = right and all(row.oracle.endswith(JaxReverse().name) for row in whole)
    found = []
    for row in rows:
        if row.verdict is Verdict.NONFINITE:
            row = dataclasses.replace(row, verdict=Verdict.UNSUPPORTED, snippet="",
                                      reason="not finite here, but masked later: the whole gradient is finite")
        elif row.verdict is Verdict.WRONG and right and row.oracle == ManyDigits().name and row.subject != "funcgrad":
            row = dataclasses.replace(row, verdict=Verdict.CONVENTION, snippet="",
                                      reason=f"{row.reason}; but it counts for nothing in the whole gradient")
        elif row.verdict is Verdict.WRONG and ((row.subject == "jax" and right) or (row.subject == "" and agreed)):
            row = dataclasses.replace(row, verdict=Verdict.CONVENTION, snippet="",
                                      reason="jax's rule differs from the derivative of this operation alone, but its "
                                      "whole gradient is right")
        found.append(row)
    return found


# ---- paths that are cut ----


def _dead(recording: Recording, found: Sequence[Array | None], names: Sequence[str]) -> list[Row]:
    """A row for each argument that no gradient can reach, with the operations that cut the path."""
    graph = recording.graph
    rows = []
    for position, (ct, flag) in enumerate(zip(found, graph.active, strict=True)):
        if not flag or ct is not None:
            continue
        cut = _cutting(graph, position)
        words = " and ".join(f"`{node.primitive}` at {node.line}" for node in cut[:3])
        reason = f"the path is cut by {words}" if cut else "the output does not depend on it"
        name = cut[0].params.get("name", cut[0].primitive.name) if cut else graph.name
        rows.append(Row(Verdict.DEAD, str(name), line=cut[0].line if cut else "",
                        cotangent=f"cotangent of {names[position]}", reason=reason))
    return rows


def _cutting(graph: Graph, start: int) -> list[Node]:
    """The first operations on the way from an input whose results carry no gradient."""
    reached = {graph.inputs[start]}
    cut = []
    for node in graph.nodes:
        if reached.isdisjoint(v for v in node.operands if isinstance(v, int)):
            continue
        if any(node.out_active):
            reached.update(node.outputs)
        else:
            cut.append(node)
    return cut


# ---- small helpers ----


def _is_float(leaf: Any) -> bool:
    dtype = _compat.typeof(leaf).dtype
    return not _compat.is_extended(dtype) and is_inexact(leaf)


def _label(path: Any, argnums: tuple[int, ...]) -> str:
    first = argnums[path[0].idx]
    return f"primals[{first}]{jax.tree_util.keystr(path[1:])}"


def _seed(out: Array, rng: np.random.Generator, scalar: bool) -> Array:
    """1 for a real scalar, else random numbers away from zero."""
    if scalar and not np.iscomplexobj(numbers(out)):
        return jnp.ones((), out.dtype)
    arrow = rng.uniform(0.5, 1.5, out.shape) * rng.choice([-1.0, 1.0], out.shape)
    if np.iscomplexobj(numbers(out)):
        arrow = arrow * np.exp(1j * rng.uniform(0, 2 * np.pi, out.shape))
    return jnp.asarray(arrow, out.dtype)


def _name(fun: Callable[..., Any]) -> str:
    return str(getattr(fun, "__name__", type(fun).__name__))


def _is_vmap(fun: Callable[..., Any]) -> bool:
    """Whether a function is what `jax.vmap` gives back."""
    return getattr(getattr(fun, "__code__", None), "co_name", "") == "vmap_f"


def _mapped_axes(fun: Callable[..., Any]) -> Any:
    """The `in_axes` of a `jax.vmap`, None for any other function."""
    if not _is_vmap(fun):
        return None
    return inspect.getclosurevars(fun).nonlocals.get("in_axes", 0)
