"""publish: groups become identities, and gallery version n+1 appears whole or not at all.

Delta commits one table at a time. Readers therefore start from `galleries`, whose newest row names the Delta
versions of the three gallery tables; until that row is committed they see version n, afterwards n+1.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CHANGES, I64
from facelake.events import Notice
from facelake.lake.lake import Lake
from facelake.lake.tables import plain
from facelake.publish import Published, Standing, publish_groups
from facelake.stages.admission.ledger import ledger_lease
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, last_run, must_add_up
from facelake.stages.gallery.corrections import Corrected, correct_groups, corrections_digest
from facelake.stages.gallery.version_builder import Making
from facelake.stages.gallery.versions import Gallery, current_gallery, pin, settle


def publish(context: Context) -> StageResult:
    """Publish the current groups, as corrected. Skipped when groups, corrections and purpose are unchanged."""
    lake = context.lake
    run = StageRun(context, "publish", 1, "gallery")
    settle(lake)
    snapshot = lake["groups"].snapshot()
    state = digest_of(snapshot.digest_paths(), context.config.purpose, context.model_digest, corrections_digest(lake))
    before_run, gallery = last_run(lake, "publish"), current_gallery(lake)
    sizes = {"faces": snapshot.rows, "gallery": gallery.version if gallery else 0}
    if snapshot.version < 0:
        return run.skip(sizes)
    if gallery and before_run and before_run["input_digest"] == state:
        return run.skip(sizes | {"identities": gallery.row["identities"]})
    groups = lake["groups"].read(["face_id", "group_id"], snapshot).sort_by("face_id")
    ids = groups["face_id"].combine_chunks()
    corrected = correct_groups(context, ids, _dense(groups["group_id"].to_numpy()), gallery)
    for said in corrected.conflicts:
        context.emit(Notice("publish", said))
    version = gallery.version + 1 if gallery else 1
    before = _before(lake, gallery, ids, corrected.labels, context.model_digest)
    standing = Standing.of(ids, corrected.labels, before, _coming_back(lake, gallery, ids, before))
    result = publish_groups(standing, version)
    counts = _counts(result, standing, corrected, version)
    same = gallery is not None and (gallery.row["model_digest"], gallery.row["purpose"]) == (
        context.model_digest,
        context.config.purpose,
    )
    if gallery and same and not result.changes:
        return run.finish(counts | {"gallery": gallery.version}, state)
    old, exact = gallery.read("identities") if gallery else None, _all_grouped_anew(lake)
    making = Making(context, version, ids, standing, result, before, old, same, exact, corrected.moved)
    identities, memberships = making.tables()
    must_add_up("publish", ("faces", len(ids)), ("memberships", memberships.num_rows))
    context.check_lease()
    context.check_ledger()
    lake["identities"].replace_all(identities)
    lake["memberships"].replace_all(memberships)
    lake["changes"].commit([lake["changes"].stage(_changes(result, version))] if result.changes else [])
    row = {
        "clustering": state,
        "model_digest": context.model_digest,
        "purpose": context.config.purpose,
        "identities": len(result.identity_of_group),
        "faces": len(ids),
        "withdrawn_lineage": list(context.lineage),
    }
    context.check_lease()
    with ledger_lease(lake):  # a withdrawal either came before, and is honoured, or waits until this is published
        context.check_ledger()
        pin(lake, version, row)
    return run.finish(counts, state)


def _counts(result: Published, standing: Standing, corrected: Corrected, version: int) -> dict[str, Any]:
    identities = len(result.identity_of_group)
    counts: dict[str, Any] = {"faces": len(standing.groups), "identities": identities, "gallery": version}
    counts |= Counter(f"changes_{event.kind}" for event in result.changes)
    changed = sum(event.size_after > 0 for event in result.changes)
    counts["unchanged"] = identities - changed
    if corrected.held or corrected.conflicts:
        counts |= {"corrections": corrected.held, "corrections_in_conflict": len(corrected.conflicts)}
    return counts


def _dense(group: I64) -> I64:
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def _before(lake: Lake, gallery: Gallery | None, ids: pa.Array, labels: I64, model_digest: str) -> pa.Table | None:
    """Yesterday's memberships; of another model, as far as its faces can be found again."""
    if gallery is None:
        return None
    if gallery.row["model_digest"] == model_digest:
        return gallery.read("memberships", ["face_id", "identity_id", "core", "former_id", "score", "how"])
    old = gallery.read("memberships", ["face_id", "identity_id", "image_id"])
    images = lake["faces"].read(["face_id", "image_id"])
    images = images.take(pc.index_in(ids, images["face_id"].combine_chunks()))["image_id"].combine_chunks()
    return by_photo(ids, images, labels, old)


