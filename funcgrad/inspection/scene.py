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
from funcgrad.inspection.items import Item, Link, Scene, Scope, are_backward, without_unread
from funcgrad.inspection.naming import changes_nothing, operand_name, operation_name, own_pullback, value_names
from funcgrad.inspection.steps import Edge, Pull, Run, Step
from funcgrad.inspection.table import applied, backward_text, numbers_text
from funcgrad.inspection.values import Summary
from funcgrad.watching import pulls_of

_LONGEST_TITLE = 34
#: The sides of a picture of both sweeps.
_FORWARD = Scope("forward", "forward", "forward")
_BACKWARD = Scope("backward", "backward, from below", "backward")


@dataclasses.dataclass
class _Program:
    """A graph that is being spread out.

    `sources` says for each of its values which items it comes from; `turn` is the first value of a backward sweep, None
    where it has none; `caller` is the line that runs it, which counts for operations without one of the user's.
    """

    graph: Graph
    run: Run | None
    scopes: tuple[Scope, ...]
    names: list[str]
    shared: int
    sources: dict[int, tuple[int, ...]]
    turn: int | None = None
    caller: str = ""
    position: int = 0
    pending: list[tuple[Graph, Run | None, str, Sequence[int]]] = dataclasses.field(default_factory=list)

    @property
    def is_backward(self) -> bool:
        """Whether it is part of the gradient's program."""
        return are_backward(self.scopes)


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
        both = run is not None and any(step.pull for step in run.steps)
        called = list(run.names) if run else value_names(graph, names)
        root = self.program(graph, run, (_FORWARD,) if both else (), called, {})
        for number in graph.inputs:
            root.sources[number] = (self.leaf("input", root, number),)
        self.drain(root)
        for value in graph.outputs:
            for item in root.sources.get(value, ()) if isinstance(value, int) else ():
                self.items[item].output = True
        if both and run is not None:
            self.backward(root, run)
        self.part()

    def part(self) -> None:
        """Which links cross from the function's program to the gradient's; the latter's own constants are there."""
        readers: dict[int, list[int]] = {}
        for link in self.links:
            readers.setdefault(link.source, []).append(link.target)
        for source, targets in readers.items():
            if self.items[source].kind == "constant" and all(self.items[target].is_backward for target in targets):
                self.items[source].scopes = (_BACKWARD,)
        self.links = [dataclasses.replace(link, crosses=self.items[link.target].is_backward and not
                                          self.items[link.source].is_backward) for link in self.links]

    def drain(self, program: _Program) -> None:
        """All items of a program and of those inside it."""
        stack = [program]
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

    def backward(self, forward: _Program, run: Run) -> None:
        """The gradient's own program: each operation's backward step, in boxes as on the forward side."""
        for item in self.items:
            item.ct, item.backward = "", ()  # they are items of their own
        cts: dict[int, tuple[int, ...]] = {}
        for number in dict.fromkeys(v for v in run.graph.outputs if isinstance(v, int)):
            seed = run.cotangents[number]
            if seed is not None:
                cts[number] = (len(self.items),)
                self.items.append(Item("input", f"ct_{run.names[number]}", "seed", _type(run.graph.avals[number]),
                                       _words(seed), scopes=(_BACKWARD,)))
        for index in range(len(run.steps) - 1, -1, -1):
            pull = run.steps[index].pull
            if pull is not None:
                self.pull(forward, run.graph.nodes[index], pull, cts)
        for number in run.graph.inputs:
            for place in cts.get(number, ()):
                self.items[place].output = True

    def pull(self, forward: _Program, node: Node, pull: Pull, cts: dict[int, tuple[int, ...]]) -> None:
        """One backward step; where a cotangent has come already, a sum follows."""
        graph, first = pull.run.graph, len(self.items)
        scopes = _pull_scopes(node, forward.shared, [(first, operation_name(node))])
        program = self.program(graph, pull.run, scopes, list(pull.run.names), {})
        given = [forward.sources.get(v, ()) for v in pull.values] + [cts.get(v, ()) for v in pull.cts]
        program.sources.update(zip(graph.inputs, given, strict=True))
        targets = [node.operands[slot] for slot in pull.slots]
        for output, target in zip(graph.outputs, targets, strict=True):
            if isinstance(output, int) and output not in graph.inputs:
                program.names[output] = f"ct_{operand_name(target, forward.names)}"
        self.drain(program)
        for output, target in zip(graph.outputs, targets, strict=True):
            arriving = program.sources.get(output, ()) if isinstance(output, int) else ()
            if isinstance(target, int):
                cts[target] = self.summed(target, cts.get(target, ()), arriving, forward, scopes[:-1])
        for item in self.items[first:]:
            item.line, item.offset, item.expression = node.line, scopes[-1].offset, ""

    def summed(self, target: int, before: tuple[int, ...], arriving: tuple[int, ...], forward: _Program,
               scopes: tuple[Scope, ...]) -> tuple[int, ...]:
        """The items of a cotangent after one more contribution."""
        if not before or not arriving:
            return before or arriving
        name = f"ct_{operand_name(target, forward.names)}"
        total = _words(forward.run.cotangents[target]) if forward.run else ""
        number = len(self.items)
        parts = " + ".join(self.items[source].value or self.items[source].name for source in (*before, *arriving))
        self.items.append(Item("op", name, "sum", _type(forward.graph.avals[target]), total, operation="sum",
                               scopes=scopes, forward=f"{name} = {parts}{total and f' = {total}'}"))
        for source in (*before, *arriving):
            self.links.append(Link(source, number, 0))
        return (number,)

    def program(self, graph: Graph, run: Run | None, scopes: tuple[Scope, ...], names: list[str],
                sources: dict[int, tuple[int, ...]]) -> _Program:
        """A program whose operations are to come."""
        turn = None if are_backward(scopes) else _turn(graph)
        if turn is not None:
            scopes = (*scopes, _FORWARD)
        made = _Program(graph, run, scopes, names, _shared_prefix(graph), sources, turn)
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
        elif not self.everything and changes_nothing(node, program.graph):
            (operand,), (output,) = node.operands, node.outputs
            program.sources[output] = program.sources.get(operand, ())  # type: ignore[arg-type]
            program.names[output] = program.names[operand]  # type: ignore[index]
            self.left_out += 1
        else:
            self.operation(program, node, step)

    def choice(self, program: _Program, node: Node) -> None:
        """What the index of a `cond` goes into."""
        predicate = node.operands[0]
        self.items.append(Item("op", "", "choose a branch", line=_line(node, program), active=False, kept=True,
                               forward=f"choose a branch by {operand_name(predicate, program.names)}",
                               scopes=_scopes(node, program)))
        for source in program.sources.get(predicate, ()) if isinstance(predicate, int) else ():
            self.links.append(Link(source, len(self.items) - 1, 0, active=False))

    def operation(self, program: _Program, node: Node, step: Step | None) -> None:
        """The item of an operation and the links to its operands."""
        number = len(self.items)
        self.items.append(_item(node, step, program))
        edges = step.edges if step else (None,) * len(node.operands)
        for slot, (operand, edge, active) in enumerate(zip(node.operands, edges, node.active, strict=True)):
            local = edge.partial if edge is not None else None
            known = local.text if local is not None and local.number is not None else ""
            for source in program.sources.get(operand, ()) if isinstance(operand, int) else ():
                self.links.append(Link(source, number, slot, known, active or program.is_backward))
        for output in node.outputs:
            program.sources[output] = (number,)

    def enter(self, stack: list[_Program], graph: Graph, run: Run | None, kind: str, operands: Sequence[int]) -> None:
        """Begin with a program inside the program on top."""
        outer = stack[-1]
        node = outer.graph.nodes[outer.position - 1]
        key = (kind, outer.position, id(graph))
        label = kind if graph.name in ("", "<lambda>") or kind.endswith(graph.name) else f"{kind} {graph.name}"
        scopes = _scopes(node, outer) + (Scope(key, label, str(node.primitive)),)
        made = self.program(graph, run, scopes, list(run.names) if run else value_names(graph), {})
        made.caller = _line(node, outer)
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


