"""Random programs: data that prints as it runs, all families, deterministic, and failures that become small."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.crosscheck.fuzz.compare import compare
from funcgrad.crosscheck.programs import Function, Program, Statement, Value, Variable, programs, random_program
from funcgrad.crosscheck.programs.operations import FAMILIES
from funcgrad.crosscheck.programs.reduce import reduced, trace_values

X, Y = Variable(0, "float32", (3,)), Variable(1, "float32", (3,))
Z = Variable(2, "float32", ())
SMALL = Program(
    Function((X,), (Statement("sin", "jnp.sin({0})", (X,), (Y,)), Statement("sum", "jnp.sum({0})", (Y,), (Z,))), (Z,)),
    (Value("float32", (3,), (0.5, -1.0, 2.0)),), (Value("float32", (), (1.0,)),))


def same(first: Any, second: Any) -> None:
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_program_is_data_that_prints_as_python() -> None:
    assert str(SMALL) == "def program(v0):\n    v1 = jnp.sin(v0)\n    v2 = jnp.sum(v1)\n    return v2"
    assert hash(SMALL) == hash(dataclasses.replace(SMALL)) and SMALL == dataclasses.replace(SMALL)
    assert "jnp.array([0.5, -1.0, 2.0], 'float32')" in repr(SMALL)
    np.testing.assert_allclose(SMALL.callable()(*SMALL.args()), np.sum(np.sin([0.5, -1, 2])), rtol=1e-6)


def test_values_come_back_as_they_were() -> None:
    for array in (np.float32([0.1, -0.0, np.inf]), np.complex64(1 - 2j), np.zeros((0, 2), np.float32),
                  np.array([True, False]), jnp.array([1.5, -2.0], "bfloat16"), np.int32([[1], [2]])):
        value = Value.of(array)
        same(eval(value.source(), {"jnp": jnp}), jnp.asarray(array))
        same(value.array(), jnp.asarray(array))
    assert "jnp.nan" in Value("float32", (), (float("nan"),)).source()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_makes_programs_that_run_as_they_print(family: str) -> None:
    program = random_program([7, len(family)], statements=2, families=[family], dtypes=["float32"])
    scope: dict[str, Any] = {}
    text = "\n".join(line for line in program.script().splitlines() if "config.update" not in line)
    exec(compile(text, "script", "exec"), scope)  # its `if __name__` part does not run here
    out = program.callable()(*program.args())
    same(scope["program"](*scope["args"]), out)
    leaves = jax.tree.leaves(out)
    assert [(leaf.shape, str(leaf.dtype)) for leaf in leaves] == [(v.shape, v.dtype) for v in program.function.outputs]
    assert [ct.shape for ct in program.cotangents] == [leaf.shape for leaf in leaves]


def test_equal_seeds_give_equal_programs() -> None:
    first, again, other = (random_program(seed, families=["shape", "elementwise"], dtypes=["float32"])
                           for seed in (3, 3, 4))
    assert first == again and first != other


def test_unknown_families_are_told() -> None:
    with pytest.raises(ValueError, match="no such family: nonsense"):
        random_program(0, families=["nonsense"])


def test_trimming_drops_what_no_output_needs() -> None:
    cut = dataclasses.replace(SMALL, function=dataclasses.replace(SMALL.function, outputs=(Y,))).trimmed()
    assert cut.function.ops() == ["sin"]
    assert set(trace_values(SMALL)) == {Y, Z}


def wrong_vjp(fun: Any, *args: Any) -> Any:
    """A vjp that is wrong by a hundredth."""
    out, pull = funcgrad.vjp(fun, *args)
    return out, lambda ct: jax.tree.map(lambda leaf: leaf * leaf.dtype.type(1.01), pull(ct))


def test_a_failure_becomes_one_line() -> None:
    a, b, c = (Variable(i, "float32", (3,)) for i in (3, 4, 5))
    long = Program(
        Function((X,), (Statement("cos", "jnp.cos({0})", (X,), (a,)), Statement("sin", "jnp.sin({0})", (a,), (b,)),
                        Statement("mul", "{0} * {1}", (b, a), (c,)), Statement("sum", "jnp.sum({0})", (c,), (Z,))),
                 (Z,)), SMALL.values, SMALL.cotangents)

    def fails(program: Program) -> bool:
        return "jnp.sin" in str(program) and compare(program, ours=wrong_vjp) is not None

    assert compare(long) is None and fails(long)
    small = reduced(long, fails)
    assert small.function.ops() == ["sin"] and fails(small)


def test_a_failure_inside_a_loop_becomes_the_body_at_one_row() -> None:
    row, root, twice, inner = (Variable(n, "float32", ()) for n in (3, 4, 5, 6))
    body = Function((row,), (Statement("root", "jnp.sqrt({0})", (row,), (root,)),
                             Statement("unread", "2 * {0}", (row,), (twice,)),
                             Statement("sin", "jnp.sin({0})", (root,), (inner,))), (inner,))
    mapped = Statement("map", "lax.map({f0}, {0})", (X,), (Y,), (body,))
    program = Program(Function((X,), (mapped,), (Y,)), (Value("float32", (3,), (4.0, 0.0, 1.0)),),
                      (Value("float32", (3,), (1.0, 1.0, 1.0)),))

    def fails(candidate: Program) -> bool:  # the slope of a root is infinite at 0, which is in the second row
        return not np.isfinite(jax.vjp(candidate.callable(), *candidate.args())[1](candidate.cts())[0]).all()

    small = reduced(program, fails)
    assert fails(program) and fails(small)
    assert small.function.ops() == ["root"] and small.values == (Value("float32", (), (0.0,)),)


@pytest.mark.slow
def test_hypothesis_shrinks_to_one_statement() -> None:
    from hypothesis import HealthCheck, find, settings

    found = find(programs(families=["elementwise"], dtypes=["float32"]), lambda program: "jnp.abs" in str(program),
                 settings=settings(max_examples=2000, deadline=None, database=None,
                                   suppress_health_check=list(HealthCheck)))
    assert len(found.function.statements) <= 2
