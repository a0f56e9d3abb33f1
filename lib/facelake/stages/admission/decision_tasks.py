"""The decisions of `admit`: tasks of the engine, each with some corpus files.

First tasks compare hashes of all ids and name the photos whose id an earlier photo has; then tasks decide the photos of
each file and stage the file's decisions, if they are not there already. The driver keeps a few values per corpus file,
and numbers for photos that are repeated or refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Decisions, Ledger, decide_rows
from facelake.admit.lineage import Lineages
from facelake.cluster.array_codec import decode, encode
from facelake.config import S3Section
from facelake.contracts import ADMISSIONS, I64, DataFileName, Refusal, label, reference, references
from facelake.engines.exchange import Block
from facelake.lake.corpora.opening import INDEX
from facelake.lake.data_files import plain, read_file, stage
from facelake.lake.hash_key import keyed_hash
from facelake.lake.lake import Lake
from facelake.lake.store import cached_store
from facelake.stages.admission.ledger import ledger_of
from facelake.stages.admission.losses import Lost
from facelake.stages.admission.same_photos import CONTENT, contents_of
from facelake.stages.admission.withdrawn_datasets import retracted_rows
from facelake.stages.core.known_ids import U64, hashed

CONTENTS = -1
"""Key of the digests of photos whose subjects have withdrawn; ranges of hashes begin at 0."""
_IDS = ["image_id", "source_id", "subject_ref", "source_class", CONTENT, "erased"]


@dataclass(frozen=True, slots=True)
class Part:
    """A corpus file, the data file of its rows in table `images`, and the place of its first photo in the corpus."""

    corpus_file: str
    path: str
    start: int
    standing: tuple[DataFileName, ...] = ()
    """of its decisions that are there, without nonce"""


@dataclass(frozen=True, slots=True)
class Rules:
    """What decisions depend on beside the photo and the ledger.

    Attributes:
        purpose: that photos are admitted for.
        now: moment of the decisions.
        partition: the one source of the lake; None: it has all.
        own: whether the corpus is in the lake, so that an erasure leaves empty rows.
        ledger_version: Delta version of the ledger.
        suppressed: keyed hashes of the suppression list.
        salt: key of the hashes.
        lineages: the withdrawn data sets.
        remembered: keyed hashes of photos that left the corpus and whose subjects have withdrawn.
    """

    purpose: str
    now: datetime
    partition: str | None
    own: bool
    ledger_version: int
    suppressed: frozenset[str]
    salt: bytes = field(repr=False)
    lineages: Lineages = field(repr=False)
    remembered: frozenset[str] = frozenset()

    def is_remembered(self, digest: str | None) -> bool:
        """Whether a photo with these bytes was of somebody who has withdrawn."""
        return bool(digest) and keyed_hash(self.salt, label("content", digest or "")) in self.remembered

    def is_erased(self, name: str) -> bool:
        """Whether the labelled identifier is suppressed for every purpose or for this one."""
        return any(keyed_hash(self.salt, text) in self.suppressed for text in (name, f"for:{self.purpose}:{name}"))


@dataclass(frozen=True, slots=True)
class Hashed:
    """64-bit hashes (n,) of ids, and the places (n,) of their photos in the corpus.

    The second of two ids with one hash is refused as repeated, which the run counts as `refused_duplicate_id`; the
    chance of any such pair is n * n / 2**65: 3 in a million at 10^7 photos, 2.7 % at 10^9.
    """

    ids: U64
    places: I64


@dataclass(frozen=True, slots=True)
class Decided:
    """The decisions of a corpus file.

    Attributes:
        part: digest of the decisions, in the name of their data file.
        path: of the data file that was staged; empty if one with these decisions is there.
        size_bytes: of it.
        rows: photos.
        counts: JSON of the number of photos by reason, or "admitted".
        lost: photos that are refused, if there are other decisions.
    """

    part: str
    path: str
    size_bytes: int
    rows: int
    counts: str
    lost: Lost


@dataclass(frozen=True)
class IdTasks:
    """The tasks that compare ids, as the engine's exchange calls them.

    Attributes:
        lake: URI of the lake.
        s3: the config's s3 section as JSON.
        parts: of the corpus.
        edges: (tasks + 1,) the parts that begin a task.
        ranges: into which hashes are divided.
        withdrawn: subjects who have withdrawn.
    """

    lake: str
    s3: str
    parts: tuple[Part, ...]
    edges: I64
    ranges: int
    withdrawn: tuple[str, ...]

    def hashes(self, task: int) -> Iterator[Block]:
        """Send hashes and places of the task's photos by range, and the digests of those who have withdrawn."""
        ids, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        names, digests = pa.array(self.withdrawn, pa.string()), set[str]()
        columns = ["image_id", *(["subject_ref", CONTENT] if self.withdrawn else [])]
        for part in self.parts[slice(*self.edges[task : task + 2].tolist())]:
            rows = _rows(self.lake, self.s3, part, columns)
            named = np.flatnonzero(pc.fill_null(pc.greater(pc.utf8_length(rows["image_id"]), 0), False).to_numpy())
            ids.append(hashed(rows["image_id"])[named])
            places.append(part.start + named)
            digests.update(contents_of(rows, names).to_pylist() if self.withdrawn else ())
        all_ids, all_places = np.concatenate(ids), np.concatenate(places)
        ranges = (all_ids >> np.uint64(32)) % np.uint64(self.ranges)
        for number in range(self.ranges):
            own = ranges == number
            if own.any():
                yield number, encode(Hashed(all_ids[own], all_places[own]))
        if digests:
            yield CONTENTS, "\n".join(sorted(digests)).encode()

    def repeated(self, key: int, blocks: Sequence[bytes]) -> Iterator[Block]:
        """Send the places of photos whose id an earlier photo has, ascending; or each digest once."""
        if key == CONTENTS:
            digests = {digest for block in blocks for digest in bytes(block).decode().split("\n")}
            yield key, "\n".join(sorted(digests)).encode()
            return
        parts = [decode(Hashed, block) for block in blocks]
        ids, places = np.concatenate([part.ids for part in parts]), np.concatenate([part.places for part in parts])
        order = np.lexsort((places, ids))
        again = np.flatnonzero(ids[order][1:] == ids[order][:-1]) + 1
        yield key, np.sort(places[order][again]).astype("<i8").tobytes()


