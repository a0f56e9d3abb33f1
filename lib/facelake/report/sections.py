"""The page's sections, each a heading and what belongs under it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from facelake.report.alerts import ACT, KNOW, LOOK
from facelake.report.charts import similarity_chart, sparkline
from facelake.report.histograms import share
from facelake.report.markup import Markup, el, join, prose
from facelake.report.model import Concern, Measure, Night, ReportData, Sheet, Similarity, StageCost, Turn
from facelake.report.tables import bar_table, folded, table

_TITLES = {ACT: "Act on this first", LOOK: "Look at this today", KNOW: "Good to know"}
_COARSE = 14  # rows of the table behind the histograms
_MIB = 1 << 20


def sections(data: ReportData) -> Iterator[tuple[str, str, Markup]]:
    """(anchor, heading, content) of every section, in the page's order."""
    yield "night", "Was it a good night?", _verdict(data.concerns)
    yield "numbers", "In numbers", _heads(data)
    yield "funnel", "From photos to groups", _funnel(data)
    yield "similarity", "How alike faces are", _similarity(data.similarity)
    sizes = bar_table(
        "Identities by number of faces", "size", data.sizes, "There are no identities.", note="share of faces"
    )
    yield "sizes", "Faces per identity", join(el("p", data.sizes_note, class_="dim"), sizes)
    yield "changes", "What changed", _changes(data)
    yield "effort", "Time, memory, cost", _effort(data.stages, data.stages_note)
    yield "nights", "The last nights", _nights(data.nights, data.measures)
    shown = el("div", *(_sheet(sheet) for sheet in data.sheets), class_="sheets") if data.sheets else None
    yield "identities", "Identities", join(el("p", prose(data.sheets_note), class_="dim"), shown)


def _verdict(concerns: Sequence[Concern]) -> Markup:
    grave = sum(concern.level == ACT for concern in concerns)
    slight = sum(concern.level == LOOK for concern in concerns)
    if grave:
        line, kind = f"Not quite: {grave} to act on first" + (f", {slight} to look at." if slight else "."), ACT
    elif slight:
        line, kind = f"Mostly: {slight} to look at.", LOOK
    else:
        line, kind = "Yes: nothing out of the ordinary.", "good"
    lists = []
    for level, title in _TITLES.items():
        mine = [concern for concern in concerns if concern.level == level]
        items = [
            el("li", el("strong", prose(c.said)), " ", el("span", prose(c.next_step), class_="next")) for c in mine
        ]
        lists += [el("h3", title), el("ul", *items)] if mine else []
    return join(el("p", line, class_=f"verdict {kind}"), *lists)


def _heads(data: ReportData) -> Markup:
    cards = [
        el("div", el("dt", head.label), el("dd", head.value, class_="big"),
           el("dd", head.change, class_="dim") if head.change else None, class_="head")
        for head in data.heads
    ]  # fmt: skip
    return el("dl", *cards, class_="heads")


def _funnel(data: ReportData) -> Markup:
    whole = data.funnel[0].count if data.funnel else 0
    refused = bar_table("Refused before a pixel was decoded, by reason", "reason", data.refused, "Nothing was refused.")
    rejected = bar_table(
        "Admitted, but no face came of it, by reason", "reason", data.rejected, "Nothing was rejected."
    )
    return join(
        bar_table("Photos and faces, step by step", "step", data.funnel, "Nothing was read.", whole, "of them"),
        el("div", el("div", refused), el("div", rejected, el("p", data.rejected_note, class_="dim")), class_="two"),
    )


def _similarity(found: Similarity) -> Markup:
    if not any(series.pairs for series in found.series):
        return el("p", found.note or "Too few faces to compare.", class_="dim")
    legend = [
        el("li", el("span", class_=f"key k{i}", aria_hidden="true"), f"{s.name} ({s.pairs:,} pairs)", data_toggle=i)
        for i, s in enumerate(found.series)
    ]
    marks = [el("li", el("strong", f"{m.name} {m.at:.3f}"), f": {m.meaning}") for m in found.marks]
    figure = el(
        "figure",
        el("ul", *legend, class_="legend"),
        similarity_chart(found),
        el("figcaption", found.note, " Each histogram is scaled to its highest bar."),
    )
    heads = ["cosine", *(series.name for series in found.series)]
    numbers = table("Pairs by similarity", heads, list(_coarse(found)), range(1, len(heads)))
    return join(
        figure, el("ul", *marks, class_="dim") if marks else None, folded("These histograms as a table", numbers)
    )


