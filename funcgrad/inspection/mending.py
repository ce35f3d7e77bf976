"""What can be done about a NaN: texts with the user's own line in them."""

from __future__ import annotations

import ast
import linecache
import math
from collections.abc import Mapping
from functools import lru_cache

from funcgrad.inspection.places import Line, Place

#: For an operation what to write instead, with operands x and y, and what goes wrong at the edge of its domain.
_REMEDIES: dict[str, tuple[str, str]] = {
    "sqrt": ("jnp.sqrt(x + tiny)", "the slope of a square root at 0 is infinite"),
    "rsqrt": ("lax.rsqrt(x + tiny)", "the reciprocal of a square root at 0 is infinite"),
    "cbrt": ("jnp.cbrt(x + tiny)", "the slope of a cube root at 0 is infinite"),
    "log": ("jnp.log(jnp.maximum(x, tiny))", "the logarithm of 0 is infinite"),
    "log1p": ("jnp.log1p(jnp.maximum(x, tiny - 1))", "the logarithm of 0 is infinite"),
    "div": ("x / jnp.where(y == 0, 1.0, y)", "a division by 0"),
    "pow": ("jnp.maximum(x, tiny) ** y", "this power has no finite slope at 0"),
    "exp": ("jnp.exp(jnp.minimum(x, limit))", "the exponential overflows"),
    "exp2": ("jnp.exp2(jnp.minimum(x, limit))", "the exponential overflows"),
    "acos": ("jnp.arccos(jnp.clip(x, tiny - 1, 1 - tiny))", "the slope at -1 and 1 is infinite"),
    "asin": ("jnp.arcsin(jnp.clip(x, tiny - 1, 1 - tiny))", "the slope at -1 and 1 is infinite"),
    "atanh": ("jnp.arctanh(jnp.clip(x, tiny - 1, 1 - tiny))", "it is infinite at -1 and 1"),
    "acosh": ("jnp.arccosh(jnp.maximum(x, 1 + tiny))", "the slope at 1 is infinite"),
    "atan2": ("jnp.arctan2(x, jnp.where((x == 0) & (y == 0), 1.0, y))", "(0, 0) has no angle"),
    "integer_pow": ("jnp.where(x == 0, 1.0, x) ** y", "a negative power of 0 is infinite"),
}
#: The same below the domain.
_BELOW: dict[str, tuple[float, str, str]] = {
    "sqrt": (0.0, "jnp.sqrt(jnp.maximum(x, tiny))", "the square root of a negative number is NaN"),
    "rsqrt": (0.0, "lax.rsqrt(jnp.maximum(x, tiny))", "the square root of a negative number is NaN"),
    "log": (0.0, "jnp.log(jnp.maximum(x, tiny))", "the logarithm of a negative number is NaN"),
    "log1p": (-1.0, "jnp.log1p(jnp.maximum(x, tiny - 1))", "the logarithm of a negative number is NaN"),
}
#: Operations that are not done element by element: there is no harmless operand for one element of the result.
_CONTRACTIONS = {"dot_general", "conv_general_dilated"}
#: What functions of NumPy are called here.
_CALLED = {"arccos": "acos", "arcsin": "asin", "arctanh": "atanh", "arccosh": "acosh", "arctan2": "atan2",
           "power": "pow", "divide": "div", "true_divide": "div"}
_ALL_IMPOSSIBLE = ("all operands of `{call}` are -inf, and so is the result: use a large finite number, "
                   "`jnp.finfo(x.dtype).min`, in place of -inf, or leave such rows out.")
_ZERO_TIMES_INFINITY = ("0 times an infinity: use a large finite number, `jnp.finfo(x.dtype).min`, in place of "
                        "-inf; in p · log(p) write `jnp.log(jnp.where(p > 0, p, 1.0))`.")
