"""`jit` with its options, and `checkpoint` with each policy, against `jax.grad`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

import funcgrad
from tests.calls.comparing import Function, X, Y, body, check, close, second, total

# ---- jit ----


def static_argument(x: Any, y: Any) -> Any:
    power = jax.jit(lambda x, n, scale: scale * x**n, static_argnums=1, static_argnames="scale")
    return power(x, 3, scale=2.0) + power(y, 2, scale=0.5)


def closes_over_traced(x: Any, y: Any) -> Any:
    z = x * y
    return jax.jit(lambda u: jax.jit(lambda v: v * z + y)(u) * z)(x)


def keeps_unused(x: Any, y: Any) -> Any:
    return jax.jit(lambda x, y, unused: body(x, y), keep_unused=True)(x, y, jnp.exp(x))


def several_results(x: Any, y: Any) -> Any:
    parts = jax.jit(lambda x, y: {"a": x * y, "flag": x > 0, "same": x, "one": 1.0})(x, y)
    return jnp.where(parts["flag"], parts["a"], parts["same"]) * parts["one"]


JITTED: dict[str, Function] = {
    "plain": jax.jit(body),
    "nested": jax.jit(lambda x, y: jax.jit(body)(jax.jit(jnp.sin)(x), y)),
    "inline": jax.jit(body, inline=True),
    "static arguments": static_argument,
    "closure over traced values": closes_over_traced,
    "keep_unused": keeps_unused,
    "several results": several_results,
    "called twice": lambda x, y: jax.jit(body)(x, y) + jax.jit(body)(y, x),
}


@pytest.mark.parametrize("name", JITTED)
def test_jit(name: str) -> None:
    check(total(JITTED[name]))


def test_donated_buffers_are_not_lost() -> None:
    donating = jax.jit(body, donate_argnums=0)
    value, pullback = funcgrad.vjp(donating, jnp.asarray(X), jnp.asarray(Y))
    _, wanted = jax.vjp(jax.jit(body), X, Y)
    close(pullback(value), wanted(value))
    # eager jax.grad of this raises: it keeps the donated array
    check(total(lambda x, y: donating(x + 0, y)), total(body))


# ---- checkpoint ----


def named(x: Any, y: Any) -> Any:
    """A body with a name and a contraction."""
    z = checkpoint_name(jnp.sin(x * y), "inner")
    return jnp.tanh(jnp.outer(x, z) @ y) + checkpoint_name(z * z, "outer")


policies = jax.checkpoint_policies
POLICIES: dict[str, Any] = {
    "none": None,
    "everything_saveable": policies.everything_saveable,
    "nothing_saveable": policies.nothing_saveable,
    "dots_saveable": policies.dots_saveable,
    "checkpoint_dots": policies.checkpoint_dots,
    "dots_with_no_batch_dims_saveable": policies.dots_with_no_batch_dims_saveable,
    "checkpoint_dots_with_no_batch_dims": policies.checkpoint_dots_with_no_batch_dims,
    "offload_dot_with_no_batch_dims": policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "save_anything_except_these_names": policies.save_anything_except_these_names("inner"),
    "save_any_names_but_these": policies.save_any_names_but_these("inner"),
    "save_only_these_names": policies.save_only_these_names("inner"),
    "save_from_both_policies": policies.save_from_both_policies(
        policies.dots_saveable, policies.save_only_these_names("outer")),
    "save_and_offload_only_these_names": policies.save_and_offload_only_these_names(
        names_which_can_be_saved=["inner"], names_which_can_be_offloaded=["outer"], offload_src="device",
        offload_dst="pinned_host"),
}


def test_every_policy_is_here() -> None:
    public = {name for name in dir(policies) if not name.startswith("_")}
    assert public <= set(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_checkpoint_policies(name: str) -> None:
    wrapped = jax.checkpoint(named, policy=POLICIES[name])
    close(funcgrad.grad(total(wrapped), (0, 1))(X, Y), jax.grad(total(named), (0, 1))(X, Y))
    close(jax.jit(second(funcgrad.grad, total(wrapped)))(X, Y), second(jax.grad, total(named))(X, Y))


@pytest.mark.parametrize("name", ["none", "everything_saveable", "dots_saveable", "save_only_these_names"])
def test_checkpoint_as_a_hijax_primitive(name: str) -> None:
    """JAX's next form of it, whose own rule is `jax.vjp`: the derivative is ours all the same."""
    jax.config.update("jax_remat3", True)
    try:
        wrapped = jax.checkpoint(named, policy=POLICIES[name])
        assert "RematTraced" in str(jax.make_jaxpr(wrapped)(X, Y))
        gradient = funcgrad.grad(total(wrapped), (0, 1))
        given, again = gradient(X, Y), jax.jit(second(funcgrad.grad, total(wrapped)))(X, Y)
        assert len(funcgrad.make_graph(gradient)(X, Y).nodes) > 10  # the body runs again, in the open
    finally:
        jax.config.update("jax_remat3", False)
    close(given, jax.grad(total(named), (0, 1))(X, Y))
    close(again, second(jax.grad, total(named))(X, Y))


def kept(policy: Any) -> list[tuple[int, ...]]:
    """Shapes of what the pullback of a checkpointed function keeps."""
    def f(x: Any, y: Any) -> Any:
        return jnp.sum(jax.checkpoint(named, policy=policy)(x, y))

    _, pullback = funcgrad.vjp(f, X, Y)
    return sorted(leaf.shape for leaf in jax.tree.leaves(pullback))


def test_policies_decide_what_is_kept() -> None:
    assert kept(None) == kept(policies.nothing_saveable) == [(3,), (3,)]  # x and y
    assert len(kept(policies.save_only_these_names("inner"))) == 3
    assert len(kept(policies.dots_saveable)) >= 3


def test_checkpoint_closures_and_options() -> None:
    def f(x: Any, y: Any) -> Any:
        z = x * y
        inner = jax.checkpoint(lambda u, n: jnp.sin(u * z) ** n, static_argnums=1, prevent_cse=False)
        return jax.checkpoint(lambda u: inner(u, 2) + jax.checkpoint(jnp.cos)(u) * y)(x)

    check(total(f))
