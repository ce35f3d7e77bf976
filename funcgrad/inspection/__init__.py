"""Floor 9: see inside a derivative: explanations, pictures, where a NaN comes from."""

from funcgrad.inspection.debugging import Debugging, NonfiniteError, debug_nonfinite
from funcgrad.inspection.drawing import Drawing, draw
from funcgrad.inspection.explanation import Explanation, explain
from funcgrad.inspection.nonfinite import find_nonfinite
from funcgrad.inspection.places import Line, Nonfinite, Place

__all__ = ["Debugging", "Drawing", "Explanation", "Line", "Nonfinite", "NonfiniteError", "Place", "debug_nonfinite",
           "draw", "explain", "find_nonfinite"]
