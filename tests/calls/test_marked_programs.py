"""Programs in a place or under a mark of their own: `compute_on2`, `scheduling_group`, `fused`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compute_on import compute_on, compute_on2
from jax.experimental.fused import fused
from jax.experimental.scheduling_groups import scheduling_group, xla_metadata_call
from jax.experimental.xla_metadata import set_xla_metadata

import funcgrad
from tests.calls.comparing import X, Y, body, check, close, second, total

Space = jax.memory.Space
on_host = functools.partial(compute_on2, compute_type="device_host")


def nested(x: Any, y: Any) -> Any:
    """One mark inside another."""
    return scheduling_group("outer")(lambda x: xla_metadata_call(body, of="inner")(x, y) * x)(x) / x


product_on_host = on_host(lambda x, y: jnp.sin(x) * y, out_memory_spaces=Space.Device)

MARKED: dict[str, Callable] = {
    "compute_on2": on_host(body, out_memory_spaces=Space.Device),
    "jitted inside": on_host(jax.jit(body), out_memory_spaces=Space.Device),
    "result on the host": lambda x, y: jax.device_put(on_host(body, out_memory_spaces=Space.Host)(x, y), Space.Device),
    "operands on the host": lambda x, y: body(x, product_on_host(*jax.device_put((x, y), Space.Host)) / jnp.sin(x)),
    "scheduling_group": scheduling_group("group")(body),
    "closure": lambda x, y: scheduling_group("group")(lambda x: body(x, y))(x),
    "nested": nested,
    "mapped": lambda x, y: jax.vmap(on_host(body, out_memory_spaces=Space.Device), (None, 0))(x, jnp.stack([y, y]))[1],
    "in a loop": lambda x, y: jax.lax.scan(
        lambda x, _: (scheduling_group("group")(body)(x, y), None), x, length=1)[0],
}


@pytest.mark.parametrize("name", MARKED)
def test_marked_programs(name: str) -> None:
    """Some of them JAX refuses: the oracle has no marks."""
    check(total(MARKED[name]), total(body))
    close(funcgrad.jvp(lambda x: MARKED[name](x, Y), (X,), (Y,)), jax.jvp(lambda x: body(x, Y), (X,), (Y,)))


@pytest.mark.parametrize(("name", "mark"), [("compute_on2", '_xla_compute_type = "host"'),
                                            ("scheduling_group", 'scheduling_group = "group"')])
def test_the_pullback_runs_under_the_mark_too(name: str, mark: str) -> None:
    forward = jax.jit(total(MARKED[name])).lower(X, Y).as_text().count(mark)
    both = jax.jit(funcgrad.grad(total(MARKED[name]), (0, 1))).lower(X, Y).as_text().count(mark)
    assert both > forward > 0


def under_settings(x: Any, y: Any) -> Any:
    """Operations in a place, and under a mark, without a primitive that holds them."""
    with compute_on("device_host"):
        z = jnp.sin(x * y) + x
    with set_xla_metadata(mark="here"):
        return jnp.cos(z) * y


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, lambda f: lambda x, y: jax.lax.scan(
    lambda x, y: (f(x, y), None), x, jnp.stack([y, y]))[0]])
def test_what_is_pulled_back_runs_where_it_ran(wrap: Callable) -> None:
    f = total(wrap(under_settings))
    check(f)
    for mark in ('_xla_compute_type = "host"', 'mark = "here"'):
        ours, theirs, forward = (jax.jit(g).lower(X, Y).as_text().count(mark)
                                 for g in (funcgrad.grad(f, (0, 1)), jax.grad(f, (0, 1)), f))
        assert ours > forward > 0 and theirs > forward


def test_what_an_integer_operand_and_an_unused_result_change() -> None:
    def f(x: Any, y: Any) -> Any:
        first, _ = on_host(lambda x, i: (jnp.sin(x[i]), jnp.cos(x)), out_memory_spaces=(Space.Device, Space.Device))(
            x, jnp.array([2, 0, 0]))
        return first * y

    check(total(f), total(lambda x, y: jnp.sin(x[jnp.array([2, 0, 0])]) * y))


def test_fused_programs_are_differentiated_though_a_cpu_cannot_run_them() -> None:
    """Arrays of any memory, as the program sees them; the programs of orders one and two have the fusions."""
    held = fused(out_spaces=(Space.Device,))(lambda x, y: (jnp.sin(x * y) + x,))
    for f in (funcgrad.grad(total(lambda *xs: held(*xs)[0]), (0, 1)),
              second(funcgrad.grad, total(lambda *xs: held(*xs)[0]))):
        text = str(jax.make_jaxpr(f)(X, Y))
        assert text.count("fused_call[") >= 2 and "pullback" not in text.split("fused_call[")[0]
