"""A lease is renewed without exporting again: what the recipient holds gets the new end, and nobody else's does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facelake.config import Config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError, Corrupt, Refused
from facelake.matcher import Gallery
from facelake.nightly import writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.audit import audit_faults
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.sharing import renewals
from facelake.stages.sharing.export import export_gallery, send_changes
from facelake.stages.sharing.leases import acknowledge, leases, mark_returned, recall, what_is_owed
from facelake.stages.sharing.push import PushTerms, push
from facelake.stages.sharing.renewals import renew
from facelake.targets import Location, open_target
from tests.conftest import run_json
from tests.e2e.test_leases import identities_of
from tests.e2e.test_push import Crash, content, crash_at

P = "identity-grouping"


@pytest.fixture
def context(demo_config: Config) -> Iterator[Context]:
    with writing(demo_config, "test") as opened:
        yield opened


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


class Later(datetime):
    """A clock that is four days ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + timedelta(days=4)


def test_an_export_is_opened_with_its_new_end(context: Context, tmp_path: Path) -> None:
    out, sent = tmp_path / "export", tmp_path / "sent"
    first = export_gallery(context, str(out), P, "gate-7", days=2)
    other = export_gallery(context, str(tmp_path / "other"), P, "gate-8", days=2)
    key = [context.signer().fingerprint]
    opened = Gallery.open(str(out), keys=key)
    names = sorted(path.name for path in out.iterdir())
    with pytest.raises(Refused, match="expired"):
        Gallery.open(str(out), now=in_days(30))

    renewed = renew(context, first["lease_id"], days=40, out=str(out))
    assert sorted(path.name for path in out.iterdir()) == names
    assert (out / "manifest.json").stat().st_mode & 0o077 == 0
    fresh = Gallery.open(str(out), keys=key, purpose=P, now=in_days(30))
    assert fresh.expires_at.isoformat() == renewed["expires_at"]
    assert fresh.search(fresh.templates()[:1], fresh.model_digest).identity_ids == [[fresh.identity_ids[0]]]
    with pytest.raises(Refused, match="expired"):
        Gallery.open(str(out), now=in_days(41))
    (lease, unchanged) = leases(context.lake)
    assert (lease.expires_at.isoformat(), unchanged.expires_at.isoformat()) == (renewed["expires_at"], other["expires_at"])  # fmt: skip
    assert what_is_owed(context.lake, in_days(30)).keys() == {other["lease_id"]}
    assert audit_faults(context.lake) == []

    renew(context, first["lease_id"], days=50, out=str(sent))
    assert [path.name for path in sent.iterdir()] == ["manifest.json"]
    assert opened.renew(str(sent)) == leases(context.lake)[0].expires_at == opened.expires_at
    with pytest.raises(Refused, match="does not renew"):
        opened.renew(str(sent))
    with pytest.raises(Refused, match="does not renew"):
        opened.renew(str(out))  # the renewal before
    renew(context, other["lease_id"], days=60, out=str(tmp_path / "theirs"))
    with pytest.raises(Refused, match="not a renewal of the copy"):
        opened.renew(str(tmp_path / "theirs"))
    forged = json.loads((sent / "manifest.json").read_text()) | {"expires_at": in_days(400).isoformat()}
    (sent / "manifest.json").write_text(json.dumps(forged))
    with pytest.raises(Corrupt, match="does not fit"):
        opened.renew(str(sent))


def test_what_may_not_be_renewed(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path / "a")
    first = export_gallery(context, out, P, "gate-7", days=2)
    theirs = export_gallery(context, str(tmp_path / "b"), P, "gate-8", days=2)
    name = first["lease_id"]
    for wrong, text in (
        ({"days": 1, "out": out}, "lasts until"),
        ({}, "is of files"),
        ({"out": str(tmp_path / "b")}, "not of the export"),
        ({"out": "ftp://host/x"}, "cannot write"),
    ):
        with pytest.raises(ConfigError, match=text):
            renew(context, name, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no lease"):
        renew(context, "lease-none", out=out)
    renewed = renew(context, name, days=4000, out=out)
    assert datetime.fromisoformat(renewed["expires_at"]) < in_days(context.config.governance.lease_days + 1)

    send_changes(context, theirs["lease_id"], str(tmp_path / "changes"))
    with pytest.raises(ConfigError, match="not of the export"):
        renew(context, theirs["lease_id"], out=str(tmp_path / "changes"))
    with monkeypatch.context() as patch:  # the clock goes on, something is recorded, and it is set back
        patch.setattr(renewals, "datetime", Later)
        with pytest.raises(Refused, match="ended on"):
            renew(context, theirs["lease_id"], out=str(tmp_path / "b"))
        patch.setattr("facelake.stages.sharing.leases.datetime", Later)
        recall(context.lake, lease_id=name)
    with pytest.raises(Refused, match="ended on"):
        renew(context, theirs["lease_id"], out=str(tmp_path / "b"))
    with pytest.raises(Refused, match="ended on"):
        send_changes(context, theirs["lease_id"], str(tmp_path / "c"))
    with pytest.raises(Refused, match="was recalled"):
        renew(context, name, out=out)
    mark_returned(context.lake, name)
    with pytest.raises(Refused, match="was returned"):
        renew(context, name, out=out)


def test_a_renewed_copy_needs_the_changes_that_were_acknowledged(context: Context, tmp_path: Path) -> None:
    out, changes = str(tmp_path / "a"), str(tmp_path / "changes")
    name = export_gallery(context, out, P, "gate-7", days=2)["lease_id"]
    theirs = identities_of(context.lake, "person-3")
    erase(context, Request.of(subjects=["person-3"]))
    with pytest.raises(Refused, match=r"no further export.*erasures"):
        renew(context, name, out=out)
    send_changes(context, name, changes)
    with pytest.raises(Refused, match=r"no further export.*erasures"):
        renew(context, name, out=out)
    acknowledge(context.lake, name)
    renew(context, name, days=40, out=out)
    copy = Gallery.open(out, now=in_days(30))  # of files that still hold the erased person
    probe = np.ones((1, copy.templates().shape[1]), np.float32)
    for use in (lambda: copy.search(probe, copy.model_digest), lambda: copy.verify(probe, list(theirs)[:1], copy.model_digest)):  # fmt: skip
        with pytest.raises(Refused, match="with the changes of"):
            use()
    copy.apply(changes)
    assert copy.search(probe, copy.model_digest).identity_ids[0][0] in copy.identity_ids

    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-1")])
    with pytest.raises(Refused, match="withdrawal"):
        renew(context, name, days=50, out=out)


def test_a_purpose_without_identities_is_not_renewed(context: Context, tmp_path: Path) -> None:
    out = str(tmp_path / "a")
    name = export_gallery(context, out, P, "gate-7", days=2)["lease_id"]
    sources = set(context.lake["admissions"].read(["source_id"])["source_id"].to_pylist())
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SOURCE, source) for source in sorted(sources)])
    send_changes(context, name, str(tmp_path / "changes"))
    acknowledge(context.lake, name)
    with pytest.raises(Refused, match="no identity is in force"):
        renew(context, name, out=out)


