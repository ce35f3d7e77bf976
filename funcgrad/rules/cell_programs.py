"""Programs that are handed cells: a `scan`, `cond`, … that is handed one becomes a program of its content.

    with cells:  (operands, some of them cells) -> results
    pure:        (operands that are none, content of each cell) -> (results, new content of each cell)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from jax.extend.core import Primitive
from jax.extend.core import primitives as p

from funcgrad import _compat, errors
from funcgrad._compat import primitives as private
from funcgrad.evaluation import evaluate, evaluate_equation
from funcgrad.rules.cells import OPERATIONS, Aval, Cell, aval_of

Array = Any

CUSTOM = (p.custom_jvp_call_p, p.custom_vjp_call_p)


def operate(primitive: Primitive, operands: Sequence[Any], params: dict[str, Any]) -> Sequence[Any]:
    """Run an operation some of whose operands are cells, in the current trace. A new array comes back as a cell."""
    if primitive in OPERATIONS:
        (aval,) = _compat.abstract_eval(primitive, list(map(aval_of, operands)), params) or (None,)  # checks types, too
        return OPERATIONS[primitive](aval, *operands, **params)
    places, cells = places_of(operands)
    program = _PROGRAMS.get(primitive, _foreign_program)
    return program(primitive, operands, places, cells, params)


def places_of(operands: Sequence[Any]) -> tuple[tuple[int | None, ...], list[Cell]]:
    """For each operand the number of its cell, or None; and the cells, each once."""
    cells: list[Cell] = []
    places: list[int | None] = []
    for operand in operands:
        if isinstance(operand, Cell) and operand not in cells:
            cells.append(operand)
        places.append(cells.index(operand) if isinstance(operand, Cell) else None)
    return tuple(places), cells


def _values(operands: Sequence[Any]) -> list[Any]:
    return [operand for operand in operands if not isinstance(operand, Cell)]


def _contents(cells: Sequence[Cell]) -> list[Array]:
    return [cell.content for cell in cells]


def update(cells: Sequence[Cell], results: Sequence[Array]) -> list[Array]:
    """Give each cell its new content, which stands at the end of `results`; the other results."""
    count = len(results) - len(cells)
    for cell, content in zip(cells, results[count:], strict=True):
        cell.write(content)
    return list(results[:count])


# Weak in the program that is handed cells: the pure one goes when JAX's own caches let that one go.
_PURE: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def _remembered(jaxpr: Any, key: Any, make: Callable[[], Any]) -> Any:
    cache = _PURE.setdefault(jaxpr, {})
    key = (*key, _compat.trace_context())
    if key not in cache:
        cache[key] = make()
    return cache[key]


def pure(jaxpr: Any, places: tuple[int | None, ...], types: tuple[Aval, ...]) -> Any:
    """The program without mutable arrays among its inputs; cached.

    Args:
      jaxpr: a closed jaxpr.
      places: for each of its inputs, which cell it is, or None.
      types: avals of all cells, also of those that this program does not see.
    """

    def run(*args: Array) -> list[Array]:
        count = len(args) - len(types)
        cells = [Cell(aval, content) for aval, content in zip(types, args[count:], strict=True)]
        values = iter(args[:count])
        operands = [next(values) if place is None else cells[place] for place in places]
        return [*evaluate(jaxpr, operands, _step), *_contents(cells)]

    avals = [v.aval for v, place in zip(jaxpr.jaxpr.invars, places, strict=True) if place is None]
    avals += [aval.inner_aval for aval in types]
    name = jaxpr.jaxpr.debug_info.func_name
    return _remembered(jaxpr, ("pure", places, types), lambda: _compat.stage(run, avals, name))


def _step(trace: Any, eqn: Any, values: list[Any]) -> Sequence[Any]:
    """One equation of a program in which cells stand for mutable arrays."""
    makes = eqn.primitive in (private.new_ref_p, private.empty_ref_p)
    if makes or any(isinstance(value, Cell) for value in values):
        return operate(eqn.primitive, values, eqn.params)
    return evaluate_equation(trace, eqn, values)


def rearranged(jaxpr: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Any:
    """The program with its inputs in the order `inputs`, and of its outputs only `outputs`; cached."""

    def run(*args: Array) -> list[Array]:
        ordered = dict(zip(inputs, args, strict=True))
        results = evaluate(jaxpr, [ordered[i] for i in range(len(inputs))])
        return [results[i] for i in outputs]

    avals = [jaxpr.in_avals[i] for i in inputs]
    name = jaxpr.jaxpr.debug_info.func_name
    return _remembered(jaxpr, ("rearranged", inputs, outputs), lambda: _compat.stage(run, avals, name))


def _unchanged(jaxpr: Any, count: int) -> tuple[bool, ...]:
    """For each of the last `count` inputs, whether the output at the same place is that input."""
    pairs = zip(jaxpr.jaxpr.invars[len(jaxpr.in_avals) - count:], jaxpr.jaxpr.outvars[len(jaxpr.out_avals) - count:],
                strict=True)
    return tuple(i is o for i, o in pairs)


def _types(cells: Sequence[Cell]) -> tuple[Aval, ...]:
    return tuple(cell.aval for cell in cells)


def jit_program(primitive: Primitive, operands: Sequence[Any], places: tuple, cells: list[Cell],
                params: dict[str, Any]) -> list[Array]:
    """A jitted function stays a compiled unit."""
    values, count = _values(operands), len(cells)
    jaxpr = pure(params["jaxpr"], places, _types(cells))

    def without_cells(entries: Sequence[Any], more: Any) -> tuple:
        return (*(entry for entry, place in zip(entries, places, strict=True) if place is None), *(more,) * count)

    params = dict(
        params, jaxpr=jaxpr, donated_invars=without_cells(params["donated_invars"], False),
        in_shardings=without_cells(params["in_shardings"], _compat.UNSPECIFIED),
        out_shardings=(*params["out_shardings"], *(_compat.UNSPECIFIED,) * count),
        in_layouts=without_cells(params["in_layouts"], None), out_layouts=(*params["out_layouts"], *(None,) * count))
    return update(cells, primitive.bind(*values, *_contents(cells), **params))


def remat_program(primitive: Primitive, operands: Sequence[Any], places: tuple, cells: list[Cell],
                  params: dict[str, Any]) -> list[Array]:
    """A `checkpoint` keeps the contents as it keeps its other operands."""
    jaxpr = pure(_compat.closed(params["jaxpr"]), places, _types(cells))
    fenced = params["prevent_cse"]
    params = dict(params, jaxpr=_compat.constants_first(jaxpr.jaxpr),
                  prevent_cse=any(fenced) if isinstance(fenced, tuple) else fenced)
    return update(cells, primitive.bind(*jaxpr.consts, *_values(operands), *_contents(cells), **params))


def inline_program(_primitive: Primitive, operands: Sequence[Any], _places: tuple, _cells: list[Cell],
                   params: dict[str, Any]) -> list[Array]:
    """A program that is only held."""
    jaxpr = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
    return evaluate(jaxpr if hasattr(jaxpr, "jaxpr") else _compat.closed(jaxpr), operands, _step)


def cond_program(primitive: Primitive, operands: Sequence[Any], places: tuple, cells: list[Cell],
                 params: dict[str, Any]) -> list[Array]:
    """Each branch gives all contents."""
    branches = tuple(pure(branch, places[1:], _types(cells)) for branch in params["branches"])
    return update(cells, primitive.bind(*_values(operands), *_contents(cells), **dict(params, branches=branches)))


def scan_program(primitive: Primitive, operands: Sequence[Any], places: tuple, cells: list[Cell],
                 params: dict[str, Any]) -> list[Array]:
    """An array among the consts becomes a carry, if it is written; one among the xs a sequence read and a new one."""
    body, num_consts, num_carry = params["jaxpr"], params["num_consts"], params["num_carry"]
    first_x, plain = num_consts + num_carry, len(_values(operands))
    types = {place: v.aval for place, v in zip(places, body.jaxpr.invars, strict=True) if place is not None}
    inner = pure(body, places, tuple(types[i] for i in range(len(cells))))
    of_xs = {place for place in places[first_x:] if place is not None}
    fixed = [i for i, same in enumerate(_unchanged(inner, len(cells))) if same and i not in of_xs]
    carried = [i for i in range(len(cells)) if i not in of_xs and i not in fixed]
    consts, ys = sum(place is None for place in places[:num_consts]), len(body.out_avals)
    groups = (  # in the order of the new loop's operands: consts, carry, xs
        [*range(consts), *(plain + i for i in fixed)],
        [*range(consts, consts + num_carry), *(plain + i for i in carried)],
        [*range(consts + num_carry, plain), *(plain + i for i in sorted(of_xs))])
    outputs = (*range(num_carry), *(ys + i for i in carried), *range(num_carry, ys), *(ys + i for i in sorted(of_xs)))
    order = tuple(i for group in groups for i in group)
    given = [*_values(operands), *_contents(cells)]
    results = primitive.bind(*(given[i] for i in order), **dict(
        params, jaxpr=rearranged(inner, order, outputs), num_consts=len(groups[0]), num_carry=len(groups[1])))
    found = dict(zip(outputs, results, strict=True))
    for i in (*carried, *of_xs):
        cells[i].write(found[ys + i])
    return [found[i] for i in range(ys)]


def while_program(primitive: Primitive, operands: Sequence[Any], places: tuple, cells: list[Cell],
                  params: dict[str, Any]) -> list[Array]:
    """An array that the body writes becomes part of the state; the predicate may read it."""
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    count, types = len(cells), _types(cells)
    predicate = pure(params["cond_jaxpr"], places[:first] + places[second:], types)
    body = pure(params["body_jaxpr"], places[first:], types)
    if not all(_unchanged(predicate, count)):
        raise errors.mutable_operand(str(primitive), "the loop's predicate writes into it", source_line())
    width = len(operands) - second
    fixed = [i for i, same in enumerate(_unchanged(body, count)) if same]
    carried = [i for i in range(count) if i not in fixed]

    def inputs(consts: int) -> tuple[int, ...]:
        contents = consts + width
        return (*range(consts), *(contents + i for i in fixed), *range(consts, contents),
                *(contents + i for i in carried))

    def split(program: Any) -> int:
        return len(program.in_avals) - count - width

    held, written = [cells[i].content for i in fixed], [cells[i] for i in carried]
    values = _values(operands)
    of_cond, of_body = split(predicate), split(body)
    results = primitive.bind(
        *values[:of_cond], *held, *values[of_cond: of_cond + of_body], *held, *values[of_cond + of_body:],
        *_contents(written), cond_nconsts=of_cond + len(held), body_nconsts=of_body + len(held),
        cond_jaxpr=rearranged(predicate, inputs(of_cond), (0,)),
        body_jaxpr=rearranged(body, inputs(of_body), (*range(width), *(width + i for i in carried))))
    return update(written, results)


def custom_program(primitive: Primitive, operands: Sequence[Any], _places: tuple, cells: list[Cell],
                   params: dict[str, Any]) -> list[Array]:
    """A user's own rule sees a mutable array: one that exists for the time of the call."""
    made = [private.new_ref_p.bind(cell.content, memory_space=None, kind=cell.aval.kind) for cell in cells]
    replaced = [made[cells.index(v)] if isinstance(v, Cell) else v for v in operands]
    results = primitive.bind(*replaced, **primitive.get_bind_params(params))
    for cell, reference in zip(cells, made, strict=True):
        cell.write(private.freeze_p.bind(reference))
    return list(results)


