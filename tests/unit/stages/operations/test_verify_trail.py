"""What somebody who can write into the lake's folder and has no key cannot hide from verify, also after the next run."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pytest

from facelake.config import Config, load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import Corrupt
from facelake.lake.lake import Lake
from facelake.lake.suppression import SuppressionList
from facelake.nightly import reading, writing
from facelake.stages.admission import ledger_trail
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, accept_ledger, record
from facelake.stages.admission.ledger_head import Pin, pin_for_audit, write_pin
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context, StageResult
from facelake.stages.erasure import stage
from facelake.stages.erasure.notes import PENDING as UNFINISHED
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.gallery.versions import Gallery
from facelake.stages.governance import processing_register
from facelake.stages.governance.processing_register import PENDING, record_processing
from facelake.stages.operations.verify import verify
from facelake.stages.sharing.leases import LeaseTerms, issue, leases, mark_returned, what_is_owed

P = "identity-grouping"
PHOTOS = [
    {"image_id": f"s/{name}", "image": name.encode(), "source_id": "school", "subject_ref": f"person-{name}"}
    for name in ("ann000", "bob000")
]


def config_of(folder: Path, *, key: bool) -> Config:
    overrides = {"corpus_may_shrink": True} | ({"governance.hash_key": str(folder.parent / "hash-key")} if key else {})
    return load_config(lake=str(folder), overrides=overrides)


def made(config: Config) -> Config:
    """A lake of two people, with a record of the run that admitted them."""
    with writing(config, "test") as context:
        write_corpus_file(context, PHOTOS)
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b")])
        admit(context)
        processed(context, "a")
    return config


@pytest.fixture(params=[True, False], ids=["with hash key", "without"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    return made(config_of(tmp_path / "lake", key=request.param))


def processed(context: Context, run: str) -> None:
    record_processing(replace(context, run_id=run), [StageResult("admit", {"read": 1}, 0.1)])


def next_run(config: Config, run: str) -> None:
    with writing(config, "test") as context:
        processed(context, run)


def found(config: Config) -> list[str]:
    context = reading(config)
    return [item.problem for check in ("ledger", "audit", "suppressed", "leases") for item in verify(context, check)[0]]


def without_withdrawals(lake: Lake) -> None:
    """Rewrite ledger and pin, as a script over the library can."""
    rows = lake["ledger"].read().sort_by("seq")
    lake["ledger"].replace_all(rows.filter(pc.not_equal(rows["kind"], "withdraw")))
    write_pin(lake, Pin.of(lake["ledger"].read().sort_by("seq")))


def withdrawn(config: Config) -> Lake:
    with writing(config, "test") as context:
        record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-ann000")])
        processed(context, "b")
        assert found(config) == []
        return context.lake


def erased(config: Config) -> Lake:
    with writing(config, "test") as context:
        context.lake.suppress_looks([("a", "b")])
        erase(context, Request.of(subjects=["person-ann000"]))
        assert found(config) == []
        return context.lake


def test_a_record_without_a_signature_hides_no_rewritten_ledger(config: Config) -> None:
    lake = withdrawn(config)
    without_withdrawals(lake)
    last = lake.store.read("audit/00000002.json")
    forged = {"kind": "ledger-accepted", "at": datetime.now(UTC).isoformat(), "body": pin_for_audit(lake)}
    forged["previous"] = hashlib.sha256(last).hexdigest()
    lake.store.write("audit/00000003.json", json.dumps(forged, sort_keys=True).encode())
    for run in ("c", "d"):
        problems = found(config)
        assert any("events were recorded" in problem and "pinned by the audit trail" in problem for problem in problems)
        assert any("audit/00000003.json is not signed" in problem for problem in problems)
        next_run(config, run)
    head = json.loads(lake.store.read("audit-head.json"))
    fourth = json.loads(lake.store.read("audit/00000004.json"))
    assert (head["count"], fourth["previous"]) == (5, hashlib.sha256(last).hexdigest()), "never chained to the forged"


@pytest.mark.parametrize("then", ["the next run", "an erasure"])
def test_a_rewritten_ledger_is_found_after_the_host_has_pinned_it(config: Config, then: str) -> None:
    lake = withdrawn(config)
    without_withdrawals(lake)
    with writing(config, "test") as context:
        if then == "an erasure":
            erase(context, Request.of(subjects=["person-bob000"]))
        processed(context, "c")
    assert any("events were recorded" in problem for problem in found(config))
    record(lake, [Entry(EventKind.GRANT, Scope.SOURCE, "another", (P,), "b")])  # as many events as before
    assert any("not those that were recorded" in problem for problem in found(config))


def test_a_run_does_not_decide_by_a_rewritten_ledger(config: Config) -> None:
    """Restored from a backup, it is believed once an operator has accepted it."""
    lake = withdrawn(config)
    with writing(config, "test") as context:
        admit(context)
        without_withdrawals(lake)
        with pytest.raises(Corrupt, match="pinned by the audit trail"):
            admit(context)
        accept_ledger(lake)
        append_audit(lake, "review", pin_for_audit(lake))  # not signed
        with pytest.raises(Corrupt, match="pinned by the audit trail"):
            admit(context)
        append_audit(lake, "ledger-accepted", pin_for_audit(lake), context.sign)
        assert admit(context).counts["admitted"] == 2


def test_a_run_decides_by_a_ledger_that_an_unfinished_erasure_has_rewritten(config: Config) -> None:
    assert UNFINISHED == ledger_trail._UNFINISHED
    with writing(config, "test") as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "person-ann000", (P,), "person-ann000 signed")])
        processed(context, "b")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage, "redact_register", lambda *_: 1 / 0)  # after the ledger was rewritten
            with pytest.raises(ZeroDivisionError):
                erase(context, Request.of(subjects=["person-ann000"]))
        admit(context)
        without_grants(context.lake)
        with pytest.raises(Corrupt, match="pinned by the audit trail"):
            admit(context)


def test_an_erasure_by_a_host_whose_key_is_not_listed_does_not_stop_runs(config: Config, tmp_path: Path) -> None:
    """Verify reports the key; the events that the erasure left are compared."""
    next_run(config, "b")
    governance = config.governance.model_copy(update={"signing_key": str(tmp_path / "other.pem")})
    record(reading(config).lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "person-ann000", (P,), "b")])
    next_run(config, "c")
    with writing(config.model_copy(update={"governance": governance}), "test") as elsewhere:
        erase(elsewhere, Request.of(subjects=["person-ann000"]))
    with writing(config, "test") as context:
        admit(context)
        without_grants(context.lake)
        with pytest.raises(Corrupt, match="pinned by the audit trail"):
            admit(context)


def without_grants(lake: Lake) -> None:
    rows = lake["ledger"].read().sort_by("seq")
    lake["ledger"].replace_all(rows.slice(0, rows.num_rows - 1))
    write_pin(lake, Pin.of(lake["ledger"].read().sort_by("seq")))


def test_a_restored_ledger_that_was_accepted_is_no_fault(config: Config) -> None:
    """Nor is one that an erasure rewrites, before or after."""
    lake = withdrawn(config)
    with writing(config, "test") as context:
        without_withdrawals(lake)
        assert found(config)
        accept_ledger(lake)
        append_audit(lake, "ledger-accepted", pin_for_audit(lake), context.sign)
        assert found(config) == []
        erase(context, Request.of(subjects=["person-bob000"]))
        assert found(config) == []
        processed(context, "c")
    assert found(config) == []


def test_the_marker_of_another_lake_stops_whoever_needs_the_list(config: Config, tmp_path: Path) -> None:
    lake = erased(config)
    other = config_of(tmp_path / "other", key=bool(config.governance.hash_key))
    made(other)
    shutil.copy(tmp_path / "other/lake.json", tmp_path / "lake/lake.json")
    with writing(config, "test") as context:
        write_corpus_file(context, [PHOTOS[0] | {"image": b"another"}])
        with pytest.raises(Corrupt, match=r"the ledger's pin was written without the key .* or lake.json was replaced"):
            admit(context)
        for use in (context.lake.suppressed, context.lake.suppressed_looks, lambda: context.lake.suppress(["image:x"])):
            with pytest.raises(Corrupt, match="do not belong together"):
                use()
    assert any("do not belong together" in problem for problem in found(config))
    if lake.has_key:
        return
    # the salt in the marker is the key of the MAC, so that a thorough attacker can write that too; not the certificate
    for folder in ("suppressed", "suppressed-looks"):
        repin(Lake.open(config.lake), folder)
    write_pin(Lake.open(config.lake), Pin.of(lake["ledger"].read().sort_by("seq")))
    assert any(f"the audit trail is of lake {lake.name}" in problem for problem in found(config))
    with writing(config, "test") as context, pytest.raises(Corrupt, match=f"not that of this lake, {lake.name}"):
        admit(context)
    next_run(config, "c")
    assert any(f"the audit trail is of lake {lake.name}" in problem for problem in found(config))


def repin(lake: Lake, folder: str) -> None:
    """Write the pin of a list as it is now, with a MAC by what lies in the lake."""
    names = sorted(item.key.rpartition("/")[2] for item in lake.store.list(folder))
    key = bytes.fromhex(json.loads(lake.store.read("lake.json"))["salt"])
    text = json.dumps(["suppression list", folder, names]).encode()
    mac = hmac.new(key, text, hashlib.sha256).hexdigest()
    lake.store.write(f"{folder}-head.json", json.dumps({"files": names, "mac": mac}).encode())


def strip(lake: Lake) -> None:
    """Keep the references that the certificate names; photos and looks are gone."""
    (certificate,) = (json.loads(lake.store.read(key)) for key in ("audit/00000002.json",))
    kept = certificate["body"]["targets_keyed_sha256"]
    for item in [*lake.store.list("suppressed"), *lake.store.list("suppressed-looks")]:
        lake.store.delete(item.key)
    lake.store.delete("suppressed-looks-head.json")
    body = "\n".join(kept).encode()
    lake.store.write(f"suppressed/{hashlib.sha256(body).hexdigest()[:16]}.txt", body)
    repin(lake, "suppressed")


def forget_looks(lake: Lake) -> None:
    for item in [*lake.store.list("suppressed-looks")]:
        lake.store.delete(item.key)
    lake.store.delete("suppressed-looks-head.json")


@pytest.mark.parametrize("attack", [strip, forget_looks])
def test_a_list_that_lost_photos_or_looks_is_found(config: Config, attack: Callable[[Lake], None]) -> None:
    lake = erased(config)
    before = {item.key: lake.store.read(item.key) for item in [*lake.store.list()] if item.key.startswith("suppressed")}
    attack(lake)
    if attack is strip and lake.has_key:
        with writing(config, "test") as context, pytest.raises(Corrupt, match="do not belong together"):
            admit(context)
        assert any("do not belong together" in problem for problem in found(config))
        return
    with writing(config, "test") as context, pytest.raises(Corrupt, match="the suppression list lost something"):
        admit(context)
    for run in ("c", "d"):
        assert any("the suppression list lost something" in problem for problem in found(config))
        next_run(config, run)
    for item in [*lake.store.list("suppressed")]:
        lake.store.delete(item.key)
    for name, data in before.items():  # from a backup
        lake.store.write(name, data)
    lists = [SuppressionList(lake.store, name, lake.salt).lines() for name in ("suppressed", "suppressed-looks")]
    assert all(lists)


def test_an_older_list_put_back_whole_is_found(config: Config) -> None:
    """Its MAC is right: it once was the list."""
    lake = erased(config)
    store = lake.store
    before = {item.key: store.read(item.key) for item in [*store.list()] if item.key.startswith("suppressed")}
    with writing(config, "test") as context:
        erase(context, Request.of(images=["s/bob000"]))
    for item in [*store.list("suppressed")]:
        store.delete(item.key)
    for name, data in before.items():
        store.write(name, data)
    lake.suppressed()
    assert any("the suppression list lost something" in problem for problem in found(config))
    with writing(config, "test") as context:
        with pytest.raises(Corrupt, match="the suppression list lost something"):
            admit(context)
        accept_ledger(lake)
        append_audit(lake, "ledger-accepted", pin_for_audit(lake), context.sign)
        admit(context)
        (lost,) = found(config)
        assert "references of erasure" in lost, "accepted as it is, and the certificate still says what is missing"
        erase(context, Request.of(images=["s/bob000"]))  # as docs/consent.md says after a restored backup
        assert found(config) == []


def test_a_record_of_processing_that_the_trail_does_not_name_shows_that_its_end_was_removed(config: Config) -> None:
    store = reading(config).lake.store
    head = store.read("audit-head.json")
    withdrawn(config)
    store.write("audit-head.json", head)
    store.delete("audit/00000002.json")
    for run in ("c", "d"):
        assert any("register/b.json is not named by the audit trail" in problem for problem in found(config))
        next_run(config, run)


@pytest.mark.parametrize("appended", [False, True])
def test_a_run_killed_while_it_records_itself_is_no_fault(
    config: Config, monkeypatch: pytest.MonkeyPatch, appended: bool
) -> None:
    def die(*arguments: object) -> str:
        if appended:
            append_audit(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(processing_register, "append_audit", die)
        with pytest.raises(KeyboardInterrupt):
            next_run(config, "b")
    store = reading(config).lake.store
    assert PENDING in {item.key for item in store.list("register")}
    assert found(config) == []
    next_run(config, "c")
    assert found(config) == []
    assert {item.key for item in store.list("register")} == {
        f"register/{run}.json" for run in ("a", *("b" if appended else ""), "c")
    }


def test_a_host_without_a_key_cannot_say_who_signed(config: Config, tmp_path: Path) -> None:
    def on(trusted: list[str]) -> list[str]:
        governance = config.governance.model_copy(
            update={"signing_key": str(tmp_path / "none.pem"), "trusted_keys": trusted}
        )
        return found(config.model_copy(update={"governance": governance}))

    (problem,) = on([])
    assert "no key to check the signatures" in problem
    with writing(config, "test") as context:
        assert on([context.signer().fingerprint]) == []


def test_an_event_of_a_lease_without_the_key_counts_for_nothing(config: Config) -> None:
    with writing(config, "test") as context:
        lake, now = context.lake, datetime.now(UTC)
        terms = LeaseTerms("gate-7", P, 1)
        lease = issue(lake, Gallery(1, {}, lake), terms, 3, now - timedelta(days=2), 0)
        owed = what_is_owed(lake, now)
        assert owed
        (row,) = lake["leases"].read().to_pylist()
        for mac in (row["mac"], None, "0" * 64):
            lake["leases"].append([row | {"seq": 2, "event": "returned", "mac": mac}])
        assert what_is_owed(lake, now) == owed
        assert [item.returned for item in leases(lake)] == [False]
        assert any("3 events written without the key of this lake's hashes" in problem for problem in found(config))
        mark_returned(lake, lease.lease_id)
        assert what_is_owed(lake, now) == {}
