"""What `find_nonfinite` proposes is pasted into the user's line, and then value and gradient are finite."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import funcgrad
from funcgrad.inspection import Nonfinite

MASK = jnp.array([[True, False, False], [False, False, False], [True, True, True]])

#: The line that is to blame, in a function of x and y, and arguments where it fails; then operation and index.
LINES: dict[str, tuple[str, Any, Any, str, tuple[int, ...]]] = {
    "a masked row of attention": (
        "scores = jnp.where(y, x, -jnp.inf)\n    weights = jax.nn.softmax(scores)\n"
        "    out = jnp.where(y.any(-1, keepdims=True), weights @ x, 0.0)",
        jnp.ones((3, 3)), MASK, "sub", (1, 0)),
    "a norm in vmap in scan": (
        "out = jax.lax.scan(lambda c, r: (c, jax.vmap(lambda row: jnp.linalg.norm(row))(r)), 0.0, x)[1]",
        jnp.ones((4, 3, 2)).at[2, 1].set(0.0), 1.0, "sqrt", (1,)),
    "a negative base": ("out = x ** y", jnp.array([1.0, -2.0, 3.0]), 1.5, "pow", (1,)),
    "zero to a negative power": ("out = x ** y", jnp.array([1.0, 0.0, 3.0]), -1.0, "pow", (1,)),
    "a branch that divides": (
        "out = jax.lax.cond(y == 0, lambda a: a / y, lambda a: a * y, x)", jnp.ones(2), 0.0, "div", (0,)),
    "the angle of one direction": ("out = jnp.arccos(jnp.dot(x, y))", jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]),
                                   "acos", ()),
    "the cosine of zero": ("out = jnp.vdot(x, y) / (jnp.linalg.norm(x) * jnp.linalg.norm(y))", jnp.zeros(3),
                           jnp.ones(3), "div", ()),
    "a constant batch": ("out = (x - x.mean(0)) / x.std(0)", jnp.ones((4, 3)), 1.0, "div", (0, 0)),
    "a mean of nothing": (
        "out = jnp.where(y.any(-1), (x * y).sum(-1) / y.sum(-1), 0.0)", jnp.ones((3, 3)), MASK, "div", (1,)),
    "entropy": ("out = x * jnp.log(x)", jnp.array([0.5, 0.5, 0.0]), 1.0, "log", (2,)),
    "a loop that explodes": (
        "out = jax.lax.while_loop(lambda s: s[0] < 6, lambda s: (s[0] + 1, jnp.exp(s[1])), (0, x))[1]", 1.0, 1.0,
        "exp", ()),
    "a logarithm in a batch of loops": (
        "out = jax.vmap(lambda x: jax.lax.fori_loop(0, 5, lambda i, s: s + jnp.log(x - i), 0.0))(x)",
        jnp.array([10.0, 3.0, 20.0]), 1.0, "log", (1,)),
}  # fmt: skip


def loaded(folder: Path, name: str, body: str) -> Callable[..., Any]:
    """The function whose lines are `body`, from a file of its own, so that its lines can be read."""
    file = folder / f"{name}.py"
    file.write_text("import jax\nimport jax.numpy as jnp\n\ntiny = 1e-3\n\n\ndef loss(x, y):\n"
                    f"    {body}\n    return jnp.sum(out)\n")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.loss


def pasted(body: str, report: Nonfinite) -> str:
    """The lines with the first mend in them."""
    assert report.place is not None
    mend, line = report.mends[0], report.place.code
    written = re.search(r"write `(.*?)`(,|\.\n)", mend)
    if written is not None:
        assert report.place.expression in body
        return body.replace(report.place.expression, written[1])
    _, safe, new, now = mend.split("\n")
    assert safe.startswith("safe = ") and now == f"now:  {line}"
    old = re.search(r"jnp\.where\(.*\)" if new.startswith("jnp.where") else re.escape(report.place.expression), line)
    assert old is not None
    return body.replace(line, f"{safe}\n    {line.replace(old[0], new)}")


#: Programs with loops, which take the longest.
LOOPS = {name for name, (body, *_) in LINES.items() if "jax.lax." in body}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LOOPS else name
                                  for name in LINES])
def test_a_mend_works_when_it_is_pasted(name: str, tmp_path: Path) -> None:
    body, x, y, operation, index = LINES[name]
    report = funcgrad.find_nonfinite(loaded(tmp_path, "broken", body), x, y)
    assert report.place is not None and (report.place.operation, report.place.index) == (operation, index)
    mended = pasted(body, report)
    assert mended != body
    after = funcgrad.find_nonfinite(loaded(tmp_path, "mended", mended), x, y)
    assert after.ok, after


def test_a_power_is_explained_by_its_base() -> None:
    for base, why in ((-2.0, "not whole is NaN"), (0.0, "negative power is infinite")):
        assert why in funcgrad.find_nonfinite(lambda x: x ** -0.5, base).mends[0]
    assert "no finite slope at 0" in funcgrad.find_nonfinite(lambda x: x ** 0.5, 0.0).mends[0]
