"""The contract of targets, tested on PostgreSQL with pgvector, Qdrant's local mode, Milvus Lite and LanceDB."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import psycopg
import pytest

from facelake.config import S3Section
from facelake.erase import Needles, scan
from facelake.errors import ConfigError, FacelakeError, Refused
from facelake.lake.s3 import S3Store
from facelake.targets import Location, Target, TargetRows, open_target
from facelake.targets.postgres import PostgresTarget
from facelake.testing.servers import Server
from facelake.vectors import unit_rows
from tests.targets import needles_of, needles_of_exemplars, remains

TAGS = {"lease_id": "lease-1", "purpose": "p", "expires_at": "2030-01-02T03:04:05.678901+00:00", "model_digest": "m"}
COUNT, DIM = 120, 64


@pytest.fixture
def opened(target_place: tuple[Path | str, str]) -> Iterator[tuple[Path | str, Target]]:
    folder, url = target_place
    with open_target(Location.parse(url)) as target:
        yield folder, target


def rows_of(first: int, count: int, seed: int = 0, **tags: str) -> TargetRows:
    ids = [f"id-{number:06d}" + "é" * (number % 3) for number in range(first, first + count)]  # of several lengths
    templates = unit_rows(np.random.default_rng((seed, first)).standard_normal((count, DIM)).astype(np.float32))
    return TargetRows(ids, templates, np.full(count, seed + 1, np.int64), TAGS | tags)


def test_a_target_keeps_its_promises(opened: tuple[Path | str, Target]) -> None:
    folder, target = opened
    assert (target.read_record(), target.exists()) == (None, False)
    for state in ("pushing", "complete"):
        target.write_record({"state": state, "recipient": "Türsteher 'a'"})
    assert target.read_record() == {"state": "complete", "recipient": "Türsteher 'a'"}
    target.create(DIM)
    target.create(DIM)
    assert (target.exists(), target.dim(), target.count()) == (True, DIM, 0)

    first, others = rows_of(0, COUNT - 20), rows_of(COUNT - 20, 20, lease_id="lease-2")
    target.upsert(first, fresh=True)
    target.upsert(others, fresh=False)
    target.upsert(others, fresh=False)
    assert (target.count(), target.count("lease-1"), target.count("lease-2")) == (COUNT, COUNT - 20, 20)
    everything = np.concatenate([first.templates, others.templates])
    names = [*first.ids, *others.ids]
    assert {name: 1 for name in names} == {k: v for batch in target.versions() for k, v in batch.items()}

    flat = faiss.IndexFlatIP(DIM)
    flat.add(everything)
    probes = unit_rows(everything[::30] + 0.05 * np.random.default_rng(1).standard_normal((4, DIM)).astype(np.float32))
    similarity, at = flat.search(probes, 5)
    for probe, values, wanted in zip(probes, similarity, at.tolist(), strict=True):
        found = target.search(probe, 5)
        assert [name for name, _ in found] == [names[i] for i in wanted]
        assert np.allclose([value for _, value in found], values, atol=1e-5)

    replaced = rows_of(0, 5, seed=1)
    before, after = target.templates(replaced.ids), dict(zip(replaced.ids, replaced.templates, strict=True))
    assert np.allclose(np.stack([before[name] for name in replaced.ids]), first.templates[:5], atol=1e-6)
    target.upsert(replaced, fresh=False)
    assert target.count() == COUNT
    now = target.templates([*replaced.ids, "id-none"])
    assert set(now) == set(after)
    assert all(np.allclose(now[name], after[name], atol=1e-6) for name in after)

    deleted = names[10:17]
    gone = needles_of(target.templates(deleted))
    old = needles_of({f"not an id {i}": first.templates[i] for i in range(5)})
    target.compact()
    assert remains(folder, gone)  # the scan finds them as long as they are there
    target.delete([*deleted, "id-none"])
    target.delete(deleted)
    assert (target.templates(deleted), target.count()) == ({}, COUNT - 7)
    target.compact()
    assert target.count() == COUNT - 7
    assert remains(folder, gone) == {}
    assert remains(folder, old) == {}
    assert target.read_record() == {"state": "complete", "recipient": "Türsteher 'a'"}
    target.drop()
    target.drop()
    target.drop_record()
    assert (target.read_record(), target.exists()) == (None, False)


def test_dimensions_are_checked_by_the_database(opened: tuple[Path | str, Target]) -> None:
    _, target = opened
    target.create(DIM)
    rows = rows_of(0, 2)
    wrong = TargetRows(rows.ids, rows.templates[:, :32].copy(), rows.versions, rows.tags)
    with pytest.raises(Exception, match=r"(?i)dim|shape|size|length|schema|cast"):
        target.upsert(wrong, fresh=True)
    assert target.count() == 0


def filled(opened: tuple[Path, Target]) -> tuple[Path, Target, TargetRows]:
    folder, target = opened
    rows = rows_of(0, 40)
    target.create(DIM)
    target.upsert(rows, fresh=True)
    return folder, target, rows


@pytest.mark.parametrize("target_place", ["postgresql"], indirect=True)
def test_deleted_rows_that_another_session_sees_are_waited_for(
    opened: tuple[Path, Target], target_place: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target, rows = filled(opened)
    needles = needles_of({rows.ids[3]: rows.templates[3]})
    with psycopg.connect(f"postgresql:///postgres?host={folder}&user=postgres") as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        target.delete(rows.ids[:10])
        monkeypatch.setattr("facelake.targets.postgres._SNAPSHOT_WAIT_S", 0.0)
        kept = target.compact()
        assert kept is not None
        assert kept.startswith("10 deleted rows that a transaction of another session still sees")
        assert remains(folder, needles)
        monkeypatch.setattr("facelake.targets.postgres._SNAPSHOT_WAIT_S", 60.0)
        threading.Timer(1.0, other.rollback).start()
        assert "write-ahead log" in str(target.compact())
    assert remains(folder, needles) == {}


@pytest.mark.parametrize("target_place", ["postgresql"], indirect=True)
def test_a_session_that_has_read_the_table_holds_nothing_up(
    opened: tuple[Path, Target], target_place: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matcher's session is idle in a transaction, as most drivers leave it after a query."""
    folder, target, rows = filled(opened)
    monkeypatch.setattr("facelake.targets.postgres._SNAPSHOT_WAIT_S", 0.0)
    target._run("SET lock_timeout = 200")  # type: ignore[attr-defined]
    with psycopg.connect(f"postgresql:///postgres?host={folder}&user=postgres") as other:
        other.execute(f"SELECT count(*) FROM {target.location.table}")  # type: ignore[attr-defined]
        target.create(DIM)
        target.delete(rows.ids[:10])
        assert str(target.compact()).startswith("deleted rows that a transaction of another session still sees")
        assert target.count() == 30
    assert "write-ahead log" in str(target.compact())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db?dbname=other",
        "postgresql://host/db?host=elsewhere",
        "postgresql://host/db?port=5433&user=x",
        "postgresql:///db?hostaddr=10.0.0.1",
        "milvus://host?table=gate_next",
        "qdrant://host?table=gate_record",
        "lancedb:///x?table=gate__next",
    ],
)
def test_urls_by_which_two_tables_would_have_one_name_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"name another place|another target.s table"):
        Location.parse(url)


