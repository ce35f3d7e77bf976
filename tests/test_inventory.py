"""Every primitive that JAX can differentiate, and every public one, is ruled, constant or refused for a true reason."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil

import jax
import jax.experimental
import jax.extend.core.primitives
import jax.lax
import pytest
from jax._src.interpreters import ad  # the test asks JAX what it can differentiate; funcgrad itself never does
from jax.extend.core import Primitive

import funcgrad  # noqa: F401  (fills the registry)
from funcgrad.registry import lookup, rules
from funcgrad.rule import MapClass

#: Primitives of JAX's own differentiation, which no program outside it binds.
INTERNAL = {"custom_lin", "call_hi_primitive_linearized", "accum_grad_in_ref"}


def is_of_jax(rule: object) -> bool:
    """Whether a rule of JAX's tables is JAX's own; other libraries put theirs there when they are imported."""
    while hasattr(rule, "func"):  # functools.partial
        rule = rule.func
    return getattr(rule, "__module__", "jax").split(".")[0] == "jax"


def import_the_rest_of_jax() -> None:
    """What `import jax` leaves out has primitives, too."""
    for module in pkgutil.walk_packages(jax.experimental.__path__, "jax.experimental."):
        if "jax2tf" not in module.name:
            with contextlib.suppress(ImportError):  # what is for a GPU or a TPU needs libraries of its own
                importlib.import_module(module.name)


def known_to_jax() -> dict[str, Primitive]:
    """JAX's registries and public names, by name."""
    import_the_rest_of_jax()
    tables = (ad.primitive_jvps, ad.primitive_transposes, ad.primitive_linearizations, ad.fancy_transposes)
    registered = {primitive for table in tables for primitive, rule in table.items() if is_of_jax(rule)}
    public = {getattr(module, name) for module in (jax.lax, jax.extend.core.primitives)
              for name in dir(module) if name.endswith("_p")}
    return {str(primitive): primitive for primitive in registered | public if isinstance(primitive, Primitive)}


@pytest.mark.parametrize("name", sorted(known_to_jax()))
def test_every_primitive_is_classified(name: str) -> None:
    if name in INTERNAL:
        pytest.skip(reason="belongs to JAX's own differentiation and never reaches a program")
    rule = lookup(known_to_jax()[name])
    assert rule is not None, f"`{name}` has no entry in funcgrad/rules"
    assert rule.kind is not MapClass.UNSUPPORTED or len(rule.reason) > 20


def test_no_reason_says_not_done_yet() -> None:
    for rule in rules().values():
        assert not any(word in rule.reason.lower() for word in ("not done", "todo", "not yet", "not implemented"))
