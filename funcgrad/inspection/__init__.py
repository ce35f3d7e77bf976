"""Floor 9: see inside a derivative: explanations, pictures, where a NaN comes from."""

from funcgrad.inspection.cuts import Cut
from funcgrad.inspection.dead_paths import DeadPaths, Leaf, dead_paths
from funcgrad.inspection.debugging import Debugging, NonfiniteError, debug_nonfinite
from funcgrad.inspection.drawing import Drawing, draw
from funcgrad.inspection.explanation import Explanation, explain
from funcgrad.inspection.nonfinite import find_nonfinite
from funcgrad.inspection.places import Line, Nonfinite, Place

__all__ = ["Cut", "DeadPaths", "Debugging", "Drawing", "Explanation", "Leaf", "Line", "Nonfinite", "NonfiniteError",
           "Place", "dead_paths", "debug_nonfinite", "draw", "explain", "find_nonfinite"]
