"""What the report gathers from a lake: exact counts, documented samples, alerts. No Ray or Spark is needed."""

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
from facelake.lake import data_files
from facelake.lake.sampling import _share, batches, slices
from facelake.nightly import run_night, writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase as erase_people
from facelake.stages.gallery.analytics import analyse
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.reporting import similarity
from facelake.stages.reporting.history import STAGES, RecordedStage, stage_costs
from facelake.stages.reporting.promises import count_admissions, lease_duties
from facelake.stages.reporting.report import _gather, report
from facelake.stages.sharing.leases import with_mac
from tests.conftest import run_json

FACES = 400  # of 20 people, 20 faces each, in 8 data files


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.setattr(erase, "_PER_FILE", 50)
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        erase.build_lake(context, FACES)
        analyse(context)
        yield context


def test_counts_cover_the_whole_lake(context: Context) -> None:
    data = _gather(context, current_gallery(context.lake))
    assert [(bar.label, bar.count) for bar in data.funnel] == [("photos read", FACES), ("photos admitted", FACES), ("photos with a face", FACES), ("faces", FACES), ("faces in identities", FACES)]  # fmt: skip
    assert [(bar.label, bar.count) for bar in data.sizes if bar.count] == [("17 to 32 faces", 20)]
    assert [(bar.label, bar.count) for bar in data.changes] == [("created", 20)]
    assert "400 of 400 faces (all of them)" in data.similarity.note
    assert [series.pairs for series in data.similarity.series] == [0, 20 * 190, FACES]
    assert data.refused == data.rejected == []
    assert [alert.level for alert in data.alerts] == []
    assert len(data.sheets) == 20
    assert "160 faces are left out" in data.sheets_note  # the lake has no photos


def test_the_note_states_the_extent_of_the_sample(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_FACES", 100)
    sampled = _gather(context, current_gallery(context.lake)).similarity
    assert "104 of 400 faces (8 slices of data files, chosen at random)" in sampled.note
    assert 0 < sampled.series[1].pairs < 20 * 190
    again = _gather(context, current_gallery(context.lake)).similarity
    assert again == sampled


def test_batches_cover_the_whole_table(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.lake.sampling._BATCH_ROWS", 7)
    parts = list(batches(context.lake["faces"], ["face_id", "quality"]))
    assert max(part.num_rows for part in parts) == 7
    assert pa.concat_tables(parts).equals(context.lake["faces"].read(["face_id", "quality"]))
    assert list(batches(context.lake["rejects"], ["reason"])) == []


def test_slices_are_consecutive_rows_of_many_files(context: Context) -> None:
    generator = np.random.default_rng(0)
    sample = slices(context.lake["faces"], ["corpus_file", "corpus_row"], 80, generator)
    assert (sample.slices, sample.of_rows, sample.rows.num_rows) == (8, FACES, 80)
    for file in pc.unique(sample.rows["corpus_file"]).to_pylist():
        assert sample.rows.filter(pc.equal(sample.rows["corpus_file"], file))["corpus_row"].to_pylist() == list(
            range(10)
        )
    all_rows = slices(context.lake["faces"], ["face_id"], FACES, generator)
    assert sorted(all_rows.rows["face_id"].to_pylist()) == sorted(context.lake["faces"].read(["face_id"])["face_id"].to_pylist())  # fmt: skip
    none = slices(context.lake["faces"], ["face_id"], 80, generator, lambda file: False)
    assert (none.slices, none.of_rows, none.rows.num_rows) == (0, 0, 0)


def test_a_slice_can_span_row_groups(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data_files._GROUP_ROWS, "faces", 7)
    table = context.lake["faces"]
    table.replace_all(table.read())
    sample = slices(table, ["face_id", "embedding"], 100, np.random.default_rng(0))
    assert sample.rows["face_id"].to_pylist() == table.read(["face_id"])["face_id"].to_pylist()[:100]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 400))
def test_small_files_are_read_whole_and_large_files_in_equal_slices(sizes: list[int], rows: int) -> None:
    each = _share(np.array(sizes), rows)
    taken = sum(min(each, size) for size in sizes)
    assert taken >= min(rows, sum(sizes))
    assert each == 1 or sum(min(each - 1, size) for size in sizes) < rows


def test_overdue_destruction_dates(context: Context) -> None:
    """A grant is overdue while its photos are in the corpus and refused, and no newer grant exists."""
    now = context.now
    entries = [("subject-00000001", -1), ("subject-00000002", -1), ("subject-00000003", 10), ("nobody", -1)]
    for subject, days in entries:
        record(
            context.lake,
            [Entry(EventKind.GRANT, Scope.SUBJECT, subject, ("p",), "b", destroy_by=now + timedelta(days))],
        )
    assert count_admissions(context).overdue_grants == 0  # their photos are admitted on another basis
    table = context.lake["admissions"]
    rows = table.read()
    late = pc.is_in(rows["subject_ref"], pa.array(["subject-00000001", "subject-00000002"]))
    reason = pc.if_else(late, pa.scalar("expired"), pa.scalar(None, pa.string()))
    at = rows.schema.get_field_index("reason")
    table.replace_all(rows.set_column(at, "reason", reason))
    counts = count_admissions(context)
    assert (counts.read, counts.admitted, dict(counts.refused)) == (FACES, FACES - 40, {"expired": 40})
    assert (counts.overdue_grants, counts.overdue_photos, counts.due_soon) == (2, 40, 1)
    again = Entry(EventKind.GRANT, Scope.SUBJECT, "subject-00000001", ("p",), "b", destroy_by=now + timedelta(99))
    record(context.lake, [again])
    counts = count_admissions(context)
    assert (counts.overdue_grants, counts.overdue_photos) == (1, 20)


