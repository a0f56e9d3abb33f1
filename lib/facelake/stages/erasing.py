"""erase: remove subjects, images or sources from every table, file and version, look for remains, certify.

Every step can be repeated: killed anywhere, the same command finishes the work. The suppression list comes first,
so that nothing resurrects what is half gone; what is needed to find the rest (admissions, corpus) goes last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CHANGES, IDENTITIES, Change, Refusal, embedding_matrix
from facelake.erase import Needles, certificate, scan
from facelake.errors import ConfigError, Corrupt
from facelake.events import Notice, StageProgress
from facelake.lake.corpus import Corpus
from facelake.lake.tables import plain
from facelake.publish import prototypes
from facelake.stages.audit import append_audit
from facelake.stages.context import Context, StageResult, StageRun
from facelake.stages.corpus_rewrite import owns_corpus, rewrite_corpus_file
from facelake.stages.gallery import Gallery, current_gallery, pin, settle
from facelake.stages.publish import tombstone
from facelake.stages.purge import ask_for_purge, purge_all

_STEPS = 8
_TELLING = 6  # characters from which on a subject reference can be told from chance in a byte scan


@dataclass(slots=True)
class _Targets:
    """What is to go, as far as the lake still knows it."""

    subjects: frozenset[str]
    sources: frozenset[str]
    images: set[str] = field(default_factory=set)
    faces: set[str] = field(default_factory=set)
    embeddings: list[bytes] = field(default_factory=list)

    def hits(self, rows: pa.Table) -> np.ndarray:
        """bool per row of a table with image_id, source_id, subject_ref."""
        wanted = (("image_id", self.images), ("source_id", self.sources), ("subject_ref", self.subjects))
        found = np.zeros(rows.num_rows, bool)
        for column, values in wanted:
            if values:
                inside = pc.is_in(rows[column], pa.array(sorted(values), pa.string()))
                found |= pc.fill_null(inside, False).to_numpy()
        return found


def erase(
    context: Context,
    *,
    subjects: list[str] | None = None,
    images: list[str] | None = None,
    sources: list[str] | None = None,
) -> StageResult:
    """Erase, purge, scan, certify.

    Raises:
        ConfigError: nothing was named.
        Corrupt: the scan found remains; no certificate is issued.
    """
    if not (subjects or images or sources):
        raise ConfigError("nothing to erase is named", where="erase", next_step="give --subject, --image or --source")
    lake = context.lake
    run = StageRun(context, "erase", _STEPS, "steps")
    settle(lake)
    targets = _Targets(frozenset(subjects or ()), frozenset(sources or ()), set(images or ()))
    _find(context, targets)
    if not targets.images - set(images or ()) and not targets.faces:
        context.emit(Notice("erase", "nothing of it is in the lake; it is kept from ever coming in"))
    _suppress(context, targets)
    ask_for_purge(context)
    _step(context, 1)
    removed: Counter[str] = Counter(images=len(targets.images), faces=len(targets.faces))
    removed["rows"] += _remove(context, "faces", "image_id", targets.images)
    removed["rows"] += _remove(context, "rejects", "image_id", targets.images)
    removed["rows"] += _remove(context, "groups", "face_id", targets.faces)
    _step(context, 2)
    removed["identities_retired"] = _rewrite_gallery(context, targets)
    _step(context, 3)
    removed["ledger_events"] = _pseudonymise_ledger(context, targets)
    _blank_admissions(context, targets)
    _step(context, 4)
    removed["corpus_rows"] = _blank_corpus(context, targets)
    removed["reports"] = sum(1 for _ in context.lake.store.list("reports"))  # the purge deletes them
    _step(context, 5)
    purge_all(context)
    _step(context, 6)
    scanned, hits = residual(context, _needles(targets))
    if hits:
        where = ", ".join(f"{key} ({count})" for key, count in sorted(hits.items())[:5])
        raise Corrupt(
            f"{sum(hits.values())} remains were found: {where}",
            where=lake.uri,
            next_step="run the erasure again",
        )
    _step(context, 7)
    gallery = current_gallery(lake)
    body = certificate(
        context.run_id,
        datetime.now(UTC),
        _hashes(context, targets),
        removed,
        gallery.version if gallery else 0,
        scanned,
        0,
    )
    key = append_audit(lake, "erasure", body)
    _step(context, 8)
    counts: dict[str, Any] = dict(removed) | {"objects_scanned": scanned, "residual_hits": 0}
    result = run.finish(counts, "")
    return StageResult("erase", dict(result.counts) | {"certificate": key}, result.seconds)


def residual(context: Context, needles: Needles) -> tuple[int, dict[str, int]]:
    """Scan every object under the lake root; returns how many, and hits by key."""
    scanned, hits = 0, {}
    for item in context.lake.store.list():
        scanned += 1
        if found := scan(item.key, context.lake.store.read(item.key), needles):
            hits[item.key] = found
    return scanned, hits


def _step(context: Context, done: int) -> None:
    context.check_lease()
    context.emit(StageProgress("erase", done))


def _find(context: Context, targets: _Targets) -> None:
    """Images by the admissions and by the corpus itself; faces by their images."""
    for _, rows in context.lake["admissions"].parts(["image_id", "source_id", "subject_ref"]):
        targets.images.update(v for v in rows["image_id"].filter(pa.array(targets.hits(rows))).to_pylist() if v)
    for _, path in _own_corpus(context):
        rows = Corpus(context.config.corpus_uri, context.config.s3).ids(path)
        targets.images.update(v for v in rows["image_id"].filter(pa.array(targets.hits(rows))).to_pylist() if v)
    wanted = pa.array(sorted(targets.images), pa.string())
    for _, rows in context.lake["faces"].parts(["face_id", "image_id", "embedding"]):
        rows = rows.filter(pc.is_in(rows["image_id"], wanted))
        targets.faces.update(rows["face_id"].to_pylist())
        targets.embeddings += rows["embedding"].to_pylist()
    gallery = current_gallery(context.lake)
    if gallery:  # after a crash the faces may be gone while the gallery still names them
        rows = gallery.read("memberships", ["face_id", "image_id"])
        targets.faces.update(rows["face_id"].filter(pc.is_in(rows["image_id"], wanted)).to_pylist())


def _own_corpus(context: Context) -> list[tuple[Corpus, str]]:
    """Corpus files that live inside the lake, which `import` made; a custodian's corpus is not ours to write."""
    if not owns_corpus(context.config):
        return []
    corpus = Corpus(context.config.corpus_uri, context.config.s3)
    try:
        return [(corpus, path) for path in corpus.paths()]
    except ConfigError:
        return []


