"""erase: remove people from every table, file and version, search for remains, certify.

Every step can be repeated: after a kill, the same command or the next run completes the erasure. The suppression list
is written first, so that nothing reintroduces what is being erased; the note that is needed to find the rest is
deleted last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import TABLES, DataFileName, Refusal
from facelake.erase import Signer, certificate
from facelake.erase.certificate import ERASED_BEFORE, SHORT_REFERENCES, WITHOUT_PIECES
from facelake.errors import ConfigError, Corrupt, Retryable
from facelake.events import Notice, StageProgress
from facelake.lake.store import links_outside
from facelake.plural import counted
from facelake.stages.admission.corpus_rewrite import own_corpus, rewrite_corpus_file, with_other_sources
from facelake.stages.admission.ledger_head import pin_for_audit
from facelake.stages.admission.withdrawn_photos import forget_subjects
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context, StageResult, StageRun
from facelake.stages.core.known_ids import KnownIds
from facelake.stages.embedding.outcomes import remove_outcomes
from facelake.stages.embedding.progress import OUTCOMES
from facelake.stages.erasure.gallery_rows import rewrite_gallery
from facelake.stages.erasure.lake_scan import scan_lake
from facelake.stages.erasure.lasting import end_in_ledger, suppress_targets
from facelake.stages.erasure.notes import Note, Notes, pending
from facelake.stages.erasure.own_store import blank_index, complete_places, delete_places, find_in_index, find_places
from facelake.stages.erasure.places import CORPUS_FILE
from facelake.stages.erasure.request import Request, Targets, strings
from facelake.stages.erasure.targets import find_targets
from facelake.stages.gallery.corrections import forget_faces
from facelake.stages.gallery.purge import purge_all, request_purge
from facelake.stages.gallery.same_identity import other_photos
from facelake.stages.gallery.versions import current_gallery, settle
from facelake.stages.governance.processing_register import redact_register
from facelake.stages.sharing.leases import databases_that_owe, recipients_that_owe

_STEPS = 8


@dataclass(frozen=True, slots=True)
class Erased(StageResult):
    """The outcome of a certified erasure."""

    certificate: str = ""
    """its key in the lake"""
    not_acknowledged: list[str] = field(default_factory=list)
    """recipients that still owe an acknowledgement"""
    copies_kept: list[str] = field(default_factory=list)
    """ids under which the same photo stays"""
    others_kept: list[str] = field(default_factory=list)
    """ids of photos that stay although they have a face of an identity of the subjects"""
    left_to_delete: list[str] = field(default_factory=list)
    """locations of photos in the operator's own store"""

    def as_json(self) -> dict[str, object]:
        """Counts and the fields of an erasure as one object."""
        fields = ("certificate", "not_acknowledged", "copies_kept", "others_kept", "left_to_delete")
        return {**self.counts, **{name: getattr(self, name) for name in fields}}


def erase(context: Context, request: Request) -> Erased:
    """Erase, purge, scan, certify.

    Raises:
        ConfigError: an identity that does not exist; copies under other ids, with which the request does not say what
            to do; a signing key that cannot be read; an object that is a link to a file elsewhere. Nothing was removed.
        Corrupt: the scan found remains; no certificate is issued, and the erasure stays unfinished.
    """
    signer = context.signer()  # fails before anything is removed
    if link := next(links_outside(context.lake.store), None):
        what = f"{link} is a link to a file outside of the lake, whose content would stay there; nothing was erased"
        next_step = "move the file to the place of the link, and give the command again"
        raise ConfigError(what, where=context.lake.uri, next_step=next_step)
    run = StageRun(context, "erase", _STEPS, "steps")
    notes = Notes(context.lake, signer)
    settle(context.lake)
    note = notes.read(request)
    if note is None or note.scan is None:
        targets = _targets(context, request, note)
        if note is None and not (targets.held or targets.images - set(request.images) or targets.faces):
            context.emit(Notice("erase", "the lake holds no photo of it; it is now on the suppression list"))
        before = _erased_before(context, request) if note is None else note.erased_before
        begun = Note(targets, note.removed if note else {}, erased_before=before)
        notes.write(begun)
        note = replace(_removed_and_scanned(context, begun, notes), erased_before=before)
        notes.write(note)
    if note.erased_before:
        context.emit(Notice("erase", f"the scan did not search for {note.erased_before} {ERASED_BEFORE}"))
    _step(context, 7)
    key = _certify(context, note, signer)
    notes.delete(request)
    _step(context, 8)
    result = run.finish(_counts(note), "")
    owing = recipients_that_owe(context.lake, context.now)
    left = complete_places(context, note.targets)  # not in the lake, which must not name them any more
    return Erased(
        "erase",
        result.counts,
        result.seconds,
        certificate=key,
        not_acknowledged=owing,
        copies_kept=sorted(note.targets.copies),
        others_kept=sorted(note.targets.others),
        left_to_delete=left,
    )


