"""Benchmarks of funcgrad against its peers, side by side in one run: ``python -m experiments.bench --help``."""
