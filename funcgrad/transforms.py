"""Floor 8: the transforms, drop-in for JAX's: the same parameters, defaults, results and exception types."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

from funcgrad.checks import (
    check_callable,
    check_enough_arguments,
    check_inputs,
    check_outputs,
    check_reduce_axes,
    check_scalar,
    check_tangents,
)
from funcgrad.graph import Graph
from funcgrad.jacobians import Argnums, hessian, jacfwd, jacrev
from funcgrad.policies import Policy, check_policy
from funcgrad.policies import given as policy_in_force
from funcgrad.pullback import materialize
from funcgrad.replanning import backward_as_planned
from funcgrad.taps import Function, check_met, given_taps, taps_in_force
from funcgrad.trees import canonical_argnums, named_after, split_arguments
from funcgrad.vjp import Recording, record_call, tangents_of, vjp
from funcgrad.watching import UNHEARD, WATCHER
from funcgrad.zeros import check_flag
from funcgrad.zeros import strong_zeros as zeros_in_force

__all__ = ["checkpoint", "grad", "hessian", "hvp", "jacfwd", "jacrev", "jvp", "make_graph", "value_and_grad", "vjp"]


# ---- gradients ----


def grad(fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, holomorphic: bool = False,
         allow_int: bool = False, reduce_axes: Sequence[Any] = (), *,
         strong_zeros: bool | None = None, policy: Policy | None = None,
         taps: Mapping[str, Function] | None = None) -> Callable[..., Any]:
    """A function that computes the gradient of a scalar function; drop-in for ``jax.grad``.

    Args:
      fun: returns a real scalar (shape ``()``), or with `has_aux` a pair ``(scalar, aux)``.
      argnums: which positional arguments to differentiate with respect to.
      has_aux: whether `fun` returns auxiliary data beside the scalar.
      holomorphic: whether `fun` is complex differentiable; then inputs and output must be complex.
      allow_int: whether integer inputs are allowed; their gradient has dtype float0.
      reduce_axes: must be empty; JAX no longer uses it either.
      strong_zeros: whether a zero cotangent stays zero, whatever the local partial is: 0 * inf = 0, 0 * NaN = 0. None:
        as in the context `funcgrad.strong_zeros`, which is off by default.
      policy: what is kept for the backward sweep, see `funcgrad.policy`; None: as in that context, "auto" by default.
      taps: for names given to `funcgrad.tap`, a pure function each: what the cotangent that arrives there becomes.

    Returns:
      A function of the same arguments: the gradient, of the structure, shapes and dtypes of the argument (a tuple of
      them for a sequence of `argnums`), or ``(gradient, aux)``.

    Raises:
      TypeError: when called with inputs of a wrong dtype or a function whose output is no scalar.
      TapError: for a name in `taps` that is never met, or a function of another shape or dtype than its cotangent's.

    >>> float(grad(lambda x: x**3)(2.0))
    12.0
    """
    value_and_gradient = value_and_grad(fun, argnums, has_aux, holomorphic, allow_int, reduce_axes,
                                        strong_zeros=strong_zeros, policy=policy, taps=taps)

    @named_after(fun, "Gradient", canonical_argnums(argnums))
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, result, *_ = value_and_gradient(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return gradient


def value_and_grad(fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, holomorphic: bool = False,
                   allow_int: bool = False, reduce_axes: Sequence[Any] = (), *,
                   strong_zeros: bool | None = None, policy: Policy | None = None,
                   taps: Mapping[str, Function] | None = None,
                   return_taps: bool = False) -> Callable[..., tuple[Any, ...]]:
    """A function that computes a scalar function and its gradient; drop-in for ``jax.value_and_grad``.

    Args: see `grad`; with `return_taps` what passes the taps is returned, too.

    Returns:
      A function of the same arguments: ``(value, gradient)``, or ``((value, aux), gradient)``. With `return_taps` a
      dictionary stands last: for each name a `funcgrad.Tapped`, that is value and cotangent, or a tuple of them where
      the name is met more than once. In the body of a `scan` both are stacked, the loop axis first.

    Raises: see `grad`.

    >>> value, gradient = value_and_grad(lambda x: x**3)(2.0)
    >>> float(value), float(gradient)
    (8.0, 12.0)
    """
    check_reduce_axes("grad", "gradient", reduce_axes)
    check_callable(fun)
    check_flag(strong_zeros)
    check_policy(policy)
    functions, numbers = given_taps(taps), canonical_argnums(argnums)
    tapping: Any = importlib.import_module("funcgrad.tapping") if return_taps else None

    @named_after(fun, "Value and gradient", numbers)
    def value_and_gradient(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        check_enough_arguments(numbers, args)
        partial, chosen = split_arguments(fun, numbers, args, kwargs)
        check_inputs("grad", chosen, holomorphic, allow_int)
        with policy_in_force(policy):
            passed = tapping.Taps() if return_taps else None
            recording, in_tree = record_call(partial if passed is None else passed.watched(partial), chosen, has_aux)
            check_met(functions, recording.graph)
            if passed is not None:
                recording = passed.opened(recording)
            out = jax.tree.unflatten(recording.out_tree, recording.outputs)
            check_scalar(out)
            check_outputs("grad", out, holomorphic)
            with (jax.named_scope(f"pullback({recording.graph.name})"), zeros_in_force(strong_zeros),
                  taps_in_force(functions)):  # the name is what a profile shows
                cts = backward_as_planned(recording, [lax.full_like(recording.outputs[0], 1)], fun)
                if WATCHER.value is not None:
                    WATCHER.value.swept(recording, cts, fun, numbers, chosen)
        of_inputs, of_probes = cts[:in_tree.num_leaves], cts[in_tree.num_leaves:]
        gradient = jax.tree.unflatten(in_tree, _materialized(recording, of_inputs))
        value = (out, recording.aux) if has_aux else out
        result = (value, gradient[0] if isinstance(numbers, int) else gradient)
        return result if passed is None else (*result, passed.results(recording, of_probes))

    return value_and_gradient


def _materialized(recording: Recording, cts: Sequence[Any]) -> list[Any]:
    """Cotangents of a recording's inputs with zeros for None."""
    return [materialize(ct, recording.graph.avals[i]) for i, ct in enumerate(cts)]


