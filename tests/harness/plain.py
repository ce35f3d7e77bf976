"""Plain Python functions of one or two numbers, written with no thought of tracing: a number stays a number."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import operator
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import jax

Point = namedtuple("Point", ["x", "y"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Line:
    """A straight line, a pytree."""

    slope: Any
    offset: Any

    def __call__(self, x: Any) -> Any:
        return self.slope * x + self.offset

    def __matmul__(self, other: Line) -> Line:
        return Line(self.slope * other.slope, self(other.offset))


@dataclasses.dataclass
class Counter:
    """A mutable object that is no pytree."""

    total: Any = 0.0
    seen: int = 0

    def add(self, x: Any) -> Counter:
        """Add a number in place."""
        self.total += x
        self.seen += 1
        return self


@dataclasses.dataclass(frozen=True)
class Sample:
    """A function of plain numbers and where it is evaluated (inside its domain, off its kinks)."""

    fun: Callable[..., Any]
    points: tuple[tuple[float, ...], ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.fun.__name__


SAMPLES: list[Sample] = []


def sample(*points: tuple[float, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the corpus, with the points where it is evaluated."""

    def register(fun: Callable[..., Any]) -> Callable[..., Any]:
        SAMPLES.append(Sample(fun, points))
        return fun

    return register


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


# ---- functions, closures, generators, classes ----


@sample((1.5,))
def recursion(x):
    def power(n):
        return 1.0 if n == 0 else x * power(n - 1)

    return power(5)


@sample((1.5,), (20.0,))
def recursion_on_the_value(x):
    return x if x < 2 else 1 + recursion_on_the_value(x / 3) * 2


@sample((1.5,))
def closure_with_state(x):
    total = x

    def step(factor):
        nonlocal total
        total = total * factor
        return total

    return step(2) + step(x)


@sample((1.5,))
def list_of_lambdas(x):
    functions = [lambda v, n=n: v * n for n in range(1, 4)]
    for function in functions:
        x = function(x) + x
    return x


@sample((1.5, 2.0))
def default_and_keyword_arguments(x, y):
    def blend(a, b, *, weight=0.25, **rest):
        return a * weight + b * (1 - weight) + rest["extra"]

    return blend(x, b=y, extra=x * y)


@sample((1.5, 2.0))
def star_arguments(x, y):
    def total(*values, scale=1.0):
        return sum(values) * scale

    return total(*[x, y, x * y], **{"scale": y})


@sample((1.5,))
def generator_function(x):
    def powers() -> Iterator[Any]:
        value = 1.0
        for _i in range(4):
            yield value
            value = value * x

    return sum(powers())


@sample((1.5,))
def generator_that_receives(x):
    def accumulate():
        total = 0.0
        while True:
            total += yield total

    running = accumulate()
    next(running)
    running.send(x)
    return running.send(x * x) * x


@sample((1.5, 2.0))
def partial_and_reduce(x, y):
    scale = functools.partial(operator.mul, x)
    return functools.reduce(lambda a, b: a * y + b, map(scale, [1, 2, 3]))


@sample((1.5,))
def itertools_on_values(x):
    running = itertools.accumulate([x, x * x, 2.0], operator.mul)
    return sum(itertools.chain(running, itertools.repeat(x, 2)))


@sample((1.5,))
def decorator(x):
    def twice(function):
        @functools.wraps(function)
        def wrapper(value):
            return function(function(value))

        return wrapper

    @twice
    def square(value):
        return value * value

    return square(x)


@sample((1.5,))
def context_manager(x):
    @contextlib.contextmanager
    def scaled(value):
        yield value * 3

    with scaled(x) as tripled:
        return tripled * x


@sample((1.5, 2.0))
def mutable_object(x, y):
    counter = Counter().add(x).add(y).add(x * y)
    return counter.total / counter.seen


@sample((1.5, 2.0))
def operators_of_a_class(x, y):
    line = Line(x, y) @ Line(y, 1.0)
    return line(x)


@sample((1.5, 2.0))
def dataclass_replace(x, y):
    line = dataclasses.replace(Line(x, y), offset=x * y)
    return line(2.0)


@sample((1.5, 2.0))
def tree_map_over_a_dataclass(x, y):
    doubled = jax.tree.map(lambda v: v * 2, {"a": Line(x, y), "b": [x, None]})
    return doubled["a"](y) + doubled["b"][0]


# ---- containers ----


@sample((1.5, 2.0))
def lists(x, y):
    values = [x, y]
    values.append(x * y)
    values[0] = values[0] + 1
    values.insert(1, 3.0)
    values += [values.pop() * 2]
    return sum(values) * values[-1] + len(values)


