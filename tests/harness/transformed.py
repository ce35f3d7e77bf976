"""The comparisons of a case under JAX's transformations, each against the same case without any."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.cases.case import Args, Case
from tests.harness.compare import conditioning, same_values
from tests.harness.products import (
    FAST_COMPILE,
    JAX,
    OURS,
    Autodiff,
    Leaves,
    Problem,
    fill,
    first_order,
    inexact,
    make_problem,
    reverse_over_reverse,
)
from tests.harness.table import CLOSE_CALL, cast, draw, epsilon, generator, precision

Form = Callable[[Any], Leaves]
#: What these draw under `vmap` is not what they draw alone.
OTHER_NUMBERS = {"rng_bit_generator"}


def check_transformed(case: Case, dtype: str) -> None:
    """Cotangents at two points: mapped, of the mapped function, in and of a scan, checkpointed; all in one program."""
    with precision(dtype):
        rng = generator(case, "seeds")
        problems = [make_problem(case, cast(draw(case, purpose), dtype), rng) for purpose in ("args", "second")]
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[(p.active, p.rest, p.seeds["ct"]) for p in problems])
        one = problems[0]
        try:
            found = _run(forms(one) | ({} if OTHER_NUMBERS & set(case.primitives) else mapped_forms(one, OURS)), batch)
        except NotImplementedError:  # what `jax.vmap` cannot map, it cannot map for JAX either
            with pytest.raises((NotImplementedError, TypeError)):
                _run(mapped_forms(one, JAX), batch)
            found = _run(forms(one), batch)
        plain = found.pop("plain")
        oracle = jax.jit(plain_form(one), compiler_options=FAST_COMPILE)
        spread = conditioning(oracle, batch, generator(case, "nudge"), CLOSE_CALL)
        for name, cts in found.items():
            same_values(cts, plain, name, spread=spread, eps=epsilon(dtype), scale=case.scale, nan=True)


def _run(forms: dict[str, Form], batch: Any) -> dict[str, Leaves]:
    """All forms in one program."""
    run = jax.jit(lambda batch: {name: form(batch) for name, form in forms.items()}, compiler_options=FAST_COMPILE)
    return run(batch)


def plain_form(one: Problem) -> Form:
    """Two calls, their cotangents stacked."""

    def plain(batch: Any) -> Leaves:
        both = [inexact(first_order(OURS, one, *jax.tree.map(lambda leaf: leaf[i], batch))[1]) for i in (0, 1)]  # noqa: B023
        return [jnp.stack(pair) for pair in zip(*both, strict=True)]

    return plain


def forms(one: Problem) -> dict[str, Form]:
    """Everything but `vmap`."""

    def scan_of_vjp(batch: Any) -> Leaves:
        return lax.scan(lambda carry, xs: (carry, inexact(first_order(OURS, one, *xs)[1])), None, batch)[1]

    def vjp_of_scan(batch: Any) -> Leaves:
        return pulled(OURS, lambda active, rest: lax.scan(
            lambda carry, xs: (carry, one.fun(*xs)), None, (active, rest))[1], batch)

    def checkpointed(checkpoint: Callable) -> Form:
        def run(batch: Any) -> Leaves:
            both = []
            for i in (0, 1):
                active, rest, ct = jax.tree.map(lambda leaf: leaf[i], batch)  # noqa: B023
                both.append(pulled(OURS, checkpoint(one.fun), (active, rest, ct)))
            return [jnp.stack(pair) for pair in zip(*both, strict=True)]

        return run

    return {"plain": plain_form(one), "scan of vjp": scan_of_vjp, "vjp of scan": vjp_of_scan,
            "vjp of jax.checkpoint": checkpointed(jax.checkpoint),
            "vjp of funcgrad.checkpoint": checkpointed(funcgrad.checkpoint)}


def mapped_forms(one: Problem, ad: Autodiff) -> dict[str, Form]:
    """`vmap` inside and outside."""
    return {
        "vmap of vjp": lambda batch: jax.vmap(lambda *inputs: inexact(first_order(ad, one, *inputs)[1]))(*batch),
        "vjp of vmap": lambda batch: pulled(ad, jax.vmap(one.fun), batch),
    }


def pulled(ad: Autodiff, fun: Callable[[Args, Args], Any], inputs: Any) -> Leaves:
    """Cotangents of the first argument of ``fun(active, rest)``."""
    active, rest, ct = inputs
    out, pullback = ad.vjp(lambda active: fun(active, rest), active)
    return inexact(pullback(fill(out, ct)))


def check_third_order(case: Case, dtype: str) -> None:
    """Forward over reverse over reverse, and second orders in which one reverse mode is JAX's, against JAX alone."""
    with precision(dtype):
        problem = make_problem(case, cast(draw(case), dtype), generator(case, "seeds"))
        oracle = jax.jit(lambda *inputs: third_order(JAX, JAX, problem, *inputs), compiler_options=FAST_COMPILE)
        wanted = oracle(*problem.inputs)
        spread = conditioning(lambda inputs: jax.tree.leaves(oracle(*inputs)), problem.inputs,
                              generator(case, "nudge"), CLOSE_CALL)

        def mixtures(*inputs: Any) -> list[Any]:
            return [third_order(*pair, problem, *inputs) for pair in ((OURS, OURS), (OURS, JAX), (JAX, OURS))]

        found = jax.jit(mixtures, compiler_options=FAST_COMPILE)(*problem.inputs)
        for name, result in zip(("ours", "ours over JAX", "JAX over ours"), found, strict=True):
            leaves = jax.tree.leaves(wanted)
            floor = [s + epsilon(dtype) * np.max(np.abs(leaf), initial=0.0)
                     for s, leaf in zip(spread, leaves, strict=True)]
            same_values(jax.tree.leaves(result), leaves, f"third order, {name}", spread=floor, eps=epsilon(dtype),
                        scale=case.scale)


