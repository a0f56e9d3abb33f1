"""The sections of the page, each with an anchor, a heading and its content."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from facelake.plural import counted
from facelake.report.alerts import ACT, KNOW, LOOK
from facelake.report.charts import similarity_chart, sparkline
from facelake.report.histograms import format_share
from facelake.report.markup import Markup, el, join, prose
from facelake.report.model import (
    Alert,
    ChangedIdentity,
    Measure,
    MergeOrSplit,
    ReportData,
    RunFigures,
    Sheet,
    Similarity,
    StageCost,
)
from facelake.report.tables import bar_table, folded, table

_TITLES = {ACT: "Action required", LOOK: "To check", KNOW: "For information"}
_TABLE_ROWS = 14  # of the table that goes with the histograms
_MIB = 1 << 20


def sections(data: ReportData) -> Iterator[tuple[str, str, Markup]]:
    """Yield (anchor, heading, content) of every section, in the order of the page."""
    yield "alerts", "Alerts", _alerts(data.alerts)
    yield "numbers", "Key figures", _key_figures(data)
    yield "funnel", "From photos to identities", _funnel(data)
    yield "similarity", "Similarity of faces", _similarity(data.similarity)
    sizes = bar_table(
        "Identities by number of faces", "size", data.sizes, "There are no identities.", note="share of faces"
    )
    yield "sizes", "Faces per identity", join(el("p", data.sizes_note, class_="dim"), sizes)
    yield "changes", "Changes", _changes(data)
    yield "effort", "Time, memory and cost", _effort(data.stages, data.stages_note)
    yield "runs", "Recent runs", _history(data.history, data.measures)
    images = el("div", *(_sheet(sheet) for sheet in data.sheets), class_="sheets") if data.sheets else None
    yield "identities", "Identities", join(el("p", prose(data.sheets_note), class_="dim"), images)


def _alerts(alerts: Sequence[Alert]) -> Markup:
    to_act_on = sum(alert.level == ACT for alert in alerts)
    to_check = sum(alert.level == LOOK for alert in alerts)
    if to_act_on:
        summary = f"{counted(to_act_on, 'alert')} with action required"
        summary, kind = summary + (f", {to_check} to check." if to_check else "."), ACT
    elif to_check:
        summary, kind = f"{counted(to_check, 'alert')} to check.", LOOK
    else:
        summary, kind = "Nothing to act on or to check.", "good"
    lists = []
    for level, title in _TITLES.items():
        items = [
            el("li", el("strong", prose(alert.message)), " ", el("span", prose(alert.next_step), class_="next"))
            for alert in alerts
            if alert.level == level
        ]
        lists += [el("h3", title), el("ul", *items)] if items else []
    return join(el("p", summary, class_=f"summary {kind}"), *lists)


def _key_figures(data: ReportData) -> Markup:
    cards = [
        el("div", el("dt", item.label), el("dd", item.value, class_="big"),
           el("dd", item.change, class_="dim") if item.change else None, class_="figure")
        for item in data.key_figures
    ]  # fmt: skip
    return join(el("dl", *cards, class_="figures"), el("p", data.since) if data.since else None)


def _funnel(data: ReportData) -> Markup:
    read = data.funnel[0].count if data.funnel else 0
    refused = bar_table("Photos refused at admission, by reason", "reason", data.refused, "No photo was refused.")
    rejected = bar_table(
        "Photos rejected (admitted, but without an embedded face), by reason",
        "reason",
        data.rejected,
        "No photo was rejected.",
    )
    return join(
        bar_table(
            "Photos and faces, step by step", "step", data.funnel, "No photo was read.", total=read, note="of these"
        ),
        el("div", el("div", refused), el("div", rejected, el("p", data.rejected_note, class_="dim")), class_="two"),
    )


def _similarity(similarity: Similarity) -> Markup:
    if not any(series.pairs for series in similarity.series):
        return el("p", similarity.note or "Too few faces to compare.", class_="dim")
    legend = [
        el("li", el("span", class_=f"key k{i}", aria_hidden="true"), f"{s.name} ({s.pairs:,} pairs)", data_toggle=i)
        for i, s in enumerate(similarity.series)
    ]
    marks = [el("li", el("strong", f"{m.name} {m.at:.3f}"), f": {m.meaning}") for m in similarity.marks]
    figure = el(
        "figure",
        el("ul", *legend, class_="legend"),
        similarity_chart(similarity),
        el("figcaption", similarity.note, " Each histogram is scaled to its highest bar."),
    )
    heads = ["cosine", *(series.name for series in similarity.series)]
    numbers = table("Pairs by cosine similarity", heads, list(_table_rows(similarity)), range(1, len(heads)))
    return join(figure, el("ul", *marks, class_="dim") if marks else None, folded("The histograms as a table", numbers))


def _table_rows(similarity: Similarity) -> Iterator[list[str]]:
    bins = len(similarity.series[0].bins)
    step = max(bins // _TABLE_ROWS, 1)
    width = (similarity.high - similarity.low) / bins
    for start in range(0, bins, step):
        end = min(start + step, bins)
        label = f"{similarity.low + start * width:.2f} to {similarity.low + end * width:.2f}"
        yield [label, *(f"{sum(series.bins[start:end]):,}" for series in similarity.series)]


def _changes(data: ReportData) -> Markup:
    counts = bar_table("Identities by kind of change", "change", data.changes, "Nothing changed.")
    named = join(_changed(data.changed), el("p", prose(data.changed_note), class_="dim")) if data.changed else None
    return join(
        counts, named, el("p", prose(data.events_note), class_="dim"), *(_event(event) for event in data.events)
    )


def _changed(changed: Sequence[ChangedIdentity]) -> Markup:
    rows = [
        [el("code", item.identity_id), item.kind, el("code", item.other_id) if item.other_id else "–", *_faces(item)]
        for item in changed
    ]
    heads = ["identity", "change", "other identity", "faces before", "new", "gone", "from others", "to others"]
    return table("Changed identities", [*heads, "faces after"], rows, range(3, 9))


def _faces(item: ChangedIdentity) -> list[str]:
    counts = [item.size_before, item.new, item.gone, item.moved_in, item.moved_out, item.size_after]
    return ["–" if count is None else f"{count:,}" for count in counts]


def _event(event: MergeOrSplit) -> Markup:
    parts = [
        el("div", el("h4", title), el("div", *(_sheet(sheet) for sheet in sheets), class_="sheets"))
        for title, sheets in (("before", event.before), ("after", event.after))
    ]
    return el("article", el("h3", event.title), el("div", *parts, class_="two"), class_=f"event {event.kind}")


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
            cost.counts,
        ]
        for cost in stages
    ]  # fmt: skip
    heads = ["stage", "when", "seconds", "expected", "MiB, driver", "usual MiB", "cost", "counts"]
    return join(
        table("Stages: time, memory and cost, with the expected values", heads, rows, (2, 3, 4, 5, 6)),
        el("p", prose(note), class_="dim"),
    )


def _history(history: Sequence[RunFigures], measures: Sequence[Measure]) -> Markup:
    if not history:
        return el("p", "No run is recorded yet.", class_="dim")
    if len(history) < 2:
        return join(
            el("p", "No earlier run with faces to compare with.", class_="dim"),
            _history_table(history, measures),
        )
    charts = []
    for measure in measures:
        values = [run.figures.get(measure.key) for run in history]
        known = [value for value in values if value is not None]
        if not known:
            continue
        tips = [
            f"gallery {run.version}, {run.day}: {_figure(value, measure.unit)}"
            for run, value in zip(history, values, strict=True)
        ]
        span = " to ".join(dict.fromkeys(_figure(value, measure.unit) for value in (min(known), max(known))))
        latest = _figure(values[-1], measure.unit)
        label = el(
            "figcaption", measure.name, ": ", el("strong", latest), el("span", f" (range of these runs: {span})")
        )
        charts.append(el("figure", label, sparkline(values, tips), class_="multiple"))
    grid = el("div", *charts, class_="multiples")
    return join(grid, folded("These runs as a table", _history_table(history, measures)))


def _history_table(history: Sequence[RunFigures], measures: Sequence[Measure]) -> Markup:
    rows = [
        [
            f"gallery {run.version}",
            run.day,
            run.mode,
            *(_figure(run.figures.get(measure.key), measure.unit) for measure in measures),
        ]
        for run in reversed(history)
    ]
    heads = ["run", "day", "mode", *(measure.name for measure in measures)]
    return table("Runs, the newest first", heads, rows, range(3, len(heads)))


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "share":
        return format_share(value, 1)
    if unit in ("cosine", "sds"):
        return f"{value:.3f}"
    return f"{value:,.1f} s" if unit == "seconds" else f"{value:,.0f}"


def _sheet(sheet: Sheet) -> Markup:
    images = [
        el("img", alt=f"face {i} of {sheet.title}", src=f"data:image/jpeg;base64,{base64.b64encode(crop).decode()}",
           width=64, height=64)
        for i, crop in enumerate(sheet.crops, start=1)
    ]  # fmt: skip
    caption = el("figcaption", el("bdi", sheet.title), " ", el("span", sheet.note, class_="dim"))
    content = el("div", *images) if images else el("p", "not shown", class_="dim")
    return el("figure", caption, content, class_="sheet")
