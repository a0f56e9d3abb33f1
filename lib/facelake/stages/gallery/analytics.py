"""Analytics of the newest gallery: sizes, cohesion, separation, a review queue, and drift over runs.

Plain Delta tables beside the gallery. An identity's row is computed again when it changed, when its nearest neighbour
did, or when one that changed came nearer; so the work of a run grows with what changed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster.near_groups import near_groups
from facelake.contracts import DRIFT, F16, F32, I32, I64, IDENTITY_STATS, REVIEWS, Bool, Verdict
from facelake.lake.data_files import plain
from facelake.publish.analytics import Stats, doubts
from facelake.publish.corrections import in_force
from facelake.publish.matching import places
from facelake.publish.subject_evidence import Evidence, subject_doubts
from facelake.stages.core.context import Context, last_details
from facelake.stages.gallery.face_keys import IdNumbers
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.subjects import SubjectCounts, as_drift, one_face_evidence
from facelake.stages.gallery.versions import Gallery, current_gallery

_MAX_REVIEWS = 1_000
_BLOCK = 4_096
_WHOLE_BYTES = 1 << 30
_MAX_EXACT_PAIRS = 2_000_000_000  # of an unchanged and a changed identity, compared exhaustively
_COLUMNS = ["identity_id", "status", "size", "cohesion", "last_version"]


def analyse(context: Context) -> bool:
    """Bring the analytics up to the newest gallery; returns False when they already are."""
    gallery, lake = current_gallery(context.lake), context.lake
    done = pc.max(lake["drift"].read(["gallery_version"])["gallery_version"]).as_py() or 0
    if gallery is None or done >= gallery.version:
        return False
    rows = gallery.read("identities", _COLUMNS).filter(pc.field("status") == "active").sort_by("identity_id")
    if not rows.num_rows:
        return False
    ids = rows["identity_id"].combine_chunks()
    old = lake["identity_stats"].read()
    stats, fresh = _stats(gallery, rows, ids, old, done)
    table = _table(gallery, ids, stats, fresh, old)
    evidence = one_face_evidence(gallery, ids)
    queue = _queue(context, gallery, ids, stats, evidence)
    context.check_lease()
    lake["identity_stats"].replace_all(table)
    lake["reviews"].replace_all(queue)
    contradictions = as_drift(gallery, SubjectCounts.of(evidence))
    drift = _drift(context, gallery, stats, queue.num_rows) | contradictions
    lake["drift"].append([drift])  # the last write marks all as done
    return True


def _stats(gallery: Gallery, rows: pa.Table, ids: pa.Array, old: pa.Table, done: int) -> tuple[Stats, Bool]:
    """Return the figures of every active identity, and which (n,) were computed again."""
    size = rows["size"].to_numpy().astype(np.int64)
    means = _templates(gallery, ids)
    at = places(ids, old["identity_id"]) if old.num_rows else np.full(len(ids), -1, np.int64)
    fresh = (at < 0) | (rows["last_version"].to_numpy() > done)
    nearest, similarity = np.full(len(ids), -1, np.int32), np.full(len(ids), -1, np.float32)
    kept = np.flatnonzero(~fresh)
    if len(kept):
        before = old.take(pa.array(at[kept]))
        nearest[kept] = places(before["nearest_id"].combine_chunks(), pa.chunked_array([ids]))
        similarity[kept] = before["nearest_similarity"].to_numpy()
        lost = kept[(nearest[kept] < 0) | fresh[np.maximum(nearest[kept], 0)]]
        fresh[lost] = True
    _nearest(means, fresh, nearest, similarity)
    shared = _shared_photos(gallery, ids)
    return Stats(size, rows["cohesion"].to_numpy().astype(np.float32), nearest, similarity, shared), fresh


def _templates(gallery: Gallery, ids: pa.Array) -> F16 | F32:
    """Return the templates (n, dim) of active identities in the order of `ids`, read file by file.

    More than _WHOLE_BYTES are kept at half precision: a cosine changes by less than 1e-4.
    """
    means: F16 | F32 | None = None
    numbers = IdNumbers.of(ids, f"{gallery.lake.uri}/identities")
    for rows in gallery.parts("identities", ["identity_id", "status", "prototype"]):
        active = rows.filter(pc.equal(rows["status"], "active"))
        if not active.num_rows:
            continue
        dim = len(active["prototype"][0])
        if means is None:
            shape = len(ids), dim
            whole = 4 * len(ids) * dim <= _WHOLE_BYTES
            means = np.zeros(shape, np.float32) if whole else np.zeros(shape, np.float16)
        means[numbers.find(active["identity_id"])] = matrix_of(active["prototype"], dim)
    assert means is not None
    return means


def _nearest(means: F16 | F32, fresh: Bool, nearest: I32, similarity: F32) -> None:
    """Find the nearest other template of fresh identities; update others to which a fresh one came nearer."""
    which = np.flatnonzero(fresh)
    if len(means) < 2 or not len(which):
        return
    asking = means if len(which) == len(means) else means[which]  # all of a million identities take gigabytes
    index, cosine = near_groups(means, asking, 0)
    other = index != which[:, None]
    first = np.argmax(other & (index >= 0), axis=1)
    row = np.arange(len(which))
    found = (other & (index >= 0)).any(axis=1)
    nearest[which] = np.where(found, index[row, first], -1)
    similarity[which] = np.where(found, cosine[row, first], -1)
    rest = np.flatnonzero(~fresh)
    if len(rest) * len(which) > _MAX_EXACT_PAIRS:
        _update_from_pairs(which, index, cosine, fresh, nearest, similarity)
        return
    fresh_means = np.asarray(means[which], np.float32).T
    for start in range(0, len(rest), _BLOCK):
        block = rest[start : start + _BLOCK]
        cosine = np.asarray(means[block], np.float32) @ fresh_means
        best = np.argmax(cosine, axis=1)
        value = cosine[np.arange(len(block)), best]
        nearer = value > similarity[block]
        nearest[block[nearer]], similarity[block[nearer]] = which[best[nearer]], value[nearer]


def _update_from_pairs(which: I64, index: I32, cosine: F32, fresh: Bool, nearest: I32, similarity: F32) -> None:
    """Update identities that are among the nearest (m, k) of a fresh one and are nearer to it than to any other.

    An identity is missed where a fresh one came nearer but has k others still nearer to itself.
    """
    row, column = np.nonzero(index >= 0)
    other, value = index[row, column], cosine[row, column]
    better = ~fresh[other] & (value > similarity[other])
    order = np.argsort(value[better], kind="stable")  # ascending: the most similar is assigned last
    nearest[other[better][order]] = which[row[better][order]]
    similarity[other[better][order]] = value[better][order]


def _shared_photos(gallery: Gallery, ids: pa.Array) -> I64:
    """Return the number of photos (identities,) in which each identity has more than one face.

    Read file by file: all faces of an identity are in one file, unless an older build wrote the table.
    """
    shared, numbers = np.zeros(len(ids), np.int64), IdNumbers.of(ids, f"{gallery.lake.uri}/identities")
    for members in gallery.parts("memberships", ["identity_id", "image_id"]):
        faces = members.group_by(["identity_id", "image_id"]).aggregate([([], "count_all")])
        several = faces.filter(pc.greater(faces["count_all"], 1))
        if several.num_rows:
            shared += np.bincount(numbers.find(several["identity_id"]), minlength=len(ids))
    return shared


def _table(gallery: Gallery, ids: pa.Array, stats: Stats, fresh: Bool, old: pa.Table) -> pa.Table:
    at = places(ids, old["identity_id"]) if old.num_rows else np.full(len(ids), -1, np.int64)
    was = np.zeros(len(ids), np.int64)
    version = np.full(len(ids), gallery.version, np.int64)
    if old.num_rows:
        was = np.where(at >= 0, old["size"].to_numpy()[np.maximum(at, 0)], 0)
        version = np.where(fresh | (at < 0), gallery.version, old["gallery_version"].to_numpy()[np.maximum(at, 0)])
    columns = {
        "identity_id": ids,
        "gallery_version": version,
        "size": stats.size,
        "growth": stats.size - was,
        "cohesion": stats.cohesion,
        "nearest_id": ids.take(pa.array(stats.nearest, pa.int64(), mask=stats.nearest < 0)),
        "nearest_similarity": stats.similarity,
        "separation": (stats.inside - stats.between).astype(np.float32),
        "shared_photos": stats.shared,
    }
    return pa.table([pa.array(columns[name]) for name in IDENTITY_STATS.names], schema=plain(IDENTITY_STATS))


def _queue(context: Context, gallery: Gallery, ids: pa.Array, stats: Stats, evidence: Evidence) -> pa.Table:
    names = ids.to_pylist()
    number = {name: i for i, name in enumerate(names)}
    distinct = _separated(context, gallery, number)
    by_subject = subject_doubts(evidence, stats.size, distinct, _MAX_REVIEWS)
    rows: list[dict[str, Any]] = [
        {
            "kind": doubt.kind,
            "identity_id": names[doubt.identity],
            "other_id": names[doubt.other] if doubt.other >= 0 else None,
            "score": doubt.score,
            "doubt": doubt.doubt,
            "faces": doubt.faces,
            "reason": doubt.reason,
            "gallery_version": gallery.version,
        }
        for doubt in doubts(stats, distinct, _MAX_REVIEWS, by_subject)
    ]
    return pa.Table.from_pylist(rows, schema=plain(REVIEWS))


def _separated(context: Context, gallery: Gallery, number: dict[str, int]) -> set[tuple[int, int]]:
    """Pairs (low, high) of identities that a reviewer has separated: they are not asked about again.

    By the faces of the corrections, since a split made an identity that had no name when it was recorded.
    """
    columns = ["seq", "kind", "undoes", "identity_a", "identity_b", "faces_a", "faces_b"]
    apart = [
        row
        for row in in_force(context.lake["corrections"].read(columns).to_pylist())
        if row["kind"] in (Verdict.DISTINCT, Verdict.SPLIT, Verdict.REJECT)
    ]
    named = {face for row in apart for side in ("faces_a", "faces_b") for face in row[side] or ()}
    home: dict[str, str] = {}
    wanted = pa.array(sorted(named), pa.string())
    for rows in gallery.parts("memberships", ["face_id", "identity_id"]) if named else ():
        own = rows.filter(pc.is_in(rows["face_id"], wanted))
        home |= zip(*(column.to_pylist() for column in own.columns), strict=True)
    pairs = set()
    for row in apart:
        sides = [Counter(home[face] for face in row[side] or () if face in home) for side in ("faces_a", "faces_b")]
        if all(sides):
            first, second = (number.get(side.most_common(1)[0][0]) for side in sides)
            if first is not None and second is not None and first != second:
                pairs.add((min(first, second), max(first, second)))
    return pairs


def _drift(context: Context, gallery: Gallery, stats: Stats, reviews: int) -> dict[str, Any]:
    events = gallery.read("changes", ["gallery_version", "kind"])
    kinds = events.filter(pc.equal(events["gallery_version"], gallery.version))["kind"].to_pylist()
    clustering = last_details(context.lake, "cluster")
    row: dict[str, Any] = dict.fromkeys(DRIFT.names)
    many = stats.size > 1
    return row | {
        "gallery_version": gallery.version,
        "created_at": gallery.row["created_at"],
        "mode": clustering.get("mode", "full"),
        "faces": int(stats.size.sum()),
        "identities": len(stats.size),
        "single": int((~many).sum()),
        "largest": int(stats.size.max()),
        "cohesion": float(np.median(stats.cohesion[many])) if many.any() else None,
        "nearest_similarity": float(np.median(stats.similarity)),
        "reviews": reviews,
        "drift_sds": clustering.get("drift_sds"),
        **{kind: kinds.count(kind) for kind in ("created", "merged", "split", "retired")},
    }
