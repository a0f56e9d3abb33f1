"""Delta tables: workers stage data files, the driver commits them in one transaction, readers see all or nothing.

Only the row count goes into the log as statistics. Minimum and maximum of an identifying column would keep
a value readable in the log long after its row was erased.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from facelake.contracts import TABLES, Bool, DataFileName, Receipt
from facelake.errors import CommitConflict, CommitUnknown, Corrupt, Retryable
from facelake.lake.data_files import UNNAMED, DataFile, plain, read_file, stage
from facelake.lake.object_store import ObjectStore
from facelake.lake.open_delta import open_table, version_gone
from facelake.lake.read_ahead import read_ahead
from facelake.lake.retries import first_line, retrying
from facelake.lake.row_reader import read_some

_LOG = logging.getLogger(__name__)
_PROPERTIES = {"delta.dataSkippingNumIndexedCols": "0", "delta.checkpointInterval": "50"}
_ATTEMPTS, _FIRST_PAUSE_S = 5, 0.2
_EVENT_TABLES = frozenset(
    ("runs", "galleries", "drift", "ledger", "leases", "corrections")
)  # which get a file per event or per stage of a run
_MOST_SMALL, _SMALL_ROWS = 16, 4_096  # small files of such a table, each of which costs every reader a request


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files that make up one version of a table; version -1: the table does not exist yet."""

    version: int
    files: tuple[DataFile, ...]

    @property
    def rows(self) -> int:
        """Rows of the table at this version."""
        return sum(file.rows for file in self.files)

    def digest_paths(self) -> tuple[str, ...]:
        """The data files' paths in order: equal paths mean equal content, whatever the version number."""
        return tuple(sorted(file.path for file in self.files))


EMPTY = Snapshot(-1, ())


class _AttemptFailed(Exception):
    """One attempt to commit failed; whether it landed is read from the log."""


