"""Programs as people write them, all of them right: no alarm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.scipy import special, stats

import funcgrad

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def f32(*values: float) -> np.ndarray:
    return np.array(values if len(values) > 1 else values[0], np.float32)


X, A, W, V = normal(6), normal(4, 6), normal(6, 5), normal(5, 4)
P = (lambda m: m @ m.T + 4 * np.eye(4))(normal(4, 4)).astype(np.float32)
Z = normal(9, 12)
KEY = jax.random.key(0)
N = jnp.arange(6.0)


def attention(masked: float) -> Callable[..., Any]:
    def loss(q: Any, k: Any, v: Any) -> Any:
        scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), q @ k.T / 2, masked)
        return jnp.sum(jnp.sin(jax.nn.softmax(scores) @ v))

    return loss


def lstm(w: Any, x: Any) -> Any:
    def step(state: Any, t: Any) -> Any:
        hidden, cell = state
        i, f, o, u = jnp.split(jnp.concatenate([hidden, t]) @ w, 4)
        cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(u)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    return jnp.mean(lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), x)[1])


def safe_norm(x: Any) -> Any:
    squares = jnp.sum(x * x)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0.0)


def by_cholesky(c: Any) -> Any:
    factor = jnp.linalg.cholesky(c)
    z = jax.scipy.linalg.solve_triangular(factor, jnp.arange(4.0), lower=True)
    return -0.5 * jnp.sum(z * z) - jnp.sum(jnp.log(jnp.diag(factor)))


def straight_through_gumbel(x: Any) -> Any:
    soft = jax.nn.softmax((x + jax.random.gumbel(KEY, x.shape)) / 0.5)
    return jnp.sum((lax.stop_gradient(jax.nn.one_hot(jnp.argmax(soft), 6) - soft) + soft) * N)


def pendulum(y: Any) -> Any:
    def slope(y: Any) -> Any:
        return jnp.stack([y[1], -jnp.sin(y[0])])

    def runge_kutta(y: Any, _: Any) -> Any:
        a = slope(y)
        b = slope(y + 0.05 * a)
        c = slope(y + 0.05 * b)
        return y + 0.1 / 6 * (a + 2 * b + 2 * c + slope(y + 0.1 * c)), None

    return jnp.sum(lax.scan(runge_kutta, y, None, length=20)[0] ** 2)


def sinkhorn(c: Any) -> Any:
    def step(_: Any, f: Any) -> Any:
        return -jax.nn.logsumexp(-c - jax.nn.logsumexp(-c - f[:, None], 0)[None], 1)

    return jnp.sum(lax.fori_loop(0, 5, step, jnp.zeros(4)) * jnp.arange(4.0))


def distances(a: Any, b: Any) -> Any:
    return jnp.sum((a[:, None] - b[None]) ** 2, -1)


def evidence_bound(mean: Any, log_scale: Any) -> Any:
    sample = mean + jnp.exp(log_scale) * jax.random.normal(KEY, mean.shape)
    return jnp.sum(sample**2) - 0.5 * jnp.sum(1 + 2 * log_scale - mean * mean - jnp.exp(2 * log_scale))


def normalized(x: Any) -> Any:
    return jnp.sum(((x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)) ** 3)


def recurrent(w: Any, x: Any) -> Any:
    def step(h: Any, t: Any) -> Any:
        h = jnp.tanh(w @ h + t)
        return h, h

    return jnp.sum(lax.scan(step, jnp.zeros(6), x)[1] ** 2)


NORMS: dict[str, Any] = {
    "norm with eps at 0": (lambda x: jnp.sqrt(jnp.sum(x * x) + 1e-12), X * 0),
    "norm with eps near 0": (lambda x: jnp.sqrt(jnp.sum(x * x) + 1e-12), X * 1e-6),
    "safe norm at 0": (safe_norm, X * 0),
    "norms of rows": (lambda a: jnp.sum(jnp.linalg.norm(a, axis=1)), A),
    "layer norm": (normalized, A), "layer norm of equals": (normalized, np.ones((2, 6), np.float32)),
    "rms norm": (lambda x: jnp.sum(x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * N), A * 1e-4),
    "variance of large": (jnp.var, X + 1000), "deviation of large": (jnp.std, X + 100),
    "correlation": (lambda a: jnp.sum(jnp.corrcoef(a)[0]), A),
    "clipped by norm": (lambda x: jnp.sum(x * jnp.minimum(1.0, 1 / jnp.linalg.norm(x)) * N), X * 3),
}
ATTENTION: dict[str, Any] = {
    "attention, -inf": (attention(-jnp.inf), V, V[::-1].copy(), V * 0.5),
    "attention, -1e30": (attention(-1e30), V * 5, V[::-1].copy() * 5, V),
    "attention, a row without": (lambda q, k, v: jnp.sum(jax.nn.softmax(
        jnp.where(jnp.arange(5)[:, None] > 1, q @ k.T, -1e9)) @ v * v), V, V[::-1].copy(), V * 0.5),
    "logsumexp far apart": (jax.nn.logsumexp, X * 50),
    "logsumexp, -inf": (lambda x: jax.nn.logsumexp(jnp.where(N < 3, x, -jnp.inf)), X),
    "log softmax far": (lambda z: -jax.nn.log_softmax(z)[2], X * 40),
    "entropy": (lambda x: jnp.sum(special.entr(jax.nn.softmax(x * 20))), X),
    "rotary": (lambda q: jnp.sum(jnp.sin(q * jnp.cos(N[:4]) + jnp.roll(q, 2, 1) * jnp.sin(N[:4]))), V),
}
LOOPS: dict[str, Any] = {
    "rnn": (recurrent, W @ W.T * 0.2, A), "lstm": (lstm, Z, A),
    "newton, counted": (lambda a: jnp.sum(lax.fori_loop(0, 6, lambda _, s: 0.5 * (s + a / s), a)), np.abs(X) + 0.5),
    "newton, until": (lambda a: lax.while_loop(
        lambda s: jnp.abs(s * s - a) > 1e-6 * a, lambda s: 0.5 * (s + a / s), a), f32(7.0)),
    "pendulum": (pendulum, X[:2]), "sinkhorn": (sinkhorn, A),
}
ALGEBRA: dict[str, Any] = {
    "normal logpdf": (lambda m, c: stats.multivariate_normal.logpdf(jnp.arange(4.0) / 3, m, c), X[:4], P),
    "cholesky": (by_cholesky, P), "slogdet": (lambda c: jnp.linalg.slogdet(c)[1], P), "det": (jnp.linalg.det, P),
    "inverse": (lambda c: jnp.sum(jnp.linalg.inv(c) * P), P),
    "eigenvalues": (lambda c: jnp.sum(jnp.linalg.eigvalsh(c) ** 2), P),
    "singular values": (lambda a: jnp.sum(jnp.linalg.svd(a, compute_uv=False)), A),
    "qr": (lambda a: jnp.sum(jnp.abs(jnp.linalg.qr(a)[1])), A.T.copy()),
    "expm": (lambda a: jnp.sum(jax.scipy.linalg.expm(a * 0.3)), V[:4]),
    "pinv": (lambda a: jnp.sum(jnp.linalg.pinv(a)), A),
    "lstsq": (lambda a, b: jnp.sum(jnp.linalg.lstsq(a, b)[0] ** 2), A.T.copy(), X),
    "matrix power": (lambda c: jnp.sum(jnp.linalg.matrix_power(c, 5)), V[:4] * 0.5),
    "einsum": (lambda a, w: jnp.sum(jnp.sin(jnp.einsum("ij,jk,lk->il", a, w, w))), A, W),
}
CHOICES: dict[str, Any] = {
    "gumbel": (lambda x: jnp.sum(jax.nn.softmax((x + jax.random.gumbel(KEY, x.shape)) / 0.5) * N), X),
    "gumbel, straight through": (straight_through_gumbel, X), "reparametrized": (evidence_bound, X, X * 0.3),
    "dropout": (lambda x: jnp.sum(jnp.where(jax.random.bernoulli(KEY, 0.5, x.shape), x / 0.5, 0) ** 2), X),
    "top k": (lambda x: jnp.sum(lax.top_k(x, 3)[0] * N[:3]), X), "sort": (lambda x: jnp.sum(jnp.sort(x) * N), X),
    "argsort": (lambda x: jnp.sum(x[jnp.argsort(x)] * N), X), "quantile": (lambda x: jnp.quantile(x, 0.3), X),
    "embedding": (lambda t: jnp.sum(jnp.tanh(t[jnp.array([1, 1, 3, 0])])), W),
    "one hot": (lambda t: jnp.sum(jnp.tanh(jax.nn.one_hot(jnp.array([1, 1, 3]), 6) @ t)), W),
    "segment sum": (lambda x: jnp.sum(jax.ops.segment_sum(x, jnp.array([0, 0, 1, 2, 2, 2]), 4) ** 2), X),
    "segment max": (lambda x: jnp.sum(jax.ops.segment_max(x, jnp.array([0, 0, 1, 2, 2, 2]), 3)), X),
    "interpolation": (lambda x, y: jnp.sum(jnp.interp(x, N, y)), np.abs(X), X),
    "interpolation at knots": (lambda y: jnp.sum(jnp.interp(jnp.array([0.0, 2.0, 3.5]), N, y)), X),
    "image": (lambda c: jnp.sum(jax.scipy.ndimage.map_coordinates(A, [c, c], order=1)), np.abs(X) + 0.1),
    "chamfer": (lambda a: jnp.sum(jnp.min(distances(a, A * 1.1), 1)), A),
    "rbf": (lambda a: jnp.sum(jnp.exp(-distances(a, a))), A),
    "distances": (lambda a: jnp.sum(jnp.sqrt(distances(a, a) + 1e-9)), A),
}
SIGNALS: dict[str, Any] = {
    "cumsum": (lambda x: jnp.sum(jnp.cumsum(x) ** 2), X),
    "cumulative logsumexp": (lambda x: jnp.sum(lax.cumlogsumexp(x)), X * 9),
    "cumprod with zeros": (lambda x: jnp.sum(jnp.cumprod(x)), X * (X > 0)),
    "spectrum": (lambda x: jnp.sum(jnp.abs(jnp.fft.fft(x))), X),
    "log power": (lambda x: jnp.sum(jnp.log(jnp.abs(jnp.fft.rfft(x)) ** 2 + 1e-6)), X),
    "filter": (lambda x: jnp.sum(jnp.fft.irfft(jnp.fft.rfft(x) * jnp.arange(4)) ** 2), X),
    "convolution": (lambda x, w: jnp.sum(jnp.tanh(lax.conv_general_dilated(x, w, (1, 1), "SAME"))),
                    A[None, None], W[None, None, :3, :3]),
    "max pool": (lambda x: jnp.sum(lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 1), "VALID") * W[:3]), A),
    "bfloat16 layer": (lambda w: jnp.sum(jax.nn.relu(A.astype("bfloat16") @ w).astype("float32")),
                       jnp.asarray(W, "bfloat16")),
    "mixed precision": (lambda w: jnp.sum(jnp.tanh((A @ w).astype("float16")).astype("float32")), W),
}
SCALARS: dict[str, Any] = {
    "huber at its kinks": (lambda x: jnp.sum(jnp.where(jnp.abs(x) <= 1, x * x / 2, jnp.abs(x) - 0.5)),
                           f32(1, -1, 0, 0.5, 2)),
    "leaky relu at 0": (lambda x: jnp.sum(jax.nn.leaky_relu(x)), f32(0, -1, 1)),
    "relu6 at its kinks": (lambda x: jnp.sum(jax.nn.relu6(x)), f32(0, 6, 3, -1)),
    "hard swish at its kinks": (lambda x: jnp.sum(jax.nn.hard_swish(x)), f32(-3, 3, 0, 1)),
    "|x|**1.5 at 0": (lambda x: jnp.sum(jnp.abs(x) ** 1.5), f32(0, 0.5, -2)),
    "x**2.0 at 0": (lambda x: jnp.sum(x**2.0), f32(0, 1)),
    "cross entropy, saturated": (lambda z: jnp.sum(
        jnp.maximum(z, 0) - z * (X > 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))), X * 60),
    "softplus, saturated": (lambda x: jnp.sum(jax.nn.softplus(x)), X * 60),
    "silu, saturated": (lambda x: jnp.sum(jax.nn.silu(x)), X * 60),
    "gelu": (lambda x: jnp.sum(jax.nn.gelu(x)), X * 4), "arctan2": (lambda x, y: jnp.sum(jnp.arctan2(x, y)), X, X + 3),
    "hypot": (lambda x, y: jnp.sum(jnp.hypot(x, y)), X, X[::-1].copy()), "mod": (lambda x: jnp.sum(jnp.mod(x, 0.7)), X),
    "beta": (lambda a, b: stats.beta.logpdf(0.3, a, b), f32(2.0), f32(3.0)),
    "student": (lambda x: jnp.sum(stats.t.logpdf(x, 3.0)), X),
    "gammaln": (lambda x: jnp.sum(special.gammaln(jnp.abs(x) + 0.1)), X),
    "betainc": (lambda x: special.betainc(2.0, 3.0, x), f32(0.4)),
    "gammainc": (lambda x: special.gammainc(2.0, x), f32(0.4)),
    "erfinv": (lambda x: jnp.sum(special.erfinv(jnp.tanh(x))), X),
    "bessel": (lambda x: jnp.sum(special.i1e(x)), X * 30),
}
LABELS = jnp.array([0, 2, 1, 3])
OPTAX: dict[str, Any] = {f"optax {name}": (fun, A) for name, fun in {
    "l2": lambda a: optax.l2_loss(a, A * 0.5).mean(),
    "huber": lambda a: optax.huber_loss(a, A * 0.1).mean(),
    "log cosh": lambda a: optax.log_cosh(a * 5, A).mean(),
    "cosine": lambda a: optax.cosine_distance(a, A[::-1], epsilon=1e-8).mean(),
    "sigmoid": lambda a: optax.sigmoid_binary_cross_entropy(a * 8, (A > 0) * 1.0).mean(),
    "softmax": lambda a: optax.softmax_cross_entropy(a, jax.nn.softmax(A[::-1])).mean(),
    "labels": lambda a: optax.softmax_cross_entropy_with_integer_labels(a * 10, LABELS).mean(),
    "hinge": lambda a: optax.hinge_loss(a, jnp.sign(A)).mean(),
    "focal": lambda a: optax.sigmoid_focal_loss(a, (A > 0) * 1.0).mean(),
    "divergence": lambda a: optax.kl_divergence(jax.nn.log_softmax(a), jax.nn.softmax(A[::-1])).mean(),
    "ctc": lambda a: optax.ctc_loss(a[None], jnp.zeros((1, 4)), jnp.array([[1, 2]]), jnp.zeros((1, 2))).mean(),
    "triplet": lambda a: optax.losses.triplet_margin_loss(a, A[::-1], A * 2).mean(),
    "ranking": lambda a: optax.losses.ranking_softmax_loss(a, jnp.abs(A)).mean(),
    "simplex": lambda a: jnp.sum(optax.projections.projection_simplex(a[0]) * N),
}.items()}
PROGRAMS = NORMS | ATTENTION | LOOPS | ALGEBRA | CHOICES | SIGNALS | SCALARS | OPTAX
FAST = ("norm with eps at 0", "newton, until", "top k")


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
                                  for name in PROGRAMS])
def test_no_alarm(name: str) -> None:
    fun, *args = PROGRAMS[name]
    report = funcgrad.check(fun, *args)
    assert report.ok, str(report)
    assert set(report.counts) - {"unsupported"}, str(report)
