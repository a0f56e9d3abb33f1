"""Small SVG charts as text: no script, no network, colours by CSS so that dark and light both work."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _PAD = 720, 220, 34


def funnel(steps: Sequence[tuple[str, int, str]]) -> str:
    """Horizontal bars of (label, count, note), the first being the whole."""
    top = max((count for _, count, _ in steps), default=0) or 1
    rows = []
    for i, (label, count, note) in enumerate(steps):
        y, width = 8 + i * 40, (_WIDTH - 330) * count / top
        rows.append(
            f'<text x="0" y="{y + 20}" class="label">{escape(label)}</text>'
            f'<rect x="110" y="{y}" width="{max(width, 2):.1f}" height="28" rx="4" class="bar b{i}"/>'
            f'<text x="{118 + max(width, 2):.1f}" y="{y + 20}" class="value">{count:,}'
            f'<tspan class="note"> {escape(note)}</tspan></text>'
        )
    height = 16 + 40 * len(steps)
    return _svg(height, "".join(rows), "Funnel: " + ", ".join(f"{label} {count}" for label, count, _ in steps))


def histogram(
    series: Sequence[tuple[str, Sequence[int]]], low: float, high: float, marks: Sequence[tuple[str, float]]
) -> str:
    """Overlaid histograms over [low, high], each scaled to its own largest bin, with vertical marks."""
    parts = []
    for number, (_, bins) in enumerate(series):
        top = max(bins, default=0) or 1
        step = (_WIDTH - 2 * _PAD) / max(len(bins), 1)
        points = [f"{_PAD},{_HEIGHT - _PAD}"]
        for i, count in enumerate(bins):
            y = _HEIGHT - _PAD - (_HEIGHT - 2 * _PAD) * count / top
            points += [f"{_PAD + i * step:.1f},{y:.1f}", f"{_PAD + (i + 1) * step:.1f},{y:.1f}"]
        points.append(f"{_WIDTH - _PAD},{_HEIGHT - _PAD}")
        parts.append(f'<polygon points="{" ".join(points)}" class="area s{number}"/>')
    for label, at in marks:
        x = _PAD + (at - low) / (high - low) * (_WIDTH - 2 * _PAD)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="14" y2="{_HEIGHT - _PAD}" class="mark"/>')
        parts.append(f'<text x="{x + 4:.1f}" y="22" class="note">{escape(label)}</text>')
    for tick in range(6):
        value = low + (high - low) * tick / 5
        x = _PAD + (_WIDTH - 2 * _PAD) * tick / 5
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" class="tick">{value:.1f}</text>')
    return _svg(_HEIGHT, "".join(parts), "Histogram of similarity")


def columns(bars: Sequence[tuple[str, int]], name: str) -> str:
    """A column chart of (label, count)."""
    top = max((count for _, count in bars), default=0) or 1
    step = (_WIDTH - 2 * _PAD) / max(len(bars), 1)
    parts = []
    for i, (label, count) in enumerate(bars):
        height = (_HEIGHT - 2 * _PAD) * count / top
        x, y = _PAD + i * step, _HEIGHT - _PAD - height
        parts.append(
            f'<rect x="{x + 3:.1f}" y="{y:.1f}" width="{max(step - 6, 2):.1f}" height="{height:.1f}" class="bar"/>'
        )
        parts.append(f'<text x="{x + step / 2:.1f}" y="{y - 5:.1f}" class="tick">{count:,}</text>')
        parts.append(f'<text x="{x + step / 2:.1f}" y="{_HEIGHT - 12}" class="tick">{escape(label)}</text>')
    return _svg(_HEIGHT, "".join(parts), name)


def _svg(height: float, body: str, name: str) -> str:
    box = f"0 0 {_WIDTH} {height:.0f}"
    return (
        f'<svg viewBox="{box}" role="img" aria-label="{escape(name)}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
