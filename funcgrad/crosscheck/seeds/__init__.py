"""Gradients that were once, or are still, wrong in JAX.

`model` is what a seed is, `data` are the seeds, `corpus` runs them. ``python -m funcgrad.crosscheck.seeds`` writes
`docs/seeds.md`.
"""

from funcgrad.crosscheck.seeds.corpus import Outcome, Outcomes, main, run_seed, run_seeds
from funcgrad.crosscheck.seeds.data import SEEDS
from funcgrad.crosscheck.seeds.model import Born, Seed

__all__ = ["SEEDS", "Born", "Outcome", "Outcomes", "Seed", "main", "run_seed", "run_seeds"]
