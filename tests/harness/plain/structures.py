"""Numbers in functions, closures, generators, classes, containers and text."""

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

from tests.harness.plain.sample import sample

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
