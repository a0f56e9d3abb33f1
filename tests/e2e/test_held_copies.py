"""Copies of exports that may not be used any more, and debts that nobody clears without having the changes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError, Refused
from facelake.lake.lake import Lake
from facelake.matcher import Gallery
from facelake.nightly import reading, writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.gallery.versions import require_gallery
from facelake.stages.operations.verify import verify
from facelake.stages.sharing.delivery import Delivery
from facelake.stages.sharing.export import export_gallery, send_changes
from facelake.stages.sharing.held_copy import HeldCopy, refuse_stale_copy
from facelake.stages.sharing.leases import acknowledge, mark_returned, recall, what_is_owed

P = "identity-grouping"


@pytest.fixture
def context(demo_lake: Path) -> Iterator[Context]:
    with writing(load_config(lake=str(demo_lake)), "test") as context:
        yield context


def use(context: Context, copy: Gallery) -> None:
    refuse_stale_copy(context.config, HeldCopy(copy.lease_id, copy.lake, copy.version, copy.computed_at))


def owed(lake: Lake) -> dict[str, str]:
    return what_is_owed(lake, datetime.now(UTC))


def test_an_acknowledged_erasure_does_not_make_an_older_copy_usable(context: Context, tmp_path: Path) -> None:
    lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    stale, current = Gallery.open(str(tmp_path / "a")), Gallery.open(str(tmp_path / "a"))
    use(context, stale)
    erase(context, Request.of(subjects=["person-3"]))
    with pytest.raises(Refused, match="has not acknowledged the erasures"):
        use(context, stale)
    send_changes(context, lease, str(tmp_path / "changes"))
    current.apply(str(tmp_path / "changes"))
    acknowledge(context.lake, lease)
    assert owed(context.lake) == {}
    use(context, current)
    with pytest.raises(Refused, match="lacks changes that its recipient has acknowledged"):
        use(context, stale)

    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-1")])
    send_changes(context, lease, str(tmp_path / "more"))
    acknowledge(context.lake, lease)
    with pytest.raises(Refused, match="lacks changes"):
        use(context, current)
    current.apply(str(tmp_path / "more"))
    use(context, current)
    send_changes(context, lease, str(tmp_path / "again"))  # nothing that had to be removed: the copy does without
    acknowledge(context.lake, lease)
    use(context, current)

    recall(context.lake, lease)
    with pytest.raises(Refused, match="its lease was recalled"):
        use(context, current)
    mark_returned(context.lake, lease)
    with pytest.raises(Refused, match="its lease was returned"):
        use(context, current)


def test_a_copy_whose_lease_the_lake_does_not_know_is_not_used(context: Context, tmp_path: Path) -> None:
    export_gallery(context, str(tmp_path / "a"), P, "gate-7")
    copy = Gallery.open(str(tmp_path / "a"))
    shutil.rmtree(Path(context.lake.uri, "leases"))
    with pytest.raises(Refused, match="its lake has no lease"):
        use(context, copy)
    copy.lake = "0" * 16  # that of another lake is nothing that this one could know about
    use(context, copy)


def test_changes_begin_at_what_was_acknowledged_or_before(context: Context, tmp_path: Path) -> None:
    """An empty delivery could be acknowledged, and would clear the debt."""
    lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    erase(context, Request.of(subjects=["person-3"]))
    newest = require_gallery(context.lake).version
    with pytest.raises(ConfigError, match=f"known to be at gallery 1, not at {newest}"):
        send_changes(context, lease, str(tmp_path / "x"), since=newest)
    with pytest.raises(ConfigError, match="given no changes"):
        acknowledge(context.lake, lease)
    assert not (tmp_path / "x").exists()
    for since in (None, 0, 1):
        assert send_changes(context, lease, str(tmp_path / f"{since}"), since=since)["changed"]


def test_changes_that_did_not_arrive_cannot_be_acknowledged(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    erase(context, Request.of(subjects=["person-3"]))

    def full(self: Delivery, name: str) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "_move", full)
        with pytest.raises(OSError, match="no space left"):
            send_changes(context, lease, str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="given no changes"):
        acknowledge(context.lake, lease)
    assert set(owed(context.lake)) == {lease}
    send_changes(context, lease, str(tmp_path / "x"))
    acknowledge(context.lake, lease)
    assert owed(context.lake) == {}


def problems(context: Context) -> list[str]:
    return [f"{item.check}: {item.problem}" for item in verify(reading(context.config))[0]]


def test_a_lease_without_its_record_and_a_record_without_its_lease_are_found(context: Context, tmp_path: Path) -> None:
    store = context.lake.store
    head, before = store.read("audit-head.json"), {item.key for item in store.list("audit")}
    lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    assert problems(context) == []
    newest = {item.key: store.read(item.key) for item in store.list("audit") if item.key not in before}
    newer_head = store.read("audit-head.json")

    store.write("audit-head.json", head)  # the state before the export, signed as it was
    for key in newest:
        store.delete(key)
    (problem,) = problems(context)
    assert f"no record of what 'gate-7' was given under {lease}" in problem
    mark_returned(context.lake, lease)  # what is to be done if the export was interrupted before it left
    assert problems(context) == []

    store.write("audit-head.json", newer_head)
    for key, data in newest.items():
        store.write(key, data)
    assert problems(context) == []
    shutil.rmtree(Path(context.lake.uri, "leases"))
    with pytest.raises(Refused, match=f"lost lease {lease}"):
        export_gallery(context, str(tmp_path / "b"), P, " GATE-7")
    other = export_gallery(context, str(tmp_path / "c"), P, "gate-8")["lease_id"]
    erased = erase(context, Request.of(subjects=["person-3"]))
    assert erased.not_acknowledged == ["gate-7", "gate-8"]
    mark_returned(context.lake, other)
    assert any(f"leases: table leases lacks {lease}" in problem for problem in problems(context))


def test_an_ended_lease_is_refused_by_the_time_of_the_lake(context: Context, tmp_path: Path) -> None:
    """Also if the clock of the host was set back, so that the copy itself would do."""
    export_gallery(context, str(tmp_path / "a"), P, "gate-7", days=1)
    copy = Gallery.open(str(tmp_path / "a"))
    use(context, copy)
    rows = context.lake["leases"].read().to_pylist()
    later = datetime.now(UTC) + timedelta(days=2)
    context.lake["leases"].append([rows[0] | {"seq": 2, "event": "sent", "recorded_at": later, "issued_at": later}])
    with pytest.raises(Refused, match="its lease ended"):
        use(context, copy)
