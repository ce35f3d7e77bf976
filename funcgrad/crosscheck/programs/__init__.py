"""Random well-typed JAX programs.

`data` is what a program is, and how it prints and runs; `builder` puts one together, of `operations`, `arrays` and
`nested` functions; `strategy` draws the choices, from Hypothesis or from NumPy; `reduce` makes a failing one small.
"""

from funcgrad.crosscheck.programs.data import Function, Program, Statement, Value, Variable
from funcgrad.crosscheck.programs.strategy import programs, random_program

__all__ = ["Function", "Program", "Statement", "Value", "Variable", "programs", "random_program"]