def _erased_before(context: Context, request: Request) -> int:
    """Return how many references of a request an earlier erasure has suppressed: what it removed is not known any more,
    and so is not searched for.
    """
    suppressed = context.lake.suppressed()
    return sum(context.lake.keyed_hash(text) in suppressed for text in request.labels())


def _removed_and_scanned(context: Context, begun: Note, notes: Notes) -> Note:
    """Remove everything and search for remains; what was removed is noted step by step.

    Returns:
        A note without anything of the person but the request.

    Raises:
        Corrupt: something remains.
    """
    targets = begun.targets
    suppress_targets(context, targets)
    request_purge(context)
    _step(context, 1)
    removed = Counter(begun.removed)  # by an attempt that was killed
    for step, part in enumerate(_REMOVALS, start=2):
        part(context, targets, removed)
        notes.write(replace(begun, removed=dict(removed)))
        _step(context, step)
    purge_all(context)
    _step(context, 6)
    _refuse_unfinished_run(context)
    scanned, hits = scan_lake(context, targets)
    if hits.remains:
        next_step = (
            "erase or keep copies of the photos (--with-copies, --image ID, --keep-copies), delete what facelake "
        )
        next_step += "did not write, and run the same command again; "
        next_step += "`facelake erase --cancel` gives the certificate up. Other runs go on meanwhile"
        raise Corrupt(f"not certified: {hits.described()}", where=context.lake.uri, next_step=next_step)
    targets.copies |= hits.copies
    for key, place in hits.where.items():
        told = f"{place}; rename the file if it is called after the person" if place == CORPUS_FILE else ""
        told = told or f"the same characters, as {place}; not this person's data"
        context.emit(Notice("erase", f"{key}: {told}"))
    if short := targets.short_references():
        context.emit(Notice("erase", f"the scan did not search for {len(short)} {SHORT_REFERENCES}"))
    without_pieces = 0 if targets.request.purpose else targets.without_pieces
    if without_pieces:
        context.emit(Notice("erase", f"{without_pieces} {WITHOUT_PIECES}"))
    scan = {"objects": scanned, "coincidences": dict(hits.coincidences), "without_pieces": without_pieces}
    scan["short_ids"] = len(targets.short_ids())
    remembered = Targets(targets.request, copies=targets.copies, others=targets.others, places=targets.places)
    return Note(remembered, dict(removed), scan)


def _refuse_unfinished_run(context: Context) -> None:
    """Check that every face of the gallery has its row: of one without, nothing tells whose photo it is from.

    Raises:
        Corrupt: a run found photos under other names, and was interrupted before it published.
    """
    gallery = current_gallery(context.lake)
    known = KnownIds(rows["face_id"] for _, rows in context.lake["faces"].parts(["face_id"]))
    members = gallery.parts("memberships", ["face_id"]) if gallery else ()
    if without := sum(pc.sum(known.lack(rows["face_id"])).as_py() or 0 for rows in members):
        what = f"not certified: {counted(without, 'face')} of the gallery {'is' if without == 1 else 'are'} of photos "
        what += "that an interrupted run found gone or under another name"
        next_step = "run `facelake nightly`, which publishes a gallery without them, and give the erasure again"
        raise Corrupt(what, where=context.lake.uri, next_step=next_step)


