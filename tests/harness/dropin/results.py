"""Programs about what comes back: trees, values that do not depend, forward mode, functions and their names."""

from __future__ import annotations

import functools
import json
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np

from tests.harness.dropin.program import Layer, M, Pair, X, loss, program

# ---- pytrees ----


@program
def dictionaries_and_none(ad):
    params = {"w": M, "b": X, "unused": None, "inner": [{}, (), {"c": 1.5}]}

    def f(p):
        return jnp.sum(jnp.tanh(p["w"] @ p["b"])) * p["inner"][2]["c"]

    return ad.value_and_grad(f)(params), ad.jacrev(f)(params), ad.jacfwd(f)(params)


@program
def dataclasses_and_named_tuples(ad):
    def f(layer, pair, table):
        return jnp.sum(layer.weight @ pair.first + layer.bias) * pair.second * table["t"]

    args = Layer(M, 0.5, "dense"), Pair(X, 2.0), OrderedDict(t=1.5)
    return ad.grad(f, (0, 1, 2))(*args), ad.hessian(f, 1)(*args)


@program
def no_leaves(ad):
    out, pullback = ad.vjp(lambda tree: {}, {"a": None})
    return out, pullback({}), ad.grad(lambda tree: 1.0)({}), ad.grad(lambda x, tree: x, (0, 1))(2.0, [])


@program
def no_arguments(ad):
    out, pullback = ad.vjp(lambda: 3.0)
    return out, pullback(1.0)


@program
def empty_arrays(ad):
    x = np.zeros((0, 3), np.float32)
    return ad.value_and_grad(lambda x: jnp.sum(x * x))(x), ad.jacrev(lambda x: x * 2)(x), ad.jacfwd(jnp.sin)(x)


@program
def trees_of_outputs(ad):
    def f(x, y):
        return {"a": x * y, "b": (jnp.sum(x), [y])}

    return [jac(f, (0, 1))(X, 2.0) for jac in (ad.jacrev, ad.jacfwd)]


@program
def hessian_of_trees(ad):
    def f(p):
        return {"out": jnp.sum(p["a"] ** 2 * p["b"]), "same": p["b"] ** 3}

    return ad.hessian(f)({"a": X, "b": 2.0})


@program
def pullback_of_trees(ad):
    out, pullback = ad.vjp(lambda p, x: Pair(p["w"] @ x, None), {"w": M}, X)
    return out, pullback(Pair(jnp.ones(2), None))


# ---- values that do not depend, or depend twice ----


@program
def unused_and_constant(ad):
    out, pullback = ad.vjp(lambda x, y: (x, 3.0), X, M)
    return ad.grad(lambda x, y: jnp.sum(x), (0, 1))(X, M), ad.grad(lambda x: 1.0)(X), out, pullback((X, 1.0))


@program
def an_output_that_is_an_input(ad):
    out, pullback = ad.vjp(lambda x, y: (x, y, x), X, M)
    return out, pullback((X, M, 2 * X))


@program
def many_paths(ad):
    def f(x):
        y = x * x
        return jnp.sum(y * x + y + x + y * y)

    return ad.grad(f)(X)


@program
def stop_gradient(ad):
    return ad.grad(lambda x: jnp.sum(x * jax.lax.stop_gradient(x)))(X)


@program
def the_same_array_twice(ad):
    x = jnp.asarray(X)
    return ad.grad(lambda a, b: jnp.sum(a * b * a), (0, 1))(x, x)


@program
def zero_cotangent(ad):
    _, pullback = ad.vjp(lambda x: (jnp.sin(x), x * x), X)
    return pullback((jnp.zeros(3), jnp.zeros(3)))


# ---- forward mode and the rest ----


@program
def jvp_of_trees(ad):
    return ad.jvp(lambda p: {"y": p["x"] * p["s"], "c": 1.0}, [{"x": X, "s": 2.0}], [{"x": X + 1, "s": 0.5}])


@program
def jacobians_of_matrices(ad):
    return ad.jacrev(lambda m: m @ X)(M), ad.jacfwd(lambda m: m.T @ m)(M), ad.hessian(lambda m: jnp.sum(m**3))(M)


@program
def checkpoint(ad):
    def f(x, y):
        return jnp.sum(jnp.sin(jnp.sin(x)) * y), {"x": x}

    safe = ad.checkpoint(f)
    return safe(X, 2.0), ad.grad(lambda x: safe(x, 2.0)[0])(X), jax.grad(lambda x: safe(x, 2.0)[0])(X)


@program
def checkpoint_settings(ad):
    @ad.checkpoint
    def plain(x):
        return jnp.sum(jnp.exp(jnp.sin(x)))

    kept = ad.checkpoint(lambda x, n: jnp.sum(jnp.sin(x) ** n), policy=jax.checkpoint_policies.everything_saveable,
                         prevent_cse=False, static_argnums=(1,))
    return ad.grad(plain)(X), ad.grad(kept)(X, 3), jax.jit(ad.grad(plain))(X)


@program
def functions_that_are_objects(ad):
    class Model:
        def __init__(self, w):
            self.w = w

        def __call__(self, x):
            return jnp.sum(self.w @ x)

        def other(self, x):
            return self(x) * 2

    model = Model(M)
    return (ad.grad(model)(X), ad.grad(model.other)(X), ad.grad(functools.partial(loss, scale=3.0))(X),
            ad.grad(jnp.sum)(X), ad.grad(jax.jit(loss))(X))


