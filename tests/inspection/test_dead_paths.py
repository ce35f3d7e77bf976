"""Which inputs have no gradient, which operation cut the path, and at which line."""

import doctest
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import funcgrad
from funcgrad.inspection import DeadPaths
from funcgrad.inspection.dead_paths import describe_mask

X = np.array([1.0, -2.0, 3.0], np.float32)


def cuts(report: DeadPaths, name: str) -> set[str]:
    (leaf,) = (leaf for leaf in report.leaves if leaf.name == name)
    return {cut.operation for cut in leaf.cuts}


def dead(report: DeadPaths) -> dict[str, int]:
    return {leaf.name: leaf.dead for leaf in report.dead}


# function, arguments, dead elements of each input, the operations that cut the paths of the first, a word of the reason
WAYS_TO_CUT: dict[str, tuple[Callable[..., Any], tuple, dict[str, int], set[str], str]] = {
    "integer cast": (lambda x: jnp.sum(x.astype(jnp.int32) * 2.0), (X,), {"x": 3}, {"convert_element_type"}, "int32"),
    "round": (lambda x: jnp.sum(jnp.round(x)), (X,), {"x": 3}, {"round"}, "constant almost everywhere"),
    "floor": (lambda x: jnp.sum(jnp.floor(x)), (X,), {"x": 3}, {"floor"}, "constant almost everywhere"),
    "sign": (lambda x: jnp.sum(jnp.sign(x)), (X,), {"x": 3}, {"sign"}, "constant almost everywhere"),
    "comparison": (lambda x: jnp.sum(jnp.where(x > 0, 1.0, 0.0)), (X,), {"x": 3}, {"gt"}, "comparison"),
    "argmax": (lambda x, y: y[jnp.argmax(x)], (X, X), {"x": 3, "y": 2}, {"argmax"}, "index"),
    "stop_gradient": (lambda x: jnp.sum(lax.stop_gradient(x) * 2), (X,), {"x": 3}, {"stop_gradient"}, "says so"),
    "zero factor": (lambda x: jnp.sum(x * jnp.array([0.0, 1.0, 0.0])), (X,), {"x": 2}, {"mul"}, "multiplied with is 0"),
    "zero matrix": (lambda x: jnp.sum(x @ jnp.zeros((3, 2))), (X,), {"x": 3}, {"dot_general"}, "multiplied with is 0"),
    "saturated": (lambda x: jnp.sum(jax.nn.sigmoid(100 * x)), (X,), {"x": 3}, {"logistic"}, "slope is 0"),
    "relu": (lambda x: jnp.sum(jax.nn.relu(x)), (X,), {"x": 1}, {"relu"}, "does not fire"),
    "max": (lambda x: jnp.max(x), (X,), {"x": 2}, {"reduce_max"}, "another number is chosen"),
    "clip": (lambda x: jnp.sum(jnp.clip(x, -1.5, 2.0)), (X,), {"x": 2}, {"max", "min"}, "another number is chosen"),
    "index": (lambda x: x[1] * 2, (X,), {"x": 2}, {"slice"}, "not taken"),
    "where": (lambda x, y: jnp.sum(jnp.where(jnp.array([True, False, True]), x, 0.0)) + y, (X, 1.0), {"x": 1},
              {"select_n"}, "not chosen"),
    "untaken branch": (lambda x, y: lax.cond(x[0] > 0, lambda x, y: x.sum(), lambda x, y: y.sum(), x, y), (X, X),
                       {"y": 3}, {"cond"}, "branch 1, taken here"),
    "not read": (lambda x, y: jnp.sum(x), (X, X), {"y": 3}, {"nothing"}, "no operation reads it"),
    "result not used": (lambda x: (jnp.sin(x), jnp.zeros(()))[1], (X,), {"x": 3}, {"sin"}, "not used"),
    "cancels": (lambda x: jnp.sum(x - x), (X,), {"x": 3}, {"sub"}, "cancel"),
    "only integers returned": (lambda x: x.astype(jnp.int32), (X,), {"x": 3}, {"convert_element_type"}, "int32"),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS_TO_CUT)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "jit"])
