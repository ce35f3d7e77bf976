"""What a picture shows: one item for each operation, links between them, and the scopes they belong to.

Programs inside the program (`jit`, the body of a `scan`, branches) are spread out into the same list; the scope says
where an item belongs. Built with explicit stacks: a graph may be nested deeply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import primitives as p

from funcgrad.graph import Graph, Node
from funcgrad.inspection.frames import Frame, user_frames
from funcgrad.inspection.naming import operand_name, operation_name, own_pullback, value_names
from funcgrad.inspection.steps import Edge, Run, Step
from funcgrad.inspection.table import applied, backward_text, numbers_text
from funcgrad.inspection.values import Summary

#: Operations that change nothing when shape and dtype stay the same; a picture leaves them out.
_CONVERSIONS = {"convert_element_type", "copy", "reshape", "broadcast_in_dim", "copy_p"}
_LONGEST_TITLE = 34


@dataclasses.dataclass(frozen=True)
class Scope:
    """One box around an item.

    Attributes:
      key: what distinguishes it from its neighbours.
      label: what is written on it.
      kind: "call" for a function or module, or the primitive that holds the program.
      offset: how far the function had run; a smaller one than before is another call, or another round of a loop.
    """

    key: Any
    label: str
    kind: str
    offset: int = 0


@dataclasses.dataclass
class Item:
    """One operation, input or constant.

    Attributes:
      kind: "op", "input" or "constant".
      name: the value's name.
      title: the operation as one writes it.
      type, value, ct: in words; empty where unknown.
      line, expression: of the user's program.
      forward, backward: the arithmetic of its step in both sweeps.
      scopes: the boxes around it, outermost first.
      offset: how far the innermost function had run.
      active: whether a cotangent can flow through it.
      output: whether the function returns it.
      count: how many inputs it stands for.
      kept: shown although nobody reads it.
    """

    kind: str
    name: str
    title: str
    type: str = ""
    value: str = ""
    ct: str = ""
    line: str = ""
    expression: str = ""
    forward: str = ""
    backward: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    offset: int = 0
    active: bool = True
    output: bool = False
    count: int = 1
    kept: bool = False


@dataclasses.dataclass(frozen=True)
class Link:
    """A value on its way from one item to another; `slot` is the operand's position, `partial` the local partial."""

    source: int
    target: int
    slot: int
    partial: str = ""
    active: bool = True


@dataclasses.dataclass
class Scene:
    """Items in program order, and the links between them."""

    title: str
    items: list[Item]
    links: list[Link]
    left_out: int = 0


@dataclasses.dataclass
class _Program:
    """A graph that is being spread out; `sources` says for each of its values which items it comes from."""

    graph: Graph
    run: Run | None
    scopes: tuple[Scope, ...]
    names: list[str]
    shared: int
    sources: dict[int, tuple[int, ...]]
    position: int = 0
    pending: list[tuple[Graph, Run | None, str, Sequence[int]]] = dataclasses.field(default_factory=list)


def build_scene(shown: Graph | Run, everything: bool = False, names: Sequence[str] = ()) -> Scene:
    """The scene of a graph, or of a run with its numbers.

    Args:
      shown: what to draw.
      everything: also conversions that change nothing, and values that nobody reads.
      names: of a graph's inputs.
    """
    graph, run = (shown, None) if isinstance(shown, Graph) else (shown.graph, shown)
    builder = _Builder(everything)
    builder.spread(graph, run, names)
    scene = Scene("λ" if graph.name == "<lambda>" else graph.name, builder.items, builder.links, builder.left_out)
    return scene if everything else without_unread(scene)


