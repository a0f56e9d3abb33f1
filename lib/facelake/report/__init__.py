"""The night report: numbers in, one self-contained HTML page out. Pure."""

from facelake.report.page import ReportData, Sheet, render

__all__ = ["ReportData", "Sheet", "render"]
