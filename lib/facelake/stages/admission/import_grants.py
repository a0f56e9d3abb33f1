"""The legal basis that an import states for its photos: checked before anything is copied, recorded afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow.compute as pc

from facelake.admit import decide
from facelake.admit.rules import Ledger
from facelake.config import Config
from facelake.contracts import REFUSED_CLASSES, Covers, EventKind, Refusal, Scope, SourceClass, label, reference
from facelake.errors import ConfigError
from facelake.events import Notice
from facelake.lake.lake import Lake, has_lake
from facelake.lake.store import open_store
from facelake.stages.admission.known_references import Known
from facelake.stages.admission.ledger import Entry, evidence_digest, ledger_of, read_ledger, record
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.lifted_withdrawals import lifted
from facelake.stages.core.context import Context


@dataclass(frozen=True, slots=True)
class Grant:
    """The legal basis of the folder's photos as the operator states it."""

    basis: str
    purposes: tuple[str, ...] = ()
    evidence: str = ""
    exemption: str = ""
    covers: Covers = Covers.EVERYONE
    source_class: SourceClass | None = None


def record_grant(context: Context, source_id: str, grant: Grant) -> bool:
    """Record the grant for purposes without one; a repeated import does not renew a withdrawn or expired grant."""
    purposes = grant.purposes or (context.config.purpose,)
    rows = ledger_rows(context.lake)[0]
    ledger = ledger_of(rows)
    verdicts = {p: decide(ledger, source_id, None, p, context.now).reason for p in purposes}
    needed = [p for p, reason in verdicts.items() if reason in (Refusal.NO_BASIS, Refusal.OTHER_PURPOSE)]
    for purpose, reason in verdicts.items():
        if reason is not None and purpose not in needed:
            reason_text = f"the basis of {source_id!r} for {purpose!r} is {reason}, and importing does not renew it"
            context.emit(Notice("import", f"{reason_text}: see `facelake ledger grant`"))
    if needed:
        evidence = evidence_digest(grant.evidence or f"import of source {source_id}")
        event = Entry(EventKind.GRANT, Scope.SOURCE, source_id, tuple(needed), grant.basis, grant.exemption, evidence)
        event = replace(event, covers=grant.covers, source_class=grant.source_class)
        if at := lifted(rows, [event], context.now).get(event):  # one that begins later
            reason_text = f"the source {source_id!r} withdrew on {at:%F}, and importing does not lift this"
            context.emit(Notice("import", f"{reason_text}: see `facelake ledger grant`"))
            return False
        record(context.lake, [event])
    own = context.config.purpose
    if own not in verdicts and not decide(ledger, source_id, None, own, context.now).admitted:
        what = f"no grant of {source_id!r} names {own!r}, the purpose of this config: its photos will be refused"
        next_step = f"`facelake ledger grant --source {source_id} --purpose {own} --basis ...` records one"
        context.emit(Notice("import", f"{what}. {next_step}; or change `purpose` in the config"))
    return bool(needed)


def refuse_before_lake(config: Config, grant: Grant | None) -> None:
    """Refuse a mistyped grant while there is no lake, so that none is made for it.

    Raises:
        ConfigError: as `refuse_mistyped`.
    """
    if grant is not None and not has_lake(open_store(config.lake, config.s3)):
        refuse_mistyped(Known.of_config(config), grant, config.purpose)


def refuse_mistyped(known: Known, grant: Grant, purpose: str) -> None:
    """Refuse a grant that is recorded for good and does not permit what the run needs.

    Args:
        known: what the lake has, or without a lake the config.
        grant: the grant.
        purpose: of the config, for a grant that names none.

    Raises:
        ConfigError: a purpose nearly equals a known one; or the class is refused, so that no photo would be processed.
    """
    if grant.source_class in REFUSED_CLASSES:
        what = f"photos of class {grant.source_class} are never processed, and no later event lifts this"
        next_step = "give contributed, commissioned, archive or research; or leave these photos out"
        raise ConfigError(what, where="--class", next_step=next_step)
    for item in known.unknown("purpose", grant.purposes or (purpose,)):
        if item.certain:
            next_step = (
                "correct it; a new purpose of that name is recorded by `facelake ledger grant --even-if-unknown`"
            )
            where = "--purpose" if grant.purposes else "purpose (of the config)"
            raise ConfigError(f"there is {item}; nothing was imported", where=where, next_step=next_step)


