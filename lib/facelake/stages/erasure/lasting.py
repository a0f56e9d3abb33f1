"""What an erasure leaves behind so that nobody comes back: the suppression lists, and a ledger without the names."""

from __future__ import annotations

from facelake.contracts import EventKind, Refusal, Scope, label, reference
from facelake.embed.looks import keyed_bands
from facelake.erase import Needles
from facelake.events import Notice
from facelake.lake.hash_key import erased_name
from facelake.plural import counted
from facelake.stages.admission.ledger import Entry, ledger_lease, read_ledger, record, rewrite_rows
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.withdrawn_photos import content_hash, contents_of_subjects, digests_here
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request, Targets


def suppress_targets(context: Context, targets: Targets) -> None:
    """Suppress the references, and every photo by its id, content and looks: it may come back under another source, or
    encoded again.
    """
    purpose = targets.request.purpose
    labels = [*targets.request.labels(), *(label("image", image, purpose) for image in sorted(targets.images))]
    labels += [label("content", digest, purpose) for digest in sorted(targets.contents)]
    hashed = contents_of_subjects(context.lake, targets.request.subjects if not purpose else ())
    hashed -= {content_hash(context.lake, digest) for digest in digests_here(context.lake, hashed)}  # in the targets
    context.lake.suppress(labels, hashed)
    key = context.lake.salt
    context.lake.suppress_looks({keyed_bands(look, key, purpose) for look in targets.looks})


def end_in_ledger(context: Context, request: Request, needles: Needles) -> int:
    """Replace the key of ledger events by a keyed hash, and the reference in the free text of any event; for one
    purpose only, record a withdrawal instead.
    """
    if request.purpose:
        return _withdraw(context, request, request.purpose)
    with ledger_lease(context.lake):
        rows = ledger_rows(context.lake)[0].to_pylist()
        before = [dict(row) for row in rows]
        for row in rows:
            names = request.subjects if row["scope"] == Scope.SUBJECT else request.sources
            if reference(row["key"]) in names:
                row["key"] = erased_name(context.lake.salt, label(row["scope"], row["key"]))
                row["evidence_sha256"] = None  # of a name of a file, which can be guessed
            for name in ("basis", "exemption"):
                row[name] = needles.redacted(row[name]) if row[name] else row[name]
        changed = sum(int(row != old) for row, old in zip(rows, before, strict=True))
        others = sum(int(row != old and row["key"] == old["key"]) for row, old in zip(rows, before, strict=True))
        if others:
            text = f"the name stood in the text of {counted(others, 'other event')} of the ledger: it is [erased] now"
            context.emit(Notice("erase", text))
        if changed:
            context.check_lease()
            rewrite_rows(context.lake, rows)
    return changed


def _withdraw(context: Context, request: Request, purpose: str) -> int:
    ledger = read_ledger(context.lake)
    keys = [(Scope.SUBJECT, key) for key in request.subjects] + [(Scope.SOURCE, key) for key in request.sources]
    standing = [pair for pair in keys if ledger.standing(*pair, purpose, context.now).reason is not Refusal.WITHDRAWN]
    if standing:
        record(context.lake, [Entry(EventKind.WITHDRAW, *pair, purposes=(purpose,)) for pair in standing])
    return len(standing)
