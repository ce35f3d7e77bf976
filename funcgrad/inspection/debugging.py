"""`debug_nonfinite`: a context in which a gradient that is not finite names the line that it comes from, also in `jit`.

Each transform adds one flag to its program: is anything in the value or the gradient not finite? Where it is, the
values that the run began with come to the host, and the run is searched there once more, operation by operation, when
the block ends (a callback must not compute). Under `vmap` the flags come lane by lane, and the lane to blame runs again
alone.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend import source_info_util
from jax.extend.core import take_current_trace

from funcgrad import _compat
from funcgrad.graph import Graph, carries_gradient
from funcgrad.inspection.naming import readable
from funcgrad.inspection.nonfinite import batches, report_of
from funcgrad.inspection.origins import Program, bad, search
from funcgrad.inspection.places import Nonfinite, Place
from funcgrad.inspection.replay import Inside, all_finite
from funcgrad.inspection.shards import Shards, manual_axes, partly_explicit
from funcgrad.pullback import FlatPullback, recompute
from funcgrad.taps import Functions, taps_in_force, taps_now
from funcgrad.trace import GraphTrace
from funcgrad.tracer import UNKNOWN
from funcgrad.vjp import Recording
from funcgrad.watching import WATCHER
from funcgrad.zeros import strong_zeros, zeros_are_strong

Array = Any
#: Where a shard is in the mesh; () outside of a `shard_map`.
Lane = tuple[int, ...]


class NonfiniteError(FloatingPointError):
    """A value or a gradient is not finite; `report` says where that began."""

    def __init__(self, report: Nonfinite):
        super().__init__(str(report))
        self.report = report


def debug_nonfinite(report: Callable[[Nonfinite], Any] | None = None) -> Debugging:
    """A context in which funcgrad's transforms name the line that makes a value or a gradient NaN or infinite.

    Works eagerly, under `jit`, `vmap`, `scan`, `cond` and `while_loop`; functions compiled before are compiled once
    more, with a flag that tells whether all is finite. Outside the context nothing of it is there. Operations that run
    at once raise at once; what is found in compiled code is raised when the block ends, or by `check()`.

    Args:
      report: called with each report, instead of raising the first one.

    Returns:
      The context. Enter the same object again, and nothing is compiled anew.

    Raises:
      NonfiniteError: with the report, see `find_nonfinite`.

    >>> import funcgrad, jax, jax.numpy as jnp
    >>> step = jax.jit(funcgrad.grad(lambda x: jnp.sqrt(x).sum()))
    >>> with debug_nonfinite(lambda found: print(found.place.sentence)):
    ...     gradient = step(jnp.array([1.0, 0.0]))
    the cotangent that sqrt(0.0) gives to its operand, where 1.0 arrives from its result, is inf at index 1
    """
    if report is not None and not callable(report):
        raise TypeError(f"report must be a function of a report, got {report!r}.\nTo fix: pass print, or nothing.")
    return Debugging(report)


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in the program where a sweep is watched: all that is known before it runs.

    Attributes:
      graph: what is swept.
      known: numbers of the values that come to the host.
      recomputed: the nodes that run again there.
      given: the outputs that have cotangents, which come too.
      names: of the inputs.
      batches: how many `vmap`s are around.
      strong_zeros: whether a zero cotangent stays zero there.
      taps: the functions that change cotangents there.
      shards: how it runs again, where it stands in the body of a `shard_map`.
    """

    graph: Graph
    known: tuple[int, ...]
    recomputed: tuple[int, ...]
    given: tuple[int, ...]
    names: tuple[str, ...]
    batches: int
    strong_zeros: bool
    taps: Functions
    shards: Shards | None = None

    def search(self, arrays: Sequence[Array], inside: tuple[Inside, ...]) -> Nonfinite:
        """Run again and search."""
        with strong_zeros(self.strong_zeros), taps_in_force(self.taps):
            return self._search(arrays, inside)

    def search_shards(self, arrived: Mapping[Lane, Sequence[np.ndarray]], inside: tuple[Inside, ...]) -> Nonfinite:
        """Run all shards again and search them; where that cannot be, name the whole."""
        with jax.set_mesh(None):  # the replay is on one device, whatever mesh is in force around it
            return self._search_all(arrived, inside)

    def _search_all(self, arrived: Mapping[Lane, Sequence[np.ndarray]], inside: tuple[Inside, ...]) -> Nonfinite:
        assert self.shards is not None
        here = (*inside, Inside("shard_map", axes=self.shards.axes))
        if self.shards.jaxpr is not None:
            with suppress(Exception):  # what `vmap` cannot do, in whatever library
                return self._search_shards(self.shards, arrived, here)
        lane, values = next(iter(arrived.items()))
        alone = (*inside, Inside("shard_map"), *(Inside(f"shard {name}", number=number) for (name, _), number
                                                 in zip(self.shards.axes, lane, strict=True)))
        if self.given:
            with suppress(Exception):  # a pullback: the shard alone, which is enough where it talks to no other
                found = self.search(list(map(_on_device, site_avals(self), values)), alone)
                if found.found:
                    return found
        return Nonfinite(self.graph.name, Place(f"a part of `{self.graph.name}`", number="not finite", inside=alone))

    def _search_shards(self, shards: Shards, arrived: Mapping[Lane, Sequence[np.ndarray]],
                       inside: tuple[Inside, ...]) -> Nonfinite:
        avals = site_avals(self)
        arrays = {place: list(map(_on_device, avals, values)) for place, values in arrived.items()}
        with strong_zeros(self.strong_zeros), taps_in_force(self.taps):
            recording = shards.run(arrays, self.graph.name)
            seeds = [lax.full_like(out, 1) if carries_gradient(aval) else None
                     for out, aval in zip(recording.outputs, recording.out_avals, strict=True)]
            found = report_of(search(Program.of(recording), seeds), self.graph.name, self.names, inside, self.batches)
        return _with_real_shard(found, shards, arrived)

    def _search(self, arrays: Sequence[Array], inside: tuple[Inside, ...]) -> Nonfinite:
        graph = self.graph
        known = dict(zip(self.known, arrays, strict=False))
        seeds: list[Array | None] = [None] * len(graph.outputs)
        for position, ct in zip(self.given, arrays[len(self.known):], strict=True):
            seeds[position] = ct
        recompute(graph, self.recomputed, known)
        program = Program(graph, [known.get(v) for v in range(len(graph.avals))])
        return report_of(search(program, seeds), graph.name, self.names, inside, self.batches)


