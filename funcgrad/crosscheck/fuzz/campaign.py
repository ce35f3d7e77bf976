"""Random programs in earnest: `python -m funcgrad fuzz`.

Each program's gradient by funcgrad is compared with JAX's. A difference that rounding does not explain is reduced to a
few lines, sought among the explained ones, and written down once. What is done is noted after every chunk: an
interrupted run goes on where it was.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Programs between two notes of what is done.
CHUNK = 25
#: A worker is replaced after so many chunks: compiled programs fill its memory. Its successor finds them on disk.
CHUNKS_PER_WORKER = 40
#: One in so many programs is compiled as a whole, and one in so many differentiated twice.
JIT_EVERY, SECOND_EVERY = 23, 17
#: How XLA compiles in the workers: fast.
XLA_FLAGS = ("--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
             "--xla_cpu_use_fusion_emitters=false")


@dataclasses.dataclass(frozen=True)
class Found:
    """One difference, reduced.

    Attributes:
      key: equal for differences of one cause, as far as can be told.
      explained: the name of its explanation; empty when there is none.
      kind, words: what differs.
      example: the number of the program that showed it first.
      mode: how the gradient was taken.
      script: a Python program that shows it.
    """

    key: str
    explained: str
    kind: str
    words: str
    example: int
    mode: str
    script: str


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did, resumed parts included.

    Attributes:
      examples: programs asked for.
      done: programs compared.
      counts: how many matched, were explained (by name), and were not.
      found: one for each cause, explained ones included.
    """

    examples: int
    done: int
    counts: dict[str, int]
    found: tuple[Found, ...]

    @property
    def unexplained(self) -> tuple[Found, ...]:
        """Causes without an explanation."""
        return tuple(found for found in self.found if not found.explained)

    def __str__(self) -> str:
        lines = [f"{self.done} of {self.examples} programs compared"]
        lines += [f"  {count:7} {name}" for name, count in sorted(self.counts.items(), key=lambda item: -item[1])]
        lines += [f"UNEXPLAINED {found.key}: {found.words}" for found in self.unexplained]
        return "\n".join(lines)


def mode_of(number: int) -> str:
    """How the gradient of program `number` is taken."""
    return "jit" if number % JIT_EVERY == 3 else "order 2" if number % SECOND_EVERY == 5 else "eager"


def run_one(seed: int, number: int) -> Found | None:
    """Compare one program; what was found, reduced and looked up."""
    from funcgrad.crosscheck.fuzz.compare import compare
    from funcgrad.crosscheck.programs.strategy import random_program

    program, mode = random_program([seed, number], statements=4), mode_of(number)
    difference = compare(program, mode)
    if difference is None:
        return None
    return described(program, difference, mode, number)


def described(program: Any, difference: Any, mode: str, number: int) -> Found:
    """A difference, reduced and looked up."""
    from funcgrad.crosscheck.fuzz.compare import cancels, compare
    from funcgrad.crosscheck.fuzz.explained import CANCELS, explanation
    from funcgrad.crosscheck.programs.reduce import reduced

    if difference.kind == "values" and cancels(program, mode):
        return Found(CANCELS, CANCELS, difference.kind, str(difference), number, mode,
                     f"# program {number}, {mode}: {difference}\n" + program.script())

    def fails(candidate: Any) -> bool:
        found = compare(candidate, mode)
        return found is not None and found.kind == difference.kind

    small = reduced(program, fails)
    last = compare(small, mode) or difference
    entry = explanation(small, last)
    key = f"{mode}: {' '.join(small.function.ops())}: {last.kind}"
    return Found(entry.name if entry else key, entry.name if entry else "", last.kind, str(last), number, mode,
                 f"# program {number}, {mode}: {last}\n" + small.script())


def run_chunk(seed: int, start: int, stop: int) -> dict[str, Any]:
    """Compare some programs, in a worker; plain data."""
    counts: collections.Counter[str] = collections.Counter()
    found: dict[str, Found] = {}
    for number in range(start, stop):
        result = run_one(seed, number)
        counts["matched" if result is None else f"explained: {result.explained}" if result.explained
               else "unexplained"] += 1
        if result is not None:
            found.setdefault(result.key, result)
    return {"start": start, "stop": stop, "counts": dict(counts),
            "found": [dataclasses.asdict(entry) for entry in found.values()]}


