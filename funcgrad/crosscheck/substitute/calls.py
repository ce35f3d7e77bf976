"""One reverse-mode call, taken by both: JAX's answer goes to the user, the comparison to the record.

Outside `jit` the comparison is made at once. Inside, it is a part of the compiled program: a few operations, and a host
callback that carries two booleans when the gradients agree and everything that is needed to judge when they do not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import take_current_trace

from funcgrad import _compat
from funcgrad.crosscheck.report import Verdict
from funcgrad.crosscheck.substitute.agreement import first_sight, is_compared
from funcgrad.crosscheck.substitute.rewind import Rewound
from funcgrad.crosscheck.substitute.rules import Inner, Rule, gradients_inside, rules_called, rules_in
from funcgrad.crosscheck.substitute.session import SIDE, Call, Record, Side, Suspect
from funcgrad.eager import backward
from funcgrad.errors import MissingRuleError
from funcgrad.evaluation import evaluate
from funcgrad.pullback import Pullback, materialize
from funcgrad.trees import split_arguments
from funcgrad.vjp import Recording, record_call

Array = Any
STATIC = {"static": True}
#: JAX's own, whatever stands under their names in a block.
JAX_VJP: Any = jax.vjp
_NOT_THE_USERS = (os.path.dirname(jax.__file__) + os.sep, os.path.dirname(_compat.__file__) + os.sep,
                  contextlib.__file__, functools.__file__)
JAX_HESSIAN: Any = jax.hessian


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Program:
    """The differentiated function, so that it can be run again later, and its arguments.

    Attributes:
      function: of the primals, outside `jit`; a program of (constants, flat primals) where it was traced; or None.
      out_tree: structure of what the program gives; None for a plain function.
      primals, consts: arrays.
    """

    function: Any = dataclasses.field(metadata=STATIC)
    out_tree: Any = dataclasses.field(metadata=STATIC)
    primals: tuple[Any, ...]
    consts: tuple[Any, ...]

    def closed(self) -> Callable[..., Any] | None:
        """The function of the primals alone."""
        if self.out_tree is None:
            return self.function
        return functools.partial(_run_staged, self.function.jaxpr, self.out_tree, self.consts)


@dataclasses.dataclass(frozen=True, eq=False)
class _Staged:
    """A jaxpr that compares by identity."""

    jaxpr: Any


def _run_staged(jaxpr: Any, out_tree: Any, consts: Sequence[Array], *primals: Any) -> Any:
    closed = jaxpr.replace(consts=list(consts))
    return jax.tree.unflatten(out_tree, evaluate(closed, jax.tree.leaves(primals)))


def is_staging() -> bool:
    """Whether operations are being traced now, so that the values are not at hand."""
    with take_current_trace() as trace:
        return trace is not _compat.eval_trace


def is_compiling() -> bool:
    """Whether a program is being traced that will run as a whole, under however many `vmap`s and `jvp`s."""
    with take_current_trace() as trace:
        current: Any = trace
    while current is not None and not type(current).__name__.startswith("DynamicJaxpr"):
        current = getattr(current, "parent_trace", getattr(current, "parent", None))
    return current is not None


def program_of(fun: Callable[..., Any], primals: tuple[Any, ...]) -> Program:
    """`fun` as something that outlives the traces that are open now."""
    if not is_staging():
        return Program(fun, None, primals, ())
    try:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*primals)
    except Exception:  # values that steer Python's control flow under `jvp`: nothing can be said later
        return Program(None, None, primals, ())
    return Program(_Staged(closed), jax.tree.structure(shape), primals, tuple(closed.consts))


# ---- the pullback of both ----


@dataclasses.dataclass(frozen=True, eq=False)
class _Live:
    """funcgrad's pullback of a run whose values are still there."""

    recording: Recording
    in_tree: Any
    fun: Callable[..., Any]

    def __call__(self, ct: Any) -> Any:
        recording = self.recording
        leaves = [None if getattr(leaf, "dtype", None) == _compat.float0 else _compat.canonicalize(leaf)
                  for leaf in jax.tree.leaves(ct)]
        cts = backward(recording, leaves, self.fun)
        return jax.tree.unflatten(self.in_tree, [
            materialize(ct, recording.graph.avals[i]) for i, ct in enumerate(cts)])

    def portable(self) -> Pullback:
        """The same as a pytree."""
        graph = self.recording.graph
        return Pullback(self.recording.pullback("everything"), self.in_tree, self.recording.out_tree,
                        tuple(graph.avals[: len(graph.inputs)]), tuple(self.recording.out_avals))


