"""Final removal of deleted rows: from earlier table versions, staged leftovers and log entries."""

from __future__ import annotations

from contextlib import nullcontext

from facelake.contracts import TABLES
from facelake.engines.scratch import clear_scratch
from facelake.stages.admission.ledger import ledger_lease
from facelake.stages.core.context import Context
from facelake.stages.gallery.versions import current_gallery, pin, settle

_PENDING = "purge-pending"


def request_purge(context: Context) -> None:
    """Write a marker before rows are removed, so that a crash before the purge is noticed by the next run."""
    context.lake.store.write(_PENDING, context.run_id.encode())


def purge_after_sweep(context: Context) -> None:
    """Purge if a sweep or an interrupted run requested it."""
    if context.lake.store.tag(_PENDING) is not None:
        purge_all(context)


def purge_all(context: Context) -> None:
    """Purge the history of every table, then pin the gallery to versions that still exist."""
    settle(context.lake)
    for item in list(context.lake.store.list("reports")):  # reports show faces; the next report stage writes a new one
        context.lake.store.delete(item.key)
    for item in list(context.lake.store.list("_work")):  # vectors left by a clustering that was killed
        context.lake.store.delete(item.key)
    clear_scratch(context.lake.uri)
    context.lake.store.clear_leftovers()
    for name in TABLES:
        context.check_lease()
        with ledger_lease(context.lake) if name == "ledger" else nullcontext():
            context.lake[name].purge_history()
    gallery = current_gallery(context.lake)
    if gallery:
        pin(context.lake, gallery.version, gallery.row)
    context.lake.store.drop_old_versions()
    context.lake.store.delete(_PENDING)
