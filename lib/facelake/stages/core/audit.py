"""The audit trail: numbered, hash-chained JSON records outside Delta, without raw identifiers of people.

Each record holds the digest of the record before it. `audit-head.json` holds the number and the digest of the last
record, so that deleting the last records is detected. A party with write access could rewrite the whole chain, so
records and head can be signed. Where keys are given, a record without a signature is a fault, and what it says counts
for nothing. The restoration of an older state of records and head together is detected by the copy of the head outside
of the lake (governance.ledger_copy), and not without it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from facelake.erase import verify
from facelake.errors import CommitConflict
from facelake.lake.lake import Lake

_FOLDER = "audit"
_HEAD = "audit-head.json"
SIGNED_BY_ANOTHER = "is signed by a key that is not trusted here: "
_KEY = re.compile(rf"{_FOLDER}/([0-9]{{8}})\.json")
_ATTEMPTS = 10
_UNKNOWN = "unknown"  # differs from every digest, so that no record fits after it

Sign = Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Head:
    """The recorded end of the chain: the number of records, and the digest of the last one."""

    count: int
    digest: str
    fault: str = ""


def append_audit(lake: Lake, kind: str, body: dict[str, Any], sign: Sign | None = None) -> str:
    """Append a record, move the head to it, and return the key of the record.

    A record follows the record that the head names. A manipulated chain therefore stays broken at that place, and later
    records cannot hide it. Only a head that a crash left one record behind is moved first; if records are signed, that
    one must be, too: else anybody with write access could have the next run sign a head over a record of theirs.

    Args:
        lake: the lake.
        kind: kind of the record.
        body: its content.
        sign: returns the signature of a JSON object; record and head store it as `signature`.

    Raises:
        CommitConflict: other processes kept appending at the same time.
    """
    for _ in range(_ATTEMPTS):
        last = _last_number(
            item.key for item in lake.store.list(_FOLDER)
        )  # listed before the head is read, so that the head lags by at most one
        tag = lake.store.tag(_HEAD)  # read before the content, so that a newer head is not overwritten
        head = _read_head(lake, ())
        if last == head.count + 1:
            unnamed = lake.store.read(_key(last))
            record = _parsed(unnamed)
            if record and record["previous"] == head.digest and (sign is None or is_signed(record)):
                _move_head(lake, tag, last, unnamed, sign)
                continue
        record = {"kind": kind, "at": datetime.now(UTC).isoformat(), "previous": head.digest, "body": body}
        data = _encoded(record, sign)
        key = _key(max(head.count, last) + 1)
        if lake.store.create(key, data):
            _move_head(lake, tag, max(head.count, last) + 1, data, sign)
            copy_head(lake)
            return key
    raise CommitConflict("other processes keep writing the audit trail", where=_FOLDER, next_step="run again")


def records(lake: Lake) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and bytes of all records, the newest first; neither chain nor signatures are checked."""
    for key in sorted((item.key for item in lake.store.list(_FOLDER) if _KEY.fullmatch(item.key)), reverse=True):
        yield key, lake.store.read(key)


