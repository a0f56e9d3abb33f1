"""cluster: all faces of the current model into groups, on Spark, once per state of the faces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from facelake.cluster.calibrate import Prior
from facelake.config import S3Section
from facelake.contracts import GROUPS, Receipt, is_of_model
from facelake.engines.exchange import Block, Exchange, LocalExchange
from facelake.engines.scratch import scratch_dir
from facelake.engines.select_exchange import open_exchange
from facelake.events import Notice, StageProgress
from facelake.lake.data_files import plain, stage
from facelake.lake.store import cached_store, open_store
from facelake.stages.clustering.calibration_store import MEASURES, Since, write_since
from facelake.stages.clustering.full import STEPS, FullClustering
from facelake.stages.clustering.incremental import plan_increment, run_increment
from facelake.stages.clustering.result import Clustered, groups_of
from facelake.stages.clustering.source import TableFiles
from facelake.stages.clustering.stored import FinalGroups, NumberedRows
from facelake.stages.clustering.work import Work
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, last_run, must_add_up
from facelake.stages.gallery.corrections import corrections_digest

WORK = "_work/cluster"
"""Where the steps leave what they made, under the lake; vectors are among it, so erasure clears it."""


def cluster(context: Context) -> StageResult:
    """Neighbours, edges, groups; replaces the `groups` table. Skipped when faces and settings are unchanged."""
    table, config = context.lake["faces"], context.config
    snapshot = table.snapshot()
    files = tuple(file.path for file in snapshot.files if is_of_model(file.path, context.model_digest))
    total = sum(file.rows for file in snapshot.files if file.path in set(files))
    state = digest_of(snapshot.digest_paths(), config.digest("cluster"), context.model_digest)
    spoken = corrections_digest(context.lake)
    state = digest_of(state, spoken) if spoken else state
    run = StageRun(context, "cluster", len(STEPS) + 1, "steps")
    before, same = last_run(context.lake, "cluster"), context.lake["groups"].snapshot().rows == total
    if before and before["input_digest"] == state and same and not context.rebase:
        for item in list(context.lake.store.list(WORK)):  # killed after its last commit
            context.lake.store.delete(item.key)
        return run.skip({"faces": total})
    source = TableFiles(context.lake.uri, context.lake.s3, "faces", tuple(sorted(files)))
    if not total:
        context.lake["groups"].replace_all(pa.table({name: [] for name in GROUPS.names}, schema=plain(GROUPS)))
        return run.finish({"faces": 0, "groups": 0, "set_aside": 0, "duplicates": 0}, state)
    increment, why = plan_increment(context, tuple(sorted(files)), total)
    if increment:
        if placed := run_increment(increment):
            return run.finish(placed.counts, state, placed.details)
        why = "different people's similarity drifted"
    context.emit(Notice("cluster", f"all faces are clustered again: {why}"))
    exchange = open_exchange(config.spark, total, str(scratch_dir(context.lake.uri)))
    if isinstance(exchange, LocalExchange):
        spark = f"Spark from {config.spark.in_process_below:,} on (spark.in_process_below)"
        context.emit(Notice("cluster", f"{total:,} faces are grouped in this process, {spark}"))
    full = _full_clustering(context, source, exchange, state)
    clustered = full.run()
    context.emit(Notice("cluster", _summary(clustered)))
    context.emit(StageProgress("cluster", len(STEPS), {"step": "write"}))
    counts = _commit(context, full, clustered, exchange, total)
    details: dict[str, object] = {"mode": "full", "states": dict(clustered.states)} | clustered.manifest
    full.keep_measures(context.lake.store, MEASURES)
    cuts = dict(clustered.manifest.get("calibration", {}))
    write_since(
        context.lake,
        Since(cuts, config.digest("cluster"), context.model_digest, total, corrections=tuple(spoken)),
    )
    full.clear()
    context.emit(StageProgress("cluster", len(STEPS) + 1))
    return run.finish(counts, state, details)


def _full_clustering(context: Context, source: TableFiles, exchange: Exchange, state: str) -> FullClustering:
    assert context.pack is not None
    card, settings = context.pack.card, context.config.cluster
    store = open_store(f"{context.lake.uri}/{WORK}", context.lake.s3)
    complete: list[str] = []

    def progress(step: str, *, done: bool) -> None:
        context.check_lease()
        if done:
            complete.append(step)
        else:
            context.emit(StageProgress("cluster", len(complete), {"step": step}))

    work = Work(source, store.uri, context.lake.s3.model_dump_json(), state, card.encoder.dim)
    prior = Prior(card.impostor_mean, card.impostor_sd, card.genuine_mean, card.nearest_most)
    return FullClustering(work, exchange, settings, prior, progress, context.config.spark.scratch_bytes)


def _summary(clustered: Clustered) -> str:
    cuts = clustered.manifest.get("calibration", {})
    if not cuts:
        return "no face can be compared"
    return (
        f"two faces are linked from cosine {cuts['graph_cut']:.2f} on, two groups may be joined from a mean of "
        f"{cuts['edge']:.2f} on; faces of one person usually score {cuts['level']:.2f}; evidence: {cuts['evidence']}"
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of `groups` for each input file, staged where they are made."""

    work: Work
    lake: str
    s3: S3Section

    def write(self, item: int) -> Iterator[Block]:
        """Stage the groups of one file's faces; yields the receipt as JSON."""
        final, number = self.work.shared(FinalGroups), self.work.read(NumberedRows, item).group
        group = groups_of(number, final.labels, int(final.first_alone[item]))
        score = np.zeros(len(number), np.float32)
        score[number >= 0] = final.score[number[number >= 0]]
        ids = pa.concat_arrays([batch.column(0) for batch in self.work.source.batches(item, ["face_id"])])
        rows = pa.table([ids, pa.array(group), pa.array(score)], schema=plain(GROUPS))
        receipt = stage(cached_store(self.lake, self.s3.model_dump_json()), "groups", rows)
        yield item, json.dumps(asdict(receipt)).encode()


def _commit(
    context: Context, full: FullClustering, clustered: Clustered, exchange: Exchange, total: int
) -> dict[str, int]:
    """Replace the `groups` table; workers stage, the driver commits once."""
    labels, work = clustered.labels, full.work
    groups = int(labels.max(initial=-1)) + 1
    score = full.scores(labels) if len(labels) else np.zeros(0, np.float32)
    alone = np.array([int((number < 0).sum()) for number in clustered.number], np.int64)
    work.write(FinalGroups(labels, score, groups + np.cumsum(alone) - alone))
    rows = _Rows(work, context.lake.uri, context.lake.s3)
    receipts = [Receipt(**json.loads(body)) for _, body in exchange.run(work.files, rows.write)]
    must_add_up("cluster", ("faces", total), ("grouped", sum(receipt.rows for receipt in receipts)))
    context.check_lease()
    table = context.lake["groups"]
    table.commit(receipts, table.snapshot().files)
    aside = int(alone.sum())
    return {"faces": total, "groups": groups + aside, "set_aside": aside, "duplicates": clustered.duplicates}
