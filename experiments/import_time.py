"""What `import funcgrad; funcgrad.grad` costs beside `import jax`: `python -m experiments.import_time`.

Each import runs in a fresh process, the two in turn. Processor time, not wall time: other programs disturb it less.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

TARGET = 1.1
ROUNDS = 15
PROGRAM = "import resource, {}; use = resource.getrusage(resource.RUSAGE_SELF); print(use.ru_utime + use.ru_stime)"
JAX, OURS = PROGRAM.format("jax"), PROGRAM.format("jax, funcgrad; funcgrad.grad")


def seconds(program: str, environment: dict[str, str]) -> float:
    """Processor seconds of one fresh process."""
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> int:
    """Print the two medians and the median ratio of pairs; 0 if the target is met."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as compiled:  # byte code of its own, as an installed package has
        environment |= {"PYTHONPYCACHEPREFIX": compiled, "JAX_PLATFORMS": "cpu"}
        seconds(OURS, environment)
        pairs = [(seconds(JAX, environment), seconds(OURS, environment)) for _ in range(ROUNDS)]
    ratio = statistics.median(ours / jax for jax, ours in pairs)
    jax, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"import jax: {jax:.3f} s   import jax, funcgrad: {ours:.3f} s   ratio {ratio:.3f}, target {TARGET}")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
