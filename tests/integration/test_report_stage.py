"""What the report gathers from a lake: exact counts, stated samples, warnings with their causes; no engine is needed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.bench import erase
from facelake.config import Config, load_config
from facelake.contracts import DRIFT, EventKind, Scope
from facelake.lake import tables
from facelake.lake.sampling import _share, batches, slices
from facelake.nightly import writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context
from facelake.stages.gallery.analytics import analyse
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.reporting import similarity
from facelake.stages.reporting.promises import decisions, exports
from facelake.stages.reporting.report import _gather, report
from tests.conftest import run_json

FACES = 400  # of 20 people, 20 faces each, in 8 data files


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.setattr(erase, "_PER_FILE", 50)
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        erase.build_lake(context, FACES)
        analyse(context)
        yield context


def test_counts_are_of_everything(context: Context) -> None:
    data = _gather(context, current_gallery(context.lake))
    assert [(bar.label, bar.count) for bar in data.funnel] == [("photos read", FACES), ("photos admitted", FACES), ("photos with a face", FACES), ("faces", FACES), ("faces in identities", FACES)]  # fmt: skip
    assert [(bar.label, bar.count) for bar in data.sizes if bar.count] == [("17 to 32 faces", 20)]
    assert [(bar.label, bar.count) for bar in data.changes] == [("created", 20)]
    assert "400 of 400 faces (all of them)" in data.similarity.note
    assert [series.pairs for series in data.similarity.series] == [0, 20 * 190, FACES]
    assert data.refused == data.rejected == []
    assert [concern.level for concern in data.concerns] == []
    assert len(data.sheets) == 20
    assert "160 faces are left out" in data.sheets_note  # there are no photos


def test_a_sample_says_what_it_is_of(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_FACES", 100)
    found = _gather(context, current_gallery(context.lake)).similarity
    assert "104 of 400 faces (8 slices of data files, chosen by chance)" in found.note
    assert 0 < found.series[1].pairs < 20 * 190
    again = _gather(context, current_gallery(context.lake)).similarity
    assert again == found


def test_batches_are_the_whole_table(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.lake.sampling._BATCH_ROWS", 7)
    parts = list(batches(context.lake["faces"], ["face_id", "quality"]))
    assert max(part.num_rows for part in parts) == 7
    assert pa.concat_tables(parts).equals(context.lake["faces"].read(["face_id", "quality"]))
    assert list(batches(context.lake["rejects"], ["reason"])) == []


def test_slices_are_neighbours_from_many_files(context: Context) -> None:
    generator = np.random.default_rng(0)
    some = slices(context.lake["faces"], ["corpus_file", "corpus_row"], 80, generator)
    assert (some.slices, some.of_rows, some.rows.num_rows) == (8, FACES, 80)
    for file in pc.unique(some.rows["corpus_file"]).to_pylist():
        assert some.rows.filter(pc.equal(some.rows["corpus_file"], file))["corpus_row"].to_pylist() == list(range(10))
    every = slices(context.lake["faces"], ["face_id"], FACES, generator)
    assert sorted(every.rows["face_id"].to_pylist()) == sorted(context.lake["faces"].read(["face_id"])["face_id"].to_pylist())  # fmt: skip
    none = slices(context.lake["faces"], ["face_id"], 80, generator, lambda file: False)
    assert (none.slices, none.of_rows, none.rows.num_rows) == (0, 0, 0)


def test_a_slice_may_lie_in_many_row_groups(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables._GROUP_ROWS, "faces", 7)
    table = context.lake["faces"]
    table.replace_all(table.read())
    found = slices(table, ["face_id", "embedding"], 100, np.random.default_rng(0))
    assert found.rows["face_id"].to_pylist() == table.read(["face_id"])["face_id"].to_pylist()[:100]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 400))
def test_small_files_are_taken_whole_and_large_ones_alike(sizes: list[int], rows: int) -> None:
    each = _share(np.array(sizes), rows)
    taken = sum(min(each, size) for size in sizes)
    assert taken >= min(rows, sum(sizes))
    assert each == 1 or sum(min(each - 1, size) for size in sizes) < rows


def test_destruction_dates_that_have_come(context: Context) -> None:
    """Overdue is a grant whose photos are there and refused, unless somebody has granted again."""
    now = context.now
    entries = [("subject-00000001", -1), ("subject-00000002", -1), ("subject-00000003", 10), ("nobody", -1)]
    for subject, days in entries:
        record(
            context.lake,
            [Entry(EventKind.GRANT, Scope.SUBJECT, subject, ("p",), "b", destroy_by=now + timedelta(days))],
        )
    assert decisions(context).overdue_grants == 0  # their photos are admitted on another basis
    table = context.lake["admissions"]
    rows = table.read()
    late = pc.is_in(rows["subject_ref"], pa.array(["subject-00000001", "subject-00000002"]))
    reason = pc.if_else(late, pa.scalar("expired"), pa.scalar(None, pa.string()))
    at = rows.schema.get_field_index("reason")
    table.replace_all(rows.set_column(at, "reason", reason))
    found = decisions(context)
    assert (found.read, found.admitted, dict(found.refused)) == (FACES, FACES - 40, {"expired": 40})
    assert (found.overdue_grants, found.overdue_photos, found.due_soon) == (2, 40, 1)
    again = Entry(EventKind.GRANT, Scope.SUBJECT, "subject-00000001", ("p",), "b", destroy_by=now + timedelta(99))
    record(context.lake, [again])
    assert (decisions(context).overdue_grants, decisions(context).overdue_photos) == (1, 20)


def test_exports_that_are_owed_an_answer(context: Context) -> None:
    now = datetime.now(UTC)
    facts = {"recipient": "gate", "purpose": "p", "issued_at": now, "gallery_version": 1, "identities": 20, "recorded_at": now, "recorded_by": "me"}  # fmt: skip
    events = [
        (1, "a", "issued", 90),
        (2, "b", "issued", 5),
        (3, "c", "issued", 90),
        (4, "c", "recalled", 90),
        (5, "d", "issued", -1),
    ]
    rows = [facts | {"seq": seq, "lease_id": lease, "event": event, "expires_at": now + timedelta(days)} for seq, lease, event, days in events]  # fmt: skip
    context.lake["leases"].append(rows)
    owed, ending = exports(context)
    assert sorted(owed) == ["gate (c)", "gate (d)"]
    assert ending == 1
    said = [concern.said for concern in _gather(context, current_gallery(context.lake)).concerns]
    assert len(said) == 2
    assert said[0].startswith("2 exports without the answer that is owed: gate (c) was recalled")


def test_ten_nights_before_this_one_are_compared(context: Context) -> None:
    """Fifteen nights in the table, eleven on the page; the warnings compare with the same ones."""
    table = context.lake["drift"]
    last = table.read().to_pylist()[0]
    rows = [last | {"gallery_version": v, "single": 12 if v == 15 else 2} for v in range(1, 16)]
    table.replace_all(pa.Table.from_pylist(rows, schema=pa.schema([f.remove_metadata() for f in DRIFT])))
    data = _gather(context, current_gallery(context.lake))
    assert [night.version for night in data.nights] == list(range(5, 16))
    assert [concern.said for concern in data.concerns] == ["The share of identities of a single face jumped to 60 %; usual is 10 %."]  # fmt: skip


def test_a_lake_without_anything_has_a_page(tmp_path: Path) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        result = report(context)
        page = (tmp_path / "lake/reports/latest.html").read_text()
    assert not result.skipped
    assert "No photo is in the corpus" in page
    assert "There are no identities." in page


def test_cost_is_told_where_there_is_a_price(context: Context) -> None:
    config = Config.model_validate({"lake": context.config.lake, "plan": {"price_per_node_hour": 3600.0, "nodes": 4}})
    context.config = config
    (cost,) = [cost for cost in _gather(context, current_gallery(context.lake)).stages if cost.stage == "publish"]
    assert cost.cost == pytest.approx(cost.seconds)
    assert cost.expected_s is None


def test_what_a_report_takes_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    figures = run_json("bench", "report", "--lake", str(tmp_path / "lake"), "--faces", "200")
    page = (tmp_path / "lake/reports/latest.html").read_bytes()
    assert (figures["faces"], figures["page_bytes"]) == (200, len(page))
    assert 50 << 20 < figures["peak_rss_bytes"] < 4 << 30
    again = run_json("bench", "report", "--lake", str(tmp_path / "lake"), "--faces", "200", code=2)
    assert again["error"]["what"] == "there is a lake already"