def trusted_records(lake: Lake, keys: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the records whose content counts, the newest first: those with a valid signature by one of some keys.

    Without keys there is nothing to check signatures against, and every record counts. What is no record is left out:
    `audit_faults` reports it.
    """
    for _, data in records(lake):
        record = _parsed(data)
        if record is not None and isinstance(record.get("body"), dict) and (not keys or is_signed(record, keys)):
            yield record


def signed_body(lake: Lake, key: str, kind: str) -> dict[str, Any]:
    """Return the content of a record of some kind that has a valid signature, by whichever key; the chain is not
    checked.

    Raises:
        FileNotFoundError, ValueError: there is no such record.
    """
    record = _parsed(lake.store.read(key)) if _KEY.fullmatch(key) else None
    if record is None or record.get("kind") != kind or not isinstance(record.get("body"), dict):
        raise ValueError(f"{key} is not an audit record of {kind}")
    if not is_signed(record):
        raise ValueError(f"{key} is not signed")
    return dict(record["body"])


def last_signer(lake: Lake) -> str | None:
    """Return the fingerprint that the head names as its signer, unchecked; None if there is none."""
    try:
        signature = _json(lake.store.read(_HEAD)).get("signature")
    except FileNotFoundError:
        return None
    key = signature.get("key") if isinstance(signature, dict) else None
    return key if isinstance(key, str) else None


def audit_faults(lake: Lake, keys: Collection[str] = ()) -> list[str]:
    """Return the faults of the chain: records that were edited, deleted, inserted or reordered; empty if it is intact.

    Args:
        lake: the lake.
        keys: fingerprints of the accepted signature keys; head and records must then be signed by one of them. Empty:
            signatures are checked where they exist, with any key.
    """
    names = [item.key for item in lake.store.list(_FOLDER)]
    head = _read_head(lake, keys)
    names += _appended_meanwhile(lake, _last_number(names), head.count)
    faults, digests = [], {0: ""}
    for key in names:
        match, last = _KEY.fullmatch(key), max(digests)
        if match is None:
            faults.append(f"{key} is not an audit record")
            continue
        if int(match[1]) != last + 1:
            faults.append(f"{key} is in the place of record {last + 1}")
        data = lake.store.read(key)
        faults += [f"{key} {fault}" for fault in _record_faults(data, digests[last], keys)]
        digests[int(match[1])] = _digest(data)
    return faults + [f"{_HEAD} {fault}" for fault in _head_faults(head, digests)]


def copied_head_fault(lake: Lake) -> str | None:
    """Return what the trail lacks of the records that the copied head names, outside of the lake; None for nothing."""
    data = lake.copy.audit_head() if lake.copy else None
    if data is None:
        return None
    head = _json(data)
    count, digest = head.get("count"), head.get("digest")
    if type(count) is not int or not isinstance(digest, str):
        return "the copied head of the audit trail is damaged"
    try:
        same = _digest(lake.store.read(_key(count))) == digest
    except FileNotFoundError:
        last = _last_number(item.key for item in lake.store.list(_FOLDER))
        return f"the audit trail had {count} records, and has {last}"
    return None if same else f"record {count} of the audit trail is another one"


def copy_head(lake: Lake) -> None:
    """Copy the head to the place outside of the lake that the config names."""
    if lake.copy:
        try:
            lake.copy.write_audit_head(lake.store.read(_HEAD))
        except FileNotFoundError:
            return


def _appended_meanwhile(lake: Lake, last: int, count: int) -> Iterator[str]:
    """Yield the keys of records that were appended between the listing and the reading of the head."""
    while last < count and lake.store.tag(_key(last + 1)) is not None:
        last += 1
        yield _key(last)


def _record_faults(data: bytes, previous: str, keys: Collection[str]) -> Iterator[str]:
    record = _parsed(data)
    if record is None:
        yield "is not an audit record"
        return
    if record["previous"] != previous:
        yield "does not contain the digest of the record before it"
    if "signature" in record:
        if not is_signed(record, keys):
            yield _signature_fault(record)
    elif keys:
        yield "is not signed"


def _head_faults(head: _Head, digests: Mapping[int, str]) -> Iterator[str]:
    last = max(digests)
    if head.fault:
        yield head.fault
    elif head.count > last:
        yield f"names {head.count} records, but the last record is {last}"
    elif digests.get(head.count) != head.digest:
        yield f"does not contain the digest of record {head.count}"
    elif last > head.count + 1:  # a crash between record and head leaves the head one record behind
        yield f"{'is missing' if not head.count else f'names {head.count} records'}, but there are {last}"


def _read_head(lake: Lake, keys: Collection[str]) -> _Head:
    """Return the head; a missing head is that of an empty chain, and no record fits after a faulty head."""
    try:
        data = lake.store.read(_HEAD)
    except FileNotFoundError:
        return _Head(0, "")
    head = _json(data)
    count, digest = head.get("count"), head.get("digest")
    if type(count) is not int or count < 1 or not isinstance(digest, str) or _encoded(head, None) != data:
        return _Head(0, _UNKNOWN, "is not a valid head")
    if "signature" in head:
        fault = "" if is_signed(head, keys) else _signature_fault(head)
    else:
        fault = "is not signed, although the record that it names is" if keys or _names_signed(lake, count) else ""
    return _Head(count, _UNKNOWN if fault else digest, fault)


def _names_signed(lake: Lake, count: int) -> bool:
    try:
        return "signature" in _json(lake.store.read(_key(count)))
    except FileNotFoundError:
        return False


def _move_head(lake: Lake, tag: str | None, count: int, record: bytes, sign: Sign | None) -> None:
    """Write the head unless another process moved it meanwhile; the next append then corrects it if necessary."""
    data = _encoded({"count": count, "digest": _digest(record)}, sign)
    if tag is None:
        lake.store.create(_HEAD, data)
    else:
        lake.store.replace(_HEAD, data, tag)


def _last_number(keys: Iterable[str]) -> int:
    matches = (_KEY.fullmatch(key) for key in keys)
    return max((int(match[1]) for match in matches if match), default=0)


def _encoded(value: dict[str, Any], sign: Sign | None) -> bytes:
    value = json.loads(
        json.dumps(value)
    )  # the form that readers parse: the signature is of text keys and lists, not of tuples
    signed = value | {"signature": dict(sign(value))} if sign else value
    return json.dumps(signed, sort_keys=True).encode()


def is_signed(value: dict[str, Any], keys: Collection[str] = ()) -> bool:
    """Return whether a record or head has a valid signature by one of some keys; no keys: by any."""
    body = {name: part for name, part in value.items() if name != "signature"}
    return any(verify(body, value.get("signature"), key) for key in keys or (None,))


def _signature_fault(value: dict[str, Any]) -> str:
    """Describe a signature that is not accepted: it does not fit, or it is by a key that is not trusted."""
    if not is_signed(value):
        return "has a wrong signature"
    return f"{SIGNED_BY_ANOTHER}{value['signature'].get('key')}"


def _parsed(data: bytes) -> dict[str, Any] | None:
    """Return a record; None if the data is not one."""
    record = _json(data)
    return record if isinstance(record.get("previous"), str) else None


def _json(data: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one if the data is not a JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _key(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
