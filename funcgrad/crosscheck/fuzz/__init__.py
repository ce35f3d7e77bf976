"""The gradients of very many random programs.

`campaign` runs them and goes on where it was stopped, `compare` says whether rounding explains a difference,
`explained` lists the differences that are understood, `findings` what turned out to be wrong in JAX.
"""

from funcgrad.crosscheck.fuzz.campaign import Found, Notes, Summary, fuzz, main

__all__ = ["Found", "Notes", "Summary", "fuzz", "main"]