def _counts(note: Note) -> dict[str, int]:
    assert note.scan is not None
    coincidences = sum(note.scan["coincidences"].values())
    return dict(note.removed) | {
        "objects_scanned": note.scan["objects"],
        "residual_hits": 0,
        "coincidences": coincidences,
        "copies": len(note.targets.copies),
    }


def finish_erasures(context: Context) -> list[StageResult]:
    """Complete erasures that were killed, before anything else uses the lake.

    One that cannot be completed is reported, and does not stop the run: its photos are suppressed, here once more in
    case the erasure was killed before that.

    Raises:
        Refused: this process lost the write lease.
        Corrupt: the suppression list is damaged.
        Retryable: it cannot be written.
    """
    if not pending(context.lake):
        return []
    try:
        signer = context.signer()
    except ConfigError as err:
        context.emit(Notice("erase", f"unfinished erasures wait: {err}"))
        return []
    results: list[StageResult] = []
    for ident, note in list(Notes(context.lake, signer).unfinished()):
        if note is None:
            text = f"erasure {ident} was begun with another signing key, or its note is damaged: give the same command "
            text += "there, or here, or "
            context.emit(Notice("erase", text + f"`facelake erase --cancel {ident}`"))
            continue
        context.emit(Notice("erase", "an earlier erasure was interrupted: it is completed now"))
        suppress_targets(context, note.targets)
        try:
            done = erase(context, note.targets.request)
            results.append(done)
            context.emit(Notice("erase", f"erased; certificate: {context.lake.uri.rstrip('/')}/{done.certificate}"))
        except (Corrupt, ConfigError, Retryable) as err:  # Retryable: no Java for Spark, a failed task, the store
            context.emit(Notice("erase", f"erasure {ident} is not finished: {err}"))
    return results


def _targets(context: Context, request: Request, note: Note | None) -> Targets:
    if request.purpose not in (None, context.config.purpose) and request.purpose not in _purposes(context):
        text = f"this lake holds nothing for {request.purpose!r}; the purpose is now suppressed for it"
        context.emit(Notice("erase", text))
        return Targets(request)
    targets = find_targets(context, request, note.targets if note else None, also=find_in_index)
    find_places(context, targets)
    if request.subjects and not request.purpose:
        _tell_of_others(context, targets, note)
    return targets


def _purposes(context: Context) -> set[str]:
    """Return the purposes of the gallery and of the decisions; the last run may have had another than the config."""
    gallery = current_gallery(context.lake)
    decided = [pc.unique(rows["purpose"]).to_pylist() for _, rows in context.lake["admissions"].parts(["purpose"])]
    made = {gallery.row["purpose"]} if gallery else set()
    return {*made, *(purpose for part in decided for purpose in part if purpose)}


def _tell_of_others(context: Context, targets: Targets, note: Note | None) -> None:
    """Note and report photos of the same identities that the request does not name; they stay."""
    targets.others |= note.targets.others if note else set()
    found = other_photos(context.lake, targets.images)
    if found.photos:
        targets.others |= set(found.photos)
        text = "; they stay. If they show the person, `facelake erase --identity ID` or `--image ID` erases them"
        context.emit(Notice("erase", found.in_words("erased") + text))


def _remove_rows(context: Context, targets: Targets, removed: Counter[str]) -> None:
    removed["images"], removed["faces"] = len(targets.images), len(targets.faces)
    images = strings(targets.images)
    removed["rows"] += remove_outcomes(
        context, OUTCOMES, ("image_id",), lambda rows: pc.invert(pc.is_in(rows["image_id"], images))
    )
    removed["rows"] += _remove(context, "groups", "face_id", targets.faces)
    if not targets.request.purpose:
        removed["rows"] += forget_subjects(context.lake, targets.request.subjects)


def _remove_from_gallery(context: Context, targets: Targets, removed: Counter[str]) -> None:
    removed["identities_retired"] += rewrite_gallery(context, targets)
    in_text = targets.text_needles()
    removed["corrections"] += forget_faces(context.lake, targets.faces, targets.contents, in_text)


