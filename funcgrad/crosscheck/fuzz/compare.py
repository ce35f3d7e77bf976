"""Both gradients of one random program, and whether rounding explains their difference."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad.crosscheck.compare import farthest, largest, numbers, rounding
from funcgrad.crosscheck.programs.data import Program
from funcgrad.vjp import vjp as our_vjp

#: Rounding errors allowed: of the element itself, and of what one last place of every intermediate result does to it.
ROUNDINGS = 16.0
#: How often inputs, cotangents and all intermediate results are moved by one last place to learn the conditioning.
NUDGES = 6
#: How a gradient is taken: operation by operation, compiled, or once more differentiated.
MODES = ("eager", "jit", "order 2")
#: Options of compiled gradients: compile fast, they run once.
FAST = {"xla_backend_optimization_level": 0}

#: Operations that round nothing.
EXACT = {"broadcast_in_dim", "reshape", "transpose", "slice", "squeeze", "concatenate", "pad", "gather", "copy", "neg",
         "rev", "select_n", "dynamic_slice", "dynamic_update_slice", "scatter", "split", "real", "imag", "conj",
         "complex", "abs", "max", "min", "sort", "stop_gradient", "copy_p", "name", "expand_dims"}

Vjp = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where two gradients disagree.

    Attributes:
      kind: "values", "nonfinite" (one side only is finite), "types", "funcgrad raises" or "jax raises".
      where: which element ("cotangent of v3[0, 1]").
      ours, theirs: the two values, or the messages of the exceptions.
      allowed: what rounding explains.
    """

    kind: str
    where: str = ""
    ours: Any = None
    theirs: Any = None
    allowed: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} at {self.where}: funcgrad {self.ours!r}, jax {self.theirs!r}, allowed {self.allowed:.2g}"


def has_control(program: Program) -> bool:
    """Whether a statement has functions inside."""
    return any(s.bodies for s in program.function.statements)


def gradient(program: Program, vjp: Vjp, mode: str, oracle: bool, wiggle: Callable[[Any], Any] | None = None) -> list:
    """The cotangents of the inputs, flat.

    Args:
      program: what is differentiated.
      vjp: `jax.vjp` or `funcgrad.vjp`.
      mode: of `MODES`.
      oracle: whether to use expressions that JAX can differentiate.
      wiggle: applied to inputs, cotangents and each intermediate result.
    """
    args = program.args() if wiggle is None else wiggle(program.args())
    run = gradient_function(program, vjp, mode, oracle, wiggle)
    if mode == "jit":
        return jax.jit(run, compiler_options=FAST)(*args)
    # without functions inside, operations run one by one: their compiled forms are shared by all programs
    with contextlib.nullcontext() if has_control(program) else jax.disable_jit():
        return run(*args)


def gradient_function(program: Program, vjp: Vjp, mode: str, oracle: bool,
                      wiggle: Callable[[Any], Any] | None = None) -> Callable[..., list]:
    """The cotangents as a function of the inputs; see `gradient`."""
    fun, cts = program.callable(oracle, wiggle), program.cts()
    if wiggle is not None:
        cts = wiggle(cts)

    def first(*args: Any) -> list:
        return [ct for ct in vjp(fun, *args)[1](cts) if ct.dtype != jax.dtypes.float0]

    def second(*args: Any) -> list:
        out, pull = vjp(first, *args)
        return [ct for ct in pull([jnp.full_like(leaf, 0.5) for leaf in out]) if ct.dtype != jax.dtypes.float0]

    return second if mode == "order 2" else first


def compare(program: Program, mode: str = "eager", ours: Vjp = our_vjp) -> Difference | None:
    """What differs between both gradients and is not explained by rounding; None when they agree.

    Args:
      program: what is differentiated.
      mode: of `MODES`.
      ours: the implementation under test, for tests of this tester.
    """
    theirs, refusal = _attempt(lambda: gradient(program, jax.vjp, mode, oracle=True))
    mine, failure = _attempt(lambda: gradient(program, ours, mode, oracle=False))
    if failure is not None or refusal is not None:
        if failure is not None and refusal is not None:
            return None
        return Difference("jax raises" if failure is None else "funcgrad raises", "", _words(failure), _words(refusal))
    suspect = _differences(program, mine, theirs, None)
    if suspect is None or suspect.kind == "types":
        return suspect
    return _differences(program, mine, theirs, spread(program, mode, theirs))


def _attempt(run: Callable[[], list]) -> tuple[list, Exception | None]:
    try:
        return [np.asarray(leaf) for leaf in run()], None
    except Exception as error:  # whatever it is, it is told
        return [], error


