"""Programs about what a transform is handed: argument numbers, auxiliary data, dtypes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tests.harness.dropin.program import X, loss, program, vector

# ---- argnums ----


@program
def argnums_of_grad(ad):
    return [ad.grad(loss, argnums)(X, 3.0) for argnums in (0, 1, -1, -2, (0,), (0, 1), (1, 0), (-1, 0))]


@program
def argnums_of_value_and_grad(ad):
    return [ad.value_and_grad(loss, argnums=argnums)(X, 3.0) for argnums in (1, (0, 1), [0, 1])]


@program
def argnums_of_jacobians(ad):
    return [jac(vector, argnums)(X, 3.0) for jac in (ad.jacrev, ad.jacfwd) for argnums in (0, 1, (0,), (1, 0), -1)]


@program
def argnums_of_hessian(ad):
    return [ad.hessian(loss, argnums)(X, 3.0) for argnums in (0, 1, (0, 1), (-1,))]


@program
def numpy_integer_as_argnums(ad):
    return ad.grad(loss, np.int32(1))(X, 3.0)


@program
def keyword_arguments_are_not_differentiated(ad):
    return ad.grad(loss)(X, scale=3.0), ad.value_and_grad(loss)(X, y=jnp.float32(2.0), scale=2)


@program
def keyword_arguments_of_jacobians(ad):
    return ad.jacrev(vector)(X, y=3.0), ad.jacfwd(vector)(X, y=3.0), ad.hessian(loss)(X, scale=2.0)


@program
def other_arguments_may_be_anything(ad):
    def f(x, words, table):
        return x * len(words) * table["three"]

    return ad.grad(f)(2.0, "four", {"three": 3, "other": object()})


# ---- aux ----


@program
def aux(ad):
    def f(x):
        return jnp.sum(x * x), {"norm": jnp.sum(abs(x)), "text": None, "count": 3, "x": x}

    def g(x):
        return x * x, [x, jnp.sum(x)]

    return (ad.grad(f, has_aux=True)(X), ad.value_and_grad(f, has_aux=True)(X), ad.jacrev(g, has_aux=True)(X),
            ad.jacfwd(g, has_aux=True)(X), ad.hessian(f, has_aux=True)(X))


@program
def aux_of_vjp_and_jvp(ad):
    def f(x, y):
        return x * y, (x + y, jnp.arange(3))

    out, pullback, more = ad.vjp(f, X, 2.0, has_aux=True)
    return out, more, pullback(jnp.ones(3)), ad.jvp(f, (X, 2.0), (X, 1.0), has_aux=True)


@program
def aux_that_is_no_array(ad):
    value, text = ad.grad(lambda x: (x * x, "label"), has_aux=True)(3.0)
    assert text == "label"
    return value


@program
def aux_as_a_list(ad):
    return ad.value_and_grad(lambda x: [x * x, x + 1], has_aux=True)(3.0)


# ---- dtypes, weak types, complex numbers ----


@program
def python_numbers_are_weak(ad):
    return ad.grad(lambda x: x * x)(3.0), ad.value_and_grad(lambda x: x * X[0])(3.0), ad.jacrev(lambda x: x * X)(1.0)


@program
def weak_type_is_kept_through_operations(ad):
    def f(x):
        return jnp.sin(x) * 2 + x**2 / 3

    return ad.value_and_grad(f)(2.0), ad.value_and_grad(f)(jnp.float32(2.0)), ad.jvp(f, (2.0,), (1.0,))


@program
def weak_pullbacks(ad):
    out, pullback = ad.vjp(lambda x, y: x * y, 2.0, jnp.float32(3.0))
    return out, pullback(1.0), pullback(jnp.float32(1.0))


@program
def half_precision(ad):
    found = []
    for dtype in (jnp.bfloat16, jnp.float16):
        x = jnp.asarray(X, dtype)
        found += [ad.value_and_grad(loss)(x), ad.jacrev(jnp.sin)(x), ad.jacfwd(jnp.sin)(x)]
    return found


@program
def mixed_precision(ad):
    def f(x, y):
        return jnp.sum(x.astype(jnp.float32) * y)

    return ad.value_and_grad(f, (0, 1))(jnp.asarray(X, jnp.bfloat16), X)


@program
def double_precision(ad):
    with jax.enable_x64(True):
        return ad.value_and_grad(loss, (0, 1))(np.float64(X), 3.0), ad.hessian(loss)(np.float64(X))


@program
def numpy_scalars_and_arrays(ad):
    return [ad.value_and_grad(lambda x: x * x)(x) for x in (np.float32(2), np.array(2.0), np.float64(2.0))]


@program
def allow_int(ad):
    def f(x, n):
        return x * n, n

    return (ad.grad(lambda n: n * 2.0, allow_int=True)(3), ad.grad(loss, allow_int=True)(np.arange(3)),
            ad.grad(lambda x, n: x * n, (0, 1), allow_int=True)(2.0, True),
            ad.jacrev(lambda x, n: x * n, argnums=(0, 1), allow_int=True)(X, 3))


@program
def integer_leaves_have_float0(ad):
    def f(tree):
        return tree["x"] * tree["n"], tree["n"] + 1

    out, pullback = ad.vjp(f, {"x": X, "n": np.arange(3)})
    return out, pullback((jnp.ones(3), np.zeros(3, jax.dtypes.float0)))


@program
def float0_tangents(ad):
    return ad.jvp(lambda x, n: (x * n, n + 1), (X, jnp.arange(3)), (X, np.zeros(3, jax.dtypes.float0)))


@program
def integer_outputs_of_vjp(ad):
    out, pullback = ad.vjp(lambda x: (jnp.argmax(x), jnp.max(x), x > 0), X)
    zero = np.zeros((), jax.dtypes.float0)
    return out, pullback((zero, jnp.float32(2.0), np.zeros(3, jax.dtypes.float0)))


@program
def keys_are_inactive(ad):
    def f(x, key):
        return jnp.sum(x * jax.random.normal(key, (3,)))

    key = jax.random.key(0)
    out, pullback = ad.vjp(f, X, key)
    return ad.grad(f)(X, key), out, pullback(1.0)


@program
def holomorphic(ad):
    z = jnp.asarray([1 + 2j, -0.5 + 0.25j])
    return (ad.grad(lambda z: jnp.sum(z**3), holomorphic=True)(z), ad.jacrev(jnp.sin, holomorphic=True)(z),
            ad.jacfwd(jnp.sin, holomorphic=True)(z), ad.hessian(lambda z: jnp.sum(z**3), holomorphic=True)(z))


@program
def complex_input_real_output(ad):
    z = jnp.asarray([1 + 2j, -0.5 + 0.25j])
    return ad.grad(lambda z: jnp.sum(jnp.abs(z) ** 2 + z.real))(z), ad.jacrev(lambda z: z.imag * 2)(z)


@program
def complex_vjp(ad):
    z = jnp.asarray([1 + 2j, -0.5 + 0.25j])
    out, pullback = ad.vjp(lambda z, x: jnp.conj(z) * x, z, 2.0)
    return out, pullback(z), ad.jvp(lambda z: z * z.conj(), (z,), (z,))
