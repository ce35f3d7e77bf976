"""Arithmetic and control flow on numbers, as Python has them."""

from __future__ import annotations

import functools
import operator

from tests.harness.plain.sample import sample

# ---- operators ----


@sample((1.5,), (-2.0,))
def add_and_reflected(x):
    return 3 + x + 2.5 + x


@sample((1.5,), (-2.0,))
def subtract_and_reflected(x):
    return 3 - x - 1 - (2 - x) * x


@sample((1.5, 2.0), (-2.0, 0.5))
def multiply_and_reflected(x, y):
    return 2 * x * y * 3.0


@sample((1.5, 2.0), (-2.0, 0.5))
def divide_and_reflected(x, y):
    return 1 / x + x / 4 + x / y


@sample((1.5,), (-2.0,))
def negate_and_plus(x):
    return -x + +x * -3


@sample((1.5, 0.7), (2.5, -1.2))
def power_of_variables(x, y):
    return x**y


@sample((1.5,), (-2.0,))
def integer_powers(x):
    return x**3 - x**2 + x**1 + x**0 + x**-1 + x**-2


@sample((1.5,), (2.0,))
def fractional_powers(x):
    return x**0.5 + x**-1.5 + 2**x + 2.5**x


@sample((7.3, 2.0), (-7.3, 2.5), (7.3, -2.0))
def floor_division_and_modulo(x, y):
    return (x // y) * y + 3 * (x % y)


@sample((7.3,), (-7.3,))
def reflected_floor_division_and_modulo(x):
    return 20 // x + 20 % x + 5.5 % x


@sample((7.3, 2.0), (-7.3, 2.5))
def divmod_of_variables(x, y):
    quotient, remainder = divmod(x, y)
    return quotient * x + remainder * y


@sample((3.1,))
def reflected_divmod(x):
    quotient, remainder = divmod(10.0, x)
    return quotient * remainder


@sample((1.5,), (-2.0,))
def absolute_value(x):
    return abs(x) * x


@sample((1.6,), (-2.3,))
def rounding_has_no_slope(x):
    return round(x) * x + round(x, 0)


@sample((1.234,))
def rounding_to_digits(x):
    return x * x - round(x, 2)


@sample((1.5, 2.0))
def in_place_operators(x, y):
    total = x
    total += y
    total *= x
    total -= 1
    total /= y
    total **= 2
    return total


@sample((7.5, 2.0))
def in_place_floor_and_modulo(x, y):
    first, second = x, x
    first //= y
    second %= y
    return first * x + second * y


@sample((1.5, 2.0))
def in_place_does_not_change_the_operand(x, y):
    kept = x
    x += y
    return kept * x


@sample((1.5, 2.0))
def functions_of_the_operator_module(x, y):
    return operator.add(x, y) * operator.mul(x, y) - operator.truediv(x, y) + operator.neg(x) + operator.pow(x, 2)


@sample((1.5,))
def numbers_of_other_types(x):
    return True * x + False + 2 * x + 1.5 * x


# ---- comparisons and control flow on values ----


@sample((1.5,), (-1.5,))
def if_else(x):
    if x > 0:
        return x * x
    return -3 * x


@sample((0.5,), (1.5,), (2.5,), (-0.5,))
def chained_comparison(x):
    if 0 < x < 1:
        return x
    if 1 <= x <= 2:
        return x**2
    return x**3


@sample((1.5, 2.0), (2.0, 1.5))
def all_comparisons(x, y):
    weights = (x < y, x <= y, x > y, x >= y, x == y, x != y)
    return sum(bool(w) * (i + 1) for i, w in enumerate(weights)) * x * y


@sample((1.5, 2.0), (-1.5, 2.0))
def boolean_operators(x, y):
    return x * y if x > 0 and not y < 0 else (x or y) * y


@sample((1.5,), (0.0,))
def truth_of_a_number(x):
    return x * 2 if x else x + x


@sample((1.5,), (40.0,))
def while_on_the_value(x):
    while x > 1:
        x = x / 2
    return x * x


@sample((1.7,), (3.1,))
def while_with_break_and_else(x):
    n = 0
    while n < 10:
        if x * n > 5:
            break
        n += 1
    else:
        return x
    return x * n


@sample((1.5,))
def for_loop(x):
    total = 0.0
    for i in range(5):
        if i == 3:
            continue
        total = total * x + i
    return total


@sample((3.7,), (0.2,))
def loop_as_often_as_the_value_says(x):
    product = 1.0
    for _i in range(int(x)):
        product = product * x
    return product


@sample((2.0,), (9.0,))
def square_root_by_newton(x):
    guess = x
    while abs(guess * guess - x) > 1e-12:
        guess = (guess + x / guess) / 2
    return guess


@sample((0.3,))
def exponential_by_its_series(x):
    term, total, n = 1.0, 1.0, 0
    while abs(term) > 1e-17:
        n += 1
        term = term * x / n
        total += term
    return total


@sample((1.5,))
def conditional_expression(x):
    return x * x if x > 1 else x


@sample((0.5,), (1.5,), (7.0,))
def match_statement(x):
    match int(x):
        case 0:
            return x
        case 1:
            return x**2
        case _:
            return 1 / x


@sample((1.5,))
def assert_and_assignment_expression(x):
    assert x > 0
    return y * y if (y := x + 1) > 2 else y


@sample((1.5,), (-1.5,))
def exception_as_control_flow(x):
    try:
        if x < 0:
            raise ValueError(x)
        return x * x
    except ValueError as error:
        return 2 * error.args[0]
    finally:
        x = None


# ---- the systems people write in their first week ----


@sample((0.5, -1.2))
def two_layer_network(x, y):
    def relu(v):
        return v if v > 0 else 0.0 * v

    weights = [[x, -0.5], [0.3, y]]
    hidden = [relu(row[0] * 1.5 + row[1] * 2.0 + 0.1) for row in weights]
    return (sum(h * w for h, w in zip(hidden, (1.2, x), strict=True)) - 1) ** 2


@sample((0.7, 1.3))
def determinant_by_elimination(x, y):
    matrix = [[x, 2.0, 1.0], [y, x, 0.5], [1.0, y, x * y]]
    sign, product = 1.0, 1.0
    for k in range(3):
        pivot = max(range(k, 3), key=lambda r: abs(matrix[r][k]))
        if pivot != k:
            matrix[k], matrix[pivot], sign = matrix[pivot], matrix[k], -sign
        product = product * matrix[k][k]
        for r in range(k + 1, 3):
            factor = matrix[r][k] / matrix[k][k]
            matrix[r] = [a - factor * b for a, b in zip(matrix[r], matrix[k], strict=True)]
    return sign * product


@sample((0.4, 0.9))
def euler_steps_of_an_oscillator(x, y):
    position, speed = x, 0.0
    for _i in range(8):
        position, speed = position + 0.1 * speed, speed - 0.1 * y * position
    return position * speed


@sample((1.1,))
def horner(x):
    return functools.reduce(lambda total, c: total * x + c, [2.0, -1.0, 0.5, 3.0], 0.0)


@sample((48.5, 18.25))
def remainders_as_euclid_takes_them(x, y):
    while y > 3:
        x, y = y, x % y
    return x * 2 + y
