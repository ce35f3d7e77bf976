"""Wrong gradients of `jax.grad` in the installed version that are in no issue we know of: programs, values, truth.

`page` runs every program and writes `docs/findings.md`. Kinks and ties are not here, nor are the seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad.transforms import grad as our_grad

INF = np.inf


@jax.custom_jvp
def sine(x: Any) -> Any:
    """A sine that only its rule can differentiate, as iterations until convergence are."""
    return lax.stop_gradient(jnp.sin(x))


sine.defjvp(lambda primals, tangents: (sine(*primals), jnp.cos(primals[0]) * tangents[0]))

SCOPE = {"jax": jax, "jnp": jnp, "lax": lax, "np": np, "inf": INF, "sine": sine}

AFFINE = ("lambda a, b: sum(lax.reduce((a, b), (np.float32(1), np.float32(0)), "
          "lambda f, g: (f[0] * g[0], f[1] * g[0] + g[1]), (0,)))")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One confirmed wrong or inaccurate gradient of JAX.

    Attributes:
      title: what it is about.
      program: a function as a Python expression.
      args: its arguments as Python expressions; all are differentiated.
      truth: the gradient, one entry for each argument.
      how: how the truth is known.
      kind: "wrong", "NaN" or "inaccurate".
      holomorphic: whether the function is differentiated as a complex one.
      smooth: whether differences in double precision confirm the truth.
      order: 2 for the gradient of the gradient.
      before: what the program needs, for the page.
    """

    title: str
    program: str
    args: tuple[str, ...]
    truth: tuple[Any, ...]
    how: str
    kind: str = "wrong"
    holomorphic: bool = False
    smooth: bool = True
    order: int = 1
    before: str = ""

    def fun(self) -> Callable[..., Any]:
        """The function, its outputs summed."""
        inner = eval(self.program, SCOPE)
        return lambda *args: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(inner(*args)))

    def values(self) -> list[np.ndarray]:
        """The arguments."""
        return [np.asarray(eval(text, SCOPE)) for text in self.args]

    def gradient(self, grad: Callable[..., Any]) -> list[np.ndarray]:
        """The gradient by this ``grad``."""
        numbers, fun = tuple(range(len(self.args))), self.fun()
        if self.order == 2:
            first = grad(fun)
            fun = lambda x: jnp.sum(first(x))  # noqa: E731
        found = grad(fun, argnums=numbers, holomorphic=self.holomorphic)(*map(jnp.asarray, self.values()))
        return [np.asarray(leaf) for leaf in found]

    def right(self, found: list[np.ndarray], rtol: float = 1e-3) -> bool:
        """Whether a gradient is the truth, to a thousandth."""
        def close(given: np.ndarray, wanted: np.ndarray) -> bool:
            with np.errstate(invalid="ignore"):
                return bool(np.all((given == wanted) | (np.abs(given - wanted) <= rtol * np.abs(wanted))))

        return all(close(given.astype(complex), np.asarray(wanted, complex)) for given, wanted in zip(
            found, self.truth, strict=True))


SINE = """@jax.custom_jvp
def sine(x):
    return lax.stop_gradient(jnp.sin(x))

sine.defjvp(lambda primals, tangents: (sine(*primals), jnp.cos(primals[0]) * tangents[0]))
"""

