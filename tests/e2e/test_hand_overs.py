"""Hand-overs that fail midway: nothing of them stays at their place, and no lease is open for what nobody received."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from facelake.config import Config
from facelake.engines.scratch import temporary_folder
from facelake.errors import ConfigError, Retryable, Undelivered
from facelake.events import Event, Notice
from facelake.lake.s3 import S3Store
from facelake.lake.store import open_store
from facelake.nightly import writing
from facelake.stages.core.audit import trusted_records
from facelake.stages.core.context import Context
from facelake.stages.sharing import delivery as delivering
from facelake.stages.sharing import export as exporting
from facelake.stages.sharing.delivery import Delivery
from facelake.stages.sharing.export import export_gallery, send_changes
from facelake.stages.sharing.leases import leases, what_is_owed
from facelake.testing.servers import Server

P = "identity-grouping"
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def context(demo_config: Config, said: list[str]) -> Iterator[Context]:
    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)

    with writing(demo_config, "test", listen) as opened:
        yield opened


def failing_at(call: int, patch: pytest.MonkeyPatch, why: BaseException, owner: type, name: str) -> None:
    """Have a method fail from its n-th call on, counted from one."""
    original, calls = getattr(owner, name), []

    def failing(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) >= call:
            raise why
        return original(*arguments)

    patch.setattr(owner, name, failing)


def kinds(context: Context) -> list[str]:
    return [record["kind"] for record in trusted_records(context.lake)]


@pytest.mark.parametrize("why", [FULL, KeyboardInterrupt()], ids=["full", "interrupt"])
@pytest.mark.parametrize("call", [1, 2, 4])
def test_a_failed_export_leaves_no_open_lease_and_no_files(
    context: Context, tmp_path: Path, said: list[str], call: int, why: BaseException
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failing_at(call, patch, why, Delivery, "_move")
        with pytest.raises(type(why)):
            export_gallery(context, str(tmp_path / "a"), P, "gate-7")
    (lease,) = leases(context.lake)
    assert lease.returned
    assert list((tmp_path / "a").iterdir()) == []
    assert what_is_owed(context.lake, datetime.now(UTC)) == {}
    assert kinds(context)[0] == "export-failed"
    assert f"nothing was handed over under {lease.lease_id}: the lease is closed" in said[-1]
    export_gallery(context, str(tmp_path / "a"), P, "gate-7")


def test_what_cannot_be_removed_is_said_with_the_command_that_closes_the_lease(
    context: Context, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failing_at(2, patch, FULL, Delivery, "_move")
        failing_at(2, patch, OSError(errno.EROFS, "Read-only file system"), Delivery, "_remove")
        with pytest.raises(Undelivered, match=r"No space left.*nor those removed.*feed return lease-") as caught:
            export_gallery(context, str(tmp_path / "a"), P, "gate-7")
    (lease,) = leases(context.lake)
    assert not lease.returned
    assert lease.lease_id in caught.value.next_step
    assert str(tmp_path / "a") in caught.value.where


def test_a_lease_that_cannot_be_closed_is_named(context: Context, tmp_path: Path) -> None:
    def closed(*_: object) -> None:
        raise Retryable("the store does not answer", where="here", next_step="run again")

    with pytest.MonkeyPatch.context() as patch:
        failing_at(1, patch, FULL, Delivery, "_move")
        patch.setattr(exporting, "mark_returned", closed)
        with pytest.raises(Undelivered, match=r"its lease could not be closed.*feed return lease-"):
            export_gallery(context, str(tmp_path / "a"), P, "gate-7")


def test_an_export_that_was_to_be_replaced_stays_until_the_first_file_is_moved(
    context: Context, tmp_path: Path, said: list[str]
) -> None:
    first = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    before = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facelake.stages.sharing.delivery.append_audit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_gallery(context, str(tmp_path / "a"), P, "gate-8")
    assert {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()} == before
    assert not any("was overwritten" in text for text in said)
    with pytest.MonkeyPatch.context() as patch:
        failing_at(2, patch, FULL, Delivery, "_move")
        with pytest.raises(OSError, match="No space left"):
            export_gallery(context, str(tmp_path / "a"), P, "gate-8")
    assert list((tmp_path / "a").iterdir()) == []
    assert f"the export under {first} in {tmp_path / 'a'} was overwritten and its lease is still open" in said[-1]
    assert [lease.returned for lease in leases(context.lake)] == [False, True, True]


def test_failed_changes_leave_no_files(context: Context, tmp_path: Path) -> None:
    lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    with pytest.MonkeyPatch.context() as patch:
        failing_at(2, patch, FULL, Delivery, "_move")
        with pytest.raises(OSError, match="No space left"):
            send_changes(context, lease, str(tmp_path / "b"), since=0)
    assert list((tmp_path / "b").iterdir()) == []
    assert [lease.returned for lease in leases(context.lake)] == [False]


@pytest.mark.parametrize("out", ["s3:/oops", "file:/oops", "lake:/a/b"])
def test_a_url_with_a_slash_too_few_is_no_folder(context: Context, out: str) -> None:
    with pytest.raises(ConfigError, match="one slash after"):
        export_gallery(context, out, P, "gate-7")
    assert not Path(out.partition("/")[0]).exists()
    assert leases(context.lake) == []


@pytest.mark.parametrize("name", ["manifest.json", "identities-00000.parquet", "index.faiss"])
def test_a_full_disk_is_an_error_that_names_the_place(context: Context, tmp_path: Path, name: str) -> None:
    """/dev/full is a disk without space."""

    @contextmanager
    def full(*arguments: Any) -> Iterator[Path]:
        with temporary_folder(*arguments) as folder:
            (folder / name).symlink_to("/dev/full")
            yield folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivering, "temporary_folder", full)
        with pytest.raises(OSError, match=r"(?i)no space left") as caught:
            export_gallery(context, str(tmp_path / "a"), P, "gate-7")
    assert str(tmp_path / "a") in str(caught.value.filename)
    assert list((tmp_path / "a").iterdir()) == []
    assert all(lease.returned for lease in leases(context.lake))


def test_in_a_bucket(context: Context, weed_env: Server) -> None:
    out, why = "s3://lake/failed-export", Retryable("the store does not answer", where="s3", next_step="run again")
    with pytest.MonkeyPatch.context() as patch:
        failing_at(3, patch, why, S3Store, "upload")
        with pytest.raises(Retryable):
            export_gallery(context, out, P, "gate-7")
    assert list(open_store(out).list()) == []
    assert [lease.returned for lease in leases(context.lake)] == [True]
