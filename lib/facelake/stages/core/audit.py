"""The audit trail: numbered, hash-chained JSON records outside Delta; no raw identifier of a person in it.

Each record holds the digest of the one before it. `audit-head.json` holds the number and the digest of the last one,
so that records which are cut off at the end are missed. Who may write here could make all of it anew, so both can be
signed. What goes unseen is an older state of records and head together: keep the head elsewhere from time to time.
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
_KEY = re.compile(rf"{_FOLDER}/([0-9]{{8}})\.json")
_ATTEMPTS = 10
_UNKNOWN = "unknown"  # no record's digest: what follows it does not fit

Sign = Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Head:
    """The end of the chain, as it was noted: how many records, and the digest of the last one."""

    count: int
    digest: str
    fault: str = ""


def append_audit(lake: Lake, kind: str, body: dict[str, Any], sign: Sign | None = None) -> str:
    """Append a record, then move the head onto it. Returns the record's key.

    A record follows what the head says. So a chain that was tampered with stays broken at that place for ever, and no
    later record hides it; only a head that a crash left one record behind is moved first.

    Args:
        sign: makes the signature of a JSON object; record and head get it as `signature`.

    Raises:
        CommitConflict: another process kept appending at the same time.
    """
    for _ in range(_ATTEMPTS):
        last = _last_number(item.key for item in lake.store.list(_FOLDER))  # before the head, which then lags by one
        tag = lake.store.tag(_HEAD)  # before its content: then a newer head than was read cannot be replaced
        head = _read_head(lake, ())
        if last == head.count + 1:
            left = lake.store.read(_key(last))
            if (record := _parsed(left)) and record["previous"] == head.digest:
                _move_head(lake, tag, last, left, sign)
                continue
        made = {"kind": kind, "at": datetime.now(UTC).isoformat(), "previous": head.digest, "body": body}
        data = _encoded(made, sign)
        key = _key(max(head.count, last) + 1)
        if lake.store.create(key, data):
            _move_head(lake, tag, max(head.count, last) + 1, data, sign)
            return key
    raise CommitConflict("the audit trail is being written by someone else", where=_FOLDER, next_step="run again")


def audit_faults(lake: Lake, keys: Collection[str] = ()) -> list[str]:
    """What is wrong with the chain: records that were edited, dropped, inserted or reordered; empty when it holds.

    Args:
        keys: fingerprints of the keys whose signatures count, and then the head must be signed; empty: signatures
            are checked where there are any, whoever made them.
    """
    found = [item.key for item in lake.store.list(_FOLDER)]
    head = _read_head(lake, keys)
    found += _appended_meanwhile(lake, _last_number(found), head.count)
    faults, digests = [], {0: ""}
    for key in found:
        named, last = _KEY.fullmatch(key), max(digests)
        if named is None:
            faults.append(f"{key} is no audit record")
            continue
        if int(named[1]) != last + 1:
            faults.append(f"{key} stands where record {last + 1} should be")
        data = lake.store.read(key)
        faults += [f"{key} {fault}" for fault in _record_faults(data, digests[last], keys)]
        digests[int(named[1])] = _digest(data)
    return faults + [f"{_HEAD} {fault}" for fault in _head_faults(head, digests)]


def _appended_meanwhile(lake: Lake, last: int, count: int) -> Iterator[str]:
    """Records that were appended between the listing and the reading of the head."""
    while last < count and lake.store.tag(_key(last + 1)) is not None:
        last += 1
        yield _key(last)


def _record_faults(data: bytes, previous: str, keys: Collection[str]) -> Iterator[str]:
    record = _parsed(data)
    if record is None:
        yield "is no audit record"
        return
    if record["previous"] != previous:
        yield "does not follow from the record before it"
    if "signature" in record and not _signed(record, keys):
        yield "has a wrong signature"


def _head_faults(head: _Head, digests: Mapping[int, str]) -> Iterator[str]:
    last = max(digests)
    if head.fault:
        yield head.fault
    elif head.count > last:
        yield f"says {head.count} records, the last one here is {last}"
    elif digests.get(head.count) != head.digest:
        yield f"does not name record {head.count} as it is"
    elif last > head.count + 1:  # a crash between record and head leaves it behind by one
        yield f"{'is missing' if not head.count else f'says {head.count} records'}, there are {last}"


def _read_head(lake: Lake, keys: Collection[str]) -> _Head:
    """The head; an absent one is the head of an empty chain, one with a fault is followed by nothing."""
    try:
        data = lake.store.read(_HEAD)
    except FileNotFoundError:
        return _Head(0, "")
    head = _json(data)
    count, digest = head.get("count"), head.get("digest")
    if type(count) is not int or count < 1 or not isinstance(digest, str) or _encoded(head, None) != data:
        return _Head(0, _UNKNOWN, "is no head")
    if "signature" in head:
        fault = "" if _signed(head, keys) else "has a wrong signature"
    else:
        fault = "is not signed, as the record it names is" if keys or _names_signed(lake, count) else ""
    return _Head(count, _UNKNOWN if fault else digest, fault)


def _names_signed(lake: Lake, count: int) -> bool:
    try:
        return "signature" in _json(lake.store.read(_key(count)))
    except FileNotFoundError:
        return False


def _move_head(lake: Lake, tag: str | None, count: int, record: bytes, sign: Sign | None) -> None:
    """Where someone else moved it meanwhile, it is left alone: the next append moves it on, if it needs to be."""
    data = _encoded({"count": count, "digest": _digest(record)}, sign)
    if tag is None:
        lake.store.create(_HEAD, data)
    else:
        lake.store.replace(_HEAD, data, tag)


def _last_number(keys: Iterable[str]) -> int:
    named = (_KEY.fullmatch(key) for key in keys)
    return max((int(name[1]) for name in named if name), default=0)


def _encoded(value: dict[str, Any], sign: Sign | None) -> bytes:
    value = json.loads(json.dumps(value))  # as a reader will see it: signed are text keys and lists, not tuples
    signed = value | {"signature": dict(sign(value))} if sign else value
    return json.dumps(signed, sort_keys=True).encode()


def _signed(value: dict[str, Any], keys: Collection[str]) -> bool:
    body = {name: part for name, part in value.items() if name != "signature"}
    return any(verify(body, value["signature"], key) for key in keys or (None,))


def _parsed(data: bytes) -> dict[str, Any] | None:
    """A record, or None."""
    record = _json(data)
    return record if isinstance(record.get("previous"), str) else None


def _json(data: bytes) -> dict[str, Any]:
    """A JSON object; empty if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _key(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