FINDINGS: tuple[Finding, ...] = (
    Finding("a custom_jvp rule in a loop, order 2: jax.grad(jax.grad(fun))",
            "lambda x: lax.scan(lambda c, _: (sine(c), None), x, None, length=2)[0]", ("np.float32(0.3)",),
            (-0.548514,), "the second derivative of sin(sin(x)); forward mode over reverse mode in JAX has it too low, "
            "reverse over forward is right. In the loop the inner gradient forgets that the rule is one", order=2,
            before=SINE),
    Finding("arccosh in the left half-plane", "jnp.arccosh", ("np.complex64(-1.5+0.5j)",),
            (-0.6566554 - 0.3514313j,), "1 / (sqrt(z - 1) sqrt(z + 1)), and differences; JAX has the other sign",
            holomorphic=True),
    Finding("the sign of a complex number", "lambda z: jnp.imag(jnp.sign(z))", ("np.complex64(3+4j)",),
            (-0.096 - 0.072j,), "sign(z) = z / |z|, whose imaginary part is y / |z|; JAX's rule is zero"),
    Finding("an index beyond the end", "lambda x: x[np.array([5, -9])]", ("np.float32([1, 2, 3])",), ([1, 0, 1],),
            "the values read are x[2] and x[0]: without a mode, indices are clamped"),
    Finding("a product with an initial value", "lambda x: lax.reduce(x, np.float32(2), lax.mul, (0,))",
            ("np.float32([1, 2, 3, 4])",), ([48, 24, 16, 12],), "the value is 48, 2 times the product"),
    Finding("a reduction that does not commute", AFFINE, ("np.float32([2, 3, 5])", "np.float32([7, 11, 13])"),
            ([15, 45, 38], [15, 5, 1]), "the value is 2 * 3 * 5 + (7 * 3 + 11) * 5 + 13; JAX combines halves, in "
            "another order"),
    Finding("clamp, with its lower bound above the upper one", "lambda low, x, high: lax.clamp(low, x, high)",
            ("np.float32([2.])", "np.float32([0.])", "np.float32([1.])"), ([0], [0], [1]),
            "the value is the upper bound, whatever x is"),
    Finding("the padding beside large cotangents", "lambda x, v: lax.pad(x, v, ((1, 0, 0),)) @ "
            "np.float32([1, 1e8, -3e8, 1e8])", ("np.float32([1, 1, 1])", "np.float32(1)"), ([1e8, -3e8, 1e8], 1),
            "the one element of padding has the weight 1; JAX subtracts two sums",
            smooth=False),
    Finding("the root of a distance to the maximum", "lambda x: jnp.sqrt(jnp.max(x) - 2.5)",
            ("np.float32([1, 2, 2.5])",), ([0, 0, INF],),
            "the others have no influence; JAX gives them 0 * inf", kind="NaN", smooth=False),
    Finding("cumlogsumexp after an infinite term", "lax.cumlogsumexp", ("np.float32([0, inf, 1])",), ([1, 2, 0],),
            "sums 0, inf, inf: the first term's slope is 1 + 0 + 0, the infinite one's 0 + 1 + 1", smooth=False),
    Finding("the remainder where the quotient rounds up", "lambda y: lax.rem(np.float32(1), y)",
            ("np.float32(0.1)",), (-9,), "the remainder is 1 - 9 y = 0.09999999; JAX takes 1 / y, which rounds to 10",
            smooth=False),
    Finding("igamma at zero", "lambda x: lax.igamma(np.float32(1), x)", ("np.float32(0)",), (1,),
            "igamma(1, x) = 1 - exp(-x)", kind="NaN", smooth=False),
    Finding("betainc at its ends", "lambda x: lax.betainc(np.float32([1, 2]), np.float32([2, 1]), x)",
            ("np.float32([0, 1])",), ([2, 2],), "1 - (1 - x)**2 and x**2", kind="NaN", smooth=False),
    Finding("arctan2 of tiny half precision numbers", "jnp.arctan2", ("np.float16([6.1035e-05, 0])",
            "np.float16([0, 6.1035e-05])"), ([0, 16384], [-16384, 0]), "x / (x**2 + y**2); JAX's squares vanish",
            kind="NaN", smooth=False),
    Finding("standardize in half precision", "jax.nn.standardize", ("np.float16([2.])",), ([0],),
            "one number minus its mean is 0 for every number; a factor in JAX's rule overflows (found by the fuzzer)",
            kind="NaN", smooth=False),
    Finding("a quotient's second derivative in half precision", "lambda x: 1 / (1 + x ** -2)", ("np.float16([0.14])",),
            ([1.775871],), "(2 - 6 x**2) / (1 + x**2)**3; JAX's rule holds the third power of the denominator, which "
            "exceeds 65504 (found by the fuzzer)", order=2, smooth=False),
    Finding("vectors by eigh of one triangle",
            "lambda a: lax.linalg.eigh(a, symmetrize_input=False)[0][0, 0] ** 2", ("np.float32([[1, 9], [0.5, 3]])",),
            ([[-0.04472136, 0], [-0.17888544, 0.04472136]],), "differences: the upper triangle is never read"),
)


def confirmed() -> list[tuple[Finding, list[np.ndarray], list[np.ndarray]]]:
    """The findings that the installed JAX still shows, with its gradient and funcgrad's."""
    with jax.enable_x64(False):
        found = [(entry, entry.gradient(jax.grad), entry.gradient(our_grad)) for entry in FINDINGS]
    return [row for row in found if not row[0].right(row[1])]


def page() -> str:
    """The page of findings, as Markdown."""
    rows = confirmed()
    lines = ["# Findings: wrong gradients of `jax.grad`", "",
             "Written by `python -m funcgrad.crosscheck.fuzz.findings` from running the programs; do not edit.", "",
             f"{len(rows)} gradients of `jax.grad` in JAX {jax.__version__} are confirmed to be wrong or inaccurate. "
             "They were found by the fuzzer", "(`python -m funcgrad fuzz`), or when rules were compared with JAX's on "
             "the case table. Conventions at ties and kinks", "([conventions.md](conventions.md)) are not among them, "
             "nor are faults known from issues ([seeds.md](seeds.md)).", "",
             "Gradients are those of the sum of what the program returns.", ""]
    for entry, theirs, ours in rows:
        lines += [f"## {entry.title[0].upper()}{entry.title[1:]}", "", "```python",
                  *entry.before.splitlines(), f"fun = {entry.program}", f"args = ({', '.join(entry.args)},)", "```", "",
                  f"| | {' | '.join(f'argument {i}' for i in range(len(entry.args)))} |",
                  "|---|" + "---|" * len(entry.args)]
        for name, values in (("JAX", theirs), ("funcgrad", ours), ("truth", entry.truth)):
            lines.append(f"| {name} | {' | '.join(_shown(np.asarray(value)) for value in values)} |")
        lines += ["", f"{entry.kind[0].upper()}{entry.kind[1:]}. Known by: {entry.how}.", ""]
    return "\n".join(lines)


def _shown(array: np.ndarray) -> str:
    if array.ndim:
        return "[" + ", ".join(map(_shown, array)) + "]"
    value = array.item()
    return f"{value:.6g}" if not isinstance(value, complex) else f"{value.real:.4g}{value.imag:+.4g}i"


if __name__ == "__main__":
    from pathlib import Path

    Path("docs/findings.md").write_text(page(), encoding="utf-8")
