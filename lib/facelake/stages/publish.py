"""publish: groups become identities, and gallery version n+1 appears whole or not at all.

Delta commits one table at a time. Readers therefore start from `galleries`, whose newest row names the Delta
versions of the three gallery tables; until that row is committed they see version n, afterwards n+1.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from facelake.contracts import CHANGES, IDENTITIES, MEMBERSHIPS, embedding_matrix
from facelake.errors import Corrupt
from facelake.lake.tables import plain
from facelake.publish import Published, prototypes, publish_groups
from facelake.stages.context import Context, StageResult, StageRun, digest_of, last_run, must_add_up
from facelake.stages.gallery import current_gallery, pin, settle
from facelake.stages.ledger import ledger_lease


def publish(context: Context) -> StageResult:
    """Publish the current groups. Skipped when the groups and the purpose are unchanged."""
    lake = context.lake
    run = StageRun(context, "publish", 1, "gallery")
    settle(lake)
    groups_snapshot = lake["groups"].snapshot()
    state = digest_of(groups_snapshot.digest_paths(), context.config.purpose, context.model_digest)
    before_run, gallery = last_run(lake, "publish"), current_gallery(lake)
    sizes = {"faces": groups_snapshot.rows, "gallery": gallery.version if gallery else 0}
    if groups_snapshot.version < 0:
        return run.skip(sizes)
    if gallery and before_run and before_run["input_digest"] == state:
        return run.skip(sizes | {"identities": gallery.row["identities"]})
    faces = _Grouped(context, lake["groups"].read(["face_id", "group_id"], groups_snapshot))
    old = gallery.read("memberships", ["face_id", "identity_id"]) if gallery else None
    before = dict(zip(*(c.to_pylist() for c in old.columns), strict=True)) if old else {}
    version = gallery.version + 1 if gallery else 1
    result = publish_groups(faces.ids, faces.labels, before, version)
    counts: dict[str, Any] = {
        "faces": len(faces.ids),
        "identities": len(result.identity_of_group),
        "gallery": version,
    }
    counts |= Counter(f"changes_{event.kind}" for event in result.changes)
    same = gallery is not None and (gallery.row["model_digest"], gallery.row["purpose"]) == (
        context.model_digest,
        context.config.purpose,
    )
    if gallery and same and not result.changes:
        return run.finish(counts | {"gallery": gallery.version}, state)
    identities, memberships = _tables(context, faces, result, version, gallery.read("identities") if gallery else None)
    must_add_up("publish", ("faces", len(faces.ids)), ("memberships", memberships.num_rows))
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
        "faces": len(faces.ids),
        "withdrawn_lineage": list(context.lineage),
    }
    context.check_lease()
    with ledger_lease(lake):  # a withdrawal either came before, and is honoured, or waits until this is published
        context.check_ledger()
        pin(lake, version, row)
    return run.finish(counts, state)


class _Grouped:
    """The grouped faces with what publishing needs of them, in canonical order (by face id)."""

    def __init__(self, context: Context, groups: pa.Table) -> None:
        columns = ["face_id", "image_id", "quality", "embedding", "model_digest"]
        faces = context.lake["faces"].read(columns).join(groups, "face_id", join_type="inner").sort_by("face_id")
        if faces.num_rows != groups.num_rows:
            what = f"{groups.num_rows - faces.num_rows} grouped faces are not in the faces table"
            raise Corrupt(what, where="groups", next_step="run `facelake nightly` again: cluster will be redone")
        self.ids: list[str] = faces["face_id"].to_pylist()
        self.images = faces["image_id"].combine_chunks()
        self.labels = np.unique(faces["group_id"].to_numpy(), return_inverse=True)[1].astype(np.int64)
        self.vectors, _ = embedding_matrix(faces["embedding"])
        self.quality = faces["quality"].to_numpy().astype(np.float32)


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


def _tables(
    context: Context, faces: _Grouped, result: Published, version: int, before: pa.Table | None
) -> tuple[pa.Table, pa.Table]:
    """The new identities and memberships tables."""
    count = len(result.identity_of_group)
    means = prototypes(faces.vectors, faces.quality, faces.labels, count)
    scores = np.einsum("ij,ij->i", faces.vectors, means[faces.labels]).astype(np.float32)
    sizes = np.bincount(faces.labels, minlength=count)
    cohesion = np.bincount(faces.labels, scores, count) / np.maximum(sizes, 1)
    names = pa.array(result.identity_of_group, pa.string())
    memberships = pa.table(
        [
            pa.array(faces.ids, pa.string()),
            names.take(pa.array(faces.labels)),
            faces.images,
            pa.array(scores),
            pa.array(["grouped"] * len(faces.ids), pa.string()),
            pa.array([list(context.lineage)] * len(faces.ids), pa.list_(pa.string())),
        ],
        schema=plain(MEMBERSHIPS),
    )
    old = {row["identity_id"]: row for row in (before.to_pylist() if before else [])}
    touched = {event.identity_id for event in result.changes}
    rows = [
        {
            "identity_id": name,
            "status": "active",
            "merged_into": None,
            "size": int(sizes[i]),
            "first_version": old[name]["first_version"] if name in old else version,
            "last_version": version if name in touched or name not in old else old[name]["last_version"],
            "prototype": means[i],
            "cohesion": float(cohesion[i]),
            "purposes": [context.config.purpose],
            "model_digest": context.model_digest,
            "withdrawn_lineage": list(context.lineage),
        }
        for i, name in enumerate(result.identity_of_group)
    ]
    for name in [*result.merged_into, *result.retired]:
        winner = result.merged_into.get(name)
        rows.append(tombstone(old[name], "merged" if winner else "retired", winner, version))
    alive = {row["identity_id"] for row in rows}
    rows += [row for name, row in old.items() if name not in alive and row["status"] != "active"]
    return pa.Table.from_pylist(sorted(rows, key=lambda r: r["identity_id"]), schema=plain(IDENTITIES)), memberships


def tombstone(row: dict[str, Any], status: str, winner: str | None, version: int) -> dict[str, Any]:
    """What stays of an identity that is no more: its id, and who took over."""
    gone: dict[str, Any] = {
        "status": status,
        "merged_into": winner,
        "size": 0,
        "prototype": None,
        "cohesion": None,
        "purposes": [],
    }
    return row | gone | {"last_version": version}
