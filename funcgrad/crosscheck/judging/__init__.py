"""From the oracles' answers to a verdict.

`judge` asks the oracles and finds the element that is off by most, `evidence` is what is known of it, `digits` what is
too small for float64, `second` the second order. `blame` does this for each operation of a backward sweep, and
`snippets` writes a failing one down as a program of its own.
"""