# ---- forward mode, from the same rules ----


def jvp(fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any],
        has_aux: bool = False, *, strong_zeros: bool | None = None, policy: Policy | None = None) -> tuple[Any, ...]:
    """The value of ``fun(*primals)`` and its derivative along `tangents`; drop-in for ``jax.jvp``.

    It is the vjp of the vjp: the pullback is linear, so its transpose needs no values of the cotangents.

    Args:
      fun: a function of arrays and pytrees of arrays.
      primals: tuple or list, where it is evaluated.
      tangents: tuple or list of the same structure, shapes and dtypes (float0 for integers).
      has_aux: whether `fun` returns a pair whose second element is not differentiated.
      strong_zeros: whether a zero tangent stays zero, whatever the local partial is; None: as the context says.
      policy: what loops and jitted parts keep of their steps for the tangents, see `funcgrad.policy`; None: as the
        context says.

    Returns:
      ``(out, tangent)``, or ``(out, tangent, aux)``.

    Raises:
      TypeError: when primals and tangents differ in structure or dtype.
      ValueError: when they differ in shape.

    >>> import jax.numpy as jnp
    >>> out, tangent = jvp(jnp.sin, (0.0,), (2.0,))
    >>> float(out), float(tangent)
    (0.0, 2.0)
    """
    check_callable(fun)
    leaves = check_tangents(primals, tangents)
    check_flag(strong_zeros)
    check_policy(policy)
    with policy_in_force(policy):
        recording, _ = record_call(fun, tuple(primals), has_aux)
    with policy_in_force(policy), zeros_in_force(strong_zeros):
        out_tangents = tangents_of(recording)(leaves)
        if WATCHER.value is not None:
            WATCHER.value.swept(recording, out_tangents, fun, range(len(primals)), primals)
    out = jax.tree.unflatten(recording.out_tree, recording.outputs)
    result = (out, jax.tree.unflatten(recording.out_tree, out_tangents))
    return (*result, recording.aux) if has_aux else result


