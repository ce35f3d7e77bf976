"""Programs with mutable arrays that JAX differentiates, too, and the pure programs that they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src.state.discharge import discharge_state  # the oracle's way to a pure program; no public name

X = np.array([0.3, 1.2, -0.7, 2.1], np.float32)


def written_and_read(x):
    ref = jax.new_ref(x)
    ref[...] = jnp.sin(ref[...]) * x
    return jnp.sum(ref[...] ** 2)


def frozen(x):
    ref = jax.new_ref(jnp.zeros(4))
    ref[1] = x[0] * x[1]
    return jnp.sum(jax.freeze(ref) * x)


def static_indices(x):
    ref = jax.new_ref(jnp.outer(x, x))
    ref[1:3, 0] = ref[0, 2:4] * x[:2]
    ref[-1] = jnp.cos(ref[0])
    ref[::2, 1] += x[:2]
    return jnp.sum(jnp.sin(ref[...]))


def dynamic_indices(x):
    i = jnp.argmax(x)
    ref = jax.new_ref(jnp.outer(x, x))
    ref[i] = jnp.exp(-ref[i - 1])
    ref[i, 1] = x[i] * ref[0, i]
    return jnp.sum(ref[i] * ref[0])


def index_arrays(x):
    ids = jnp.array([2, 0, 3])
    ref = jax.new_ref(jnp.outer(x, x))
    ref[ids, 1] = x[:3] ** 2
    ref[ids] = jnp.sin(ref[ids])
    return jnp.sum(ref[:, ids] ** 2)


def added(x):
    i = jnp.argmin(x)
    ref = jax.new_ref(jnp.outer(x, x))
    jax.ref.addupdate(ref, (i, slice(1, 3)), x[:2] ** 2)
    jax.ref.addupdate(ref, (-1, i), x[0])
    jax.ref.addupdate(ref, slice(0, 2), jnp.sin(ref[2:]))
    jax.ref.addupdate(ref, ..., ref[...] * x)
    jax.ref.addupdate(ref, jnp.array([1, 1, 3]), jnp.ones((3, 4)) * x)
    return jnp.sum(ref[...] ** 2)


def swapped(x):
    ref = jax.new_ref(x)
    old = jax.ref.swap(ref, slice(1, 3), x[:2] * 3)
    return jnp.sum(old * ref[1:3]) + jnp.sum(ref[...] ** 3)


def scan_accumulator(x):
    total = jax.new_ref(0.0 * x)

    def body(carry, a):
        total[...] += carry * a
        return jnp.sin(carry), None

    lax.scan(body, x, jnp.arange(1.0, 4.0))
    return jnp.sum(total[...] ** 2)


def scan_history(x):
    history = jax.new_ref(jnp.zeros((5, 4)))

    def body(carry, i):
        history[i] = carry
        jax.ref.addupdate(history, i + 1, carry * x)
        return jnp.sin(carry) + history[i + 1], i

    last, _ = lax.scan(body, x, jnp.arange(4), reverse=True)
    return jnp.sum(history[...] ** 2 * last)


def scan_over_an_array(x):
    rows = jax.new_ref(jnp.outer(x, x))

    def body(carry, row):
        row[...] = row[...] * carry
        return jnp.cos(carry), row[0]

    last, first = lax.scan(body, x, rows)
    return jnp.sum(rows[...] ** 2) + jnp.sum(last * first)


def scan_that_reads(x):
    weights = jax.new_ref(jnp.outer(x, x))
    counter = jax.new_ref(0)

    def body(carry, _x):
        counter[...] += 1
        return jnp.tanh(weights[...] @ carry) * counter[...], None

    return jnp.sum(lax.scan(body, x, None, length=3)[0]) * counter[...]


def nested_scans(x):
    grid = jax.new_ref(jnp.zeros((3, 4)))

    def row(carry, i):
        def column(inner, j):
            grid[i, j] = inner * x[j]
            return jnp.sin(inner) + grid[i, 0], None

        return lax.scan(column, carry, jnp.arange(4))[0], None

    return lax.scan(row, x[0], jnp.arange(3))[0] + jnp.sum(grid[...] ** 2)


def fori(x):
    ref = jax.new_ref(x)

    def body(i, carry):
        ref[i] = jnp.sin(ref[i]) * ref[0]
        return carry + ref[i]

    return lax.fori_loop(0, 4, body, 0.0) * jnp.sum(ref[...])


def branches(x):
    ref = jax.new_ref(x)
    other = jax.new_ref(2 * x)

    def first():
        ref[...] = jnp.sin(ref[...])
        return other[0]

    def second():
        ref[1] = other[1] ** 2
        other[...] = ref[...]
        return ref[0]

    value = lax.cond(x[0] > 0, first, second) + lax.switch(1, [first, second, first])
    return value * jnp.sum(ref[...] * other[...])


def jitted_helper(x):
    ref = jax.new_ref(x)

    @jax.jit
    def helper(r, y):
        r[...] = jnp.sin(r[...]) * y
        return r[0] * y

    return jnp.sum(helper(ref, x) * helper(ref, 2 * x)) + jnp.sum(ref[...])


def inside_jit(x):
    @jax.jit
    def helper(y):
        ref = jax.new_ref(y)
        ref[1:] = ref[:-1] * ref[1:]
        return ref[...]

    return jnp.sum(helper(helper(x)) ** 2)


def inside_checkpoint(x):
    @jax.checkpoint
    def helper(y):
        ref = jax.new_ref(y)
        ref[...] = jnp.sin(ref[...])
        return ref[...] * y

    return jnp.sum(helper(helper(x)))


def inside_vmap(x):
    def helper(y):
        ref = jax.new_ref(y)
        ref[...] = jnp.sin(ref[...]) * y
        return ref[...]

    return jnp.sum(jax.vmap(helper)(x) ** 2)


def custom_rules_in_a_loop(x):
    total = jax.new_ref(0.0)

    def body(carry, a):
        total[...] += jnp.sum(jax.nn.softmax(carry) * jax.nn.relu(carry - a))
        return jax.nn.silu(doubled_slope(carry)), None

    lax.scan(body, x, X)
    return total[...]


@jax.custom_vjp
def doubled_slope(x):
    """The identity, with twice its derivative."""
    return x


doubled_slope.defvjp(lambda x: (x, None), lambda _residual, ct: (2 * ct,))


def without_gradient(x):
    ref = jax.new_ref(x, kind="no_grad_no_remat")
    first = ref[...]
    ref[...] = jnp.sin(x)
    return jnp.sum(first * x + ref[...] * x**2)


def carried_weakly(x):
    ref = jax.new_ref(1.0)

    def body(carry, a):
        ref[...] = ref[...] * a
        return carry * ref[...], None

    return lax.scan(body, x[0], x)[0] + ref[...]


def stopped(x):
    ref = jax.new_ref(jnp.zeros(4))
    ref[...] = lax.stop_gradient(x) * 2
    ref[0] = x[0]
    return jnp.sum(ref[...] * x)


PROGRAMS = [written_and_read, frozen, static_indices, dynamic_indices, index_arrays, added, swapped, scan_accumulator,
          scan_history, scan_over_an_array, scan_that_reads, nested_scans, fori, branches, jitted_helper, inside_jit,
          inside_checkpoint, inside_vmap, custom_rules_in_a_loop, without_gradient, carried_weakly, stopped]


#: Programs for which `jax.grad` raises AttributeError in 0.10.2: a value without gradient is written into an array.
FAIL_IN_JAX = {scan_that_reads, stopped}


def custom_rules_in_a_loop_purely(x):
    total, carry = 0.0, x
    for a in X:
        total += jnp.sum(jax.nn.softmax(carry) * jax.nn.relu(carry - a))
        carry = jax.nn.silu(doubled_slope(carry))
    return total


def static_indices_purely(x):
    content = jnp.outer(x, x)
    content = content.at[1:3, 0].set(content[0, 2:4] * x[:2])
    content = content.at[-1].set(jnp.cos(content[0]))
    content = content.at[::2, 1].add(x[:2])
    return jnp.sum(jnp.sin(content))


#: Programs that JAX's lowering refuses (a stride beside a number), or lowers without their custom rules.
PLAIN = {custom_rules_in_a_loop: custom_rules_in_a_loop_purely, static_indices: static_indices_purely,
         without_gradient: without_gradient}


def purified(function: Callable) -> Callable:
    """The program that JAX lowers `function` to, which has no mutable arrays."""

    def pure(x):
        jaxpr = discharge_state(jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, x.dtype)))
        return jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, x)[0]

    return pure


def oracle(function: Callable) -> Callable:
    """A function that has the derivatives of `function`, as JAX has them."""
    return PLAIN[function] if function in PLAIN else purified(function)


def assert_alike(given: Any, wanted: Any, rtol: float = 2e-5) -> None:
    """Same dtype, values within a tolerance, no NaN."""
    assert given.dtype == wanted.dtype
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(given, wanted, rtol=rtol, atol=rtol)