def _item(node: Node, step: Step | None, program: _Program) -> Item:
    frames, scopes = user_frames(node.source), _scopes(node, program)
    names = [operand_name(v, program.names) for v in node.operands]
    operation, out = operation_name(node), [program.names[v] for v in node.outputs]
    title = applied(operation, names)
    title = title if len(title) <= _LONGEST_TITLE and len(names) <= 2 else operation
    made = Item("op", ", ".join(out[:2]), title[:_LONGEST_TITLE],
                _type(program.graph.avals[node.outputs[0]]) if node.outputs else "", line=_line(node, program),
                expression=frames[-1].expression if frames else "",
                forward=f"{', '.join(out)} = {applied(operation, names)}", scopes=scopes,
                offset=frames[-1].offset if frames else 0,
                active=any(node.active) or program.is_backward, operation=str(node.primitive))
    if step is None and _FORWARD in program.scopes:
        made.kept = not made.is_backward  # the function is shown, although its gradient may need only parts of it
        made.offset = scopes[-1].offset if made.is_backward else made.offset
    elif step is None:
        made.backward = tuple(f"ct_{name} += ∂{out[0]}/∂{name} · ct_{out[0]}" for name, flag in
                              zip(names, node.active, strict=True) if flag) if out else ()
    return made if step is None else _with_numbers(made, step, names)


