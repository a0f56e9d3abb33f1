"""The audit trail: every manipulation of records or head is detected, and a crash is not reported as one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from facelake.erase import Signer
from facelake.errors import CommitConflict
from facelake.lake.lake import Lake
from facelake.stages.core import audit
from facelake.stages.core.audit import append_audit, audit_faults

COUNT = 6
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer.load_or_create(tmp_path_factory.mktemp("key") / "key.pem")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(str(tmp_path / "lake"))


@pytest.fixture(params=["unsigned", "signed"])
def chain(request: pytest.FixtureRequest, lake: Lake, signer: Signer) -> Lake:
    """A lake whose audit trail has six records."""
    for number in range(COUNT):
        append_audit(lake, "erasure", {"n": number, "ü": [1, None]}, signer.sign if request.param == "signed" else None)
    assert audit_faults(lake) == []
    return lake


def key(number: int) -> str:
    return f"audit/{number:08d}.json"


HEAD = "audit-head.json"


def files_of(lake: Lake) -> Files:
    return {name: lake.store.read(name) for name in [HEAD, *(item.key for item in lake.store.list("audit"))]}


def put(lake: Lake, files: Files) -> None:
    for item in [*lake.store.list("audit")]:
        lake.store.delete(item.key)
    lake.store.delete(HEAD)
    for name, data in files.items():
        tamper(lake, name, data)


def tamper(lake: Lake, name: str, data: bytes) -> None:
    Path(lake.uri, name).write_bytes(data)  # the store would wait for the disk each time


def edited(data: bytes, step: int = 1) -> Iterator[bytes]:
    """Yield a record with single bytes changed, removed and duplicated, and with other content."""
    for at in range(0, len(data), step):
        yield data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    for at in range(0, len(data), 7 * step):
        yield data[:at] + data[at + 1 :]
        yield data[: at + 1] + data[at:]
    yield from (b"", b"{", b"\xff", b"null", b"[]", b"{}", b"[" * 100_000, b'{"previous": 1}', data + b"\n")


def drops(files: Files) -> Iterator[Files]:
    """Yield the files without a record, without the last records, and without all; renumbered and not; without the head."""
    numbers = range(1, COUNT + 1)
    for number in numbers:
        kept = [n for n in numbers if n != number]
        yield {HEAD: files[HEAD]} | {key(n): files[key(n)] for n in kept}
        yield {HEAD: files[HEAD]} | {key(i): files[key(n)] for i, n in enumerate(kept, start=1)}
        yield {HEAD: files[HEAD]} | {key(n): files[key(n)] for n in range(1, number)}
    for last in range(2, COUNT + 1):
        yield {key(n): files[key(n)] for n in range(1, last + 1)}


def swaps(files: Files) -> Iterator[Files]:
    for left, right in itertools.combinations(range(1, COUNT + 1), 2):
        yield files | {key(left): files[key(right)], key(right): files[key(left)]}


def insertions(files: Files) -> Iterator[Files]:
    """Yield the files with a record copied over another one, appended, inserted, or under another name."""
    numbers = range(1, COUNT + 1)
    for number, at in itertools.product(numbers, range(1, COUNT + 2)):
        order = [*numbers]
        order.insert(at - 1, number)
        yield {HEAD: files[HEAD]} | {key(i): files[key(n)] for i, n in enumerate(order, start=1)}
        if at != number:
            yield files | {key(at): files[key(number)]}
    for name in ("audit/00000003.json.bak", "audit/000000031.json", "audit/x", "audit/0000003a.json"):
        yield files | {name: files[key(3)]}


@pytest.mark.parametrize("mutations", [drops, swaps, insertions])
def test_every_mutation_is_detected_and_stays_detected(
    chain: Lake, mutations: Callable[[Files], Iterator[Files]]
) -> None:
    files, seen = files_of(chain), 0
    for mutated in mutations(files):
        put(chain, mutated)
        assert audit_faults(chain), sorted(mutated)
        append_audit(chain, "export", {})
        assert audit_faults(chain), ("hidden by the next record", sorted(mutated))
        seen += 1
    put(chain, files)
    assert audit_faults(chain) == []
    assert seen >= 15


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_every_edit_of_a_record_is_detected(chain: Lake, number: int) -> None:
    files = files_of(chain)
    for data in edited(files[key(number)], 7 if b'"signature"' in files[HEAD] else 1):
        if data != files[key(number)]:
            tamper(chain, key(number), data)
            assert audit_faults(chain), data
    append_audit(chain, "export", {})
    assert audit_faults(chain)


def test_every_edit_of_the_head_is_detected(chain: Lake) -> None:
    head = chain.store.read(HEAD)
    for data in edited(head):
        if data != head:
            tamper(chain, HEAD, data)
            assert audit_faults(chain), data


def test_the_format_of_a_record(chain: Lake) -> None:
    records = [json.loads(chain.store.read(key(number))) for number in range(1, COUNT + 1)]
    signed = {"signature"} & set(records[0])
    assert all(set(record) == {"kind", "at", "previous", "body"} | signed for record in records)
    assert [record["body"]["n"] for record in records] == list(range(COUNT))
    assert records[0]["previous"] == ""
    assert set(json.loads(chain.store.read(HEAD))) == {"count", "digest"} | signed


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_crash_between_record_and_head_is_repaired(
    lake: Lake, signer: Signer, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    for _ in range(before):
        append_audit(lake, "erasure", {}, signer.sign)
    with monkeypatch.context() as patch:
        patch.setattr(audit, "_move_head", _die)
        with pytest.raises(KeyboardInterrupt):
            append_audit(lake, "erasure", {"n": 1}, signer.sign)
    assert audit_faults(lake) == []
    assert append_audit(lake, "erasure", {"n": 2}, signer.sign) == key(before + 2)
    assert audit_faults(lake, [signer.fingerprint]) == []
    lake.store.delete(key(before + 2))
    assert audit_faults(lake)


def _die(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("forged", ["unsigned", "wrong signature"])
def test_the_head_is_not_moved_over_a_record_without_a_valid_signature(lake: Lake, signer: Signer, forged: str) -> None:
    """Anybody can add a record after the head; a run that signs would else sign a head over it."""
    append_audit(lake, "erasure", {}, signer.sign)
    head = lake.store.read(HEAD)
    append_audit(lake, "erasure", {}, signer.sign if forged == "wrong signature" else None)
    tamper(lake, HEAD, head)
    if forged == "wrong signature":
        tamper(lake, key(2), lake.store.read(key(2)).replace(b'"erasure"', b'"granted"'))
    text = {"unsigned": "is not signed", "wrong signature": "has a wrong signature"}[forged]
    for _ in range(2):
        assert any(f"{key(2)} {text}" in fault for fault in audit_faults(lake, [signer.fingerprint]))
        append_audit(lake, "export", {}, signer.sign)
    third = json.loads(lake.store.read(key(3)))
    assert third["previous"] == json.loads(head)["digest"]


def test_a_head_two_records_behind_is_a_fault(chain: Lake) -> None:
    files = files_of(chain)
    append_audit(chain, "export", {})
    newer = files_of(chain)
    put(chain, newer | {HEAD: files[HEAD]})
    assert audit_faults(chain) == []
    append_audit(chain, "export", {})
    put(chain, files_of(chain) | {HEAD: files[HEAD]})
    assert any("names 6 records, but there are 8" in fault for fault in audit_faults(chain))


def test_signing_may_start_at_a_later_record(lake: Lake, signer: Signer) -> None:
    append_audit(lake, "export", {})
    append_audit(lake, "erasure", {}, signer.sign)
    append_audit(lake, "export", {})
    assert audit_faults(lake) == []
    assert any("is not signed" in fault for fault in audit_faults(lake, [signer.fingerprint]))


def test_signatures_by_another_key_are_faults(lake: Lake, signer: Signer, tmp_path: Path) -> None:
    """A party with write access can rewrite the chain, but not sign it with the controller's key."""
    forger = Signer.load_or_create(tmp_path / "forger.pem")
    for _ in range(3):
        append_audit(lake, "erasure", {}, forger.sign)
    assert audit_faults(lake) == audit_faults(lake, [signer.fingerprint, forger.fingerprint]) == []
    assert len(audit_faults(lake, [signer.fingerprint])) == 4