@program
def names_and_documentation(ad):
    for transform in (ad.grad, ad.value_and_grad, ad.jacrev, ad.jacfwd, ad.hessian):
        assert callable(transform(loss))
    assert ad.grad(loss).__name__.endswith("loss") and ad.grad(loss).__wrapped__ is loss
    return 0.0


@program
def aux_keeps_numbers_of_python(ad):
    found = []
    for number in (0.1, 3, True, 1 + 2j):
        aux = ad.vjp(lambda x: (x * 1.0, {"given": x}), number, has_aux=True)[2]
        assert type(aux["given"]) is type(jax.vjp(lambda x: (x * 1.0, x), number, has_aux=True)[2])
        found.append(aux)
    assert json.dumps(ad.grad(lambda x: (x * x, {"x": x}), has_aux=True)(0.1)[1]) == '{"x": 0.1}'
    return found


@program
def cotangents_of_integers_may_be_anything(ad):
    def f(x, key):
        return x * x, jnp.argmax(x), key

    keys = jax.random.key(0), jax.random.key(1)
    out, pullback = ad.vjp(f, X, keys[0])
    return [pullback((X, ct, keys[1]))[0] for ct in (1, 1.0, True, np.float64(2), np.zeros((), jax.dtypes.float0))]


@program
def traced_values_among_static_arguments(ad):
    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def scaled(table, x):
        return table["n"] * x

    scaled.defjvp(lambda table, primals, tangents: (scaled(table, *primals), 3 * table["n"] * tangents[0]))

    def f(n, x):
        return scaled({"n": n * 1.0, "name": "n"}, x)

    return (ad.grad(f, (0, 1))(2.0, 3.0), jax.jit(ad.grad(f, (0, 1)))(2.0, 3.0), ad.grad(lambda n: f(n, 2.0))(3.0),
            ad.grad(lambda x: ad.grad(lambda y: f(y * x, y) * y)(x))(3.0))


@program
def cotangent_by_name(ad):
    return ad.vjp(jnp.sin, X)[1](out_ct=X)


@program
def documentation_of_derivatives(ad):
    def cube(x):
        """A cube."""
        return x**3

    partial = functools.partial(loss, scale=2.0)
    for transform, word in ((ad.grad, "Gradient"), (ad.value_and_grad, "Value and gradient"), (ad.jacrev, "Jacobian"),
                            (ad.jacfwd, "Jacobian"), (ad.hessian, "Jacobian")):
        for argnums in (0, (0,)):
            made = transform(cube, argnums)
            assert made.__doc__.startswith(f"{word} of cube with respect to positional argument(s) {argnums}. Takes")
        assert transform(cube).__name__ == transform(cube).__qualname__.rpartition(".")[2] == "cube"
        assert transform(partial).__name__ == "loss"
    return ad.grad(partial)(X)


@program
def cotangents_of_the_host_become_arrays(ad):
    found = [ad.vjp(jnp.copy, X)[1](X), ad.vjp(lambda x: jnp.tile(x, 1), X)[1](X),
             ad.vjp(lambda x: jnp.split(x, 1), X)[1]([X]), ad.jvp(jnp.copy, (X,), (X,))]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    return found


@program
def infinite_cotangents_end_at_a_clamp(ad):
    def f(x):
        return jnp.sum(jax.lax.clamp(np.float32(0), x, np.float32(1)) ** 0.5)

    x = np.array([-1.0, 0.25, 2.0], np.float32)
    shape = np.full(3, 0.5, np.float32)
    return (ad.grad(f)(x), jax.jit(ad.grad(f))(x), ad.vjp(lambda x: jax.lax.clamp(-1.0, x, 1.0), 3 * x)[1](np.inf * x),
            ad.grad(lambda x: jnp.sum(jax.scipy.stats.gamma.cdf(x, shape)))(x))


@program
def pullbacks_add_to_mutable_arrays(ad):
    def f(x, tree):
        return jnp.sin(x) * tree["y"], tree["y"] ** 2

    def program(x, y):
        out, pullback = ad.vjp(f, x, {"y": y, "z": 1.0})
        sums = jax.new_ref(jnp.ones(3))
        results = [pullback.with_refs(sums, {"y": jax.ad.GradValue(), "z": jax.ad.DontWant()})(out) for _ in range(2)]
        return results[1][1]["y"], sums[...], [str(result) for result in (results[1][0], results[1][1]["z"])]

    eager = program(X, X + 1)
    assert eager[2][0].startswith("GradRef") and eager[2][1].startswith("DidntWant")
    return eager[:2], jax.jit(lambda x, y: program(x, y)[:2])(X, X + 1)


@program
def pullbacks_are_functions(ad):
    out, pullback = ad.vjp(lambda x: jnp.sin(x) * x, X)
    assert pullback in {pullback} and pullback == pullback and hash(pullback) == hash(pullback)
    return (jax.jit(pullback)(out), jax.checkpoint(pullback)(out), jax.linear_transpose(pullback, out)((X,)),
            ad.vjp(pullback, out)[1]((X,)), ad.jacrev(pullback)(out), jax.tree_util.Partial(pullback)(out),
            jax.lax.cond(True, pullback, lambda ct: (ct,), out),
            jax.jit(lambda f, ct: f(ct), static_argnums=0)(pullback, out))
