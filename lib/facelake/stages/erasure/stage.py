"""erase: remove people from every table, file and version, look for remains, certify.

Every step can be repeated: killed anywhere, the same command (or the next night) finishes the work. The suppression
list comes first, so that nothing resurrects what is half gone; what is needed to find the rest goes last.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CHANGES, IDENTITIES, TABLES, Change, DataFileName, EventKind, Refusal, Scope
from facelake.erase import Needles, Signer, certificate, scan
from facelake.errors import Corrupt
from facelake.events import Notice, StageProgress
from facelake.lake.tables import plain
from facelake.publish.prototypes import exemplars, weight_of, weighted_means
from facelake.stages.admission.corpus_rewrite import rewrite_corpus_file
from facelake.stages.admission.ledger import Entry, ledger_lease, read_ledger, record
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
from facelake.stages.gallery.corrections import forget_faces
from facelake.stages.gallery.purge import ask_for_purge, purge_all
from facelake.stages.gallery.version_builder import tombstone
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
    signer = Signer.load_or_create(context.config.governance.signing_key)  # before anything is lost
    run = StageRun(context, "erase", _STEPS, "steps")
    settle(context.lake)
    targets = _targets(context, request)
    if not targets.images - set(request.images) and not targets.faces:
        context.emit(Notice("erase", "nothing of it is in the lake; it is kept from ever coming in"))
    note(context, targets)
    _suppress(context, targets)
    ask_for_purge(context)
    _step(context, 1)
    removed = _remove_all(context, targets)
    purge_all(context)
    _step(context, 6)
    scanned, hits = residual(context, targets.needles(), leave_out=PENDING)
    if hits:
        where = ", ".join(f"{key} ({count})" for key, count in sorted(hits.items())[:5])
        what = f"{sum(hits.values())} remains were found: {where}"
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
    """Finish what a killed erasure left: nothing is made of a lake in which somebody is half erased."""
    results = []
    for request in unfinished(context.lake):
        context.emit(Notice("erase", "an erasure was begun and not finished: it is finished now"))
        results.append(erase(context, request))
    return results


def residual(context: Context, needles: Needles, leave_out: str = "\0") -> tuple[int, dict[str, int]]:
    """Scan every object under the lake root; returns how many, and hits by key."""
    scanned, hits = 0, {}
    for item in context.lake.store.list():
        if item.key.startswith(leave_out):
            continue
        scanned += 1
        if found := scan(item.key, context.lake.store.read(item.key), needles):
            hits[item.key] = found
    return scanned, hits


def _targets(context: Context, request: Request) -> Targets:
    if request.purpose and request.purpose != context.config.purpose:
        said = f"this lake makes nothing for {request.purpose!r}; it is kept from ever doing so"
        context.emit(Notice("erase", said))
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
    if targets.request.identities:  # an identity is nobody whom a source could name: its photos are kept out
        scope = f"for:{targets.request.purpose}:" if targets.request.purpose else ""
        labels += [f"{scope}image:{image}" for image in targets.images]
    context.lake.suppress(labels)


def _remove(context: Context, table: str, column: str, values: set[str]) -> int:
    gone, found = strings(values), context.lake[table]
    return found.rewrite(found.snapshot().files, [column], lambda rows: pc.invert(pc.is_in(rows[column], gone)))


def _rewrite_gallery(context: Context, targets: Targets) -> int:
    """Memberships without the faces, prototypes of the identities concerned computed anew; version n+1."""
    gallery = current_gallery(context.lake)
    if gallery is None:
        return 0
    memberships = gallery.read("memberships")
    wanted = strings(targets.faces)
    gone = pc.is_in(memberships["face_id"], wanted)
    touched = sorted(set(memberships["identity_id"].filter(gone).to_pylist()))
    if not touched:
        return 0
    kept = memberships.filter(pc.invert(gone))
    identities = gallery.read("identities")
    active = int(pc.sum(pc.equal(identities["status"], "active")).as_py() or 0)
    concerned = identities.filter(pc.is_in(identities["identity_id"], strings(set(touched))))
    before = {row["identity_id"]: row for row in concerned.to_pylist()}
    version = gallery.version + 1
    after, events = _shrunk(context, gallery, kept, touched, before, version)
    lake = context.lake
    context.check_lease()
    lake["identities"].replace_rows("identity_id", pa.Table.from_pylist(list(after.values()), schema=plain(IDENTITIES)))
    members = lake["memberships"]
    members.rewrite(members.snapshot().files, ["face_id"], lambda rows: pc.invert(pc.is_in(rows["face_id"], wanted)))
    lake["changes"].append(events)
    retired = sum(row["status"] == "retired" for row in after.values())
    pin(lake, version, gallery.row | {"faces": kept.num_rows, "identities": active - retired})
    return int(retired)


def _shrunk(
    context: Context,
    gallery: Gallery,
    kept: pa.Table,
    touched: list[str],
    before: dict[str, Any],
    version: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The touched identities' new rows and their change events."""
    number = {name: i for i, name in enumerate(touched)}
    rest = kept.filter(pc.is_in(kept["identity_id"], pa.array(touched, pa.string())))
    faces = context.lake["faces"].where("face_id", rest["face_id"], ["face_id", "embedding", "quality"])
    faces = faces.join(rest.select(["face_id", "identity_id"]), "face_id", join_type="inner").sort_by("face_id")
    labels = np.array([number[name] for name in faces["identity_id"].to_pylist()], np.int64)
    vectors, _ = embedding_matrix(faces["embedding"])
    weights = weight_of(faces["quality"].to_numpy().astype(np.float32))
    means, cohesion, total = weighted_means(vectors, weights, labels, len(touched))
    sizes = np.bincount(labels, minlength=len(touched))
    order = np.argsort(labels, kind="stable")
    most = context.config.gallery.exemplars
    chosen = order[exemplars(vectors[order], weights[order], labels[order], means, cohesion, most)]
    after, events = {}, []
    for i, name in enumerate(touched):
        if sizes[i]:
            fresh = {"size": int(sizes[i]), "prototype": means[i], "last_version": version}
            fresh |= {"cohesion": float(cohesion[i]), "weight": float(total[i])}
            shown = [int(at) for at in chosen if labels[at] == i]
            fresh["exemplars"] = [faces["embedding"][at].as_py() for at in shown]
            fresh["exemplar_faces"] = [faces["face_id"][at].as_py() for at in shown]
            after[name] = before[name] | fresh
        else:
            after[name] = tombstone(before[name], "retired", None, version)
        event = dict.fromkeys(CHANGES.names) | {
            "gallery_version": version,
            "kind": str(Change.ERASED),
            "identity_id": name,
        }
        events.append(event | {"size_before": before[name]["size"], "size_after": int(sizes[i])})
    return after, events


