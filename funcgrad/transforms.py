"""Floor 8: the transforms, drop-in for JAX's: the same parameters, defaults, results and exception types."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _compat
from funcgrad.checks import (
    check_callable,
    check_enough_arguments,
    check_forward_inputs,
    check_inputs,
    check_outputs,
    check_scalar,
    check_tangents,
    dtype_of,
)
from funcgrad.graph import Graph
from funcgrad.policies import Policy, check_policy
from funcgrad.policies import given as policy_in_force
from funcgrad.pullback import materialize
from funcgrad.replanning import backward_as_planned
from funcgrad.taps import Function, given_taps, taps_in_force
from funcgrad.trees import canonical_argnums, split_arguments
from funcgrad.vjp import Recording, pushforward, record_call, vjp
from funcgrad.watching import WATCHER
from funcgrad.zeros import check_flag
from funcgrad.zeros import strong_zeros as zeros_in_force

Argnums = int | Sequence[int]

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

    @functools.wraps(fun, updated=())
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, result, *_ = value_and_gradient(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return gradient


def value_and_grad(fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, holomorphic: bool = False,
                   allow_int: bool = False, reduce_axes: Sequence[Any] = (), *,
                   strong_zeros: bool | None = None,
                   policy: Policy | None = None,
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
    if reduce_axes:
        raise NotImplementedError("reduce_axes argument to grad is deprecated")
    check_callable(fun)
    check_flag(strong_zeros)
    check_policy(policy)
    functions, numbers = given_taps(taps), canonical_argnums(argnums)
    tapping: Any = importlib.import_module("funcgrad.tapping") if functions or return_taps else None

    @functools.wraps(fun, updated=())
    def value_and_gradient(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        check_enough_arguments(numbers, args)
        partial, chosen = split_arguments(fun, numbers, args, kwargs)
        check_inputs("grad", chosen, holomorphic, allow_int)
        with policy_in_force(policy):
            passed = tapping.Taps() if return_taps else None
            recording, in_tree = record_call(partial if passed is None else passed.watched(partial), chosen, has_aux)
            if functions:
                tapping.check_names([name for name, _ in functions], recording.graph)
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


# ---- Jacobians ----


def jacrev(fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, holomorphic: bool = False,
           allow_int: bool = False, *, strong_zeros: bool | None = None,
           policy: Policy | None = None) -> Callable[..., Any]:
    """The Jacobian, row by row, by reverse mode; drop-in for ``jax.jacrev``.

    Args: see `grad`; `fun` may return any pytree of arrays.

    Returns:
      A function of the same arguments. Its result has the output's tree structure, in each leaf the argument's, and in
      each of those an array of shape ``output.shape + argument.shape``.

    >>> jacrev(lambda x: x**2)(jnp.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    check_callable(fun)
    check_flag(strong_zeros)
    check_policy(policy)
    numbers = canonical_argnums(argnums)

    @functools.wraps(fun, updated=())
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        partial, chosen = split_arguments(fun, numbers, args, kwargs)
        check_inputs("jacrev", chosen, holomorphic, allow_int)
        out, pullback, *aux = vjp(partial, *chosen, has_aux=has_aux, strong_zeros=strong_zeros, policy=policy)
        check_outputs("jacrev", out, holomorphic)
        rows = jax.vmap(pullback)(_standard_basis(out))
        example = chosen[0] if isinstance(numbers, int) else chosen
        rows = rows[0] if isinstance(numbers, int) else rows
        by_input = jax.tree.map(lambda leaf, row: _split_rows(out, leaf, row), example, rows)
        result = jax.tree.transpose(jax.tree.structure(example), jax.tree.structure(out), by_input)
        return (result, *aux) if has_aux else result

    return jacobian


def jacfwd(fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False,
           holomorphic: bool = False, *, strong_zeros: bool | None = None) -> Callable[..., Any]:
    """The Jacobian, column by column, by forward mode; drop-in for ``jax.jacfwd``.

    Args, Returns: see `jacrev`. With `strong_zeros` a zero tangent stays zero.

    >>> jacfwd(lambda x: x**2)(jnp.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    check_callable(fun)
    check_flag(strong_zeros)
    numbers = canonical_argnums(argnums)

    @functools.wraps(fun, updated=())
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        partial, chosen = split_arguments(fun, numbers, args, kwargs)
        check_forward_inputs(chosen, holomorphic)
        recording, _ = record_call(partial, chosen, has_aux)
        out = jax.tree.unflatten(recording.out_tree, recording.outputs)
        if holomorphic:
            check_outputs("jacfwd", out, holomorphic)
        push = _tangents_of(recording)
        with zeros_in_force(strong_zeros):
            columns = jax.vmap(lambda basis: push(jax.tree.leaves(basis)), out_axes=-1)(_standard_basis(chosen))
            if WATCHER.value is not None:
                WATCHER.value.swept(recording, columns, fun, numbers, chosen)
        columns = jax.tree.unflatten(recording.out_tree, columns)
        example = chosen[0] if isinstance(numbers, int) else chosen
        result = jax.tree.map(lambda leaf, column: _split_columns(example, leaf, column), out, columns)
        return (result, recording.aux) if has_aux else result

    return jacobian


def hessian(fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False,
            holomorphic: bool = False, *, strong_zeros: bool | None = None,
            policy: Policy | None = None) -> Callable[..., Any]:
    """The Hessian as a dense array, forward mode over reverse mode; drop-in for ``jax.hessian``.

    Args: see `grad`; `strong_zeros` is for both modes, `policy` for the reverse one.

    >>> hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 2.0])).tolist()
    [[4.0, 2.0], [2.0, 0.0]]
    """
    jacobian = jacrev(fun, argnums, has_aux=has_aux, holomorphic=holomorphic, strong_zeros=strong_zeros,
                      policy=policy)
    return jacfwd(jacobian, argnums, has_aux=has_aux, holomorphic=holomorphic, strong_zeros=strong_zeros)


def _standard_basis(tree: Any) -> Any:
    """The unit vectors of a pytree's space, stacked along a new first axis of each leaf."""
    leaves, treedef = jax.tree.flatten(tree)
    sizes = list(map(np.size, leaves))
    eye = jnp.eye(sum(sizes), dtype=jnp.result_type(*leaves) if leaves else None)
    parts = jnp.split(eye, np.cumsum(sizes[:-1]), axis=1) if leaves else []
    return jax.tree.unflatten(treedef, [
        _converted(part.reshape(len(eye), *np.shape(leaf)), leaf) for part, leaf in zip(parts, leaves, strict=True)])