@jax.tree_util.register_pytree_node_class
class CheckedPullback:
    """JAX's pullback, with funcgrad's beside it; as much a pytree as JAX's is."""

    def __init__(self, theirs: Any, ours: Any, program: Any, about: _About) -> None:
        self._theirs, self._ours, self._program, self._about = theirs, ours, program, about

    def __call__(self, *cts: Any) -> Any:
        """JAX's cotangents of the primals; the comparison goes to the record."""
        about = self._about
        if SIDE.value is Side.FUNCGRAD and len(cts) == 1:
            return self._ours(*cts)
        if SIDE.value is not None:
            return self._theirs(*cts)
        with SIDE(Side.JAX):
            wanted = self._theirs(*cts)
        with about.record.timed():
            try:
                with SIDE(Side.FUNCGRAD):
                    found = self._ours(*cts)
                compare(about, self._program, cts[0], found, wanted)
            except Exception as error:
                unsupported(about, error)
        return wanted

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._theirs, name)

    def tree_flatten(self) -> tuple[tuple[Any, ...], _About]:
        """Both pullbacks' residuals and the function's arguments; where the gradient was asked for."""
        ours = self._ours.portable() if isinstance(self._ours, _Live) else self._ours
        return (self._theirs, ours, self._program), self._about

    @classmethod
    def tree_unflatten(cls, about: _About, children: tuple[Any, ...]) -> CheckedPullback:
        """The pullback again."""
        theirs, ours, program = children
        return cls(theirs, ours, program, about)


@dataclasses.dataclass(frozen=True)
class _About:
    """What a comparison says where it belongs to."""

    record: Record = dataclasses.field(repr=False)
    call: Call
    rules: tuple[Rule, ...] = ()
    inner: tuple[Inner, ...] = ()

    def after_run(self, rules: Sequence[Rule], inside: Sequence[Inner]) -> _About:
        """The same, of a function in whose run these custom rules and inner gradients were met."""
        inner = tuple(each for each in inside if self.record.unjudged(each.rules))
        met = [*rules, *(rule for each in inner for rule in each.rules)]
        return dataclasses.replace(self, rules=self.record.unjudged(met), inner=inner)


def checked_vjp(record: Record, fun: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool) -> Any:
    """What ``jax.vjp`` gives, its pullback compared with funcgrad's whenever it is called."""
    about = _About(record, call_of(fun))
    failure, ours = None, None
    with record.timed(), SIDE(Side.FUNCGRAD), rules_called() as heard, gradients_inside() as inside:
        try:  # first, so that what the function leaves behind in Python's world is of JAX's run
            alone = Rewound.of(without_aux(fun) if has_aux else fun)
            program = program_of(alone, primals)
            recording, in_tree = record_call(program.closed() or alone, primals)
            about = about.after_run([*heard, *rules_in(recording.graph)], inside)
            ours = _Live(recording, in_tree, fun)
        except Exception as error:  # the user's own errors come again from JAX
            failure = error
    with SIDE(Side.JAX):
        out, theirs, *aux = JAX_VJP(fun, *primals, has_aux=has_aux)
    if ours is None:
        unsupported(about, failure)
        return out, theirs, *aux
    return out, CheckedPullback(theirs, ours, program, about), *aux


