"""erase: remove people from every table, file and version, search for remains, certify.

Every step can be repeated: after a kill, the same command or the next run completes the erasure. The suppression list
is written first, so that nothing reintroduces what is being erased; the note that is needed to find the rest is
deleted last.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CHANGES, IDENTITIES, TABLES, Change, DataFileName, EventKind, Refusal, Scope
from facelake.erase import Needles, Signer, certificate
from facelake.errors import Corrupt
from facelake.events import Notice, StageProgress
from facelake.lake.tables import plain
from facelake.publish.prototypes import exemplars, weight_of, weighted_means
from facelake.stages.admission.corpus_rewrite import rewrite_corpus_file
from facelake.stages.admission.ledger import Entry, ledger_lease, read_ledger, record, rewrite_rows
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context, StageResult, StageRun
from facelake.stages.erasure.request import (
    PENDING,
    Request,
    Targets,
    find_targets,
    note,
    own_corpus,
    strings,
    unfinished,
)
from facelake.stages.erasure.scanning import scan_objects
from facelake.stages.gallery.corrections import forget_faces
from facelake.stages.gallery.gallery_rows import tombstone
from facelake.stages.gallery.purge import purge_all, request_purge
from facelake.stages.gallery.versions import Gallery, current_gallery, pin, settle
from facelake.stages.governance.processing_register import redact_register
from facelake.stages.sharing.leases import recipients_that_owe
from facelake.vectors import embedding_matrix

_STEPS = 8


def erase(context: Context, request: Request) -> StageResult:
    """Erase, purge, scan, certify.

    Raises:
        ConfigError: an identity that does not exist; a signing key that cannot be read.
        Corrupt: the scan found remains; no certificate is issued.
    """
    signer = Signer.load_or_create(context.config.governance.signing_key)  # fails before anything is removed
    run = StageRun(context, "erase", _STEPS, "steps")
    settle(context.lake)
    targets = _targets(context, request)
    if not targets.images - set(request.images) and not targets.faces:
        context.emit(Notice("erase", "the lake holds nothing of it; it is now on the suppression list"))
    note(context, targets)
    _suppress(context, targets)
    request_purge(context)
    _step(context, 1)
    removed = _remove_all(context, targets)
    purge_all(context)
    _step(context, 6)
    scanned, hits = residual(context, targets.needles(), leave_out=PENDING)
    if hits:
        where = ", ".join(f"{key} ({count})" for key, count in sorted(hits.items())[:5])
        what = f"{sum(hits.values())} remains found: {where}"
        raise Corrupt(what, where=context.lake.uri, next_step="run the erasure again")
    _step(context, 7)
    context.lake.store.delete(request.key)
    context.lake.store.drop_old_versions(PENDING)
    key = _certify(context, request, removed, scanned, signer)
    _step(context, 8)
    counts: dict[str, Any] = dict(removed) | {"objects_scanned": scanned, "residual_hits": 0}
    result = run.finish(counts, "")
    owing = recipients_that_owe(context.lake, context.now)
    return StageResult("erase", dict(result.counts) | {"certificate": key, "not_acknowledged": owing}, result.seconds)


def finish_erasures(context: Context) -> list[StageResult]:
    """Complete erasures that were killed, before anything else uses the lake."""
    results = []
    for request in unfinished(context.lake):
        context.emit(Notice("erase", "an earlier erasure was interrupted: it is completed now"))
        results.append(erase(context, request))
    return results


def residual(context: Context, needles: Needles, leave_out: str = "\0") -> tuple[int, dict[str, int]]:
    """Scan every object under the lake's root, with one process per core.

    Args:
        context: of the run.
        needles: what to search for.
        leave_out: prefix of keys that are not scanned.

    Returns:
        The number of objects scanned, and hits by key.
    """
    keys = [item.key for item in context.lake.store.list() if not item.key.startswith(leave_out)]
    return len(keys), scan_objects(context.lake.store.uri, context.lake.s3, keys, needles)


def _targets(context: Context, request: Request) -> Targets:
    if request.purpose and request.purpose != context.config.purpose:
        text = f"this lake holds nothing for {request.purpose!r}; the purpose is now suppressed for it"
        context.emit(Notice("erase", text))
        return Targets(request)
    return find_targets(context, request)


def _remove_all(context: Context, targets: Targets) -> Counter[str]:
    removed: Counter[str] = Counter(images=len(targets.images), faces=len(targets.faces))
    removed["rows"] += _remove(context, "faces", "image_id", targets.images)
    removed["rows"] += _remove(context, "rejects", "image_id", targets.images)
    removed["rows"] += _remove(context, "groups", "face_id", targets.faces)
    _step(context, 2)
    removed["identities_retired"] = _rewrite_gallery(context, targets)
    removed["corrections"] = forget_faces(context.lake, targets.faces)
    _step(context, 3)
    removed["ledger_events"] = _end_in_ledger(context, targets.request)
    _blank_admissions(context, targets)
    _step(context, 4)
    removed["corpus_rows"] = _blank_corpus(context, targets)
    removed["register"] = redact_register(context, targets.needles())
    removed["reports"] = sum(1 for _ in context.lake.store.list("reports"))  # the purge deletes them
    _step(context, 5)
    return removed


def _certify(context: Context, request: Request, removed: Counter[str], scanned: int, signer: Signer) -> str:
    gallery = current_gallery(context.lake)
    body = certificate(
        context.run_id,
        datetime.now(UTC),
        [context.lake.keyed_hash(label) for label in request.labels()],
        removed,
        gallery_version=gallery.version if gallery else 0,
        objects_scanned=scanned,
        residual_hits=0,
        versions={name: context.lake[name].version() for name in TABLES},
        purpose=request.purpose,
        recipients_pending=recipients_that_owe(context.lake, context.now),
    )
    return append_audit(context.lake, "erasure", body | {"signature": signer.sign(body)}, sign=signer.sign)


def _step(context: Context, done: int) -> None:
    context.check_lease()
    context.emit(StageProgress("erase", done))


def _suppress(context: Context, targets: Targets) -> None:
    labels = targets.request.labels()
    if targets.request.identities:  # a source cannot name an identity, so its photos are suppressed
        scope = f"for:{targets.request.purpose}:" if targets.request.purpose else ""
        labels += [f"{scope}image:{image}" for image in targets.images]
    context.lake.suppress(labels)


def _remove(context: Context, table: str, column: str, values: set[str]) -> int:
    doomed, delta = strings(values), context.lake[table]
    return delta.rewrite(delta.snapshot().files, [column], lambda rows: pc.invert(pc.is_in(rows[column], doomed)))


def _rewrite_gallery(context: Context, targets: Targets) -> int:
    """Publish version n+1 without the faces; returns how many identities retired.

    Only the files that hold the faces' memberships and their identities are rewritten.
    """
    gallery, lake = current_gallery(context.lake), context.lake
    if gallery is None:
        return 0
    doomed = strings(targets.faces)
    affected = _affected(gallery, doomed)
    if not affected:
        return 0
    names = strings(affected)
    rest = _remaining_members(gallery, names, doomed)
    before: dict[str, dict[str, Any]] = {}
    active = 0
    for rows in gallery.parts("identities"):
        active += int(pc.sum(pc.equal(rows["status"], "active")).as_py() or 0)
        before |= {row["identity_id"]: row for row in rows.filter(pc.is_in(rows["identity_id"], names)).to_pylist()}
    version = gallery.version + 1
    after, events = _shrunk(context, rest, sorted(affected), before, version)
    context.check_lease()
    lake["identities"].replace_rows("identity_id", pa.Table.from_pylist(list(after.values()), schema=plain(IDENTITIES)))
    members = lake["memberships"]
    removed = members.rewrite(
        members.snapshot().files, ["face_id"], lambda rows: pc.invert(pc.is_in(rows["face_id"], doomed))
    )
    lake["changes"].append(events)
    retired = sum(row["status"] == "retired" for row in after.values())
    pin(lake, version, gallery.row | {"faces": gallery.row["faces"] - removed, "identities": active - retired})
    return int(retired)


def _affected(gallery: Gallery, doomed: pa.Array) -> set[str]:
    """Return the identities that lose a face."""
    affected: set[str] = set()
    for rows in gallery.parts("memberships", ["face_id", "identity_id"]):
        affected.update(rows["identity_id"].filter(pc.is_in(rows["face_id"], doomed)).to_pylist())
    return affected


def _remaining_members(gallery: Gallery, names: pa.Array, doomed: pa.Array) -> pa.Table:
    """Return face_id and identity_id of the faces that stay in the named identities."""
    parts = [pa.table({"face_id": pa.array([], pa.string()), "identity_id": pa.array([], pa.string())})]
    for rows in gallery.parts("memberships", ["face_id", "identity_id"]):
        stays = pc.and_(pc.is_in(rows["identity_id"], names), pc.invert(pc.is_in(rows["face_id"], doomed)))
        parts.append(rows.filter(stays))
    return pa.concat_tables(parts)


def _shrunk(
    context: Context, rest: pa.Table, affected: list[str], before: dict[str, dict[str, Any]], version: int
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Return the new rows of identities that lost faces, and their change events.

    Templates and exemplars are computed again from the faces that stay.
    """
    number = {name: i for i, name in enumerate(affected)}
    faces = context.lake["faces"].where("face_id", rest["face_id"], ["face_id", "embedding", "quality"])
    faces = faces.join(rest, "face_id", join_type="inner").sort_by("face_id")
    labels = np.array([number[name] for name in faces["identity_id"].to_pylist()], np.int64)
    vectors, _ = embedding_matrix(faces["embedding"])
    weights = weight_of(faces["quality"].to_numpy().astype(np.float32))
    means, cohesion, total = weighted_means(vectors, weights, labels, len(affected))
    sizes = np.bincount(labels, minlength=len(affected))
    order = np.argsort(labels, kind="stable")
    most = context.config.gallery.exemplars
    chosen = order[exemplars(vectors[order], weights[order], labels[order], means, cohesion, most)]
    shown = np.split(chosen, np.searchsorted(labels[chosen], np.arange(1, len(affected))))
    after, events = {}, []
    for i, name in enumerate(affected):
        if sizes[i]:
            after[name] = before[name] | {
                "size": int(sizes[i]),
                "prototype": means[i],
                "last_version": version,
                "cohesion": float(cohesion[i]),
                "weight": float(total[i]),
                "exemplars": [faces["embedding"][int(at)].as_py() for at in shown[i]],
                "exemplar_faces": [faces["face_id"][int(at)].as_py() for at in shown[i]],
            }
        else:
            after[name] = tombstone(before[name], "retired", None, version)
        event = dict.fromkeys(CHANGES.names) | {"gallery_version": version, "kind": str(Change.ERASED)}
        sizes_of = {"size_before": before[name]["size"], "size_after": int(sizes[i])}
        events.append(event | {"identity_id": name} | sizes_of)
    return after, events


