"""Floor 9: see inside a derivative: explanations and pictures."""

from funcgrad.inspection.drawing import Drawing, draw
from funcgrad.inspection.explanation import Explanation, explain

__all__ = ["Drawing", "Explanation", "draw", "explain"]