def test_tables_of_two_schemas_have_two_names() -> None:
    one, two = (Location.parse(f"postgresql:///db?host=/run&options=-csearch_path%3D{name}") for name in "ab")
    assert one.shown != two.shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/db",
        "qdrant://host?api_key=secret",
        "milvus://host?token=secret",
        "mysql://host/db",
        "lancedb:///x?table=Drop;Table",
        "lancedb://srv/gate",
        "lancedb+s3:///gate",
        "lancedb+s3://key:secret@bucket/gate",
        "lancedb+s3://bucket/gate?aws_secret_access_key=secret",
        "lancedb+s3://bucket:9000/gate",
        "qdrant://host:99999999",
    ],
)
def test_bad_urls_are_refused_without_their_secret(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Location.parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///db?host={folder}",
        "qdrant://127.0.0.1:{port}",
        "milvus://127.0.0.1:{port}",
        "lancedb:///proc/nowhere",
    ],
)
def test_a_database_that_does_not_answer_is_an_error_with_a_next_step(tmp_path: Path, url: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens on it
        location = Location.parse(url.format(folder=tmp_path, port=unused.getsockname()[1]))
        with (
            pytest.raises(FacelakeError, match="does not answer") as caught,
            open_target(location) as target,
        ):
            target.read_record()
    assert caught.value.next_step


def with_exemplars(rows: TargetRows, seed: int = 0) -> TargetRows:
    """The rows with 0 to 3 exemplars each."""
    draw = np.random.default_rng((seed, 5))
    own = [unit_rows(draw.standard_normal((i % 4, DIM)).astype(np.float32)).astype(np.float16) for i in range(len(rows.ids))]  # fmt: skip
    return replace(rows, exemplars=own)


def test_exemplars_come_and_go_with_their_identity(opened: tuple[Path | str, Target]) -> None:
    folder, target = opened
    target.create(DIM, exemplars=True)
    first, others = with_exemplars(rows_of(0, 60)), with_exemplars(rows_of(60, 20), seed=1)
    target.upsert(first, fresh=True)
    target.upsert(others, fresh=False)
    assert (first.exemplars, others.exemplars) != (None, None)
    everything = dict(zip([*first.ids, *others.ids], [*(first.exemplars or ()), *(others.exemplars or ())], strict=True))  # fmt: skip
    found = target.exemplars([*everything, "id-none"])
    assert set(found) == set(everything)
    assert all(np.array_equal(found[name], own) for name, own in everything.items())
    assert target.search(first.templates[7], 1)[0][0] == first.ids[7]

    replaced = with_exemplars(rows_of(0, 8, seed=1), seed=2)
    target.upsert(replaced, fresh=False)
    deleted = [*first.ids[20:30], *others.ids[:4]]
    gone = needles_of_exemplars(everything[name] for name in [*first.ids[:8], *deleted])
    assert remains(folder, gone) or isinstance(target, PostgresTarget)  # whose rows are in memory and in its log only
    target.delete(deleted)
    target.compact()
    assert remains(folder, gone) == {}
    kept = target.exemplars([*first.ids, *others.ids])
    assert set(kept) == set(everything) - set(deleted)
    assert all(np.array_equal(kept[n], own) for n, own in zip(replaced.ids, replaced.exemplars or (), strict=True))
    assert remains(folder, needles_of_exemplars(kept.values()))


@pytest.mark.parametrize("exemplars", [False, True])
def test_the_end_of_all_rows_is_set(opened: tuple[Path | str, Target], exemplars: bool) -> None:
    _, target = opened
    later = "2031-01-01T00:00:00.000001+00:00"
    rows = with_exemplars(rows_of(0, 40)) if exemplars else rows_of(0, 40)
    target.create(DIM, exemplars=exemplars)
    target.upsert(rows, fresh=True)
    target.upsert(replace(rows_of(40, 3, expires_at=later), exemplars=rows.exemplars and rows.exemplars[:3]), fresh=False)  # fmt: skip
    assert (target.count_other_ends(TAGS["expires_at"]), target.count_other_ends(later)) == (3, 40)
    for _ in range(2):
        target.set_end(later)
        assert (target.count_other_ends(later), target.count()) == (0, 43)
    target.compact()
    assert np.allclose(target.templates(rows.ids[5:6])[rows.ids[5]], rows.templates[5], atol=1e-6)
    assert sum(len(batch) for batch in target.versions()) == 43
    if exemplars:
        assert np.array_equal(target.exemplars(rows.ids[7:8])[rows.ids[7]], (rows.exemplars or ())[7])


def test_a_bucket_without_conditional_writes_is_refused(rclone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in rclone.environment().items():
        monkeypatch.setenv(key, value)
    with pytest.raises(Refused, match="conditional writes"), open_target(Location.parse("lancedb+s3://bucket/gate")):
        pass


def test_a_versioned_bucket_keeps_nothing_of_deleted_rows(weed_env: Server) -> None:
    store = S3Store(f"s3://versions-{os.urandom(4).hex()}/faces", S3Section())
    store._client.create_bucket(Bucket=store.bucket)
    store._client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})

    def remains_in_versions(needles: Needles) -> int:
        page = store._client.list_object_versions(Bucket=store.bucket)
        items = [{name: item[name] for name in ("Key", "VersionId")} for item in page.get("Versions", [])]
        bodies = (store._client.get_object(Bucket=store.bucket, **item)["Body"].read() for item in items)
        return sum(scan("", body, needles) for body in bodies)

    with open_target(Location.parse(f"lancedb+s3://{store.bucket}/faces?table=gate")) as target:
        rows = with_exemplars(rows_of(0, 40))
        target.create(DIM, exemplars=True)
        target.upsert(rows, fresh=True)
        gone = needles_of(target.templates(rows.ids[10:17])), needles_of_exemplars((rows.exemplars or ())[10:17])
        target.delete(rows.ids[10:17])
        upload = store._client.create_multipart_upload(Bucket=store.bucket, Key="faces/gate.lance/data/x.lance")
        part = {"Bucket": store.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"], "PartNumber": 1}
        store._client.upload_part(**part, Body=rows.templates.tobytes())
        assert all(map(remains_in_versions, gone))
        target.compact()
        assert [remains_in_versions(needles) for needles in gone] == [0, 0]
        assert target.count() == 33
        target.drop()
        target.compact()
        everything = needles_of(dict(zip(rows.ids, rows.templates, strict=True)))
        assert remains_in_versions(everything) == 0
    assert "Uploads" not in store._client.list_multipart_uploads(Bucket=store.bucket)