def third_order(outer: Autodiff, inner: Autodiff, problem: Problem, active: Args, rest: Args, seeds: Any) -> Leaves:
    """The tangent, by JAX's forward mode, of the cotangents of the cotangents."""

    def second(active: Args, ct: Leaves) -> Leaves:
        first = lambda a, c: inexact(first_order(inner, problem, a, rest, c)[1])  # noqa: E731
        return inexact(outer.vjp(first, active, ct)[1](seeds["u"]))

    return jax.jvp(second, (active, seeds["ct"]), (fill(active, seeds["t"]), seeds["t_ct"]))[1]


def check_under_checks(case: Case, dtype: str) -> None:
    """Orders 1 and 2 are traced, and order 1 runs op by op, with JAX's own checks on, and leave no tracer behind."""
    with precision(dtype):
        problem = make_problem(case, cast(draw(case), dtype), generator(case, "seeds"))
        active, rest, seeds = problem.inputs
        with jax.checking_leaks(), jax.enable_checks(True):
            _value, cts = first_order(OURS, problem, active, rest, seeds["ct"])
            assert len(inexact(cts)) == len(inexact(active))
            jax.make_jaxpr(lambda: first_order(OURS, problem, active, rest, seeds["ct"]))()
            if case.orders >= 2:
                jax.make_jaxpr(lambda: reverse_over_reverse(OURS, problem, active, rest, seeds))()


#: What JAX's own tests run under, and what somebody turns on to find a NaN or a key that is used twice.
SETTINGS: dict[str, Callable[[], tuple]] = {
    "strict": lambda: (jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"),
                       jax.legacy_prng_key("error")),
    "debug_nans": lambda: (jax.debug_nans(True),),
    "debug_key_reuse": lambda: (jax.debug_key_reuse(True),),
    "disable_jit": lambda: (jax.disable_jit(True),),
}


def check_under_settings(case: Case, dtype: str, setting: str) -> None:
    """Order 1 op by op is not refused where `jax.vjp` is not, and what it gives does not depend on the setting."""
    with precision(dtype):
        problem = make_problem(case, cast(draw(case), dtype), generator(case, "seeds"))
        active, rest, seeds = problem.inputs

        def cotangents(ad: Autodiff) -> Leaves:
            with contextlib.ExitStack() as stack:
                for context in SETTINGS[setting]():
                    stack.enter_context(context)
                return inexact(first_order(ad, problem, active, rest, seeds["ct"])[1])

        try:
            found = cotangents(OURS)
        except Exception as error:  # the case itself may be what the setting forbids
            with pytest.raises(type(error)):
                cotangents(JAX)
            return
        plain = inexact(first_order(OURS, problem, active, rest, seeds["ct"])[1])
        spread = conditioning(lambda inputs: inexact(first_order(OURS, problem, *inputs)[1]),
                              (active, rest, seeds["ct"]), generator(case, "nudge"))
        same_values(found, plain, f"cotangent under {setting}", spread=spread, eps=epsilon(dtype), scale=case.scale,
                    nan=True)
