"""Differences from JAX that are understood: where they occur, and what is known of them.

An entry explains a difference only of a program that was reduced to the operation it speaks of. `docs/conventions.md`
holds the proofs, `docs/findings.md` what is wrong in JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax

from funcgrad.crosscheck.fuzz.compare import Difference, compare
from funcgrad.crosscheck.programs.data import Program


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Attributes:
      name: short, for counts.
      holds: whether it explains a difference of a reduced program.
      why: one sentence.
      where: the page that proves it.
    """

    name: str
    holds: Callable[[Program, Difference], bool]
    why: str
    where: str


def only(*words: str, kinds: tuple[str, ...] = ("values", "nonfinite")) -> Callable[[Program, Difference], bool]:
    """Whether the program is one statement whose expression holds one of these words."""

    def holds(program: Program, difference: Difference) -> bool:
        statements = program.function.statements
        return (difference.kind in kinds and len(statements) == 1
                and any(word in statements[0].template for word in words))

    return holds


def zero_to_the_zero(program: Program, difference: Difference) -> bool:
    """JAX multiplies 0 by an infinite logarithm or reciprocal where a base is zero."""
    return only("**", "power", kinds=("nonfinite",))(program, difference) and math.isfinite(abs(difference.ours))


def refuses(program: Program, difference: Difference) -> bool:
    """JAX raises because a rule is missing."""
    del program
    words = ("not implemented", "NotImplementedError", "Linearization failed", "select cases must have the same shapes")
    return difference.kind == "jax raises" and any(word in difference.theirs for word in words)


def beside_the_extremum(program: Program, difference: Difference) -> bool:
    """JAX gives an infinite cotangent to all elements that a maximum is taken of, times 0 or 1."""
    read = difference.where.removeprefix("cotangent of ").split("[")[0]
    return difference.kind == "nonfinite" and difference.ours == 0 and any(
        statement.template.startswith(("jnp.max(", "jnp.min(")) and read in (v.name for v in statement.operands)
        for statement in program.function.statements)


def compiled_only(program: Program, difference: Difference) -> bool:
    """JAX's NaN is gone when its operations run one by one, and its gradient is ours then."""
    if difference.kind != "nonfinite" or not math.isfinite(abs(difference.ours)):
        return False
    with jax.disable_jit():
        return compare(program) is None


def half_precision(program: Program, difference: Difference) -> bool:
    """JAX gives NaN in float16, where ours is finite."""
    half = any(v.dtype == "float16" for v in program.function.inputs)
    return (half and difference.kind == "nonfinite" and math.isnan(abs(difference.theirs))
            and math.isfinite(abs(difference.ours)))


def half_quotient(program: Program, difference: Difference) -> bool:
    """JAX's second derivative of a quotient holds powers of the denominator that float16 does not."""
    half = any(v.dtype == "float16" for v in program.function.inputs)
    return half and difference.kind == "values" and any(
        sign in statement.template for statement in program.function.statements for sign in (" / ", "** -"))


def clipped_ties(program: Program, difference: Difference) -> bool:
    """JAX counts the ties of a scatter-min or scatter-max at indices before they are clipped."""
    return difference.kind in ("values", "nonfinite") and any(
        "mode='clip'" in statement.template and (".max(" in statement.template or ".min(" in statement.template)
        for statement in program.function.statements)


def small_error(program: Program, difference: Difference) -> bool:
    """A relative error that XLA's single precision series have."""
    special = only("igamma", "random.gamma", "betainc", "polygamma", "digamma", "ndtri", "bessel", "lgamma", "i0(",
                   kinds=("values",))
    return special(program, difference) and abs(difference.ours - difference.theirs) <= 1e-4 * abs(difference.ours)


#: The name of what `fuzz_compare.cancels` finds.
CANCELS = "terms that cancel inside JAX's rules"

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation("0 to the power 0", zero_to_the_zero, "x**0 is 1, so its slope in x is 0; JAX gives 0 * inf",
                "conventions.md: `lax.pow`"),
    Explanation("JAX refuses", refuses, "JAX has no rule there, or no derivative with respect to an initial value",
                "conventions.md: operations of which JAX is no oracle"),
    Explanation("igamma at zero", only("igamma", kinds=("nonfinite",)),
                "the density at x = 0 is finite for a = 1; JAX takes 0 log(0)", "findings.md"),
    Explanation("an infinite cotangent of an extremum", beside_the_extremum,
                "elements that are not the extremum have no share in it; JAX gives them 0 * inf",
                "conventions.md: `reduce_max[infinite cotangent]`"),
    Explanation("no element equals a maximum that is compiled", compiled_only,
                "XLA, told to compile fast, computes the operand of a maximum twice and rounds it in two ways; "
                "JAX then divides by no ties", "explained.py"),
    Explanation("an index beyond the end", only("{0}[{1}]", kinds=("values",)),
                "an index without a mode is clamped, and so is what depends on it; JAX drops the cotangent",
                "findings.md"),
    Explanation("0 times what overflows in half precision", half_precision,
                "a factor of JAX's rule exceeds 65504, and 0 times it is NaN", "findings.md: standardize"),
    Explanation("second derivatives of quotients in half precision", half_quotient,
                "JAX's rule holds the third power of the denominator, which exceeds 65504",
                "findings.md: a quotient's second derivative in half precision"),
    Explanation("ties of scatter-min and scatter-max at clipped indices", clipped_ties,
                "JAX counts ties at indices out of range as they stand (jax#40626)", "seeds.md"),
    Explanation("series of special functions in single precision", small_error,
                "the derivative is another special function, which XLA computes to fewer digits than float32 has",
                "explained.py"),
)


def explanation(program: Program, difference: Difference) -> Explanation | None:
    """The entry that explains a reduced program's difference, or None."""
    return next((entry for entry in EXPLANATIONS if entry.holds(program, difference)), None)
