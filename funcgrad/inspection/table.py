"""An explanation as text: a table of the steps, and of scalars the sum over paths, as on a blackboard."""

from __future__ import annotations

import html as html_module
import sys
from typing import Any

from funcgrad.inspection.steps import Edge, Run, Step

#: So many paths to one input are written out; of more the number is told.
PATHS = 12
#: So many captured arrays are spelled out in the head.
SPELLED_CONSTANTS = 8
_INFIX = {"add": "+", "add_any": "+", "sub": "-", "mul": "·", "div": "/", "pow": "^", "max": "max", "min": "min",
          "lt": "<", "le": "≤", "gt": ">", "ge": "≥", "eq": "=", "ne": "≠"}
_HEAD = ("step", "operation", "value", "cotangent", "backward", "line")


def numbers_text(step: Step) -> str:
    """The operation with the numbers in it: ``2.0 · 3.0 = 6.0``; empty where it is too long for a line."""
    if not all(edge.value.number is not None for edge in step.edges) or len(step.values) != 1:
        return ""
    return f"{applied(step.operation, [edge.value.text for edge in step.edges])} = {step.values[0].text}"


def applied(operation: str, operands: list[str]) -> str:
    """An operation on operands as one writes it."""
    if operation in _INFIX and len(operands) == 2:
        return f"{operands[0]} {_INFIX[operation]} {operands[1]}"
    if operation.startswith("integer_pow "):
        return f"{operands[0]}^{operation.removeprefix('integer_pow ')}"
    if operation == "neg":
        return f"-{operands[0]}"
    return f"{operation}({', '.join(operands)})"


def backward_text(step: Step, edge: Edge) -> str:
    """What an edge adds to its operand's cotangent, as a sum: ``ct_x += 3.0 · 2.0``; empty where nothing flows."""
    if edge.contribution is None or not edge.active:
        return ""
    arriving = [(name, ct) for name, ct in zip(step.names, step.cotangents, strict=True) if ct is not None]
    if edge.partial is not None and len(arriving) == 1 and edge.operand is not None:
        name, ct = arriving[0]
        if not edge.partial.known:
            return f"ct_{edge.name} += ∂{name}/∂{edge.name} · ct_{name}"
        return f"ct_{edge.name} += {edge.partial.text} · {ct.text}"
    cts = ", ".join(f"ct_{name}" for name, _ in arriving)
    return f"ct_{edge.name} += pull {step.operation}({cts}) = {edge.contribution.text}"


def _rows(run: Run, depth: int = 0) -> list[tuple[str, ...]]:
    """The cells of the table; a program inside a program follows its own row, indented."""
    rows: list[tuple[str, ...]] = []
    for step in run.steps:
        sums = (backward_text(step, edge) for edge in step.edges if edge.operand is not None)
        backward = "; ".join(filter(None, sums))
        rows.append(("  " * depth + ", ".join(step.names), applied(step.operation, [edge.name for edge in step.edges]),
                     " ".join(value.text for value in step.values),
                     " ".join("-" if ct is None else ct.text for ct in step.cotangents), backward, step.line))
        if step.inner is not None:
            rows += _rows(step.inner, depth + 1)
    return rows


def header(run: Run) -> str:
    """The call: the function's name and its arguments."""
    name = "λ" if run.graph.name == "<lambda>" else run.graph.name
    given = ", ".join(f"{run.names[v]} = {run.values[v].text}" for v in run.graph.inputs)
    constants = [f"{run.names[v]} = {run.values[v].text}" for v in _spelled(run)]
    if len(constants) > SPELLED_CONSTANTS:
        constants[SPELLED_CONSTANTS:] = ["…"]
    return f"{name}({given})" + (f", where {', '.join(constants)}" if constants else "")


def _spelled(run: Run) -> list[int]:
    """The captured arrays that some step reads: they have no row of their own."""
    read = {edge.operand for step in run.steps for edge in step.edges}
    return [v for v in run.graph.captured if v in read]


