"""Floor 9: differential testing of gradients: every operation judged at the values that really occurred.

Here stand what a user calls and what everything else is said in; where else does something go?

    check, oracles, report      one function checked; who is asked; what was found
    problem, recording          one vjp at one point, and the run that it was taken from
    held                        operations that hold programs
    compare, trusting           when two numbers agree; custom rules that differ from their body on purpose
    plugin                      every gradient of a test suite

    values/       what a program's values say with no autodiff: in float64, with hundreds of digits, from differences
    judging/      from the oracles' answers to a verdict, and down to the operation that is to blame
    battery/      one derivative rule, asked one question at a time
    substitute/   funcgrad in the place of `jax.grad`, in a block
    programs/     random well-typed JAX programs
    fuzz/         the gradients of very many of those, what explains their differences, and what JAX has wrong
    seeds/        gradients that were once, or are still, wrong in JAX
"""

from funcgrad.crosscheck.report import Report, Row, Verdict

__all__ = ["Report", "Row", "Verdict"]
