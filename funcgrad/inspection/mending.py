"""What can be done about a NaN: texts with the user's own line in them."""

from __future__ import annotations

import ast
import linecache
from functools import lru_cache

from funcgrad.inspection.places import Line, Place

#: For an operation what goes wrong at the edge of its domain, and what to write instead; {x} is its first operand.
_REMEDIES: dict[str, tuple[str, ...]] = {
    "sqrt": ("jnp.sqrt({x} + tiny)", "the slope of a square root at 0 is infinite"),
    "rsqrt": ("lax.rsqrt({x} + tiny)", "the reciprocal of a square root at 0 is infinite"),
    "cbrt": ("jnp.cbrt({x} + tiny)", "the slope of a cube root at 0 is infinite"),
    "log": ("jnp.log(jnp.maximum({x}, tiny))", "the logarithm of 0 is infinite"),
    "log1p": ("jnp.log1p(jnp.maximum({x}, tiny - 1))", "the logarithm of 0 is infinite"),
    "div": ("{x} / jnp.where({y} == 0, 1.0, {y})", "a division by 0"),
    "pow": ("jnp.maximum({x}, tiny) ** {y}", "a power of 0, or a negative number, has no finite slope there"),
    "exp": ("jnp.exp(jnp.minimum({x}, limit))", "the exponential overflows"),
    "exp2": ("jnp.exp2(jnp.minimum({x}, limit))", "the exponential overflows"),
    "acos": ("jnp.arccos(jnp.clip({x}, tiny - 1, 1 - tiny))", "the slope at -1 and 1 is infinite"),
    "asin": ("jnp.arcsin(jnp.clip({x}, tiny - 1, 1 - tiny))", "the slope at -1 and 1 is infinite"),
    "atanh": ("jnp.arctanh(jnp.clip({x}, tiny - 1, 1 - tiny))", "it is infinite at -1 and 1"),
    "acosh": ("jnp.arccosh(jnp.maximum({x}, 1 + tiny))", "the slope at 1 is infinite"),
    "atan2": ("jnp.where(({x} == 0) & ({y} == 0), 1.0, {y}) as the second argument", "(0, 0) has no angle"),
    "integer_pow": ("jnp.where({x} == 0, 1.0, {x}) as the base", "a negative power of 0 is infinite"),
}  # fmt: skip
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
    if place.cotangent == 0 or (hidden_by is not None and place.phase == "value"):
        found.append(_STRONG_ZEROS)
    if name in _REMEDIES:
        remedy, why = _REMEDIES[name]
        x, y = _operand_texts(place)
        text = f"{why}: write `{remedy.format(x=x, y=y)}`"
        tiny = ", with a `tiny` that suits the scale of your numbers" if "tiny" in remedy else ""
        found.append(f"{text}{tiny}.{_in_place_of(place)}")
    found += [f"{table[name]}." for table in (_MATRICES, _BETTER) if name in table]
    if any("custom" in entry.what for entry in place.inside):
        found.append("this line belongs to a derivative rule of your own (custom_jvp or custom_vjp): mend the rule.")
    return tuple(found) or (_general(place),)


def _general(place: Place) -> str:
    return f"keep the operands of `{place.operation}` away from this point{_in_place_of(place) or '.'}"


def _in_place_of(place: Place) -> str:
    return f"\nnow:  {place.code}" if place.code else ""


# ---- the double where, in the user's own words ----


def _double_where(place: Place, hidden_by: Line) -> str:
    """The user's `where` with a harmless operand put in where its result is thrown away."""
    where, call = _where_call(hidden_by), _tree(place.expression)
    operand = _dangerous_operand(call, place)
    if where is None or operand is None:
        return ("the operation runs on all elements, also on those that are thrown away later; give it a harmless "
                f"operand there, `safe = jnp.where(mask, x, 1.0)`, and keep the outer `where`.{_in_place_of(place)}")
    mask, taken = ast.unparse(where.args[0]), ast.unparse(operand)
    first = any(ast.unparse(part) == ast.unparse(call) for part in ast.walk(where.args[1])) if call else True
    within = call is not None and any(ast.unparse(part) == ast.unparse(call) for part in ast.walk(where))
    choice = f"{taken}, 1.0" if first or not within else f"1.0, {taken}"
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


def _operand_texts(place: Place) -> tuple[str, str]:
    """How the user wrote the operands; `x` and `y` where that is not to be seen."""
    call = _tree(place.expression)
    if isinstance(call, ast.BinOp):
        return ast.unparse(call.left), ast.unparse(call.right)
    simple = {"arccos": "acos", "arcsin": "asin", "arctanh": "atanh", "arccosh": "acosh", "arctan2": "atan2",
              "power": "pow", "divide": "div", "true_divide": "div"}
    if isinstance(call, ast.Call) and call.args:
        called = ast.unparse(call.func).rsplit(".", 1)[-1]
        if simple.get(called, called) == place.operation.split()[0]:
            texts = list(map(ast.unparse, call.args))
            return texts[0], texts[1] if len(texts) > 1 else "y"
    return "x", "y"


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
