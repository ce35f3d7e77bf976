"""Reverse-mode autodiff on plain Python floats: notes that run.

1. From a number to a traced value. A `Scalar` holds a number and where it came from: the function that made
   it and that function's inputs. Operators are overloaded, `x * y` means `Mul.apply(x, y)`, so code written
   for floats runs on scalars as it stands. The scalars behind a result are its graph; none ever changes.
2. Functions are boxes. `forward` computes the number. `backward` answers: if the final result changes by `ct`
   per unit of my output, by how much per unit of each input? (`ct` is the output's cotangent.)
3. The chain rule. For `y = h(x); z = f(y)`: dz/dx = f'(y) h'(x). Walking backward, `f` hands `ct * f'(y)` to
   `h`, which multiplies by h'(x). `Mul` has two inputs and answers twice: `ct * y` for x, `ct * x` for y.
4. A value used several times changes the result along several paths, and their contributions are summed:

       a = 1.0; b = a + a; c = b + b            b feeds c twice, a feeds b twice: dc/da = 4

   `b` must have its whole sum before it passes it on; after its first contribution alone (1 of 2), `a` would
   get too little. Hence topological order: a box is visited after every box that uses it.
5. Nothing is stored on a scalar: cotangents live in a dict that belongs to one sweep. Where a node keeps a
   mutable `.grad`, a second backward doubles it; here it gives the same again: `grad(f)` is a pure function.

    >>> def f(a):
    ...     b = a + a
    ...     return b + b
    >>> df = grad(f)
    >>> df(1.0), df(1.0)
    (4.0, 4.0)
    >>> grad(lambda x, y: x * y + exp(x))(0.0, 3.0)
    (4.0, 0.0)

6. Derivatives of derivatives. Each `grad` puts its scalars on a level of their own, above all older ones.
   `apply` peels the top level off and goes on below, down to floats; `backward` is recorded there too.

    >>> grad(grad(lambda x: x ** 4))(2.0)
    48.0
"""

import itertools
import math
from dataclasses import dataclass


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Scalar:
    """A number and its origin: `value == function.forward(*inputs)`; a variable has no function."""

    value: "float | Scalar"  # a Scalar of a lower level when derivatives are nested
    level: int  # which call of `grad` it belongs to
    function: "type[Function] | None" = None
    inputs: tuple = ()

    def __repr__(self):
        return f"Scalar({self.value}, {self.function.__name__ if self.function else 'variable'})"

    def __add__(self, other): return Add.apply(self, other)
    def __radd__(self, other): return Add.apply(other, self)
    def __sub__(self, other): return Sub.apply(self, other)
    def __rsub__(self, other): return Sub.apply(other, self)
    def __mul__(self, other): return Mul.apply(self, other)
    def __rmul__(self, other): return Mul.apply(other, self)
    def __truediv__(self, other): return Div.apply(self, other)
    def __rtruediv__(self, other): return Div.apply(other, self)
    def __pow__(self, other): return Pow.apply(self, other)
    def __rpow__(self, other): return Pow.apply(other, self)
    def __neg__(self): return Neg.apply(self)
    def __lt__(self, other): return self.value < lower(other, self.level)
    def __le__(self, other): return self.value <= lower(other, self.level)
    def __gt__(self, other): return self.value > lower(other, self.level)
    def __ge__(self, other): return self.value >= lower(other, self.level)
    def __eq__(self, other): return self.value == lower(other, self.level)
    def __hash__(self): return hash(self.value)
    def __bool__(self): return bool(self.value)


def lower(number, level):
    """What `number` is one level below `level`; whatever is not on `level` is a constant and stays."""
    return number.value if isinstance(number, Scalar) and number.level == level else number


class Function:
    """A box: `forward(*floats)` and `backward(ct, out, *inputs)`, one cotangent per input."""

    @classmethod
    def apply(cls, *inputs):
        """Compute the function, and record it if an input is traced."""
        level = max((number.level for number in inputs if isinstance(number, Scalar)), default=None)
        if level is None:
            return cls.forward(*inputs)
        return Scalar(cls.apply(*(lower(number, level) for number in inputs)), level, cls, inputs)


