"""The index of the corpus: table `images`, one row per photo with its place and digest, updated by difference.

What did not change since the last run is not read. Parts are committed while the rest is still being hashed, so that an
interrupted run continues where it ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import DataFileName, corpus_key
from facelake.events import Notice, StageProgress
from facelake.lake.corpora.detect import CorpusSpec
from facelake.lake.corpora.opening import INDEX, CorpusPart, OpenedCorpus
from facelake.lake.corpora.selection import LeftOut
from facelake.lake.data_files import DataFile
from facelake.lake.tables import Snapshot
from facelake.plural import counted
from facelake.stages.admission.corpus_rewrite import owns_corpus
from facelake.stages.admission.index_tasks import (
    CheckTask,
    IndexedPart,
    IndexTask,
    check_part,
    compacted,
    run_index_task,
    suppression_check,
)
from facelake.stages.admission.shrinking import PRESENCE, Present, is_much, refuse_if_much
from facelake.stages.core.context import Context
from facelake.stages.core.known_ids import U64

T = TypeVar("T")
R = TypeVar("R")
_FORMAT = 2  # of the index; raised when parts must be indexed again
_LISTED = "listed"
_PART_ROWS = 4096
_COMMIT_PARTS = 64
_KEY = ("image_id", "uri")
_MARKS = ("size_bytes", "tag", "source_id", "subject_ref", "source_class", "captured_at")
_CONTENT = ("size_bytes", "tag")
_ENTRY = (*_KEY, *_MARKS)


@dataclass(frozen=True, slots=True)
class CorpusIndex:
    """The parts of the corpus in order, with the files of their rows in table `images`."""

    parts: tuple[tuple[str, DataFile], ...]
    hashed: int
    """photos of the index whose bytes were read in this run"""
    erased: int
    """listed photos of the suppression list, of which no row is kept"""
    left_out: LeftOut

    @property
    def rows(self) -> int:
        """Photos in the index."""
        return sum(file.rows for _, file in self.parts)


def update_index(context: Context, corpus: OpenedCorpus) -> CorpusIndex:
    """Bring table `images` in line with the corpus.

    Raises:
        ConfigError: the corpus is missing, damaged or lacks columns.
        Retryable: the store failed.
    """
    update = _Update(context, corpus)
    if corpus.spec.listed:
        update.listed()
    else:
        update.files()
    return update.result()


class _Update:
    """One update of the index."""

    def __init__(self, context: Context, corpus: OpenedCorpus) -> None:
        self._context, self._corpus = context, corpus
        self._table = context.lake[INDEX]
        self._before: Snapshot = self._table.snapshot()
        self._hashed = self._erased = self._parts = 0
        self._left_out = LeftOut()
        self._order: list[str] = []

    # ---- corpus files

    def files(self) -> None:
        """Index the corpus files that are new or have another tag; every one is checked before photos are read."""
        spec, lake, known = self._corpus.spec, self._context.lake, {}
        for file in self._before.files:
            known[DataFileName.parse(file.path).with_nonce("")] = file
        trusted = owns_corpus(self._context.config)
        tasks: list[IndexTask] = []
        removes = dict(known)
        parts = self._corpus.parts()
        self._left_out.merge(self._corpus.left_out)
        for part in parts:
            name = DataFileName.of_corpus_file(part.name, _digest(_FORMAT, part.tag, _form_of(spec)))
            if name in known:
                removes.pop(name)
            else:
                tasks.append(IndexTask(spec, lake.uri, lake.salt, part.name, name, part=part, trusted=trusted))
        self._order = [part.name for part in parts]
        todo = [task.part for task in tasks if task.part]
        names = {corpus_key(part.name) for part in parts}
        gone = [file for file in removes.values() if DataFileName.parse(file.path).corpus not in names]
        compared = bool(gone) and not self._context.config.corpus_may_shrink
        checked = list(_performed(self._context, check_part, [CheckTask(spec, part, compared) for part in todo]))
        if compared:
            self._refuse_shrinking(todo, checked, gone, {file.path for file in removes.values()})
        self._run(tasks, removes.values())

    def _refuse_shrinking(
        self, todo: list[CorpusPart], checked: list[U64], gone: list[DataFile], removes: set[str]
    ) -> None:
        """Raise Refused before anything is written if much of the corpus is missing. Contents are looked at only if
        ids alone say so.

        Args:
            todo: corpus files that are new or changed.
            checked: hashes of the ids in each of them.
            gone: files of the index whose corpus file is no longer there.
            removes: paths of all files of the index that are replaced or removed.
        """
        config, before = self._context.config, self._before.rows

        def rows_of(files: Iterable[DataFile]) -> Iterator[pa.Table]:
            return (self._table.file(file, PRESENCE) for file in files)

        kept = [file for file in self._before.files if file.path not in removes]
        if is_much(config, Present.of(rows_of(kept), checked).missing(rows_of(gone)), before):
            new = (self._corpus.index(part, trusted=owns_corpus(config)).select(PRESENCE) for part in todo)
            refuse_if_much(config, Present.of(chain(rows_of(kept), new)).missing(rows_of(gone)), before)

    # ---- listed photos

    def listed(self) -> None:
        """Index the photos that are new or changed, and remove those that vanished."""
        ours = [file for file in self._before.files if _is_listed(file)]
        known = _Known.of((self._table.file(file, _ENTRY) for file in ours), self._corpus.spec.root)
        foreign = [file for file in self._before.files if not _is_listed(file)]
        self._run(self._new_parts(known), ())
        self._refuse_vanishing(known, ours, foreign)
        self._run((), foreign)
        rewritten = [number for number in range(len(ours)) if known.has_changed(number)]
        self._run(self._rewritten(known, {n: ours[n] for n in rewritten}), [ours[n] for n in rewritten])
        self._left_out.merge(self._corpus.left_out)

    def _refuse_vanishing(self, known: _Known, ours: list[DataFile], foreign: list[DataFile]) -> None:
        """Raise Refused if much of the corpus vanished; the index then names more photos than there are."""
        config = self._context.config
        if config.corpus_may_shrink or not is_much(
            config, known.vanished() + sum(f.rows for f in foreign), self._before.rows
        ):
            return
        gone = [self._table.file(file, PRESENCE) for file in foreign]
        former = {file.path for file in self._before.files}
        present = [self._table.file(file, PRESENCE) for file in self._table.snapshot().files if file.path not in former]
        for number, file in enumerate(ours):
            vanished, rows = pa.array(known.of_part(number)[0]), self._table.file(file, PRESENCE)
            gone.append(rows.filter(vanished))
            present.append(rows.filter(pc.invert(vanished)))
        refuse_if_much(config, Present.of(present).missing(gone), self._before.rows)

    def _new_parts(self, known: _Known) -> Iterator[IndexTask]:
        """Yield tasks for photos that are not in the index; marks in `known` what is there and what changed."""
        lake = self._context.lake
        check = suppression_check(lake.suppressed(), lake.salt)
        pending: list[pa.Table] = []
        rows = listed = 0
        for batch in self._corpus.entries():
            new = known.mark(batch.select(list(_ENTRY)))
            if check is not None and new.num_rows:
                hit = check(new)
                self._erased += int(hit.sum())
                new = new.filter(pa.array(~hit))
            listed += batch.num_rows
            self._context.emit(StageProgress("admit", listed))
            pending.append(new)
            rows += new.num_rows
            while rows >= _PART_ROWS:
                whole = pa.concat_tables(pending)
                yield self._task(whole.slice(0, _PART_ROWS))
                pending, rows = [whole.slice(_PART_ROWS)], rows - _PART_ROWS
        if rows:
            yield self._task(pa.concat_tables(pending))

    def _task(self, rows: pa.Table, corpus_file: str | None = None) -> IndexTask:
        if corpus_file is None:
            self._parts += 1
            # later parts sort behind earlier ones; a run that decides again, since the ledger changed, has two updates
            update = f"{self._context.run_id}-{self._before.version + 1:06d}"
            corpus_file = f"{_LISTED}/{update}-{self._parts:06d}"
        if "content_sha256" not in rows.column_names:
            rows = rows.append_column("content_sha256", pa.nulls(rows.num_rows, pa.string()))
        name, lake = DataFileName.of_corpus_file(corpus_file, _LISTED), self._context.lake
        return IndexTask(self._corpus.spec, lake.uri, lake.salt, corpus_file, name, rows=rows.combine_chunks())

    def _rewritten(self, known: _Known, files: dict[int, DataFile]) -> Iterator[IndexTask]:
        """Yield tasks for parts of which photos changed or vanished, by number; none for a part that became empty."""
        for number, file in files.items():
            vanished, changed = known.of_part(number)
            rows = self._table.file(file)
            for row, entry in changed.items():
                rows = _with_row(rows, row, entry)
            rows = compacted(rows, vanished)
            if rows.num_rows:
                yield self._task(rows, rows["corpus_file"][0].as_py())

    # ---- both

    def _run(self, tasks: Iterable[IndexTask], removes: Iterable[DataFile]) -> None:
        """Run tasks and commit what they staged; a part replaces its former file in the same commit."""
        remaining = {file.path: file for file in removes}
        by_key: dict[str, list[DataFile]] = {}
        for file in remaining.values():
            by_key.setdefault(DataFileName.parse(file.path).corpus, []).append(file)
        pending: list[IndexedPart] = []

        def commit(*, last: bool = False) -> None:
            replaced = [file for part in pending for file in by_key.get(corpus_key(part.corpus_file), ())]
            doomed = {file.path: file for file in (remaining.values() if last else replaced)}
            for path in doomed:
                remaining.pop(path, None)
            adds = [part.receipt for part in pending if part.receipt]
            if adds or doomed:
                self._context.check_lease()
                self._table.commit(adds, doomed.values())
            pending.clear()

        for part in _performed(self._context, run_index_task, tasks):
            pending.append(part)
            self._hashed += part.hashed
            self._left_out.merge(part.left_out)
            if len(pending) >= _COMMIT_PARTS:
                commit()
        commit(last=True)

    def result(self) -> CorpusIndex:
        """The index after the update, and a notice of what was left out."""
        by_key = {DataFileName.parse(file.path).corpus: file for file in self._table.snapshot().files}
        if self._corpus.spec.listed:
            names = [(self._table.file(file, ["corpus_file"]), file) for file in by_key.values() if file.rows]
            parts = sorted((rows["corpus_file"][0].as_py(), file) for rows, file in names)
        else:
            parts = [(name, by_key[corpus_key(name)]) for name in self._order]
        for line in self._left_out.lines():
            self._context.emit(Notice("admit", f"left out: {line}"))
        if unread := self._left_out.unread_times:
            self._context.emit(
                Notice("admit", f"captured_at is no time, and taken as unknown: {counted(unread, 'photo')}")
            )
        return CorpusIndex(tuple(parts), self._hashed, self._erased, self._left_out)


def _performed(context: Context, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    from facelake.engines.index_pool import perform

    yield from perform(function, tasks, context.config.ray)


def _is_listed(file: DataFile) -> bool:
    return DataFileName.parse(file.path).part.startswith(_LISTED)


def _form_of(spec: CorpusSpec) -> str:
    """What the rows of a part depend on beside the file."""
    form = spec.form
    rules = form.rules if form else spec.rules
    texts = sorted(f"{name}={rule.model_dump_json()}" for name, rule in rules.items())
    section = spec.section
    fields = form and form.fields and sorted(form.fields.ids.items())
    return repr((spec.kind, form and (form.image, form.name), texts, fields, section.include, section.exclude))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _hash_rows(rows: pa.Table, columns: tuple[str, ...], seed: str = "") -> np.ndarray:
    """A 64-bit hash of some columns per row."""
    texts = [pc.fill_null(rows[name].cast(pa.string()), "\x00") for name in columns]
    joined = pc.binary_join_element_wise(*texts, pa.scalar(seed), "\x1f").to_pandas()
    return pd.util.hash_array(joined.to_numpy(dtype=object), categorize=False)


def _with_row(rows: pa.Table, row: int, entry: dict[str, object]) -> pa.Table:
    """A table with the listed values of one row; its digest is kept if the object is unchanged."""
    old = rows.slice(row, 1).to_pylist()[0]
    same = all(old[name] == entry[name] for name in _CONTENT)
    new = old | entry | {"content_sha256": old["content_sha256"] if same else None}
    middle = pa.Table.from_pylist([new], schema=rows.schema)
    return pa.concat_tables([rows.slice(0, row), middle, rows.slice(row + 1)])


class _Known:
    """What the index holds of listed photos: two hashes, a part and a row each, about 30 bytes per photo."""

    def __init__(self, keys: np.ndarray, marks: np.ndarray, part: np.ndarray, row: np.ndarray, seed: str) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._marks = keys[order], marks[order]
        self._part, self._row, self._seed = part[order], row[order], seed
        self._seen = np.zeros(len(keys), bool)
        self._changed: dict[int, dict[int, dict[str, object]]] = {}

    @classmethod
    def of(cls, parts: Iterable[pa.Table], seed: str) -> _Known:
        """Read the parts of the index."""
        keys, marks, part, row = ([np.zeros(0, kind)] for kind in (np.uint64, np.uint64, np.int32, np.int32))
        for number, rows in enumerate(parts):
            keys.append(_hash_rows(rows, _KEY))
            marks.append(_hash_rows(rows, _MARKS, seed))
            part.append(np.full(rows.num_rows, number, np.int32))
            row.append(np.arange(rows.num_rows, dtype=np.int32))
        whole = [np.concatenate(values) for values in (keys, marks, part, row)]
        return cls(whole[0], whole[1], whole[2], whole[3], seed)

    def mark(self, batch: pa.Table) -> pa.Table:
        """Mark listed photos as seen or changed; returns the rows that are new."""
        keys, marks = _hash_rows(batch, _KEY), _hash_rows(batch, _MARKS, self._seed)
        at = np.searchsorted(self._keys, keys)
        inside = np.minimum(at, max(len(self._keys) - 1, 0))
        known = self._keys[inside] == keys if len(self._keys) else np.zeros(len(keys), bool)
        first = np.zeros(len(keys), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        for number in np.flatnonzero(known & first & (self._marks[inside] != marks if len(self._keys) else False)):
            place = inside[number]
            if not self._seen[place]:
                entry = batch.slice(int(number), 1).to_pylist()[0]
                self._changed.setdefault(int(self._part[place]), {})[int(self._row[place])] = entry
        if len(self._keys):
            self._seen[inside[known]] = True
        return batch.filter(pa.array(~known & first))

    def vanished(self) -> int:
        """The number of photos that were not listed."""
        return int((~self._seen).sum())

    def has_changed(self, number: int) -> bool:
        """Whether a photo of a part changed or vanished."""
        return number in self._changed or bool((~self._seen[self._part == number]).any())

    def of_part(self, number: int) -> tuple[np.ndarray, dict[int, dict[str, object]]]:
        """Of one part: which rows (n,) vanished, and the listed values of the rows that changed."""
        own = np.flatnonzero(self._part == number)
        vanished = np.zeros(len(own), bool)
        vanished[self._row[own]] = ~self._seen[own]
        return vanished, self._changed.get(number, {})
