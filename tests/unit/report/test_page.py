"""The report page: charts, histograms, and escaping of external text."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.report import (
    BINS,
    HIGH,
    LOW,
    Alert,
    Bar,
    ChangedIdentity,
    KeyFigure,
    Mark,
    Measure,
    MergeOrSplit,
    Pairs,
    ReportData,
    RunFigures,
    Series,
    Sheet,
    Similarity,
    StageCost,
    cosine_bins,
    format_share,
    pairs_across,
    pairs_within,
    render,
    size_bars,
)
from facelake.report.charts import bar, similarity_chart, sparkline
from facelake.report.markup import el, prose, text

PLAIN = "x"


def page_data(name: str = PLAIN, runs: int = 3) -> ReportData:
    """Return data for every part of the page, with `name` in place of all external text."""
    sheet = Sheet(name, name, (b"\xff\xd8crop",))
    similarity = Similarity([Series(name, [1, 2, 0, 4], 7)], -1.0, 1.0, [Mark(name, 0.4, name)], name)
    run = RunFigures(1, "2026-01-01", "full", {"faces": 10.0, "identities": None})
    return ReportData(
        title=name, purpose=name, run_id=name, lake=name, created_at="now",
        key_figures=[KeyFigure("faces", "10", name)], since=name, alerts=[Alert("act", name, name), Alert("look", name, name)],
        funnel=[Bar("read", 10), Bar(name, 4, name)], refused=[Bar(name, 3, name)], rejected=[Bar(name, 3)],
        rejected_note=name, similarity=similarity, sizes=[Bar("1 face", 3)], sizes_note=name, changes=[Bar(name, 1)],
        changed=[ChangedIdentity("merged", name, name, 3, 0, 0, 1, 0, 2)], changed_note=name,
        events=[MergeOrSplit("merged", name, (sheet, sheet), (sheet,))], events_note=name,
        stages=[StageCost(name, name, 1.0, 2.0, name, 1 << 20, None, None, name)], stages_note=name,
        history=[run] * runs, measures=[Measure("faces", "faces", "count"), Measure("identities", name, "count")],
        sheets=[sheet], sheets_note=name,
    )  # fmt: skip


class Shape(HTMLParser):
    """The tags of a page with the names of their attributes, in order, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text: list[str] = []
        self.values: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_decl(self, decl: str) -> None:
        assert decl == "doctype html"

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")


HOSTILE = st.one_of(
    st.text(st.characters(exclude_characters="`"), min_size=1, max_size=30),
    st.lists(
        st.sampled_from(["<script>", "</script>", "</style>", "<!--", "-->", "'", '"', "&", "&amp;", "<img src=x onerror=a>", "]]>", "\x00", "\ud800", "‮", " ", "=", "javascript:", "a"]),
        min_size=1, max_size=6,
    ).map("".join),
)  # fmt: skip


@given(HOSTILE)
def test_no_name_becomes_markup(name: str) -> None:
    """The page has the same elements for every name of sources, subjects, purposes and identities."""
    assert Shape(render(page_data(name))).tags == Shape(render(page_data())).tags


def test_backticks_become_code_and_nothing_else() -> None:
    assert prose("see `a <b>` now") == "see <code>a &lt;b&gt;</code> now"


def test_markup_escapes_text_and_attributes() -> None:
    assert el("p", '<b>"', title='"><i>') == '<p title="&quot;&gt;&lt;i&gt;">&lt;b&gt;&quot;</p>'
    assert el("p", el("b", "x"), None, hidden=True, id=None) == "<p hidden><b>x</b></p>"
    assert text("\ud800") == "?"


