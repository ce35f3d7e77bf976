"""From the oracles' answers to a verdict.

`judge` hears the oracles; `inner_products` are those who answer with one number a direction. `verdicts` settles an
element that somebody doubts: `evidence` is what is known of the problem, `bounds` where the element must lie. `digits`
sees what is too small for float64, `second` is the second order. `blame` does all this for each operation of a backward
sweep, and `snippets` writes a failing one down as a program of its own.
"""
