"""Signatures: the trail is checked against pinned keys, and a certificate without the lake."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from facelake.config import Config, load_config
from facelake.erase import Signer
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.nightly import reading, writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.operations.verify import verify, verify_residual
from tests.conftest import run_cli, run_json


@pytest.fixture
def config(tmp_path: Path) -> Config:
    overrides = {"governance.signing_key": str(tmp_path / "key.pem"), "governance.controller": "Our School"}
    return load_config(lake=str(tmp_path / "lake"), overrides=overrides)


@pytest.fixture
def context(config: Config) -> Iterator[Context]:
    with writing(config, "test") as context:
        rows = [{"image_id": f"s/{i}.jpg", "image": random.Random(i).randbytes(300), "source_id": "s", "subject_ref": f"person-{i}"} for i in range(3)]  # fmt: skip
        write_corpus_file(context, rows)
        admit(context)
        append_audit(context.lake, "export", {"n": 1}, context.sign)
        append_audit(context.lake, "export", {"n": 2}, context.sign)
        yield context


def forged(lake: Lake, signer: Signer | None) -> None:
    """Write the trail again without its last record, chained correctly and signed by another key or by none."""
    previous = ""
    for key in sorted(item.key for item in lake.store.list("audit"))[:-1]:
        record = json.loads(lake.store.read(key)) | {"previous": previous}
        record.pop("signature", None)
        data = json.dumps(record | ({"signature": signer.sign(record)} if signer else {}), sort_keys=True).encode()
        lake.store.write(key, data)
        previous = hashlib.sha256(data).hexdigest()
    lake.store.delete(sorted(item.key for item in lake.store.list("audit"))[-1])
    head = {"count": int(key[6:14]), "digest": previous}
    head |= {"signature": signer.sign(head)} if signer else {}
    lake.store.write("audit-head.json", json.dumps(head, sort_keys=True).encode())


@pytest.mark.parametrize("by", ["nobody", "somebody else"])
def test_a_trail_that_was_chained_again_is_noticed(context: Context, tmp_path: Path, by: str) -> None:
    assert verify(context, "audit")[0] == []
    forged(context.lake, Signer.load_or_create(tmp_path / "forger.pem") if by != "nobody" else None)
    assert verify(context, "audit")[0]


def test_the_config_pins_keys_for_hosts_without_one(context: Context, tmp_path: Path) -> None:
    other = {"governance.signing_key": str(tmp_path / "none.pem")}
    key = Signer.load_or_create(tmp_path / "key.pem").fingerprint
    for trusted, faults in (([], 1), ([key], 0), (["0" * 32], 1)):
        config = load_config(lake=context.lake.uri, overrides=other | {"governance.trusted_keys": trusted})
        found = verify(reading(config), "audit")[0]
        assert len(found) == faults
    assert re.search(rf"^3 records, from audit/\S+ on, .* not trusted here: {key}; if it is yours", found[0].problem)
    config = load_config(lake=context.lake.uri, overrides=other | {"governance.trusted_keys": [key]})
    with pytest.raises(ConfigError, match=r"this host has no signing key, and governance\.trusted_keys"):
        reading(config).signer()
    assert not (tmp_path / "none.pem").exists()  # a key of its own would not be accepted either
    Signer.load_or_create(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=r"not one of governance\.trusted_keys"):
        reading(config).signer()


def test_a_certificate_is_checked_without_the_lake(context: Context, tmp_path: Path) -> None:
    result = erase(context, Request.of(subjects=["person-1"]))
    file = tmp_path / "certificate.json"
    file.write_bytes(context.lake.store.read(result.certificate))
    key = context.signer().fingerprint
    said = run_json("certificate", "verify", str(file), "--key", key)
    assert (said["valid"], said["pinned"], said["certificate"]["controller"]) == (True, True, "Our School")
    done = run_cli("certificate", "verify", str(file))
    assert done.returncode == 0
    assert "Compare the key" in done.stdout
    assert run_json("certificate", "verify", str(file), "--key", "0" * 32, code=1)["valid"] is False
    for item in said["certificate"]["residual_scan"]["not_searched"]:
        assert f"not searched: {item}" in done.stdout
    assert "by another key" in run_cli("certificate", "verify", str(file), "--key", "0" * 32).stdout
    record = json.loads(file.read_text())
    record["body"]["removed"]["images"] = 7
    file.write_text(json.dumps(record))
    done = run_cli("certificate", "verify", str(file), "--key", key)
    assert (done.returncode, "changed after it was signed" in done.stdout) == (1, True)
    nothing = erase(context, Request.of(subjects=["person-1"]))
    file.write_bytes(context.lake.store.read(nothing.certificate))
    said_so = run_cli("certificate", "verify", str(file)).stdout
    assert re.search(r"^removed +nothing$", said_so, re.MULTILINE)
    assert "earlier erasure named" in said_so
    file.write_text("lake: my-lake")
    assert "it is not JSON" in run_cli("certificate", "verify", str(file)).stderr
    file.write_text("[" * 100_000)
    assert run_cli("certificate", "verify", str(file)).returncode == 2
    assert verify(context, "audit")[0] == []


def test_the_ledger_is_compared_with_what_the_audit_trail_pinned(context: Context) -> None:
    from facelake.contracts import EventKind, Scope
    from facelake.stages.admission.ledger import Entry, accept_ledger, record
    from facelake.stages.admission.ledger_head import pin_for_audit

    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SOURCE, "s")])
    append_audit(context.lake, "processing", pin_for_audit(context.lake), context.sign)
    assert verify(context, "ledger")[0] == []
    context.lake["ledger"].replace_all(context.lake["ledger"].read().slice(0, 0))
    accept_ledger(context.lake)  # table and pin were rolled back together
    (finding,) = verify(context, "ledger")[0]
    assert "pinned by the audit trail" in finding.problem


def test_a_file_name_stands_for_the_ids_that_end_with_it(context: Context) -> None:
    assert sum(verify_residual(context, ["1.jpg"]).found.values()) > 0
    assert verify_residual(context, ["9.jpg"]).found == {}


def test_a_lost_signing_key_is_noticed_when_a_new_one_is_made(context: Context, tmp_path: Path) -> None:
    lost = context.signer().fingerprint
    (tmp_path / "key.pem").rename(tmp_path / "backup.pem")
    notes: list[str] = []
    context.emit = lambda event: notes.append(str(event))
    assert context.signer().fingerprint != lost
    assert any(f"signed by another key, {lost}: if that key was lost, restore it" in note for note in notes)
    notes.clear()
    (tmp_path / "key.pem").unlink()
    (tmp_path / "backup.pem").rename(tmp_path / "key.pem")
    assert context.signer().fingerprint == lost
    context.lake.store.delete("audit-head.json")
    (tmp_path / "key.pem").unlink()
    assert context.signer().fingerprint != lost
    assert len(notes) == 1, "a lake without a trail has no other key"
