"""Ways by which a recipient could come to owe nothing, or receive what is not theirs, without having the changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from facelake.config import Config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError, Corrupt
from facelake.lake.lake import Lake
from facelake.matcher import Gallery
from facelake.nightly import writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.gallery.publish import publish
from facelake.stages.sharing.export import export_gallery, send_changes
from facelake.stages.sharing.leases import acknowledge, leases, what_is_owed
from facelake.stages.sharing.push import PushTerms, push
from facelake.targets import Location, open_target

P = "identity-grouping"


@pytest.fixture
def context(demo_config: Config) -> Iterator[Context]:
    with writing(demo_config, "test") as opened:
        yield opened


def owed(lake: Lake) -> dict[str, str]:
    return what_is_owed(lake, datetime.now(UTC))


def ids(url: str) -> set[str]:
    with open_target(Location.parse(url)) as target:
        return {name for batch in target.versions() for name in batch}


@pytest.mark.parametrize("recipient, purpose", [("", P), (" ", P), ("gate-7", ""), ("gate-7", " ")])
def test_an_unset_variable_is_no_recipient_and_no_purpose(
    context: Context, tmp_path: Path, recipient: str, purpose: str
) -> None:
    with pytest.raises(ConfigError, match=r"--(recipient|purpose) is empty"):
        export_gallery(context, str(tmp_path / "a"), purpose, recipient)
    with pytest.raises(ConfigError, match="needs a recipient and a purpose"):
        push(context, PushTerms(f"lancedb://{tmp_path}/l", recipient, purpose))
    assert leases(context.lake) == []


def test_only_a_push_acknowledges_for_a_database(context: Context, tmp_path: Path) -> None:
    url = f"lancedb://{tmp_path}/l?table=gate"
    lease = push(context, PushTerms(url, "gate-7", P))["lease_id"]
    erase(context, Request.of(subjects=["person-3"]))
    with pytest.raises(ConfigError, match="is of the database"):
        send_changes(context, lease, str(tmp_path / "changes"))
    with pytest.raises(ConfigError, match="is of the database"):
        acknowledge(context.lake, lease)
    assert set(owed(context.lake)) == {lease}
    push(context, PushTerms(url))
    assert owed(context.lake) == {}


def test_an_older_version_does_not_acknowledge_a_withdrawal(context: Context, tmp_path: Path) -> None:
    lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    erase(context, Request.of(subjects=["person-3"]))
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-1")])
    send_changes(context, lease, str(tmp_path / "changes"))
    with pytest.raises(ConfigError, match="which gallery 1 does not have: changes up to 2 do"):
        acknowledge(context.lake, lease, 1)
    assert set(owed(context.lake)) == {lease}
    acknowledge(context.lake, lease, 2)
    assert owed(context.lake) == {}


def test_somebody_who_agrees_again_comes_back_to_a_copy(context: Context, tmp_path: Path) -> None:
    lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    copy, people = Gallery.open(str(tmp_path / "a")), len(Gallery.open(str(tmp_path / "a")))
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-3")])
    send_changes(context, lease, str(tmp_path / "without"))
    copy.apply(str(tmp_path / "without"))
    acknowledge(context.lake, lease)
    assert len(copy) < people
    record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "person-3", (P,), "a form")])
    send_changes(context, lease, str(tmp_path / "again"))
    copy.apply(str(tmp_path / "again"))
    assert copy.same_as(Gallery.open(str(tmp_path / "a")))


def test_changes_that_do_not_fit_leave_the_copy_as_it_was(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = export_gallery(context, str(tmp_path / "a"), P, "gate-7")["lease_id"]
    erase(context, Request.of(subjects=["person-3"]))
    with monkeypatch.context() as patch:
        patch.setattr("facelake.stages.sharing.changes.Outgoing.in_force", lambda _: 99)
        send_changes(context, lease, str(tmp_path / "changes"))
    copy = Gallery.open(str(tmp_path / "a"))
    with pytest.raises(Corrupt, match="there would be"):
        copy.apply(str(tmp_path / "changes"))
    assert copy.version == 1
    assert copy.same_as(Gallery.open(str(tmp_path / "a")))


def test_changes_go_under_the_key_of_the_copy(context: Context, tmp_path: Path) -> None:
    with_key = export_gallery(context, str(tmp_path / "a"), P, "gate-7", key=b"k" * 32)["lease_id"]
    plain = export_gallery(context, str(tmp_path / "b"), P, "gate-8")["lease_id"]
    for lease, key in ((with_key, None), (with_key, b"j" * 32), (plain, b"k" * 32)):
        with pytest.raises(ConfigError, match="template key"):
            send_changes(context, lease, str(tmp_path / "changes"), key=key)
    assert not (tmp_path / "changes").exists()
    send_changes(context, with_key, str(tmp_path / "changes"), key=b"k" * 32)


def test_a_target_of_another_history_is_written_anew(demo_config: Config, tmp_path: Path) -> None:
    """The lake is put back to a backup, and makes other versions of the numbers that the target has seen."""
    url, place = f"lancedb://{tmp_path}/l?table=gate", Path(demo_config.lake)
    with writing(demo_config, "test") as context:
        push(context, PushTerms(url, "gate-7", P))
    shutil.copytree(place, tmp_path / "backup")
    for split in (3, 5):
        with writing(demo_config, "test") as context:
            groups = context.lake["groups"].read()
            column = groups.schema.get_field_index("group_id")
            other = [group if group % split else 1000 + row for row, group in enumerate(groups["group_id"].to_pylist())]
            context.lake["groups"].replace_all(groups.set_column(column, "group_id", [other]))
            publish(context)
            push(context, PushTerms(url))
            fresh = f"lancedb://{tmp_path}/fresh-{split}?table=gate"
            push(context, PushTerms(fresh, "gate-8", P))
            assert ids(url) == ids(fresh)
        if split == 3:
            shutil.rmtree(place)
            shutil.copytree(tmp_path / "backup", place)