@dataclasses.dataclass(frozen=True, eq=False)
class Debugging(AbstractContextManager):
    """What `debug_nonfinite` gives back.

    Attributes:
      report: called with each report; None: raise.
    """

    report: Callable[[Nonfinite], Any] | None = None
    _arrived: list[tuple[Site, Lane, list[np.ndarray], tuple[Inside, ...]]] = dataclasses.field(default_factory=list)
    _calls: dict[tuple[int, Lane], list[bool]] = dataclasses.field(default_factory=dict)
    _entered: list[ExitStack] = dataclasses.field(default_factory=list)

    def __enter__(self) -> Debugging:
        stack = ExitStack()
        stack.enter_context(WATCHER(self))
        self._arrived.clear()
        self._calls.clear()
        self._entered.append(stack)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._entered.pop().close()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Wait for compiled code to end, and say what was found there; the context's end does so, too.

        Raises:
          NonfiniteError: unless `report` is told instead.
        """
        jax.effects_barrier()
        arrived, calls = self._arrived[:], dict(self._calls)
        self._arrived.clear()
        self._calls.clear()
        for site, shard, arrays, inside in arrived:
            flags = calls.get((id(site), shard), [])
            counted = (Inside("call", site.graph.name, flags.index(True)),) if len(flags) > 1 and any(flags) else ()
            with WATCHER(None):
                if site.shards is None:
                    found = site.search(list(map(_on_device, site_avals(site), arrays)), (*counted, *inside))
                else:
                    at_once = self._with_others(site, shard, arrived, calls)
                    if at_once is None:
                        continue
                    found = site.search_shards(at_once, (*counted, *inside))
            self._tell(found)

    @staticmethod
    def _with_others(site: Site, shard: Lane, arrived: Sequence[tuple], calls: Mapping[Any, list[bool]],
                     ) -> dict[Lane, list[np.ndarray]] | None:
        """What came from the shards of one `shard_map` in the first call that was not finite; None for the others."""
        first = {place: calls[id(other), place].index(True) for other, place, _, _ in arrived if other is site}
        own = [place for place, call in first.items() if call == min(first.values())]
        if shard != own[0]:
            return None
        return {place: arrays for other, place, arrays, _ in arrived if other is site and place in own}

    def _tell(self, found: Nonfinite) -> None:
        if found.ok:  # the flag was set by something that comes out finite operation by operation
            found = dataclasses.replace(found, compiled_only=True)
        if self.report is None:
            raise NonfiniteError(found)
        self.report(found)

    # ---- what the transforms call ----

    def swept(self, recording: Recording, results: Sequence[Array | None], fun: Callable[..., Any],
              numbers: int | Sequence[int], chosen: Sequence[Any]) -> None:
        """A transform has run a function of its arguments `numbers`, and swept it back or pushed tangents."""
        if _in_linear_trace() or _out_of_sight(recording.graph):
            return
        graph = recording.graph
        seeds = [lax.full_like(out, 1) if carries_gradient(aval) else None
                 for out, aval in zip(recording.outputs, recording.out_avals, strict=True)]
        fixed = {v for node in graph.nodes if not node.rerunnable for v in (*node.outputs, *node.hidden)}
        known = tuple(sorted({*graph.inputs, *graph.captured} | fixed))
        again = tuple(i for i, node in enumerate(graph.nodes) if node.rerunnable)
        given = tuple(i for i, ct in enumerate(seeds) if ct is not None)
        names = chosen_names(fun, (numbers,) if isinstance(numbers, int) else numbers, chosen)
        shards = Shards.here(recording, known) if _in_shards() else None
        site = Site(graph, known, again, given if shards is None else (), tuple(names), _batches(), zeros_are_strong(),
                    taps_now(), shards)
        watched = [*recording.outputs, *results]
        values = [None if v is UNKNOWN else _compat.concrete_or_none(v) for v in recording.values]
        if all(value is None or _compat.concrete_or_none(value) is not None for value in watched):
            with WATCHER(None):
                if any(bad(_compat.concrete_or_none(value)).any() for value in watched if value is not None):
                    cts = [None if ct is None else _compat.concrete_or_none(ct) for ct in seeds]
                    self._tell(report_of(search(Program(graph, values), cts), graph.name, site.names, (), site.batches))
            return
        self._emit(site, watched, [*(recording.values[v] for v in known), *(seeds[i] for i in site.given)])

    def pulled(self, flat: FlatPullback, in_tree: Any, cts: Sequence[Array | None],
               results: Sequence[Array | None]) -> None:
        """A pullback was applied to cotangents."""
        if _in_linear_trace() or _out_of_sight(flat.graph):
            return
        given = tuple(i for i, ct in enumerate(cts) if ct is not None)
        shards = Shards(manual_axes(), None, ()) if _in_shards() else None
        site = Site(flat.graph, flat.plan.saved, flat.plan.recomputed, given, _tree_names(in_tree), _batches(),
                    zeros_are_strong(), taps_now(), shards)
        arrays = [*flat.residuals, *(cts[i] for i in given)]
        concrete = [_compat.concrete_or_none(array) for array in (*arrays, *results) if array is not None]
        if all(value is not None for value in concrete):
            with WATCHER(None):
                if any(bad(value).any() for value in concrete[len(arrays):]):
                    self._tell(site.search(concrete[:len(arrays)], ()))
            return
        self._emit(site, results, arrays)

    def _emit(self, site: Site, watched: Sequence[Array | None], arrays: Sequence[Array]) -> None:
        """Put the flag, and the way to the host, into the program that is being traced."""
        with WATCHER(None):
            flag = jnp.logical_not(all_finite(watched))
            fixed = [lax.stop_gradient(jnp.asarray(array)) for array in arrays]  # for those who differentiate all this
            numbers = [jax.random.key_data(array) if _compat.is_extended(array.dtype) else array for array in fixed]
            _messenger(self, site, ((),) * len(numbers))(flag, *numbers)

    # ---- on the host ----

    def tick(self, site: Site, flag: Array, *shard: Array) -> None:
        """One more call of a site: in a loop around the transform its number is the step's."""
        self._calls.setdefault((id(site), tuple(map(int, shard))), []).append(bool(np.any(flag)))

    def arrive(self, site: Site, batched: tuple[tuple[bool, ...], ...], flag: Array, shard: Sequence[Array],
               *arrays: Array) -> None:
        """The values of a run that is not finite; the first of each site, and of each shard of it, is kept."""
        place = tuple(map(int, shard))
        if any(other is site and earlier == place for other, earlier, _, _ in self._arrived):
            return
        lane = np.unravel_index(int(np.argmax(np.asarray(flag))), np.shape(flag)) if np.shape(flag) else ()
        own = [np.asarray(array)[tuple(i for i, has in zip(lane, axes, strict=True) if has)]
               for array, axes in zip(arrays, batched, strict=True)]
        self._arrived.append((site, place, own, tuple(Inside("batch index", number=int(i)) for i in lane)))


