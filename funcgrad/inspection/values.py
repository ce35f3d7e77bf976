"""What can be said about a value in a few words: the number itself, or an array's statistics."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad import _compat

#: An array of so many elements is spelled out.
SPELLED_OUT = 6
#: So many in a picture.
SHORT = 2


@dataclasses.dataclass(frozen=True)
class Summary:
    """A value in few words.

    Attributes:
      type: dtype and shape, as ``float32[2,3]``.
      number: the value of an array of one element, None for others and under `jit`.
      elements: the values of a short array, flat.
      statistics: of an array: min, max, mean, l2 norm; of its finite elements where some are not.
      nonfinite: how many elements are NaN or infinite.
      empty: whether it is an array without elements.
    """

    type: str
    number: bool | int | float | complex | None = None
    elements: tuple[Any, ...] = ()
    statistics: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    nonfinite: int = 0
    empty: bool = False

    @property
    def known(self) -> bool:
        """Whether more than the type is known."""
        return self.number is not None or self.empty or bool(self.elements) or bool(self.statistics)

    @property
    def text(self) -> str:
        """The number, the elements or the statistics; the type where nothing else is known."""
        if self.number is not None:
            return format_number(self.number)
        if self.empty:
            return f"{self.type}, empty"
        if self.elements:
            return f"[{' '.join(map(format_number, self.elements))}]"
        if not self.statistics:
            return self.type
        if np.isnan(self.statistics["norm"]):
            return f"all {self.nonfinite} not finite"
        bad = f", {self.nonfinite} not finite" if self.nonfinite else ""
        low, high = (format_number(self.statistics[key]) for key in ("min", "max"))
        return f"{low} … {high}, norm {format_number(self.statistics['norm'])}{bad}"

    @property
    def short(self) -> str:
        """As `text`, for a box in a picture: a long array by its norm, an integer one by its range."""
        if not self.statistics or np.isnan(self.statistics["norm"]) or 0 < len(self.elements) <= SHORT:
            return self.text
        if not self.type.startswith(("float", "bfloat", "complex")):
            return f"{format_number(self.statistics['min'])} … {format_number(self.statistics['max'])}"
        return f"‖·‖ {format_number(self.statistics['norm'])}" + (" !" if self.nonfinite else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything that is known, in types that JSON has."""
        found: dict[str, Any] = {"type": self.type}
        if self.number is not None:
            found["value"] = _plain(self.number)
        if self.elements:
            found["value"] = list(map(_plain, self.elements))
        if self.statistics:
            found["statistics"] = {key: _plain(value) for key, value in self.statistics.items()}
        if self.nonfinite:
            found["nonfinite"] = self.nonfinite
        return found


def format_number(number: Any) -> str:
    """Four significant digits; a whole float keeps its point, so that it reads as a float."""
    if isinstance(number, bool | int):
        return str(number)
    if isinstance(number, complex):
        return f"({number:.4g})"
    text = f"{number:.4g}"
    return f"{text}.0" if text.lstrip("-").isdigit() else text.replace("e+0", "e").replace("e-0", "e-")


def _plain(number: Any) -> Any:
    """JSON has neither complex numbers nor NaN."""
    if isinstance(number, complex) or (isinstance(number, float) and not np.isfinite(number)):
        return str(number)
    return number


def summarize(value: Any) -> Summary:
    """A value's summary; of a tracer its type alone."""
    aval = _compat.typeof(value)
    name = aval.str_short()
    if _compat.is_extended(getattr(aval, "dtype", None)) or getattr(aval, "dtype", None) == _compat.float0:
        return Summary(name)
    concrete = _compat.concrete_or_none(value)
    if concrete is None or not getattr(concrete, "is_fully_addressable", True):
        return Summary(name)
    return _of_array(name, np.asarray(concrete))


def _of_array(name: str, array: np.ndarray) -> Summary:
    if not array.size:
        return Summary(name, empty=True)
    if array.dtype.kind not in "biufc":  # bfloat16 and other formats that NumPy does not know
        array = array.astype(np.float32)
    inexact = jnp.issubdtype(array.dtype, jnp.inexact)
    nonfinite = int(array.size - np.count_nonzero(np.isfinite(array))) if inexact else 0
    if array.size == 1:
        return Summary(name, array.reshape(()).item(), nonfinite=nonfinite)
    elements = tuple(array.reshape(-1).tolist()) if array.size <= SPELLED_OUT else ()
    return Summary(name, elements=elements, statistics=_statistics(array, nonfinite), nonfinite=nonfinite)


def _statistics(array: np.ndarray, nonfinite: int) -> dict[str, float]:
    real = np.abs(array) if array.dtype.kind == "c" else array
    real = real[np.isfinite(real)] if nonfinite else real
    real = real.astype(np.float64).reshape(-1)
    if not real.size:
        return {key: float("nan") for key in ("min", "max", "mean", "norm")}
    largest = float(np.max(np.abs(real)))
    norm = largest * float(np.linalg.norm(real / largest)) if largest else 0.0
    low, high = (float(real.min()), float(real.max())) if array.dtype.kind not in "biu" else (
        int(real.min()), int(real.max()))
    return {"min": low, "max": high, "mean": float(real.mean()), "norm": norm}
