"""Publishes the gallery without erased faces; only the files that hold them are rewritten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CHANGES, F32, IDENTITIES, Change, DataFileName
from facelake.lake.data_files import plain
from facelake.lake.tables import Table
from facelake.publish.matching import places
from facelake.publish.prototypes import core_faces, exemplars, weight_of, weighted_means
from facelake.publish.templates import CORE
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Targets, strings
from facelake.stages.gallery.gallery_rows import tombstone
from facelake.stages.gallery.versions import Gallery, current_gallery, pin
from facelake.vectors import embedding_matrix


def rewrite_gallery(context: Context, targets: Targets) -> int:
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
    before, active = _rows_before(gallery, names)
    version = gallery.version + 1
    after, events, scores = _shrunk(context, rest, sorted(affected), before, version)
    context.check_lease()
    lake["identities"].replace_rows("identity_id", pa.Table.from_pylist(list(after.values()), schema=plain(IDENTITIES)))
    removed = _rewrite_members(lake["memberships"], doomed, scores)
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


def _rows_before(gallery: Gallery, names: pa.Array) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the rows of the named identities, and how many identities are active.

    Vectors are read only from files with such rows: those of all identities are nearly all of a gallery.
    """
    table, active = gallery.lake["identities"], 0
    before: dict[str, dict[str, Any]] = {}
    for file in gallery.snapshot("identities").files:
        keys = table.file(file, ["identity_id", "status"])
        active += int(pc.sum(pc.equal(keys["status"], "active")).as_py() or 0)
        named = pc.is_in(keys["identity_id"], names)
        if pc.any(named).as_py():
            before |= {row["identity_id"]: row for row in table.file(file).filter(named).to_pylist()}
    return before, active


def _remaining_members(gallery: Gallery, names: pa.Array, doomed: pa.Array) -> pa.Table:
    """Return face_id and identity_id of the faces that stay in the named identities."""
    parts = [pa.table({"face_id": pa.array([], pa.string()), "identity_id": pa.array([], pa.string())})]
    for rows in gallery.parts("memberships", ["face_id", "identity_id"]):
        stays = pc.and_(pc.is_in(rows["identity_id"], names), pc.invert(pc.is_in(rows["face_id"], doomed)))
        parts.append(rows.filter(stays))
    return pa.concat_tables(parts)


def _rewrite_members(members: Table, doomed: pa.Array, scores: pa.Table) -> int:
    """Remove faces from the memberships, replace the scores and cores of others; returns how many were removed.

    Args:
        members: the table.
        doomed: ids of the faces to remove.
        scores: face_id, score and core of the faces that stay in identities that lost one.
    """
    adds, removes, removed = [], [], 0
    for file, keys in members.parts(["face_id"]):
        gone = pc.is_in(keys["face_id"], doomed)
        if not pc.any(pc.or_(gone, pc.is_in(keys["face_id"], scores["face_id"].combine_chunks()))).as_py():
            continue
        rows = members.file(file).filter(pc.invert(gone))
        at = places(rows["face_id"], scores["face_id"])
        known, row = pa.array(at >= 0), pa.array(at, mask=at < 0)
        for name in ("score", "core"):
            column = pc.if_else(known, scores[name].combine_chunks().take(row), rows[name].combine_chunks())
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        removed += file.rows - rows.num_rows
        removes.append(file)
        if rows.num_rows:
            adds.append(members.stage(rows, DataFileName.parse(file.path)))
    members.commit(adds, removes)
    return removed


def _shrunk(
    context: Context, rest: pa.Table, affected: list[str], before: dict[str, dict[str, Any]], version: int
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]], pa.Table]:
    """Return the new rows of identities that lost faces, their change events, and the scores of the faces that stay.

    Templates, exemplars, scores and cores are computed again from these.
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
        was, size = int(before[name]["size"]), int(sizes[i])
        counts = {"size_before": was, "size_after": size, "gone": was - size, "new": 0, "moved_in": 0, "moved_out": 0}
        events.append(event | {"identity_id": name} | counts)
    score: F32 = np.einsum("ij,ij->i", vectors, means[labels]).clip(-1, 1).astype(np.float32)
    scores = {"face_id": faces["face_id"], "score": pa.array(score), "core": pa.array(core_faces(labels, score, CORE))}
    return after, events, pa.table(scores)
