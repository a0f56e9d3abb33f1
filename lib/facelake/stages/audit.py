"""The audit trail: numbered, hash-chained JSON records outside Delta; no raw identifier of a person in it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from facelake.errors import CommitConflict
from facelake.lake.lake import Lake

_FOLDER = "audit"


def append_audit(lake: Lake, kind: str, body: dict[str, Any]) -> str:
    """Append a record; its `previous` is the digest of the record before it. Returns its key.

    Raises:
        CommitConflict: another process kept appending at the same time.
    """
    for _ in range(10):
        keys = [item.key for item in lake.store.list(_FOLDER)]
        previous = hashlib.sha256(lake.store.read(keys[-1])).hexdigest() if keys else ""
        record = {"kind": kind, "at": datetime.now(UTC).isoformat(), "previous": previous, "body": body}
        key = f"{_FOLDER}/{len(keys) + 1:08d}.json"
        if lake.store.create(key, json.dumps(record, sort_keys=True).encode()):
            return key
    raise CommitConflict("the audit trail is being written by someone else", where=_FOLDER, next_step="run again")


def audit_faults(lake: Lake) -> list[str]:
    """What is wrong with the chain: dropped, reordered or edited records; empty when it holds."""
    faults, previous = [], ""
    for number, item in enumerate(lake.store.list(_FOLDER), start=1):
        data = lake.store.read(item.key)
        if item.key != f"{_FOLDER}/{number:08d}.json":
            faults.append(f"{item.key} stands where record {number} should be")
        if json.loads(data)["previous"] != previous:
            faults.append(f"{item.key} does not follow from the record before it")
        previous = hashlib.sha256(data).hexdigest()
    return faults
