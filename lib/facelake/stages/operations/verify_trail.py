"""The checks of `verify` that rest on the audit trail: itself, the register, ledger, suppression lists, leases.

What a record says counts only if it is signed by an accepted key: whoever can write into the lake can add records.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from facelake.plural import counted
from facelake.stages.admission.ledger_head import Pin, ledger_rows
from facelake.stages.core.audit import SIGNED_BY_ANOTHER, audit_faults, trusted_records
from facelake.stages.core.context import Context, accepted_keys
from facelake.stages.erasure.notes import pending
from facelake.stages.governance.processing_register import (
    PENDING,
    REDACTED,
    REGISTER,
    key_of_register,
    parse_register,
    register_is_signed,
)
from facelake.stages.sharing.leases import HANDED_OUT, forged_events, leases

_ACCEPTED = "ledger-accepted"
_REWRITES = (_ACCEPTED, "erasure", "erasure-cancelled")
"""kinds of records whose pin replaces earlier ones: the ledger's events were rewritten, or accepted as they are"""
_UNREADABLE = (ValueError, KeyError, TypeError, OverflowError)


def check_audit(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """The hash chain of the audit records is intact and signed by a pinned key; records of processing are those whose
    digests it has.
    """
    keys = accepted_keys(context.config)
    counts["pinned_keys"] = len(keys)
    if not keys and any(context.lake.store.list("audit")):
        what = (
            "this host has no key to check the signatures of the audit trail against: whoever can write into the lake"
        )
        yield f"{what} can have written it; list the accepted keys in governance.trusted_keys"
    yield from _by_signer([*audit_faults(context.lake, keys), *_registers(context, keys)])


def _by_signer(faults: list[str]) -> Iterator[str]:
    """Yield the faults; those of one key that is not trusted as one, since one step mends them all: a lost key has
    signed every record.
    """
    others: dict[str, list[str]] = {}
    for fault in faults:
        name, found, key = fault.partition(f" {SIGNED_BY_ANOTHER}")
        if found:
            others.setdefault(key, []).append(name)
        else:
            yield fault
    for key, names in others.items():
        what = f"{names[0]} {SIGNED_BY_ANOTHER}"
        if len(names) > 1:
            what = f"{len(names)} records, from {names[0]} on, {SIGNED_BY_ANOTHER.replace('is', 'are', 1)}"
        yield f"{what}{key}; if it is yours, restore it (governance.signing_key) or add it to governance.trusted_keys"


def _registers(context: Context, keys: list[str]) -> Iterator[str]:
    """Every record of processing is signed, and is the one whose digest the audit trail has; an erasure may have
    redacted it since. The digests may be of any record: what a forged one names is a fault anyway.
    """
    digests = dict[str, Any]()
    for record in trusted_records(context.lake):
        if isinstance(name := record["body"].get("register"), str):
            digests.setdefault(name, record["body"].get("sha256"))
    present = set()
    for item in context.lake.store.list(REGISTER):
        data = context.lake.store.read(item.key)
        register = parse_register(data)
        key = key_of_register(register) if register and item.key == PENDING else item.key
        present.add(key)
        if register is None:
            yield f"{item.key} is not a record of processing"
        elif not register_is_signed(register, keys):
            own = register_is_signed(register, ())
            fault = f"{SIGNED_BY_ANOTHER}{register['signature'].get('key')}" if own else "has no valid signature"
            yield f"{item.key} {fault}"
        elif key not in digests:
            if item.key != PENDING:  # a run that was killed before it appended the audit record
                yield f"{item.key} is not named by the audit trail, whose end may have been removed"
        elif REDACTED not in register and digests[key] != hashlib.sha256(data).hexdigest():
            yield f"{item.key} is not the record whose digest the audit trail has"
    yield from (f"{key} is named by the audit trail but missing" for key in sorted(digests.keys() - present))


def check_ledger(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """The ledger's events are those that were recorded, by its own pin and by the pins in the audit trail."""
    rows, _ = ledger_rows(context.lake)
    counts["ledger_events"] = rows.num_rows
    if fault := _ledger_fault(context, rows):
        yield f"{fault} (pinned by the audit trail)"


def _ledger_fault(context: Context, rows: pa.Table) -> str | None:
    """Compare with the newest pin and with those before it: a run that followed a change has pinned the change.

    Pins from before an erasure are compared by what it leaves, as are all but the newest while one is unfinished.
    """
    rewritten = bool(pending(context.lake))
    for number, record in enumerate(_since_accepted(context)):
        with contextlib.suppress(*_UNREADABLE):
            if pin := record["body"].get("ledger"):
                whole = number == 0 or not rewritten
                found = Pin.from_json(pin)
                if fault := found.fault(rows) if whole else found.lasting_fault(rows):
                    return fault
        rewritten = rewritten or record["kind"] in _REWRITES
    return None


def _since_accepted(context: Context) -> Iterator[dict[str, Any]]:
    """Yield the records with pins, the newest first, down to the last in which an operator accepted what is there."""
    for record in trusted_records(context.lake, accepted_keys(context.config)):
        if "ledger" in record["body"] or "suppression" in record["body"]:
            yield record
        if record.get("kind") == _ACCEPTED:
            return


def check_suppressed(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """The suppression lists are whole, and have everything that the audit trail records; the lake is that of the
    trail, so that hashes mean the same.
    """
    suppressed = context.lake.suppressed()
    context.lake.suppressed_looks()
    counts["suppressed"] = len(suppressed)
    others = set()
    for record in trusted_records(context.lake):  # signed or not: a forged record takes nothing off the list
        body = record["body"]
        if body.get("lake") not in (None, "", context.lake.name):
            others.add(str(body["lake"]))
        hashes = body.get("targets_keyed_sha256")
        missing = set(map(str, hashes)) - suppressed if isinstance(hashes, list) else ()
        if missing:
            name = body.get("erasure")
            yield f"{len(missing)} references of erasure {name} are not on the suppression list: they would be admitted"
    if others:
        what = f"the audit trail is of lake {', '.join(sorted(others))}, and lake.json says {context.lake.name}"
        yield f"{what}: erased people would be admitted; restore lake.json from a backup"
    for record in _since_accepted(context):
        with contextlib.suppress(*_UNREADABLE):
            if faults := context.lake.suppression_faults(record["body"].get("suppression", {})):
                text = "; ".join(faults)
                yield f"the suppression list lost something since {record['at']} ({text}): restore it from a backup"
                return


def check_leases(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """Every event of a lease was written with the lake's key; every lease has the audit record of its export or push,
    and every such record its lease.
    """
    if forged := forged_events(context.lake):
        what = f"table leases has {counted(len(forged), 'event')} written without the key of this lake's hashes"
        yield f"{what}, which count for nothing: of {', '.join(sorted(set(forged))[:5])}"
    held = {lease.lease_id: lease for lease in leases(context.lake)}
    counts["leases"] = len(held)
    recorded = set()
    for record in trusted_records(context.lake, accepted_keys(context.config)):
        if record.get("kind") in HANDED_OUT:
            recorded.add(str(record["body"].get("lease_id")))
    for name, lease in held.items():
        if name not in recorded and not lease.returned:
            what = f"the audit trail has no record of what {lease.recipient!r} was given under {name}"
            yield f"{what}; if that was interrupted and nothing left, run `facelake feed return {name}`"
    for name in sorted(recorded - held.keys()):
        yield f"table leases lacks {name}, under which data was handed out: what its recipient owes is not known"
