"""The house rules that a parser can see: floors, independence of JAX's differentiation, private names, sizes."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60

#: Floors of the top-level modules of funcgrad; a file imports only from floors below its own.
FLOORS = {
    "_compat": 0, "watching": 0, "errors": 0, "trees": 0, "checks": 0, "zeros": 0,
    "rule": 1, "registry": 1,
    "graph": 2, "interning": 2, "policies": 2,
    "planning": 3, "cut": 3, "cost": 3, "budgeting": 3, "detours": 3, "pending": 3, "taps": 3, "tracer": 3,
    "pullback": 4, "bodies": 4, "evaluation": 4, "linearity": 4,
    "trace": 5,
    "vjp": 6, "tapping": 7,
    "rules": 7,
    "eager": 8, "replanning": 8, "caches": 8, "jacobians": 8, "transforms": 8, "extend": 8,
    "inspection": 9, "crosscheck": 9,
    "__main__": 10,
}  # fmt: skip
#: Floors on which files may import each other, as long as they do so without a circle.
SHARED = {0, 1, 3, 7, 8, 9}
#: The folder that knows JAX's private names: what is not public, and the primitives among it.
PRIVATE = ROOT / "funcgrad" / "_compat"
#: What differentiates in JAX. Nothing outside crosscheck/ may name it.
DIFFERENTIATION = {
    "grad", "vjp", "jvp", "linearize", "linear_transpose", "value_and_grad", "jacrev", "jacfwd", "jacobian", "hessian",
    "fwd_and_bwd", "vjp3", "saved_input_vjp", "si_vjp", "jet", "check_grads", "check_jvp", "check_vjp",
}  # fmt: skip
#: Modules of JAX that do nothing else; neither they nor anything in them may be imported.
DIFFERENTIATING_MODULES = (
    "jax._src.interpreters.ad", "jax.interpreters.ad", "jax._src.ad_checkpoint", "jax.ad_checkpoint",
    "jax.experimental.jet", "jax.test_util", "jax._src.public_test_util", "jax._src.api",
)  # fmt: skip
#: Words of JAX that describe rules and checkpoints but differentiate nothing by themselves; where other libraries put
#: the rules of their own primitives.
HARMLESS = {
    "jax.ad_checkpoint": {"checkpoint_name", "Offloadable", "Recompute", "Saveable"},
    "jax._src.ad_checkpoint": {"RematTraced"},
    "jax._src.interpreters.ad": {"GradAccum", "NullAccum", "ValAccum"},
    "jax.interpreters.ad": {"UndefinedPrimal", "Zero", "primitive_jvps", "primitive_transposes"},
}


@dataclasses.dataclass(frozen=True)
class Imported:
    """One imported name: ``from module import name`` (name is None for ``import module``), and where."""

    module: str
    name: str | None
    line: int

    @property
    def full(self) -> str:
        """The dotted name."""
        return self.module if self.name is None else f"{self.module}.{self.name}"


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def python_files(*folders: str) -> list[Path]:
    """All Python files below these folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    """The dotted name of a file of the project."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, module: str, is_package: bool = False) -> Iterator[Imported]:
    """Every import of a file, wherever it stands, relative ones made absolute; `if TYPE_CHECKING` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Imported(alias.name, None, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from (Imported(base, alias.name, node.lineno) for alias in node.names)


def imports_of(path: Path) -> list[Imported]:
    """The imports of a file of the project."""
    return list(imports(parsed(path), module_name(path), path.name == "__init__.py"))


def part_of_funcgrad(dotted: str) -> str | None:
    """The top-level module or folder of funcgrad that a dotted name lies in; None outside; "" for funcgrad itself."""
    head, *rest = dotted.split(".")
    if head != "funcgrad":
        return None
    return rest[0] if rest and rest[0] in FLOORS else ""


def is_the_package(path: Path) -> bool:
    """funcgrad/__init__.py gathers the public names and stands above all floors."""
    return path == ROOT / "funcgrad" / "__init__.py"


def dotted(node: ast.AST) -> str | None:
    """``jax.numpy.sin`` for such an expression; None for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return None if base is None else f"{base}.{node.attr}"
    return None


def jax_aliases(tree: ast.Module) -> dict[str, str]:
    """What each local name stands for, for names that come from JAX: ``{"lax": "jax.lax"}``."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(
                    ".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return {name: full for name, full in aliases.items() if full.split(".")[0] == "jax"}


def differentiations(tree: ast.Module, module: str = "funcgrad.x", is_package: bool = False) -> Iterator[str]:
    """Every place where a file names something of JAX that differentiates."""
    for item in imports(tree, module, is_package):
        if item.module.split(".")[0] != "jax":
            continue
        if item.name in HARMLESS.get(item.module, ()):
            continue
        if item.name in DIFFERENTIATION or f"{item.full}.".startswith(tuple(f"{m}." for m in DIFFERENTIATING_MODULES)):
            yield f"line {item.line}: imports {item.full}"
    aliases = jax_aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            head, *rest = (dotted(node) or "").split(".")
            if head in aliases:
                full = ".".join([aliases[head], *rest])
                if rest and rest[-1] in DIFFERENTIATION or full in DIFFERENTIATING_MODULES:
                    yield f"line {node.lineno}: uses {full}"
        elif isinstance(node, ast.Call) and dotted(node.func) == "getattr":
            target = dotted(node.args[0]) or ""
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            if target.split(".")[0] in aliases and name in DIFFERENTIATION:
                yield f"line {node.lineno}: getattr of jax's {name}"


def kernel_files() -> list[Path]:
    """funcgrad without crosscheck/, which compares with JAX and so must call it."""
    return [path for path in python_files("funcgrad") if "crosscheck" not in path.relative_to(ROOT).parts]


def names(paths: list[Path]) -> list:
    """Parameters with the file's name as id."""
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


@pytest.mark.parametrize("path", names(python_files("funcgrad")))
def test_a_file_imports_only_from_floors_below(path: Path) -> None:
    if is_the_package(path):
        return
    own = part_of_funcgrad(module_name(path))
    assert own, f"{path.name} is on no floor: give it one in design and in this test"
    for item in imports_of(path):
        other = part_of_funcgrad(item.full)
        if other is None or other == own:
            continue
        where = f"{path.name}:{item.line} ({own}, floor {FLOORS[own]}) imports {item.full}"
        assert other, f"{where}: import the module that defines it, not the package"
        assert FLOORS[other] < FLOORS[own] or (FLOORS[other] == FLOORS[own] and FLOORS[own] in SHARED), where


def test_the_page_shows_every_floor() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = {name: int(row[1]) for row in re.finditer(r"^\| (\d+) \| ([^|]*) \|", page, re.MULTILINE)
             for name in re.findall(r"`(\w+)`", row[2])}
    assert shown == FLOORS


def test_no_file_imports_itself_in_a_circle() -> None:
    modules = {module_name(path): path for path in python_files("funcgrad") if not is_the_package(path)}
    edges = {name: {m for item in imports_of(path) for m in (item.module, item.full) if m in modules and m != name}
             for name, path in modules.items()}
    for name, path in modules.items():  # a folder's __init__ gathers its files; they do not need it
        if path.name == "__init__.py":
            for inner in modules:
                if inner.startswith(f"{name}."):
                    edges[inner].discard(name)
    remaining = dict(edges)
    while free := [name for name, needs in remaining.items() if not needs & remaining.keys()]:
        for name in free:
            del remaining[name]
    assert not remaining, f"these files import each other in a circle: {sorted(remaining)}"


@pytest.mark.parametrize("path", names(kernel_files()))
def test_no_differentiation_code_is_shared_with_jax(path: Path) -> None:
    assert not list(differentiations(parsed(path), module_name(path), path.name == "__init__.py"))


@pytest.mark.parametrize("path", names(python_files("funcgrad", "reference", "experiments")))
def test_private_names_of_jax_stay_in_their_files(path: Path) -> None:
    if path.parent == PRIVATE:
        return
    private = [item.full for item in imports_of(path) if f"{item.full}.".startswith(("jax._src.", "jaxlib."))]
    text = path.read_text(encoding="utf-8")
    assert not private
    assert not re.search(r"\bjax\._src\.\w+\.\w+\(", text)


@pytest.mark.parametrize("path", names(python_files("reference")))
def test_an_oracle_stays_independent(path: Path) -> None:
    assert not [item for item in imports_of(path) if item.full.split(".")[0] in ("funcgrad", "tests", "experiments")]


@pytest.mark.parametrize("path", names(python_files("funcgrad", "reference", "tests")))
def test_nothing_imports_experiments(path: Path) -> None:
    if (ROOT / "tests" / "experiments") in path.parents:
        return  # the tests of the experiments
    assert not [item for item in imports_of(path) if item.full.split(".")[0] == "experiments"]


@pytest.mark.parametrize("path", names(python_files("funcgrad")))
def test_the_library_imports_no_tests(path: Path) -> None:
    assert not [item for item in imports_of(path) if item.full.split(".")[0] in ("tests", "reference")]


@pytest.mark.parametrize("path", names(python_files("funcgrad", "reference", "experiments")))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_MODULE, "is it two ideas?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} (line {node.lineno}) has {length} lines"
            assert node.name != "_", f"line {node.lineno}: a function without a name"


# ---- the tests above are tested: each must see what it is there for ----

SHARED_CODE = [
    "import jax\njax.grad",
    "import jax as j\nj.vjp(f, x)",
    "from jax import grad",
    "from jax import value_and_grad as f",
    "from jax._src.api import vjp",
    "from jax._src.interpreters import ad",
    "import jax._src.interpreters.ad",
    "import jax._src.interpreters.ad as x",
    "from jax.interpreters.ad import backward_pass",
    "from jax.interpreters import ad",
    "import jax\njax.interpreters.ad",
    "from jax._src import api as a\na.linearize",
    "import jax\ngetattr(jax, 'jvp')",
    "def f():\n    from jax import hessian",
    "from jax.test_util import check_grads",
    "from jax.experimental import jet",
]
OWN_CODE = [
    "from funcgrad.vjp import vjp",
    "import jax\njax.jit(f)\nfuncgrad.grad(f)",
    "def vjp(f): ...\nvjp(sum)",
    "import jax\njax.lax.mul(x, y)",
    "from jax.ad_checkpoint import checkpoint_name",
    "import jax\njax.custom_vjp(f)",
]


@pytest.mark.parametrize("source", SHARED_CODE)
def test_shared_differentiation_is_seen(source: str) -> None:
    assert list(differentiations(ast.parse(source)))


@pytest.mark.parametrize("source", OWN_CODE)
def test_own_code_is_let_pass(source: str) -> None:
    assert not list(differentiations(ast.parse(source)))


def test_relative_imports_are_made_absolute() -> None:
    tree = ast.parse("from . import a\nfrom .b import c\nfrom .. import d\nfrom ..e import f")
    assert [item.full for item in imports(tree, "funcgrad.rules.shape")] == [
        "funcgrad.rules.a", "funcgrad.rules.b.c", "funcgrad.d", "funcgrad.e.f"]
    assert [item.full for item in imports(tree, "funcgrad.rules", is_package=True)] == [
        "funcgrad.rules.a", "funcgrad.rules.b.c", "funcgrad.d", "funcgrad.e.f"]