def _split_rows(out: Any, leaf: Any, rows: Any) -> Any:
    """Cut the first axis of a Jacobian block into the output's leaves."""
    leaves, treedef = jax.tree.flatten(out)
    parts = jnp.split(rows, np.cumsum(list(map(np.size, leaves))[:-1]), axis=0)
    return jax.tree.unflatten(treedef, [
        _converted_like_input(part.reshape(*np.shape(o), *np.shape(leaf)), leaf)
        for part, o in zip(parts, leaves, strict=True)])


def _split_columns(example: Any, out: Any, columns: Any) -> Any:
    """Cut the last axis of a Jacobian block into the argument's leaves."""
    leaves, treedef = jax.tree.flatten(example)
    parts = jnp.split(columns, np.cumsum(list(map(np.size, leaves))[:-1]), axis=-1)
    return jax.tree.unflatten(treedef, [
        _converted(part.reshape(*np.shape(out), *np.shape(leaf)), out)
        for part, leaf in zip(parts, leaves, strict=True)])


def _converted(array: Any, like: Any) -> Any:
    """`array` in the dtype and weak type of `like`."""
    aval = _compat.typeof(_compat.canonicalize(like))
    if jnp.issubdtype(array.dtype, jnp.complexfloating) and not jnp.issubdtype(aval.dtype, jnp.complexfloating):
        array = array.real
    return lax.convert_element_type_p.bind(array, new_dtype=aval.dtype, weak_type=aval.weak_type, sharding=None)


def _converted_like_input(array: Any, leaf: Any) -> Any:
    """As `_converted`; the block of an integer argument is zero, in the argument's dtype."""
    if array.dtype == _compat.float0:
        array = np.zeros(array.shape, dtype_of(leaf))
    return _converted(array, leaf)


# ---- forward mode, from the same rules ----