class Table:
    """One Delta table of the lake."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.store, self.name, self.schema = store, name, TABLES[name]
        self._uri = f"{store.uri}/{name}"

    def _open(self, version: int | None = None) -> DeltaTable | None:
        return open_table(self.store, self._uri, version)

    def version(self) -> int:
        """Newest Delta version; -1 when the table does not exist."""
        return self.snapshot().version

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The files of a version (default: the newest).

        Raises:
            VersionGone: the version can no longer be read.
            Corrupt: the table is written in a newer format, or its log names files outside of its folder.
        """
        delta = None if version == -1 else self._open(version)
        if version is not None and version >= 0 and (delta is None or delta.version() != version):
            raise version_gone(self._uri, version)
        if delta is None:
            return EMPTY
        protocol = delta.protocol()
        if protocol.min_reader_version > 3 or protocol.reader_features:
            what = f"table needs reader features that facelake does not write: {protocol.reader_features}"
            raise Corrupt(what, where=self._uri, next_step="upgrade facelake")
        adds = pa.table(cast(Any, delta.get_add_actions(flatten=True)))
        if outside := next((path for path in adds["path"].to_pylist() if "/" in path), None):
            what = f"the table's log names a file outside of its folder, in which nothing could be erased: {outside}"
            raise Corrupt(what, where=self._uri, next_step="restore the folder from a backup; nothing was changed")
        rows = zip(
            adds["path"].to_pylist(),
            adds["size_bytes"].to_pylist(),
            adds["num_records"].to_pylist(),
            strict=True,
        )
        return Snapshot(delta.version(), tuple(sorted((DataFile(*row) for row in rows), key=lambda f: f.path)))

    def read(self, columns: Sequence[str] | None = None, snapshot: Snapshot | None = None) -> pa.Table:
        """Read all rows of the table, or some of their columns, into memory; rows are in the order of file names."""
        tables = [part for _, part in self.parts(columns, snapshot)]
        names = list(columns) if columns is not None else self.schema.names
        empty = plain(pa.schema([self.schema.field(name) for name in names])).empty_table()
        return pa.concat_tables([empty, *tables]) if tables else empty

    def parts(
        self, columns: Sequence[str] | None = None, snapshot: Snapshot | None = None
    ) -> Iterator[tuple[DataFile, pa.Table]]:
        """Yield (file, rows) for each data file, so that memory stays bounded; the next file is read meanwhile."""
        files = (snapshot or self.snapshot()).files
        read = ((file, self.file(file, columns)) for file in files)
        yield from read_ahead(read) if len(files) > 1 else read

    def stage(self, data: pa.Table, name: DataFileName = UNNAMED) -> Receipt:
        """Write a data file without committing it."""
        return stage(self.store, self.name, data, name)

    def append(self, rows: list[dict[str, Any]]) -> int:
        """Stage and commit a few rows; returns the new version.

        Where a table gets a file per event, and has many small ones, one file with all their rows replaces them.
        """
        new = pa.Table.from_pylist(rows, schema=plain(self.schema))
        files = self.snapshot().files if self.name in _EVENT_TABLES else ()
        small = [file for file in files if file.rows < _SMALL_ROWS]
        if len(small) >= _MOST_SMALL:
            merged = pa.concat_tables([*(self.file(file) for file in small), new])
            with contextlib.suppress(CommitConflict):  # another writer appends, and merges, too
                return self.commit([self.stage(merged)], small)
        return self.commit([self.stage(new)])

    def replace_all(self, data: pa.Table) -> int:
        """Replace the table's content in one transaction; returns the new version."""
        old = self.snapshot()
        return self.commit([self.stage(data)] if data.num_rows else [], old.files)

    def file(self, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows of one data file."""
        wanted = list(columns) if columns is not None else self.schema.names
        kept = plain(pa.schema([self.schema.field(name) for name in wanted]))
        return read_file(self.store, self.name, file.path, wanted).cast(kept)

    def some(self, file: DataFile, take: Bool, columns: Sequence[str]) -> pa.Table:
        """Read columns of the rows of one data file for which `take` (rows,) holds, in the order of the file."""
        return read_some(self.store, self.name, file.path, take, columns)

    def where(self, column: str, values: pa.ChunkedArray, columns: Sequence[str]) -> pa.Table:
        """Return the rows whose `column` is one of the values.

        Args:
            column: name of the column to search; it must be among `columns`.
            values: of the column.
            columns: to return; they are read only from files with such rows.
        """
        wanted = pc.unique(values)
        parts = [plain(pa.schema([self.schema.field(name) for name in columns])).empty_table()]
        for file, keys in self.parts([column]):
            if pc.any(pc.is_in(keys[column], wanted)).as_py():
                rows = self.file(file, columns)  # filtered at once: few rows of many files are asked for
                parts.append(rows.filter(pc.is_in(rows[column], wanted)))
        return pa.concat_tables(parts)

    def replace_rows(self, column: str, rows: pa.Table) -> None:
        """Replace rows in one transaction, each in the data file that has a row with the same value of `column`.

        Args:
            column: identifies a row in the table.
            rows: complete new rows; those whose value is in no data file are ignored.
        """
        values = rows[column].combine_chunks()
        adds, removes = [], []
        for file, keys in self.parts([column]):
            remaining = pc.invert(pc.is_in(keys[column], values))
            if pc.all(remaining).as_py():
                continue
            removes.append(file)
            own = rows.filter(pc.is_in(values, keys[column].combine_chunks()))
            merged = pa.concat_tables([self.file(file).filter(remaining), own]).sort_by(column)
            adds.append(self.stage(merged, DataFileName.parse(file.path)))
        self.commit(adds, removes)

    def rewrite(self, files: Iterable[DataFile], columns: Sequence[str], keep: Callable[[pa.Table], pa.Array]) -> int:
        """Remove rows from data files: the files concerned are rewritten, in one transaction.

        No predicate is written to the log, so the log does not reveal what was removed.

        Args:
            files: of the newest snapshot.
            columns: that `keep` needs; the other columns are read only from files that lose rows.
            keep: called with the rows of one file; returns a bool per row, true for rows to keep.

        Returns:
            Rows removed.
        """
        adds, removes, removed = [], [], 0
        for file in files:
            remaining = keep(self.file(file, columns))
            if pc.all(remaining).as_py():
                continue
            kept = self.file(file).filter(remaining)
            removed += file.rows - kept.num_rows
            removes.append(file)
            if kept.num_rows:
                adds.append(self.stage(kept, DataFileName.parse(file.path)))
        if removes:
            self.commit(adds, removes)
        return removed

    def commit(self, adds: Iterable[Receipt], removes: Iterable[DataFile] = ()) -> int:
        """Add and remove data files in one transaction; returns the table's version after it.

        An error does not prove that the commit is missing: the log is read again, and the unique names of the added
        files show whether the attempt landed (after pyiceberg's commit loop).

        Raises:
            CommitConflict: another writer removed some of the files, or the commit failed five times.
            CommitUnknown: the log could not be read after the last attempt.
        """
        adds, removes = list(adds), list(removes)
        now_ms = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            AddAction(r.path, r.size_bytes, {}, now_ms, True, json.dumps({"numRecords": r.rows})) for r in adds
        ]
        actions += [RemoveAction(f.path, True, now_ms, f.size_bytes, {}) for f in removes]

        def attempt() -> int:
            delta = self._ensure()
            if not actions or self._landed(delta, adds, removes):
                return delta.version()
            try:
                delta.create_write_transaction(
                    actions,
                    "append",
                    cast(Any, plain(self.schema)),
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
                delta.update_incremental()
            except (DeltaError, OSError, ValueError) as err:
                raise _AttemptFailed(first_line(err)) from err
            return delta.version()

        again = retrying(
            f"commit to {self.name}",
            attempts=_ATTEMPTS,
            first_pause_s=_FIRST_PAUSE_S,
            when=lambda err: isinstance(err, _AttemptFailed),
            log=_LOG,
        )
        try:
            return again(attempt)
        except _AttemptFailed as err:
            fault = err
        try:
            if self._landed(self._ensure(), adds, removes):
                return self.version()
        except Retryable as err:
            what = f"commit may or may not have landed: {fault}"
            raise CommitUnknown(what, where=self._uri, next_step="run again: the log decides") from err
        raise CommitConflict(f"commit refused: {fault}", where=self._uri, next_step="run again") from fault.__cause__

    def _ensure(self) -> DeltaTable:
        """The table, created or extended by new columns if necessary."""
        delta = self._open()
        if delta is not None:
            return self._with_new_columns(delta)
        try:
            return DeltaTable.create(
                self._uri,
                schema=cast(Any, plain(self.schema)),
                mode="ignore",
                name=self.name,
                configuration=_PROPERTIES,
                storage_options=self.store.storage_options(),
            )
        except (DeltaError, OSError) as err:
            raise Retryable(
                f"table cannot be created: {first_line(err)}", where=self._uri, next_step="run again"
            ) from err

    def _with_new_columns(self, delta: DeltaTable) -> DeltaTable:
        """Add the columns that an older table lacks; they are null in its existing files."""
        present = {field.name for field in delta.schema().fields}
        wanted = Schema.from_arrow(cast(Any, plain(self.schema))).fields
        missing = [field for field in wanted if field.name not in present]
        if not missing:
            return delta
        try:
            delta.alter.add_columns(missing)
        except (DeltaError, OSError) as err:
            raise Retryable(
                f"columns cannot be added: {first_line(err)}", where=self._uri, next_step="run again"
            ) from err
        return self._open() or delta

    def _landed(self, delta: DeltaTable, adds: list[Receipt], removes: list[DataFile]) -> bool:
        """Whether an earlier attempt of this commit landed.

        Raises:
            CommitConflict: another writer removed some of the files.
        """
        present = set(pa.table(cast(Any, delta.get_add_actions(flatten=True)))["path"].to_pylist())
        if adds and adds[0].path in present:
            return True
        if missing := [file.path for file in removes if file.path not in present]:
            if not adds and len(missing) == len(removes):
                return True
            raise CommitConflict("another writer removed some of the files", where=missing[0], next_step="run again")
        return False

    def last_commit(self) -> tuple[int, datetime | None]:
        """Newest version and when it was committed; (-1, None) when the table does not exist."""
        delta = self._open()
        if delta is None:
            return -1, None
        entries = delta.history(1)
        stamp = entries[0].get("timestamp") if entries else None
        return delta.version(), datetime.fromtimestamp(stamp / 1000, UTC) if stamp else None

    def vacuum(self, keep_hours: int, keep_versions: Sequence[int], *, dry_run: bool) -> list[int]:
        """Delete files that no kept version uses and that have been unused (or uncommitted) for `keep_hours`.

        Needs exclusive access unless it is a dry run. Returns the files' sizes in bytes.
        """
        delta = self._open()
        if delta is None:
            return []
        kept = sorted({*keep_versions, delta.version()})

        def run(*, dry: bool) -> list[str]:
            return delta.vacuum(
                keep_hours, dry_run=dry, enforce_retention_duration=False, full=True, keep_versions=kept
            )

        stored = {item.key: item.size_bytes for item in self.store.list(self.name)}
        deletable = {f"{self.name}/{path}" for path in run(dry=True)}  # includes files that are already deleted
        sizes = [size for key, size in stored.items() if key in deletable]
        if sizes and not dry_run:
            run(dry=False)
        return sizes

    def purge_history(self) -> None:
        """Delete every file and log entry that the newest version does not need. Needs exclusive access.

        The sequence that delta-rs was measured to need: set log retention to zero, vacuum (full, to include files that
        were staged but never committed), write a checkpoint, delete the log entries that the checkpoint covers.
        """
        delta = self._open()
        if delta is None:
            return
        delta.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 seconds"})
        delta.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
        delta = self._ensure()
        delta.alter.set_table_properties({"delta.logRetentionDuration": "interval 30 days"})
        delta = self._ensure()
        delta.create_checkpoint()
        self._drop_log_before(delta.version())

    def _drop_log_before(self, version: int) -> None:
        """Delete log files before the checkpoint at `version`; delta-rs's cleanup_metadata would keep recent ones."""
        for item in list(self.store.list(f"{self.name}/_delta_log")):
            name = item.key.rsplit("/", 1)[1]
            number = name.split(".", 1)[0]
            if number.isdigit() and int(number) < version:
                self.store.delete(item.key)