@dataclass(frozen=True)
class DecisionTasks:
    """The tasks that decide, as the engine's exchange calls them.

    Attributes:
        lake: URI of the lake.
        s3: the config's s3 section as JSON.
        parts: to decide.
        edges: (tasks + 1,) the parts that begin a task.
        rules: of the run.
        ledger: of the run; other processes read it.
        repeated: places of photos whose id an earlier one has, ascending.
        contents: digests of photos whose subjects have withdrawn.
        decided_before: whether there are other decisions, of which photos may be lost.
        nonce: of the names of data files, 16 hex digits, new for each admission: a task that Spark repeats writes its
            file again and not a second one.
    """

    lake: str
    s3: str
    parts: tuple[Part, ...]
    edges: I64
    rules: Rules
    ledger: Ledger | None
    repeated: I64
    contents: tuple[str, ...]
    decided_before: bool
    nonce: str

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_withdrawn"} | {"ledger": None}

    @cached_property
    def _withdrawn(self) -> frozenset[str]:
        """The digests, made once for all corpus files of a task."""
        return frozenset(self.contents)

    def decide(self, task: int) -> Iterator[Block]:
        """Decide the photos of the task's parts; sends `Decided` by the number of the part."""
        ledger = self.ledger or _ledger(self.lake, self.s3, self.rules.ledger_version)
        for number in range(*self.edges[task : task + 2].tolist()):
            yield number, encode(self._decided(self.parts[number], ledger))

    def _decided(self, part: Part, ledger: Ledger) -> Decided:
        rows, rules = _rows(self.lake, self.s3, part, _IDS), self.rules
        first, end = np.searchsorted(self.repeated, (part.start, part.start + rows.num_rows))
        duplicate = np.zeros(rows.num_rows, bool)
        duplicate[self.repeated[first:end] - part.start] = True
        retracted = retracted_rows(rules.lineages, *(rows[name].to_pylist() for name in ("image_id", "source_id")))
        contents = rows[CONTENT].to_pylist()
        withdrawn = np.array([digest in self._withdrawn for digest in contents], bool)
        if rules.remembered:
            withdrawn |= np.array([rules.is_remembered(digest) for digest in contents], bool)
        decisions = decide_rows(
            rows,
            ledger,
            rules.purpose,
            rules.now,
            duplicate=duplicate,
            erased=rules.is_erased if rules.suppressed else None,
            retracted=retracted,
            withdrawn=withdrawn,
        )
        decisions = _with_erased(decisions, rows["erased"])
        if rules.own:
            decisions = _with_emptied(decisions, rows[CONTENT])
        decisions = _within_partition(rules.partition, decisions, rows["source_id"])
        counts = json.dumps(Counter(value or "admitted" for value in decisions.reasons.to_pylist()))
        decided = _table(part.corpus_file, rows, decisions, rules.purpose, rules.ledger_version)
        name = DataFileName.of_corpus_file(part.corpus_file, _content_digest(decided))
        if name in part.standing:
            return Decided(name.part, "", 0, rows.num_rows, counts, Lost.none())
        lost = Lost.of(rows, decided) if self.decided_before else Lost.none()
        receipt = stage(cached_store(self.lake, self.s3), "admissions", decided, name, nonce=self.nonce)
        return Decided(name.part, receipt.path, receipt.size_bytes, receipt.rows, counts, lost)


@lru_cache(maxsize=1)
def _ledger(lake: str, s3: str, version: int) -> Ledger:
    """Return the ledger of a version; a worker reads it once."""
    table = Lake.open(lake, S3Section.model_validate_json(s3))["ledger"]
    return ledger_of(table.read(snapshot=table.snapshot(version)).sort_by("seq"))


def _rows(lake: str, s3: str, part: Part, columns: list[str]) -> pa.Table:
    return read_file(cached_store(lake, s3), INDEX, part.path, columns)


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


def _within_partition(partition: str | None, decisions: Decisions, sources: pa.ChunkedArray) -> Decisions:
    """The decisions, with photos of another source refused where the lake is a partition of one source."""
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
