"""A corpus that is another owner's Delta or Iceberg table: its log is read once, and it may change meanwhile."""

from __future__ import annotations

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
from facelake.nightly import writing
from facelake.stages.admission import index
from facelake.stages.erasure.own_store import find_places
from facelake.stages.erasure.request import Request, Targets
from tests.contract.test_corpora import admitted, config_of


def rows_of(part: int) -> pa.Table:
    names = [f"{part}-{number}.jpg" for number in range(3)]
    columns = {"image_id": names, "image": [name.encode() * 9 for name in names], "source_id": ["s"] * 3}
    return pa.table(columns, schema=pa.schema([(n, pa.binary() if n == "image" else pa.string()) for n in columns]))


def delta_of(folder: Path, parts: int) -> None:
    """The source is a partition, so that only the log has it."""
    for part in range(parts):
        write_deltalake(str(folder), rows_of(part), partition_by=["source_id"], mode="append")


def iceberg_of(folder: Path, parts: int) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri="sqlite:///:memory:", warehouse=f"file://{folder.parent}")
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", rows_of(0).schema, location=f"file://{folder}")
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
