"""Sums of products in a backward loop: in blocks of iterations where that is worth it, and always the same sums."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives as p

import funcgrad
from funcgrad.caches import clear_caches
from funcgrad.rules import blocks

Array = Any
ROWS, COLUMNS = 128, 136  # a sum of 68 KiB
#: How XLA compiles what runs once.
FAST = {"xla_backend_optimization_level": 0}


# ---- loops as a backward pass has them ----


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop over ``x = (u, c)``, of 2 x ROWS and 2 x COLUMNS in each iteration, with sums in its carry.

    Attributes:
      body: ``(carry, x) -> (carry, y)``, as `lax.scan` takes it.
      carry: shapes of the carry.
      rows: dimensions of `u` and `c` before the last.
      dtype: of `u` and `c`.
    """

    body: Callable[[Any, Any], Any]
    carry: tuple[tuple[int, ...], ...] = ((ROWS, COLUMNS),)
    rows: tuple[int, ...] = (2,)
    dtype: Any = jnp.float32

    def staged(self, length: int, **options: Any) -> tuple[list[Array], dict[str, Any]]:
        """Operands and params of the `scan_p`. Small whole numbers: sums of their products are exact in any order."""
        rng = np.random.default_rng(length)

        def numbers(*shape: int, dtype: Any = jnp.float32) -> Array:
            return jnp.asarray(rng.integers(-3, 4, shape), dtype)

        carry = tuple(numbers(*shape) for shape in self.carry)
        xs = tuple(numbers(length, *self.rows, size, dtype=self.dtype) for size in (ROWS, COLUMNS))
        program = jax.make_jaxpr(partial(lax.scan, self.body, length=length, **options))(carry, xs)
        (equation,) = program.jaxpr.eqns
        values = dict(zip((*program.jaxpr.constvars, *program.jaxpr.invars),
                          (*program.consts, *jax.tree.leaves((carry, xs))), strict=True))
        return [values[v] for v in equation.invars], equation.params


def handed_out(carry: Any, x: Any) -> Any:
    """Factors that the iteration computes, and other carries and results."""
    (total, state), (u, c) = carry, x
    state = jnp.maximum(jnp.roll(state, 1) + u, -3) % 4
    return (total + state.T @ (c * 2), state), state.sum()



MATRIX = jnp.asarray(np.arange(2 * ROWS).reshape(2, ROWS) % 5, jnp.float32)
FIRST, OUTER = (((0,), (0,)), ((), ())), (((), ()), ((), ()))

IN_BLOCKS = {
    "scanned factors": Loop(lambda carry, x: ((carry[0] + x[0].T @ x[1],), None)),
    "factors that the iteration computes": Loop(handed_out, ((ROWS, COLUMNS), (2, ROWS))),
    "two products": Loop(lambda carry, x: ((carry[0] + (x[0].T @ x[1] + (3 * x[0]).T @ x[1]),), None)),
    "two sums of one factor": Loop(
        lambda carry, x: ((carry[0] + x[0].T @ x[1], carry[1] + x[0].T @ x[0]), x[1]), ((ROWS, COLUMNS), (ROWS, ROWS))),
    "turned and negative": Loop(lambda carry, x: ((carry[0] + (-(x[1].T @ x[0])).T,), None)),
    "of another precision": Loop(lambda carry, x: ((carry[0] + (x[0].T @ x[1]).astype(jnp.float32),), None),
                                 dtype=jnp.bfloat16),
    "batches": Loop(lambda carry, x: ((carry[0] + jnp.einsum("bki,bkj->bij", *x),), None), ((2, ROWS, COLUMNS),),
                    rows=(2, 3)),
    "nothing summed in an iteration": Loop(lambda carry, x: ((carry[0] + lax.dot_general(*x, OUTER),), None), rows=()),
}

AS_THEY_ARE = {
    "the iteration reads the sum": Loop(lambda carry, x: ((carry[0] + x[0].T @ x[1],), carry[0][0, 0])),
    "no sum": Loop(lambda carry, x: ((x[0].T @ x[1],), None)),
    "a factor is the same in each iteration": Loop(
        lambda carry, x: ((carry[0] + lax.dot_general(MATRIX, x[1], FIRST),), None)),
    "not linear in the product": Loop(lambda carry, x: ((carry[0] + jnp.abs(x[0].T @ x[1]),), None)),
    "a product in two sums": Loop(lambda carry, x: ((carry[0] + (made := x[0].T @ x[1]), carry[1] + made), None),
                                  ((ROWS, COLUMNS),) * 2),
    "more than products": Loop(lambda carry, x: ((carry[0] + x[0].T @ x[1] + x[1].sum(),), None)),
    "factors larger than the sum": Loop(lambda carry, x: ((carry[0] + (2 * x[0]).T @ (3 * x[1]),), None), rows=(40,)),
    "a small sum": Loop(lambda carry, x: ((carry[0] + x[0][:, :100].T @ x[1][:, :100],), None), ((100, 100),)),
}