class Add(Function):
    def forward(x, y): return x + y
    def backward(ct, out, x, y): return ct, ct

class Sub(Function):
    def forward(x, y): return x - y
    def backward(ct, out, x, y): return ct, -ct

class Neg(Function):
    def forward(x): return -x
    def backward(ct, out, x): return (-ct,)

class Mul(Function):
    def forward(x, y): return x * y
    def backward(ct, out, x, y): return ct * y, ct * x

class Div(Function):
    def forward(x, y): return x / y
    def backward(ct, out, x, y): return ct / y, -ct * out / y

class Pow(Function):
    def forward(x, y): return math.pow(x, y)  # not `**`: (-1.0) ** 0.5 would be complex
    def backward(ct, out, x, y):
        ct_x = ct * y * x ** (y - 1.0) if y != 0.0 else 0.0
        # A negative base has no neighbouring exponent with a real power: no derivative.
        ct_y = ct * out * log(x) if x > 0.0 else (0.0 if x == 0.0 else math.nan)
        return ct_x, ct_y

class Exp(Function):
    def forward(x): return math.exp(x)
    def backward(ct, out, x): return (ct * out,)

class Log(Function):
    def forward(x): return math.log(x)
    def backward(ct, out, x): return (ct / x,)

class ReLU(Function):
    def forward(x): return max(x, 0.0)
    def backward(ct, out, x): return (ct if x > 0.0 else 0.0,)  # 0 at the kink, by convention

class Maximum(Function):
    def forward(x, y): return max(x, y)
    def backward(ct, out, x, y):
        share = 0.5 if x == y else float(x > y)  # a tie is shared evenly, by convention
        return ct * share, ct * (1.0 - share)


exp, log, relu, maximum = Exp.apply, Log.apply, ReLU.apply, Maximum.apply


def topological_order(root):
    """Return the scalars behind `root` on its level, each after its inputs; a stack, so depth is no limit."""
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, inputs_are_listed = stack.pop()
        if inputs_are_listed:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(x, False) for x in node.inputs if isinstance(x, Scalar) and x.level == root.level]
    return order


def backward_sweep(root):
    """Return the cotangent of every scalar behind `root`, by `id`: d root / d scalar."""
    cotangents = {id(root): 1.0}
    for node in reversed(topological_order(root)):
        if node.function is None:
            continue  # a variable: its sum is an answer, there is nobody to pass it on to
        values = (lower(number, root.level) for number in node.inputs)
        contributions = node.function.backward(cotangents[id(node)], node.value, *values)
        for number, contribution in zip(node.inputs, contributions, strict=True):
            if isinstance(number, Scalar) and number.level == root.level:
                cotangents[id(number)] = cotangents.get(id(number), 0.0) + contribution
    return cotangents


def map_numbers(function, tree):
    """Apply `function` to each number in nested lists, tuples and dicts."""
    if isinstance(tree, dict):
        return {key: map_numbers(function, branch) for key, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_numbers(function, branch) for branch in tree)
    return function(tree)


levels = itertools.count(1)  # the one thing that changes: each gradient has a level of its own, nested ones too


def value_and_grad(f):
    """Return a function for the value and gradient of `f`: like the argument, or a tuple for several.

    >>> value_and_grad(lambda w: relu(w["a"][0] * 2.0 - w["b"]))({"a": [3.0], "b": 1.0})
    (5.0, {'a': [2.0], 'b': -1.0})
    """

    def derivative(*args):
        level = next(levels)
        variables = map_numbers(lambda number: Scalar(number, level), args)
        out = f(*variables)
        cotangents = backward_sweep(out) if isinstance(out, Scalar) and out.level == level else {}
        gradients = map_numbers(lambda variable: cotangents.get(id(variable), 0.0), variables)
        return lower(out, level), gradients[0] if len(args) == 1 else gradients

    return derivative


def grad(f):
    """Return the gradient of `f` as a function; see `value_and_grad`."""
    return lambda *args: value_and_grad(f)(*args)[1]