#: Functions that are written so as to stay finite.
_BETTER = {
    "exp": "`jax.nn.softmax`, `jax.nn.logsumexp`, `jax.nn.softplus` and `jnp.logaddexp` take out the largest "
           "exponent first",
    "log": "`jax.nn.log_softmax`, `jax.nn.log_sigmoid`, `jax.scipy.special.xlogy` and `jnp.log1p` stay finite where "
           "the logarithm of the finished number does not",
    "sub": "a difference of infinities: use a large finite number, `jnp.finfo(x.dtype).min`, in place of -inf",
}
_STRONG_ZEROS = ("with `strong_zeros=True` (`funcgrad.grad(f, strong_zeros=True)`) a cotangent of 0 stays 0, whatever "
                 "the slope: no line changes.")
#: Closed forms of linear algebra, and what their derivatives need.
_MATRICES = {
    "eigh": "equal eigenvalues: their eigenvectors have no derivative. Use the eigenvalues only, or a function of the "
            "matrix, or add different small numbers to the diagonal",
    "eig": "equal eigenvalues: their eigenvectors have no derivative. Use the eigenvalues only",
    "svd": "equal or zero singular values: their singular vectors have no derivative. Use the singular values only",
    "cholesky": "the matrix is not positive definite: add a small number to its diagonal, `a + tiny * jnp.eye(len(a))`",
    "lu": "the matrix is singular: add a small number to its diagonal",
    "triangular_solve": "the matrix is singular: add a small number to its diagonal",
    "custom_linear_solve": "the matrix is singular: add a small number to its diagonal",
    "qr": "the matrix has no full rank, so its factors have no derivative",
    "householder_product": "the matrix has no full rank, so its factors have no derivative",
}


def mends(place: Place, hidden_by: Line | None) -> tuple[str, ...]:
    """What can be done, the most specific first.

    Args:
      place: where the first number stops being finite.
      hidden_by: the operation that keeps it out of the value, if one does.
    """
    name = place.operation.split()[0]
    if place.phase in ("input", "constant"):
        return ("look at where it comes from: the function is given it.",)
    found = []
    if hidden_by is not None:
        found.append(_double_where(place, hidden_by))
    masked = hidden_by is not None and (place.phase == "value" or name in _CONTRACTIONS)
    if place.cotangent == 0 or masked:
        found.append(_STRONG_ZEROS)
    if place.caller is not None:
        found.append(f"{place.file.rsplit('/', 1)[-1]} is a library's: keep what your own line gives it away from this "
                     f"point\nnow:  {place.caller.code}")
    if _overflows(place):
        kind = place.type.split("[")[0]
        found.append(f"the result is larger than {kind} holds: scale the operands, or compute it in a wider type."
                     + _in_place_of(place))
    elif name in _REMEDIES and not any(map(math.isnan, place.operands)):
        found.append(_remedy(place, name))
    if name == "mul" and 0.0 in place.operands and any(map(math.isinf, place.operands)):
        found.append(_ZERO_TIMES_INFINITY + _in_place_of(place))
    written = _operands_of(_tree(place.expression), name) is not None or not place.expression
    better = _BETTER if written or name != "log" else {}  # `logsumexp` is such a function itself
    found += [f"{table[name]}." for table in (_MATRICES, better) if name in table]
    if any("custom" in entry.what and entry.own for entry in place.inside):
        found.append("this line belongs to a derivative rule of your own (custom_jvp or custom_vjp): mend the rule.")
    return tuple(found) or (_general(place),)


def _overflows(place: Place) -> bool:
    """Whether an operation made an infinity of numbers that are far from the edge of its domain."""
    name, operands = place.operation, place.operands
    if place.phase != "value" or place.number not in ("inf", "-inf"):
        return False
    if not operands or not all(map(math.isfinite, operands)):
        return False
    power = name.removeprefix("integer_pow ")
    return name in ("mul", "add", "sub", "square", "sinh", "cosh") or (name == "div" and operands[-1] != 0) or (
        name == "pow" and operands[0] != 0) or (power != name and (int(power) > 0 or operands[0] != 0))


def _general(place: Place) -> str:
    return f"keep the operands of `{place.operation}` away from this point{_in_place_of(place) or '.'}"


