"""Makes a lake that was restored from a backup usable: its ledger and lists are put back, copies of it are recalled.

Recipients hold identities that the restored lake does not know, or knows with other faces: no list of changes brings
these copies up to date. So every lease that the lake knows is recalled. Leases since the backup are unknown to it:
copies under them are refused where the lake is at hand, and a database that was filled under one is emptied by the next
push.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from facelake.lake.lake import Lake
from facelake.stages.admission.copied_ledger import put_back
from facelake.stages.admission.ledger_head import pin_for_audit
from facelake.stages.core.audit import append_audit, copied_head_fault, trusted_records
from facelake.stages.core.context import Context
from facelake.stages.sharing.leases import recall_all

_ACCEPTED = "ledger-accepted"


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

    @property
    def older(self) -> bool:
        """Whether the lake had lost anything."""
        return bool(self.events or self.suppressed or self.audit_fault)


def restored_at(lake: Lake) -> datetime | None:
    """Return when an older lake was last made usable, by the audit trail; None if it never was. Leases between the
    backup and then are not known.
    """
    for record in trusted_records(lake):
        if record.get("kind") == _ACCEPTED and record["body"].get("older"):
            with suppress(ValueError, KeyError, TypeError):
                return datetime.fromisoformat(record["at"])
    return None


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
    done = Restored(events, withdrawals, suppressed, audit_fault=audit_fault)
    done = replace(done, recalled=tuple(lease.lease_id for lease in recall_all(lake)) if done.older else ())
    body = {"restored_events": events, "restored_suppressions": suppressed, "recalled": list(done.recalled)}
    body["older"] = done.older
    append_audit(lake, _ACCEPTED, body | pin_for_audit(lake), context.sign)
    return done
