"""What `import funcgrad; funcgrad.grad` loads: no tool, no library that a gradient does not need.

The time itself is measured by `python -m experiments.import_time`; here is what can be tested without noise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Loaded by nobody before it is asked for.
UNWANTED = ("scipy", "rich", "tyro", "matplotlib", "flax", "optax", "pytest", "hypothesis", "mpmath", "sklearn",
            "IPython", "playwright", "jax.experimental.sparse", "funcgrad.inspection", "funcgrad.crosscheck",
            "funcgrad.tapping", "funcgrad.extend", "funcgrad.__main__", "reference", "experiments")  # fmt: skip
#: Modules of JAX beyond those of `import jax`: `jax.extend` brings most of them, and there is no other public way.
FROM_JAX = ("jax.extend", "jax._src.extend", "jax._src.pallas", "jax._src.xla_transform", "jax._src.shard_alike",
            "jax._src.checkify", "jax.ad_checkpoint", "jax.experimental.hijax", "jax.experimental.shard_map")


def below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def loaded(program: str) -> list[str]:
    """Modules that a fresh process has beyond those of `import jax` after a program."""
    told = ("import sys, json, jax\nbefore = set(sys.modules)\n" + program
            + "\nprint(json.dumps(sorted(set(sys.modules) - before)))")
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=os.environ | {"JAX_PLATFORMS": "cpu"})
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def imported() -> list[str]:
    return loaded("import funcgrad\nfuncgrad.grad")


def test_no_tool_and_no_library(imported: list[str]) -> None:
    assert [module for module in imported if below(module, UNWANTED)] == []


def test_nothing_else_than_funcgrad_and_a_little_of_jax(imported: list[str]) -> None:
    assert "funcgrad.transforms" in imported
    assert [module for module in imported if not below(module, ("funcgrad", *FROM_JAX))] == []


def test_a_gradient_loads_no_tool_either() -> None:
    program = "import funcgrad, jax.numpy as jnp\nfuncgrad.grad(lambda x: jnp.sum(jnp.sin(x) ** 2))(jnp.ones(3))"
    assert [module for module in loaded(program) if below(module, UNWANTED)] == []


def test_tools_come_when_asked_for() -> None:
    assert "funcgrad.inspection" in loaded("import funcgrad\nfuncgrad.explain")


def test_modules_come_when_asked_for_and_are_listed() -> None:
    assert "funcgrad.extend" in loaded("import funcgrad\nfuncgrad.extend.Function, funcgrad.crosscheck, "
                                       "funcgrad.inspection\nassert {'extend', 'check', 'grad'} <= set(dir(funcgrad))")


def test_rules_of_sparse_formats_come_with_them() -> None:
    loaded("import funcgrad\nfrom funcgrad.registry import lookup, rules\nfrom jax.experimental import sparse\n"
           "assert lookup(sparse.todense_p) is not None\n"
           "assert 'coo_spmv' in {primitive.name for primitive in rules()}")
