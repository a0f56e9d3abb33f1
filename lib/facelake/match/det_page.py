"""The DET curve of an evaluation as one HTML page with an SVG, without scripts and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from scipy.special import ndtri

_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5)
_LEAST, _MOST = 5e-7, 0.6
_SIDE, _MARGIN = 520, 64
_SHOWN_ROWS = 40
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #1b1b1b; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
caption { text-align: left; font-weight: 600 }
"""


def det_page(report: Mapping[str, Any]) -> str:
    """Return the page of an evaluation (`evaluation.evaluate`): the curve with its 95 % band, and the table of points.

    Both axes are normal deviates (Martin et al., The DET Curve, Eurospeech 1997). Rates of zero errors are drawn at
    the upper end of their interval.
    """
    points = [point for point in report["points"] if point["fmr"] is not None and point["fnmr"] is not None]
    facts = f"{report['compared']} of {report['photos']} photos compared; failed: {report['failed'] or 'none'}"
    rank = report.get("rank_1")
    if rank:
        facts += f"; rank 1 correct: {rank['correct']} of {rank['mated']}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>DET curve</title>'
        f"<style>{_STYLE}</style></head><body><h1>DET curve</h1><p>{escape(facts)}</p>{_svg(points)}{_table(points)}"
        "</body></html>"
    )


def _place(rate: float) -> float:
    """Return the position of a rate on an axis, 0..1."""
    low, high = ndtri(_LEAST), ndtri(_MOST)
    return float((ndtri(min(max(rate, _LEAST), _MOST)) - low) / (high - low))


def _at(fmr: float, fnmr: float) -> str:
    size = _SIDE - 2 * _MARGIN
    return f"{_MARGIN + size * _place(fmr):.1f},{_SIDE - _MARGIN - size * _place(fnmr):.1f}"


def _drawn(rate: float, high: float) -> float:
    return rate or high


def _svg(points: Sequence[Mapping[str, Any]]) -> str:
    size = _SIDE - 2 * _MARGIN
    marks = []
    for rate in _RATES:
        at = size * _place(rate)
        x, y = _MARGIN + at, _SIDE - _MARGIN - at
        name = f"{rate:g}"
        marks.append(f'<line x1="{x:.1f}" y1="{_MARGIN}" x2="{x:.1f}" y2="{_SIDE - _MARGIN}" stroke="#ddd"/>')
        marks.append(f'<line x1="{_MARGIN}" y1="{y:.1f}" x2="{_SIDE - _MARGIN}" y2="{y:.1f}" stroke="#ddd"/>')
        marks.append(f'<text x="{x:.1f}" y="{_SIDE - _MARGIN + 18}" text-anchor="middle">{name}</text>')
        marks.append(f'<text x="{_MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{name}</text>')
    curve = " ".join(
        _at(_drawn(point["fmr"], point["fmr_high"]), _drawn(point["fnmr"], point["fnmr_high"])) for point in points
    )
    upper = [_at(point["fmr_high"], point["fnmr_high"]) for point in points]
    lower = [_at(point["fmr_low"] or _LEAST, point["fnmr_low"] or _LEAST) for point in reversed(points)]
    band = " ".join([*upper, *lower])
    return (
        f'<svg role="img" aria-label="False non-match rate by false match rate" width="{_SIDE}" height="{_SIDE}" '
        f'font-size="11" font-family="system-ui, sans-serif">{"".join(marks)}'
        f'<polygon points="{band}" fill="#2a6f97" opacity=".15"/>'
        f'<polyline points="{curve}" fill="none" stroke="#2a6f97" stroke-width="2"/>'
        f'<text x="{_SIDE / 2}" y="{_SIDE - 14}" text-anchor="middle">false match rate</text>'
        f'<text x="16" y="{_SIDE / 2}" text-anchor="middle" transform="rotate(-90 16 {_SIDE / 2})">'
        "false non-match rate</text></svg>"
    )


def _table(points: Sequence[Mapping[str, Any]]) -> str:
    step = max(1, -(-len(points) // _SHOWN_ROWS))
    head = "".join(f"<th>{name}</th>" for name in ("similarity", "FMR", "95 %", "impostors", "FNMR", "95 %", "genuine"))
    rows = [
        f"<tr><td>{point['similarity']:.4f}</td><td>{point['fmr']:.2g}</td>"
        f"<td>{point['fmr_low']:.2g} to {point['fmr_high']:.2g}</td>"
        f"<td>{point['false_matches']} of {point['impostors']}</td><td>{point['fnmr']:.2g}</td>"
        f"<td>{point['fnmr_low']:.2g} to {point['fnmr_high']:.2g}</td>"
        f"<td>{point['false_non_matches']} of {point['genuine']}</td></tr>"
        for point in points[::step]
    ]
    return f"<table><caption>Error rates by similarity</caption><tr>{head}</tr>{''.join(rows)}</table>"
