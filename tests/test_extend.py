"""`funcgrad.extend`: what the calls that register a rule promise and refuse."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive

import funcgrad
from funcgrad import extend, registry
from funcgrad.errors import DuplicateRuleError


@pytest.fixture
def root_p() -> Iterator[Primitive]:
    """A primitive of the user's: the square root, element by element. Its rule goes when the test ends."""
    primitive = Primitive("own_root")
    primitive.def_impl(jnp.sqrt)
    primitive.def_abstract_eval(lambda x: x)
    yield primitive
    registry._RULES.pop(primitive, None)


def root_vjp(ct, out, _x):
    """``ct / (2 sqrt(x))``."""
    return lax.div(ct, lax.mul(lax.full_like(out, 2), out))


def test_a_rule_is_differentiated_in_turn(root_p: Primitive) -> None:
    extend.pointwise(root_p, lambda out, _x: extend.Over(lax.mul(lax.full_like(out, 2), out)))
    assert funcgrad.grad(root_p.bind)(jnp.array(4.0)) == 0.25
    assert funcgrad.grad(funcgrad.grad(root_p.bind))(jnp.array(4.0)) == -1 / 32


def test_a_second_rule_is_refused(root_p: Primitive) -> None:
    extend.closed_form(root_p, root_vjp)
    with pytest.raises(DuplicateRuleError, match=r"`own_root` has a rule already \(closed form\)"):
        extend.linear(root_p, lambda ct, _x: ct)


def test_too_few_parameters_are_refused(root_p: Primitive) -> None:
    with pytest.raises(TypeError, match="a closed form rule takes at least 2 positional parameters"):
        extend.closed_form(root_p, lambda ct: ct)


@pytest.mark.parametrize(("mixes", "first"), [(extend.ELEMENTS, 0.0), (extend.EVERYTHING, jnp.nan)])
def test_strong_zeros_know_what_a_rule_mixes(root_p: Primitive, mixes: str, first: float) -> None:
    extend.closed_form(root_p, root_vjp, mixes=mixes)

    def masked(x):
        return jnp.where(x > 0, root_p.bind(x), 0.0).sum()

    ct = funcgrad.grad(masked, strong_zeros=True)(jnp.array([0.0, 4.0]))
    assert jnp.array_equal(ct, jnp.array([first, 0.25]), equal_nan=True)


def test_an_unknown_word_for_what_a_rule_mixes_is_refused(root_p: Primitive) -> None:
    with pytest.raises(ValueError, match="mixes must be one of 'elements', .* got 'element'"):
        extend.closed_form(root_p, root_vjp, mixes="element")
    assert registry.lookup(root_p) is None
