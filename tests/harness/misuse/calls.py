"""Transforms that are handed what they refuse: functions, arguments, cotangents, tangents."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tests.harness.dropin import X, loss, vector
from tests.harness.misuse.table import misuse


@misuse
def grad_of_a_vector(ad):
    ad.grad(lambda x: x * 2)(X)


@misuse
def grad_of_a_tree(ad):
    ad.grad(lambda x: (x, x))(1.0)


@misuse
def grad_of_no_array(ad):
    ad.grad(lambda x: "text")(1.0)


@misuse
def grad_of_none(ad):
    ad.grad(lambda x: None)(1.0)


@misuse
def integer_input(ad):
    ad.grad(lambda x: x * 2.0)(3)


@misuse
def boolean_input(ad):
    ad.grad(lambda x: x * 2.0)(True)


@misuse
def key_input(ad):
    ad.grad(lambda k: jnp.sum(jax.random.normal(k)))(jax.random.key(0))


@misuse
def text_input(ad):
    ad.grad(lambda x: 1.0)("text")


@misuse
def object_input(ad):
    ad.vjp(lambda x: 1.0, object())


@misuse
def integer_output(ad):
    ad.grad(lambda x: jnp.argmax(x))(X)


@misuse
def complex_output(ad):
    ad.grad(lambda z: z * z)(1 + 2j)


@misuse
def real_input_of_holomorphic(ad):
    ad.grad(lambda z: z * z, holomorphic=True)(1.0)


@misuse
def real_output_of_holomorphic(ad):
    ad.grad(lambda z: jnp.abs(z), holomorphic=True)(1.0 + 2j)


@misuse
def real_input_of_holomorphic_jacfwd(ad):
    ad.jacfwd(lambda z: z * z, holomorphic=True)(X)


@misuse
def complex_input_of_jacfwd(ad):
    ad.jacfwd(lambda z: jnp.abs(z))(jnp.asarray([1 + 2j]))


@misuse
def complex_output_of_jacrev(ad):
    ad.jacrev(lambda x: x * 1j)(X)


@misuse
def integer_input_of_jacfwd(ad):
    ad.jacfwd(lambda x: x * 2.0)(3)


@misuse
def integer_input_of_hessian(ad):
    ad.hessian(lambda x: x * 2.0)(3)


@misuse
def argnums_out_of_range(ad):
    ad.grad(loss, 2)(X, 1.0)


@misuse
def argnums_out_of_range_below(ad):
    ad.grad(loss, -3)(X, 1.0)


@misuse
def argnums_tuple_out_of_range(ad):
    ad.value_and_grad(loss, (0, 5))(X, 1.0)


@misuse
def argnums_of_jacrev_out_of_range(ad):
    ad.jacrev(vector, 2)(X, 1.0)


@misuse
def argnums_of_jacfwd_out_of_range(ad):
    ad.jacfwd(vector, 2)(X, 1.0)


@misuse
def argnums_that_are_no_integers(ad):
    ad.grad(loss, 0.5)(X)


@misuse
def argnums_that_are_text(ad):
    ad.grad(loss, "x")(X)


@misuse
def no_positional_argument(ad):
    ad.grad(loss)(x=X)


@misuse
def empty_argnums(ad):
    ad.grad(loss, ())(X)


@misuse
def not_callable(ad):
    ad.grad(3.0)


@misuse
def vjp_of_no_function(ad):
    ad.vjp(3.0, 1.0)


@misuse
def jvp_of_no_function(ad):
    ad.jvp(3.0, (1.0,), (1.0,))


@misuse
def jacrev_of_no_function(ad):
    ad.jacrev(None)


@misuse
def reduce_axes(ad):
    ad.grad(loss, reduce_axes=("batch",))(X)


@misuse
def reduce_axes_of_vjp(ad):
    ad.vjp(loss, X, reduce_axes=("batch",))


@misuse
def unknown_keyword(ad):
    ad.grad(loss, argnum=1)


@misuse
def aux_that_is_not_there(ad):
    ad.grad(lambda x: x * x, has_aux=True)(1.0)


@misuse
def aux_of_three(ad):
    ad.grad(lambda x: (x, x, x), has_aux=True)(1.0)


@misuse
def aux_of_vjp_not_there(ad):
    ad.vjp(lambda x: x * x, 1.0, has_aux=True)


@misuse
def cotangent_of_another_structure(ad):
    ad.vjp(lambda x: (x, x), X)[1](X)


@misuse
def cotangent_of_another_shape(ad):
    ad.vjp(lambda x: x * 2, X)[1](jnp.ones(4))


@misuse
def cotangent_of_another_dtype(ad):
    ad.vjp(lambda x: x * 2, X)[1](jnp.ones(3, jnp.int32))


@misuse
def cotangent_of_half_the_precision(ad):
    ad.vjp(lambda x: x * 2, X)[1](jnp.ones(3, jnp.bfloat16))


@misuse
def cotangent_that_is_complex(ad):
    ad.vjp(lambda x: x * 2, X)[1](jnp.ones(3, jnp.complex64))


@misuse
def two_cotangents(ad):
    ad.vjp(lambda x: (x, x), X)[1](X, X)


@misuse
def no_cotangent(ad):
    ad.vjp(lambda x: (x, x), X)[1]()


@misuse
def vjp_without_enough_arguments(ad):
    ad.vjp(lambda x, y: x * y, X)


@misuse
def tangents_that_are_no_tuple(ad):
    ad.jvp(jnp.sin, 1.0, 1.0)


@misuse
def tangents_of_another_structure(ad):
    ad.jvp(lambda x, y: x * y, (1.0, 2.0), (1.0,))


@misuse
def tangents_of_another_shape(ad):
    ad.jvp(jnp.sin, (X,), (jnp.ones(4),))


@misuse
def tangents_of_another_dtype(ad):
    ad.jvp(jnp.sin, (X,), (jnp.ones(3, jnp.int32),))


@misuse
def tangent_of_an_integer(ad):
    ad.jvp(lambda n: n * 2.0, (3,), (1,))


@misuse
def key_output(ad):
    ad.grad(lambda x: jax.random.key(0))(1.0)


@misuse
def integer_output_of_jacrev(ad):
    ad.jacrev(lambda x: jnp.argmax(x))(X)


@misuse
def integer_input_of_jacrev(ad):
    ad.jacrev(lambda x: x * 1.0)(3)


@misuse
def argnums_of_hessian_out_of_range(ad):
    ad.hessian(lambda x: x**2, 3)(1.0)


@misuse
def jacrev_of_no_arguments(ad):
    ad.jacrev(lambda: 1.0)()


@misuse
def the_same_argument_twice(ad):
    ad.grad(lambda x, y: x * y, (0, -2))(2.0, 3.0)


@misuse
def cotangent_of_another_type_of_tree(ad):
    ad.vjp(lambda x: {"a": x, "b": (x, x)}, X)[1]({"a": X, "b": [X, X]})


@misuse
def cotangent_with_a_key_of_another_name(ad):
    ad.vjp(lambda x: {"a": x, "b": (x, x)}, X)[1]({"a": X, "c": (X, X)})


@misuse
def cotangent_that_is_none(ad):
    ad.vjp(lambda x: (x, x), X)[1]((X, None))


@misuse
def cotangent_of_an_integer_of_another_shape(ad):
    ad.vjp(lambda x: (x, jnp.argmax(x)), X)[1]((X, jnp.ones(2)))


@misuse
def tangent_that_is_none(ad):
    ad.jvp(lambda x: x, (1.0,), (None,))


@misuse
def aux_of_jacrev_not_there(ad):
    ad.jacrev(lambda x: x, has_aux=True)(X)
