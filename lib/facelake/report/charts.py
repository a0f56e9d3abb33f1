"""SVG charts as inline markup. Colours come from CSS, so that light and dark mode both work.

The numbers of every chart are also in a table, and its aria-label summarises it for screen readers.
"""

from __future__ import annotations

from collections.abc import Sequence

from facelake.report.markup import Markup, el, join
from facelake.report.model import Mark, Similarity

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 310, 12, 12, 84, 30
_TICKS = 7


def bar(part: float, total: float) -> Markup:
    """Return a bar for a table cell; its width is the share of the total, and never invisible above zero."""
    width = 100 * part / total if total else 0.0
    width = min(max(width, 0.7 if part else 0.0), 100.0)
    rect = el("rect", width=f"{width:.2f}", height=10, class_="bar")
    return el("svg", rect, class_="inline", viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")


def similarity_chart(similarity: Similarity) -> Markup:
    """Return histograms over one axis, each scaled to its highest bin, with the thresholds as vertical lines."""
    layers = [_layer(number, series.bins) for number, series in enumerate(similarity.series)]
    names = ", ".join(f"{series.name} ({series.pairs:,} pairs)" for series in similarity.series)
    name = f"Histograms of cosine similarity: {names}. The table below has the numbers."
    body = join(_axis(similarity), *layers, *_marks(similarity), *_hits(similarity))
    return el("svg", body, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=name, class_="histogram")


def _layer(number: int, bins: Sequence[int]) -> Markup:
    top = max(bins, default=0) or 1
    base, step = _HEIGHT - _BOTTOM, (_WIDTH - _LEFT - _RIGHT) / max(len(bins), 1)
    points = [f"{_LEFT},{base}"]
    for i, count in enumerate(bins):
        y = base - (base - _TOP) * count / top
        points += [f"{_LEFT + i * step:.1f},{y:.1f}", f"{_LEFT + (i + 1) * step:.1f},{y:.1f}"]
    points.append(f"{_WIDTH - _RIGHT},{base}")
    return el("polygon", points=" ".join(points), class_=f"area s{number}", data_layer=number)


def _axis(similarity: Similarity) -> Markup:
    parts = []
    for tick in range(_TICKS + 1):
        value = similarity.low + (similarity.high - similarity.low) * tick / _TICKS
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * tick / _TICKS
        anchor = "start" if not tick else "end" if tick == _TICKS else "middle"
        parts.append(
            el("text", f"{round(value, 1) + 0.0:.1f}", x=f"{x:.1f}", y=_HEIGHT - 8, class_="tick", text_anchor=anchor)
        )
    line = el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM, class_="axis")
    return join(line, *parts)


def _marks(similarity: Similarity) -> list[Markup]:
    out = []
    for row, mark in enumerate(sorted(similarity.marks, key=lambda item: item.at)):
        share = (mark.at - similarity.low) / (similarity.high - similarity.low)
        x = _LEFT + min(max(share, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT)
        y = 20 + 25 * (row % 3)  # staggered, so that neighbouring labels do not overlap
        anchor, dx = ("end", -5) if share > 0.7 else ("start", 5)
        out.append(el("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=y - 14, y2=_HEIGHT - _BOTTOM, class_="mark"))
        out.append(el("text", _label(mark), x=f"{x + dx:.1f}", y=y, class_="note", text_anchor=anchor))
    return out


def _label(mark: Mark) -> str:
    return f"{mark.name} {mark.at:.2f}"


def _hits(similarity: Similarity) -> list[Markup]:
    """Return an invisible rectangle per bin that carries the text of its tooltip."""
    bins = max((len(series.bins) for series in similarity.series), default=0)
    if not any(series.pairs for series in similarity.series):
        return []
    step = (_WIDTH - _LEFT - _RIGHT) / max(bins, 1)
    width = (similarity.high - similarity.low) / max(bins, 1)
    out = []
    for i in range(bins):
        counts = "; ".join(f"{series.name} {series.bins[i]:,}" for series in similarity.series)
        low = similarity.low + i * width
        tip = f"{low:.2f} to {low + width:.2f}: {counts}"
        x = f"{_LEFT + i * step:.1f}"
        box = el("rect", x=x, y=_TOP, width=f"{step:.1f}", height=_HEIGHT - _BOTTOM - _TOP, class_="hit", data_tip=tip)
        out.append(box)
    return out


def sparkline(values: Sequence[float | None], tips: Sequence[str]) -> Markup:
    """Return a line over the runs, without dots where nothing was measured; the dot of the last run is larger.

    Args:
        tips: text of the tooltip of each value.
    """
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    spread = (high - low) or 1.0
    step = 200 / max(len(values) - 1, 1)
    at = [
        (10 + i * step, 52 - 40 * ((value - low) / spread if high > low else 0.5), i)
        for i, value in enumerate(values)
        if value is not None
    ]
    line = el("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in at), class_="line") if len(at) > 1 else None
    dots = [
        el("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5 if i == len(values) - 1 else 3,
           class_="dot last" if i == len(values) - 1 else "dot", data_tip=tips[i])
        for x, y, i in at
    ]  # fmt: skip
    return el("svg", line, *dots, viewBox="0 0 220 64", class_="spark", aria_hidden="true")
