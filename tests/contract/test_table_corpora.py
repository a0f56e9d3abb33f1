"""A corpus that is another owner's Delta or Iceberg table: its log is read once, and it may change meanwhile."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from facelake.errors import ConfigError, Retryable
from facelake.lake.corpora import detect
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import OpenedCorpus
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.s3 import S3Store
from facelake.lake.store import open_store
from facelake.nightly import writing
from facelake.stages.admission import index
from facelake.stages.erasure.own_store import find_places
from facelake.stages.erasure.request import Request, Targets
from facelake.testing.servers import Server
from tests.contract.test_corpora import admitted, config_of
from tests.corpora import listed


def rows_of(part: int) -> pa.Table:
    names = [f"{part}-{number}.jpg" for number in range(3)]
    columns = {"image_id": names, "image": [name.encode() * 9 for name in names], "source_id": ["s"] * 3}
    return pa.table(columns, schema=pa.schema([(n, pa.binary() if n == "image" else pa.string()) for n in columns]))


def delta_of(folder: Path, parts: int) -> None:
    """The source is a partition, so that only the log has it."""
    for part in range(parts):
        write_deltalake(str(folder), rows_of(part), partition_by=["source_id"], mode="append")


def iceberg_table(folder: Path, schema: pa.Schema) -> Any:
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri="sqlite:///:memory:", warehouse=f"file://{folder.parent}")
    catalog.create_namespace("n")
    return catalog.create_table("n.t", schema, location=f"file://{folder}")


def iceberg_of(folder: Path, parts: int) -> None:
    table = iceberg_table(folder, rows_of(0).schema)
    for part in range(parts):
        table.append(rows_of(part))


@pytest.mark.parametrize(("kind", "write"), [("delta", delta_of), ("iceberg", iceberg_of)])
def test_a_table_is_opened_as_often_for_many_files_as_for_one(
    kind: str, write: Callable[[Path, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_files = getattr(detect, f"{kind}_files")

    def counting(*args: Any) -> Any:
        opened.append(kind)
        return open_files(*args)

    monkeypatch.setattr(detect, f"{kind}_files", counting)
    times = []
    for parts in (1, 6):
        folder = tmp_path / f"{kind}{parts}"
        folder.mkdir()
        write(folder, parts)
        opened.clear()
        result, _ = admitted(config_of(tmp_path / str(parts), str(folder)))
        assert (result.counts["admitted"], result.counts["hashed"]) == (3 * parts, 3 * parts)
        times.append(len(opened))
    assert times[0] == times[1] > 0


def while_checked(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Let something happen between the listing of the corpus and the check of its files."""
    perform = index._performed

    def after(context: Any, function: Any, tasks: Iterable[Any]) -> Any:
        if function is index.check_part:
            change()
        return perform(context, function, tasks)

    monkeypatch.setattr(index, "_performed", after)


def test_a_table_that_is_compacted_meanwhile_is_admitted_as_it_was_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta_of(tmp_path / "t", 6)
    config = config_of(tmp_path, str(tmp_path / "t"))
    while_checked(monkeypatch, lambda: DeltaTable(str(tmp_path / "t")).optimize.compact())
    result, _ = admitted(config)
    assert (result.counts["admitted"], result.counts["hashed"]) == (18, 18)
    monkeypatch.undo()
    result, rows = admitted(config)
    assert len({row["corpus_file"] for row in rows}) == 1
    assert (result.counts["admitted"], result.counts["hashed"]) == (18, 18)


def test_a_file_that_is_removed_meanwhile_says_to_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delta_of(tmp_path / "t", 6)
    config = config_of(tmp_path, str(tmp_path / "t"))

    def compacted_and_vacuumed() -> None:
        table = DeltaTable(str(tmp_path / "t"))
        table.optimize.compact()
        table.vacuum(0, enforce_retention_duration=False, dry_run=False)

    while_checked(monkeypatch, compacted_and_vacuumed)
    with pytest.raises(Retryable, match="removed while it was read") as failed:
        admitted(config)
    assert "run again" in str(failed.value)
    monkeypatch.undo()
    assert admitted(config)[0].counts["admitted"] == 18


def test_the_check_of_a_first_corpus_reads_no_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delta_of(tmp_path / "t", 2)
    read: list[str] = []
    ids = Corpus.ids

    def counting(self: Corpus, path: str) -> pa.Table:
        read.append(path)
        return ids(self, path)

    monkeypatch.setattr(Corpus, "ids", counting)
    assert admitted(config_of(tmp_path, str(tmp_path / "t")))[0].counts["admitted"] == 6
    assert len(read) == len(set(read)) == 2  # once each, to index it