def _labels(targets: _Targets) -> list[str]:
    kinds = (("subject", targets.subjects), ("source", targets.sources), ("image", targets.images))
    return [f"{kind}:{value}" for kind, values in kinds for value in sorted(values)]


def _hashes(context: Context, targets: _Targets) -> list[str]:
    return [context.lake.keyed_hash(label) for label in _labels(targets)]


def _suppress(context: Context, targets: _Targets) -> None:
    context.lake.suppress(_labels(targets))


def _remove(context: Context, table: str, column: str, values: set[str]) -> int:
    gone = pa.array(sorted(values), pa.string())
    found = context.lake[table]
    return found.rewrite(found.snapshot().files, lambda rows: pc.invert(pc.is_in(rows[column], gone)))


def _rewrite_gallery(context: Context, targets: _Targets) -> int:
    """Memberships without the faces, prototypes of the identities concerned computed anew; version n+1."""
    gallery = current_gallery(context.lake)
    if gallery is None:
        return 0
    memberships = gallery.read("memberships")
    gone = pc.is_in(memberships["face_id"], pa.array(sorted(targets.faces), pa.string()))
    touched = sorted(set(memberships["identity_id"].filter(gone).to_pylist()))
    if not touched:
        return 0
    kept = memberships.filter(pc.invert(gone))
    before = {row["identity_id"]: row for row in gallery.read("identities").to_pylist()}
    version = gallery.version + 1
    after, events = _shrunk(context, gallery, kept, touched, before, version)
    lake = context.lake
    context.check_lease()
    lake["identities"].replace_all(pa.Table.from_pylist(list((before | after).values()), schema=plain(IDENTITIES)))
    lake["memberships"].replace_all(kept)
    lake["changes"].append(events)
    active = sum(row["status"] == "active" for row in (before | after).values())
    pin(lake, version, gallery.row | {"faces": kept.num_rows, "identities": active})
    return sum(row["status"] == "retired" for row in after.values())


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
    faces = context.lake["faces"].read(["face_id", "embedding", "quality"])
    faces = faces.join(rest.select(["face_id", "identity_id"]), "face_id", join_type="inner").sort_by("face_id")
    labels = np.array([number[name] for name in faces["identity_id"].to_pylist()], np.int64)
    vectors, _ = embedding_matrix(faces["embedding"])
    means = prototypes(vectors, faces["quality"].to_numpy().astype(np.float32), labels, len(touched))
    sizes = np.bincount(labels, minlength=len(touched))
    scores = np.einsum("ij,ij->i", vectors, means[labels]) if len(labels) else np.zeros(0)
    after, events = {}, []
    for i, name in enumerate(touched):
        if sizes[i]:
            fresh = {"size": int(sizes[i]), "prototype": means[i], "last_version": version}
            after[name] = before[name] | fresh | {"cohesion": float(scores[labels == i].mean())}
        else:
            after[name] = tombstone(before[name], "retired", None, version)
        event = dict.fromkeys(CHANGES.names) | {
            "gallery_version": version,
            "kind": str(Change.ERASED),
            "identity_id": name,
        }
        events.append(event | {"size_before": before[name]["size"], "size_after": int(sizes[i])})
    return after, events