def _foreign_program(primitive: Primitive, operands: Sequence[Any], _places: tuple, _cells: list[Cell],
                     params: dict[str, Any]) -> list[Array]:
    """Anything else, as JAX itself runs it on the contents: `shard_map`, `run_state`."""
    contents = [operand.content if isinstance(operand, Cell) else operand for operand in operands]
    avals = list(map(aval_of, operands))
    rule = _compat.discharge_rules.get(primitive)
    if rule is None:
        raise errors.mutable_operand(str(primitive), "JAX cannot run it on the content", source_line())
    changed, results = rule(avals, None, *contents, **params)  # type: ignore[arg-type]  # the types stay
    for operand, content in zip(operands, changed, strict=True):
        if isinstance(operand, Cell) and content is not None:
            operand.write(content)
    return list(results) if primitive.multiple_results else [results]


_PROGRAMS: dict[Primitive, Callable[..., list[Array]]] = {
    p.jit_p: jit_program, p.remat_p: remat_program, p.cond_p: cond_program, p.scan_p: scan_program,
    p.while_p: while_program, p.closed_call_p: inline_program, p.call_p: inline_program,
    private.eval_jaxpr_p: inline_program, **dict.fromkeys(CUSTOM, custom_program),
}


def source_line() -> str:
    """Where the user's program is."""
    return _compat.source_line(_compat.current_source())
