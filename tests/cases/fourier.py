"""Cases of the Fourier transforms: every kind, even and odd lengths, several axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

from tests.cases.case import Args, Boundary, Case

Kind = lax.FftType
FULL = ("float32", "float64")


def fft(kind: Kind, lengths: tuple[int, ...]) -> Callable[..., Any]:
    """`lax.fft` with every param spelled out."""
    return lambda x: lax.fft(x, fft_type=kind, fft_lengths=lengths)


def signal(kind: Kind, *shape: int) -> Callable[[np.random.Generator], Args]:
    """A real signal for RFFT, a complex one for the others."""

    def draw(rng: np.random.Generator) -> Args:
        x = rng.standard_normal(shape)
        return (x if kind is Kind.RFFT else x + 1j * rng.standard_normal(shape),)

    return draw


def case(kind: Kind, lengths: tuple[int, ...], **fields: Any) -> Case:
    """One transform of a batch of two."""
    last = lengths[-1] // 2 + 1 if kind is Kind.IRFFT else lengths[-1]
    return Case(f"fft[{kind.name}, {'x'.join(map(str, lengths))}]", ("fft",), fft(kind, lengths),
                signal(kind, 2, *lengths[:-1], last), dtypes=FULL, **fields)


LENGTHS = ((1,), (2,), (7,), (8,), (3, 4), (4, 5), (2, 3, 4))

CASES: tuple[Case, ...] = (
    *(case(Kind.FFT, lengths) for lengths in LENGTHS[2:5]),
    case(Kind.FFT, (2, 2, 8), boundary=(Boundary("no batch", (np.zeros((0, 2, 2, 8), complex),)),)),
    *(case(Kind.IFFT, lengths) for lengths in LENGTHS[2:5]),
    *(case(Kind.RFFT, lengths) for lengths in LENGTHS),
    *(case(Kind.IRFFT, lengths) for lengths in LENGTHS),
    Case("fft[RFFT, no batch axis]", ("fft",), fft(Kind.RFFT, (6,)), signal(Kind.RFFT, 6), dtypes=FULL),
)
