"""publish: groups become identities, and gallery version n+1 appears completely or not at all.

Delta commits one table at a time. Readers therefore start from `galleries`, whose newest row names the Delta
versions of the three gallery tables; until that row is committed they see version n, afterwards n+1.
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CHANGES
from facelake.engines.scratch import scratch_dir
from facelake.engines.select_exchange import open_exchange
from facelake.events import Notice
from facelake.lake.data_files import plain
from facelake.lake.lake import Lake
from facelake.lake.store import open_store
from facelake.lake.tables import Snapshot
from facelake.publish import Published, publish_groups
from facelake.stages.admission.ledger import ledger_lease
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, last_details, last_run, must_add_up
from facelake.stages.gallery.corrections import Corrected, correct_groups, corrections_digest
from facelake.stages.gallery.face_keys import FaceKeys, read_groups
from facelake.stages.gallery.previous import Previous, Returning, read_previous, read_previous_by_photo
from facelake.stages.gallery.version_builder import (
    WORK,
    NewVersion,
    Written,
    build_version,
    clear_work,
    groups_undone,
    plan_version,
)
from facelake.stages.gallery.versions import Gallery, current_gallery, pin, settle

_GALLERY_TABLES = ("identities", "memberships")
_LIGHTER = 8  # times less work per face than clustering, for which `spark.in_process_below` is meant
_THREADS = 4  # each holds a range: about 150 MB


def publish(context: Context) -> StageResult:
    """Publish the current groups, as corrected. Skipped when groups, corrections and purpose are unchanged."""
    lake = context.lake
    run = StageRun(context, "publish", 1, "gallery")
    settle(lake)
    snapshot = lake["groups"].snapshot()
    state = digest_of(snapshot.digest_paths(), context.config.purpose, context.model_digest, corrections_digest(lake))
    earlier, gallery = last_run(lake, "publish"), current_gallery(lake)
    sizes = {"faces": snapshot.rows, "gallery": gallery.version if gallery else 0}
    if snapshot.version < 0:
        return run.skip(sizes)
    if gallery and earlier and earlier["input_digest"] == state:
        return run.skip(sizes | {"identities": gallery.row["identities"]})
    new, corrected = _new_version(context, gallery, snapshot)
    counts = _counts(new, corrected)
    if gallery and new.reusable and not new.result.changes and not len(groups_undone(new)):
        return run.finish(counts | {"gallery": gallery.version}, state)
    _commit_tables(context, new)
    row = {
        "clustering": state,
        "model_digest": context.model_digest,
        "purpose": context.config.purpose,
        "identities": len(new.result.identity_of_group),
        "faces": len(new.grouped.faces),
        "withdrawn_lineage": list(context.lineage),
    }
    context.check_lease()
    with ledger_lease(lake):  # a withdrawal came before, and is honoured, or waits until this version is published
        context.check_ledger()
        pin(lake, new.version, row)
    return run.finish(counts, state)


def _new_version(context: Context, gallery: Gallery | None, snapshot: Snapshot) -> tuple[NewVersion, Corrected]:
    """Assign an identity to every group."""
    lake = context.lake
    grouped = read_groups(lake, snapshot)
    corrected = correct_groups(context, grouped, gallery)
    for line in corrected.conflicts:
        context.emit(Notice("publish", line))
    version = gallery.version + 1 if gallery else 1
    if gallery is None:
        previous = Previous.nothing(len(grouped.faces))
    elif gallery.row["model_digest"] == context.model_digest:
        previous = read_previous(gallery, grouped.faces)
    else:
        previous = read_previous_by_photo(lake, gallery, grouped, corrected.labels)
    returning = _returning(lake, gallery, grouped.faces, previous)
    standing = previous.standing(grouped, corrected.labels, returning)
    made_for = context.model_digest, context.config.purpose
    reusable = gallery is not None and (gallery.row["model_digest"], gallery.row["purpose"]) == made_for
    result = publish_groups(standing, version)
    full = _is_full_clustering(lake)
    new = NewVersion(context, version, grouped, standing, previous, result, gallery, reusable, full, corrected)
    return new, corrected


def _commit_tables(context: Context, new: NewVersion) -> None:
    """Write and commit identities, memberships and changes; readers do not see them before they are pinned."""
    lake, spark = context.lake, context.config.spark
    plan = plan_version(new)
    threads = min(os.cpu_count() or 1, _THREADS)
    exchange = open_exchange(spark, int(plan.read.sum()) // _LIGHTER, str(scratch_dir(lake.uri)), threads=threads)
    written = build_version(new, plan, exchange)
    _check_counts(new, written)
    context.check_lease()
    context.check_ledger()
    for table in _GALLERY_TABLES:
        lake[table].commit(written.adds[table], written.removes[table])
    changes = lake["changes"]
    changes.commit([changes.stage(_change_rows(new.result, new.version))] if new.result.changes else [])
    clear_work(open_store(f"{lake.uri}/{WORK}", lake.s3))


def _check_counts(new: NewVersion, written: Written) -> None:
    """Check that every face is in one membership row of the new version.

    Raises:
        Corrupt: the counts do not add up.
    """
    before = sum(file.rows for file in new.gallery.snapshot("memberships").files) if new.gallery else 0
    removed = sum(file.rows for file in written.removes["memberships"])
    added = sum(receipt.rows for receipt in written.adds["memberships"])
    must_add_up("publish", ("faces", len(new.grouped.faces)), ("kept", before - removed), ("written", added))


def _counts(new: NewVersion, corrected: Corrected) -> dict[str, int]:
    result = new.result
    identities = len(result.identity_of_group)
    counts = {"faces": len(new.grouped.faces), "identities": identities, "gallery": new.version}
    counts |= {f"changes_{kind}": count for kind, count in result.changes.counts().items()}
    counts["unchanged"] = identities - int(result.changed.sum())
    if corrected.in_force or corrected.conflicts:
        counts |= {"corrections": corrected.in_force, "corrections_in_conflict": len(corrected.conflicts)}
    return counts


def _is_full_clustering(lake: Lake) -> bool:
    """Return whether the groups come from a clustering of all faces."""
    return last_details(lake, "cluster").get("mode") != "increment"


def _returning(lake: Lake, gallery: Gallery | None, faces: FaceKeys, previous: Previous) -> dict[str, Returning]:
    """Return retired identities of which core faces are here again."""
    if gallery is None:
        return {}
    known: dict[str, tuple[str, int]] = {}
    for rows in gallery.parts("identities", ["identity_id", "status", "core_hashes"]):
        retired = rows.filter(pc.and_(pc.equal(rows["status"], "retired"), pc.is_valid(rows["core_hashes"])))
        for row in retired.to_pylist():
            known |= dict.fromkeys(row["core_hashes"], (row["identity_id"], len(row["core_hashes"])))
    if not known:
        return {}
    returning: dict[str, Returning] = {}
    for _, rows in lake["faces"].parts(["face_id"]):
        ids = rows["face_id"].combine_chunks()
        at = faces.find(ids)
        new = (at >= 0) & (previous.identity[np.maximum(at, 0)] < 0)
        for number, face in zip(at[new].tolist(), ids.filter(pa.array(new)).to_pylist(), strict=True):
            if found := known.get(lake.keyed_hash(f"face:{face}")):
                name, core = found
                returning.setdefault(name, Returning([], core)).faces.append(number)
    return returning


def _change_rows(result: Published, version: int) -> pa.Table:
    versions = np.full(len(result.changes), version, np.int64)
    columns = {"gallery_version": versions} | result.changes.columns
    return pa.table([pa.array(columns[field.name], field.type) for field in CHANGES], schema=plain(CHANGES))
