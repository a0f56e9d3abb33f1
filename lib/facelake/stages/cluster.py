"""cluster: all faces of the current model into groups, on Spark, once per state of the faces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import Calibration, Lists, Prior, calibrate, group, make_lists, with_level
from facelake.cluster.groups import centroid_scores
from facelake.config import ClusterSection
from facelake.contracts import F32, GROUPS, I64, embedding_matrix, face_keys
from facelake.engines import spark_cluster
from facelake.errors import Corrupt
from facelake.events import Notice, StageProgress
from facelake.lake.tables import Snapshot, plain
from facelake.stages.context import Context, StageResult, StageRun, digest_of, last_run, must_add_up

_SAMPLE_PER_LIST = 40


def cluster(context: Context) -> StageResult:
    """Neighbours, edges, groups; replaces the `groups` table. Skipped when faces and settings are unchanged."""
    table, config = context.lake["faces"], context.config
    snapshot = table.snapshot()
    prefix = context.model_digest[:8]
    total = sum(file.rows for file in snapshot.files if file.path.startswith(prefix))
    state = digest_of(snapshot.digest_paths(), config.digest("cluster"), context.model_digest)
    run = StageRun(context, "cluster", 4, "steps")
    before = last_run(context.lake, "cluster")
    if before and before["input_digest"] == state and context.lake["groups"].snapshot().rows == total:
        return run.skip({"faces": total})
    faces = _load(context, snapshot, prefix)
    context.emit(StageProgress("cluster", 1, {"faces": total}))
    keys, vectors, sound = faces.keys, faces.vectors, faces.sound
    assert context.pack is not None
    card = context.pack.card
    settings = config.cluster
    usable = np.flatnonzero(sound & (faces.quality >= settings.min_quality))
    prior = Prior(card.impostor_mean, card.impostor_sd, card.genuine_mean)
    cuts = calibrate(vectors[usable], faces.photos[usable], prior, settings.seed, settings.threshold)
    session = spark_cluster.start_spark(config.spark) if len(usable) else None
    a, b, s = _neighbours(context, session, snapshot, prefix, keys, vectors, usable, cuts)
    cuts = with_level(cuts, a, s)
    context.emit(
        Notice(
            "cluster",
            f"cut at cosine {cuts.edge:.3f}, graph {cuts.graph_cut:.3f}, level {cuts.level:.3f}; {cuts.evidence}",
        )
    )
    context.emit(StageProgress("cluster", 2, {"pairs": len(a)}))
    labels = np.full(total, -1, np.int64)
    labels[usable] = group(vectors[usable], faces.quality[usable], a, b, s, cuts, settings.seed)
    rest = np.flatnonzero(labels < 0)
    labels[rest] = labels.max(initial=-1) + 1 + np.arange(len(rest))  # a face that cannot be compared stays alone
    context.emit(StageProgress("cluster", 3, {"groups": int(labels.max(initial=-1)) + 1}))
    rows = pa.table(
        [
            faces.ids,
            pa.array(labels),
            pa.array(centroid_scores(vectors, labels) if total else np.zeros(0, np.float32)),
        ],
        schema=plain(GROUPS),
    )
    context.check_lease()
    if session is not None:
        spark_cluster.write_groups(session, context.lake, rows)
    else:
        context.lake["groups"].replace_all(rows)
    written = context.lake["groups"].snapshot().rows
    must_add_up("cluster", ("faces", total), ("grouped", written))
    context.emit(StageProgress("cluster", 4))
    counts: dict[str, Any] = {
        "faces": total,
        "groups": int(labels.max(initial=-1)) + 1,
        "set_aside": len(rest),
    }
    counts |= {"pairs": len(a), "calibration": cuts.manifest()}
    return run.finish(counts, state)


class _Faces:
    """Face columns in canonical order (by key), so that the result does not depend on files or partitions."""

    def __init__(self, rows: pa.Table) -> None:
        keys = face_keys(rows["face_id"])
        order = np.argsort(keys, kind="stable")
        self.keys: I64 = keys[order]
        if len(keys) and (np.diff(self.keys) == 0).any():
            next_step = "run `facelake verify`; the faces table holds a face twice"
            raise Corrupt("two face rows share a face id", where="faces", next_step=next_step)
        rows = rows.take(pa.array(order))
        self.ids = rows["face_id"].combine_chunks()
        self.vectors: F32
        self.vectors, self.sound = embedding_matrix(rows["embedding"])
        self.quality = rows["quality"].to_numpy()
        self.photos: I64 = pc.rank(rows["image_id"], tiebreaker="dense").to_numpy().astype(np.int64)


def _load(context: Context, snapshot: Snapshot, prefix: str) -> _Faces:
    columns = ["face_id", "embedding", "quality", "image_id"]
    files = Snapshot(snapshot.version, tuple(f for f in snapshot.files if f.path.startswith(prefix)))
    return _Faces(context.lake["faces"].read(columns, files))


def _neighbours(
    context: Context,
    session: Any,
    snapshot: Snapshot,
    prefix: str,
    keys: I64,
    vectors: F32,
    usable: I64,
    cuts: Calibration,
) -> tuple[I64, I64, F32]:
    """Neighbour pairs as positions among the usable faces."""
    none = np.zeros(0, np.int64)
    if session is None:
        return none, none, np.zeros(0, np.float32)
    settings = context.config.cluster
    lists = make_cluster_lists(vectors[usable], settings)
    pairs = spark_cluster.neighbours(
        session, context.lake, snapshot, prefix, lists, settings.probes, settings.neighbours, cuts.floor
    )
    wanted = keys[usable]
    a, b, s = pairs["a"].to_numpy(), pairs["b"].to_numpy(), pairs["s"].to_numpy()
    at_a, at_b = np.searchsorted(wanted, a), np.searchsorted(wanted, b)
    size = len(wanted)
    inside = (at_a < size) & (at_b < size)
    at_a, at_b, a, b, s = at_a[inside], at_b[inside], a[inside], b[inside], s[inside]
    inside = (wanted[at_a] == a) & (wanted[at_b] == b)  # faces under the quality gate are no neighbours
    return at_a[inside], at_b[inside], s[inside]


def make_cluster_lists(vectors: F32, settings: ClusterSection) -> Lists:
    """One list for a small corpus (exact), else many of about `list_size` faces, from a sample."""
    if len(vectors) <= settings.exact_below:
        return Lists(np.zeros((1, vectors.shape[1]), np.float32))
    count = max(2, len(vectors) // settings.list_size)
    generator = np.random.default_rng(settings.seed)
    chosen = generator.choice(len(vectors), min(len(vectors), count * _SAMPLE_PER_LIST), replace=False)
    return make_lists(vectors[np.sort(chosen)], count, settings.seed)