def _in_shards() -> bool:
    """Whether the body of a `shard_map` is being traced."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def _out_of_sight(graph: Graph) -> bool:
    """Whether nothing can be sent from here to the host; then says so."""
    if not partly_explicit():
        return False
    mesh = jax.sharding.get_abstract_mesh()
    warnings.warn(f"debug_nonfinite does not watch `{graph.name}`: in a `shard_map` over {mesh.manual_axes} of a mesh "
                  f"whose axes {mesh.explicit_axes} are explicit, JAX lets no values out.\nTo fix: use find_nonfinite "
                  "around the shard_map, or make the other axes of the mesh manual or AxisType.Auto while you search.",
                  stacklevel=2)
    return True


def _batches() -> int:
    """How many `vmap`s are around."""
    return batches(source_info_util.current_name_stack())


def _tree_names(in_tree: Any) -> tuple[str, ...]:
    """Names of a pullback's arguments, whose function's parameters are not known any more."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.unflatten(in_tree, range(in_tree.num_leaves)))
    return tuple(readable([f"argument{jax.tree_util.keystr(path)}" for path, _ in leaves]))


def _in_linear_trace() -> bool:
    """Whether a backward program is only being recorded, to be transposed: nothing there has a value."""
    with take_current_trace() as current:
        trace = current
    while trace is not None:
        if isinstance(trace, GraphTrace) and trace.mode.linear:
            return True
        trace = getattr(trace, "parent", None) or getattr(trace, "parent_trace", None)
    return False


