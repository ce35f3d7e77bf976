"""The reversed loop of a `scan`, with its sums of products made in blocks of iterations.

A matrix that every iteration multiplies by has the cotangent Σₜ Uₜᵀ Cₜ. Carried through the loop, that sum is read and
written in each iteration; where it is larger than its factors, that is most of what the loop does. So the factors of a
few iterations are kept, and one product over those iterations, and over what each product sums anyway, is added.

    plain    (consts; sums, carry; xs)       -> (sums + Uₜᵀ Cₜ, carry; ys)
    blocks   (consts; sums, carry; xs[k, m]) -> (sums + Σₜ Uₜᵀ Cₜ, carry; ys[k, m])
    in one   (consts; carry; xs[m])          -> (carry; ys[m], factors[m])

The products are the same, and what a block keeps takes no more bytes than the sums. Where its factors would, where the
sums are small, and under policies that count bytes, the loop stays as it is.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from jax.extend import source_info_util
from jax.extend.core import Literal, Var, unmapped_aval
from jax.extend.core import primitives as p

from funcgrad import _compat
from funcgrad.cost import value_bytes
from funcgrad.evaluation import evaluate, evaluate_equation
from funcgrad.registry import lookup
from funcgrad.rule import MapClass
from funcgrad.rules.cutting import Cut, near_divisor

Array = Any
#: Iterations of a block, as far as the loop's length allows: sums are read and written an eighth as often.
ITERATIONS = 8
#: Bytes: sums that are smaller altogether stay in a processor's first cache, and cost less than a loop in a loop.
SMALLEST = 2**16


def in_blocks(*operands: Array, jaxpr: Any, num_consts: int, num_carry: int, length: int, reverse: bool,
              unroll: int) -> list[Array] | None:
    """What `scan_p` gives for these operands, up to rounding; None for a loop that stays as it is."""
    params = {"num_consts": num_consts, "num_carry": num_carry, "reverse": reverse, "unroll": unroll}
    segment = length if length <= 2 * ITERATIONS else near_divisor(length, ITERATIONS)
    block = _block(jaxpr, segment, params) if length > unroll else None
    if block is None:
        return None
    if segment == length:
        return evaluate(block, operands)
    cut, bound = Cut.of(length, segment, reverse), num_consts + num_carry
    consts, xs = operands[:num_consts], operands[bound:]
    outs = p.scan_p.bind(*operands[:bound], *map(cut.main, xs), jaxpr=block, length=cut.segments,
                         **{**params, "unroll": 1})
    carry, ys, rest = outs[:num_carry], outs[num_carry:], [None] * (len(outs) - num_carry)
    if cut.rest:
        outs = p.scan_p.bind(*consts, *carry, *map(cut.last, xs), jaxpr=jaxpr, length=cut.rest, **params)
        carry, rest = outs[:num_carry], outs[num_carry:]
    return [*carry, *map(cut.joined, ys, rest)]


# ---- which sums ----


class Product(NamedTuple):
    """A contribution to a sum: a `dot_general`, and linear maps of its result.

    Attributes:
      equation: the `dot_general`.
      tail: equations, each a linear map of what the one before gives.
    """

    equation: Any
    tail: tuple[Any, ...]

    @property
    def factors(self) -> tuple[Var, ...]:
        """Both operands."""
        return tuple(self.equation.invars)

    def over_iterations(self, left: Array, right: Array) -> Array:
        """The sum of this contribution over the iterations that the factors are stacked for."""
        params = self.equation.params
        contracting, batch = params["dimension_numbers"]
        numbers = (tuple((0, *(i + 1 for i in dims)) for dims in contracting),
                   tuple(tuple(i + 1 for i in dims) for dims in batch))
        out = _run(self.equation, [left, right], {**params, "dimension_numbers": numbers})
        for equation in self.tail:
            out = _run(equation, [out], equation.params)
        return out


def _run(equation: Any, operands: Sequence[Array], params: dict[str, Any]) -> Array:
    """The operation of an equation on other operands, with its line and name."""
    info = equation.source_info
    stack = source_info_util.current_name_stack() + info.name_stack
    with source_info_util.user_context(info.traceback, name_stack=stack), equation.ctx.manager:
        return equation.primitive.bind(*operands, **params)


class Sums(NamedTuple):
    """The sums of a loop's body that are made in blocks.

    Attributes:
      products: for each of these carries, by number, what is added to it.
      factors: factors that an iteration hands out; the others are scanned inputs.
    """

    products: dict[int, tuple[Product, ...]]
    factors: tuple[Var, ...]


def find_sums(body: Any, num_consts: int, num_carry: int, segment: int) -> Sums:
    """The sums of a jaxpr that are worth a block of `segment` iterations."""
    first, bound = num_consts, num_consts + num_carry
    held = set(body.invars[bound:])
    fixed = {*body.invars[:first], *body.constvars}
    producers = {variable: equation for equation in body.eqns for variable in equation.outvars}
    uses = collections.Counter(v for atoms in (body.outvars, *(e.invars for e in body.eqns))
                               for v in atoms if not isinstance(v, Literal))
    found = {}
    for i in sorted(range(num_carry), key=lambda i: -value_bytes(body.invars[first + i].aval)):
        products = _products(body.invars[first + i], body.outvars[i], producers, uses)
        factors = {factor for product in products for factor in product.factors}
        new = factors - held
        worth = segment * _bytes(new) <= value_bytes(body.invars[first + i].aval)
        if products and worth and not factors & fixed:
            found[i] = products
            held |= new
    if _bytes(body.invars[first + i] for i in found) < SMALLEST:
        return Sums({}, ())
    handed_out = {factor: None for products in found.values() for product in products for factor in product.factors}
    return Sums(found, tuple(v for v in handed_out if v not in set(body.invars[bound:])))


def _bytes(variables: Iterable[Var]) -> int:
    return sum(value_bytes(variable.aval) for variable in variables)


def _products(total: Var, out: Any, producers: dict[Var, Any], uses: dict[Var, int]) -> tuple[Product, ...]:
    """What is added to a carry, if it is products alone and nothing else reads the carry; else nothing."""
    products, pending, met = [], [out], False
    while pending:
        atom = pending.pop()
        equation = None if isinstance(atom, Literal) or uses[atom] > 1 else producers.get(atom)
        if atom is total and uses[total] == 1:
            met = True
        elif equation is not None and equation.primitive is p.add_p:
            pending += equation.invars
        else:
            product = _product(equation, producers, uses)
            if product is None:
                return ()
            products.append(product)
    return tuple(products) if met else ()


def _product(equation: Any, producers: dict[Var, Any], uses: dict[Var, int]) -> Product | None:
    """The contribution whose last equation this is, None if it is no product of two values of the iteration."""
    tail: list[Any] = []
    while equation is not None and equation.primitive is not p.dot_general_p:
        rule = lookup(equation.primitive)
        if rule is None or rule.kind is not MapClass.LINEAR or len(equation.invars) != 1:
            return None
        (atom,) = equation.invars
        if isinstance(atom, Literal) or uses[atom] > 1:
            return None
        tail.append(equation)
        equation = producers.get(atom)
    if equation is None or any(isinstance(atom, Literal) for atom in equation.invars):
        return None
    return Product(equation, tuple(reversed(tail)))


# ---- the programs ----

# Weak in the body's program, as all that is staged from it.
_BLOCKS: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def _block(jaxpr: Any, segment: int, params: dict[str, Any]) -> Any | None:
    """The program of a block, with the operands and results of an iteration; None where no sum is worth it; cached."""
    cache = _BLOCKS.setdefault(jaxpr, {})
    key = (segment, *params.values(), _compat.trace_context())
    if key not in cache:
        sums = find_sums(jaxpr.jaxpr, params["num_consts"], params["num_carry"], segment)
        cache[key] = _stage_block(jaxpr, segment, params, sums) if sums.products else None
    return cache[key]


def _stage_block(jaxpr: Any, segment: int, params: dict[str, Any], sums: Sums) -> Any:
    """The program of a block: the loop inside, then the products."""
    body, first, bound = jaxpr.jaxpr, params["num_consts"], params["num_consts"] + params["num_carry"]
    carried = [i for i in range(params["num_carry"]) if i not in sums.products]
    inner = _stage_iteration(jaxpr, first, bound, sums, carried)

    def run(*args: Array) -> list[Array]:
        totals, xs = args[first:bound], args[bound:]
        results = p.scan_p.bind(*args[:first], *(totals[i] for i in carried), *xs, **{
            **params, "jaxpr": inner, "length": segment, "num_carry": len(carried),
            "unroll": min(params["unroll"], segment)})
        last = len(results) - len(sums.factors)
        stacked = {**dict(zip(body.invars[bound:], xs, strict=True)),
                   **dict(zip(sums.factors, results[last:], strict=True))}
        after = dict(zip(carried, results, strict=False))
        for i, products in sums.products.items():
            after[i] = totals[i]
            for product in products:
                after[i] = p.add_p.bind(after[i], product.over_iterations(*(stacked[v] for v in product.factors)))
        return [*(after[i] for i in range(len(totals))), *results[len(carried): last]]

    avals = [*jaxpr.in_avals[:bound], *(unmapped_aval(segment, 0, aval) for aval in jaxpr.in_avals[bound:])]
    return _compat.stage(run, avals, f"block of {body.debug_info.func_name}")


def _stage_iteration(jaxpr: Any, first: int, bound: int, sums: Sums, carried: Sequence[int]) -> Any:
    """The body without its sums, which hands out their factors after its results."""
    outputs = [*carried, *range(bound - first, len(jaxpr.out_avals))]
    kept = [*range(first), *(first + i for i in carried), *range(bound, len(jaxpr.in_avals))]

    def run(*args: Array) -> list[Array]:
        factors: dict[Var, Array] = {}

        def step(trace: Any, equation: Any, operands: list[Array]) -> Sequence[Array]:
            results = evaluate_equation(trace, equation, operands)
            factors.update((v, x) for v, x in zip(equation.outvars, results, strict=True) if v in sums.factors)
            return results

        given = dict(zip(kept, args, strict=True))
        factors.update((v, given[i]) for i, v in enumerate(jaxpr.jaxpr.invars) if v in sums.factors)
        operands = [given[i] if i in given else _compat.zeros_like_aval(aval)
                    for i, aval in enumerate(jaxpr.in_avals)]  # nothing reads a sum but itself
        results = evaluate(jaxpr, operands, step)
        return [*(results[i] for i in outputs), *(factors[v] for v in sums.factors)]

    return _compat.stage(run, [jaxpr.in_avals[i] for i in kept], jaxpr.jaxpr.debug_info.func_name)
