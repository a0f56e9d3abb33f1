"""The stage `admit`: decides for every image of the corpus and writes the decisions that changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Ledger
from facelake.admit.lineage import Lineages
from facelake.contracts import DataFileName, Receipt, Refusal
from facelake.errors import Corrupt, Refused
from facelake.events import Notice
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import INDEX, OpenedCorpus
from facelake.lake.data_files import DataFile
from facelake.lake.lake import Lake
from facelake.lake.tables import Snapshot
from facelake.stages.admission.corpus_rewrite import owns_corpus
from facelake.stages.admission.deciding import decide_corpus
from facelake.stages.admission.decision_changes import ADDED, decision_changes
from facelake.stages.admission.decision_tasks import Rules
from facelake.stages.admission.index import CorpusIndex, update_index
from facelake.stages.admission.ledger import ledger_of, present_time
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.ledger_trail import check_pinned
from facelake.stages.admission.named_subjects import check_subjects_found
from facelake.stages.admission.shrinking import PRESENCE, Present, refuse_if_much
from facelake.stages.admission.withdrawn_datasets import load_lineages, refuse_retracted_corpus
from facelake.stages.admission.withdrawn_photos import forget_lifted, remember, remembered
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, last_run, must_add_up

_CLOCK_TOLERANCE = timedelta(minutes=5)


def admit(context: Context) -> StageResult:
    """Decide for each corpus row whether it may be processed for the configured purpose, today.

    Raises:
        ConfigError: the corpus is missing, damaged or lacks columns; nothing was written.
        Refused: the corpus is a withdrawn data set, or a fifth or more of it is missing.
        Corrupt: the ledger is missing or older than at an earlier decision; or the ledger or a suppression list is
            not the one that the audit trail pinned.
    """
    config, lake = context.config, context.lake
    corpus = OpenedCorpus(resolve_corpus(config))
    lineages = load_lineages(config)
    refuse_retracted_corpus(corpus, lineages)
    run = StageRun(context, "admit", 0, "images")
    index = update_index(context, corpus)
    without_subject = check_subjects_found(context)
    events, snapshot = ledger_rows(lake)
    _check_ledger_present(context, snapshot.version)
    check_pinned(context, events)
    ledger, context.ledger_version = ledger_of(events), snapshot.version
    now = _not_before(context, events)
    if snapshot.version < 0:
        context.emit(Notice("admit", "the ledger is empty: every image will be refused (facelake ledger grant)"))
    own = owns_corpus(config)
    table = lake["admissions"]
    before = table.snapshot()
    known = {DataFileName.parse(file.path).with_nonce(""): file for file in before.files}
    purposes = {config.purpose, *ledger.purposes()}
    forget_lifted(lake, ledger, purposes, now)
    rules = _rules(context, ledger, now, lineages)
    decided = decide_corpus(context, index.parts, ledger, rules, known)
    gone = [file for name, file in known.items() if name not in decided.kept]
    if gone and remember(lake, gone, ledger.withdrawing_subjects(purposes, now)):
        more = _rules(context, ledger, now, lineages)
        if more.remembered != rules.remembered:  # they hold for this purpose, now
            _drop(lake, decided.adds)  # they may have the same photos under other names
            decided = decide_corpus(context, index.parts, ledger, more, known)
    totals, adds = decided.counts, decided.adds
    if own and (returned := totals[Refusal.ERASED]):  # an erasure empties the rows of its photos
        are = "photo of erased people is" if returned == 1 else "photos of erased people are"
        text = f"{returned} {are} in the lake's own corpus again, from a backup or another program; not processed."
        context.emit(Notice("admit", f"{text} `facelake erase --restored` deletes what was erased for all purposes"))
    admitted, emptied = totals.pop("admitted", 0), totals.pop(Refusal.EMPTIED, 0)
    counts = {"read": index.rows - emptied, "admitted": admitted, "refused": totals.total()}
    counts |= {f"refused_{reason}": count for reason, count in sorted(totals.items())}
    must_add_up("admit", ("read", counts["read"]), ("admitted", admitted), ("refused", counts["refused"]))
    counts |= {"hashed": index.hashed, "left_out": index.left_out.counts.total(), "left_out_erased": index.erased}
    counts |= without_subject | ({"emptied": emptied} if emptied else {})
    removes = [file for name, file in known.items() if name not in decided.kept]
    _check_corpus_size(context, before, removes, index)
    if not context.accept_loss:
        try:
            decided.losses.check(
                context, ledger, (table.file(file, ["image_id", "admitted"]) for file in removes), admitted
            )
        except Refused:
            _drop(lake, adds)
            raise
    if not adds and not removes:
        if index.erased == _erased_before(context):
            return run.skip(counts)
        return run.finish(counts, digest_of(snapshot.digest_paths(), before.version))  # the report reads the count
    if before.rows:
        counts |= decision_changes(
            lake, [file.path for file in removes], [receipt.path for receipt in adds], config.purpose
        )
    else:
        counts[ADDED] = counts["read"]
    context.check_lease()
    version = table.commit(adds, removes)
    return run.finish(counts, digest_of(snapshot.digest_paths(), version))


def _rules(context: Context, ledger: Ledger, now: datetime, lineages: Lineages) -> Rules:
    """Return what the decisions of a run depend on."""
    config, lake, suppressed = context.config, context.lake, context.lake.suppressed()
    known = remembered(lake, ledger, config.purpose, now)
    salt = lake.salt if suppressed or known else b""
    own, version = owns_corpus(config), context.ledger_version if context.ledger_version is not None else -1
    return Rules(config.purpose, now, config.partition, own, version, suppressed, salt, lineages, known)


def _drop(lake: Lake, staged: Iterable[Receipt]) -> None:
    """Delete data files of decisions that are not committed."""
    for receipt in staged:
        lake.store.delete(f"admissions/{receipt.path}")


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


def _erased_before(context: Context) -> int:
    """Return how many photos of erased people the last recorded admission found in the corpus."""
    before = last_run(context.lake, "admit")
    return int(json.loads(before["counts"]).get("left_out_erased", 0)) if before else 0


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


def _check_corpus_size(context: Context, before: Snapshot, removes: list[DataFile], index: CorpusIndex) -> None:
    """Raise Refused if a fifth or more of the decided photos are missing and the config does not allow it."""
    admissions, images = context.lake["admissions"], context.lake[INDEX]
    if sum(file.rows for file in removes) and not context.config.corpus_may_shrink:
        present = Present.of(images.file(file, PRESENCE) for _, file in index.parts)
        gone = (admissions.file(file, PRESENCE) for file in removes)
        refuse_if_much(context.config, present.missing(gone), before.rows)
