"""The stage `admit`: decides for every image of the corpus and writes the decisions that changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Decisions, decide_rows
from facelake.contracts import ADMISSIONS, DataFileName, Receipt, Refusal, reference, references
from facelake.errors import Corrupt, Refused
from facelake.events import Notice, StageProgress
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import INDEX, OpenedCorpus
from facelake.lake.data_files import DataFile, plain
from facelake.lake.tables import Snapshot
from facelake.stages.admission.corpus_rewrite import owns_corpus
from facelake.stages.admission.index import CorpusIndex, update_index
from facelake.stages.admission.ledger import ledger_of, present_time
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.losses import Losses
from facelake.stages.admission.same_photos import CONTENT, withdrawn_contents
from facelake.stages.admission.shrinking import PRESENCE, Present, hashed, refuse_if_much
from facelake.stages.admission.withdrawn_datasets import load_lineages, refuse_retracted_corpus, retracted_rows
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, must_add_up

_CLOCK_TOLERANCE = timedelta(minutes=5)
_IDS = ["image_id", "source_id", "subject_ref", "source_class", "content_sha256", "erased"]


def admit(context: Context) -> StageResult:
    """Decide for each corpus row whether it may be processed for the configured purpose, today.

    Raises:
        ConfigError: the corpus is missing, damaged or lacks columns; nothing was written.
        Refused: the corpus is a withdrawn data set, or a fifth or more of it is missing.
        Corrupt: the ledger is missing or older than at an earlier decision.
    """
    config, lake = context.config, context.lake
    corpus = OpenedCorpus(resolve_corpus(config))
    lineages = load_lineages(config)
    refuse_retracted_corpus(corpus, lineages)
    run = StageRun(context, "admit", 0, "images")
    index = update_index(context, corpus)
    events, snapshot = ledger_rows(lake)
    _check_ledger_present(context, snapshot.version)
    ledger, context.ledger_version = ledger_of(events), snapshot.version
    now = _not_before(context, events)
    if snapshot.version < 0:
        context.emit(Notice("admit", "the ledger is empty: every image will be refused (facelake ledger grant)"))
    suppressed = lake.suppressed()

    def is_erased(name: str) -> bool:
        """Whether the labelled identifier is suppressed for every purpose or for this one."""
        return any(lake.keyed_hash(text) in suppressed for text in (name, f"for:{config.purpose}:{name}"))

    erased = is_erased if suppressed else None
    named = (lake[INDEX].file(file, ["subject_ref", CONTENT]) for _, file in index.parts)
    withdrawn = withdrawn_contents(named, ledger, config.purpose, now)
    duplicates = _duplicates(context, index)
    own = owns_corpus(config)
    table = lake["admissions"]
    before = table.snapshot()
    known = {DataFileName.parse(file.path).with_nonce(""): file for file in before.files}
    losses = Losses()
    adds: list[Receipt] = []
    kept: set[DataFileName] = set()
    totals: Counter[str] = Counter()
    for (path, file), duplicate in zip(index.parts, duplicates, strict=True):
        rows = lake[INDEX].file(file, _IDS)
        retracted = retracted_rows(lineages, *(rows[name].to_pylist() for name in ("image_id", "source_id")))
        same = pc.is_in(rows[CONTENT].combine_chunks(), withdrawn).to_numpy(zero_copy_only=False)
        decisions = decide_rows(
            rows, ledger, config.purpose, now, duplicate=duplicate, erased=erased, retracted=retracted, withdrawn=same
        )
        decisions = _with_erased(decisions, rows["erased"])
        if own:
            decisions = _with_emptied(decisions, rows["content_sha256"])
        decisions = _within_partition(context, decisions, rows["source_id"])
        totals.update(value or "admitted" for value in decisions.reasons.to_pylist())
        decided = _table(path, rows, decisions, config.purpose, snapshot.version)
        name = DataFileName.of_corpus_file(path, _content_digest(decided))
        if name in known:
            kept.add(name)
        else:
            losses.refused(rows, decided)
            adds.append(table.stage(decided, name))
        context.emit(StageProgress("admit", sum(totals.values()), {"admitted": totals["admitted"]}))

    if own and (returned := totals[Refusal.ERASED]):  # an erasure empties the rows of its photos
        text = (
            f"{returned} photos of erased people are in the lake's own corpus again, from a backup or another program; "
        )
        context.emit(
            Notice("admit", text + "they are not processed. Give the same `facelake erase` again to delete them")
        )
    admitted, emptied = totals.pop("admitted", 0), totals.pop(Refusal.EMPTIED, 0)
    counts = {"read": index.rows - emptied, "admitted": admitted, "refused": totals.total()}
    counts |= {f"refused_{reason}": count for reason, count in sorted(totals.items())}
    must_add_up("admit", ("read", counts["read"]), ("admitted", admitted), ("refused", counts["refused"]))
    counts |= {"hashed": index.hashed, "left_out": index.left_out.counts.total(), "left_out_erased": index.erased}
    counts |= {"emptied": emptied} if emptied else {}
    removes = [file for name, file in known.items() if name not in kept]
    _check_corpus_size(context, before, removes, index)
    if not context.accept_loss:
        try:
            losses.check(context, ledger, (table.file(file, ["image_id", "admitted"]) for file in removes), admitted)
        except Refused:
            for receipt in adds:
                lake.store.delete(f"{table.name}/{receipt.path}")
            raise
    if not adds and not removes:
        return run.skip(counts)
    context.check_lease()
    version = table.commit(adds, removes)
    return run.finish(counts, digest_of(snapshot.digest_paths(), version))


def _check_ledger_present(context: Context, version: int) -> None:
    """Fail if the ledger was lost or reset: every image would be refused and the gallery emptied.

    Raises:
        Corrupt: its newest version is older than one on which decisions are based.
    """
    for _, rows in context.lake["admissions"].parts(["ledger_version"]):
        before = pc.max(rows["ledger_version"]).as_py()
        if before is not None and before > version:
            what = f"the ledger was lost or reset: decisions are based on version {before}, it is at version {version}"
            raise Corrupt(what, where=f"{context.lake.uri}/ledger", next_step="restore the ledger; nothing was changed")


def _not_before(context: Context, events: pa.Table) -> datetime:
    """The moment of the decisions: now, but never before an event that is already in the ledger, or an earlier run."""
    moment = present_time(context.lake, events, context.now)
    if moment - context.now > _CLOCK_TOLERANCE:
        text = (
            f"the clock ({context.now:%F %R}) is behind the newest event or run: {moment:%F %R} UTC is used instead. "
        )
        text += "If the clock is right and that time is wrong: `facelake ledger accept --clock`"
        context.emit(Notice("admit", text))
    return moment


def _duplicates(context: Context, index: CorpusIndex) -> list[np.ndarray]:
    """Per part, which rows repeat an image_id of an earlier row of the corpus."""
    parts = [hashed(context.lake[INDEX].file(file, ["image_id"])["image_id"]) for _, file in index.parts]
    if not parts:
        return []
    hashes = np.concatenate(parts)
    repeated = np.ones(len(hashes), bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    return np.split(repeated, np.cumsum([len(part) for part in parts])[:-1])


def _check_corpus_size(context: Context, before: Snapshot, removes: list[DataFile], index: CorpusIndex) -> None:
    """Raise Refused if a fifth or more of the decided photos are missing and the config does not allow it."""
    admissions, images = context.lake["admissions"], context.lake[INDEX]
    gone = [admissions.file(file, PRESENCE) for file in removes]
    if sum(rows.num_rows for rows in gone) and not context.config.corpus_may_shrink:
        present = Present.of(images.file(file, PRESENCE) for _, file in index.parts)
        refuse_if_much(context.config, present.missing(gone), before.rows)


def _with_erased(decisions: Decisions, erased: pa.ChunkedArray) -> Decisions:
    """The decisions, with photos that the index no longer names refused as erased."""
    if not pc.any(erased).as_py():
        return decisions
    mask = pc.fill_null(erased, False).combine_chunks()
    reasons = pc.if_else(mask, pa.scalar(str(Refusal.ERASED)), decisions.reasons)
    return Decisions(reasons, pc.if_else(mask, pa.scalar(None, pa.string()), decisions.covers))


def _with_emptied(decisions: Decisions, contents: pa.ChunkedArray) -> Decisions:
    """The decisions for the lake's own corpus, in which a row without id and content is no photo any more."""
    no_id = pc.fill_null(pc.equal(decisions.reasons, str(Refusal.NO_ID)), False)
    mask = pc.and_(no_id, pc.is_null(contents).combine_chunks())
    return Decisions(pc.if_else(mask, pa.scalar(str(Refusal.EMPTIED)), decisions.reasons), decisions.covers)