def test_what_cuts_is_named(name: str, compiled: bool) -> None:
    function, args, expected, operations, reason = WAYS_TO_CUT[name]
    report = funcgrad.dead_paths(jax.jit(function) if compiled else function, *args)
    assert dead(report) == expected and not report.ok
    first = next(iter(expected))
    if not (compiled and name in ("not read", "result not used")):  # `jit` itself drops what nobody reads
        assert cuts(report, first) == operations
        assert any(reason in cut.because for cut in report.dead[0].cuts)
    if name != "not read":
        assert all(cut.place.startswith("test_dead_paths.py:") for cut in report.dead[0].cuts)


def test_cuts_inside_compiled_functions_are_seen() -> None:
    report = funcgrad.dead_paths(jax.jit(lambda x, y: jnp.sum(jax.nn.relu(x)) + jnp.sum(jnp.round(y) * x)), X, X)
    (leaf,) = report.dead
    assert leaf.name == "y" and leaf.cuts[0].operation == "round" and leaf.cuts[0].inside[0].what == "jit"


def test_a_gradient_everywhere_is_told_in_one_line() -> None:
    report = funcgrad.dead_paths(lambda x, y: jnp.sum(jnp.sin(x) * y), X, X)
    assert report.ok and not report.dead
    assert str(report) == "`λ`: every element of every input has a gradient."


def test_units_that_never_fire_are_named_by_their_columns() -> None:
    def network(params: dict[str, Any], x: Any) -> Any:
        hidden = jax.nn.relu(x @ params["w"] + params["b"])
        return jnp.sum(hidden @ params["v"])

    bias = np.zeros(5, np.float32)
    bias[[1, 4]] = -100
    params = {"w": np.ones((3, 5), np.float32), "b": bias, "v": np.ones((5, 2), np.float32)}
    report = funcgrad.dead_paths(network, params, np.ones((4, 3), np.float32))
    where = {leaf.name: leaf.where for leaf in report.dead}
    assert where == {"params.b": "[1], [4]", "params.v": "[1, :], [4, :]", "params.w": "[:, 1], [:, 4]"}
    assert cuts(report, "params.w") == cuts(report, "params.b") == {"relu"}
    assert cuts(report, "params.v") == {"dot_general"}
    text = str(report)
    assert "6 of 15: [:, 1], [:, 4]" in text and "it does not fire" in text and "network" in text


def test_a_cut_far_behind_is_found_through_other_operations() -> None:
    def f(x: Any) -> Any:
        y = jnp.sin(x) * 2 + 1
        z = jnp.reshape(y[::-1] * jnp.array([1.0, 1.0, 0.5]), (3, 1))
        return jnp.sum(jnp.round(z))

    report = funcgrad.dead_paths(f, X)
    assert cuts(report, "x") == {"round"} and dead(report) == {"x": 3}


def test_several_paths_give_several_cuts() -> None:
    report = funcgrad.dead_paths(lambda x: jnp.sum(jnp.floor(x)) + jnp.argmin(x) + jnp.sum(x > 0), X)
    assert cuts(report, "x") == {"floor", "argmin", "gt"}


def test_loops() -> None:
    def scanned(w: Any, xs: Any) -> Any:
        return lax.scan(lambda c, x: (c + jnp.sum(jnp.floor(x) * w), None), 0.0, xs)[0]

    report = funcgrad.dead_paths(scanned, X, np.ones((4, 3), np.float32))
    assert dead(report) == {"xs": 12} and cuts(report, "xs") == {"floor"}
    report = funcgrad.dead_paths(lambda w, xs: scanned(xs[0], w * xs), X, np.zeros((4, 3), np.float32))
    assert cuts(report, "w") == {"mul"}

    def repeated(x: Any, y: Any) -> Any:
        return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] + jnp.round(x) * y), (0, 0 * x))[1].sum()

    report = funcgrad.dead_paths(repeated, X, X)
    assert cuts(report, "x") >= {"round"}


