"""How two answers to one call compare: at once, or as a part of the program that is being compiled.

Inside `jit` that part is a few operations, and a host callback that carries two booleans when the gradients agree and
everything that is needed to judge when they do not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _compat
from funcgrad.crosscheck.report import Verdict
from funcgrad.crosscheck.substitute.agreement import first_sight, is_compared
from funcgrad.crosscheck.substitute.program import Program, is_compiling, is_staging
from funcgrad.crosscheck.substitute.rules import Inner, Rule
from funcgrad.crosscheck.substitute.session import Call, Record, Suspect
from funcgrad.errors import MissingRuleError

Array = Any


@dataclasses.dataclass(frozen=True)
class About:
    """What a comparison says where it belongs to."""

    record: Record = dataclasses.field(repr=False)
    call: Call
    rules: tuple[Rule, ...] = ()
    inner: tuple[Inner, ...] = ()

    def after_run(self, rules: Sequence[Rule], inside: Sequence[Inner]) -> About:
        """The same, of a function in whose run these custom rules and inner gradients were met."""
        inner = tuple(each for each in inside if self.record.unjudged(each.rules))
        met = [*rules, *(rule for each in inner for rule in each.rules)]
        return dataclasses.replace(self, rules=self.record.unjudged(met), inner=inner)


def unsupported(about: About, error: Exception | None) -> None:
    """funcgrad could not take this gradient: one row says why."""
    about.record.count(Verdict.UNSUPPORTED)
    words = str(error).strip().split("\nTo fix")[0]
    if not isinstance(error, MissingRuleError):
        words = f"funcgrad raised {type(error).__name__}: {words}"
    about.record.note(about.call.row(Verdict.UNSUPPORTED, words))


def compare(about: About, program: Program, ct: Any, found: Any, wanted: Any) -> None:
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


def _compare_inside(about: About, program: Program, ct: Any, found: list[Array], wanted: list[Array]) -> None:
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


def _heard_that_all_is_well(about: About, differs: Any, nonfinite: Any) -> None:
    if not differs:
        about.record.count(Verdict.NONFINITE if nonfinite else Verdict.MATCH)


def _heard_of_a_suspect(about: About, program: Program, packing: _Packing, differs: Any,
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
