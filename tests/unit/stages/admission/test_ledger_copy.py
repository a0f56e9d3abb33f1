"""A lake that was restored from a backup is recognised by the copy of its ledger outside of it, and gets back what it
lost.
"""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facelake.config import Config, load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError, Corrupt, Retryable
from facelake.events import Event, Notice
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.admission.ledger import Entry, accept_ledger, read_ledger, record
from facelake.stages.core.audit import append_audit
from facelake.stages.core.partition_names import open_lake
from facelake.stages.erasure.restored import restored_photos
from facelake.stages.operations.verify import verify
from facelake.stages.sharing.restored_lake import Restored, restore_ledger, restored_at
from tests.conftest import run_cli, run_json

P = "identity-grouping"


def config_of(folder: Path, **governance: Any) -> Config:
    config = load_config(lake=str(folder / "lake"))
    named = {"ledger_copy": str(folder / "copies"), "hash_key": str(folder / "hash-key")} | governance
    return config.model_copy(update={"governance": config.governance.model_copy(update=named)})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a lake with two grants."""
    config = config_of(tmp_path)
    with writing(config, "a custodian") as context:
        record(context.lake, [entry("grant", "ann"), entry("grant", "bob")])
    return config


def entry(kind: str, subject: str) -> Entry:
    return Entry(EventKind(kind), Scope.SUBJECT, subject, (P,), "a form" if kind == "grant" else "")


def events(lake: Lake) -> list[tuple[str, str]]:
    rows = lake["ledger"].read(["seq", "kind", "key"]).sort_by("seq").to_pylist()
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    return [(row["kind"], row["key"]) for row in rows]


def back_up(config: Config) -> None:
    shutil.rmtree(config.lake + "-backup", ignore_errors=True)
    shutil.copytree(config.lake, config.lake + "-backup")


def put_back(config: Config) -> None:
    shutil.rmtree(config.lake)
    shutil.copytree(config.lake + "-backup", config.lake)


def restore(config: Config) -> Restored:
    with writing(config, "ledger", may_be_older=True) as context:
        return restore_ledger(context)


def test_a_lake_without_its_newest_withdrawal_is_not_used_until_it_is_put_back(config: Config) -> None:
    back_up(config)
    record(open_lake(config), [entry("withdraw", "ann")])
    put_back(config)
    older = (
        r"the lake is older than the copy of its ledger: .* 3 events were recorded, it has 2.*`facelake ledger restore`"
    )
    with pytest.raises(Corrupt, match=older), writing(config, "nightly"):
        pass
    with pytest.raises(Corrupt, match=older):  # else this event would take the place of the withdrawal in the copy
        record(open_lake(config), [entry("grant", "cid")])
    with pytest.raises(Corrupt, match=older):
        read_ledger(open_lake(config))
    assert restore(config) == Restored(events=1, withdrawals=1, suppressed=0)
    assert events(open_lake(config)) == [("grant", "ann"), ("grant", "bob"), ("withdraw", "ann")]
    with writing(config, "nightly") as context:
        record(context.lake, [entry("grant", "cid")])


def test_erased_people_are_suppressed_again(config: Config) -> None:
    back_up(config)
    before = open_lake(config)
    before.suppress(["subject:ann", "image:a/1"])
    before.suppress_looks([("1", "2"), ("3", "4")])
    put_back(config)
    lake = open_lake(config)
    for read in (lake.suppressed, lake.suppressed_looks):
        with pytest.raises(Corrupt, match=r"older than the copy.* 1 files of suppressed.*`facelake ledger restore`"):
            read()
    assert restore(config).suppressed == 4
    assert lake.suppressed() == {lake.keyed_hash("subject:ann"), lake.keyed_hash("image:a/1")}
    assert lake.suppressed_looks() == [("1", "2"), ("3", "4")]
    first = restored_at(open_lake(config))
    assert restore(config).suppressed == 0
    assert restored_at(open_lake(config)) == first is not None  # the second found nothing to put back


def test_a_trail_that_ends_earlier_is_recognised(config: Config) -> None:
    for recipient in ("gate", "door"):
        back_up(config)
        with writing(config, "export") as context:
            append_audit(context.lake, "export", {"recipient": recipient}, context.sign)
    put_back(config)
    with pytest.raises(Corrupt, match="the audit trail had 2 records, and has 1"), writing(config, "nightly"):
        pass
    assert restored_at(open_lake(config)) is None
    assert restore(config).audit_fault == "the audit trail had 2 records, and has 1"
    assert restored_at(open_lake(config)) is not None
    with writing(config, "nightly"):
        pass
    shutil.rmtree(Path(config.lake) / "audit")
    with pytest.raises(Corrupt, match="the audit trail had 2 records, and has 0"), writing(config, "nightly"):
        pass


def test_a_record_that_was_replaced_with_the_head_is_recognised(config: Config) -> None:
    with writing(config, "export") as context:
        append_audit(context.lake, "export", {"recipient": "gate"}, context.sign)
    copied = (Path(config.lake) / "audit" / "00000001.json").read_text()
    (Path(config.lake) / "audit" / "00000001.json").write_text(copied.replace("gate", "door"))
    with pytest.raises(Corrupt, match="record 1 of the audit trail is another one"), writing(config, "nightly"):
        pass


def test_accepting_a_ledger_gives_the_copy_up(config: Config) -> None:
    back_up(config)
    record(open_lake(config), [entry("grant", "cid")])
    put_back(config)
    with writing(config, "ledger", may_be_older=True) as context:
        assert accept_ledger(context.lake) == 2
    with writing(config, "nightly") as context:
        assert events(context.lake) == [("grant", "ann"), ("grant", "bob")]


def test_the_copy_is_made_of_a_lake_that_had_none_and_names_nobody_in_clear(tmp_path: Path) -> None:
    without = config_of(tmp_path, ledger_copy=None)
    with writing(without, "a custodian") as context:
        record(context.lake, [entry("grant", "annabell-17"), entry("withdraw", "annabell-17")])
        context.lake.suppress(["subject:someone"])
        append_audit(context.lake, "export", {}, context.sign)
    config = config_of(tmp_path)
    said: list[Event] = []
    for _ in range(2):
        with writing(config, "nightly", said.append):
            pass
    assert [event.text for event in said if isinstance(event, Notice)] == [
        f"a copy of the ledger is made in {tmp_path}/copies/{open_lake(config).name}, where none was. An older lake is "
        "recognised from now on"
    ]
    written = {path.name for path in (tmp_path / "copies" / open_lake(config).name).rglob("*") if path.is_file()}
    assert {"ledger.bin", "ledger-head.json", "audit-head.json"} < written
    assert len(written) == 4
    assert len(list((tmp_path / "copies/places").iterdir())) == 1
    for path in (tmp_path / "copies").rglob("*"):
        if path.is_file():
            assert b"annabell" not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="the config names no copy"):
        restore(without)


@pytest.mark.parametrize("damage", [b"", b"x" * 40, None])
def test_a_damaged_copy_is_named_and_changes_nothing(config: Config, damage: bytes | None) -> None:
    [sealed] = Path(config.governance.ledger_copy or "").rglob("ledger.bin")
    back_up(config)
    record(open_lake(config), [entry("withdraw", "ann")])
    put_back(config)
    sealed.unlink() if damage is None else sealed.write_bytes(damage)
    with pytest.raises(Corrupt, match="the copy of the ledger is damaged"):
        restore(config)
    assert events(Lake.open(config.lake, hash_key=config.governance.hash_key)) == [("grant", "ann"), ("grant", "bob")]
    (sealed.parent / "ledger-head.json").write_text("[1]")
    with pytest.raises(Corrupt, match="the copy of the ledger is damaged"), writing(config, "nightly"):
        pass


def test_the_copy_catches_up_after_its_place_was_gone(config: Config) -> None:
    place = Path(config.governance.ledger_copy or "")
    place.rename(place.with_name("away"))
    place.write_text("the disk is not mounted")
    lake = open_lake(config)
    for change in (lambda: record(lake, [entry("withdraw", "ann")]), lambda: lake.suppress(["subject:cid"])):
        with pytest.raises(
            Retryable, match=r"the copy of the ledger cannot be reached: .*Not a directory.*Next: check"
        ):
            change()
    assert events(lake) == [("grant", "ann"), ("grant", "bob")]
    place.unlink()
    place.with_name("away").rename(place)
    [sealed] = place.rglob("ledger.bin")
    sealed.unlink()
    sealed.mkdir()
    with pytest.raises(Retryable, match="the lake has recorded it, and the copy of the ledger cannot be reached"):
        record(lake, [entry("withdraw", "ann")])
    sealed.rmdir()
    with writing(config, "nightly"):
        pass
    assert events(lake)[2:] == [("withdraw", "ann")]
    assert json.loads((sealed.parent / "ledger-head.json").read_text())["events"] == 3


def test_the_copy_lies_outside_of_lake_and_corpus(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"inside the lake.*governance.ledger_copy"),
        writing(config_of(tmp_path, ledger_copy=str(tmp_path / "lake" / "copy")), "nightly"),
    ):
        pass


_KINDS = st.lists(st.tuples(st.sampled_from(["grant", "withdraw"]), st.sampled_from("abc")), min_size=1, max_size=3)
_ACTS = st.one_of(st.tuples(st.just("record"), _KINDS), st.tuples(st.sampled_from(["back up", "put back"]), st.none()))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(_ACTS, max_size=8))
def test_whatever_is_restored_no_event_is_lost(tmp_path_factory: pytest.TempPathFactory, acts: list[Any]) -> None:
    config, expected = config_of(tmp_path_factory.mktemp("lake")), list[tuple[str, str]]()
    with writing(config, "a custodian"):
        pass
    back_up(config)
    for act, kinds in acts:
        if act == "record":
            record(open_lake(config), [entry(kind, subject) for kind, subject in kinds])
            expected += kinds
        elif act == "back up":
            back_up(config)
        else:
            put_back(config)
            if expected:
                restore(config)
        assert events(open_lake(config)) == expected


def test_a_restored_lake_forgets_nobody(
    demo_template: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command line: one person withdrew and another was erased after the backup; neither comes back."""
    shutil.copytree(demo_template[0], tmp_path / "lake")
    path = tmp_path / "c.yaml"
    path.write_text(
        f"lake: {tmp_path}/lake\ngovernance: {{ledger_copy: {tmp_path}/copies}}\nray: {{one_process_below: 1000}}\n"
    )
    config, given_config = load_config(str(path)), ("-c", str(path))
    run_json("nightly", *given_config)
    out = ("--out", str(tmp_path / "gate"), "--purpose", P, "--recipient", "gate-7")
    lease = run_json("gallery", "export", *out, *given_config)["lease_id"]
    back_up(config)
    run_json("ledger", "withdraw", "--subject", "person-6", *given_config)
    run_json("erase", "--subject", "person-3", "--yes", *given_config)
    shown = run_json("gallery", "show", "person-2", *given_config)["faces"][0]
    by_identity = ("erase", "--identity", shown["identity_id"], "--yes")
    run_json(*by_identity, *given_config)
    run_json("nightly", *given_config)
    put_back(config)
    for command in (["nightly"], ["ledger", "withdraw", "--subject", "person-1"], ["report"], ["verify"]):
        done = run_cli(*command, *given_config)
        assert done.returncode == 1, done.stdout
        assert "older than the copy of its ledger" in done.stderr + done.stdout, command
    assert run_cli("ledger", "restore", *given_config).returncode == 2  # not confirmed
    assert "was restored" not in run_cli("feed", "leases", *given_config).stdout
    done = run_cli("ledger", "restore", "--yes", "--json", *given_config)
    restored = json.loads(done.stdout.splitlines()[-1])
    assert "exports and pushes since the backup are not known to this lake" in done.stderr
    assert restored["withdrawals"] == 1
    assert restored["suppressed"] > 1
    assert restored["recalled"] == [lease]
    assert "leases between the backup and then are not known" in run_cli("feed", "leases", *given_config).stdout
    stages = run_json("nightly", *given_config)["stages"]
    assert "vanished" not in stages["admit"]
    returned = stages["admit"]["newly_erased"]
    assert stages["embed"]["swept_faces"].keys() == {"erased", "withdrawn"}
    lake = open_lake(config)
    left = [name for name in lake["faces"].read(["image_id"])["image_id"].to_pylist() if "person-" in name]
    assert not [name for name in left if "person-3-" in name or "person-6-" in name]
    assert [name for name in left if "person-1-" in name]
    keys = lake["ledger"].read(["key"])["key"].to_pylist()
    assert "person-3" not in keys
    with writing(config, "check") as context:
        assert [finding.problem for finding in verify(context)[0]] == []
        photos = restored_photos(context)
    assert len(photos) == returned
    _erase_what_came_back(tmp_path, photos, by_identity)