def _end_in_ledger(context: Context, request: Request) -> int:
    """Events stay as evidence, their key becomes a keyed hash; of one purpose, a withdrawal is recorded."""
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
            table.replace_all(pa.Table.from_pylist(rows, schema=plain(table.schema)))
    return changed


def _withdraw(context: Context, request: Request, purpose: str) -> int:
    ledger = read_ledger(context.lake)
    keys = [(Scope.SUBJECT, key) for key in request.subjects] + [(Scope.SOURCE, key) for key in request.sources]
    standing = [pair for pair in keys if ledger.standing(*pair, purpose, context.now).reason is not Refusal.WITHDRAWN]
    if standing:
        record(context.lake, [Entry(EventKind.WITHDRAW, *pair, purposes=(purpose,)) for pair in standing])
    return len(standing)


def _blank_admissions(context: Context, targets: Targets) -> None:
    """The rows stay, nameless and refused, so that row numbers keep their meaning."""
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
        # another digest in the name: the next admit compares, and writes its own
        adds.append(table.stage(rows, DataFileName(corpus=DataFileName.parse(file.path).corpus, part="erased")))
        removes.append(file)
    if adds:
        context.check_lease()
        table.commit(adds, removes)


def _blank_corpus(context: Context, targets: Targets) -> int:
    """Photos in the lake's own corpus: their rows are emptied, not dropped."""
    blanked = 0
    for corpus, path in own_corpus(context.config) if not targets.request.purpose else ():
        hit = targets.hits(corpus.ids(path))
        if hit.any():
            context.check_lease()
            rewrite_corpus_file(corpus, path, hit)
            blanked += int(hit.sum())
    return blanked