class _Builder:
    """Collects items and links while programs are spread out."""

    def __init__(self, everything: bool):
        self.everything = everything
        self.items: list[Item] = []
        self.links: list[Link] = []
        self.left_out = 0

    def spread(self, graph: Graph, run: Run | None, names: Sequence[str]) -> None:
        """All items of a program and of those inside it."""
        root = self.program(graph, run, (), list(run.names) if run else value_names(graph, names), {})
        for number in graph.inputs:
            root.sources[number] = (self.leaf("input", root, number),)
        stack = [root]
        while stack:
            top = stack[-1]
            if top.pending:
                self.enter(stack, *top.pending.pop())
            elif top.position < len(top.graph.nodes):
                self.node(top, top.position)
                top.position += 1
            else:
                stack.pop()
                if stack:
                    self.leave(top, stack[-1])
        for value in graph.outputs:
            for item in root.sources.get(value, ()) if isinstance(value, int) else ():
                self.items[item].output = True

    def program(self, graph: Graph, run: Run | None, scopes: tuple[Scope, ...], names: list[str],
                sources: dict[int, tuple[int, ...]]) -> _Program:
        """A program whose operations are to come."""
        made = _Program(graph, run, scopes, names, _shared_prefix(graph), sources)
        for number in graph.captured:
            made.sources[number] = (self.leaf("constant", made, number),)
        return made

    def leaf(self, kind: str, program: _Program, number: int) -> int:
        """The item of an input or constant."""
        run, aval = program.run, program.graph.avals[number]
        ct = run.cotangents[number] if run else None
        active = number in program.graph.inputs and program.graph.active[program.graph.inputs.index(number)]
        self.items.append(Item(
            kind, program.names[number], kind, _type(aval), _words(run.values[number] if run else None),
            _words(ct), scopes=program.scopes, active=active,
            forward=f"{program.names[number]} = {run.values[number].text}" if run else ""))
        return len(self.items) - 1

    def node(self, program: _Program, index: int) -> None:
        """One operation: an item, an alias of its operand, or a program to enter."""
        node = program.graph.nodes[index]
        step = program.run.steps[index] if program.run else None
        bodies = _bodies(node, step)
        if bodies:
            for output in node.outputs:
                program.sources[output] = ()
            if node.primitive is p.cond_p:
                self.choice(program, node)
            program.pending = [(graph, run, kind, operands) for graph, run, kind, operands in reversed(bodies)]
        elif not self.everything and _changes_nothing(node, program.graph):
            (operand,), (output,) = node.operands, node.outputs
            program.sources[output] = program.sources.get(operand, ())  # type: ignore[arg-type]
            program.names[output] = program.names[operand]  # type: ignore[index]
            self.left_out += 1
        else:
            self.operation(program, node, step)

    def choice(self, program: _Program, node: Node) -> None:
        """What the index of a `cond` goes into."""
        predicate = node.operands[0]
        self.items.append(Item("op", "", "choose a branch", line=node.line, active=False, kept=True,
                               forward=f"choose a branch by {operand_name(predicate, program.names)}",
                               scopes=_scopes(user_frames(node.source), program)))
        for source in program.sources.get(predicate, ()) if isinstance(predicate, int) else ():
            self.links.append(Link(source, len(self.items) - 1, 0, active=False))

    def operation(self, program: _Program, node: Node, step: Step | None) -> None:
        """The item of an operation and the links to its operands."""
        frames = user_frames(node.source)
        number = len(self.items)
        self.items.append(_item(node, step, program, frames))
        edges = step.edges if step else (None,) * len(node.operands)
        for slot, (operand, edge, active) in enumerate(zip(node.operands, edges, node.active, strict=True)):
            local = edge.partial if edge is not None else None
            known = local.text if local is not None and local.number is not None else ""
            for source in program.sources.get(operand, ()) if isinstance(operand, int) else ():
                self.links.append(Link(source, number, slot, known, active))
        for output in node.outputs:
            program.sources[output] = (number,)

    def enter(self, stack: list[_Program], graph: Graph, run: Run | None, kind: str, operands: Sequence[int]) -> None:
        """Begin with a program inside the program on top."""
        outer = stack[-1]
        node = outer.graph.nodes[outer.position - 1]
        frames = user_frames(node.source)
        key = (kind, outer.position, id(graph))
        label = kind if graph.name in ("", "<lambda>") or kind.endswith(graph.name) else f"{kind} {graph.name}"
        scopes = _scopes(frames, outer) + (Scope(key, label, str(node.primitive)),)
        made = self.program(graph, run, scopes, list(run.names) if run else value_names(graph), {})
        for number, position in zip(graph.inputs, operands, strict=True):
            operand = node.operands[position]
            made.sources[number] = outer.sources.get(operand, ()) if isinstance(operand, int) else ()
            made.names[number] = operand_name(operand, outer.names)
        stack.append(made)

    def leave(self, inner: _Program, outer: _Program) -> None:
        """A program's outputs are those of the node that holds it; branches share them."""
        node = outer.graph.nodes[outer.position - 1]
        for number, value in zip(node.outputs, inner.graph.outputs, strict=True):
            if isinstance(value, int):
                outer.sources[number] = outer.sources[number] + inner.sources.get(value, ())


def _item(node: Node, step: Step | None, program: _Program, frames: tuple[Frame, ...]) -> Item:
    names = [operand_name(v, program.names) for v in node.operands]
    operation, out = operation_name(node), [program.names[v] for v in node.outputs]
    title = applied(operation, names)
    title = title if len(title) <= _LONGEST_TITLE and len(names) <= 2 else operation
    made = Item("op", ", ".join(out[:2]), title[:_LONGEST_TITLE],
                _type(program.graph.avals[node.outputs[0]]) if node.outputs else "", line=node.line,
                expression=frames[-1].expression if frames else "",
                forward=f"{', '.join(out)} = {applied(operation, names)}", scopes=_scopes(frames, program),
                offset=frames[-1].offset if frames else 0, active=any(node.active))
    if step is None:
        made.backward = tuple(f"ct_{name} += ∂{out[0]}/∂{name} · ct_{out[0]}" for name, flag in
                              zip(names, node.active, strict=True) if flag) if out else ()
        return made
    renamed = _renamed(step, names)
    numbers = numbers_text(renamed)
    arithmetic = numbers or (f" = {step.values[0].text}" if step.values else "")
    made.forward += f" = {arithmetic}" if numbers else arithmetic
    made.value = _words(step.values[0]) if step.values else ""
    made.ct = next((_words(ct) for ct in step.cotangents if ct is not None), "")
    made.backward = tuple(filter(None, (backward_text(renamed, edge) for edge in renamed.edges)))
    return made