def _words(error: Exception | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {str(error)[:300]}"


def spread(program: Program, mode: str, centre: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How far JAX's gradient moves when inputs, cotangents and intermediate results move by one ulp."""
    runs = (_attempt(functools.partial(gradient, program, jax.vjp, mode, True,
                                       functools.partial(wiggled, rng=np.random.default_rng(draw))))
            for draw in range(NUDGES))
    return farthest(centre, (near for near, error in runs if error is None))


def cancels(program: Program, mode: str) -> bool:
    """Whether JAX's gradient is as far from ours as it moves when its program rounds each operation otherwise.

    Then the difference is rounding inside JAX's rules, where terms cancel: `1 - tanh(x)**2` far out, say.
    """
    run = gradient_function(program, jax.vjp, mode, oracle=True)
    centre = [np.asarray(leaf) for leaf in gradient(program, jax.vjp, mode, oracle=True)]
    mine = [np.asarray(leaf) for leaf in gradient(program, our_vjp, mode, oracle=False)]
    jaxpr = jax.make_jaxpr(run)(*program.args())
    runs = (rounded_otherwise(jaxpr.jaxpr, jaxpr.consts, program.args(), np.random.default_rng(draw))
            for draw in range(NUDGES))
    moved = list(map(np.fmax, spread(program, mode, centre), farthest(centre, runs)))
    return _differences(program, mine, centre, moved) is None


def rounded_otherwise(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], rng: np.random.Generator) -> list:
    """Run a program of JAX's, each result moved by one unit in the last place."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        operands = list(map(read, equation.invars))
        inner = equation.params.get("jaxpr")
        if equation.primitive.name in ("jit", "pjit") and inner is not None:
            results = rounded_otherwise(inner.jaxpr, inner.consts, operands, rng)
        else:
            found = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
            results = list(found) if equation.primitive.multiple_results else [found]
            if equation.primitive.name not in EXACT:
                results = wiggled(results, rng, underflow=True)
        values.update(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def wiggled(value: Any, rng: np.random.Generator, underflow: bool = False) -> Any:
    """A value with each element moved by one unit in the last place, up or down; or also by the smallest number."""

    def move(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        signs = rng.choice([-1.0, 1.0], leaf.shape)
        moved = leaf * jnp.asarray(1 + signs * float(jnp.finfo(leaf.dtype).eps), leaf.dtype)
        if underflow and leaf.dtype == jnp.float16:  # the one dtype whose smallest numbers are met
            moved += jnp.asarray(signs * float(jnp.finfo(leaf.dtype).smallest_subnormal), leaf.dtype)
        return moved

    return jax.tree.map(move, value)


def _differences(program: Program, mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray],
                 spreads: Sequence[np.ndarray] | None) -> Difference | None:
    names = [v.name for v in program.function.inputs if v.inexact]
    if [(leaf.shape, leaf.dtype) for leaf in mine] != [(leaf.shape, leaf.dtype) for leaf in theirs]:
        return Difference("types", "", [f"{a.dtype}{a.shape}" for a in mine], [f"{a.dtype}{a.shape}" for a in theirs])
    eps = _coarsest(program)
    for i, (leaf, other) in enumerate(zip(mine, theirs, strict=True)):
        given, wanted = numbers(leaf), numbers(other)
        if not given.size:
            continue
        info = jnp.finfo(other.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            moved = 1e-3 * largest(wanted) * float(info.eps) if spreads is None else spreads[i]
            allowed = rounding(wanted, max(eps, float(info.eps)), float(info.tiny), moved, ROUNDINGS)
            same = (given == wanted) | (np.abs(given - wanted) <= allowed) | (np.isnan(given) & np.isnan(wanted))
            same |= ~np.isfinite(given) & ~np.isfinite(wanted)  # NaN here and infinity there: no number either way
        if not np.all(same):
            index = tuple(int(k) for k in np.argwhere(~same)[0])
            finite = np.isfinite(given[index]) and np.isfinite(wanted[index])
            place = f"{names[i]}{list(index) if index else ''}"
            return Difference("values" if finite else "nonfinite", f"cotangent of {place}", given[index].item(),
                              wanted[index].item(), float(np.broadcast_to(allowed, given.shape)[index]))
    return None


def _coarsest(program: Program) -> float:
    """The largest machine epsilon in the program: of its variables, and of casts inside expressions."""
    text = str(program)
    names = {v.dtype for s in program.function.statements for v in s.results if v.inexact}
    names |= {name for name in ("bfloat16", "float16") if f"'{name}'" in text}
    return max((float(jnp.finfo(name).eps) for name in names), default=0.0)