def hvp(fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *,
        strong_zeros: bool | None = None, policy: Policy | None = None) -> Any:
    """The product of the Hessian of a scalar function with `tangents`, forward mode over reverse mode.

    Args:
      fun: returns a real scalar.
      primals: tuple or list, where the Hessian is taken.
      tangents: tuple or list, what it is multiplied with.
      strong_zeros: see `grad` and `jvp`.
      policy: see `grad` and `jvp`.

    Returns:
      A tuple of the structure of `primals`; for a single primal, that one product.

    Raises:
      TypeError: when `fun` returns no real scalar, or primals and tangents differ in structure or dtype.
      ValueError: when they differ in shape.

    >>> float(hvp(lambda x: x**3, (2.0,), (1.0,)))
    12.0
    """
    gradient = grad(fun, tuple(range(len(primals))), allow_int=True, strong_zeros=strong_zeros, policy=policy)
    _, product = jvp(gradient, primals, tangents, strong_zeros=strong_zeros, policy=policy)
    return product[0] if len(primals) == 1 else product


# ---- remat and graphs ----


def checkpoint(fun: Callable[..., Any], *, prevent_cse: bool | Sequence[bool] = True,
               policy: Callable[..., Any] | None = None, static_argnums: int | tuple[int, ...] = (),
               static_argnames: str | Iterable[str] = ()) -> Callable[..., Any]:
    """A function that keeps its inputs and what `policy` names, and runs again when pulled; as ``jax.checkpoint``.

    The staging is JAX's own (``jax.checkpoint`` marks the region); the derivative of the region is ours.

    Args:
      fun, prevent_cse, static_argnums, static_argnames: as of ``jax.checkpoint``.
      policy: one of ``jax.checkpoint_policies``; None keeps the inputs alone. funcgrad's own policies, as "minimal" and
        `budget`, are arguments of the transforms.

    Returns:
      A function with the same results.

    >>> import jax.numpy as jnp
    >>> float(grad(checkpoint(lambda x: jnp.sin(jnp.sin(x))))(0.0))
    1.0
    """
    return jax.checkpoint(fun, prevent_cse=prevent_cse, policy=policy, static_argnums=static_argnums,
                          static_argnames=static_argnames)


def make_graph(fun: Callable[..., Any], static_argnums: int | Sequence[int] = ()) -> Callable[..., Graph]:
    """A function that gives the graph which funcgrad records of `fun`, nothing executed; mirrors ``jax.make_jaxpr``.

    Args:
      fun: a function of arrays and pytrees of arrays.
      static_argnums: positional arguments that are passed on as they are; negative ones count from the end.

    Raises:
      ValueError: when the function is called and has no argument of such a number.

    Returns:
      A function of the same arguments (or `jax.ShapeDtypeStruct`s), whose result is hashable and prints as a program.

    >>> print(make_graph(lambda x, y: x * y)(2.0, 3.0))  # doctest: +ELLIPSIS
    <lambda>(a:float32[], b:float32[]) {
      c:float32[] = mul a b  # ...
      return c
    }
    """
    check_callable(fun)
    fixed = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)

    @functools.wraps(fun, updated=())
    def graph_of(*args: Any, **kwargs: Any) -> Graph:
        if not all(-len(args) <= n < len(args) for n in fixed):
            raise ValueError(f"static_argnums={static_argnums!r} names an argument that a call with {len(args)} "
                             "positional arguments lacks.\nTo fix: count from 0, or from -1 backwards.")
        numbers = tuple(i for i in range(len(args)) if not {i, i - len(args)} & {*fixed})
        partial, chosen = split_arguments(fun, numbers, args, kwargs)
        found: list[Graph] = []

        def traced(*values: Any) -> None:
            found.append(record_call(partial, values)[0].graph)

        with WATCHER(UNHEARD):  # a gradient's own program has the lines of the function's
            jax.eval_shape(traced, *chosen)
        return found[0]

    return graph_of