def _within_partition(context: Context, decisions: Decisions, sources: pa.ChunkedArray) -> Decisions:
    """The decisions, with photos of another source refused where the lake is a partition of one source."""
    partition = context.config.partition
    if partition is None:
        return decisions
    own = pc.fill_null(pc.equal(references(sources), reference(partition)), False).combine_chunks()
    refused = pc.or_(own, pc.fill_null(pc.equal(decisions.reasons, str(Refusal.ERASED)), False))
    reasons = pc.if_else(refused, decisions.reasons, pa.scalar(str(Refusal.OTHER_PARTITION)))
    return Decisions(reasons, pc.if_else(own, decisions.covers, pa.scalar(None, pa.string())))


def _table(path: str, ids: pa.Table, decisions: Decisions, purpose: str, ledger_version: int) -> pa.Table:
    rows, reasons = ids.num_rows, decisions.reasons
    erased = pc.fill_null(pc.equal(reasons, Refusal.ERASED), False)
    # erased identifiers are not stored again, though the corpus may still hold them
    null = pa.scalar(None, pa.string())
    columns = {
        "image_id": pc.if_else(erased, null, ids["image_id"].combine_chunks()),
        "source_id": ids["source_id"],
        "subject_ref": pc.if_else(erased, null, ids["subject_ref"].combine_chunks()),
        "corpus_file": pa.array([path] * rows, pa.string()),
        "corpus_row": pa.array(np.arange(rows, dtype=np.int64)),
        "admitted": pc.is_null(reasons),
        "reason": reasons,
        "covers": decisions.covers,
        "purpose": pa.array([purpose] * rows, pa.string()),
        "ledger_version": pa.array([ledger_version] * rows, pa.int64()),
        "content_sha256": pc.if_else(erased, null, ids["content_sha256"].combine_chunks()),
    }
    return pa.table(columns, schema=plain(ADMISSIONS))


def _content_digest(decisions: pa.Table) -> str:
    """Digest of the decisions without the ledger version, so that an event without effect rewrites no file."""
    digest = hashlib.sha256()
    for batch in decisions.drop_columns(["ledger_version"]).combine_chunks().to_batches():
        for column in batch.columns:
            digest.update("\x1f".join("" if v is None else str(v) for v in column.to_pylist()).encode())
    return digest.hexdigest()[:12]
