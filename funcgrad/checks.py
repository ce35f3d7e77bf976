"""Floor 0: what the transforms and pullbacks refuse.

The exception types are JAX's, and so are the names of what is wrong, for tests that look for them; the rest of the
words says how to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcgrad import _compat
from funcgrad.trees import structure_difference


def check_enough_arguments(argnums: int | tuple[int, ...], args: tuple) -> None:
    """Raises TypeError when there are fewer positional arguments than `argnums` asks for, as JAX's `grad` does."""
    largest = argnums if isinstance(argnums, int) else max(argnums, default=-1)
    if largest >= len(args):
        raise TypeError(
            f"differentiating with respect to argnums={argnums} requires at least {largest + 1} positional arguments "
            f"to be passed by the caller, but got only {len(args)} positional arguments."
        )


def check_reduce_axes(name: str, result: str, reduce_axes: Sequence[Any]) -> None:
    """Raises NotImplementedError for an argument that JAX no longer uses either."""
    if reduce_axes:
        raise NotImplementedError(f"reduce_axes argument to {name} is deprecated.\n"
                                  f"To fix: leave it out, and sum the {result} over the axis with jax.lax.psum.")


def check_callable(fun: Any) -> None:
    """Raises TypeError for what cannot be called, or is a generator function."""
    if not callable(fun):
        raise TypeError(f"Expected a callable value, got {fun}")
    if jax.tree_util.all_leaves([fun]) and getattr(getattr(fun, "__code__", None), "co_flags", 0) & 0x20:
        raise TypeError(f"Expected a function, got a generator function: {fun}")


def dtype_of(leaf: Any) -> Any:
    """The dtype that JAX gives a leaf, None for what has none."""
    return getattr(_compat.typeof(_compat.canonicalize(leaf)), "dtype", None)


def check_no_references(leaves: Any) -> None:
    """Raises ValueError for an input that is a mutable array: nobody would see the cotangent of what it held."""
    for leaf in leaves:
        if isinstance(leaf, jax.Ref):
            raise ValueError(
                f"cannot differentiate with respect to a mutable array ({_compat.typeof(leaf)}).\n"
                "To fix: pass its value, and make the array inside the function with jax.new_ref; an array that is not "
                "differentiated can be closed over.")


def check_inputs(name: str, tree: Any, holomorphic: bool, allow_int: bool) -> None:
    """Raises TypeError for inputs that reverse mode cannot differentiate with respect to."""
    for leaf in jax.tree.leaves(tree):
        dtype = dtype_of(leaf)
        if holomorphic and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{name} with holomorphic=True requires inputs with complex dtype, but got {dtype}.")
        if not jnp.issubdtype(dtype, jnp.inexact) and not allow_int:
            raise TypeError(
                f"{name} requires real- or complex-valued inputs (input dtype that is a sub-dtype of np.inexact), but "
                f"got {dtype}. If you want to use Boolean- or integer-valued inputs, use vjp or set allow_int to True.")


def check_forward_inputs(tree: Any, holomorphic: bool) -> None:
    """Raises TypeError for inputs that `jacfwd` cannot differentiate with respect to."""
    for leaf in jax.tree.leaves(tree):
        dtype = dtype_of(leaf)
        if holomorphic and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"jacfwd with holomorphic=True requires inputs with complex dtype, but got {dtype}.")
        if not holomorphic and not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                "jacfwd requires real-valued inputs (input dtype that is a sub-dtype of np.floating), but got "
                f"{dtype}. For holomorphic differentiation, pass holomorphic=True. For other functions of complex or "
                "integer inputs, use jvp.")


