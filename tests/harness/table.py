"""The case table: every `CASES` of `tests/cases/*.py`, and its arguments in the dtype under test."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tests.cases
from funcgrad.registry import rules
from funcgrad.rule import MapClass
from tests.cases.case import Args, Case

COMPLEX = {"float32": "complex64", "float64": "complex128"}
#: Nudges of the inputs when a comparison is close.
CLOSE_CALL = 64
#: Classes of maps that have no cotangent at all.
WITHOUT_COTANGENT = (MapClass.CONSTANT, MapClass.UNSUPPORTED)


def collect() -> tuple[Case, ...]:
    """All cases, by file name and then in the file's order. Raises ValueError when a name occurs twice."""
    cases: list[Case] = []
    with np.errstate(all="ignore"):  # boundary values are made with infinities
        for module in sorted(pkgutil.iter_modules(tests.cases.__path__), key=lambda m: m.name):
            cases += getattr(importlib.import_module(f"tests.cases.{module.name}"), "CASES", ())
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"case names occur twice: {twice}")
    return tuple(cases)


CASES = collect()


def ruled_primitives(case: Case) -> tuple[str, ...]:
    """The primitives of a case that can have a cotangent."""
    constant = {p.name for p, rule in rules().items() if rule.kind in WITHOUT_COTANGENT}
    return tuple(name for name in case.primitives if name not in constant)


def cover(cases: Sequence[Case]) -> frozenset[str]:
    """Names of a small fixed set of cases in which every primitive occurs: for each, the first case that has it."""
    seen: set[str] = set()
    chosen = []
    for case in cases:
        if not seen.issuperset(case.primitives):
            seen.update(case.primitives)
            chosen.append(case.name)
    return frozenset(chosen)


COVER = cover(CASES)


def precision(dtype: str) -> Any:
    """A context in which arrays of this dtype exist: x64 mode exactly for float64."""
    return jax.enable_x64(dtype == "float64")


def epsilon(dtype: str) -> float:
    """The machine epsilon of the dtype under test."""
    return float(jnp.finfo(dtype).eps)


def generator(case: Case, purpose: str = "") -> np.random.Generator:
    """Random numbers that depend on the case's name only, so that a failure repeats alone."""
    return np.random.default_rng(zlib.crc32(f"{case.name} {purpose}".encode()))


def cast(args: Args, dtype: str) -> Args:
    """Arguments as JAX arrays: floats in `dtype`, complex numbers in the complex type of the same precision."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return leaf  # keys, which have no NumPy form
        kind = np.asarray(leaf).dtype.kind
        target = {"f": dtype, "c": COMPLEX.get(dtype)}.get(kind)
        return jnp.asarray(leaf, dtype=target)

    return jax.tree.map(convert, tuple(args))


def has_complex(case: Case) -> bool:
    """Whether an argument is complex; there is no complex type of half precision."""
    if case.name not in _HAS_COMPLEX:
        leaves = [leaf for leaf in jax.tree.leaves(draw(case)) if not isinstance(leaf, jax.Array)]
        _HAS_COMPLEX[case.name] = any(map(np.iscomplexobj, leaves))
    return _HAS_COMPLEX[case.name]


_HAS_COMPLEX: dict[str, bool] = {}


def draw(case: Case, purpose: str = "args") -> Args:
    """The case's arguments, not yet cast."""
    return case.args(generator(case, purpose))


def dtypes_of(case: Case) -> tuple[str, ...]:
    """The dtypes in which a case runs."""
    return tuple(d for d in case.dtypes if d in COMPLEX or not has_complex(case))


def best_dtype(case: Case) -> str:
    """float64 where the case runs in it: the comparison sees most there."""
    names = dtypes_of(case)
    return "float64" if "float64" in names else names[0]


@contextlib.contextmanager
def arguments(case: Case, dtype: str, purpose: str = "args") -> Iterator[Args]:
    """Enter the precision and yield the case's arguments in it."""
    with precision(dtype):
        yield cast(draw(case, purpose), dtype)
