"""Floor 3: taps. A name on a value, by which its cotangent is reached: read, clipped, scaled, replaced.

The mark is JAX's own `jax.ad_checkpoint.checkpoint_name`, the identity with a name. So it passes through `jit`, `vmap`,
`scan` and JAX's autodiff, what a library has named for its checkpoint policies can be tapped, and a tapped value can be
named in a policy. The rule of that primitive asks here what is to be done with the cotangent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive, jaxprs_in_params
from jax.extend.core import primitives as p

from funcgrad import _compat, errors
from funcgrad.graph import Graph, carries_gradient

Array = Any
Function = Callable[[Array], Array]
#: Names and their functions, sorted: what a transform's argument `taps` becomes.
Functions = tuple[tuple[str, Function], ...]

#: Names and functions in force. JAX's own caches have them in their keys, and so do ours (`_compat.trace_context`).
_TAPS = jax.make_user_context(())


class Tapped(NamedTuple):
    """What passed a tap: the value, and the cotangent as it arrived, before a function of `taps` had it.

    >>> import funcgrad
    >>> _, _, taps = funcgrad.value_and_grad(lambda x: 3.0 * tap(x, "x"), return_taps=True)(2.0)
    >>> tuple(map(float, taps["x"]))
    (2.0, 3.0)
    """

    value: Array
    cotangent: Array


def tap(x: Any, name: str) -> Any:
    """`x` itself, marked with a name: ``grad(f, taps={name: function})`` changes its cotangent on the way back.

    Args:
      x: an array, or a pytree whose leaves all get the name.
      name: what it is called. The same as ``jax.ad_checkpoint.checkpoint_name(x, name)``.

    Returns:
      `x`; outside of funcgrad's transforms nothing else happens.

    Raises:
      TypeError: for a name that is no string, or a leaf that is no array.

    >>> import funcgrad
    >>> import jax.numpy as jnp
    >>> def f(x):
    ...     return jnp.sin(tap(3.0 * x, "angle"))
    >>> float(funcgrad.grad(f)(0.0)), float(funcgrad.grad(f, taps={"angle": lambda ct: ct / 2})(0.0))
    (3.0, 1.5)
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a tap must be a string, got {name!r}.\nTo fix: funcgrad.tap(x, \"name\").")
    return checkpoint_name(jax.tree.map(_compat.canonicalize, x), name)


def given_taps(taps: Mapping[str, Function] | None) -> Functions:
    """The argument `taps` of a transform, checked, as a sorted tuple that hashes.

    Raises:
      TypeError: when it is no mapping of strings to functions.
    """
    if taps is None:
        return ()
    if not isinstance(taps, Mapping) or not all(isinstance(name, str) and callable(f) for name, f in taps.items()):
        raise TypeError(f"taps must map names to functions of a cotangent, got {taps!r}.\n"
                        "To fix: taps={\"name\": lambda ct: ct}, with the names given to funcgrad.tap.")
    return tuple(sorted(taps.items(), key=lambda entry: entry[0]))


def taps_in_force(taps: Functions) -> AbstractContextManager[None]:
    """A context whose sweeps apply these functions, and no others."""
    return _TAPS(taps)


def taps_now() -> Functions:
    """The functions that a sweep which runs now applies."""
    return _TAPS.value


def tapped_cotangent(name: str, ct: Array) -> Array:
    """What becomes of a cotangent that arrives at a name.

    Raises:
      TapError: when the user's function gives something of another shape or dtype.
    """
    for tapped, function in _TAPS.value:
        if tapped == name:
            return _checked(name, ct, function(ct))
    return ct


def _checked(name: str, ct: Array, result: Any) -> Array:
    wanted = _compat.typeof(ct)
    try:
        result = _compat.canonicalize(result)
        given = _compat.typeof(result)
    except TypeError:
        raise errors.tap_gave_no_array(name, type(result).__name__, wanted.str_short()) from None
    if given.shape != wanted.shape or given.dtype != wanted.dtype:
        raise errors.tap_gave_another_type(name, given.str_short(), wanted.str_short())
    return result


# ---- where the taps of a program are ----

#: Programs in which a name is somebody else's business: the user's rule counts there, not the body.
_OWN_RULES = frozenset({p.custom_jvp_call_p, p.custom_vjp_call_p})


@dataclasses.dataclass(frozen=True)
class Site:
    """A tap in a program: its name, and shape and dtype of what it gives to the program's caller."""

    name: str
    shape: tuple[int, ...]
    dtype: Any

    @property
    def has_probe(self) -> bool:
        """Whether the value can have a cotangent."""
        return carries_gradient(jax.core.ShapedArray(self.shape, self.dtype))

    def zeros(self, value: float = 0.0) -> Array:
        """An array of this type."""
        return lax.full(self.shape, value, self.dtype)


# Weak in the program: what is known of it goes when JAX's own caches let it go.
_SITES: WeakKeyDictionary[Any, tuple[Site, ...]] = WeakKeyDictionary()


def sites(jaxpr: Any) -> tuple[Site, ...]:
    """The taps of an open jaxpr, in order, with those of the programs in it."""
    found = _SITES.get(jaxpr)
    if found is None:
        found = _SITES[jaxpr] = tuple(site for eqn in jaxpr.eqns for site in _sites_of_equation(eqn))
    return found


def _sites_of_equation(eqn: Any) -> tuple[Site, ...]:
    if eqn.primitive is p.name_p:
        aval = eqn.outvars[0].aval
        return (Site(eqn.params["name"], aval.shape, aval.dtype),)
    return sites_within(eqn.primitive, eqn.params)


def sites_within(primitive: Primitive, params: dict[str, Any]) -> tuple[Site, ...]:
    """The taps in the programs that an operation runs, as its caller sees them: those of a loop are stacked."""
    if primitive in _OWN_RULES:
        return ()
    inner = tuple(site for jaxpr in jaxprs_in_params(params) for site in sites(jaxpr))
    if primitive is p.scan_p:
        return tuple(dataclasses.replace(site, shape=(params["length"], *site.shape)) for site in inner)
    return inner


def check_met(taps: Functions, graph: Graph) -> None:
    """Raises TapError when a name was never met: a tap that does nothing is a misspelt one."""
    if not taps:
        return
    met = {site.name for node in graph.nodes for site in sites_within(node.primitive, node.params)}
    met |= {node.params["name"] for node in graph.nodes if node.primitive is p.name_p}
    for name, _function in taps:
        if name not in met:
            raise errors.tap_not_met(name, graph.name, sorted(met))
