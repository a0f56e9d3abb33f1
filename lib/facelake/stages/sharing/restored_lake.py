"""Makes a lake that was restored from a backup usable: its ledger and lists are put back, copies of it are recalled.

Recipients hold identities that the restored lake does not know, or knows with other faces: no list of changes brings
these copies up to date. So every lease that the lake knows is recalled. Leases since the backup are unknown to it:
copies under them are refused where the lake is at hand, and a database that was filled under one is emptied by the next
push.
"""

from __future__ import annotations

from dataclasses import dataclass

from facelake.stages.admission.copied_ledger import put_back
from facelake.stages.admission.ledger_head import pin_for_audit
from facelake.stages.core.audit import append_audit, copied_head_fault
from facelake.stages.core.context import Context
from facelake.stages.sharing.leases import recall_all


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back and recalled.

    Attributes:
        events: of the ledger.
        withdrawals: how many of them are withdrawals.
        suppressed: lines of the suppression lists.
        recalled: ids of the leases that were recalled.
        audit_fault: what the audit trail has lost, which cannot be put back; "" for nothing.
    """

    events: int
    withdrawals: int
    suppressed: int
    recalled: tuple[str, ...] = ()
    audit_fault: str = ""


def restore_ledger(context: Context) -> Restored:
    """Put back what only the copy outside of the lake has, recall all leases if there was anything, and record that.

    Raises:
        ConfigError: there is no copy.
        Corrupt: the copy is damaged.
    """
    lake = context.lake
    audit_fault = copied_head_fault(lake) or ""
    events, withdrawals = put_back(context)
    suppressed = lake.restore_lists()
    older = bool(events or suppressed or audit_fault)
    recalled = tuple(lease.lease_id for lease in recall_all(lake)) if older else ()
    body = {"restored_events": events, "restored_suppressions": suppressed, "recalled": list(recalled)}
    append_audit(lake, "ledger-accepted", body | pin_for_audit(lake), context.sign)
    return Restored(events, withdrawals, suppressed, recalled, audit_fault)