@pytest.mark.parametrize(("length", "reverse"), [(5, False), (43, True)])
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_blocks_give_the_sums_of_the_loop(name: str, length: int, reverse: bool) -> None:
    """Bit for bit: one block, and several with a rest."""
    operands, params = IN_BLOCKS[name].staged(length, reverse=reverse)
    found = blocks.in_blocks(*operands, **params)
    assert found is not None
    for one, other in zip(found, p.scan_p.bind(*operands, **params), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_other_loops_stay_as_they_are(name: str) -> None:
    operands, params = AS_THEY_ARE[name].staged(40)
    assert blocks.in_blocks(*operands, **params) is None


@pytest.mark.parametrize("length", [0, 1])
def test_a_block_is_more_than_an_iteration(length: int) -> None:
    operands, params = IN_BLOCKS["scanned factors"].staged(length)
    assert blocks.in_blocks(*operands, **params) is None


def test_a_loop_that_is_unrolled_stays_so() -> None:
    """Partly: inside of a block too. Wholly: there is no loop."""
    operands, params = IN_BLOCKS["scanned factors"].staged(40, unroll=4)
    program = jax.make_jaxpr(lambda *given: blocks.in_blocks(*given, **params))(*operands)
    (outer,) = program.jaxpr.eqns[-1:]
    (inner,) = [eqn for eqn in outer.params["jaxpr"].jaxpr.eqns if eqn.primitive.name == "scan"]
    assert (outer.params["length"], inner.params["length"], inner.params["unroll"]) == (5, 8, 4)
    for one, other in zip(blocks.in_blocks(*operands, **params) or (), p.scan_p.bind(*operands, **params),
                          strict=True):
        np.testing.assert_array_equal(one, other)
    operands, params = IN_BLOCKS["scanned factors"].staged(6, unroll=6)
    assert blocks.in_blocks(*operands, **params) is None


# ---- gradients ----


def recurrent(w: Array, bias: Array, xs: Array, reverse: bool = False) -> Array:
    """A network whose matrix each step reads twice, once turned."""
    def step(h: Array, x: Array) -> Any:
        h = jnp.tanh(h @ w + x @ w.T + bias)
        return h, jnp.sum(h)

    h, sums = lax.scan(step, jnp.zeros_like(xs, shape=xs.shape[1:]), xs, reverse=reverse)
    return jnp.sum(h * h) + jnp.sum(sums * sums)


def arguments(length: int, width: int = 160, dtype: Any = jnp.float32) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    shapes = (width, width), (width,), (length, 2, width)
    return tuple(jnp.asarray(rng.standard_normal(shape) / math.sqrt(2 * width), dtype) for shape in shapes)


def close(ours: Any, jaxs: Any, tolerance: float = 2e-6) -> None:
    """Each array, relative to its largest element."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(jaxs), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * float(jnp.max(jnp.abs(other), initial=0)), rtol=0)


def loops(fun: Callable[..., Any], *args: Any) -> int:
    return str(jax.make_jaxpr(fun)(*args)).count(" scan[")


@pytest.fixture
def without_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says whether gradients are to be taken without blocks."""

    def say(without: bool) -> None:
        monkeypatch.setattr(blocks, "SMALLEST", math.inf if without else 2**16)
        clear_caches()

    yield say
    clear_caches()


@pytest.mark.parametrize(("length", "reverse", "expected"),
                         [(0, False, 2), (1, False, 2), (7, True, 2), (24, False, 3), (24, True, 3), (19, True, 4)])
def test_gradients_of_a_recurrent_network(length: int, reverse: bool, expected: int) -> None:
    """Against JAX; the number of loops says how the backward one was cut."""
    args, loss = arguments(length), partial(recurrent, reverse=reverse)
    gradient = funcgrad.grad(loss, (0, 1, 2))
    assert loops(gradient, *args) == expected
    close(jax.jit(gradient)(*args), jax.jit(jax.grad(loss, (0, 1, 2)))(*args))


def test_under_vmap_and_of_second_order() -> None:
    w, bias, xs = arguments(19)
    batch = jnp.stack([xs, 2 * xs, -xs])
    close(*(jax.jit(jax.vmap(lib.grad(recurrent, (0, 2)), (None, None, 0)), compiler_options=FAST)(w, bias, batch)
            for lib in (funcgrad, jax)))

    def slope(w: Array) -> Array:
        return jnp.vdot(jax.grad(recurrent)(w, bias, xs), w)

    def ours(w: Array) -> Array:
        return jnp.vdot(funcgrad.grad(recurrent)(w, bias, xs), w)

    close(*(jax.jit(gradient, compiler_options=FAST)(w) for gradient in (funcgrad.grad(ours), jax.grad(slope))), 1e-5)
    close(*(jax.jit(lambda w, lib=lib: lib.jvp(lambda w: lib.grad(recurrent)(w, bias, xs), (w,), (w,))[1],
                    compiler_options=FAST)(w) for lib in (funcgrad, jax)), 1e-5)


def test_halves_lose_no_digits() -> None:
    """Within a block the products of halves are added up in single precision, as in an iteration."""
    args = arguments(24, 200, jnp.bfloat16)
    exact = jax.jit(jax.grad(recurrent), compiler_options=FAST)(*(x.astype(jnp.float32) for x in args))
    errors = [float(jnp.max(jnp.abs(jax.jit(lib.grad(recurrent), compiler_options=FAST)(*args) - exact)))
              for lib in (funcgrad, jax)]
    assert loops(funcgrad.grad(recurrent), *args) == 3
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("policy", ["minimal", funcgrad.budget(1_000_000)])
def test_a_policy_that_counts_bytes_has_no_blocks(policy: Any) -> None:
    assert loops(funcgrad.grad(recurrent, policy=policy), *arguments(24)) == 2


# ---- strong zeros ----


def test_strong_zeros_have_the_same_bits() -> None:
    args = arguments(24)
    for strong, plain in zip(funcgrad.grad(recurrent, (0, 1, 2), strong_zeros=True)(*args),
                             funcgrad.grad(recurrent, (0, 1, 2))(*args), strict=True):
        np.testing.assert_array_equal(strong, plain)


@pytest.mark.parametrize("jitted", [False, True])
def test_strong_zeros_where_a_value_is_infinite(jitted: bool, without_blocks: Any) -> None:
    """What the loop gives iteration by iteration: a cotangent of zero adds nothing, others infinity or NaN."""
    w, bias, xs = arguments(24)
    xs = xs.at[3, 0, 5].set(jnp.inf).at[7, 1, 9].set(jnp.nan)

    def loss(w: Array, xs: Array) -> Array:
        def step(h: Array, x: Array) -> Any:
            rows = jnp.where(jnp.isfinite(x @ w), x @ w, 0)  # the row of the infinity has a cotangent of zero
            return jnp.tanh(h @ w + rows + bias), None

        return jnp.sum(lax.scan(step, xs[0], xs)[0] ** 2)

    found = []
    for without in (True, False):
        without_blocks(without)
        gradient = funcgrad.grad(loss, (0, 1), strong_zeros=True)
        found.append((jax.jit(gradient) if jitted else gradient)(w, xs))
    for one, other in zip(*found, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-6)
    without_blocks(False)
    assert np.isnan(funcgrad.grad(loss)(w, xs)).any(), "zeros are weak by default"


def test_strong_zeros_leave_a_loop_with_collectives() -> None:
    """Each device would find its own NaNs, and run other collectives than the rest."""
    w, bias, xs = arguments(24)

    def loss(w: Array, xs: Array) -> Array:
        step = lambda h, x: (jnp.tanh(h @ w + x + bias + lax.pmean(h, "i")), None)  # noqa: E731
        return jnp.sum(lax.scan(step, jnp.zeros_like(xs[0]), xs)[0])

    batch = jnp.stack([xs, -xs])
    strong, plain = (jax.vmap(funcgrad.grad(loss, strong_zeros=flag), (None, 0), axis_name="i")
                     for flag in (True, False))
    assert (loops(strong, w, batch), loops(plain, w, batch)) == (2, 3)
    close(strong(w, batch), plain(w, batch))
