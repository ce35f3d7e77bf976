"""Functions that do what no transform can bear."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from tests.harness.dropin import M, X
from tests.harness.misuse.table import misuse


@misuse
def the_users_own_error(ad):
    def f(x):
        raise LookupError("mine")

    ad.grad(f)(1.0)


@misuse
def shapes_that_do_not_fit(ad):
    ad.grad(lambda x: jnp.sum(x @ M))(X)


@misuse
def checkpoint_of_no_function(ad):
    ad.checkpoint(3.0)(1.0)


@misuse
def reverse_mode_through_a_callback_without_rule(ad):
    shape = jax.ShapeDtypeStruct((), np.float32)
    ad.grad(lambda x: jax.pure_callback(np.sin, shape, x))(1.0)


@misuse
def float_of_a_traced_value(ad):
    ad.grad(lambda x: float(x) * x)(1.0)


@misuse
def numpy_function_of_a_traced_value(ad):
    ad.grad(lambda x: jnp.sum(np.sin(x)))(X)


@misuse
def assignment_to_a_traced_value(ad):
    def f(x):
        x[0] = 1.0
        return x.sum()

    ad.grad(f)(X)


@misuse
def iteration_over_a_number(ad):
    ad.grad(lambda x: sum(x))(1.0)


@misuse
def truth_of_a_traced_vector(ad):
    ad.grad(lambda x: jnp.sum(x) if x else 0.0)(X)


@misuse
def a_value_that_escapes(ad):
    held = []
    ad.grad(lambda x: (held.append(x), x * x)[1])(1.0)
    held[0] + 1  # noqa: B018


@misuse
def primitive_without_rule(ad):
    primitive = jax.extend.core.Primitive("unknown_thing")
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(lambda x: x)
    ad.grad(primitive.bind)(1.0)


@misuse
def ordered_callback(ad):
    ad.grad(lambda x: io_callback(np.sin, jax.ShapeDtypeStruct((), np.float32), x))(1.0)


@misuse
def nan_in_the_backward_pass(ad):
    with jax.debug_nans(True):
        ad.grad(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0))(0.0)


@misuse
def promotion_that_is_forbidden(ad):
    with jax.numpy_dtype_promotion("strict"):
        ad.grad(lambda x: jnp.sum(x * jnp.ones(3, jnp.bfloat16)))(X)


# ---- custom rules that are wrong ----


def with_vjp(fwd=lambda x: (jnp.sin(x), x), bwd=lambda x, ct: (ct * jnp.cos(x),)):
    """A sine with these rules."""
    function = jax.custom_vjp(lambda x: jnp.sin(x))
    function.defvjp(fwd, bwd)
    return function


def with_jvp(rule):
    """A sine with this rule."""
    function = jax.custom_jvp(lambda x: jnp.sin(x))
    function.defjvp(rule)
    return function


@misuse
def custom_vjp_without_rules(ad):
    ad.grad(jax.custom_vjp(jnp.sin))(1.0)


@misuse
def custom_jvp_without_rule(ad):
    ad.grad(jax.custom_jvp(jnp.sin))(1.0)


@misuse
def backward_gives_too_many(ad):
    ad.grad(with_vjp(bwd=lambda x, ct: (ct, ct)))(1.0)


@misuse
def backward_gives_no_tuple(ad):
    ad.grad(with_vjp(bwd=lambda x, ct: ct))(1.0)


@misuse
def backward_gives_another_shape(ad):
    ad.grad(with_vjp(bwd=lambda x, ct: (jnp.ones(3),)))(1.0)


@misuse
def backward_gives_another_tree(ad):
    ad.grad(with_vjp(bwd=lambda x, ct: ({"a": ct},)))(1.0)


@misuse
def forward_gives_no_pair(ad):
    ad.grad(with_vjp(fwd=lambda x: x))(1.0)


@misuse
def forward_gives_another_tree(ad):
    ad.grad(with_vjp(fwd=lambda x: ((x, x), x)))(1.0)


@misuse
def rule_gives_no_pair(ad):
    ad.grad(with_jvp(lambda primals, tangents: tangents[0]))(1.0)


@misuse
def rule_gives_another_tree(ad):
    ad.grad(with_jvp(lambda primals, tangents: (jnp.sin(primals[0]), (tangents[0], tangents[0]))))(1.0)


@misuse
def rule_gives_another_shape(ad):
    ad.grad(with_jvp(lambda primals, tangents: (jnp.sin(primals[0]), jnp.ones(3))))(1.0)


@misuse
def rule_gives_another_dtype(ad):
    ad.grad(with_jvp(lambda primals, tangents: (jnp.sin(primals[0]), tangents[0].astype(jnp.bfloat16))))(1.0)


@misuse
def rule_gives_another_output(ad):
    ad.grad(with_jvp(lambda primals, tangents: ((primals[0], primals[0]), tangents[0])))(1.0)


@misuse
def traced_value_in_a_custom_rule(ad):
    def outer(y):
        function = jax.custom_vjp(lambda x: x * y)
        function.defvjp(lambda x: (x * y, None), lambda res, ct: (ct,))
        return function(2.0)

    ad.grad(outer)(3.0)


@misuse
def traced_value_hidden_in_a_static_argument(ad):
    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def apply(function, x):
        return function(x)

    apply.defjvp(lambda function, primals, tangents: (apply(function, *primals), 2.0 * tangents[0]))
    ad.grad(lambda x: apply(lambda y: x + y, x))(1.0)
