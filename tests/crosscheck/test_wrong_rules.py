"""Custom rules with the mistakes that people make: each is caught, and named with its own line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad

X = np.array([0.3, -1.2, 0.7, 2.0], np.float32)
A = np.arange(12, dtype=np.float32).reshape(3, 4) / 7 - 0.6
B = np.cos(np.arange(20, dtype=np.float32)).reshape(4, 5)
Q = np.cos(np.arange(9, dtype=np.float32)).reshape(3, 3)


def summed(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A loss around a rule; the weights make every cotangent another one."""
    def loss(*args: Any) -> Any:
        out = rule(*args)
        return jnp.sum(jnp.sin(out) * (1 + jnp.arange(out.size, dtype=out.dtype).reshape(out.shape) / 8))

    return loss


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A mistake.

    Attributes:
      primal: the function.
      backward: ``backward(args, ct)``, the wrong rule.
      args: where it is looked at.
      around: makes the loss from the rule.
      place: where inside the loss the mistake is.
      order, x64: how it is looked at.
    """

    primal: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...] = (X,)
    around: Callable[..., Any] = summed
    place: str = ""
    order: int = 1
    x64: bool = False


def normalized(x: Any) -> Any:
    """A layer norm without parameters."""
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)


def huber(x: Any) -> Any:
    return jnp.where(jnp.abs(x) < 1, x * x / 2, jnp.abs(x) - 0.5)


def filtered(x: Any) -> Any:
    return jnp.real(jnp.fft.ifft(jnp.fft.fft(x) * jnp.arange(4.0)))


def in_a_scan(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: jnp.sum(lax.scan(lambda c, i: (rule(c * 1.1, i), None), x, jnp.arange(5))[0])


def in_a_branch(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: lax.cond(jnp.sum(x) > 100, jnp.sum, lambda x: jnp.sum(rule(x)), x)


def in_a_loop(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: jnp.sum(lax.fori_loop(0, 3, lambda _, v: jnp.sin(rule(v)), x))


def cube_wrong(around: Callable[..., Any], place: str = "") -> Wrong:
    """x**3 with a forgotten power, somewhere."""
    return Wrong(lambda x: x**3, lambda args, ct: (3 * args[0] * ct,), around=around, place=place)


MISTAKES: dict[str, Wrong] = {
    "wrong_sign": Wrong(jnp.cos, lambda args, ct: (jnp.sin(args[0]) * ct,)),
    "chain_factor": Wrong(lambda x: jnp.tanh(3 * x), lambda args, ct: ((1 - jnp.tanh(3 * args[0]) ** 2) * ct,)),
    "incoming_ignored": Wrong(lambda x: x * x, lambda args, ct: (2 * args[0],)),
    "one_factor_reversed": Wrong(lambda a, b: a @ b, lambda args, ct: (ct @ args[1].T, args[0].T @ ct[:, ::-1]),
                                 (A, B)),
    "transpose_missing": Wrong(lambda a, b: a @ b, lambda args, ct: (ct @ args[1], args[0].T @ ct), (Q, Q * 1.3 + 0.2)),
    "mean_for_sum": Wrong(lambda x, b: x + b, lambda args, ct: (ct, jnp.mean(ct, 0)), (A, X)),
    "first_row_only": Wrong(lambda x, b: x * b, lambda args, ct: (ct * args[1], ct[0] * args[0][0]), (A, X)),
    "operands_swapped": Wrong(lambda x, y: x / y, lambda args, ct: (-ct * args[0] / args[1] ** 2, ct / args[1]),
                              (X, X + 3)),
    "float32_in_float64": Wrong(lambda x: jnp.exp(x), lambda args, ct: (
        jnp.exp(args[0].astype("float32")).astype("float64") * ct,), (X.astype(np.float64),), x64=True),
    "float16_inside": Wrong(lambda x: x * 3, lambda args, ct: ((3 * ct).astype("float16").astype("float32"),)),
    "bfloat16_other": Wrong(lambda x: x * x, lambda args, ct: (args[0] * ct * (2 if ct.dtype == "float32" else 1),),
                            (jnp.asarray(X, "bfloat16"),)),
    "wrong_for_matrices": Wrong(lambda x: x / jnp.sqrt(jnp.sum(x * x)), lambda args, ct: (
        ct / jnp.sqrt(jnp.sum(args[0] ** 2)) - args[0] * jnp.sum(args[0] * ct) / jnp.sum(args[0] ** 2) ** 1.5
        * (1.0 if args[0].ndim == 1 else 0.5),), (A,)),
    "stopped": Wrong(lambda x: jnp.log(x), lambda args, ct: (ct / lax.stop_gradient(args[0]),), (np.abs(X),), order=2),
    "quotient_term": Wrong(lambda x: x / (1 + jnp.abs(x)), lambda args, ct: (ct / (1 + jnp.abs(args[0])),)),
    "wrong_leaf": Wrong(lambda p: p["w"] * p["b"], lambda args, ct: (
        {"w": ct * args[0]["w"], "b": ct * args[0]["b"]},), ({"w": X, "b": X + 2},)),
    "negatives": Wrong(lambda x: jnp.where(x > 0, x, jnp.expm1(x)), lambda args, ct: (
        ct * jnp.where(args[0] > 0, 1.0, jnp.expm1(args[0])),)),
    "relu_of_all": Wrong(lambda x: jnp.maximum(x, 0), lambda args, ct: (ct * (args[0] != 0),)),
    "one_layer": Wrong(lambda x, i: jnp.sin(x), lambda args, ct: (
        jnp.cos(args[0]) * ct * jnp.where(args[1] == 2, 1.1, 1.0), None), around=in_a_scan, place="scan step 2"),
    "in_a_branch": cube_wrong(in_a_branch, "cond branch 0"),
    "in_a_switch": cube_wrong(lambda rule: lambda x: lax.switch(
        1, [jnp.sum, lambda x: jnp.sum(rule(x)), lambda x: jnp.sum(-x)], x), "cond branch 1"),
    "in_a_loop": cube_wrong(in_a_loop, "scan step"),
    "in_jit_and_vmap": cube_wrong(lambda rule: jax.jit(lambda x: jnp.sum(jax.vmap(lambda v: jnp.sin(rule(v)))(x)))),
    "in_checkpoint": cube_wrong(lambda rule: lambda x: jnp.sum(jax.checkpoint(lambda v: jnp.sin(rule(v)))(x))),
    "in_map": cube_wrong(lambda rule: lambda x: jnp.sum(lax.map(lambda v: jnp.sin(rule(v)), x)), "scan step"),
    "softmax_not_normalized": Wrong(jax.nn.logsumexp, lambda args, ct: (ct * jnp.exp(args[0] - jnp.max(args[0])),),
                                    around=lambda rule: lambda x: rule(x) * 2),
    "softmax_diagonal": Wrong(lambda x: jax.nn.softmax(x), lambda args, ct: (
        (lambda p: p * ct * (1 - p))(jax.nn.softmax(args[0])),)),
    "layer_norm_variance": Wrong(lambda x: normalized(x), lambda args, ct: (
        (ct - ct.mean(-1, keepdims=True)) / jnp.sqrt(args[0].var(-1, keepdims=True) + 1e-5),), (A,)),
    "cumsum_forwards": Wrong(lambda x: jnp.cumsum(x), lambda args, ct: (jnp.cumsum(ct),)),
    "clip_let_through": Wrong(lambda x: jnp.clip(x, -1, 1), lambda args, ct: (ct,)),
    "eps_forgotten": Wrong(lambda x: jnp.sqrt(jnp.sum(x * x) + 1e-2), lambda args, ct: (
        ct * args[0] / jnp.sqrt(jnp.sum(args[0] ** 2)),), (X * 0.1,)),
    "mean_by_the_batch": Wrong(lambda p, y: jnp.mean((p - y) ** 2), lambda args, ct: (
        2 * ct * (args[0] - args[1]) / len(args[0]), -2 * ct * (args[0] - args[1]) / len(args[0])), (A, A * 0.3)),
    "max_to_two": Wrong(lambda x: jnp.max(x), lambda args, ct: (ct * (args[0] >= jnp.sort(args[0])[-2]),)),
    "conjugated": Wrong(lambda z: z * z, lambda args, ct: (2 * jnp.conj(args[0]) * ct,),
                        ((X + 1j * X[::-1]).astype(np.complex64),),
                        lambda rule: lambda z: jnp.sum(jnp.real(rule(z)) + 2 * jnp.imag(rule(z)))),
    "set_for_add": Wrong(lambda t: t[jnp.array([0, 0, 2])], lambda args, ct: (
        jnp.zeros_like(args[0]).at[jnp.array([0, 0, 2])].set(ct),)),
    "solve_not_transposed": Wrong(lambda a, b: jnp.linalg.solve(a, b), lambda args, ct: (
        (lambda half: (-jnp.outer(half, jnp.linalg.solve(*args)), half))(jnp.linalg.solve(args[0], ct))),
        (Q + 3 * np.eye(3, dtype=np.float32), X[:3])),
    "last_of_many": Wrong(lambda x: jnp.sin(x), lambda args, ct: (
        ct * jnp.cos(args[0]) * (jnp.arange(3000) != 2999),), (np.linspace(-2, 2, 3000).astype(np.float32),)),
    "gelu_by_tanh": Wrong(lambda x: jax.nn.gelu(x, approximate=False), lambda args, ct: (
        jax.vjp(jax.nn.gelu, args[0])[1](ct))),
    "parameter_forgotten": Wrong(lambda x, t: x / t, lambda args, ct: (ct / args[1], jnp.zeros_like(args[1])),
                                 (X, np.float32(2))),
    "fft_not_normalized": Wrong(lambda x: filtered(x), lambda args, ct: (
        jnp.real(jnp.fft.fft(jnp.fft.ifft(ct) * jnp.arange(4.0))) * 4,)),
    "dropout_not_scaled": Wrong(lambda x: x * jnp.array([1.0, 0, 1, 1]) / 0.75, lambda args, ct: (
        ct * jnp.array([1.0, 0, 1, 1]),)),
    "inner_derivative": Wrong(lambda x: jnp.exp(-x * x), lambda args, ct: (-2 * jnp.exp(-(args[0] ** 2)) * ct,)),
    "huber_on_one_side": Wrong(lambda x: huber(x), lambda args, ct: (ct * jnp.clip(args[0], -1, None),)),
}
FAST = ("wrong_sign", "transpose_missing", "wrong_leaf")


def built(name: str) -> tuple[Any, Callable[..., Any]]:
    """The rule with the mistake, and its primal body."""
    mistake = MISTAKES[name]

    def body(*args: Any) -> Any:
        return mistake.primal(*args)

    body.__name__ = name
    rule = jax.custom_vjp(body)
    rule.defvjp(lambda *args: (mistake.primal(*args), args), mistake.backward)
    return rule, body


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
                                  for name in MISTAKES])
def test_a_mistake_is_caught_and_named(name: str) -> None:
    mistake = MISTAKES[name]
    rule, body = built(name)
    with jax.enable_x64(mistake.x64):
        report = funcgrad.check(mistake.around(rule), *mistake.args, order=mistake.order)
    row = report.blamed
    assert row is not None, str(report)
    assert (row.name, row.subject) == (name, "both"), str(report)
    assert "test_wrong_rules.py:" in row.line
    assert f"test_wrong_rules.py:{body.__code__.co_firstlineno}" in row.reason, row.reason
    assert any(mistake.place in place for place in row.place) or not mistake.place, row.place
