"""Floor 9: differential testing of gradients: every operation judged at the values that really occurred."""

from funcgrad.crosscheck.report import Report, Row, Verdict

__all__ = ["Report", "Row", "Verdict"]