def by_photo(ids: pa.Array, images: pa.Array, labels: I64, old: pa.Table) -> pa.Table:
    """Yesterday's identity of each face of another model: an identity of its photo, the one its group meets most.

    Faces have other ids under another model. A group and an identity of one person meet in all of his photos, those of
    two people only where both are seen; so each face takes, of the identities in its photo, the one that its group
    meets most often. What is left of yesterday's faces keeps its own id, so that sizes are right.

    Args:
        ids, images, labels: (n,) of today's faces; old: face_id, identity_id, image_id of yesterday.
    """
    names = sorted(pc.unique(old["identity_id"]).to_pylist())
    photo = pc.index_in(images, pc.unique(old["image_id"])).fill_null(-1).to_numpy().astype(np.int64)
    there = pc.index_in(old["image_id"], pc.unique(old["image_id"])).to_numpy().astype(np.int64)
    who = pc.index_in(old["identity_id"], pa.array(names, pa.string())).to_numpy().astype(np.int64)
    order = np.argsort(there, kind="stable")
    first, last = (np.searchsorted(there[order], photo, side=side) for side in ("left", "right"))
    known = np.where(photo >= 0, last - first, 0)
    face = np.repeat(np.arange(len(ids)), known)
    at = order[np.repeat(first - np.concatenate([[0], np.cumsum(known)[:-1]]), known) + np.arange(len(face))]
    meeting = labels[face] * len(names) + who[at]
    _, inverse, met = np.unique(meeting, return_inverse=True, return_counts=True)
    best = np.lexsort((at, -met[inverse]))
    taken_face, taken_old = np.full(len(ids), -1, np.int64), np.zeros(old.num_rows, bool)
    for k in best:
        if taken_face[face[k]] < 0 and not taken_old[at[k]]:
            taken_face[face[k]] = at[k]
            taken_old[at[k]] = True
    found = taken_face >= 0
    mine = pa.table({"face_id": ids.filter(pa.array(found)), "identity_id": old["identity_id"].take(
        pa.array(taken_face[found]))})  # fmt: skip
    rest = old.filter(pa.array(~taken_old)).select(["face_id", "identity_id"])
    return pa.concat_tables([mine, rest])


def _all_grouped_anew(lake: Lake) -> bool:
    """Whether the groups come from a clustering of all faces."""
    last = last_run(lake, "cluster")
    return last is None or json.loads(last["counts"]).get("mode") != "increment"


def _coming_back(lake: Lake, gallery: Gallery | None, ids: pa.Array, before: pa.Table | None) -> dict[str, str]:
    """Retired identities by the id of a core face of theirs that is here again."""
    if gallery is None or before is None:
        return {}
    rows = gallery.read("identities", ["identity_id", "status", "core_hashes"])
    rows = rows.filter(pc.and_(pc.equal(rows["status"], "retired"), pc.is_valid(rows["core_hashes"])))
    names = zip(rows["identity_id"].to_pylist(), rows["core_hashes"].to_pylist(), strict=True)
    known = {digest: name for name, digests in names for digest in digests}
    if not known:
        return {}
    new = ids.filter(pc.invert(pc.is_in(ids, before["face_id"].combine_chunks())))
    return {face: known[digest] for face in new.to_pylist() if (digest := lake.keyed_hash(f"face:{face}")) in known}


def _changes(result: Published, version: int) -> pa.Table:
    rows = [
        {
            "gallery_version": version,
            "kind": str(event.kind),
            "identity_id": event.identity_id,
            "other_id": event.other_id,
            "size_before": event.size_before,
            "size_after": event.size_after,
        }
        for event in result.changes
    ]
    return pa.Table.from_pylist(rows, schema=plain(CHANGES))