def jvp(fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any],
        has_aux: bool = False, *, strong_zeros: bool | None = None) -> tuple[Any, ...]:
    """The value of ``fun(*primals)`` and its derivative along `tangents`; drop-in for ``jax.jvp``.

    It is the vjp of the vjp: the pullback is linear, so its transpose needs no values of the cotangents.

    Args:
      fun: a function of arrays and pytrees of arrays.
      primals: tuple or list, where it is evaluated.
      tangents: tuple or list of the same structure, shapes and dtypes (float0 for integers).
      has_aux: whether `fun` returns a pair whose second element is not differentiated.
      strong_zeros: whether a zero tangent stays zero, whatever the local partial is; None: as the context says.

    Returns:
      ``(out, tangent)``, or ``(out, tangent, aux)``.

    Raises:
      TypeError: when primals and tangents differ in structure or dtype.
      ValueError: when they differ in shape.

    >>> out, tangent = jvp(jnp.sin, (0.0,), (2.0,))
    >>> float(out), float(tangent)
    (0.0, 2.0)
    """
    check_callable(fun)
    leaves = check_tangents(primals, tangents)
    recording, _ = record_call(fun, tuple(primals), has_aux)
    with zeros_in_force(strong_zeros):
        out_tangents = _tangents_of(recording)(leaves)
        if WATCHER.value is not None:
            WATCHER.value.swept(recording, out_tangents, fun, range(len(primals)), primals)
    out = jax.tree.unflatten(recording.out_tree, recording.outputs)
    result = (out, jax.tree.unflatten(recording.out_tree, out_tangents))
    return (*result, recording.aux) if has_aux else result


def _tangents_of(recording: Recording) -> Callable[[Sequence[Any]], list[Any]]:
    """Tangents of all outputs from tangents of all inputs, zeros instead of None."""
    push = pushforward(recording)
    active = recording.graph.active

    def tangents_of(tangents: Sequence[Any]) -> list[Any]:
        given = [t if flag else None for t, flag in zip(tangents, active, strict=True)]
        return [materialize(t, aval) for t, aval in zip(push(given), recording.out_avals, strict=True)]

    return tangents_of


def hvp(fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *,
        strong_zeros: bool | None = None, policy: Policy | None = None) -> Any:
    """The product of the Hessian of a scalar function with `tangents`, forward mode over reverse mode.

    Args:
      fun: returns a real scalar.
      primals: tuple or list, where the Hessian is taken.
      tangents: tuple or list, what it is multiplied with.
      strong_zeros: see `grad` and `jvp`.
      policy: see `grad`.

    Returns:
      A tuple of the structure of `primals`; for a single primal, that one product.

    >>> float(hvp(lambda x: x**3, (2.0,), (1.0,)))
    12.0
    """
    gradient = grad(fun, tuple(range(len(primals))), allow_int=True, strong_zeros=strong_zeros, policy=policy)
    _, product = jvp(gradient, primals, tangents, strong_zeros=strong_zeros)
    return product[0] if len(primals) == 1 else product


# ---- remat and graphs ----


def checkpoint(fun: Callable[..., Any], *, prevent_cse: bool | Sequence[bool] = True,
               policy: Callable[..., Any] | None = None, static_argnums: int | tuple[int, ...] = (),
               static_argnames: str | Iterable[str] = ()) -> Callable[..., Any]:
    """A function that keeps its inputs and what `policy` names, and runs again when pulled; as ``jax.checkpoint``.

    The staging is JAX's own (``jax.checkpoint`` marks the region); the derivative of the region is ours.

    >>> float(grad(checkpoint(lambda x: jnp.sin(jnp.sin(x))))(0.0))
    1.0
    """
    return jax.checkpoint(fun, prevent_cse=prevent_cse, policy=policy, static_argnums=static_argnums,
                          static_argnames=static_argnames)


def make_graph(fun: Callable[..., Any], static_argnums: int | Sequence[int] = ()) -> Callable[..., Graph]:
    """A function that gives the graph which funcgrad records of `fun`, nothing executed; mirrors ``jax.make_jaxpr``.

    Args:
      fun: a function of arrays and pytrees of arrays.
      static_argnums: positional arguments that are passed on as they are.

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
        numbers = tuple(i for i in range(len(args)) if i not in {n % len(args) for n in fixed})
        partial, chosen = split_arguments(fun, numbers, args, kwargs)
        found: list[Graph] = []

        def traced(*values: Any) -> None:
            found.append(record_call(partial, values)[0].graph)

        jax.eval_shape(traced, *chosen)
        return found[0]

    return graph_of
