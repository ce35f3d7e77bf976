"""The README's own programs run, and print what the README says they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    """A python block, where it stands, and the text block that directly follows it (its output), if any."""

    line: int
    source: str
    printed: str | None


def snippets_of(text: str) -> list[Snippet]:
    """All python blocks of a markdown text, in order."""
    blocks = list(BLOCK.finditer(text))
    found = []
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block["language"] != "python":
            continue
        printed = None
        if following is not None and following["language"] == "text":
            touching = not text[block.end() : following.start()].strip()
            printed = following["body"] if touching else None
        line = text.count("\n", 0, block.start("body"))
        found.append(Snippet(line, block["body"], printed))
    return found


def run_snippets(snippets: list[Snippet], filename: str) -> None:
    """Run the snippets in order in one namespace, as a reader would, and compare what they print."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for snippet in snippets:
        # Blank lines in front make a traceback point at the README's own line.
        program = compile("\n" * snippet.line + snippet.source, filename, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(program, namespace)
        if snippet.printed is not None:
            assert output.getvalue().rstrip() == snippet.printed.rstrip(), f"{filename}:{snippet.line}"


def test_readme_snippets_run() -> None:
    snippets = snippets_of(README.read_text(encoding="utf-8"))
    assert snippets, "README.md has no python block"
    run_snippets(snippets, "README.md")


def test_snippets_are_found_with_their_output() -> None:
    python = "```python\nx = 1\n```\n\n```sh\nmake\n```\n```python\nprint(x + 1)\n```\n"
    text = f"# T\n\n{python}\n```text\n2\n```\n"
    first, second = snippets_of(text)
    assert (first.source, first.printed) == ("x = 1\n", None)
    assert (second.source, second.printed) == ("print(x + 1)\n", "2\n")
    assert text.splitlines()[second.line] == "print(x + 1)"
    run_snippets([first, second], "sample.md")


def test_a_wrong_output_is_noticed() -> None:
    wrong = snippets_of("```python\nprint(2)\n```\n```text\n3\n```\n")
    try:
        run_snippets(wrong, "sample.md")
    except AssertionError:
        return
    raise RuntimeError("a snippet that prints 2 where the text says 3 must fail")
