"""`debug_nonfinite`: compiled programs tell of a NaN as it is born."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.inspection import Nonfinite, NonfiniteError
from tests.inspection.nonfinite_programs import PROGRAMS, XS, X, code, doubled, masked_root


def found_in(run: Callable[[], Any]) -> Nonfinite:
    with pytest.raises(NonfiniteError) as caught, funcgrad.debug_nonfinite():
        run()
    assert caught.value.report.place is not None
    return caught.value.report


COMPILED: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "eager": (lambda: funcgrad.grad(masked_root)(X), {}),
    "jit": (lambda: jax.jit(funcgrad.value_and_grad(masked_root))(X), {}),
    "jit of vmap": (lambda: jax.jit(jax.vmap(funcgrad.grad(masked_root)))(XS), {"batch index": 2}),
    "nested vmap": (lambda: jax.vmap(jax.vmap(funcgrad.grad(masked_root)))(np.stack([XS + 1, XS])),
                    {"batch index": 1, "inner batch index": 2}),
    "vmap of one argument": (lambda: jax.jit(jax.vmap(funcgrad.grad(lambda x, w: masked_root(x) * w), (0, None)))(
        XS, 2.0), {"batch index": 2}),
    "behind a rule of its own": (lambda: jax.jit(funcgrad.grad(lambda x: masked_root(doubled(x))))(X), {}),
    "in a scan": (lambda: jax.jit(lambda xs: lax.scan(lambda c, x: (c, funcgrad.grad(masked_root)(x)), 0.0, xs))(XS),
                  {"call": 2}),
    "of a scan": (lambda: jax.jit(funcgrad.grad(PROGRAMS["scan"][0]))(XS), {"scan step": 2}),
    "differentiated once more by JAX": (lambda: jax.jit(jax.grad(lambda x: jnp.sum(funcgrad.grad(masked_root)(x))))(X),
                                        {}),
    "in a checkpoint": (lambda: jax.jit(funcgrad.grad(jax.checkpoint(
        lambda x: jnp.sum(funcgrad.grad(masked_root)(x)))))(X), {}),
    "vjp": (lambda: jax.jit(lambda x: funcgrad.vjp(masked_root, x)[1](1.0))(X), {}),
    "jacrev": (lambda: jax.jit(funcgrad.jacrev(lambda x: jnp.sqrt(x)))(X), {"batch index": 1}),
    "jvp": (lambda: jax.jit(lambda x: funcgrad.jvp(lambda x: jnp.sqrt(x), (x,), (x,)))(X), {}),
    "hessian": (lambda: funcgrad.hessian(lambda x: jnp.sum(x**1.5))(X), {}),
}  # fmt: skip


SLOW = ("hessian", "in a checkpoint", "jvp", "vmap of one argument", "differentiated once more by JAX", "of a scan")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in COMPILED])
def test_the_context_finds_it_in_compiled_code(name: str) -> None:
    run, steps = COMPILED[name]
    report = found_in(run)
    assert report.place is not None and report.place.operation in ("sqrt", "pow")
    assert report.place.steps == steps
    assert report.place.file in (__file__, masked_root.__code__.co_filename)


def test_the_functions_of_taps_are_seen() -> None:
    """What a tap mends is no fault; what it breaks is found where it stands."""
    def tapped(x: Any) -> Any:
        return masked_root(funcgrad.tap(x, "x"))

    with funcgrad.debug_nonfinite():
        gradient = jax.jit(funcgrad.grad(tapped, taps={"x": jnp.nan_to_num}))(X)
        pulled = jax.jit(lambda x: funcgrad.vjp(tapped, x, taps={"x": jnp.nan_to_num})[1](1.0)[0])(X)
    assert np.isfinite(gradient).all() and np.isfinite(pulled).all()
    broken = found_in(lambda: jax.jit(funcgrad.grad(tapped, taps={"x": lambda ct: ct * jnp.inf}))(X + 1))
    assert broken.place is not None and broken.place.operation == "name x"


def test_strong_zeros_are_seen() -> None:
    with funcgrad.debug_nonfinite():
        gradient = jax.jit(funcgrad.grad(masked_root, strong_zeros=True))(X)
    assert np.isfinite(gradient).all()


def test_nothing_is_raised_where_all_is_finite_and_results_are_the_same() -> None:
    step = jax.jit(funcgrad.value_and_grad(masked_root))
    plain = step(X + 1)
    with funcgrad.debug_nonfinite():
        watched = step(X + 1)
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, watched))


def test_it_costs_nothing_when_not_used() -> None:
    """The program outside is the program of every day, before and after; and each context compiles once."""
    step = jax.jit(funcgrad.grad(masked_root))
    before = str(jax.make_jaxpr(step)(X))
    reports: list[Nonfinite] = []
    context = funcgrad.debug_nonfinite(reports.append)
    sizes = []
    for _ in range(3):
        with context:
            step(X)
        sizes.append(step._cache_size())
    assert len(reports) == 3 and len(set(sizes)) == 1
    with context:
        assert "debug_callback" in str(jax.make_jaxpr(funcgrad.grad(masked_root))(X))
    assert str(jax.make_jaxpr(step)(X)) == before and "callback" not in before


def test_check_asks_in_between_and_errors_of_the_user_pass() -> None:
    step = jax.jit(funcgrad.grad(masked_root))
    with pytest.raises(NonfiniteError, match="sqrt"), funcgrad.debug_nonfinite() as watch:
        step(X + 1)
        watch.check()
        step(X)
        watch.check()
        raise AssertionError("not reached")
    with pytest.raises(LookupError), funcgrad.debug_nonfinite():
        step(X)
        raise LookupError


def test_random_keys_come_along() -> None:
    def noisy(x: Any, key: Any) -> Any:
        return masked_root(x) + jnp.sum(x * jax.random.normal(key, x.shape))

    report = found_in(lambda: jax.jit(lambda x, key: funcgrad.grad(noisy)(x, key))(X, jax.random.key(0)))
    assert code(report) == code(funcgrad.find_nonfinite(masked_root, X))
