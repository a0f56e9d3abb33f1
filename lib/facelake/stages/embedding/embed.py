"""The stage `embed`: embeds admitted photos without an outcome, and sweeps outcomes of photos that lost their basis.

A photo is known by its id and content. Before anything is embedded, outcomes of the same content are moved to where the
photo is now (`carry.py`), so that a corpus whose files were divided or named differently costs nothing. Progress is
recorded per chunk of corpus rows (`progress.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pyarrow.compute as pc

from facelake.contracts import ChunkReceipt, is_of_model
from facelake.embed.calibration import must_have_any
from facelake.embed.looks import SuppressedLooks
from facelake.embed.not_faces import Regions
from facelake.engines.chunk_worker import WorkerSpec, tasks_of
from facelake.engines.embed_process import Embedder, ProcessEmbedder, needs_ray, open_ray
from facelake.events import Notice, StageProgress
from facelake.lake.corpora.detect import resolve_corpus
from facelake.stages.admission.withdrawn_datasets import refused_contents
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, must_add_up
from facelake.stages.embedding.carry import Carried, carry
from facelake.stages.embedding.corpus_size import corpus_size
from facelake.stages.embedding.cost_projection import check_budget, faces_per_photo, project, worker_memory_bytes
from facelake.stages.embedding.decodable import reopen_decodable
from facelake.stages.embedding.not_faces import Marks
from facelake.stages.embedding.progress import OUTCOMES, EmbedPlan, Progress
from facelake.stages.embedding.swept import Swept
from facelake.stages.gallery.purge import request_purge
from facelake.stages.models.registry import pipeline_options

_CHUNKS_PER_TASK = 8  # at most; adjacent chunks are read in one pass
_TASKS_PER_WORKER = 4  # at least, so that all workers end at about the same time


@dataclass(frozen=True, slots=True)
class _Tally:
    """What the receipts of a run add up to."""

    done: Counter[str]
    swept: Swept
    reasons: Counter[str] = field(default_factory=Counter)
    runtimes: Counter[str] = field(default_factory=Counter)
    """chunks by the runtime of each network, with the reason for it"""

    def counts(self) -> dict[str, int]:
        """The counters of the row in `runs`."""
        swept = {f"swept_{cause}": count for cause, count in sorted(self.swept.photos.items())}
        return dict(self.done) | swept | {f"rejected_{reason}": count for reason, count in sorted(self.reasons.items())}

    def details(self, lost: Counter[str]) -> dict[str, object]:
        """The runtimes, if anything was embedded; the faces lost by cause, if any were."""
        found = {"runtimes": self.runtimes, "swept_faces": lost}
        return {name: dict(counts) for name, counts in found.items() if counts}


def embed(context: Context) -> StageResult:
    """Embed every admitted image that has no outcome yet; remove outcomes of images that lost their basis."""
    pack = context.pack
    assert pack is not None
    marks = Marks.of(context.lake)
    marks.reopen(context)
    reopen_decodable(context)
    before = context.lake["faces"].snapshot()
    carried = carry(context)
    progress = Progress(context)
    plan = progress.plan()
    run = StageRun(context, "embed", plan.images, "images")
    superseded = 0 if plan.chunks else _drop_superseded(context)
    if not plan.chunks and not plan.to_close and not carried and not superseded and not marks.changed:
        return run.skip({"admitted": plan.done_images, "embedded": 0, "rejected": 0, "faces": 0})
    if context.lineage:
        lineage = ", ".join(context.lineage)
        context.emit(
            Notice("embed", f"the model {pack.card.name!r} was reportedly trained on withdrawn data sets: {lineage}")
        )
    if plan.images and context.lease and context.lease.taken_from:
        total = plan.done_images + plan.images + plan.waiting
        context.emit(Notice("embed", f"{plan.done_images:,} of {total:,} admitted photos were done before"))
    planned: dict[str, object] = {}
    if plan.images and context.config.plan.budget is not None:
        planned = _check_budget(context, plan.images)
    _record(context, [ChunkReceipt(chunk) for chunk in plan.to_close])
    admitted = plan.images + plan.waiting
    tally = _Tally(
        Counter(admitted=admitted, embedded=0, rejected=0, faces=0, swept=carried.swept.photos.total()), carried.swept
    )
    done, reasons = tally.done, tally.reasons
    receipts = _work(context, progress, plan, tally, marks.regions()) if plan.chunks else []
    waiting, taken = 0, Counter(carried.taken)
    if (copied := _finish(context, receipts, waiting=plan.waiting > 0)) is not None:
        done.update({name: count for name, count in copied.reused.items() if name in done})
        reasons.update({n.removeprefix("rejected_"): c for n, c in copied.reused.items() if n.startswith("rejected_")})
        waiting = plan.waiting - copied.photos
        taken.update(copied.taken)
    outcomes = (("embedded", done["embedded"]), ("rejected", done["rejected"]))
    must_add_up("embed", ("admitted", admitted), *outcomes, ("waiting", waiting))
    done.update(+taken)
    _drop_superseded(context)
    lost = tally.swept.lost_faces(context.lake, before)
    return run.finish(tally.counts(), digest_of(progress.state()), planned | tally.details(lost) | marks.details())


def _finish(context: Context, receipts: list[ChunkReceipt], *, waiting: bool) -> Carried | None:
    """Record the last chunks, after outcomes were copied to photos with the content of one that was just embedded.

    A chunk with a photo that changed while it was read stays open for the next run.
    """
    if not waiting and all(receipt.complete for receipt in receipts):
        _record(context, receipts)
        return None
    copied = carry(context)
    counted = {(receipt.chunk.corpus_file, receipt.chunk.row_start): receipt for receipt in receipts}
    closed = Progress(context).plan().to_close
    former = [counted.get((chunk.corpus_file, chunk.row_start), ChunkReceipt(chunk)) for chunk in closed]
    _record(context, [replace(receipt, chunk=chunk) for receipt, chunk in zip(former, closed, strict=True)])
    return copied


def _check_budget(context: Context, images: int) -> dict[str, object]:
    """Check the budget before any photo is read; returns the projected figures for the row in `runs`."""
    assert context.pack is not None
    mean_bytes = corpus_size(context.config, context.lake).mean_bytes
    projection = project(context.config, context.pack, images, mean_bytes, faces_per_photo(context.lake))
    check_budget(context.config, projection)
    return {
        "planned_s": round(projection.hours * 3600, 1),
        "planned_worker_bytes": worker_memory_bytes(mean_bytes, context.config.embed.batch_photos),
    }


def _engine(context: Context, spec: WorkerSpec, photos: int) -> Embedder:
    """Return the workers for this many photos: a process of this host where Ray would take longer to start."""
    embed, ray = context.config.embed, context.config.ray

    def on_ray() -> Embedder:
        context.emit(Notice("embed", "starting the workers on Ray, which takes up to a minute"))
        return open_ray(spec, embed, ray)

    return on_ray() if needs_ray(embed, ray, photos) else ProcessEmbedder(spec, on_ray)


def _work(
    context: Context, progress: Progress, plan: EmbedPlan, tally: _Tally, not_faces: Regions
) -> list[ChunkReceipt]:
    """Run the open chunks in worker processes and commit their outcomes; returns the receipts of chunks that are not
    recorded yet: the last ones, and those in which a photo waits or changed.
    """
    assert context.pack is not None
    config = context.config
    options, done = pipeline_options(config, context.pack.card), tally.done
    if config.ray.address is None:  # the workers are on this host
        must_have_any(options.runtime)
    spec = WorkerSpec(context.pack, options, context.model_digest, context.lake.uri, config.corpus_uri, config.s3)
    spec = replace(spec, retracted=refused_contents(config, context.lake), corpus=resolve_corpus(config))
    suppressed = context.lake.suppressed_looks()
    looks = SuppressedLooks.of(suppressed, context.lake.salt, config.purpose) if suppressed else None
    spec = replace(spec, not_faces=not_faces, looks=looks)
    engine = _engine(context, spec, plan.images)
    pending: list[ChunkReceipt] = []
    unrecorded: list[ChunkReceipt] = []
    per_task = max(1, min(_CHUNKS_PER_TASK, plan.chunks // (_TASKS_PER_WORKER * engine.size)))
    try:
        for receipt in engine.run(tasks_of(progress.open_chunks(), per_task)):
            pending.append(receipt)
            done.update(embedded=receipt.embedded, rejected=receipt.rejected, faces=receipt.face_rows)
            tally.reasons.update(receipt.reasons)
            for runtime in receipt.runtimes:
                if runtime not in tally.runtimes:
                    context.emit(Notice("embed", runtime))
                tally.runtimes[runtime] += 1
            context.emit(
                StageProgress("embed", done["embedded"] + done["rejected"], dict(done) | {"workers": engine.running})
            )
            if len(pending) >= config.embed.commit_every_chunks:
                _commit_outcomes(context, pending)
                whole = [receipt.chunk.closes and receipt.complete for receipt in pending]
                _record(context, [receipt for receipt, closes in zip(pending, whole, strict=True) if closes])
                unrecorded += [receipt for receipt, closes in zip(pending, whole, strict=True) if not closes]
                pending = []
        _commit_outcomes(context, pending)
    finally:
        engine.close()
    return [*unrecorded, *pending]


def sweep(context: Context) -> int:
    """Remove outcomes of photos that are no longer admitted, or whose grant covers other people now; returns the number
    of photos.
    """
    return carry(context).swept.photos.total()


def plan_embed(context: Context) -> EmbedPlan:
    """The work that embed would do now."""
    return Progress(context).plan()


def _commit_outcomes(context: Context, receipts: list[ChunkReceipt]) -> None:
    """Commit faces and rejects; progress is recorded after them, see progress.py."""
    if not receipts:
        return
    context.check_lease()
    for table in OUTCOMES:
        staged = [getattr(receipt, table) for receipt in receipts if getattr(receipt, table)]
        if staged:
            context.lake[table].commit(staged)


def _record(context: Context, receipts: list[ChunkReceipt]) -> None:
    """Close chunks whose outcomes are committed."""
    if not receipts:
        return
    context.check_lease()
    rows = [
        {
            "corpus_file": r.chunk.corpus_file,
            "row_start": r.chunk.row_start,
            "row_end": r.chunk.row_end,
            "model_digest": context.model_digest,
            "admitted_digest": r.chunk.digest,
            "admitted": r.chunk.admitted,
            "embedded": r.embedded,
            "rejected": r.rejected,
            "faces": r.face_rows,
        }
        for r in receipts
    ]
    context.lake["chunks"].append(rows)


def _drop_superseded(context: Context) -> int:
    """Remove outcomes of other models, once every image has one of the current model; returns the number of files."""
    digest = context.model_digest
    old = {
        name: [f for f in context.lake[name].snapshot().files if not is_of_model(f.path, digest)] for name in OUTCOMES
    }
    if not any(old.values()):
        return 0
    context.check_lease()
    request_purge(context)
    # first, so that photos count as done by no model whose outcomes are gone
    chunks = context.lake["chunks"]
    chunks.rewrite(chunks.snapshot().files, ["model_digest"], lambda rows: pc.equal(rows["model_digest"], digest))
    for name, files in old.items():
        if files:
            context.lake[name].commit([], files)
    return sum(map(len, old.values()))