def _remedy(place: Place, name: str) -> str:
    """What to write instead of the operation, in the user's own words as far as the line shows them."""
    (template, why), call = _REMEDIES[name], _tree(place.expression)
    if name == "pow" and place.phase == "value" and place.operands:
        why = ("a negative number to a power that is not whole is NaN" if place.operands[0] < 0 else
               "0 to a negative power is infinite")
    if name in _BELOW and place.operands and place.operands[0] < _BELOW[name][0]:
        _, template, why = _BELOW[name]
        return _written(template, why, _operands_of(call, name), call, place)
    operands = _operands_of(call, name)
    called = _last_name(call)
    if operands is None and name == "log" and called == "logsumexp":
        return _ALL_IMPOSSIBLE.format(call=called) + _in_place_of(place)
    text = _smoothed(call) if operands is None and name == "sqrt" else ""
    if operands is not None and name == "div" and _smoothed_product(operands.get("y")):
        text = _filled("x / y", {**operands, "y": _parsed(_smoothed_product(operands["y"]))})
    if text:
        template, operands = text, {}
    return _written(template, why, operands, call, place)


def _written(template: str, why: str, operands: dict[str, ast.expr] | None, call: ast.expr | None, place: Place) -> str:
    """A remedy with the user's operands in it; without it where nobody wrote the operation, as in `jnp.angle(z)`."""
    name, called = place.operation.split()[0], _last_name(call)
    if operands is None and called in ("det", "slogdet"):
        return f"{_MATRICES['lu']}.{_in_place_of(place)}"
    if operands is None and called:
        return f"{why}; `{called}` computes it inside: keep its operand away from this point.{_in_place_of(place)}"
    clipped = (operands or {}).get("x")
    if "jnp.clip(x," in template and isinstance(clipped, ast.Call) and _last_name(clipped) == "clip" and clipped.args:
        operands = {**(operands or {}), "x": clipped.args[0]}  # the user's clip is too wide
    text = _filled(template, {**(operands or {}), **_limit(name, place.type)})
    tiny = ", with a `tiny` that suits the scale of your numbers" if "tiny" in text else ""
    return f"{why}: write `{text}`{tiny}.{_in_place_of(place)}"


def _in_place_of(place: Place) -> str:
    return f"\nnow:  {place.code}" if place.code else ""


# ---- the double where, in the user's own words ----


def _double_where(place: Place, hidden_by: Line) -> str:
    """The user's `where` with a harmless operand put in where its result is thrown away."""
    where, call = _where_call(hidden_by), _tree(place.expression)
    operand = _dangerous_operand(call, place)
    if where is None or operand is None or place.operation in _CONTRACTIONS:
        return ("the operation runs on all elements, also on those that are thrown away later; give it a harmless "
                f"operand there, `safe = jnp.where(mask, x, 1.0)`, and keep the outer `where`.{_in_place_of(place)}")
    mask, taken = ast.unparse(where.args[0]), ast.unparse(operand)
    text = ast.unparse(call) if call is not None else ""
    within = any(ast.unparse(part) == text for part in ast.walk(where))
    if within:
        first = any(ast.unparse(part) == text for part in ast.walk(where.args[1]))
    else:  # its result is chosen somewhere else: a case without any variable is not it
        first = any(isinstance(part, ast.Name) for part in ast.walk(where.args[1]))
    choice = f"{taken}, 1.0" if first else f"1.0, {taken}"
    safe = f"safe = jnp.where({mask}, {choice})"
    new = _replaced(where if within else call, call, operand)
    return ("the operation runs on all elements, also on those that the `where` throws away; give it a harmless "
            f"operand there:\n{safe}\n{new}{_in_place_of(place)}")


def _where_call(line: Line) -> ast.Call | None:
    """The call of `where` in a line, with three arguments."""
    for tree in (_tree(line.expression), _tree(_statement(line.file, line.line))):
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Call) and len(node.args) == 3 and ast.unparse(node.func).endswith("where"):
                return node
    return None


def _dangerous_operand(call: ast.AST | None, place: Place) -> ast.AST | None:
    """The operand that must not reach its edge: of a quotient the denominator, of a power the base."""
    if isinstance(call, ast.BinOp):
        return call.right if place.operation == "div" else call.left
    if isinstance(call, ast.Call) and call.args:
        return call.args[1] if place.operation == "div" and len(call.args) > 1 else call.args[0]
    return None