def checked_hessian(record: Record, fun: Callable[..., Any], argnums: Any, has_aux: bool, options: dict[str, Any],
                    ours: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
    """What ``jax.hessian(fun)`` gives, compared with funcgrad's."""
    about = _About(record, call_of(fun, "hessian"))
    failure, found = None, None
    with record.timed(), SIDE(Side.FUNCGRAD), rules_called() as heard:
        try:
            partial, chosen = split_arguments(fun, argnums, args, kwargs)
            alone = Rewound.of(without_aux(partial) if has_aux else partial)
            program = program_of(alone, chosen)
            numbers = 0 if isinstance(argnums, int) else tuple(range(len(chosen)))
            found = ours(program.closed() or alone, numbers, **options)(*chosen)
            about = about.after_run(heard, ())
        except Exception as error:
            failure = error
    with SIDE(Side.JAX):
        wanted = JAX_HESSIAN(fun, argnums, has_aux=has_aux, **options)(*args, **kwargs)
    if failure is not None:
        unsupported(about, failure)
    else:
        with record.timed():
            compare(about, program, None, found, wanted[0] if has_aux else wanted)
    return wanted


def without_aux(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` without the second part of its output."""
    @functools.wraps(fun)
    def value(*args: Any) -> Any:
        return fun(*args)[0]

    return value


def call_of(fun: Callable[..., Any], kind: str = "vjp") -> Call:
    """Where the user's program is now, and what it differentiates."""
    fun = _without_wrappers(fun)
    name = getattr(fun, "__name__", type(fun).__name__)
    x64 = jax.dtypes.canonicalize_dtype(np.float64).itemsize == 8
    return Call(name, _user_line(), kind, x64)


def _user_line() -> str:
    """The user's line. While `jit` traces, JAX's traceback ends at the traced function, so the frames are walked."""
    line = _compat.source_line(_compat.current_source())
    frame = inspect.currentframe() if line == "<unknown>" else None
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    if frame is None:
        return line
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in `{frame.f_code.co_qualname}`"


def _without_wrappers(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The user's function; JAX's gradient functions hand `vjp` one that fills in the other arguments."""
    if getattr(fun, "__module__", "") == "jax._src.api_util" and inspect.isfunction(fun):
        fun = inspect.getclosurevars(fun).nonlocals.get("f", fun)
    return inspect.unwrap(fun)


def unsupported(about: _About, error: Exception | None) -> None:
    """funcgrad could not take this gradient: one row says why."""
    about.record.count(Verdict.UNSUPPORTED)
    words = str(error).strip().split("\nTo fix")[0]
    if not isinstance(error, MissingRuleError):
        words = f"funcgrad raised {type(error).__name__}: {words}"
    about.record.note(about.call.row(Verdict.UNSUPPORTED, words))


# ---- the comparison ----


def compare(about: _About, program: Program, ct: Any, found: Any, wanted: Any) -> None:
    """Note how two answers compare: at once, or as a part of the program that is being compiled."""
    record, call = about.record, about.call
    # JAX hands on a bare number of Python's when a user's rule gives one
    ct, found, wanted = jax.tree.map(lambda leaf: leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf),
                                     (ct, found, wanted))
    mine, theirs = jax.tree.leaves(found), jax.tree.leaves(wanted)
    unlike = _unlike(found, wanted)
    if unlike:
        record.count(Verdict.WRONG)
        record.note(call.row(Verdict.WRONG, unlike, subject="funcgrad"))
        return
    if is_staging() or any(isinstance(leaf, jax.core.Tracer) for leaf in (*mine, *theirs)):
        _compare_inside(about, program, ct, mine, theirs)
        return
    differs, nonfinite = first_sight(list(map(np.asarray, mine)), list(map(np.asarray, theirs)), np)
    if differs or about.rules:
        record.suspect(Suspect(call, program.closed(), program.primals, ct, mine, theirs, bool(differs), about.rules,
                               about.inner, record.trusted))
    else:
        record.count(Verdict.NONFINITE if nonfinite else Verdict.MATCH)


def _unlike(found: Any, wanted: Any) -> str:
    """In what the types of two answers differ; empty when they do not."""
    ours, theirs = jax.tree.structure(found), jax.tree.structure(wanted)
    if str(ours) != str(theirs):
        return f"the structure is {ours}, but jax gives {theirs}"
    for (path, leaf), other in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        if leaf.shape != other.shape or leaf.dtype != other.dtype:
            return (f"cotangent{jax.tree_util.keystr(path)} is {leaf.dtype}{list(leaf.shape)}, but jax gives "
                    f"{other.dtype}{list(other.shape)}")
    return ""


def _compare_inside(about: _About, program: Program, ct: Any, found: list[Array], wanted: list[Array]) -> None:
    compared = [is_compared(leaf) for leaf in wanted]
    mine, theirs = ([lax.stop_gradient(leaf) for leaf, flag in zip(side, compared, strict=True) if flag]
                    for side in (found, wanted))
    differs, nonfinite = _FLAGS(mine, theirs)
    evidence = _Packed.of((program.primals, program.consts, ct, mine, theirs))
    light = functools.partial(_heard_that_all_is_well, about)
    heavy = functools.partial(_heard_of_a_suspect, about, dataclasses.replace(program, primals=(), consts=()),
                              evidence.packing)

    def agreed() -> None:
        jax.debug.callback(light, differs, nonfinite)

    def told_all() -> None:
        jax.debug.callback(heavy, differs, nonfinite, evidence.arrays)

    # Under `vmap` both branches run, so each is told what the condition was. Outside `jit` a condition would be
    # compiled for this one use.
    if about.rules or not is_compiling():
        told_all()
    else:
        lax.cond(differs, told_all, agreed)


_FLAGS = jax.jit(lambda mine, theirs: first_sight(mine, theirs, jnp))


def _heard_that_all_is_well(about: _About, differs: Any, nonfinite: Any) -> None:
    if not differs:
        about.record.count(Verdict.NONFINITE if nonfinite else Verdict.MATCH)


def _heard_of_a_suspect(about: _About, program: Program, packing: _Packing, differs: Any,
                      nonfinite: Any, arrays: Any) -> None:
    if not (differs or about.record.unjudged(about.rules)):
        _heard_that_all_is_well(about, differs, nonfinite)
        return
    primals, consts, ct, mine, theirs = packing.unpacked(list(map(np.asarray, arrays)))
    closed = dataclasses.replace(program, consts=consts).closed()
    about.record.suspect(Suspect(about.call, closed, primals, ct, mine, theirs, bool(differs), about.rules,
                                 about.inner, about.record.trusted))


@dataclasses.dataclass(frozen=True, eq=False)
class _Packing:
    """How to put a tree together again from the arrays that a host callback may carry."""

    tree: Any
    kinds: tuple[Any, ...]  # None: an array; a key's implementation; or ("as it is", leaf)

    def unpacked(self, arrays: list[np.ndarray]) -> Any:
        given = iter(arrays)
        leaves = [kind[1] if isinstance(kind, tuple) else next(given) if kind is None
                  else jax.random.wrap_key_data(jnp.asarray(next(given)), impl=kind) for kind in self.kinds]
        return jax.tree.unflatten(self.tree, leaves)


@dataclasses.dataclass(frozen=True, eq=False)
class _Packed:
    packing: _Packing
    arrays: list[Array]

    @staticmethod
    def of(tree: Any) -> _Packed:
        """A tree as arrays: keys as their data; no host callback carries float0 zeros."""
        leaves, structure = jax.tree.flatten(tree)
        kinds: list[Any] = []
        arrays: list[Array] = []
        for leaf in leaves:
            dtype = getattr(leaf, "dtype", None)
            if dtype == _compat.float0:
                kinds.append(("as it is", leaf))
            elif dtype is not None and _compat.is_extended(dtype):
                kinds.append(str(jax.random.key_impl(leaf)))
                arrays.append(jax.random.key_data(leaf))
            else:
                kinds.append(None)
                arrays.append(lax.stop_gradient(leaf))
        return _Packed(_Packing(structure, tuple(kinds)), arrays)