def footer(run: Run) -> list[str]:
    """The results: of scalars the sum over paths, of arrays the cotangents."""
    lines = []
    for number, active in zip(run.graph.inputs, run.graph.active, strict=True):
        if active:
            lines += path_lines(run, number)
        else:
            lines.append(f"ct_{run.names[number]}: none, integers have no derivative")
    return lines or ([] if run.steps else ["nothing to differentiate: keyword arguments and constants are not"])


# ---- sums over paths ----


def path_lines(run: Run, number: int) -> list[str]:
    """``∂out/∂x = 3.0 + 0.5`` with one line for each path; the cotangent alone where there are arrays."""
    name, ct = run.names[number], run.cotangents[number]
    total = "0, no path" if ct is None else ct.text
    outputs = [v for v in run.graph.outputs if isinstance(v, int)]
    if ct is None or ct.number is None or len(outputs) != 1 or run.cotangents[outputs[0]] is None:
        return [f"ct_{name} = {total}"]
    found = _paths(run, number, outputs[0])
    head = f"∂{run.names[outputs[0]]}/∂{name} = Σ over paths"
    if found is None:
        return [f"{head} = {total}"]
    if len(found) > PATHS:
        return [f"{head} = {total}  (more than {PATHS} paths)"]
    sums = " + ".join(product for _, product in found)
    lines = [f"{head} = {sums}" if sums == total else f"{head} = {sums} = {total}"]
    return lines + [f"  {' → '.join(nodes)}:  {product}" for nodes, product in found]


def _paths(run: Run, first: int, last: int) -> list[tuple[list[str], str]] | None:
    """Up to `PATHS` + 1 paths between two values: the names on the way, and the product of the partials.

    None where some edge on the way has no single number.
    """
    readers: dict[int, list[tuple[Edge, tuple[int, ...]]]] = {}
    for step, node in zip(run.steps, run.graph.nodes, strict=True):
        for edge in step.edges:
            if edge.operand is not None and edge.contribution is not None:
                readers.setdefault(edge.operand, []).append((edge, node.outputs))
    found: list[tuple[list[str], str]] = []
    pending: list[tuple[int, list[str], list[str]]] = [(first, [run.names[first]], [])]
    while pending and len(found) <= PATHS:
        value, names, factors = pending.pop()
        if value == last:
            found.append((names, " · ".join(factors) or "1.0"))
        for edge, outputs in reversed(readers.get(value, [])):
            if edge.partial is None or edge.partial.number is None or len(outputs) != 1:
                return None
            pending.append((outputs[0], [*names, run.names[outputs[0]]], [edge.partial.text, *factors]))
    return found


# ---- renderings ----


def plain_text(run: Run) -> str:
    """The table in plain text."""
    rows = [_HEAD, *_rows(run)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([header(run), *lines, *footer(run)])


def rich_text(run: Run) -> Any:
    """The table for `rich`."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(header(run)), title_justify="left", show_edge=False)
    for title, style in zip(_HEAD, ("bold", "", "blue", "dark_orange3", "", "dim"), strict=True):
        table.add_column(title, style=style, overflow="fold")
    for row in _rows(run):
        table.add_row(*map(escape, (*row[:4], row[4].replace("; ", "\n"), row[5])))
    return Group(table, *map(escape, footer(run)))


def print_run(run: Run) -> None:
    """Print with `rich` on a terminal where it is installed, as plain text elsewhere."""
    if sys.stdout.isatty():
        try:
            import rich
        except ImportError:
            pass
        else:
            rich.print(rich_text(run))
            return
    print(plain_text(run))


def html(run: Run) -> str:
    """The table for a notebook."""
    def row(cells: tuple[str, ...], tag: str) -> str:
        inside = "".join(f"<{tag} style='text-align:left;vertical-align:top'>"
                         f"{html_module.escape(cell).replace('; ', '<br>')}</{tag}>" for cell in cells)
        return f"<tr>{inside}</tr>"

    body = "".join(row(cells, "td") for cells in _rows(run))
    sums = html_module.escape("\n".join(footer(run)))
    return (f"<p><code>{html_module.escape(header(run))}</code></p><table>{row(_HEAD, 'th')}{body}</table>"
            f"<pre>{sums}</pre>")