@sample((1.5, 2.0))
def slices_and_reversal(x, y):
    values = [x, y, x * y, 1.0]
    return values[1:3][0] * values[::-1][0] + list(reversed(values))[1]


@sample((1.5, 2.0))
def tuples_and_unpacking(x, y):
    first, *rest, last = (x, y, x + y, x * y)
    (a, b) = (last, first)
    return a * b + rest[0] * rest[1]


@sample((1.5, 2.0))
def dictionaries(x, y):
    table = {"x": x, "y": y}
    table["xy"] = table["x"] * table.get("y", 0.0)
    table |= {"x": x * x}
    return sum(value * (i + 1) for i, value in enumerate(table.values())) + table.setdefault("z", x)


@sample((1.5, 2.0))
def collections_of_values(x, y):
    groups = defaultdict(list)
    for value in (x, y, -x):
        groups[bool(value > 0)].append(value)
    queue = deque([x, y])
    queue.rotate(1)
    ordered = OrderedDict(a=queue[0])
    return sum(groups[True]) * groups[False][0] + ordered["a"]


@sample((1.5, 2.0))
def named_tuples(x, y):
    point = Point(x, y)._replace(y=x * y)
    return point.x * point.y + point[0]


@sample((1.5, 2.0))
def comprehensions(x, y):
    nested = {k: [v * i for i in range(3)] for k, v in zip("xy", (x, y), strict=True)}
    return sum(a * b for a, b in zip(nested["x"], nested["y"], strict=True)) + sum({i: x for i in range(2)}.values())


@sample((1.5, 2.0), (2.0, 1.5))
def minimum_and_maximum(x, y):
    return min(x, y) * 2 + max(x, y, 0.0) * max([x, y]) + min(3.0, x)


@sample((1.5, 2.0), (2.0, 1.5))
def minimum_by_key(x, y):
    return min([x, y], key=lambda v: (v - 1.9) ** 2) * max((x, 1), (y, 0), key=lambda pair: pair[0])[0]


@sample((1.5, 2.0), (2.0, 1.5))
def sorted_values(x, y):
    low, middle, high = sorted([x, y, 1.75])
    return low + 2 * middle + 3 * high * sorted([x, y], reverse=True)[0]


@sample((1.5, 2.0), (2.0, 1.5))
def list_sort_in_place(x, y):
    values = [y, x, x * y]
    values.sort(key=lambda v: -v)
    return values[0] - values[2] * values[1]


@sample((1.5, 2.0))
def any_all_and_in(x, y):
    values = [x, y]
    hit = any(v > 1.9 for v in values) and all(v > 0 for v in values) and (x in values)
    return x * y if hit else 0.0 * x


@sample((1.5, 2.0))
def sum_with_start(x, y):
    return sum([x, y], start=x * y) + sum([x, 1]) * y


@sample((1.5, 2.0))
def enumerate_zip_filter(x, y):
    kept = filter(lambda v: v > 1.0, [x, y, 0.5])
    return sum(i * v for i, v in enumerate(kept, start=1))


@sample((1.5, 2.0))
def copies(x, y):
    original = {"a": [x], "b": y}
    shallow = copy.copy(original)
    shallow["b"] = x * y
    return shallow["a"][0] * shallow["b"] + original["b"]


@sample((1.3,), (2.6,))
def index_computed_from_the_value(x):
    table = [10.0, 20.0, 30.0]
    return table[int(x)] * x


# ---- text ----


@sample((1.2345, 2.0))
def formatting(x, y):
    return x * len(f"{x:.0f}|{y:+.0f}|{x * y:6.0f}") * int("{:.0f}".format(y)) * y  # noqa: UP032


@sample((2.7,))
def text_of_the_value_decides(x):
    return x * x if f"{x:.0f}" == "3" else x


@sample((2.5, 0.125))
def plain_text(x, y):
    return x * y * str(x).index(".") * (str(y)[0] == "0")


TEXTS: list[Callable[[Any, Any], str]] = [
    lambda x, y: f"{x:.2f}",
    lambda x, y: f"{x:8.3e}|{y:<8.2f}|{x + y:^+9.1f}",
    lambda x, y: "{:.3g} and {:06.2f}".format(x, y),  # noqa: UP032
    lambda x, y: format(y, ".1%"),
    lambda x, y: f"{x}",
    lambda x, y: str(x * y),
    lambda x, y: "%s" % x,  # noqa: UP031
    lambda x, y: f"{x > y} {round(x)} {int(y)}",
    lambda x, y: ", ".join(f"{v:.1f}" for v in sorted([y, x, x * y])),
]


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
