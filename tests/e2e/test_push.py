"""`feed push` on real databases: a copy, changes, erasures that reach the files, recalls, kills, and what it refuses."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from facelake.config import Config, load_config
from facelake.contracts import EventKind, Scope
from facelake.erase import Needles
from facelake.erase import verify as signature_fits
from facelake.errors import ConfigError, Corrupt, Refused
from facelake.matcher import Gallery
from facelake.nightly import writing
from facelake.stages.admission.accepted_clock import accept_clock
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.sharing import push as pushing
from facelake.stages.sharing import target_writer
from facelake.stages.sharing.export import export_gallery
from facelake.stages.sharing.leases import leases, mark_returned, recall, what_is_owed
from facelake.stages.sharing.push import PushTerms, push
from facelake.stages.sharing.target_record import signed
from facelake.targets import Location, TargetRows, open_target
from tests.conftest import FACELAKE, run_cli, run_json
from tests.e2e.test_leases import identities_of
from tests.targets import needles_of, needles_of_exemplars, remains

P = "identity-grouping"
Rows = dict[str, tuple[int, bytes]]


@pytest.fixture
def context(demo_config: Config) -> Iterator[Context]:
    with writing(demo_config, "test") as opened:
        yield opened


def content(url: str) -> tuple[Rows, dict[str, Any] | None]:
    """Every row of a target with its version and template, and the record without what differs from push to push."""
    with open_target(Location.parse(url)) as target:
        body = target.read_record()
        versions = {k: v for batch in target.versions() for k, v in batch.items()} if target.exists() else {}
        templates = target.templates(list(versions)) if versions else {}
        own = target.exemplars(list(versions)) if versions and body and body["exemplars"] else {}
    vectors = {name: template.tobytes() + own[name].tobytes() if own else template.tobytes() for name, template in templates.items()}  # fmt: skip
    rows = {name: (version, vectors[name]) for name, version in versions.items()}
    return rows, body and {k: body[k] for k in ("gallery_version", "state", "identities", "model_digest", "purpose")}


def counts(result: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(result[name] for name in ("state", "before", "inserted", "replaced", "deleted", "after"))


@pytest.mark.parametrize("scheme", ["lancedb", "qdrant", "milvus"])
def test_a_database_is_not_made_inside_the_lake(context: Context, scheme: str) -> None:
    folder = Path(context.lake.uri) / "database"
    with pytest.raises(ConfigError, match="is inside the lake"):
        push(context, PushTerms(f"{scheme}://{folder}/gallery.db?table=gate", "gate-7", P))
    assert not folder.exists()
    assert not leases(context.lake)


def test_a_target_follows_the_lake_to_its_end(
    context: Context, target_place: tuple[Path | str, str], tmp_path: Path
) -> None:
    folder, url = target_place
    lake, terms = context.lake, PushTerms(target_place[1], "gate-7", P)
    first = push(context, terms)
    total = first["after"]
    assert counts(first) == ("copied", 0, total, 0, 0, total)
    manifest = export_gallery(context, str(tmp_path / "export"), P, "other")
    export = Gallery.open(str(tmp_path / "export"))
    rows, body = content(url)
    assert set(rows) == set(export.identity_ids)
    assert all(rows[name][1] == export.templates()[i].tobytes() for i, name in enumerate(export.identity_ids))
    assert body == {"gallery_version": 1, "state": "complete", "identities": total, "model_digest": export.model_digest, "purpose": P}  # fmt: skip
    with open_target(Location.parse(url)) as target:
        stored = target.read_record()
        assert stored is not None
        assert signature_fits({k: v for k, v in stored.items() if k != "signature"}, stored["signature"], context.signer().fingerprint)  # fmt: skip
        probes = export.templates() + 0.02
        flat = faiss.IndexFlatIP(probes.shape[1])
        flat.add(export.templates())
        wanted = flat.search(probes, 1)[1][:, 0]
        assert [target.search(p / np.linalg.norm(p), 1)[0][0] for p in probes] == [
            export.identity_ids[i] for i in wanted
        ]
    assert counts(push(context, PushTerms(url, " GATE-7"))) == ("unchanged", total, 0, 0, 0, total)

    theirs = identities_of(lake, "person-3")
    needles = needles_of({name: np.frombuffer(rows[name][1], np.float32) for name in theirs})
    templates = Needles.of((), pieces=needles.blobs)
    with open_target(Location.parse(url)) as target:
        target.compact()  # PostgreSQL has the rows in memory and in its log only
    assert remains(folder, needles)
    assert remains(folder, templates)
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-3")])
    assert first["lease_id"] in what_is_owed(lake, datetime.now(UTC))
    withheld = push(context, PushTerms(url))  # before any run
    assert counts(withheld) == ("updated", total, 0, 0, len(theirs), total - len(theirs))
    assert first["lease_id"] not in what_is_owed(lake, datetime.now(UTC))
    assert remains(folder, needles) == {}
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "person-3", (P,), "b")])
    back = push(context, PushTerms(url))  # nothing of the gallery has changed
    assert counts(back) == ("updated", total - len(theirs), len(theirs), 0, 0, total)

    written = erase(context, Request.of(subjects=["person-3"])).certificate
    (database,) = json.loads(lake.store.read(written))["body"]["databases_pending"]
    assert database["target"] == Location.parse(url).shown
    assert database["keeps"]
    assert first["lease_id"] in what_is_owed(lake, datetime.now(UTC))
    erased = push(context, PushTerms(url))
    assert erased["gallery_version"] == 2
    assert first["lease_id"] not in what_is_owed(lake, datetime.now(UTC))
    assert remains(folder, templates) == {}
    assert erased["deleted"] + erased["replaced"] >= len(theirs)  # faces of unnamed photos may keep the identity
    export_gallery(context, str(tmp_path / "fresh"), P, "fresh")
    fresh = Gallery.open(str(tmp_path / "fresh"))
    rows, _ = content(url)
    assert {name: row[1] for name, row in rows.items()} == {n: fresh.templates()[i].tobytes() for i, n in enumerate(fresh.identity_ids)}  # fmt: skip

    recall(lake, recipient="Gate-7")
    everything = needles_of({name: np.frombuffer(row[1], np.float32) for name, row in rows.items()})
    end = push(context, PushTerms(url))
    assert counts(end) == ("emptied", len(rows), 0, 0, len(rows), 0)
    assert remains(folder, everything) == {}
    assert content(url) == ({}, None)
    assert [lease.returned for lease in leases(lake) if lease.lease_id == first["lease_id"]] == [True]
    with pytest.raises(ConfigError, match="needs a recipient"):
        push(context, PushTerms(url))
    with pytest.raises(Refused, match=f"lease {first['lease_id']} was recalled.*--new-lease"):
        push(context, terms)  # a schedule does not undo the recall
    assert content(url) == ({}, None)
    assert push(context, replace(terms, new_lease=True))["state"] == "copied"
    assert push(context, terms)["state"] == "unchanged"
    assert manifest["lease_id"] not in {lease.lease_id for lease in leases(lake) if lease.target}


class Crash(BaseException):
    """The simulated end of the process, which no handler may catch."""


@contextmanager
def crash_at(call: int, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> Iterator[list[str]]:
    """End the process before or after the n-th write to the target or the lake's leases, counted from one."""
    seen: list[str] = []

    def counted(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) == call and not after:
                raise Crash
            result = original(*arguments, **options)
            if len(seen) == call:
                raise Crash
            return result

        patch.setattr(owner, name, wrapped)

    opened = open_target

    @contextmanager
    def opening(location: Location) -> Iterator[Any]:
        with opened(location) as target:
            for name in ("write_record", "create", "upsert", "delete", "set_end", "compact", "drop", "drop_record"):
                counted(type(target), name)
            yield target

    with monkeypatch.context() as patch:
        patch.setattr(target_writer, "_BATCH", 3)
        patch.setattr(target_writer, "_WRITE_BYTES", 3 * 4 * 128)
        patch.setattr(pushing, "open_target", opening)
        for name in ("issue", "mark_sent", "acknowledge", "mark_returned"):
            counted(pushing, name)
        yield seen


