"""Training runs, measurements, and the pages that they write.

Nothing imports this package; it may import funcgrad, reference and the case table of the tests. Each line below is a
command, ``python -m experiments.NAME``; in parentheses what it is made of:

    two_layer                                      trains the classifier of README's main job
    bench                                          benchmarks beside `jax.grad` and other peers: docs/performance.md
    tables                                         the primitives and their rules: docs/primitives.md
    conventions (convention_programs)              ties, kinks, edges: docs/conventions.md
    accuracy (truth)                               errors beside JAX's, in units of the last place: docs/accuracy.md
    check_page                                     docs/check.md, from the next four
    checkers, false_alarms, mutation_score         what `funcgrad.check` catches, and what it calls wrong that is not
    wrong_rule                                     a wrong rule in a Flax model, named
    nan_cases (nan_tools)                          NaNs of public issues, here and in other tools: docs/nonfinite.md
    strong_zeros, large_graphs, import_time        what these cost
"""
