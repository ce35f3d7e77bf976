"""Rules of the discrete Fourier transforms: linear maps whose transposes are Fourier transforms again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from funcgrad.registry import linear

Array = Any
Aval = Any


def _weighted(x: Array, length: int, own: float, mirrored: float) -> Array:
    """`x`, half the spectrum of `length` real points, times `mirrored`; times `own` where frequency -k is k."""
    weights = np.full(x.shape[-1], mirrored, x.dtype)
    weights[0] = own
    if length % 2 == 0:
        weights[-1] = own
    return lax.mul(x, lax.broadcast_in_dim(weights, x.shape, (x.ndim - 1,)))


def fft_transpose(ct: Array, _x: Aval, *, fft_type: Any, fft_lengths: tuple[int, ...]) -> Array:
    """The matrix exp(-2πi k n / N) is symmetric, so a complex transform is its own transpose.

    Of a real signal half the spectrum is kept. The inverse counts twice each frequency k whose mirror image -k is
    not kept, and divides by N; weights undo this, or supply it.
    """
    size, last = math.prod(fft_lengths), fft_lengths[-1]
    if fft_type == lax.FftType.RFFT:  # Re sum over k of ct[k] exp(-2πi k n / N)
        half = _weighted(lax.conj(ct), last, 1, 1 / 2)  # exact: what rounds, the size, comes after the transform
        signal = p.fft_p.bind(half, fft_type=lax.FftType.IRFFT, fft_lengths=fft_lengths)
        return lax.mul(signal, np.array(size, signal.dtype))
    if fft_type == lax.FftType.IRFFT:  # ct_x[k] = w[k] / N sum over n of ct[n] exp(+2πi k n / N)
        half = p.fft_p.bind(ct, fft_type=lax.FftType.RFFT, fft_lengths=fft_lengths)
        return lax.conj(_weighted(half, last, 1 / size, 2 / size))
    return p.fft_p.bind(ct, fft_type=fft_type, fft_lengths=fft_lengths)


linear(p.fft_p, fft_transpose, dear=True)
