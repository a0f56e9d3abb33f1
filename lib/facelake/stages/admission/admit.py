"""admit: decide every image of the corpus, write only the corpus files whose decisions changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Decisions, decide_rows
from facelake.contracts import ADMISSIONS, DataFileName, Receipt, Refusal, corpus_key
from facelake.errors import Corrupt, Refused
from facelake.events import Notice, StageProgress
from facelake.lake.corpus import Corpus, CorpusFile
from facelake.lake.tables import Snapshot, plain
from facelake.stages.admission.ledger import read_ledger
from facelake.stages.admission.withdrawn_datasets import load_lineages, refuse_retracted_corpus, retracted_rows
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, must_add_up

_SHRINK_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class _Ids:
    """The identifying columns of one corpus file."""

    file: CorpusFile
    rows: pa.Table
    hashes: np.ndarray


def admit(context: Context) -> StageResult:
    """Decide for each corpus row whether it may be processed for the configured purpose, today.

    Raises:
        ConfigError: the corpus is missing, damaged or lacks columns; nothing is written then.
        Refused: it is a withdrawn data set, or much of it is gone.
        Corrupt: the ledger is gone.
    """
    config, lake = context.config, context.lake
    corpus = Corpus(config.corpus_uri, config.s3)
    files = [corpus.inspect(path) for path in corpus.paths()]  # all footers before any work
    lineages = load_lineages(config)
    refuse_retracted_corpus(corpus, [file.path for file in files], lineages)
    run = StageRun(context, "admit", sum(file.rows for file in files), "images")
    snapshot = lake["ledger"].snapshot()
    _must_be_there(context, snapshot.version)
    ledger, context.ledger_version = read_ledger(lake, snapshot), snapshot.version
    if snapshot.version < 0:
        context.emit(Notice("admit", "the ledger is empty: every image will be refused (facelake ledger grant)"))
    suppressed = lake.suppressed()

    def is_erased(label: str) -> bool:
        """For every purpose, or for this one."""
        return any(lake.keyed_hash(name) in suppressed for name in (label, f"for:{config.purpose}:{label}"))

    erased = is_erased if suppressed else None
    read = [_Ids(file, rows, _hash(rows)) for file in files for rows in [corpus.ids(file.path)]]
    duplicates = _duplicates(read)

    table = lake["admissions"]
    before = table.snapshot()
    _must_not_shrink(context, before, {corpus_key(file.path) for file in files})
    known = {DataFileName.parse(file.path).with_nonce(""): file for file in before.files}
    adds: list[Receipt] = []
    kept: set[DataFileName] = set()
    totals: Counter[str] = Counter()
    for part, duplicate in zip(read, duplicates, strict=True):
        retracted = retracted_rows(lineages, *(part.rows[name].to_pylist() for name in ("image_id", "source_id")))
        found = decide_rows(part.rows, ledger, config.purpose, context.now, duplicate, erased, retracted)
        totals.update(value or "admitted" for value in found.reasons.to_pylist())
        decisions = _table(part, found, config.purpose, snapshot.version)
        name = DataFileName.of_corpus_file(part.file.path, _content_digest(decisions))
        if name in known:
            kept.add(name)
        else:
            adds.append(table.stage(decisions, name))
        context.emit(StageProgress("admit", sum(totals.values()), {"admitted": totals["admitted"]}))

    admitted = totals.pop("admitted", 0)
    counts = {"read": sum(f.rows for f in files), "admitted": admitted, "refused": totals.total()}
    counts |= {f"refused_{reason}": count for reason, count in sorted(totals.items())}
    must_add_up("admit", ("read", counts["read"]), ("admitted", admitted), ("refused", counts["refused"]))
    removes = [file for name, file in known.items() if name not in kept]
    if not adds and not removes:
        return run.skip(counts)
    context.check_lease()
    version = table.commit(adds, removes)
    return run.finish(counts, digest_of(snapshot.digest_paths(), version))


def _must_be_there(context: Context, version: int) -> None:
    """A ledger that was there when images were decided and is gone now would refuse everybody and empty the gallery.

    Raises:
        Corrupt: its newest version is older than one that was decided under.
    """
    for _, rows in context.lake["admissions"].parts(["ledger_version"]):
        before = pc.max(rows["ledger_version"]).as_py()
        if before is not None and before > version:
            what = f"the ledger is gone or was set back: images were decided under version {before}, it is at {version}"
            raise Corrupt(what, where=f"{context.lake.uri}/ledger", next_step="restore it; nothing was changed")


def _must_not_shrink(context: Context, before: Snapshot, present: set[str]) -> None:
    """A wrong `corpus` would make every photo vanish, and with them every face and identity.

    Raises:
        Refused: a fifth or more of the decided photos are gone and the config does not allow it.
    """
    gone = sum(file.rows for file in before.files if DataFileName.parse(file.path).corpus not in present)
    if gone >= _SHRINK_SHARE * max(before.rows, 1) and not context.config.corpus_may_shrink:
        what = f"{gone} of {before.rows} photos decided before are no longer in the corpus"
        next_step = "check `corpus`; if they are meant to go, faces and all, set corpus_may_shrink: true"
        raise Refused(what, where=context.config.corpus_uri, next_step=next_step)


def _hash(rows: pa.Table) -> np.ndarray:
    ids = rows["image_id"].to_pandas().fillna("").to_numpy(dtype=object)
    return pd.util.hash_array(ids, categorize=False)


def _duplicates(read: list[_Ids]) -> list[np.ndarray]:
    """Per file, which rows repeat an image_id of an earlier row of the corpus."""
    if not read:
        return []
    everything = np.concatenate([part.hashes for part in read])
    repeated = np.ones(len(everything), bool)
    repeated[np.unique(everything, return_index=True)[1]] = False
    return np.split(repeated, np.cumsum([len(part.hashes) for part in read])[:-1])


def _table(part: _Ids, found: Decisions, purpose: str, ledger_version: int) -> pa.Table:
    rows, reasons = part.rows.num_rows, found.reasons
    erased = pc.fill_null(pc.equal(reasons, Refusal.ERASED), False)
    nothing = pa.scalar(None, pa.string())  # what was erased is not named again, though its source still holds it
    columns = {
        "image_id": pc.if_else(erased, nothing, part.rows["image_id"].combine_chunks()),
        "source_id": part.rows["source_id"],
        "subject_ref": pc.if_else(erased, nothing, part.rows["subject_ref"].combine_chunks()),
        "corpus_file": pa.array([part.file.path] * rows, pa.string()),
        "corpus_row": pa.array(np.arange(rows, dtype=np.int64)),
        "admitted": pc.is_null(reasons),
        "reason": reasons,
        "covers": found.covers,
        "purpose": pa.array([purpose] * rows, pa.string()),
        "ledger_version": pa.array([ledger_version] * rows, pa.int64()),
    }
    return pa.table(columns, schema=plain(ADMISSIONS))


def _content_digest(decisions: pa.Table) -> str:
    """Digest of the decisions without the ledger version: a new event that changes nothing rewrites nothing."""
    digest = hashlib.sha256()
    for batch in decisions.drop_columns(["ledger_version"]).combine_chunks().to_batches():
        for column in batch.columns:
            digest.update("\x1f".join("" if v is None else str(v) for v in column.to_pylist()).encode())
    return digest.hexdigest()[:12]