def test_a_head_without_its_signature_is_a_fault(lake: Lake, signer: Signer) -> None:
    for _ in range(3):
        append_audit(lake, "erasure", {}, signer.sign)
    lake.store.delete(key(3))
    forged = {"count": 2, "digest": audit._digest(lake.store.read(key(2)))}
    tamper(lake, HEAD, json.dumps(forged, sort_keys=True).encode())
    assert audit_faults(lake) == [f"{HEAD} is not signed, although the record that it names is"]
    append_audit(lake, "erasure", {}, signer.sign)
    assert audit_faults(lake)


def test_concurrent_appends_leave_an_intact_chain(lake: Lake) -> None:
    def append(number: int) -> str:
        while True:
            try:
                return append_audit(lake, "export", {"n": number})
            except CommitConflict:
                continue

    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(append, range(24)))
    assert sorted(keys) == [key(number) for number in range(1, 25)]
    assert audit_faults(lake) == []


@pytest.mark.parametrize("meanwhile", [1, 2, 5])
@pytest.mark.parametrize("act", [audit_faults, lambda lake: append_audit(lake, "export", {})])
def test_records_appended_during_the_check_are_no_fault(
    chain: Lake, monkeypatch: pytest.MonkeyPatch, meanwhile: int, act: Callable[[Lake], object]
) -> None:
    read_head, waiting = audit._read_head, [{"n": n} for n in range(meanwhile)]

    def late(lake: Lake, keys: list[str]) -> object:
        while waiting:
            append_audit(lake, "export", waiting.pop())
        return read_head(lake, keys)

    monkeypatch.setattr(audit, "_read_head", late)
    assert act(chain) in ([], key(COUNT + meanwhile + 1))
    assert audit_faults(chain) == []


def test_an_empty_trail_has_no_faults(lake: Lake) -> None:
    assert audit_faults(lake) == []
