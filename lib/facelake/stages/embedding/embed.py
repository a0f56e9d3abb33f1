"""The stage `embed`: embeds admitted rows without an outcome, and sweeps outcomes of rows that lost their basis.

Progress is recorded per chunk of corpus rows. A chunk is closed by a row in `chunks` with the digest of its admitted
rows, committed after `faces` and `rejects`. A crash between the three commits leaves the chunk open; the rows that have
an outcome already are then read from the tables themselves, so that no outcome is lost or duplicated.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Chunk, ChunkReceipt, Covers, DataFileName, corpus_key, is_of_model
from facelake.engines.chunk_worker import WorkerSpec, tasks_of
from facelake.engines.ray_token import use_own_token
from facelake.events import Notice, StageProgress
from facelake.lake.corpus import Corpus
from facelake.lake.tables import DataFile, read_file
from facelake.stages.admission.withdrawn_datasets import refused_contents
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, must_add_up
from facelake.stages.embedding.cost_projection import check_budget, faces_per_photo, project, worker_memory_bytes
from facelake.stages.gallery.purge import request_purge
from facelake.stages.models.registry import pipeline_options

_CHUNKS_PER_TASK = 8  # at most; adjacent chunks are read in one pass
_TASKS_PER_WORKER = 4  # at least, so that all workers end at about the same time
_OUTCOMES = ("faces", "rejects")
_KEYS = ("corpus_file", "corpus_row", "image_id", "covers")
_DECISION = ["image_id", "corpus_file", "admitted", "covers"]


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """The work that embed would do."""

    chunks: int
    images: int
    done_images: int
    to_close: tuple[Chunk, ...]
    """open chunks whose rows all have an outcome, so that only their row in `chunks` is missing"""


def embed(context: Context) -> StageResult:
    """Embed every admitted image that has no outcome yet; remove outcomes of images that lost their basis."""
    pack = context.pack
    assert pack is not None
    swept = sweep(context)
    progress = _Progress(context)
    plan = progress.plan()
    run = StageRun(context, "embed", plan.images, "images")
    superseded = 0 if plan.chunks else _drop_superseded(context)
    if not plan.chunks and not plan.to_close and not swept and not superseded:
        return run.skip({"admitted": plan.done_images, "embedded": 0, "rejected": 0, "faces": 0})
    if context.lineage:
        lineage = ", ".join(context.lineage)
        context.emit(
            Notice("embed", f"the reported training lineage of {pack.card.name} includes withdrawn sets: {lineage}")
        )
    planned: dict[str, float] = {}
    if plan.images and context.config.plan.budget is not None:
        planned = _check_budget(context, plan.images)
    _commit(context, [ChunkReceipt(chunk) for chunk in plan.to_close])
    done: Counter[str] = Counter(admitted=plan.images, embedded=0, rejected=0, faces=0, swept=swept)
    reasons: Counter[str] = Counter()
    if plan.chunks:
        _work(context, progress, plan.chunks, done, reasons)
    must_add_up("embed", ("admitted", plan.images), ("embedded", done["embedded"]), ("rejected", done["rejected"]))
    _drop_superseded(context)
    counts = dict(done) | {f"rejected_{reason}": count for reason, count in sorted(reasons.items())} | planned
    return run.finish(counts, digest_of(progress.state()))


def _check_budget(context: Context, images: int) -> dict[str, float]:
    """Check the budget before any photo is read; returns the projected figures for the row in `runs`."""
    assert context.pack is not None
    corpus = Corpus(context.config.corpus_uri, context.config.s3)
    files = [corpus.inspect(path) for path in corpus.paths()]
    mean_bytes = sum(file.image_bytes for file in files) / max(sum(file.rows for file in files), 1)
    projection = project(context.config, context.pack, images, mean_bytes, faces_per_photo(context.lake))
    check_budget(context.config, projection)
    return {
        "planned_s": round(projection.hours * 3600, 1),
        "planned_worker_bytes": worker_memory_bytes(mean_bytes, context.config.embed.batch_photos),
    }


def _work(context: Context, progress: _Progress, chunks: int, done: Counter[str], reasons: Counter[str]) -> None:
    """Run the open chunks on Ray and commit their receipts."""
    use_own_token(context.config.ray)
    # Ray takes long to import and is not needed when there is nothing to embed
    from facelake.engines.ray_embed import RayEmbedder

    assert context.pack is not None
    config = context.config
    options = pipeline_options(config, context.pack.card)
    spec = WorkerSpec(context.pack, options, context.model_digest, context.lake.uri, config.corpus_uri, config.s3)
    spec = replace(spec, retracted=refused_contents(config, context.lake))
    engine = RayEmbedder(spec, config.embed, config.ray)
    pending: list[ChunkReceipt] = []
    per_task = max(1, min(_CHUNKS_PER_TASK, chunks // (_TASKS_PER_WORKER * engine.size)))
    try:
        for receipt in engine.run(tasks_of(progress.open_chunks(), per_task)):
            pending.append(receipt)
            done.update(embedded=receipt.embedded, rejected=receipt.rejected, faces=receipt.face_rows)
            reasons.update(receipt.reasons)
            context.emit(
                StageProgress("embed", done["embedded"] + done["rejected"], dict(done) | {"workers": engine.running})
            )
            if len(pending) >= config.embed.commit_every_chunks:
                _commit(context, pending)
                pending = []
        _commit(context, pending)
    finally:
        engine.close()


def plan_embed(context: Context) -> EmbedPlan:
    """The work that embed would do now."""
    return _Progress(context).plan()


def _commit(context: Context, receipts: list[ChunkReceipt]) -> None:
    """Commit faces, rejects and then progress; the module docstring explains the order."""
    if not receipts:
        return
    context.check_lease()
    for table in _OUTCOMES:
        staged = [getattr(receipt, table) for receipt in receipts if getattr(receipt, table)]
        if staged:
            context.lake[table].commit(staged)
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
    dropped = 0
    for name in _OUTCOMES:
        table = context.lake[name]
        old = [f for f in table.snapshot().files if not is_of_model(f.path, context.model_digest)]
        if old:
            context.check_lease()
            request_purge(context)
            table.commit([], old)
            dropped += len(old)
    return dropped


def sweep(context: Context) -> int:
    """Remove outcomes of images that are no longer admitted, or whose grant covers other people now.

    Returns the number of images whose outcomes were removed.

    Progress rows of the corpus files concerned are removed first, so that an image that is admitted again is embedded
    again.
    """
    progress = _Progress(context)
    swept: set[tuple[str, int]] = set()

    def keep(rows: pa.Table) -> pa.Array:
        keys = list(zip(rows["corpus_file"].to_pylist(), rows["corpus_row"].to_pylist(), strict=True))
        covers = (value or Covers.EVERYONE for value in rows["covers"].to_pylist())
        recorded = zip(rows["image_id"].to_pylist(), covers, strict=True)
        kept = [progress.allowed(*key) == outcome for key, outcome in zip(keys, recorded, strict=True)]
        swept.update(key for key, keep_row in zip(keys, kept, strict=True) if not keep_row)
        return pa.array(kept, pa.bool_())

    to_rewrite: dict[str, list[DataFile]] = {}
    for name in _OUTCOMES:
        suspects = progress.suspects(name)
        to_rewrite[name] = [f for f in suspects if not pc.all(keep(context.lake[name].file(f, _KEYS))).as_py()]
    if swept:
        context.check_lease()
        request_purge(context)
        reopen(context, {path for path, _ in swept})
        for name, files in to_rewrite.items():
            context.lake[name].rewrite(files, _KEYS, keep)
    return len(swept)


def reopen(context: Context, corpus_files: set[str]) -> None:
    """Remove the progress rows of these corpus files, so that their chunks are compared with the tables again."""
    table = context.lake["chunks"]
    files = pa.array(sorted(corpus_files), pa.string())
    table.rewrite(table.snapshot().files, ["corpus_file"], lambda rows: pc.invert(pc.is_in(rows["corpus_file"], files)))


class _Progress:
    """The state of embedding, read from the tables."""

    def __init__(self, context: Context) -> None:
        self._context, self._lake = context, context.lake
        self._admissions = self._lake["admissions"].snapshot()
        chunks = self._lake["chunks"].read(["corpus_file", "row_start", "row_end", "admitted_digest", "model_digest"])
        chunks = chunks.filter(pc.equal(chunks["model_digest"], context.model_digest)).drop_columns(["model_digest"])
        self._closed = set(zip(*(column.to_pylist() for column in chunks.columns), strict=True))
        self._files = {name: self._by_corpus_file(name, context.model_digest) for name in _OUTCOMES}
        # of one corpus file; all of them would take 250 bytes per photo
        self._allowed: tuple[str, dict[int, tuple[str, str]]] = (
            "",
            {},
        )

    def _by_corpus_file(self, table: str, digest: str | None = None) -> dict[str, list[DataFile]]:
        """Data files of one model (None: of all) by the corpus key in their names."""
        files: dict[str, list[DataFile]] = defaultdict(list)
        for file in self._lake[table].snapshot().files:
            name = DataFileName.parse(file.path)
            if digest is None or name.is_of_model(digest):
                files[name.corpus].append(file)
        return files

    def state(self) -> list[object]:
        """The inputs on which the stage's result depends."""
        return [self._admissions.digest_paths(), self._context.model_digest]

    def _corpus_files(self) -> Iterator[tuple[str, list[tuple[str, str] | None]]]:
        """Yield (path, decisions) per corpus file: per row (image_id, covers), or None where it is not admitted."""
        for _, rows in self._lake["admissions"].parts(_DECISION, self._admissions):
            if rows.num_rows:
                yield rows["corpus_file"][0].as_py(), _decided(rows)

    def _chunks(self, decided: list[tuple[str, str] | None]) -> Iterator[tuple[int, int, list[int], str]]:
        """Yield (first row, end, admitted rows, their digest) for each chunk of one corpus file."""
        size = self._context.config.embed.chunk_rows
        for start in range(0, len(decided), size):
            end = min(start + size, len(decided))
            rows = {row: decision for row in range(start, end) if (decision := decided[row])}
            marks = {Covers.NAMED: "\tnamed"}
            body = "\n".join(f"{row}\t{ident}{marks.get(Covers(covers), '')}" for row, (ident, covers) in rows.items())
            yield start, end, list(rows), hashlib.sha256(body.encode()).hexdigest()[:24]

    def _open(self) -> Iterator[Chunk]:
        """Yield chunks that are not closed for the rows admitted now, with the rows that have no outcome yet."""
        for path, decided in self._corpus_files():
            landed: set[int] | None = None
            for start, end, rows, digest in self._chunks(decided):
                if (path, start, end, digest) in self._closed:
                    continue
                landed = self._landed(path) if landed is None else landed
                missing = tuple(row for row in rows if row not in landed)
                named = frozenset(row for row in missing if (decision := decided[row]) and decision[1] == Covers.NAMED)
                yield Chunk(path, start, end, missing, len(rows), digest, named)

    def _landed(self, path: str) -> set[int]:
        """Rows of a corpus file that have an outcome."""
        rows: set[int] = set()
        for table, files in self._files.items():
            for file in files.get(corpus_key(path), ()):
                rows.update(read_file(self._lake.store, table, file.path, ["corpus_row"])["corpus_row"].to_pylist())
        return rows

    def open_chunks(self) -> Iterator[Chunk]:
        """Chunks with rows to compute, in corpus order."""
        return (chunk for chunk in self._open() if chunk.rows)

    def plan(self) -> EmbedPlan:
        """Count the open work."""
        chunks = images = 0
        to_close = []
        for chunk in self._open():
            if chunk.rows:
                chunks, images = chunks + 1, images + len(chunk.rows)
            else:
                to_close.append(chunk)
        admitted = sum(decision is not None for _, decided in self._corpus_files() for decision in decided)
        return EmbedPlan(chunks, images, admitted - images, tuple(to_close))

    def suspects(self, table: str) -> list[DataFile]:
        """Data files that may contain rows that are no longer admitted: of corpus files with open chunks, or of
        removed ones.
        """
        unchanged = set()
        for path, decided in self._corpus_files():
            grid = self._chunks(decided)
            if all((path, start, end, digest) in self._closed for start, end, _, digest in grid):
                unchanged.add(corpus_key(path))
        current = {file for files in self._files[table].values() for file in files}
        all_models = self._by_corpus_file(table).items()  # another model's outcomes need a basis too
        return [file for key, files in all_models for file in files if key not in unchanged or file not in current]

    @cached_property
    def _decisions(self) -> dict[str, list[DataFile]]:
        """Files of decisions by corpus key; only a sweep needs them."""
        files: dict[str, list[DataFile]] = defaultdict(list)
        for file in self._admissions.files:
            files[DataFileName.parse(file.path).corpus].append(file)
        return files

    def allowed(self, path: str, row: int) -> tuple[str, str] | None:
        """(image_id, covers) of the image admitted at a corpus row; None if none is."""
        if self._allowed[0] != path:
            admitted: dict[int, tuple[str, str]] = {}
            for file in self._decisions[corpus_key(path)]:
                decided = _decided(self._lake["admissions"].file(file, _DECISION))
                admitted.update({number: decision for number, decision in enumerate(decided) if decision})
            self._allowed = (path, admitted)
        return self._allowed[1].get(row)


def _decided(rows: pa.Table) -> list[tuple[str, str] | None]:
    """(image_id, covers) of every row of a corpus file's decisions; None where it is not admitted."""
    idents, admitted, covers = (rows[name].to_pylist() for name in ("image_id", "admitted", "covers"))
    return [(i, c or Covers.EVERYONE) if a else None for i, a, c in zip(idents, admitted, covers, strict=True)]
