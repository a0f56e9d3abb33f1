"""Decides on every photo of the corpus: chooses the engine, runs the tasks and checks that each has answered."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from facelake.admit import Ledger
from facelake.cluster.array_codec import decode
from facelake.contracts import I64, DataFileName, Receipt
from facelake.engines.exchange import Exchange, LocalExchange, task_edges
from facelake.engines.scratch import scratch_dir
from facelake.engines.select_exchange import open_exchange
from facelake.errors import Corrupt
from facelake.events import StageProgress
from facelake.lake.data_files import DataFile
from facelake.stages.admission.decision_tasks import CONTENTS, Decided, DecisionTasks, IdTasks, Part, Rules
from facelake.stages.admission.losses import Losses
from facelake.stages.core.context import Context

_LIGHTER = 100  # times less work per photo than clustering, for which `spark.in_process_below` is meant
_THREADS = 8  # where this process runs the tasks: they wait for the store
_HASHED_ROWS = 500_000  # of a task
_RANGE_ROWS = 4_000_000  # whose hashes a task compares
_DECIDED_ROWS = 50_000  # of a task
_PARTS_HERE, _PARTS_SENT = 64, 20_000  # decided at once: progress is reported, and names are sent, for so many


@dataclass(slots=True)
class DecidedCorpus:
    """What the tasks decided.

    Attributes:
        adds: data files that were staged.
        kept: names of the data files that stay, without nonce.
        counts: photos by reason, or "admitted".
        losses: photos that are refused now.
    """

    adds: list[Receipt] = field(default_factory=list)
    kept: set[DataFileName] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    losses: Losses = field(default_factory=Losses)

    def add(self, part: Part, decided: Decided) -> None:
        """Add the decisions of a corpus file."""
        if decided.path:
            self.adds.append(Receipt("admissions", decided.path, decided.size_bytes, decided.rows))
            self.losses.add(decided.lost)
        else:
            self.kept.add(DataFileName.of_corpus_file(part.corpus_file, decided.part))
        self.counts.update(json.loads(decided.counts))


def decide_corpus(
    context: Context,
    files: Sequence[tuple[str, DataFile]],
    ledger: Ledger,
    rules: Rules,
    known: Mapping[DataFileName, DataFile],
) -> DecidedCorpus:
    """Decide on every photo and stage the decisions that are not there.

    Args:
        context: of the run.
        files: the corpus files in order, with the data files of their rows.
        ledger: of the run.
        rules: of the run.
        known: the decisions that are there, by name without nonce.

    Raises:
        Corrupt: a task did not answer for each of its corpus files.
    """
    rows = np.array([file.rows for _, file in files], np.int64)
    standing: dict[str, tuple[DataFileName, ...]] = {}
    for name in known:
        standing[name.corpus] = (*standing.get(name.corpus, ()), name)
    starts = np.cumsum(rows) - rows
    parts = [
        Part(path, file.path, start, standing.get(DataFileName.of_corpus_file(path).corpus, ()))
        for (path, file), start in zip(files, starts.tolist(), strict=True)
    ]
    exchange = _exchange(context, int(rows.sum()))
    try:
        return _decided(context, exchange, parts, rows, ledger, rules, decided_before=bool(known))
    finally:
        exchange.close()


def _exchange(context: Context, rows: int) -> Exchange:
    """Return the engine; small corpora are decided here, also if a cluster is configured."""
    spark = context.config.spark
    if rows // _LIGHTER < spark.in_process_below:
        return LocalExchange(min(os.cpu_count() or 1, _THREADS))
    # encrypted: tasks carry the key of hashed names. The blocks of a local master's shuffle are not: they hold hashes
    # of ids, and digests of the photos of people who have withdrawn; the lake's tables have these ids and digests, too
    return open_exchange(spark, rows // _LIGHTER, str(scratch_dir(context.lake.uri)), encrypted=True)


def _decided(
    context: Context,
    exchange: Exchange,
    parts: Sequence[Part],
    rows: I64,
    ledger: Ledger,
    rules: Rules,
    *,
    decided_before: bool,
) -> DecidedCorpus:
    withdrawn = tuple(sorted(ledger.withdrawn_subjects(rules.purpose, rules.now)))
    repeated, contents = _repeated(context, exchange, parts, rows, withdrawn)
    found, nonce = DecidedCorpus(), secrets.token_hex(8)
    at_once = _PARTS_HERE if isinstance(exchange, LocalExchange) else _PARTS_SENT
    lake = context.lake
    for begin in range(0, len(parts), at_once):
        wave, wave_rows = tuple(parts[begin : begin + at_once]), rows[begin : begin + at_once]
        edges = task_edges(wave_rows, _DECIDED_ROWS)
        low, high = np.searchsorted(repeated, (wave[0].start, wave[-1].start + wave_rows[-1]))
        tasks = DecisionTasks(
            lake.uri,
            lake.s3.model_dump_json(),
            wave,
            edges,
            rules,
            ledger,
            repeated[low:high],
            contents,
            decided_before,
            nonce,
        )
        blocks = exchange.run(range(len(edges) - 1), tasks.decide)
        answers = dict(blocks)
        if sorted(answers) != list(range(len(wave))) or len(blocks) != len(wave):
            what = f"{len(wave)} corpus files were to be decided, and {len(blocks)} answers came back"
            raise Corrupt(what, where=f"{lake.uri}/admissions", next_step="run again; nothing was changed")
        for number, part in enumerate(wave):
            found.add(part, decode(Decided, answers[number]))
        context.emit(StageProgress("admit", found.counts.total(), {"admitted": found.counts["admitted"]}))
    return found


def _repeated(
    context: Context, exchange: Exchange, parts: Sequence[Part], rows: I64, withdrawn: tuple[str, ...]
) -> tuple[I64, tuple[str, ...]]:
    """Return the places of photos whose id an earlier photo has, ascending, and the digests of the photos of subjects
    who have withdrawn.
    """
    ranges = max(1, int(rows.sum()) // _RANGE_ROWS)
    plain = tuple(replace(part, standing=()) for part in parts)
    edges = task_edges(rows, _HASHED_ROWS)
    tasks = IdTasks(context.lake.uri, context.lake.s3.model_dump_json(), plain, edges, ranges, withdrawn)
    places, contents = [np.zeros(0, np.int64)], tuple[str, ...]()
    for key, body in exchange.run(range(len(edges) - 1), tasks.hashes, tasks.repeated, keys=ranges + 1):
        if key == CONTENTS:
            contents = tuple(bytes(body).decode().split("\n"))
        else:
            places.append(np.frombuffer(body, "<i8").astype(np.int64))
    return np.sort(np.concatenate(places)), contents
