"""Floor 8: Jacobians and Hessians as dense arrays, drop-in for JAX's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _compat
from funcgrad.checks import check_callable, check_forward_inputs, check_inputs, check_outputs, dtype_of
from funcgrad.policies import Policy, check_policy
from funcgrad.policies import given as policy_in_force
from funcgrad.taps import Function, given_taps
from funcgrad.trees import canonical_argnums, named_after, split_arguments
from funcgrad.vjp import record_call, tangents_of, vjp
from funcgrad.watching import WATCHER
from funcgrad.zeros import check_flag
from funcgrad.zeros import strong_zeros as zeros_in_force

Argnums = int | Sequence[int]


def jacrev(fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, holomorphic: bool = False,
           allow_int: bool = False, *, strong_zeros: bool | None = None, policy: Policy | None = None,
           taps: Mapping[str, Function] | None = None) -> Callable[..., Any]:
    """The Jacobian, row by row, by reverse mode; drop-in for ``jax.jacrev``.

    Args: see `grad`; `fun` may return any pytree of arrays. A function of `taps` gets the cotangent of one row.

    Returns:
      A function of the same arguments. Its result has the output's tree structure, in each leaf the argument's, and in
      each of those an array of shape ``output.shape + argument.shape``.

    Raises:
      TypeError: when called with inputs or outputs of a dtype that the mode has no derivative for.
      TapError: see `grad`.

    >>> jacrev(lambda x: x**2)(jnp.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    check_callable(fun)
    check_flag(strong_zeros)
    check_policy(policy)
    given_taps(taps)
    numbers = canonical_argnums(argnums)

    @named_after(fun, "Jacobian", numbers)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        partial, chosen = split_arguments(fun, numbers, args, kwargs)
        check_inputs("jacrev", chosen, holomorphic, allow_int)
        out, pullback, *aux = vjp(partial, *chosen, has_aux=has_aux, strong_zeros=strong_zeros, policy=policy,
                                  taps=taps)
        check_outputs("jacrev", out, holomorphic)
        rows = jax.vmap(pullback)(_standard_basis(out))
        example = chosen[0] if isinstance(numbers, int) else chosen
        rows = rows[0] if isinstance(numbers, int) else rows
        by_input = jax.tree.map(lambda leaf, row: _split_rows(out, leaf, row), example, rows)
        result = jax.tree.transpose(jax.tree.structure(example), jax.tree.structure(out), by_input)
        return (result, *aux) if has_aux else result

    return jacobian


def jacfwd(fun: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False, holomorphic: bool = False, *,
           strong_zeros: bool | None = None, policy: Policy | None = None) -> Callable[..., Any]:
    """The Jacobian, column by column, by forward mode; drop-in for ``jax.jacfwd``.

    Args, Returns, Raises: see `jacrev`. With `strong_zeros` a zero tangent stays zero. `policy`: see `jvp`.

    >>> jacfwd(lambda x: x**2)(jnp.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    check_callable(fun)
    check_flag(strong_zeros)
    check_policy(policy)
    numbers = canonical_argnums(argnums)

    @named_after(fun, "Jacobian", numbers)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        partial, chosen = split_arguments(fun, numbers, args, kwargs)
        check_forward_inputs(chosen, holomorphic)
        with policy_in_force(policy):
            recording, _ = record_call(partial, chosen, has_aux)
            push = tangents_of(recording)
        out = jax.tree.unflatten(recording.out_tree, recording.outputs)
        if holomorphic:
            check_outputs("jacfwd", out, holomorphic)
        with policy_in_force(policy), zeros_in_force(strong_zeros):
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

    Args: see `grad`; `strong_zeros` and `policy` are for both modes.

    Returns:
      A function of the same arguments. Its result has the output's tree structure, in each leaf the argument's twice,
      and in each of those an array of shape ``output.shape + argument.shape + argument.shape``.

    Raises: see `jacrev`.

    >>> hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 2.0])).tolist()
    [[4.0, 2.0], [2.0, 0.0]]
    """
    jacobian = jacrev(fun, argnums, has_aux=has_aux, holomorphic=holomorphic, strong_zeros=strong_zeros,
                      policy=policy)
    return jacfwd(jacobian, argnums, has_aux=has_aux, holomorphic=holomorphic, strong_zeros=strong_zeros,
                  policy=policy)


def _standard_basis(tree: Any) -> Any:
    """The unit vectors of a pytree's space, stacked along a new first axis of each leaf, one set for each shard."""
    leaves, treedef = jax.tree.flatten(tree)
    sizes = list(map(np.size, leaves))
    eye = jnp.eye(sum(sizes), dtype=jnp.result_type(*leaves) if leaves else None)
    parts = jnp.split(eye, np.cumsum(sizes[:-1]), axis=1) if leaves else []
    stacked = [part.reshape(len(eye), *np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, [
        _compat.pvary(_converted(array, leaf), tuple(_compat.varying_axes(leaf)))
        for array, leaf in zip(stacked, leaves, strict=True)])


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
