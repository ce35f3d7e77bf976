"""`explain`: the numbers of both sweeps, checked against what a person writes on a blackboard."""

import io
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad.inspection import Explanation, explain
from funcgrad.inspection.table import path_lines
from funcgrad.transforms import grad
from reference import flax_models
from tests.inspection.pictures import f, twice


def partials(step):
    return [None if edge.partial is None else edge.partial.number for edge in step.edges]


def contributions(step):
    return [None if edge.contribution is None else edge.contribution.number for edge in step.edges]


def test_reads_as_the_blackboard_does() -> None:
    told = explain(f)(2.0, 3.0)
    mul, log, add = told.steps
    assert partials(mul) == [3.0, 2.0] and partials(log) == [0.5] and partials(add) == [1.0, 1.0]
    assert contributions(mul) == [3.0, 2.0]
    assert [told.cotangents[v].number for v in told.graph.inputs] == [3.5, 2.0]
    assert "ct_x += 3.0 · 1.0; ct_y += 2.0 · 1.0" in str(told)
    assert "∂e/∂x = Σ over paths = 1.0 · 3.0 + 1.0 · 0.5 = 3.5" in str(told)


def test_paths_that_share_a_way_are_all_counted() -> None:
    told = explain(twice)(1.0)
    assert [step.names for step in told.steps] == [("b",), ("c",)]  # the user's variables
    assert told.cotangents[0].number == 4.0
    assert len(path_lines(told, 0)) == 1 + 4


def test_more_paths_than_a_page_holds_are_not_enumerated() -> None:
    def many(x):
        for _ in range(40):  # 2 ** 40 paths
            x = x + x
        return x

    told = explain(many)(1.0)
    assert "more than" in path_lines(told, 0)[0]
    assert told.cotangents[0].number == 2.0**40


@pytest.mark.parametrize("name", ["two_layer", pytest.param("lstm", marks=pytest.mark.slow)])
def test_cotangents_of_a_model_are_its_gradient(name: str) -> None:
    loss, params, batch = flax_models.build(name, jax.random.key(0))
    told = explain(lambda params: loss(params, batch))(params)
    norms = [told.cotangents[v].statistics["norm"] for v in told.graph.inputs]
    wanted = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(grad(loss)(params, batch))]
    np.testing.assert_allclose(norms, wanted, rtol=1e-4, atol=1e-6)


def test_programs_inside_the_program_are_told_too() -> None:
    @jax.jit
    def inner(z):
        return jnp.sin(z) * z

    def outer(x):
        y = inner(x)
        return lax.cond(y > 0, lambda a: a * 2, lambda a: a * 3, y)

    told = explain(outer)(2.0)
    jit, *_, cond = told.steps
    assert jit.inner is not None and cond.inner is not None
    assert told.cotangents[0].number == pytest.approx(float(grad(outer)(2.0)))
    assert sum(edge.contribution.number for step in jit.inner.steps for edge in step.edges
               if edge.name == "z") == pytest.approx(told.cotangents[0].number)
    assert "a · 2.0" in str(told)


def test_under_jit_it_knows_types_and_lets_no_tracer_out() -> None:
    found: list[Explanation] = []

    @jax.jit
    def step(x):
        found.append(explain(lambda x: jnp.sum(jnp.sin(x) ** 2))(x))
        return x

    with jax.checking_leaks():
        step(jnp.ones(3))
    assert "float32[3]" in str(found[0])
    assert "∂" in str(found[0])
    assert found[0].draw().svg


def test_inside_scan_and_vmap() -> None:
    found = []

    def body(carry, x):
        found.append(str(explain(lambda x: jnp.tanh(x) * 2)(x)))
        return carry, x

    lax.scan(body, 0.0, jnp.ones(3))
    jax.vmap(lambda x: body(0.0, x)[1])(jnp.ones(3))
    assert all("tanh" in text for text in found) and len(found) == 2


def test_json_holds_everything_and_has_no_nan() -> None:
    told = explain(lambda x: jnp.sqrt(x) * 0.0)(jnp.array([0.0, 1.0]))
    parsed = json.loads(told.to_json(), parse_constant=pytest.fail)
    assert parsed["inputs"][0]["name"] == "x"
    assert parsed["inputs"][0]["cotangent"]["nonfinite"] == 1
    assert [step["operation"] for step in parsed["steps"]] == ["sqrt", "mul"]
    assert "test_explain.py" in parsed["steps"][0]["line"]


def test_renders_for_rich_and_notebooks() -> None:
    console = pytest.importorskip("rich.console").Console(width=120, record=True, file=io.StringIO())
    told = explain(f)(2.0, 3.0)
    console.print(told)
    assert "ct_x += 3.0 · 1.0" in console.export_text()
    assert "<table>" in told._repr_html_() and "ct_y += 2.0 · 1.0" in told._repr_html_()


def test_prints_without_rich() -> None:
    program = ("import sys; sys.modules['rich'] = None\n"
               "from funcgrad.inspection import explain\nexplain(lambda x: x * x)(3.0).print()")
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "ct_x += 3.0 · 1.0" in printed


def test_empty_and_complex_arrays_and_constants_are_told() -> None:
    told = str(explain(lambda x: jnp.sum(x) * 2)(jnp.zeros((0, 3))))
    assert "x = float32[0,3], empty" in told and "nan" not in told
    assert "(1-2j) · (1+0j)" in str(explain(lambda z: (z * z.conj()).real)(1 + 2j))
    assert "all 8 not finite" in str(explain(lambda x: x * 2)(jnp.full(8, jnp.nan)))
    scale = jnp.array([2.0, 3.0])
    assert str(explain(lambda x: jnp.sum(x * scale))(4.0)).startswith("λ(x = 4.0), where c = [2.0 3.0]\n")
    assert "x > 0.0" in str(explain(lambda x: x > 0.0)(1.0))


def test_integers_keyword_arguments_and_unused_inputs() -> None:
    told = explain(lambda x, n, unused, power=2: x**power + n)(2.0, 3, 1.0, power=3)
    assert told.cotangents[0].number == 12.0
    assert told.cotangents[1] is None and told.cotangents[2] is None
    assert "ct_unused = 0, no path" in str(told)


def test_what_has_nothing_to_differentiate_says_so() -> None:
    assert "ct_x: none, integers" in str(explain(lambda x: x * 2.0)(3))
    for told in (explain(lambda x: x * 2.0)(x=1.0), explain(lambda: 3.0)()):
        assert "nothing to differentiate: keyword arguments" in str(told)
    with pytest.raises(TypeError, match=r"To fix: give the arguments to its result, funcgrad.explain\(f\)\(x\)"):
        explain(jnp.sin, 1.0)


def test_import_funcgrad_imports_nothing_of_it() -> None:
    program = "import sys, funcgrad; assert not any(m.startswith('funcgrad.inspection') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_function_with_a_rule_of_its_own_is_called_by_its_name_wherever_it_stands() -> None:
    def layers(x: jax.Array) -> jax.Array:
        for layer in (jnp.sin, jax.nn.relu):
            x = layer(x)
        return x

    assert [step.operation for step in explain(layers)(1.0).steps] == ["sin", "relu"]
    compiled = explain(jax.jit(layers))(1.0).steps[0].inner
    assert compiled is not None and [step.operation for step in compiled.steps] == ["sin", "relu"]


def test_operations_inside_a_librarys_jit_have_the_line_of_its_call() -> None:
    def called_here(x: jax.Array) -> jax.Array:
        return jax.nn.silu(x)

    inner = explain(called_here)(1.0).steps[0].inner
    assert inner is not None and all("called_here" in step.line for step in inner.steps)