def _with_numbers(made: Item, step: Step, names: list[str]) -> Item:
    """The item of an operation that has run."""
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


def _line(node: Node, program: _Program) -> str:
    return program.caller if program.caller and not user_frames(node.source) else node.line


# ---- scopes ----


def _call_scopes(frames: tuple[Frame, ...]) -> list[Scope]:
    return [Scope((frame.function, frame.file, caller.offset), _call_label(caller, frame), "call", frame.offset)
            for caller, frame in zip(frames, frames[1:], strict=False)]


def _call_label(caller: Frame, frame: Frame) -> str:
    """The module's class with the attribute that it is called by: ``hidden: Linear``."""
    name, called = frame.name, caller.callee
    is_module = frame.function.endswith(".__call__")
    return f"{called}: {name}" if is_module and called and called.rsplit(".", 1)[-1] != name else name


def _scopes(node: Node, program: _Program) -> tuple[Scope, ...]:
    """The boxes around an operation; where there is a backward sweep, what comes after it continues that side."""
    if program.turn is None or not node.outputs or node.outputs[0] < program.turn:
        return program.scopes + tuple(_call_scopes(user_frames(node.source))[program.shared:])
    return program.scopes[:-1] + _pull_scopes(node, program.shared, pulls_of(node.source))


def _pull_scopes(node: Node, shared: int, pulls: Sequence[tuple[int, str]]) -> tuple[Scope, ...]:
    """The boxes around a backward step, which runs from below: the modules of what it pulls, and one of its own."""
    frames = user_frames(node.source)
    around = [dataclasses.replace(scope, offset=-scope.offset) for scope in _call_scopes(frames)[shared:]]
    offset = -frames[-1].offset if frames else 0
    own = [Scope(("pull", index), f"pull {operation}", "pull", offset) for index, operation in reversed(pulls)]
    return _BACKWARD, *around, *own


def _turn(graph: Graph) -> int | None:
    """The first value that a recorded backward sweep computes, None where there is no sweep in a program."""
    return next((node.outputs[0] for node in graph.nodes if node.outputs and pulls_of(node.source)), None)


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