def _end_in_ledger(context: Context, request: Request) -> int:
    """Replace the key of ledger events by a keyed hash; for one purpose only, record a withdrawal instead."""
    if request.purpose:
        return _withdraw(context, request, request.purpose)
    table = context.lake["ledger"]
    with ledger_lease(context.lake):
        rows = table.read().to_pylist()
        changed = 0
        for row in rows:
            names = request.subjects if row["scope"] == "subject" else request.sources
            if row["key"] in names:
                row["key"] = "erased:" + context.lake.keyed_hash(f"{row['scope']}:{row['key']}")
                changed += 1
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


def _blank_admissions(context: Context, targets: Targets) -> None:
    """Empty the rows and mark them refused; they stay, so that row numbers keep their meaning."""
    table = context.lake["admissions"]
    adds, removes = [], []
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
        ):
            at = rows.schema.get_field_index(name)
            column = pc.if_else(mask, pa.scalar(value, rows.schema.field(name).type), rows[name].combine_chunks())
            rows = rows.set_column(at, name, column)
        # another digest in the name, so that the next admit writes its own file
        adds.append(table.stage(rows, DataFileName(corpus=DataFileName.parse(file.path).corpus, part="erased")))
        removes.append(file)
    if adds:
        context.check_lease()
        table.commit(adds, removes)


def _blank_corpus(context: Context, targets: Targets) -> int:
    """Empty the rows of photos in the lake's own corpus; they stay, so that row numbers keep their meaning."""
    blanked = 0
    for corpus, path in own_corpus(context.config) if not targets.request.purpose else ():
        hit = targets.hits(corpus.ids(path))
        if hit.any():
            context.check_lease()
            rewrite_corpus_file(corpus, path, hit)
            blanked += int(hit.sum())
    return blanked