def test_integers_and_keys_have_none() -> None:
    report = funcgrad.dead_paths(lambda x, n: jnp.sum(x) * n, X, 3)
    (leaf,) = report.dead
    assert leaf.name == "n" and "no gradient" in leaf.cuts[0].because


def test_the_report_travels() -> None:
    report = funcgrad.dead_paths(lambda x: jnp.sum(jnp.round(x)), X)
    told = json.loads(report.to_json())
    assert told["leaves"][0]["cuts"][0]["operation"] == "round" and not told["ok"]
    with pytest.raises(AttributeError):
        report.function = "other"  # type: ignore[misc]


def test_tracers_are_refused_with_advice() -> None:
    with pytest.raises(TypeError, match="outside `jit`"):
        jax.jit(lambda x: funcgrad.dead_paths(jnp.sum, x))(X)


def test_inside_a_gradient_the_numbers_are_looked_at() -> None:
    found = []

    def loss(x: Any) -> Any:
        found.append(funcgrad.dead_paths(lambda a: jnp.sum(jnp.round(a) * x), x))
        return jnp.sum(x)

    funcgrad.grad(loss)(X)
    assert cuts(found[0], "a") == {"round"}


def test_what_is_no_function_is_refused_with_advice() -> None:
    for call in (lambda: funcgrad.dead_paths(jnp.sin(1.0)), lambda: funcgrad.find_nonfinite(jnp.sin(1.0)),
                 lambda: funcgrad.explain(jnp.sin(1.0))):
        with pytest.raises(TypeError, match="Expected a callable value(.|\n)*To fix: give the function itself"):
            call()


def test_a_module_of_a_library_is_told_with_the_line_that_calls_it() -> None:
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    report = funcgrad.dead_paths(lambda layer, x: layer(x).sum(), layer, jnp.zeros((4, 2)))
    kernel = next(leaf for leaf in report.leaves if "kernel" in leaf.name)
    (cut,) = kernel.cuts  # and not the conversion that looks at its type
    assert cut.operation == "dot_general" and "multiplied with is 0" in cut.because
    assert "linear.py" in cut.place and "called at test_dead_paths.py" in cut.place and "layer(x).sum()" in cut.code


def test_functions_with_a_rule_are_called_by_their_name() -> None:
    nothing = jax.custom_vjp(lambda x: x)
    nothing.defvjp(lambda x: (x, None), lambda _, ct: (0 * ct,))
    assert cuts(funcgrad.dead_paths(nothing, X), "x") == {"nothing"}
    assert cuts(funcgrad.dead_paths(lambda x: jax.vmap(jax.nn.relu)(x).sum(), -jnp.ones(3)), "x") == {"relu"}


def test_a_gradient_that_is_nan_is_no_zero_and_is_told() -> None:
    report = funcgrad.dead_paths(lambda x: jnp.sum(jnp.sqrt(x)), jnp.array([-1.0, 1.0]))
    assert report.ok and report.leaves[0].nonfinite == 1
    assert "1 of 2 is NaN or infinite" in str(report) and "find_nonfinite" in str(report)


def test_masks_are_described_as_one_indexes_them() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1] = True
    assert describe_mask(mask) == "[1, :]"
    mask[0, 0] = True
    assert describe_mask(mask) == "[0, 0], [1, 0], [1, 1], [1, 2], [1, 3]"
    assert describe_mask(np.ones((40,), bool)).endswith("…")
    assert describe_mask(np.array(True)) == "[]"


def test_the_page_gives_what_it_says() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "dead_paths.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8")
    assert attempted and not failed
