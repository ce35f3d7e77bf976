"""What a program's values say of its derivative. Nothing here asks a derivative rule, of JAX's or of funcgrad's.

`wide` is the same program in float64, `exact` with hundreds of digits, `roundings` with its last places moved;
`loops` and `frozen` keep it the same program while its operands move. `differences` makes a slope of values, `gamma`
one of a distribution function.
"""
