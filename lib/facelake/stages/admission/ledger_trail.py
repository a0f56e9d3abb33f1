"""Compares ledger, suppression lists and lake with the newest pins in the audit trail before a run decides by them.

Tables, lists and their pins lie side by side, and whoever can write into the lake can write all of them. The audit
trail is signed.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from facelake.errors import Corrupt
from facelake.lake.lake import Lake
from facelake.stages.admission.ledger_head import Pin
from facelake.stages.core.audit import is_signed, trusted_records
from facelake.stages.core.context import Context, accepted_keys

_UNFINISHED = "erase-pending"
"""folder of the notes of unfinished erasures (stages/erasure/notes.py), which may have rewritten events since"""


def check_pinned(context: Context, rows: pa.Table) -> None:
    """Check that ledger, suppression lists and lake are those that the audit trail pinned last.

    Args:
        context: of the run.
        rows: all events of the ledger in the order of seq.

    Raises:
        Corrupt: the ledger was changed or rolled back since, a list lost something, or the lake's marker is another.
    """
    lake = context.lake
    pinned, rewritten = _newest_pins(context)
    if pinned is None:
        return
    if pinned.get("lake", lake.name) != lake.name:
        what = f"lake.json is not that of this lake, {pinned['lake']}: hashes of erased people mean nobody with it"
        raise Corrupt(what, where=f"{lake.uri}/lake.json", next_step="restore it from a backup; nothing was changed")
    rewritten = rewritten or any(lake.store.list(_UNFINISHED))
    try:
        pin = Pin.from_json(pinned["ledger"])
        fault = (pin.lasting_fault(rows) if rewritten else pin.fault(rows)) or _lists_fault(lake, pinned)
    except (ValueError, KeyError, TypeError, OverflowError) as err:
        fault = f"a pin is damaged ({err!r})"
    if fault:
        next_step = (
            "restore it from a backup, or accept what is there with `facelake ledger accept`; nothing was changed"
        )
        raise Corrupt(f"{fault} (pinned by the audit trail)", where=lake.uri, next_step=next_step)


def _lists_fault(lake: Lake, pinned: dict[str, Any]) -> str | None:
    faults = lake.suppression_faults(pinned.get("suppression", {}))
    return f"the suppression list lost something: {'; '.join(faults)}" if faults else None


def _newest_pins(context: Context) -> tuple[dict[str, Any] | None, bool]:
    """Return the content of the newest record that has pins and counts, and whether an erasure that another key signed
    may have rewritten the ledger since; None if there is no such record.
    """
    keys, rewritten = accepted_keys(context.config), False
    for record in trusted_records(context.lake):
        if keys and not is_signed(record, keys):
            rewritten = rewritten or (record.get("kind") == "erasure" and is_signed(record))
        elif isinstance(record["body"].get("ledger"), dict):
            return record["body"], rewritten
    return None, rewritten