def _messenger(debugging: Debugging, site: Site, batched: tuple[tuple[bool, ...], ...]) -> Callable[..., None]:
    """What brings the values to the host if the flag is set; `batched` says which axes of `vmap` each array has."""

    def message(flag: Array, *arrays: Array) -> None:
        shard = [lax.axis_index(name) for name, _ in site.shards.axes] if site.shards else []
        jax.debug.callback(partial(debugging.tick, site), flag, *shard)

        def send() -> None:
            jax.debug.callback(partial(debugging.arrive, site, batched), flag, shard, *arrays)

        lax.cond(jnp.any(flag), send, lambda: None)

    rule = custom_vmap(message)

    @rule.def_vmap
    def lanes(size: int, mapped: Sequence[bool], flag: Array, *arrays: Array) -> tuple[None, None]:
        flags = flag if mapped[0] else jnp.broadcast_to(flag, (size, *flag.shape))
        axes = tuple((bool(has), *before) for has, before in zip(mapped[1:], batched, strict=True))
        _messenger(debugging, site, axes)(flags, *arrays)
        return None, None

    return rule


def site_avals(site: Site) -> list[Any]:
    """Types of the arrays that a site sends."""
    graph = site.graph
    of_cts = [graph.avals[v] if isinstance(v, int) else v.aval for v in (graph.outputs[i] for i in site.given)]
    return [*(graph.avals[v] for v in site.known), *of_cts]


def _with_real_shard(found: Nonfinite, shards: Shards, arrived: Mapping[Lane, Any]) -> Nonfinite:
    """The report with a shard that numbers came from, where one is named that another stood in for."""
    if found.place is None:
        return found
    named = tuple(found.place.steps.get(f"shard {name}", -1) for name, _ in shards.axes)
    if named in arrived or -1 in named:
        return found
    real = {f"shard {name}": number for (name, _), number in zip(shards.axes, next(iter(arrived)), strict=True)}
    inside = tuple(dataclasses.replace(entry, number=real.get(entry.what, entry.number))
                   for entry in found.place.inside)
    return dataclasses.replace(found, place=dataclasses.replace(found.place, inside=inside))


def _on_device(aval: Any, array: np.ndarray) -> Array:
    """An array that came to the host, as it was; keys are keys again."""
    if _compat.is_extended(aval.dtype):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(aval))
    mesh = jax.sharding.get_mesh()
    return jnp.asarray(array) if mesh.empty else jax.device_put(array, jax.NamedSharding(mesh, aval.sharding.spec))


def chosen_names(fun: Callable[..., Any], numbers: Sequence[int], chosen: Sequence[Any]) -> list[str]:
    """A name for each leaf of the differentiated arguments."""
    try:
        parameters = list(inspect.signature(fun).parameters)
    except (TypeError, ValueError):
        parameters = []
    names = []
    for number, arg in zip(numbers, chosen, strict=True):
        name = parameters[number] if -len(parameters) <= number < len(parameters) else f"argument{number}"
        names += [f"{name}{jax.tree_util.keystr(path)}" for path, _ in jax.tree_util.tree_leaves_with_path(arg)]
    return readable(names)
