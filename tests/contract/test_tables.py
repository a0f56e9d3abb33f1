"""The contract of Delta tables on a directory and a real S3 server: atomic, idempotent, purged completely."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from facelake.errors import CommitConflict, CommitUnknown, Corrupt, Retryable
from facelake.lake.data_files import plain
from facelake.lake.lake import Lake
from facelake.lake.tables import Table


@pytest.fixture(params=["directory", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "directory":
        return Lake.create(str(tmp_path / "lake"))
    request.getfixturevalue("weed_env")
    return Lake.create(f"s3://lake/{secrets.token_hex(4)}")


def rows(table: Table, *names: str) -> pa.Table:
    return pa.Table.from_pylist([{"image_id": name, "reason": "no_face"} for name in names], schema=plain(table.schema))


def names(table: Table) -> list[str]:
    return sorted(table.read(["image_id"])["image_id"].to_pylist())


def test_staged_is_invisible_until_committed(lake: Lake) -> None:
    table = lake["rejects"]
    assert (table.version(), names(table)) == (-1, [])
    receipt = table.stage(rows(table, "a", "b"))
    assert (table.version(), receipt.rows) == (-1, 2)
    version = table.commit([receipt])
    assert names(table) == ["a", "b"]
    assert table.commit([]) == version


@pytest.mark.parametrize("place", ["../{0}", "../../{0}", "sub/{0}", "/srv/{0}", "file:///srv/{0}", "s3://other/{0}"])
def test_a_log_that_names_files_outside_of_the_table_is_refused(lake: Lake, place: str) -> None:
    """An erasure would take them out of the log, and leave the files."""
    table = lake["rejects"]
    receipt = table.stage(rows(table, "a"))
    table.commit([receipt])
    table.commit([replace(receipt, path=place.format(receipt.path))])
    with pytest.raises(Corrupt, match="names a file outside of its folder"):
        table.snapshot()


def test_committing_the_same_receipts_twice_adds_them_once(lake: Lake) -> None:
    table = lake["rejects"]
    receipts = [table.stage(rows(table, "a")), table.stage(rows(table, "b"))]
    assert table.commit(receipts) == table.commit(receipts)
    assert names(table) == ["a", "b"]


def test_rewrite_takes_rows_out_and_reports_how_many(lake: Lake) -> None:
    table = lake["rejects"]
    table.commit([table.stage(rows(table, "a", "b")), table.stage(rows(table, "c"))])
    files = {file.path for file in table.snapshot().files}
    gone = pa.array(["a", "c"])
    assert table.rewrite(table.snapshot().files, ["image_id"], lambda t: pc.invert(pc.is_in(t["image_id"], gone))) == 2
    assert names(table) == ["b"]
    assert not files & {file.path for file in table.snapshot().files}


def test_replace_all_keeps_the_old_version_readable(lake: Lake) -> None:
    table = lake["rejects"]
    first = table.replace_all(rows(table, "a"))
    table.replace_all(rows(table, "b"))
    assert names(table) == ["b"]
    assert table.read(["image_id"], table.snapshot(first))["image_id"].to_pylist() == ["a"]
    table.replace_all(rows(table))
    assert names(table) == []


def test_purge_leaves_no_byte_of_what_was_removed(lake: Lake) -> None:
    table = lake["rejects"]
    for i in range(4):
        table.commit([table.stage(rows(table, f"secret-person-{i}", f"other-{i}"))])
    table.stage(rows(table, "secret-person-staged"))
    first = table.version()
    table.rewrite(table.snapshot().files, ["image_id"], lambda t: pc.invert(pc.starts_with(t["image_id"], "secret")))
    table.purge_history()
    from facelake.erase import Needles, scan

    needles = Needles.of([f"secret-person-{i}" for i in range(4)] + ["secret-person-staged"])
    left = {item.key: scan(item.key, lake.store.read(item.key), needles) for item in lake.store.list("rejects")}
    assert sum(left.values()) == 0, left
    assert names(table) == [f"other-{i}" for i in range(4)]
    with pytest.raises(Corrupt, match="history was purged"):
        table.snapshot(first)
    table.commit([table.stage(rows(table, "later"))])
    assert "later" in names(table)


def test_two_writers_of_one_file_conflict(lake: Lake) -> None:
    table = lake["rejects"]
    table.commit([table.stage(rows(table, "a", "b"))])
    stale = table.snapshot().files
    table.rewrite(stale, ["image_id"], lambda t: pc.equal(t["image_id"], "a"))
    with pytest.raises(CommitConflict):
        table.commit([table.stage(rows(table, "b"))], [*stale, *table.snapshot().files])


def test_an_error_after_a_landed_commit_does_not_commit_twice(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    table = lake["rejects"]
    table.commit([table.stage(rows(table, "zero"))])
    true_commit, calls = DeltaTable.create_write_transaction, []

    def lose_the_reply(self: DeltaTable, *arguments: object, **options: object) -> None:
        true_commit(self, *arguments, **options)  # type: ignore[arg-type]
        calls.append(1)
        raise OSError("connection reset")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose_the_reply)
    table.commit([table.stage(rows(table, "a"))])
    assert (names(table), len(calls)) == (["a", "zero"], 1)


def test_a_failing_commit_is_retried_up_to_the_limit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    table = lake["rejects"]
    table.commit([table.stage(rows(table, "zero"))])
    calls = []

    def fail(self: DeltaTable, *arguments: object, **options: object) -> None:
        calls.append(1)
        raise CommitFailedError("conflict")

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", fail)
        with pytest.raises(CommitConflict):
            table.commit([table.stage(rows(table, "a"))])
    assert (len(calls), names(table)) == (5, ["zero"])


def test_an_undecidable_commit_is_reported_as_unknown(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    table = lake["rejects"]
    table.commit([table.stage(rows(table, "zero"))])
    staged = table.stage(rows(table, "a"))
    true_open, broken = Table._open, []

    def fail(self: DeltaTable, *arguments: object, **options: object) -> None:
        broken.append(1)
        raise OSError("timeout")

    def open_or_not(self: Table, version: int | None = None) -> object:
        if len(broken) >= 5:
            raise Retryable("store gone")
        return true_open(self, version)

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", fail)
        patch.setattr(Table, "_open", open_or_not)
        with pytest.raises(CommitUnknown, match="may or may not"):
            table.commit([staged])
    table.commit([staged])  # the staged file was kept: the same receipt can still be committed
    assert names(table) == ["a", "zero"]


def test_a_missing_or_damaged_data_file_is_reported(lake: Lake) -> None:
    table = lake["rejects"]
    table.commit([table.stage(rows(table, "a"))])
    (file,) = table.snapshot().files
    lake.store.write(f"rejects/{file.path}", b"PAR1 nothing PAR1")
    with pytest.raises(Corrupt, match=file.path):
        table.read()
    lake.store.delete(f"rejects/{file.path}")
    with pytest.raises(Corrupt, match="missing"):
        table.read()


def test_a_table_of_an_older_version_gets_new_columns(lake: Lake) -> None:
    """Files without a column are null there; the log learns of it with the next commit, and keeps every row."""
    table = lake["rejects"]
    earlier = rows(table, "a", "b").drop_columns(["covers"])
    write_deltalake(f"{lake.uri}/rejects", earlier, storage_options=lake.store.storage_options())
    assert names(table) == ["a", "b"]
    assert table.read(["covers"])["covers"].to_pylist() == [None, None]
    table.commit([table.stage(rows(table, "c"))])
    delta = DeltaTable(f"{lake.uri}/rejects", storage_options=lake.store.storage_options())
    assert "covers" in [field.name for field in delta.schema().fields]
    assert names(table) == ["a", "b", "c"]
    assert table.rewrite(table.snapshot().files, ["covers"], lambda t: pc.is_valid(t["covers"])) == 3


def test_a_table_of_events_keeps_few_files_and_every_row(lake: Lake) -> None:
    """Each reader reads each file: after a year of runs that would take minutes on S3."""
    table, count = lake["drift"], 50
    for number in range(count):
        version = table.append([{"gallery_version": number}])
        assert version == table.version()
        assert len(table.snapshot().files) <= 16
    assert sorted(table.read(["gallery_version"])["gallery_version"].to_pylist()) == list(range(count))


def test_two_writers_that_merge_the_same_files_lose_no_row(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    table, other = lake["drift"], Lake.open(lake.uri, lake.s3)["drift"]
    for number in range(16):
        table.append([{"gallery_version": number}])
    stage = Table.stage

    def staged_later(self: Table, data: pa.Table, *args: object) -> object:
        monkeypatch.setattr(Table, "stage", stage)
        other.append([{"gallery_version": 16}])  # it merges, and commits first
        return stage(self, data, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "stage", staged_later)
    table.append([{"gallery_version": 17}])
    assert sorted(table.read(["gallery_version"])["gallery_version"].to_pylist()) == list(range(18))
    assert len(table.snapshot().files) == 2