def test_the_content_security_policy_allows_only_the_inline_script_and_style() -> None:
    page = render(page_data())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    sources = policy[1].replace("&#x27;", "'")
    inside = {kind: re.search(f"<{kind}>(.*?)</{kind}>", page, re.S) for kind in ("style", "script")}
    for kind, match in inside.items():
        assert match
        digest = base64.b64encode(hashlib.sha256(match[1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in sources
    assert sources.startswith("default-src 'none';")
    assert page.count("<script") == page.count("<style") == 1
    assert " style=" not in page
    assert not re.search(r"https?://", page)


def test_every_part_is_on_the_page() -> None:
    page = Shape(render(page_data("Ömer & Zoë")))
    page_text = " ".join(page.text)
    for heading in (
        "Alerts",
        "Similarity of faces",
        "Changes",
        "Time, memory and cost",
        "Recent runs",
    ):
        assert heading in page_text
    assert page_text.count("Ömer & Zoë") > 20
    assert [tag for tag, _ in page.tags].count("caption") == 9


def test_the_first_run_has_no_comparison() -> None:
    assert "No earlier run with faces" in render(page_data(runs=1))
    assert '<svg viewBox="0 0 220 64"' not in render(page_data(runs=1))
    assert render(page_data(runs=3)).count('<svg viewBox="0 0 220 64"') == 1  # only one of the two figures was measured


@pytest.mark.parametrize(("part", "total", "width"), [(0, 10, "0.00"), (1, 10_000, "0.70"), (5, 10, "50.00"), (20, 10, "100.00"), (3, 0, "0.70")])  # fmt: skip
def test_bar_widths(part: int, total: int, width: str) -> None:
    assert f'width="{width}"' in bar(part, total)


def test_histograms_are_drawn_to_scale() -> None:
    similarity = Similarity([Series("a", [0, 2, 4, 0], 6)], 0.0, 1.0, [Mark("edge", 0.5, "")], "")
    drawn = similarity_chart(similarity)
    points = re.search(r'points="([^"]+)"', drawn)
    assert points
    heights = [float(p.split(",")[1]) for p in points[1].split(" ")]
    assert min(heights) == 84.0  # the highest bin reaches the top, one of half its count the middle
    assert heights.count((280 + 84) / 2) == 2
    assert 'x1="360.0"' in drawn
    assert drawn.count("data-tip") == 4
    assert "0.25 to 0.50: a 2" in drawn
    assert 'role="img"' in drawn


def test_marks_outside_the_axis_are_drawn_at_its_end() -> None:
    drawn = similarity_chart(Similarity([Series("a", [1], 1)], 0.0, 1.0, [Mark("far", 7.0, "")], ""))
    assert 'x1="708.0"' in drawn


def test_sparklines_have_no_dot_where_nothing_was_measured() -> None:
    drawn = sparkline([1.0, None, 3.0], ["a", "b", "c"])
    assert drawn.count("<circle") == 2
    assert 'points="10.0,52.0 210.0,12.0"' in drawn
    assert "polyline" not in sparkline([None, 2.0], ["", ""])
    assert "<circle" not in sparkline([], [])


def test_shares_as_text() -> None:
    assert [format_share(*pair) for pair in ((0, 5), (1, 0), (1, 100_000), (1, 30), (1, 3))] == ["0 %", "0 %", "under 0.1 %", "3.3 %", "33 %"]  # fmt: skip


def test_cosines_fall_into_bins() -> None:
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    bins = cosine_bins(vectors, Pairs(np.array([0, 0, 0]), np.array([0, 1, 2])))
    assert sum(bins) == 3
    assert bins[-1] == 1  # the same vector
    assert bins[0] == 1  # -1 lies below the axis
    assert bins[int((0 - LOW) / (HIGH - LOW) * BINS)] == 1


def test_few_pairs_within_labels_are_all_returned() -> None:
    labels = np.array([3, 1, 3, -1, 3, 1, 0, -1])
    pairs = pairs_within(labels, 100, np.random.default_rng(0))
    assert {tuple(sorted(p)) for p in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)} == {(0, 2), (0, 4), (2, 4), (1, 5)}  # fmt: skip
    assert len(pairs) == 4
    assert len(pairs_within(np.zeros(0, np.int64), 5, np.random.default_rng(0))) == 0


@given(st.lists(st.integers(-1, 6), min_size=2, max_size=60), st.integers(1, 40))
def test_sampled_pairs_share_a_label_and_are_distinct(labels: list[int], most: int) -> None:
    number = np.array(labels)
    sampled = pairs_within(number, most, np.random.default_rng(0))
    pairs = [tuple(sorted(p)) for p in zip(sampled.first.tolist(), sampled.second.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs) <= most
    assert all(a != b and labels[a] == labels[b] >= 0 for a, b in pairs)
    possible = sum(
        n * (n - 1) // 2 for label, n in zip(*np.unique(number, return_counts=True), strict=True) if label >= 0
    )
    assert len(pairs) == possible if possible <= most else len(pairs) > 0


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=50))
def test_pairs_across_join_a_face_with_a_face_of_the_nearest_identity(labels: list[int]) -> None:
    number = np.array(labels)
    nearest = np.where(number >= 0, (number + 1) % 6, -1)
    pairs = pairs_across(number, nearest, 1000, np.random.default_rng(0))
    assert all(number[b] == nearest[a] for a, b in zip(pairs.first, pairs.second, strict=True))
    assert len(pairs) == sum(1 for label in labels if label >= 0 and (label + 1) % 6 in labels)


@given(st.lists(st.integers(1, 5000), max_size=80))
def test_size_classes_hold_every_identity(sizes: list[int]) -> None:
    bars = size_bars(np.array(sizes, np.int64))
    assert sum(bar.count for bar in bars) == len(sizes)
    assert not bars or bars[-1].count > 0


def test_size_classes_double() -> None:
    bars = size_bars(np.array([1, 1, 2, 3, 4, 5, 8, 9], np.int64))
    assert [(bar.label, bar.count) for bar in bars] == [("1 face", 2), ("2 faces", 1), ("3 to 4 faces", 2), ("5 to 8 faces", 2), ("9 to 16 faces", 1)]  # fmt: skip