def _remove_from_ledger(context: Context, targets: Targets, removed: Counter[str]) -> None:
    removed["ledger_events"] += end_in_ledger(context, targets.request, targets.text_needles())
    _blank_admissions(context, targets)


def _remove_photos(context: Context, targets: Targets, removed: Counter[str]) -> None:
    removed["corpus_rows"] += _blank_corpus(context, targets)
    removed.update(delete_places(context, targets))
    removed["own_store_left"] = len(targets.places)
    blank_index(context, targets)
    removed["register"] += redact_register(context, targets.needles(), targets.text_needles())
    # the purge deletes them
    removed["reports"] = max(removed["reports"], sum(1 for _ in context.lake.store.list("reports")))


_REMOVALS = (_remove_rows, _remove_from_gallery, _remove_from_ledger, _remove_photos)


def _certify(context: Context, note: Note, signer: Signer) -> str:
    gallery = current_gallery(context.lake)
    request, scan = note.targets.request, note.scan
    assert scan is not None
    body = certificate(
        context.run_id,
        datetime.now(UTC),
        [context.lake.keyed_hash(text) for text in request.labels()],
        note.removed,
        gallery_version=gallery.version if gallery else 0,
        objects_scanned=scan["objects"],
        residual_hits=0,
        versions={name: context.lake[name].version() for name in TABLES},
        purpose=request.purpose,
        recipients_pending=recipients_that_owe(context.lake, context.now),
        coincidences=scan["coincidences"],
        copies_kept=len(note.targets.copies),
        others_kept=len(note.targets.others),
        short_references=len(note.targets.short_references()),
        short_ids=scan["short_ids"],
        without_pieces=scan["without_pieces"],
        erased_before=note.erased_before,
        controller=context.config.governance.controller,
        lake=context.lake.name,
    )
    if databases := databases_that_owe(context.lake, context.now):
        body["databases_pending"] = databases
    body |= pin_for_audit(context.lake)  # an erasure rewrites events: what the audit trail pinned is replaced
    return append_audit(context.lake, "erasure", body | {"signature": signer.sign(body)}, sign=signer.sign)


def _step(context: Context, done: int) -> None:
    context.check_lease()
    context.emit(StageProgress("erase", done))


def _remove(context: Context, table: str, column: str, values: set[str]) -> int:
    doomed, delta = strings(values), context.lake[table]
    return delta.rewrite(delta.snapshot().files, [column], lambda rows: pc.invert(pc.is_in(rows[column], doomed)))


def _blank_admissions(context: Context, targets: Targets) -> None:
    """Empty the rows and mark them refused; they stay, so that row numbers keep their meaning."""
    table = context.lake["admissions"]
    sources, adds, removes = targets.request.hidden_sources(context.lake.salt), [], []
    for file, rows in table.parts():
        hit = targets.hits(rows)
        if not hit.any():
            continue
        mask = pa.array(hit)
        for name, value in (
            ("image_id", None),
            ("subject_ref", None),
            ("admitted", False),
            ("reason", str(Refusal.ERASED)),
            ("content_sha256", None),
        ):
            at = rows.schema.get_field_index(name)
            column = pc.if_else(mask, pa.scalar(value, rows.schema.field(name).type), rows[name].combine_chunks())
            rows = rows.set_column(at, name, column)
        rows = with_other_sources(rows, hit, sources)
        # another digest in the name, so that the next admit writes its own file
        adds.append(table.stage(rows, DataFileName(corpus=DataFileName.parse(file.path).corpus, part="erased")))
        removes.append(file)
    if adds:
        context.check_lease()
        table.commit(adds, removes)


def _blank_corpus(context: Context, targets: Targets) -> int:
    """Empty the rows of photos in the lake's own corpus; they stay, so that row numbers keep their meaning."""
    sources, blanked = targets.request.hidden_sources(context.lake.salt), 0
    for corpus, path in own_corpus(context.config) if not targets.request.purpose else ():
        hit = targets.hits(corpus.ids(path))
        if hit.any():
            context.check_lease()
            rewrite_corpus_file(corpus, path, hit, sources)
            blanked += int(hit.sum())
    return blanked