def test_a_changed_audit_record_is_not_signed_again(context: Context, tmp_path: Path) -> None:
    out = str(tmp_path / "a")
    name = export_gallery(context, out, P, "gate-7", days=2)["lease_id"]
    folder = Path(context.lake.uri.removeprefix("file://"), "audit")
    (path,) = [path for path in folder.iterdir() if f'"lease_id": "{name}"' in path.read_text()]
    path.write_text(path.read_text().replace('"recipient": "gate-7"', '"recipient": "gate-9"'))
    with pytest.raises(Corrupt, match="not signed by an accepted key"):
        renew(context, name, out=out)
    path.unlink()
    with pytest.raises(Corrupt, match="has no record"):
        renew(context, name, out=out)
    assert leases(context.lake)[0].expires_at < in_days(3)


def test_a_renewal_killed_between_its_writes_is_repeated(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "a")
    name = export_gallery(context, out, P, "gate-7", days=2)["lease_id"]

    def crash(*_: Any, **__: Any) -> None:
        raise Crash

    for call in ("append_audit", "extend", "place_manifest"):
        with monkeypatch.context() as patch:
            patch.setattr(renewals, call, crash)
            with pytest.raises(Crash):
                renew(context, name, days=30, out=out)
        Gallery.open(out)  # whole, with the former end
        with pytest.raises(Refused, match="expired"):
            Gallery.open(out, now=in_days(20))
    end = renew(context, name, days=30, out=out)["expires_at"]
    assert Gallery.open(out, now=in_days(20)).expires_at.isoformat() == end == leases(context.lake)[0].expires_at.isoformat()  # fmt: skip
    assert audit_faults(context.lake) == []


def ends(url: str, end: str) -> tuple[int, int, str]:
    """Rows, those with another end, and the end in the record."""
    with open_target(Location.parse(url)) as target:
        body = target.read_record()
        assert body is not None
        return target.count(), target.count_other_ends(end), body["expires_at"]


@pytest.mark.parametrize("after", [False, True])
def test_a_push_brings_the_new_end_to_every_row(
    context: Context, target_place: tuple[Path | str, str], after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = target_place[1]
    first = push(context, PushTerms(url, "gate-7", P, days=2, exemplars=after))
    before = content(url)
    renewed = renew(context, first["lease_id"], days=40)
    assert renewed["target"] == Location.parse(url).shown
    with pytest.raises(ConfigError, match="is of the database"):
        renew(context, first["lease_id"], days=50, out="x")
    end = renewed["expires_at"]
    assert ends(url, end)[1] == first["after"]
    for call in (1, 2, 2):  # write_record (once), create, and set_end, which is the second then
        with pytest.raises(Crash), crash_at(call, monkeypatch, after=after):
            push(context, PushTerms(url))
    done = push(context, PushTerms(url))
    assert (done["state"], done["inserted"], done["replaced"], done["deleted"]) == ("updated", 0, 0, 0) or after
    assert ends(url, end) == (first["after"], 0, end)
    assert content(url) == before
    assert push(context, PushTerms(url))["state"] == "unchanged"
    assert what_is_owed(context.lake, in_days(30)) == {}


def test_the_command(demo_lake: Path, tmp_path: Path) -> None:
    lake, out = str(demo_lake), str(tmp_path / "a")
    export = run_json("gallery", "export", "--out", out, "--purpose", P, "--recipient", "gate", "--days", "2", "--lake", lake)  # fmt: skip
    renewed = run_json("feed", "renew", export["lease_id"], "--out", out, "--days", "30", "--lake", lake)
    (lease,) = run_json("feed", "leases", "--lake", lake)["leases"]
    assert datetime.fromisoformat(lease["expires_at"]) == datetime.fromisoformat(renewed["expires_at"])
    Gallery.open(out, now=in_days(20))
