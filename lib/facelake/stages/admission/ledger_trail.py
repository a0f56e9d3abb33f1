"""Compares the ledger with the newest pin in the audit trail before a run decides by it.

Table and pin lie side by side, and whoever can write into the lake can write both. The audit trail is signed.
"""

from __future__ import annotations

import pyarrow as pa

from facelake.errors import Corrupt
from facelake.stages.admission.ledger_head import Pin
from facelake.stages.core.audit import trusted_records
from facelake.stages.core.context import Context, accepted_keys

_UNFINISHED = "erase-pending"
"""folder of the notes of unfinished erasures (stages/erasure/notes.py), which may have rewritten events since"""


def check_ledger_pinned(context: Context, rows: pa.Table) -> None:
    """Check that the ledger is the one that the audit trail pinned last.

    Args:
        context: of the run.
        rows: all events in the order of seq.

    Raises:
        Corrupt: it was changed or rolled back since.
    """
    pin = _newest_pin(context)
    if pin is None:
        return
    fault = pin.fault(rows)
    if fault and any(context.lake.store.list(_UNFINISHED)):
        fault = pin.lasting_fault(rows)
    if fault:
        next_step = "restore the newest ledger from a backup, or accept this one with `facelake ledger accept`"
        what = f"{fault} (pinned by the audit trail)"
        raise Corrupt(what, where=f"{context.lake.uri}/ledger", next_step=f"{next_step}; nothing was changed")


def _newest_pin(context: Context) -> Pin | None:
    for record in trusted_records(context.lake, accepted_keys(context.config)):
        try:
            return Pin.from_json(record["body"]["ledger"])
        except (ValueError, KeyError, TypeError, OverflowError):  # of a record of another kind
            continue
    return None
