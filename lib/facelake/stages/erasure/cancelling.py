"""Gives an unfinished erasure up."""

from __future__ import annotations

from facelake.stages.admission.ledger_head import pin_for_audit
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.erasure.notes import cancel
from facelake.stages.gallery.versions import settle


def cancel_erasure(context: Context, erasure_id: str | None = None) -> str:
    """Delete the note of an unfinished erasure and record it in the audit trail; returns its id.

    The gallery is restored to what readers see, for the erasure may have ended while it was written or purged.

    Raises:
        ConfigError: there is no such erasure, or there are several and none is named.
    """
    (name,) = cancel(context.lake, erasure_id)
    settle(context.lake)
    append_audit(context.lake, "erasure-cancelled", {"erasure": name} | pin_for_audit(context.lake), context.sign)
    return name
