"""Tables of the page: captions, scoped heads, numbers to the right, bars in cells."""

from __future__ import annotations

from collections.abc import Sequence

from facelake.report.charts import bar
from facelake.report.markup import Markup, el, join
from facelake.report.model import Bar


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> Markup:
    """A table whose first column names its rows.

    Args:
        numbers: columns that hold numbers.
    """
    right = set(numbers)
    top = el("tr", *(el("th", head, scope="col", class_="n" if i in right else None) for i, head in enumerate(heads)))
    body = [
        el("tr", *(
            el("th", cell, scope="row") if not i else el("td", cell, class_="n" if i in right else None)
            for i, cell in enumerate(row)
        ))
        for row in rows
    ]  # fmt: skip
    head = join(el("caption", caption), el("thead", top))
    return _wide(caption, el("table", head, el("tbody", *body), class_="sortable"))


def bar_table(
    caption: str, what: str, rows: Sequence[Bar], nothing: str, whole: int | None = None, note: str = "share"
) -> Markup:
    """Counts with bars; the bars are of the largest count, or of `whole`.

    Args:
        note: head of the column of the rows' notes.
    """
    if not rows:
        return el("p", nothing, class_="dim")
    top = whole if whole is not None else max(row.count for row in rows)
    noted = any(row.note for row in rows)
    tops = [el("th", what, scope="col"), el("th", "count", scope="col", class_="n"), el("td")]
    head = el("tr", *tops, el("th", note, scope="col") if noted else None)
    body = [
        el("tr", el("th", row.label, scope="row"), el("td", f"{row.count:,}", class_="n"),
           el("td", bar(row.count, top), class_="barred"), el("td", row.note, class_="dim") if noted else None)
        for row in rows
    ]  # fmt: skip
    inside = join(el("caption", caption), el("thead", head), el("tbody", *body))
    return _wide(caption, el("table", inside, class_="bars"))


def _wide(caption: str, inside: Markup) -> Markup:
    """Wide tables scroll by themselves on a phone, by keyboard too."""
    return el("div", inside, class_="scroll", tabindex=0, role="region", aria_label=caption)


def folded(summary: str, inside: Markup) -> Markup:
    """What is there for who wants it."""
    return el("details", el("summary", summary), inside)
