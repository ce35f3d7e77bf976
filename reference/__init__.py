"""Oracles that stand apart from funcgrad: nothing in this folder imports it.

* `scalar_tape`: reverse-mode autodiff on plain Python floats, short enough to read in one sitting.
* `finite_difference`: derivatives from function values alone, with an error estimate.
* `flax_models`: the models that the tests and the experiments differentiate.
"""
