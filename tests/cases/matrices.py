"""Matrices that cases of linear algebra are evaluated at, and what they do with results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.cases.case import Args

LAPACK = ("float32", "float64")
Draw = Callable[[np.random.Generator], Args]

GAUGE = ("the phase of a complex vector is a convention of the derivative (JAX's), not LAPACK's, which finite "
         "differences see")
ONE_TRIANGLE = ("the primitive reads one triangle; JAX's rule gives the other a cotangent too (jax#40421 for cholesky)")


def complexed(*shapes: tuple[int, ...]) -> Draw:
    """Complex normal arguments."""
    return lambda rng: tuple(rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in shapes)


def shifted(draw: Draw, shift: float) -> Draw:
    """A multiple of the identity added to the first argument, which keeps it away from singular."""

    def shift_first(rng: np.random.Generator) -> Args:
        first, *rest = draw(rng)
        return first + shift * np.eye(*first.shape[-2:]), *rest

    return shift_first


def definite(draw: Draw) -> Draw:
    """A Hermitian positive definite matrix from the first argument."""

    def square_first(rng: np.random.Generator) -> Args:
        first, *rest = draw(rng)
        return first @ first.conj().swapaxes(-1, -2) + np.eye(first.shape[-2]), *rest

    return square_first


def spread(*shape: int, imaginary: bool = False) -> Draw:
    """A matrix whose singular values are 1, 2, 3, … (and, if it is Hermitian, its eigenvalues): well conditioned."""

    def one(rng: np.random.Generator) -> Args:
        full = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0)
        u, _, vh = np.linalg.svd(full, full_matrices=False)
        return ((u * np.arange(1.0, 1 + u.shape[-1])) @ vh,)

    return one


def hermitian(*shape: int, imaginary: bool = False) -> Draw:
    """A Hermitian matrix with eigenvalues 1, 2, 3, …"""

    def one(rng: np.random.Generator) -> Args:
        full = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0)
        q = np.linalg.qr(full)[0]
        return ((q * np.arange(1.0, 1 + shape[-1])) @ q.conj().swapaxes(-1, -2),)

    return one


def with_values(*values: float, imaginary: bool = False) -> Draw:
    """A Hermitian matrix with these eigenvalues."""

    def one(rng: np.random.Generator) -> Args:
        shape = (len(values), len(values))
        q = np.linalg.qr(rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if imaginary else 0))[0]
        return ((q * np.array(values)) @ q.conj().T,)

    return one


def stored(draw: Draw) -> Draw:
    """The one triangle of a Hermitian matrix, NaN-free rubbish in the other."""
    return lambda rng: (np.tril(draw(rng)[0]) + 7 * np.triu(rng.standard_normal(draw(rng)[0].shape), 1),)


def triangle(x: Any, in_lower: bool = True) -> Any:
    """One triangle of the last two dimensions."""
    return x * (np.tril if in_lower else np.triu)(np.ones(x.shape)).astype(x.dtype)


def adjoint(x: Any) -> Any:
    """The conjugate transpose."""
    return x.mT.conj()


def weighted(x: Any) -> Any:
    """Different weights for the elements, so that an all-ones cotangent is not symmetric."""
    return x * np.arange(1.0, 1 + x.size).reshape(x.shape).astype(x.dtype)