def check_aux(result: Any) -> tuple[Any, Any]:
    """The output and the auxiliary one; raises TypeError when a function with `has_aux` returned no pair."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            "expected function with aux output to return a two-element tuple, but got type "
            f"{type(result)} with value {result}.\n"
            "To fix: return a pair (output, aux), or leave out has_aux."
        )
    return result[0], result[1]


def check_output(leaf: Any, name: str) -> Any:
    """What a function returned, as a JAX value; raises TypeError for anything else."""
    try:
        return _compat.canonicalize(leaf)
    except TypeError as error:
        raise TypeError(
            f"Argument '{leaf}' of type {type(leaf)} is not a valid JAX type, but `{name}` returned it.\n"
            "To fix: return arrays, numbers or pytrees of them; other things can be returned with has_aux=True."
        ) from error


def check_outputs(name: str, tree: Any, holomorphic: bool) -> None:
    """Raises TypeError for outputs that are neither real nor, where promised, complex."""
    for leaf in jax.tree.leaves(tree):
        dtype = dtype_of(leaf)
        if jnp.issubdtype(dtype, jax.dtypes.extended):
            raise TypeError(f"{name} with output element type {dtype}.\nTo fix: return an array of real numbers.")
        if holomorphic and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{name} with holomorphic=True requires outputs with complex dtype, but got {dtype}.")
        if not holomorphic and not jnp.issubdtype(dtype, jnp.floating):
            instead = ("For holomorphic differentiation, pass holomorphic=True. For other complex outputs"
                       if jnp.issubdtype(dtype, jnp.complexfloating) else
                       "For differentiation of functions with integer outputs")
            raise TypeError(f"{name} requires real-valued outputs (output dtype that is a sub-dtype of np.floating), "
                            f"but got {dtype}. {instead}, use vjp.")


def check_scalar(out: Any) -> None:
    """Raises TypeError for an output that has no gradient, because it is no scalar."""
    try:
        shape = "of a mutable array" if isinstance(out, jax.Ref) else _compat.typeof(out).shape
    except (TypeError, AttributeError) as error:
        raise TypeError(f"Gradient only defined for scalar-output functions. Output was {out}.") from error
    if shape != ():
        raise TypeError(f"Gradient only defined for scalar-output functions. Output had shape: {shape}.\n"
                        "To fix: reduce the output to a scalar (a mean or a sum), or use jacrev.")


def check_tangents(primals: Any, tangents: Any) -> list[Any]:
    """The leaves of `tangents`, once they fit `primals`."""
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise TypeError("primal and tangent arguments to jax.jvp must be tuples or lists; found "
                        f"{type(primals).__name__} and {type(tangents).__name__}.")
    primal_leaves, leaves = jax.tree.leaves(tuple(primals)), jax.tree.leaves(tuple(tangents))
    trees: list[Any] = [jax.tree.structure(tuple(primals)), jax.tree.structure(tuple(tangents))]
    if trees[0] != trees[1] or type(primals) is not type(tangents):
        raise TypeError("primal and tangent arguments to jax.jvp must have the same tree structure; primals have tree "
                        f"structure {jax.tree.structure(primals)} whereas tangents have tree structure "
                        f"{jax.tree.structure(tangents)}.")
    leaves = [_compat.canonicalize(leaf) for leaf in leaves]
    for primal, tangent in zip(primal_leaves, leaves, strict=True):
        wanted = _compat.typeof(_compat.canonicalize(primal)).to_tangent_aval()
        given = _compat.typeof(tangent)
        if wanted.dtype != given.dtype:
            raise TypeError("primal and tangent arguments to jax.jvp do not match; dtypes must be equal, or in case of "
                            "int/bool primal dtype the tangent dtype must be float0: the tangent must have dtype "
                            f"{wanted.dtype}, got {given.dtype}.")
        if wanted.shape != given.shape:
            raise ValueError(f"jvp called with different primal and tangent shapes; {wanted.shape} and {given.shape}.")
    return leaves


def check_one_cotangent(name: str, count: int) -> None:
    """Raises TypeError for a pullback that is called with more than one argument."""
    if count > 1:
        raise TypeError(
            f"The function returned by `jax.vjp` applied to {name} was called with {count} "
            "arguments,\nbut functions returned by `jax.vjp` must be called with a single argument: the cotangent "
            "of the one value\nthat the function returned.\nTo fix: pass a tuple if the function returned a tuple."
        )


def check_cotangent(name: str, ct: Any, out_tree: Any, out_avals: Sequence[Any]) -> list[Any]:
    """The leaves of a cotangent, once they fit the output; raises ValueError when they do not."""
    leaves, tree = jax.tree.flatten(ct)
    if tree != out_tree:
        raise ValueError(
            f"unexpected tree structure.\nThe cotangent given to the pullback of `{name}` is unlike the output:\n"
            f"{structure_difference(out_tree, tree)}\nTo fix: give it the structure of the output."
        )
    leaves = [_compat.canonicalize(leaf) for leaf in leaves]
    for leaf, aval in zip(leaves, out_avals, strict=True):
        wanted, given = aval.to_ct_aval(), _compat.typeof(leaf)
        # JAX takes any dtype where the cotangent is not read
        unread = getattr(wanted, "dtype", None) == _compat.float0 and wanted.shape == given.shape
        if not unread and not _compat.typecompat(wanted, given):
            raise ValueError(
                "unexpected JAX type (e.g. shape/dtype) for argument to VJP function: "
                f"got {given.str_short()}, but expected {wanted.str_short()} because the corresponding output of "
                f"the differentiated function `{name}` is {aval.str_short()}.\n"
                "To fix: convert the cotangent to the output's shape and dtype."
            )
    return leaves