def _erase_what_came_back(folder: Path, photos: list[str], by_identity: tuple[str, ...]) -> None:
    """The photos of erased people that a backup brought back are counted as such until one command deletes them."""
    given_config = ("-c", str(folder / "c.yaml"))

    def page() -> str:
        return html.unescape((folder / "lake/reports/latest.html").read_text())

    assert f"{len(photos)} photos of erased people are still in the corpus." in page()
    assert "facelake erase --restored" in page()
    assert "photos that are no longer in the corpus" not in page()
    refused = run_json(*by_identity, *given_config, code=2)["error"]
    assert "was erased before" in refused["what"]
    assert "`facelake erase --restored`" in refused["next"]
    done = run_cli("erase", "--image", photos[0], "--yes", *given_config)
    assert "corpus_rows 1" in done.stderr
    assert "the lake holds no photo of it" not in done.stderr
    both = run_json("erase", "--restored", "--image", "x", "--yes", *given_config, code=2)["error"]["what"]
    assert "--restored finds the photos itself" in both
    erased = run_json("erase", "--restored", "--yes", *given_config)
    assert (erased["images"], erased["corpus_rows"]) == (len(photos) - 1, len(photos) - 1)
    run_json("report", *given_config)
    assert "photos of erased people" not in page()
    assert run_json("erase", "--restored", "--yes", *given_config)["images"] == 0
    assert "the lake holds no photo of it" in run_cli("erase", "--image", photos[0], "--yes", *given_config).stderr