def refuse_erased_source(context: Context, source_id: str) -> None:
    """Refuse photos of a source that was erased: they would bring its name back, and are refused anyway.

    Raises:
        ConfigError: it was.
    """
    if context.lake.keyed_hash(label("source", source_id)) in context.lake.suppressed():
        what = f"the source {source_id!r} was erased: its photos are refused for good; nothing was imported"
        next_step = "give photos that somebody agreed to later another name (--source)"
        raise ConfigError(what, where="import", next_step=next_step)


def refuse_other_basis(context: Context, source_id: str, grant: Grant) -> None:
    """Refuse new photos for a source whose recorded basis is another: they would stand under a statement that was not
    made for them.

    Raises:
        ConfigError: basis or evidence differ from those of the source's newest grant for one of the purposes; or the
            source has photos without a grant of its own, and people have grants, which a basis of the source would
            replace by one for everyone.
    """
    purposes = set(grant.purposes or (context.config.purpose,))
    events = context.lake["ledger"].read(["seq", "kind", "scope", "key", "purposes", "basis", "evidence_sha256"])
    own = [
        row
        for row in events.sort_by("seq").to_pylist()
        if (row["kind"], row["scope"], reference(row["key"])) == (EventKind.GRANT, Scope.SOURCE, reference(source_id))
        and purposes & set(row["purposes"] or ())
    ]
    if not own:
        _refuse_for_everyone(context, source_id, purposes)
        return
    standing = own[-1]
    stated = evidence_digest(grant.evidence) if grant.evidence else standing["evidence_sha256"]
    if (standing["basis"], standing["evidence_sha256"]) != (grant.basis, stated):
        other = "another evidence" if standing["basis"] == grant.basis else f"the basis {standing['basis']!r}"
        what = f"source {source_id!r} was recorded with {other}; new photos would stand under it"
        next_step = "give these photos a source of their own (--source NAME); if it holds for all photos of this one, "
        next_step += "leave --basis out here and record it with `facelake ledger grant`"
        raise ConfigError(what, where="--basis", next_step=next_step)


def _refuse_for_everyone(context: Context, source_id: str, purposes: set[str]) -> None:
    ledger = read_ledger(context.lake)
    if not uses_own_grants(context.config, context.lake, ledger, source_id, purposes, context.now):
        return
    decided = context.lake["admissions"].parts(["source_id", "admitted"])
    admitted = (pc.and_(pc.equal(rows["source_id"], source_id), rows["admitted"]) for _, rows in decided)
    if not any(pc.any(own).as_py() for own in admitted):
        return  # they may be of an import that was killed before it recorded the basis
    what = f"source {source_id!r} has photos without a grant of its own: those of people with a grant are processed, "
    what += "and --basis would cover everyone in all of them"
    next_step = "leave --basis out; or, if everyone in all photos of the source agreed, record that with "
    next_step += f"`facelake ledger grant --source {source_id}`"
    raise ConfigError(what, where="--basis", next_step=next_step)


def uses_own_grants(
    config: Config, lake: Lake, ledger: Ledger, source_id: str, purposes: Iterable[str], now: datetime
) -> bool:
    """Whether a source has photos in the lake, but no grant, and people have grants of their own for a purpose."""
    asked = {p for p in purposes if decide(ledger, source_id, None, p, now).reason is Refusal.NO_BASIS}
    if not any(ledger.granted_subjects(purpose, now) for purpose in asked):
        return False
    return reference(source_id) in Known.of(config, lake).sources