def test_a_push_killed_at_random_points_ends_like_a_fresh_one(
    context: Context, target_place: tuple[Path | str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty kills: of a first copy, of a changing push, and of emptying."""
    url, generator = target_place[1], random.Random(7)
    terms = PushTerms(url, "gate-7", P, exemplars=True)
    kills = 0

    def kill(most: int) -> None:
        nonlocal kills
        with pytest.raises(Crash), crash_at(generator.randint(1, most), monkeypatch, after=bool(kills % 2)):
            push(context, terms)
        kills += 1

    for _ in range(7):
        kill(4)
    push(context, terms)
    assert len([lease for lease in leases(context.lake) if lease.target]) == 1
    copied = content(url)
    erase(context, Request.of(subjects=["person-5"]))
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-1")])
    for _ in range(8):
        kill(5)
    push(context, terms)
    updated = content(url)
    assert updated != copied
    recall(context.lake, recipient="gate-7")
    for _ in range(5):
        kill(4 if kills < 18 else 1)
    with open_target(Location.parse(url)) as target:
        emptied = target.read_record() is None
    if not emptied:
        assert push(context, terms)["state"] == "emptied"
    assert push(context, replace(terms, new_lease=True))["state"] == "copied"
    fresh = content(url)
    assert fresh == updated
    assert kills == 20
    assert what_is_owed(context.lake, datetime.now(UTC)) == {}


def test_exemplars_are_those_of_an_export_and_go_with_their_identity(
    context: Context, target_place: tuple[Path | str, str], tmp_path: Path
) -> None:
    folder, url = target_place
    key = bytes(range(32))
    push(context, PushTerms(url, "gate-7", P, key=key, exemplars=True))
    export_gallery(context, str(tmp_path / "export"), P, "other", key=key)
    stored = pq.read_table(tmp_path / "export/identities-00000.parquet")
    wanted = dict(zip(stored["identity_id"].to_pylist(), stored["exemplars"].to_pylist(), strict=True))
    with open_target(Location.parse(url)) as target:
        found = target.exemplars(list(wanted))
        target.compact()
    assert {name: [row.tobytes() for row in own] for name, own in found.items()} == wanted
    assert remains(folder, needles_of_exemplars(found.values()))
    with pytest.raises(Refused, match="was made with exemplars"):
        push(context, PushTerms(url, key=key, exemplars=False))
    erase(context, Request.of(subjects=["person-3"]))
    push(context, PushTerms(url, key=key))
    export_gallery(context, str(tmp_path / "fresh"), P, "fresh", key=key)
    stored = pq.read_table(tmp_path / "fresh/identities-00000.parquet")
    kept = {own for row in stored["exemplars"].to_pylist() for own in row}
    gone = [np.frombuffer(own, "<f2") for row in wanted.values() for own in row if own not in kept]
    assert gone
    assert remains(folder, needles_of_exemplars([np.stack(gone)])) == {}
    assert remains(folder, needles_of_exemplars([np.stack([np.frombuffer(own, "<f2") for own in kept])]))


@pytest.mark.slow
def test_processes_killed_at_random_moments(demo_lake: Path, pg_folder: tuple[Path, str]) -> None:
    """Twenty processes end by SIGKILL, in any instruction of a push to PostgreSQL."""
    url, lake, generator = f"{pg_folder[1]}&table=killed", str(demo_lake), random.Random(3)
    command = [*FACELAKE, "feed", "push", "--to", url, "--recipient", "gate", "--purpose", P, "--lake", lake]
    began = time.monotonic()
    run_cli(*command[len(FACELAKE) :])
    whole = time.monotonic() - began
    config = load_config(lake=lake)
    for number in range(20):
        if number % 5 == 0:
            with writing(config, "test") as context:
                kind = EventKind.GRANT if number % 10 else EventKind.WITHDRAW
                entry = Entry(kind, Scope.SUBJECT, "person-3", (P,), "" if kind is EventKind.WITHDRAW else "b")
                record(context.lake, [entry])
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(0.3, 1.0) * whole)
        process.kill()
        process.wait()
    run_json(*command[len(FACELAKE) :])
    fresh = f"{pg_folder[1]}&table=fresh"
    run_json("feed", "push", "--to", fresh, "--recipient", "other", "--purpose", P, "--lake", lake)
    assert content(url) == content(fresh)


def test_what_is_not_this_lakes_is_refused(
    context: Context, target_place: tuple[Path | str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = target_place
    terms = PushTerms(url, "gate-7", P)
    with open_target(Location.parse(url)) as target:
        target.create(32)
    with pytest.raises(Refused, match="that no push has made"):
        push(context, terms)
    assert leases(context.lake) == []
    with open_target(Location.parse(url)) as target:
        target.drop()
    with pytest.raises(Refused, match="no identity is in force"):
        push(context, PushTerms(url, "gate-7", "door-access"))
    lease = push(context, terms)["lease_id"]
    for wrong, text in (
        (PushTerms(url, "gate-8"), "belongs to 'gate-7'"),
        (PushTerms(url, purpose="door-access"), "for the purpose"),
        (PushTerms(url, key=bytes(32)), "another template key"),
    ):
        with pytest.raises(Refused, match=text):
            push(context, wrong)
    rows = TargetRows(["id-foreign"], np.eye(1, 128, dtype=np.float32), np.array([1]), {"lease_id": "x", "purpose": P, "expires_at": datetime.now(UTC).isoformat(), "model_digest": "m"})  # fmt: skip
    with open_target(Location.parse(url)) as target:
        target.upsert(rows, fresh=False)
        body = target.read_record()
    assert body is not None
    with pytest.raises(Refused, match="1 rows of the target were not written under lease"):
        push(context, terms)
    with open_target(Location.parse(url)) as target:
        target.delete(["id-foreign"])
        target.write_record(signed(context, body | {"model_digest": "f" * 32}))
    with pytest.raises(Refused, match="templates of model ffffffffffff"):
        push(context, terms)
    with open_target(Location.parse(url)) as target:
        target.write_record(body | {"lake": "another"})
    with pytest.raises(Refused, match="from another lake"):
        push(context, terms)
    with open_target(Location.parse(url)) as target:
        target.write_record(body)
        kind = type(target)
    for forged in ({"purpose": "door-access"}, {"gallery_version": 9}, {"lease_id": "lease-0"}, {"signature": None}):
        with open_target(Location.parse(url)) as target:
            target.write_record(body | forged)
        with pytest.raises(Refused, match="is not signed by an accepted key: it was changed"):
            push(context, PushTerms(url))
    with open_target(Location.parse(url)) as target:
        target.write_record(body)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "delete", lambda self, ids: None)  # a database that keeps what it was told to delete
        record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-3")])
        with pytest.raises(Corrupt, match="still in the target"):
            push(context, terms)
        assert lease in what_is_owed(context.lake, datetime.now(UTC))
    assert push(context, terms)["deleted"]


def test_a_target_that_is_gone_is_not_taken_for_emptied(context: Context, target_place: tuple[Path | str, str]) -> None:
    """Its folder is not mounted, or its table has another name: the rows are somewhere."""
    _, url = target_place
    terms = PushTerms(url, "gate-7", P)
    lease = push(context, terms)["lease_id"]
    with open_target(Location.parse(url)) as target:
        body = target.read_record()
        assert body is not None
        target.drop()
    for over in (False, True):
        if over:
            recall(context.lake, lease)
        with pytest.raises(Refused, match=rf"the table .* is gone.*feed return {lease}"):
            push(context, terms)
        with open_target(Location.parse(url)) as target:
            target.drop_record()
        with pytest.raises(Refused, match=f"nothing is there of what was pushed under lease {lease}"):
            push(context, replace(terms, new_lease=True))
        with open_target(Location.parse(url)) as target:
            target.write_record(body)
    assert [one.returned for one in leases(context.lake)] == [False]
    mark_returned(context.lake, lease)  # somebody answers for it
    assert push(context, terms)["state"] == "emptied"
    assert push(context, replace(terms, new_lease=True))["state"] == "copied"


def test_a_copy_of_a_target_does_not_acknowledge_for_it(context: Context, tmp_path: Path) -> None:
    url, copied = (f"lancedb://{tmp_path}/{name}?table=gate" for name in ("first", "copy"))
    lease = push(context, PushTerms(url, "gate-7", P))["lease_id"]
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    erase(context, Request.of(subjects=["person-3"]))
    with pytest.raises(Refused, match=r"this is a copy of lancedb://.*/first"):
        push(context, PushTerms(copied))
    assert lease in what_is_owed(context.lake, datetime.now(UTC))
    recall(context.lake, lease)
    assert push(context, PushTerms(copied))["state"] == "emptied"
    assert [one.returned for one in leases(context.lake)] == [False]  # the first one is as it was
    assert push(context, PushTerms(url))["state"] == "emptied"
    assert [one.returned for one in leases(context.lake)] == [True]


def test_an_ended_lease_empties_the_target(context: Context, tmp_path: Path) -> None:
    url = f"lancedb://{tmp_path}/lance"
    push(context, PushTerms(url, "gate-7", P, days=1))
    later = datetime.now(UTC) + timedelta(days=2)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return later

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pushing, "datetime", Later)
        assert push(context, PushTerms(url))["state"] == "emptied"


def test_the_command(demo_lake: Path, tmp_path: Path) -> None:
    url, lake = f"lancedb://{tmp_path}/lance?table=gate", str(demo_lake)
    result = run_json("feed", "push", "--to", url, "--recipient", "gate-7", "--purpose", P, "--lake", lake)
    assert (result["state"], result["after"]) == ("copied", result["inserted"])
    (lease,) = run_json("feed", "leases", "--lake", lake)["leases"]
    assert (lease["lease_id"], lease["owes"]) == (result["lease_id"], None)
    table = run_cli("feed", "leases", "--lake", lake).stdout.splitlines()
    assert "identities  gallery at issue  gallery acknowledged  state" in table[1]


@pytest.mark.parametrize("scheme", ["milvus", "qdrant", "lancedb"])
def test_every_push_may_be_a_process_of_its_own(demo_lake: Path, tmp_path: Path, scheme: str) -> None:
    given = ("--to", f"{scheme}://{tmp_path}/gate.db?table=gate", "--lake", str(demo_lake))
    first = run_json("feed", "push", *given, "--recipient", "gate-7", "--purpose", P)
    assert run_json("feed", "push", *given)["state"] == "unchanged"
    run_json("erase", "--subject", "person-3", "--yes", "--lake", str(demo_lake))
    assert run_json("feed", "push", *given)["state"] == "updated"
    run_json("feed", "recall", first["lease_id"], "--lake", str(demo_lake))
    assert run_json("feed", "push", *given)["state"] == "emptied"


def test_a_clock_far_ahead_empties_no_target(context: Context, tmp_path: Path) -> None:
    url = f"lancedb://{tmp_path}/l?table=gate"
    before = push(context, PushTerms(url, "gate-7", P))["after"]
    ahead = datetime.now(UTC) + timedelta(days=200)
    with pytest.MonkeyPatch.context() as patch:
        clock = type("Clock", (datetime,), {"now": classmethod(lambda cls, zone=None: ahead)})
        patch.setattr("facelake.stages.admission.ledger.datetime", clock)
        record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "somebody", (P,), "b")])
    with pytest.raises(Refused, match=r"the target was left as it is.*accept --clock"):
        push(context, PushTerms(url))
    with open_target(Location.parse(url)) as target:
        assert target.count() == before
    accept_clock(context, datetime.now(UTC))
    assert push(context, PushTerms(url))["after"] == before
