"""Training runs and benchmarks. Nothing imports this package; it may import funcgrad and reference."""
