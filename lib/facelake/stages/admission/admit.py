"""The stage `admit`: decides for every image of the corpus and writes the decisions that changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Decisions, Ledger, decide_rows
from facelake.contracts import ADMISSIONS, DataFileName, Receipt, Refusal, corpus_key
from facelake.errors import Corrupt, Refused
from facelake.events import Notice, StageProgress
from facelake.lake.corpus import Corpus, CorpusFile
from facelake.lake.tables import DataFile, Snapshot, Table, plain
from facelake.stages.admission.ledger import ledger_of
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.withdrawn_datasets import load_lineages, refuse_retracted_corpus, retracted_rows
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, must_add_up

_SHRINK_SHARE = 0.2
_CLOCK_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Ids:
    """The identifying columns of one corpus file, and a hash of each image_id."""

    file: CorpusFile
    rows: pa.Table
    hashes: np.ndarray


def admit(context: Context) -> StageResult:
    """Decide for each corpus row whether it may be processed for the configured purpose, today.

    Raises:
        ConfigError: the corpus is missing, damaged or lacks columns; nothing was written.
        Refused: the corpus is a withdrawn data set, or a fifth or more of it is missing.
        Corrupt: the ledger is missing or older than at an earlier decision.
    """
    config, lake = context.config, context.lake
    corpus = Corpus(config.corpus_uri, config.s3)
    files = [corpus.inspect(path) for path in corpus.paths()]  # every footer is checked before any work
    lineages = load_lineages(config)
    refuse_retracted_corpus(corpus, [file.path for file in files], lineages)
    run = StageRun(context, "admit", sum(file.rows for file in files), "images")
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
    read = [_Ids(file, rows, _hash(rows)) for file in files for rows in [corpus.ids(file.path)]]
    duplicates = _duplicates(read)

    table = lake["admissions"]
    before = table.snapshot()
    _check_corpus_size(context, before, {corpus_key(file.path) for file in files})
    known = {DataFileName.parse(file.path).with_nonce(""): file for file in before.files}
    before_of: dict[str, list[DataFile]] = {}
    for file in before.files:
        before_of.setdefault(DataFileName.parse(file.path).corpus, []).append(file)
    losses = _Losses(table)
    adds: list[Receipt] = []
    kept: set[DataFileName] = set()
    totals: Counter[str] = Counter()
    for part, duplicate in zip(read, duplicates, strict=True):
        retracted = retracted_rows(lineages, *(part.rows[name].to_pylist() for name in ("image_id", "source_id")))
        decisions = decide_rows(
            part.rows, ledger, config.purpose, now, duplicate=duplicate, erased=erased, retracted=retracted
        )
        totals.update(value or "admitted" for value in decisions.reasons.to_pylist())
        decided = _table(part, decisions, config.purpose, snapshot.version)
        name = DataFileName.of_corpus_file(part.file.path, _content_digest(decided))
        if name in known:
            kept.add(name)
        else:
            losses.compare(part, decided, before_of.get(corpus_key(part.file.path), []))
            adds.append(table.stage(decided, name))
        context.emit(StageProgress("admit", sum(totals.values()), {"admitted": totals["admitted"]}))

    admitted = totals.pop("admitted", 0)
    counts = {"read": sum(f.rows for f in files), "admitted": admitted, "refused": totals.total()}
    counts |= {f"refused_{reason}": count for reason, count in sorted(totals.items())}
    must_add_up("admit", ("read", counts["read"]), ("admitted", admitted), ("refused", counts["refused"]))
    removes = [file for name, file in known.items() if name not in kept]
    if not context.accept_loss:
        try:
            losses.check(context, ledger, admitted)
        except Refused:
            for receipt in adds:
                lake.store.delete(f"{table.name}/{receipt.path}")
            raise
    if not adds and not removes:
        return run.skip(counts)
    context.check_lease()
    version = table.commit(adds, removes)
    return run.finish(counts, digest_of(snapshot.digest_paths(), version))


@dataclass(slots=True)
class _Losses:
    """Photos that were admitted before and are refused now, except by a withdrawal or an erasure.

    Those two are decisions about people that must take effect. The others are as likely a slip: a mistyped purpose, a
    grant whose end lies in the past.
    """

    table: Table
    by_reason: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def compare(self, part: _Ids, decided: pa.Table, before: list[DataFile]) -> None:
        """Count the losses of a corpus file whose decisions changed."""
        admitted = np.zeros(decided.num_rows, bool)
        for file in before:
            rows = self.table.file(file, ["corpus_row", "admitted"])
            at = rows["corpus_row"].filter(rows["admitted"]).to_numpy()
            admitted[at[at < len(admitted)]] = True
        reasons = decided["reason"]
        deliberate = pa.array([None, Refusal.WITHDRAWN, Refusal.ERASED, Refusal.NO_ID], pa.string())
        lost = admitted & ~pc.is_in(reasons, deliberate).to_numpy()
        self.by_reason.update(reasons.filter(pa.array(lost)).to_pylist())
        self.sources.update(part.rows["source_id"].filter(pa.array(lost)).to_pylist())

    def check(self, context: Context, ledger: Ledger, admitted: int) -> None:
        """Stop a run that would remove a large share of what it has.

        Raises:
            Refused: the share is above the config's; it says why the photos would be lost.
        """
        lost, config = self.by_reason.total(), context.config
        if not lost or lost <= config.most_lost * (lost + admitted):
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.by_reason.most_common())
        source, _ = self.sources.most_common(1)[0]
        purposes = ", ".join(sorted(ledger.purposes())) or "none"
        what = (
            f"this run would remove the faces of {lost} of {lost + admitted} admitted photos: {reasons}; most of them "
        )
        what += f"of source {source!r}. Its purpose is {config.purpose!r}; the ledger has grants for: {purposes}"
        next_step = "check `purpose` and the dates in `facelake ledger list`; nothing was removed. If the loss is "
        next_step += "intended, run `facelake nightly --accept-loss`"
        raise Refused(what, where="admit", next_step=next_step)


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
    """The moment of the decisions: now, but never before an event that is already in the ledger.

    A clock that was set back would otherwise admit what has expired.
    """
    newest: datetime | None = pc.max(events["recorded_at"]).as_py()
    if newest is None or newest <= context.now:
        return context.now
    if newest - context.now > _CLOCK_TOLERANCE:
        text = f"the clock ({context.now:%F %R}) is behind the newest ledger event: {newest:%F %R} UTC is used instead"
        context.emit(Notice("admit", text))
    return newest.astimezone(UTC)


def _check_corpus_size(context: Context, before: Snapshot, present: set[str]) -> None:
    """Fail if much of the corpus is missing: a wrong `corpus` setting would remove every face and identity.

    Raises:
        Refused: a fifth or more of the decided photos are missing and the config does not allow it.
    """
    missing = sum(file.rows for file in before.files if DataFileName.parse(file.path).corpus not in present)
    if missing >= _SHRINK_SHARE * max(before.rows, 1) and not context.config.corpus_may_shrink:
        what = f"{missing} of {before.rows} photos decided before are no longer in the corpus"
        next_step = "check `corpus`; to remove these photos and their faces, set corpus_may_shrink: true"
        raise Refused(what, where=context.config.corpus_uri, next_step=next_step)


def _hash(rows: pa.Table) -> np.ndarray:
    ids = rows["image_id"].to_pandas().fillna("").to_numpy(dtype=object)
    return pd.util.hash_array(ids, categorize=False)


def _duplicates(read: list[_Ids]) -> list[np.ndarray]:
    """Per file, which rows repeat an image_id of an earlier row of the corpus."""
    if not read:
        return []
    hashes = np.concatenate([part.hashes for part in read])
    repeated = np.ones(len(hashes), bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    return np.split(repeated, np.cumsum([len(part.hashes) for part in read])[:-1])


def _table(part: _Ids, decisions: Decisions, purpose: str, ledger_version: int) -> pa.Table:
    rows, reasons = part.rows.num_rows, decisions.reasons
    erased = pc.fill_null(pc.equal(reasons, Refusal.ERASED), False)
    # erased identifiers are not stored again, though the corpus may still hold them
    null = pa.scalar(None, pa.string())
    columns = {
        "image_id": pc.if_else(erased, null, part.rows["image_id"].combine_chunks()),
        "source_id": part.rows["source_id"],
        "subject_ref": pc.if_else(erased, null, part.rows["subject_ref"].combine_chunks()),
        "corpus_file": pa.array([part.file.path] * rows, pa.string()),
        "corpus_row": pa.array(np.arange(rows, dtype=np.int64)),
        "admitted": pc.is_null(reasons),
        "reason": reasons,
        "covers": decisions.covers,
        "purpose": pa.array([purpose] * rows, pa.string()),
        "ledger_version": pa.array([ledger_version] * rows, pa.int64()),
    }
    return pa.table(columns, schema=plain(ADMISSIONS))


def _content_digest(decisions: pa.Table) -> str:
    """Digest of the decisions without the ledger version, so that an event without effect rewrites no file."""
    digest = hashlib.sha256()
    for batch in decisions.drop_columns(["ledger_version"]).combine_chunks().to_batches():
        for column in batch.columns:
            digest.update("\x1f".join("" if v is None else str(v) for v in column.to_pylist()).encode())
    return digest.hexdigest()[:12]
