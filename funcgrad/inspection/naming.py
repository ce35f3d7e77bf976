"""What values and operations are called: by the user's own parameters, variables and functions where there are some."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

from funcgrad.graph import Graph, Node, Operand, value_name
from funcgrad.inspection.frames import Frame, user_frames
from funcgrad.inspection.values import format_number
from funcgrad.watching import pulls_of

#: Functions that call the function they are given.
_TOOLS = frozenset({"find_nonfinite", "dead_paths", "vjp", "jvp", "hvp", "record_call"})
_CONVERSIONS = {"convert_element_type", "copy", "reshape", "broadcast_in_dim", "copy_p"}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def argument_names(fun: Callable[..., Any], args: tuple) -> list[str]:
    """A name for each leaf of the arguments: the parameter, and the path inside it."""
    try:
        bound = inspect.signature(fun).bind_partial(*args).arguments
    except (TypeError, ValueError):
        bound = {f"argument{i}": arg for i, arg in enumerate(args)}
    names = []
    for parameter, arg in bound.items():
        names += [f"{parameter}{jax.tree_util.keystr(path)}" for path, _ in jax.tree_util.tree_leaves_with_path(arg)]
    return readable(names)


def readable(paths: Sequence[str]) -> list[str]:
    """Paths into pytrees as one writes them: ``params.hidden.0`` for ``params['hidden'][0]``."""
    return [name.replace("'", "").replace("][", ".").replace("[", ".").replace("]", "") for name in paths]


def value_names(graph: Graph, arguments: Sequence[str] = ()) -> list[str]:
    """What each value is called: by the user's parameter or variable where it has one, each name once."""
    given: dict[int, str] = dict(zip(graph.inputs, arguments, strict=False)) | _variables(graph)
    counts: dict[str, int] = {}
    names = [value_name(number) for number in range(len(graph.avals))]
    own = set(given.values())
    for number, name in enumerate(names):
        if number in given:
            name = given[number]
            counts[name] = counts.get(name, 0) + 1
            names[number] = name if counts[name] == 1 else name + str(counts[name]).translate(_SUBSCRIPTS)
        elif name in own:
            names[number] = name + str(number).translate(_SUBSCRIPTS)
    return names


def _variables(graph: Graph) -> dict[int, str]:
    """The user's variables; of the operations that one expression runs the last one gives its value."""
    found: dict[int, str] = {}
    previous: tuple[Frame, ...] = ()
    before: int | None = None
    for node in graph.nodes:
        frames = user_frames(node.source)
        if before is not None and frames == previous and not pulls_of(node.source):
            found.pop(before, None)
        if len(node.outputs) == 1 and frames and frames[-1].variable and not pulls_of(node.source):
            found[node.outputs[0]] = frames[-1].variable
        previous, before = frames, node.outputs[0] if node.outputs else None
    return found


def operand_name(operand: Operand, names: Sequence[str]) -> str:
    """What a node reads: a value's name, or a literal's number."""
    if isinstance(operand, int):
        return names[operand]
    return format_number(operand.value.item() if hasattr(operand.value, "item") else operand.value)


def operation_name(node: Node) -> str:
    """The primitive's name, and what an inner program is called."""
    if node.called != str(node.primitive):
        return node.called
    frames = () if node.rerunnable else user_frames(node.source)
    called = _called(frames[-1].expression) if frames else ""
    if called:  # a function without a name, with a rule of the user's own
        return called
    name = node.params.get("name")
    if str(node.primitive) == "integer_pow":
        name = str(node.params["y"])
    return f"{node.primitive} {name}" if isinstance(name, str) and name else str(node.primitive)


def _called(expression: str) -> str:
    """The function that an expression calls: ``relu`` for ``jax.vmap(jax.nn.relu)(x)`` and for ``grad(relu)(x)``."""
    try:
        call: Any = ast.parse(expression, mode="eval").body if expression else None
    except SyntaxError:
        return ""
    while isinstance(call, ast.Call):
        inner = call.args[0] if call.args else None
        if isinstance(call.func, ast.Call):
            call = call.func.args[0] if call.func.args else None
        elif ast.unparse(call.func).rsplit(".", 1)[-1] in _TOOLS and isinstance(inner, ast.Name | ast.Attribute):
            call = inner
        else:
            call = call.func
    return ast.unparse(call).rsplit(".", 1)[-1] if isinstance(call, ast.Name | ast.Attribute) else ""


def changes_nothing(node: Node, graph: Graph) -> bool:
    """Whether an operation is a conversion or a reshape that gives what it is given."""
    if str(node.primitive) not in _CONVERSIONS or len(node.operands) != 1 or not isinstance(node.operands[0], int):
        return False
    before, after = graph.avals[node.operands[0]], graph.avals[node.outputs[0]]
    return before.shape == after.shape and before.dtype == after.dtype


def own_pullback(node: Node) -> Any | None:
    """A higher-order node's pullback with None for arrays: the static part is what a picture needs."""
    if node.pullback is None:
        return None
    return jax.tree.unflatten(node.pullback.tree, [None] * node.pullback.tree.num_leaves)