def _coarse(found: Similarity) -> Iterator[list[str]]:
    bins = len(found.series[0].bins)
    step = max(bins // _COARSE, 1)
    width = (found.high - found.low) / bins
    for start in range(0, bins, step):
        end = min(start + step, bins)
        label = f"{found.low + start * width:.2f} to {found.low + end * width:.2f}"
        yield [label, *(f"{sum(series.bins[start:end]):,}" for series in found.series)]


def _changes(data: ReportData) -> Markup:
    counts = bar_table("Identities by what happened to them", "change", data.changes, "Nothing changed.")
    return join(counts, el("p", prose(data.turns_note), class_="dim"), *(_turn(turn) for turn in data.turns))


def _turn(turn: Turn) -> Markup:
    parts = [
        el("div", el("h4", title), el("div", *(_sheet(sheet) for sheet in sheets), class_="sheets"))
        for title, sheets in (("before", turn.before), ("after", turn.after))
    ]
    return el("article", el("h3", turn.said), el("div", *parts, class_="two"), class_=f"turn {turn.kind}")


def _effort(stages: Sequence[StageCost], note: str) -> Markup:
    if not stages:
        return el("p", "No stage has run yet.", class_="dim")
    rows = [
        [
            cost.stage, cost.when, f"{cost.seconds:,.1f}",
            f"{cost.expected_s:,.1f} ({cost.expected_by})" if cost.expected_s is not None else cost.expected_by,
            f"{cost.memory_bytes / _MIB:,.0f}",
            f"{cost.usual_bytes / _MIB:,.0f}" if cost.usual_bytes else "–",
            f"{cost.cost:,.3f}" if cost.cost is not None else "–",
            cost.did,
        ]
        for cost in stages
    ]  # fmt: skip
    heads = ["stage", "when", "seconds", "expected", "MiB, driver", "usual MiB", "cost", "did"]
    return join(
        table("Stages: time, memory and cost against what was expected", heads, rows, (2, 3, 4, 5, 6)),
        el("p", prose(note), class_="dim"),
    )


def _nights(nights: Sequence[Night], measures: Sequence[Measure]) -> Markup:
    if not nights:
        return el("p", "No night is recorded yet.", class_="dim")
    if len(nights) < 2:
        return join(el("p", "This is the first night; there is nothing to compare with yet.", class_="dim"),
                    _nights_table(nights, measures))  # fmt: skip
    charts = []
    for measure in measures:
        values = [night.figures.get(measure.key) for night in nights]
        if all(value is None for value in values):
            continue
        said = [
            f"gallery {n.version}, {n.day}: {_figure(v, measure.unit)}" for n, v in zip(nights, values, strict=True)
        ]
        known = [value for value in values if value is not None]
        span = " to ".join(dict.fromkeys(_figure(value, measure.unit) for value in (min(known), max(known))))
        now = _figure(values[-1], measure.unit)
        label = el("figcaption", measure.name, ": ", el("strong", now), el("span", f" (nights shown: {span})"))
        charts.append(el("figure", label, sparkline(values, said), class_="multiple"))
    grid = el("div", *charts, class_="multiples")
    return join(grid, folded("These nights as a table", _nights_table(nights, measures)))


def _nights_table(nights: Sequence[Night], measures: Sequence[Measure]) -> Markup:
    rows = [
        [
            f"gallery {night.version}",
            night.day,
            night.mode,
            *(_figure(night.figures.get(m.key), m.unit) for m in measures),
        ]
        for night in reversed(nights)
    ]
    heads = ["night", "day", "mode", *(measure.name for measure in measures)]
    return table("Nights, the newest first", heads, rows, range(3, len(heads)))


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "share":
        return share(value, 1)
    if unit in ("cosine", "sds"):
        return f"{value:.3f}"
    return f"{value:,.1f} s" if unit == "seconds" else f"{value:,.0f}"


def _sheet(sheet: Sheet) -> Markup:
    images = [
        el("img", alt=f"face {i} of {sheet.title}", src=f"data:image/jpeg;base64,{base64.b64encode(crop).decode()}",
           width=64, height=64)
        for i, crop in enumerate(sheet.crops, start=1)
    ]  # fmt: skip
    line = el("figcaption", el("bdi", sheet.title), " ", el("span", sheet.note, class_="dim"))
    return el("figure", line, el("div", *images) if images else el("p", "not shown", class_="dim"), class_="who")
