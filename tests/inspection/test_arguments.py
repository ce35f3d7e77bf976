"""`strong_zeros`, `policy` and `taps`: which transforms take them, and that each of these passes them on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad

REVERSE = ("grad", "value_and_grad", "vjp", "jacrev")
OTHERS = ("jvp", "jacfwd", "hessian", "hvp")


def applied(name: str, fun: Callable[..., Any], x: float, **told: Any) -> list[Any]:
    """What a transform gives at x, flat, along the first direction where it wants one."""
    transform = getattr(funcgrad, name)
    if name == "vjp":
        return jax.tree.leaves(transform(fun, x, **told)[1](1.0))
    if name in ("jvp", "hvp"):
        return jax.tree.leaves(transform(fun, (x,), (1.0,), **told))
    return jax.tree.leaves(transform(fun, **told)(x))


def decay(x):
    return lax.scan(lambda state, _: (jnp.sin(state) * state, None), x, length=4)[0]


def test_the_arguments_of_each_transform() -> None:
    taken = {name: {"strong_zeros", "policy", "taps"} & set(inspect.signature(getattr(funcgrad, name)).parameters)
             for name in (*REVERSE, *OTHERS, "checkpoint")}
    assert taken == {**dict.fromkeys(REVERSE, {"strong_zeros", "policy", "taps"}),
                     **dict.fromkeys(OTHERS, {"strong_zeros", "policy"}),  # taps are for the cotangents of one sweep
                     "checkpoint": {"policy"}}  # JAX's own; how strong zeros are, says whose sweep it is


@pytest.mark.parametrize("name", REVERSE + OTHERS)
def test_a_policy_is_asked_and_changes_no_number(name: str) -> None:
    asked: set[str] = set()

    def policy(primitive: Any, *avals: Any, **params: Any) -> bool:
        asked.add(str(primitive))
        return False

    plain = applied(name, decay, 0.7)
    assert not asked
    np.testing.assert_allclose(applied(name, decay, 0.7, policy=policy), plain, rtol=1e-6)
    assert "sin" in asked


@pytest.mark.parametrize("name", ["jvp", "jacfwd", "hvp", "hessian"])
def test_a_budget_holds_for_tangents_too(name: str) -> None:
    """The states of a loop, kept for the tangents, are what a budget is there to bound."""
    def long(x):
        return lax.scan(lambda state, _: (jnp.sin(state) * state, None), x * jnp.ones(100), length=400)[0].sum()

    def bytes_kept(policy: Any) -> int:
        compiled = jax.jit(lambda x: applied(name, long, x, policy=policy)).lower(0.5).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    states = 400 * 100 * 4
    assert bytes_kept("everything") > states > bytes_kept(funcgrad.budget(20_000))


@pytest.mark.parametrize("name", REVERSE + OTHERS)
@pytest.mark.parametrize("told", [{"policy": "most"}, {"policy": 3}, {"strong_zeros": "yes"}],
                         ids=["policy's name", "policy", "strong zeros"])
def test_wrong_values_are_told_by_each(name: str, told: dict[str, Any]) -> None:
    with pytest.raises(ValueError if told.get("policy") == "most" else TypeError, match="To fix"):
        applied(name, jnp.sin, 0.5, **told)