def _renamed(step: Step, names: list[str]) -> Step:
    """The step with the operands' names in the picture, where conversions that change nothing are left out."""
    edges: list[Edge] = [dataclasses.replace(edge, name=name) for edge, name in zip(step.edges, names, strict=True)]
    return dataclasses.replace(step, edges=tuple(edges))


def _words(summary: Summary | None) -> str:
    return summary.short if summary is not None and summary.known else ""


def _type(aval: Any) -> str:
    return aval.str_short(short_dtypes=True)


def _changes_nothing(node: Node, graph: Graph) -> bool:
    if str(node.primitive) not in _CONVERSIONS or len(node.operands) != 1 or not isinstance(node.operands[0], int):
        return False
    before, after = graph.avals[node.operands[0]], graph.avals[node.outputs[0]]
    return before.shape == after.shape and before.dtype == after.dtype


# ---- scopes ----


def _call_scopes(frames: tuple[Frame, ...]) -> list[Scope]:
    return [Scope((frame.function, frame.file, caller.offset), _call_label(caller, frame), "call", frame.offset)
            for caller, frame in zip(frames, frames[1:], strict=False)]


def _call_label(caller: Frame, frame: Frame) -> str:
    """The module's class with the attribute that it is called by: ``hidden: Linear``."""
    name, called = frame.name, caller.callee
    is_module = frame.function.endswith(".__call__")
    return f"{called}: {name}" if is_module and called and called.rsplit(".", 1)[-1] != name else name


def _scopes(frames: tuple[Frame, ...], program: _Program) -> tuple[Scope, ...]:
    return program.scopes + tuple(_call_scopes(frames)[program.shared:])


def _shared_prefix(graph: Graph) -> int:
    """How many calls all operations of a graph have in common: the way to the function that was recorded."""
    shared: list[Any] | None = None
    for node in graph.nodes:
        keys = [scope.key for scope in _call_scopes(user_frames(node.source))]
        if shared is None:
            shared = keys
        elif keys[: len(shared)] != shared:
            length = next((i for i, (a, b) in enumerate(zip(shared, keys, strict=False)) if a != b),
                          min(len(shared), len(keys)))
            shared = shared[:length]
    return len(shared or ())


# ---- programs inside a node ----


def _bodies(node: Node, step: Step | None) -> list[tuple[Graph, Run | None, str, Sequence[int]]]:
    """The programs that a node holds: graph, numbers where known, label, and the operand of each input."""
    every = range(len(node.operands))
    if step is not None and step.inner is not None:
        inner = step.inner
        return [(inner.graph, inner, operation_name(node), every[len(node.operands) - len(inner.graph.inputs):])]
    own = own_pullback(node)
    if own is None or str(node.primitive) == "custom_jvp_call":
        return []
    spec = getattr(own, "spec", own)
    if hasattr(spec, "branches"):
        return [(branch.graph, None, f"{node.primitive} branch {i}", every[1:])
                for i, branch in enumerate(spec.branches) if len(branch.graph.inputs) == len(every) - 1]
    graph, loop = getattr(spec, "graph", None), getattr(spec, "loop", None)
    if not isinstance(graph, Graph) or len(graph.outputs) != len(node.outputs):
        return []
    operands = every if loop is None else (*loop.consts, *every[loop.first:])
    label = f"scan ×{node.params['length']}" if "length" in node.params else operation_name(node)
    return [(graph, None, label, operands)] if len(operands) == len(graph.inputs) else []


def without_unread(scene: Scene) -> Scene:
    """A scene without operations whose results nobody reads, and without constants that only they read."""
    readers = [0] * len(scene.items)
    sources: dict[int, list[int]] = {}
    for link in scene.links:
        readers[link.source] += 1
        sources.setdefault(link.target, []).append(link.source)
    dropped: set[int] = set()
    pending = [i for i, item in enumerate(scene.items)
               if not (readers[i] or item.output or item.kept or item.kind == "input")]
    while pending:
        index = pending.pop()
        dropped.add(index)
        for source in sources.get(index, ()):
            readers[source] -= 1
            if not readers[source] and not scene.items[source].output and scene.items[source].kind != "input":
                pending.append(source)
    numbers: dict[int, int] = {}
    for index in range(len(scene.items)):
        if index not in dropped:
            numbers[index] = len(numbers)
    links = [dataclasses.replace(link, source=numbers[link.source], target=numbers[link.target])
             for link in scene.links if link.source in numbers and link.target in numbers]
    return Scene(scene.title, [scene.items[i] for i in numbers], links, scene.left_out + len(dropped))