def _pseudonymise_ledger(context: Context, targets: _Targets) -> int:
    """Events stay as evidence; their key becomes a keyed hash."""
    table = context.lake["ledger"]
    rows = table.read().to_pylist()
    changed = 0
    for row in rows:
        names = targets.subjects if row["scope"] == "subject" else targets.sources
        if row["key"] in names:
            row["key"] = "erased:" + context.lake.keyed_hash(f"{row['scope']}:{row['key']}")
            changed += 1
    if changed:
        context.check_lease()
        table.replace_all(pa.Table.from_pylist(rows, schema=plain(table.schema)))
    return changed


def _blank_admissions(context: Context, targets: _Targets) -> None:
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
        adds.append(table.stage(rows, file.path.split("-")[0] + "-erased"))
        removes.append(file)
    if adds:
        context.check_lease()
        table.commit(adds, removes)


def _blank_corpus(context: Context, targets: _Targets) -> int:
    """Photos in the lake's own corpus: their rows are emptied, not dropped."""
    blanked = 0
    for corpus, path in _own_corpus(context):
        hit = targets.hits(corpus.ids(path))
        if hit.any():
            context.check_lease()
            rewrite_corpus_file(corpus, path, hit)
            blanked += int(hit.sum())
    return blanked


def _needles(targets: _Targets) -> Needles:
    """Identifiers that are long enough to be told from chance, and the embeddings.

    A subject reference such as "7" occurs in counts and dates everywhere; the images and faces it stood for are
    looked for instead, and the columns that held it were rewritten above. A source's name is nobody's: it stays.
    """
    texts = [*targets.images, *targets.faces, *(v for v in targets.subjects if len(v) >= _TELLING)]
    return Needles.of(texts, targets.embeddings)
