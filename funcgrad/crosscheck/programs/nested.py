"""Random programs with functions inside: loops, branches, maps, rematerialization, rules of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from funcgrad.crosscheck.programs.builder import Builder, Unfit
from funcgrad.crosscheck.programs.data import Variable

#: What stands in bodies: nothing that is slow to compile.
INSIDE = ("elementwise", "elementwise", "elementwise", "reduction", "shape", "contraction", "cumulative")
#: Statements of a body.
LENGTH = 3


def like(*variables: Variable) -> Callable[[Builder], Sequence[Variable]]:
    """Ends a body with values of the types of these variables."""
    return lambda inner: [inner.fit(v.dtype, v.shape) for v in variables]


def last(inner: Builder) -> Sequence[Variable]:
    """Ends a body with what was computed last."""
    found = next((v for v in reversed(inner.variables) if v.inexact), None)
    if found is None or not inner.statements:
        raise Unfit("an empty body")
    return [found]


def samples(b: Builder, *variables: Variable) -> list:
    """The values of variables."""
    return [b.scope[v.name] for v in variables]


def scan(b: Builder) -> None:
    """A scan over the leading axis, or over a number of steps, forward or reversed; the carry and a stacked output."""
    carry = b.operand()
    closed = b.chance(3)
    reverse = ", reverse=True" if b.chance(3) else ""
    if b.chance(3):
        body = b.body(samples(b, carry), LENGTH, INSIDE, closed, like(carry))
        steps = b.choose(4)
        b.apply("scan", f"lax.scan(lambda c, _: ({{f0}}(c), None), {{0}}, length={steps}{reverse})[0]", carry,
                bodies=(body,))
        return
    xs = b.operand(where=lambda v: bool(v.shape) and v.shape[0] > 0)
    body = b.body([b.scope[carry.name], b.scope[xs.name][0]], LENGTH, INSIDE, closed,
                  lambda inner: [*like(carry)(inner), *last(inner)])
    b.apply_several("scan", f"lax.scan({{f0}}, {{0}}, {{1}}{reverse})", carry, xs, bodies=(body,))


def fori(b: Builder) -> None:
    """A loop with a number of steps that is known, or one that is not; JAX's reverse mode has the first only."""
    carry = b.operand()
    body = b.body(samples(b, carry), LENGTH, INSIDE, b.chance(3), like(carry))
    steps = b.choose(4)
    known = f"lax.fori_loop(0, {steps}, lambda _, c: {{f0}}(c), {{0}})"
    if b.chance(2):
        b.apply("fori_loop", known, carry, bodies=(body,))
        return
    unknown = f"lax.while_loop(lambda c: c[0] < {steps}, lambda c: (c[0] + 1, {{f0}}(c[1])), (0, {{0}}))[1]"
    b.apply("while_loop", unknown, carry, bodies=(body,), oracle=known)


def cond(b: Builder) -> None:
    """A branch by a value, or a switch by an integer."""
    x = b.operand()
    closed = b.chance(3)
    count = b.one_of([2, 2, 3, 1])
    first = b.body(samples(b, x), LENGTH, INSIDE, closed, last)
    rest = [b.body(samples(b, x), LENGTH, INSIDE, closed, like(first.outputs[0])) for _ in range(count - 1)]
    names = ", ".join(f"{{f{i}}}" for i in range(count))
    if count == 2 and not x.dtype.startswith("complex") and not b.chance(3):
        b.apply("cond", f"lax.cond(jnp.sum({{0}}) > 0, {names}, {{0}})", x, bodies=(first, *rest))
    else:
        index = b.indices((), count, b.chance(4))
        b.apply("switch", f"lax.switch({{0}}, [{names}], {{1}})", index, x, bodies=(first, *rest))


def called(b: Builder) -> None:
    """A function that is compiled, rematerialized or has a rule of its own."""
    wrapper = b.one_of(["jax.jit", "jax.checkpoint", "with_custom_vjp", "with_custom_jvp", "jax.jit"])
    x = b.operand()
    closed = wrapper.startswith("with_") or b.chance(3)
    operands = [x, b.operand()] if b.chance(2) else [x]
    body = b.body(samples(b, *operands), LENGTH, INSIDE, closed, last)
    names = ", ".join(f"{{{i}}}" for i in range(len(operands)))
    b.apply(wrapper.removeprefix("jax."), f"{wrapper}({{f0}})({names})", *operands, bodies=(body,))


def mapped(b: Builder) -> None:
    """A function mapped over the leading axis, once with a sum over the mapped axis inside."""
    x = b.operand(where=lambda v: bool(v.shape) and v.shape[0] > 0)
    closed = b.chance(3)
    parameters = [b.scope[x.name][0]]
    if b.chance(3):
        y = b.operand()
        body = b.body([*parameters, b.scope[y.name]], LENGTH, INSIDE, closed, last)
        b.apply("vmap", "jax.vmap({f0}, in_axes=(0, None))({0}, {1})", x, y, bodies=(body,))
        return
    body = b.body(parameters, LENGTH, INSIDE, closed, last)
    options = ["jax.vmap({f0})({0})", "jax.vmap({f0}, out_axes=-1)({0})", "lax.map({f0}, {0})",
               "jax.vmap(lambda x: lax.psum({f0}(x), 'i'), axis_name='i')({0})",
               "jax.vmap(jax.jit({f0}))({0})",
               "jax.vmap(lambda x: {f0}(x) - lax.pmean({f0}(x), 'i'), axis_name='i')({0})"]
    template = b.one_of(options)
    b.apply("lax.map" if "lax.map" in template else "vmap", template, x, bodies=(body,))


NESTED = (called, mapped, scan, cond, fori)