def _replaced(tree: ast.AST | None, call: ast.AST | None, operand: ast.AST) -> str:
    """The text of `tree` with `operand` of `call` replaced by ``safe``."""
    assert tree is not None and call is not None
    old, wanted = ast.unparse(call), ast.unparse(operand)

    class Rename(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            if isinstance(node, ast.expr) and ast.unparse(node) == wanted:
                return ast.Name("safe")
            return self.generic_visit(node)

    return ast.unparse(tree).replace(old, ast.unparse(Rename().visit(ast.parse(old, mode="eval").body)))


# ---- the operation, in the user's own words ----


def _operands_of(call: ast.expr | None, operation: str) -> dict[str, ast.expr] | None:
    """The operands as the user wrote them; None where the line does not show the operation itself."""
    if isinstance(call, ast.BinOp):
        return {"x": call.left, "y": call.right}
    if isinstance(call, ast.Call) and call.args and _CALLED.get(_last_name(call), _last_name(call)) == operation:
        return dict(zip("xy", call.args, strict=False))
    return None


def _last_name(call: ast.expr | None) -> str:
    """Of ``jnp.linalg.norm(x)``: ``norm``."""
    return ast.unparse(call.func).rsplit(".", 1)[-1] if isinstance(call, ast.Call) else ""


def _smoothed(call: ast.expr | None) -> str:
    """A root, a standard deviation or a length with something added under its root; empty for other expressions."""
    if not isinstance(call, ast.Call) or any(isinstance(part, ast.Starred) for part in call.args):
        return ""
    name, options = _last_name(call), {option.arg for option in call.keywords}
    if name == "sqrt" and len(call.args) == 1:
        return _filled("jnp.sqrt(x + tiny)", {"x": call.args[0]})
    if name == "std" and isinstance(call.func, ast.Attribute):
        variance = ast.Call(ast.Attribute(call.func.value, "var"), call.args, call.keywords)
        return _filled("jnp.sqrt(x + tiny)", {"x": variance})
    if name == "norm" and len(call.args) == 1 and options <= {"axis", "keepdims"}:
        squares = _filled("x ** 2", {"x": call.args[0]})
        along = "".join(f", {ast.unparse(option)}" for option in call.keywords)
        return f"jnp.sqrt(jnp.sum({squares}{along}) + tiny)"
    return ""


def _smoothed_product(call: ast.expr | None) -> str:
    """A product of nothing but lengths and the like, each smoothed: a `where` would leave their slope infinite."""
    if not (isinstance(call, ast.BinOp) and isinstance(call.op, ast.Mult)):
        return _smoothed(call)
    factors = [_smoothed_product(call.left), _smoothed_product(call.right)]
    return f"{factors[0]} * {factors[1]}" if all(factors) else ""


def _limit(operation: str, array: str) -> dict[str, ast.expr]:
    """The largest whole exponent whose power is a number of an array's type."""
    largest = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.4e38, "float64": 1.79e308}.get(array.split("[")[0])
    if largest is None:
        return {}
    return {"limit": ast.Constant(float(math.floor(math.log2(largest) if operation == "exp2" else math.log(largest))))}


def _filled(template: str, parts: Mapping[str, ast.expr]) -> str:
    """The text of a template with expressions put in for its names, in brackets where they need them."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return parts.get(node.id, node)

    return ast.unparse(Fill().visit(_parsed(template)))


def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


@lru_cache(maxsize=1024)
def _tree(expression: str) -> ast.expr | None:
    try:
        return ast.parse(expression, mode="eval").body if expression else None
    except SyntaxError:
        return None


def _statement(file: str, line: int) -> str:
    """The expression of a one-line statement: what it returns, or assigns."""
    try:
        statement = ast.parse(linecache.getline(file, line).strip()).body[0]
    except (SyntaxError, IndexError):
        return ""
    value = getattr(statement, "value", None)
    return ast.unparse(value) if isinstance(value, ast.expr) else ""
