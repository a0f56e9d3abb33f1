"""The report's page. Everything that comes from outside is escaped; a policy forbids scripts and any request."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from facelake.report.charts import columns, funnel, histogram

_CSS = files("facelake.report").joinpath("style.css").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Sheet:
    """Face crops of one identity."""

    identity_id: str
    size: int
    cohesion: float
    crops: tuple[bytes, ...]
    """JPEG bytes"""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page."""

    title: str
    subtitle: str
    heads: Sequence[tuple[str, str]]
    funnel: Sequence[tuple[str, int, str]]
    refused: Mapping[str, int]
    rejected: Mapping[str, int]
    different: Sequence[int]
    """bins over [low, high]"""
    within: Sequence[int]
    low: float
    high: float
    cuts: Sequence[tuple[str, float]]
    similarity_note: str
    sizes: Sequence[tuple[str, int]]
    changes: Mapping[str, int]
    stages: Sequence[tuple[str, float, str]]
    """stage, seconds, what it did"""
    warnings: Sequence[str]
    sheets: Sequence[Sheet]
    sheets_note: str


def render(data: ReportData) -> str:
    """The page as HTML text."""
    heads = "".join(f'<div class="head"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in data.heads)
    body = [
        f"<h1>{escape(data.title)}</h1><p class=sub>{escape(data.subtitle)}</p>",
        f'<div class="heads">{heads}</div>',
        _warnings(data.warnings),
        _section("From photos to groups", funnel(data.funnel)),
        '<div class="two">'
        + _section("Refused before decoding", _counts(data.refused, "reason", "nothing was refused"))
        + _section("Rejected: no face came of it", _counts(data.rejected, "reason", "nothing was rejected"))
        + "</div>",
        _section("How alike faces are", _similarity(data)),
        _section("Faces per identity", columns(data.sizes, "Identities by number of faces")),
        '<div class="two">'
        + _section("Changes since the last gallery", _counts(data.changes, "change", "nothing changed"))
        + _section("Time", _stages(data.stages))
        + "</div>",
        _section("Identities", f"<p class=sub>{escape(data.sheets_note)}</p>" + _sheets(data.sheets)),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(data.title)}</title><style>{_CSS}</style></head><body><main>{''.join(body)}</main></body></html>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<section class="warn"><h2>Please read</h2><ul>{items}</ul></section>'


def _counts(counts: Mapping[str, int], what: str, nothing: str) -> str:
    if not counts:
        return f"<p class=sub>{escape(nothing)}</p>"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = "".join(
        f'<tr><td>{escape(name.replace("_", " "))}</td><td class="n">{count:,}</td></tr>' for name, count in ordered
    )
    head = f'<th scope="col">{what}</th><th scope="col" class="n">count</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _similarity(data: ReportData) -> str:
    chart = histogram([("different", data.different), ("within", data.within)], data.low, data.high, data.cuts)
    legend = '<span class="key k0"></span>different identities<span class="key k1"></span>within an identity'
    return f"<p class=sub>{escape(data.similarity_note)}{legend}</p>{chart}"


def _stages(stages: Sequence[tuple[str, float, str]]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{seconds:.1f}</td><td>{escape(what)}</td></tr>'
        for name, seconds, what in stages
    )
    head = '<th scope="col">stage</th><th scope="col" class="n">seconds</th><th scope="col">did</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _sheets(sheets: Sequence[Sheet]) -> str:
    return '<div class="sheet">' + "".join(_one_sheet(sheet) for sheet in sheets) + "</div>"


def _one_sheet(sheet: Sheet) -> str:
    images = "".join(
        f'<img alt="face {i} of {escape(sheet.identity_id)}" src="data:image/jpeg;base64,{_base64(crop)}">'
        for i, crop in enumerate(sheet.crops, start=1)
    )
    line = f"{escape(sheet.identity_id)} · {sheet.size} faces · cohesion {sheet.cohesion:.2f}"
    return f'<div class="who"><p>{line}</p>{images}</div>'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