def test_a_column_of_a_rule_is_missed_before_anything_is_indexed(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for part in (0, 1):
        rows = rows_of(part).append_column("person", pa.array(["a", "b", "c"]))
        rows = rows.drop_columns(["person"]) if part else rows
        pq.write_table(rows, tmp_path / f"c/{part}.parquet")
    config = config_of(tmp_path, str(tmp_path / "c"), columns={"subject_ref": {"column": "person"}})
    with pytest.raises(ConfigError, match="no column 'person'"):
        admitted(config)
    assert not (tmp_path / "lake/images").exists() or not list((tmp_path / "lake/images").rglob("*.parquet"))


def test_parts_carry_what_only_the_log_says(tmp_path: Path) -> None:
    delta_of(tmp_path / "t", 2)
    spec = resolve_corpus(config_of(tmp_path, str(tmp_path / "t"), columns={}))
    parts = OpenedCorpus(spec).parts()
    assert [part.constants for part in parts] == [{"source_id": "s"}] * 2
    rows = OpenedCorpus(spec).index(parts[0], trusted=False)
    assert rows["source_id"].to_pylist() == ["s"] * 3


def test_an_erasure_finds_photos_whose_source_is_in_the_log_only(tmp_path: Path) -> None:
    """Also where the lake's index does not name them, and a rule names the partition column."""
    delta_of(tmp_path / "t", 2)
    config = config_of(tmp_path, str(tmp_path / "t"), columns={"source_id": {"column": "source_id"}})
    targets = Targets(Request.of(sources=["s"]))
    with writing(config, "test") as context:
        find_places(context, targets)
    assert len(targets.places) == 6
    assert targets.images == {*rows_of(0)["image_id"].to_pylist(), *rows_of(1)["image_id"].to_pylist()}


def persons(folder: Path) -> dict[str, str | None]:
    rows, _ = listed(folder, columns={"source_id": "source_id"})
    assert all(row["data"] == row["image_id"].encode() * 9 for row in rows)
    return {row["image_id"]: row["subject_ref"] for row in rows}


def test_a_renamed_column_of_an_iceberg_table_is_found_in_old_files(tmp_path: Path) -> None:
    rows = rows_of(0).append_column("person", pa.array(["a", "b", "c"]))
    table = iceberg_table(tmp_path / "t", rows.schema)
    table.append(rows)
    with table.update_schema() as update:
        update.rename_column("person", "subject_ref")
        update.rename_column("image", "photo")
    table.append(rows_of(1).append_column("subject_ref", pa.array(["d", "e", "f"])).rename_columns({"image": "photo"}))
    wanted = {"0-0.jpg": "a", "0-1.jpg": "b", "0-2.jpg": "c", "1-0.jpg": "d", "1-1.jpg": "e", "1-2.jpg": "f"}
    assert persons(tmp_path / "t") == wanted
    config = config_of(tmp_path, str(tmp_path / "t"), columns={"source_id": "source_id"})
    assert {row["image_id"]: row["subject_ref"] for row in admitted(config)[1]} == wanted


def test_a_column_that_was_dropped_and_added_again_does_not_bring_its_values_back(tmp_path: Path) -> None:
    from pyiceberg.types import StringType

    rows = rows_of(0).append_column("subject_ref", pa.array(["a", "b", "c"]))
    table = iceberg_table(tmp_path / "t", rows.schema)
    table.append(rows)
    before = persons(tmp_path / "t")
    with table.update_schema() as update:
        update.delete_column("subject_ref")
    assert set(persons(tmp_path / "t").values()) == {None}
    with table.update_schema() as update:
        update.add_column("subject_ref", StringType())
    assert (set(before.values()), set(persons(tmp_path / "t").values())) == ({"a", "b", "c"}, {None})
    columns = {"source_id": "source_id", "subject_ref": "subject_ref"}  # a mapped column that old files lack is null
    assert {row["subject_ref"] for row in listed(tmp_path / "t", columns=columns)[0]} == {None}


def iceberg_with_foreign_file(folder: Path) -> Any:
    """A table with a data file that another tool wrote, without field ids."""
    rows = rows_of(0).append_column("person", pa.array(["a", "b", "c"]))
    table = iceberg_table(folder, rows.schema)
    table.append(rows)
    (path,) = folder.rglob("*.parquet")
    pq.write_table(rows, path)
    return table


def test_a_file_without_field_ids_is_read_by_names_or_refused(tmp_path: Path) -> None:
    table = iceberg_with_foreign_file(tmp_path / "t")
    columns = {"source_id": "source_id", "subject_ref": "person"}
    assert {row["subject_ref"] for row in listed(tmp_path / "t", columns=columns)[0]} == {"a", "b", "c"}
    with table.update_schema() as update:
        update.rename_column("person", "subject_ref")
    with pytest.raises(ConfigError, match="no field ids") as refused:
        persons(tmp_path / "t")
    assert "schema.name-mapping.default" in str(refused.value)
    mapping = '[{"field-id": 1, "names": ["image_id"]}, {"field-id": 2, "names": ["image"]}, '
    mapping += '{"field-id": 3, "names": ["source_id"]}, {"field-id": 4, "names": ["person"]}]'
    with table.transaction() as change:
        change.set_properties({"schema.name-mapping.default": mapping})
    assert set(persons(tmp_path / "t").values()) == {"a", "b", "c"}


def test_a_column_that_is_only_in_the_partition_is_taken_from_it(tmp_path: Path) -> None:
    """Files of tables that came from Hive lack the columns by which they are divided."""
    rows = rows_of(0).append_column("subject_ref", pa.array(["a"] * 3))
    table = iceberg_table(tmp_path / "t", rows.schema)
    with table.update_spec() as update:
        update.add_identity("subject_ref")
    table.append(rows)
    (path,) = (tmp_path / "t").rglob("*.parquet")
    stored = pq.read_table(path)
    pq.write_table(stored.drop_columns(["subject_ref"]), path)
    assert set(persons(tmp_path / "t").values()) == {"a"}


def test_uris_in_a_renamed_column_of_an_iceberg_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    rows = pa.table({"path": [str(tmp_path / "a.jpg")], "who": ["a"]})
    table = iceberg_table(tmp_path / "t", rows.schema)
    table.append(rows)
    with table.update_schema() as update:
        update.rename_column("path", "uri")
        update.rename_column("who", "subject_ref")
    ((row,), left_out) = listed(tmp_path / "t")
    assert (row["subject_ref"], row["data"], left_out) == ("a", b"photo", [])


def test_no_part_of_a_table_is_read_without_its_log(tmp_path: Path) -> None:
    delta_of(tmp_path / "d", 1)
    iceberg_of(tmp_path / "i", 1)
    file = next((tmp_path / "d").rglob("*.parquet"))
    (tmp_path / "link").symlink_to(tmp_path / "i/data")
    (tmp_path / "i/data/photos").mkdir()
    (tmp_path / "i/data/photos/a.jpg").write_bytes(b"photo")
    parts = [file.parent, file, tmp_path / "i/data", tmp_path / "i/data/photos", tmp_path / "link"]
    for part in parts:
        for kind in ({}, {"kind": "parquet"}):
            with pytest.raises(ConfigError, match="table, whose files include deleted rows") as refused:
                listed(part, **kind)
            table = tmp_path / ("d" if "/d/" in str(part) else "i")
            assert f"set corpus.uri to {table} " in str(refused.value)


def test_a_folder_with_an_empty_log_is_not_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "t/_delta_log").mkdir(parents=True)
    pq.write_table(rows_of(0), tmp_path / "t/a.parquet")
    for section in ({}, {"kind": "parquet"}, {"kind": "files"}):
        with pytest.raises(ConfigError, match="Delta table"):
            listed(tmp_path / "t", **section)


def test_a_table_whose_metadata_are_compressed_is_not_read_file_by_file(tmp_path: Path) -> None:
    iceberg_of(tmp_path / "t", 1)
    for path in (tmp_path / "t/metadata").glob("*.metadata.json"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    for uri in (tmp_path / "t", tmp_path / "t/data"):
        with pytest.raises(ConfigError, match="Iceberg"):
            listed(uri)


def test_a_part_of_a_table_in_a_bucket_is_refused_at_bounded_cost(
    tmp_path: Path, weed_env: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta_of(tmp_path / "t", 1)
    for path in (tmp_path / "t").rglob("*.*"):
        open_store("s3://lake/inside/t").write(path.relative_to(tmp_path / "t").as_posix(), path.read_bytes())
    requests: list[str] = []
    page = S3Store.page

    def counting(self: S3Store, folder: str, **options: Any) -> Any:
        requests.append(folder)
        return page(self, folder, **options)

    monkeypatch.setattr(S3Store, "page", counting)
    with pytest.raises(ConfigError, match=r"set corpus\.uri to s3://lake/inside/t "):
        listed("s3://lake/inside/t/source_id=s")
    assert len(requests) < 8
