"""One reverse-mode call, taken by both: JAX's answer goes to the user, the comparison to the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from funcgrad import _compat
from funcgrad.crosscheck.substitute.comparison import About, compare, unsupported
from funcgrad.crosscheck.substitute.program import call_of, program_of, without_aux
from funcgrad.crosscheck.substitute.rewind import Rewound
from funcgrad.crosscheck.substitute.rules import gradients_inside, rules_called, rules_in
from funcgrad.crosscheck.substitute.session import SIDE, Record, Side
from funcgrad.eager import backward
from funcgrad.pullback import Pullback, materialize
from funcgrad.trees import split_arguments
from funcgrad.vjp import Recording, record_call

#: JAX's own, whatever stands under their names in a block.
JAX_VJP: Any = jax.vjp
JAX_HESSIAN: Any = jax.hessian


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

    def __init__(self, theirs: Any, ours: Any, program: Any, about: About) -> None:
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

    def tree_flatten(self) -> tuple[tuple[Any, ...], About]:
        """Both pullbacks' residuals and the function's arguments; where the gradient was asked for."""
        ours = self._ours.portable() if isinstance(self._ours, _Live) else self._ours
        return (self._theirs, ours, self._program), self._about

    @classmethod
    def tree_unflatten(cls, about: About, children: tuple[Any, ...]) -> CheckedPullback:
        """The pullback again."""
        theirs, ours, program = children
        return cls(theirs, ours, program, about)


def checked_vjp(record: Record, fun: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool) -> Any:
    """What ``jax.vjp`` gives, its pullback compared with funcgrad's whenever it is called."""
    about = About(record, call_of(fun))
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
    about = About(record, call_of(fun, "hessian"))
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