def test_exports_with_an_overdue_answer(context: Context) -> None:
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
    context.lake["leases"].append([with_mac(context.lake, row) for row in rows])
    owed, ending = lease_duties(context)
    assert sorted(owed) == ["gate (c)", "gate (d)"]
    assert ending == 1
    messages = [alert.message for alert in _gather(context, current_gallery(context.lake)).alerts]
    assert len(messages) == 2
    assert messages[0].startswith("2 exports with an overdue answer: gate (c) was recalled")


def test_a_report_is_written_again_when_what_recipients_owe_may_change(context: Context) -> None:
    """By an event of a lease, and by the day: a lease or grant comes near its end, or ends."""
    now = context.now
    lease = {"lease_id": "a", "recipient": "gate", "purpose": "p", "issued_at": now, "expires_at": now + timedelta(60), "gallery_version": 1, "identities": 20, "recorded_at": now, "recorded_by": "me"}  # fmt: skip
    entry = Entry(EventKind.GRANT, Scope.SUBJECT, "nobody", ("p",), "b", destroy_by=now + timedelta(200))
    record(context.lake, [entry])
    assert not report(context).skipped

    def written(*events: tuple[int, str], days: int = 0) -> tuple[bool, int]:
        if events:
            rows = [lease | {"seq": seq, "event": event} for seq, event in events]
            context.lake["leases"].append([with_mac(context.lake, row) for row in rows])
        context.now = now + timedelta(days)
        result = report(context)
        assert report(context).counts["to_act_on"] == result.counts["to_act_on"]  # as before, without a new page
        assert report(context).skipped
        return not result.skipped, result.counts["to_act_on"]

    assert written((1, "issued")) == (True, 0)
    assert written(days=29) == (False, 0)
    assert written(days=31) == (True, 0)  # ends within 30 days
    assert written(days=61) == (True, 1)  # has ended
    assert written((2, "returned"), days=61) == (True, 0)
    assert written((3, "issued"), (4, "recalled"), days=0) == (True, 1)
    assert written((5, "returned")) == (True, 0)
    assert written(days=171) == (True, 0)  # the grant's date of destruction is within 30 days


def test_a_run_is_compared_with_the_ten_before_it(context: Context) -> None:
    """Of fifteen runs in the table, eleven are on the page; the alerts use the same ones."""
    table = context.lake["drift"]
    last = table.read().to_pylist()[0]
    rows = [last | {"gallery_version": v, "single": 12 if v == 15 else 2} for v in range(1, 16)]
    table.replace_all(pa.Table.from_pylist(rows, schema=pa.schema([f.remove_metadata() for f in DRIFT])))
    data = _gather(context, current_gallery(context.lake))
    assert [run.version for run in data.history] == list(range(5, 16))
    assert [alert.message for alert in data.alerts] == ["The share of identities of a single face rose to 60 %; usual is 10 %."]  # fmt: skip


def test_an_empty_lake_has_a_page(tmp_path: Path) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        result = report(context)
        page = (tmp_path / "lake/reports/latest.html").read_text()
    assert not result.skipped
    assert "The corpus contains no photo" in page
    assert "There are no identities." in page


def test_cost_is_shown_if_a_price_is_configured(context: Context) -> None:
    config = Config.model_validate({"lake": context.config.lake, "plan": {"price_per_node_hour": 3600.0, "nodes": 4}})
    context.config = config
    (cost,) = [cost for cost in _gather(context, current_gallery(context.lake)).stages if cost.stage == "publish"]
    assert cost.cost == pytest.approx(cost.seconds)
    assert cost.expected_s is None


def test_runs_without_work_give_no_expectation() -> None:
    """Of time and memory: a first run that embedded nothing took no second and little memory."""

    def embed(at: int, seconds: float, photos: int, mib: int) -> RecordedStage:
        return RecordedStage(f"run-{at}", "embed", at, seconds, {"admitted": photos}, {}, mib << 20)

    runs = {stage: [] for stage in STAGES} | {"embed": [embed(1, 0.01, 0, 200), embed(2, 5.5, 10, 700)]}
    [cost] = stage_costs(Config(), runs, "run-2")
    assert (cost.expected_s, cost.expected_by, cost.usual_bytes) == (None, "no earlier run", None)
    runs["embed"] += [embed(3, 0.01, 0, 200), embed(4, 12.0, 20, 750)]
    [cost] = stage_costs(Config(), runs, "run-4")
    assert (cost.expected_s, cost.expected_by, cost.usual_bytes) == (11.0, "1 earlier run", 700 << 20)


def test_bench_report_measures_in_a_separate_process(tmp_path: Path) -> None:
    figures = run_json("bench", "report", "--lake", str(tmp_path / "lake"), "--faces", "200")
    page = (tmp_path / "lake/reports/latest.html").read_bytes()
    assert (figures["faces"], figures["page_bytes"]) == (200, len(page))
    assert 50 << 20 < figures["peak_rss_bytes"] < 4 << 30
    again = run_json("bench", "report", "--lake", str(tmp_path / "lake"), "--faces", "200", code=2)
    assert again["error"]["what"] == "the lake already exists"


def test_the_report_after_an_erasure_knows_that_its_photos_are_gone(demo_lake: Path) -> None:
    """Without an admission in between: the decisions still have their rows."""
    config = load_config(lake=str(demo_lake))

    def reported() -> tuple[int, bool]:
        with writing(config, "test") as context:
            data = _gather(context, current_gallery(context.lake))
        return data.funnel[0].count, any("of erased people" in alert.message for alert in data.alerts)

    read, _ = reported()
    with writing(config, "erase") as context:
        photos = erase_people(context, Request.of(subjects=["person-2"])).counts["images"]
    assert reported() == (read - photos, False)
    run_night(config, only=["admit"])
    assert reported() == (read - photos, False)
