"""Tables of the page: with captions, scoped column heads, right-aligned numbers and bars in cells."""

from __future__ import annotations

from collections.abc import Sequence

from facelake.report.charts import bar
from facelake.report.markup import Markup, el, join
from facelake.report.model import Bar


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> Markup:
    """Return a table whose first column holds the row headings.

    Args:
        numbers: positions of the columns that hold numbers.
    """
    right_aligned = set(numbers)
    top = el(
        "tr", *(el("th", head, scope="col", class_="n" if i in right_aligned else None) for i, head in enumerate(heads))
    )
    body = [
        el("tr", *(
            el("th", cell, scope="row") if not i else el("td", cell, class_="n" if i in right_aligned else None)
            for i, cell in enumerate(row)
        ))
        for row in rows
    ]  # fmt: skip
    head = join(el("caption", caption), el("thead", top))
    return _scrollable(caption, el("table", head, el("tbody", *body), class_="sortable"))


def bar_table(
    caption: str, label: str, rows: Sequence[Bar], if_empty: str, *, total: int | None = None, note: str = "share"
) -> Markup:
    """Return a table of counts with bars.

    Args:
        label: heading of the first column.
        if_empty: the text in place of the table when there are no rows.
        total: the count of a bar of full width; the largest count when it is not given.
        note: heading of the column of notes.
    """
    if not rows:
        return el("p", if_empty, class_="dim")
    full_width = total if total is not None else max(row.count for row in rows)
    with_notes = any(row.note for row in rows)
    heads = [el("th", label, scope="col"), el("th", "count", scope="col", class_="n"), el("td")]
    head = el("tr", *heads, el("th", note, scope="col") if with_notes else None)
    body = [
        el("tr", el("th", row.label, scope="row"), el("td", f"{row.count:,}", class_="n"),
           el("td", bar(row.count, full_width), class_="barred"),
           el("td", row.note, class_="dim") if with_notes else None)
        for row in rows
    ]  # fmt: skip
    content = join(el("caption", caption), el("thead", head), el("tbody", *body))
    return _scrollable(caption, el("table", content, class_="bars"))


def _scrollable(caption: str, content: Markup) -> Markup:
    """Wrap a table in a region that scrolls sideways on narrow screens, also by keyboard."""
    return el("div", content, class_="scroll", tabindex=0, role="region", aria_label=caption)


def folded(summary: str, content: Markup) -> Markup:
    """Return content that is hidden until the reader opens it."""
    return el("details", el("summary", summary), content)