def _prepare(cache: str) -> None:
    """Settings of a worker, before JAX is used there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Notes:
    """What is done, in a folder: one line of JSON for each chunk, and a script for each cause."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.path = folder, folder / f"seed-{seed}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.chunks: dict[int, dict[str, Any]] = {chunk["start"]: chunk for chunk in map(json.loads, lines)}

    def add(self, chunk: dict[str, Any]) -> None:
        """Note a chunk; write the script of a cause that is new."""
        known = {entry.key for entry in self.found()}
        self.chunks[chunk["start"]] = chunk
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(chunk) + "\n")
        for entry in chunk["found"]:
            if entry["key"] not in known:
                kind = "explained" if entry["explained"] else "unexplained"
                (self.folder / f"{kind}-{entry['example']}.py").write_text(entry["script"], encoding="utf-8")

    def found(self) -> list[Found]:
        """One entry for each cause, in the order of examples."""
        first: dict[str, Found] = {}
        for start in sorted(self.chunks):
            for entry in self.chunks[start]["found"]:
                first.setdefault(entry["key"], Found(**entry))
        return list(first.values())

    def summary(self, examples: int) -> Summary:
        """What was done so far."""
        counts: collections.Counter[str] = collections.Counter()
        for chunk in self.chunks.values():
            counts.update(chunk["counts"])
        done = sum(chunk["stop"] - chunk["start"] for chunk in self.chunks.values())
        return Summary(examples, done, dict(counts), tuple(self.found()))


def fuzz(examples: int = 1000, seed: int = 0, jobs: int = 1, out: str | os.PathLike[str] = "runs/fuzz",
         progress: Callable[[Notes, int], None] | None = None) -> Summary:
    """Compare the gradients of random programs with JAX's.

    Args:
      examples: how many programs. Programs 0 to `examples` of a seed are always the same.
      seed: of the programs.
      jobs: processes.
      out: a folder for notes and for one script per cause of a difference. A run that finds notes there goes on.
      progress: called after each chunk with the notes and the number of new programs.

    Returns:
      What was found. Ctrl-C ends a run after the chunks in work, and what is done so far is returned.
    """
    notes = Notes(Path(out), seed)
    todo = [(start, min(start + CHUNK, examples)) for start in range(0, examples, CHUNK)]
    todo = [(start, stop) for start, stop in todo
            if start not in notes.chunks or notes.chunks[start]["stop"] < stop]
    try:
        for chunk in _results(seed, todo, jobs, str(notes.folder / "cache")):
            notes.add(chunk)
            if progress is not None:
                progress(notes, chunk["stop"] - chunk["start"])
    except KeyboardInterrupt:
        pass
    return notes.summary(examples)


def _results(seed: int, todo: list[tuple[int, int]], jobs: int, cache: str) -> Iterator[dict[str, Any]]:
    """The chunks as they are done; few are in work at a time, so that an interruption does not take long."""
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = XLA_FLAGS
    context = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(cache,),
                                                    max_tasks_per_child=CHUNKS_PER_WORKER) as pool:
            waiting = iter(todo)
            running = {pool.submit(run_chunk, seed, *chunk) for chunk in itertools.islice(waiting, jobs + 1)}
            while running:
                done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                running |= {pool.submit(run_chunk, seed, *chunk) for chunk in itertools.islice(waiting, len(done))}
                yield from (future.result() for future in done)
    finally:
        os.environ.pop("XLA_FLAGS")
        if before is not None:
            os.environ["XLA_FLAGS"] = before


def main(examples: int = 1000, seed: int = 0, jobs: int = 1, out: str = "runs/fuzz") -> int:
    """The command: a progress bar, the summary, and the exit code.

    Returns:
      0 when every difference is explained, 1 when one is not.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    with Progress(TextColumn("programs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  TextColumn("{task.fields[state]}"), console=console) as bar:
        task = bar.add_task("programs", total=examples, state="")

        def progress(notes: Notes, _new: int) -> None:
            summary = notes.summary(examples)
            bar.update(task, completed=min(summary.done, examples),
                       state=f"{summary.counts.get('unexplained', 0)} unexplained")

        summary = fuzz(examples, seed, jobs, out, progress)
    console.print(str(summary), markup=False, highlight=False)
    if summary.done < examples:
        console.print(f"stopped; the same command goes on after program {summary.done}.", markup=False)
    return 1 if summary.unexplained else 0
