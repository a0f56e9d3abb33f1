"""A corpus of Parquet files with encoded photos, read in bounded memory. Only `import` and erasure write such files."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.config import S3Section
from facelake.corpus_config import ColumnRule
from facelake.errors import ConfigError, Retryable
from facelake.lake.corpora.field_ids import FieldIds, current_columns
from facelake.lake.corpora.listing import list_containers, nothing_left
from facelake.lake.corpora.parquet_checks import REPLACE, check_columns, check_image, check_inflation, described
from facelake.lake.corpora.rules import (
    COLUMNS,
    Rules,
    apply_rules,
    check_names,
    column_at,
    columns_needed,
    normal_form,
    unread_times,
    with_constants,
)
from facelake.lake.corpora.selection import LeftOut, Selection
from facelake.lake.corpora.short_texts import short_texts
from facelake.lake.object_store import StoredObject
from facelake.lake.store import open_store, read_input

_READ_ROWS = 2  # rows read at once: dictionary encoding can expand one large photo to any number of rows
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One Parquet file of the corpus, described by its footer."""

    path: str
    """relative to the corpus root"""
    rows: int
    image_bytes: int
    """uncompressed size of the image column"""
    row_groups: tuple[int, ...]
    """rows of each row group"""


@dataclass(frozen=True, slots=True)
class ParquetForm:
    """Which columns of the files hold what. The defaults are those of the files that `import` writes."""

    image: str = "image"
    """the column, or struct field, of the encoded photos"""
    rules: Rules = field(default_factory=lambda: {name: ColumnRule(column=name) for name in COLUMNS})
    name: str | None = None
    """column with a name that need not be unique: ids are this name, `#` and digits of the photo's digest"""
    strict: bool = True
    """the columns of the rules must have the types of the tables; a column that is missing is null"""
    blank_without_photo: bool = False
    """rows without bytes are not photos: they have no id"""
    optional: frozenset[str] = frozenset(COLUMNS)
    """columns that are null where a file lacks what their rule reads"""
    fields: FieldIds | None = None
    """of an Iceberg table, whose files may have other names"""

    @property
    def ids_by_content(self) -> bool:
        """Whether an id can only be given to a photo that was read."""
        return "image_id" not in self.rules


class Corpus:
    """Parquet files with encoded photos under one root directory or bucket prefix."""

    def __init__(
        self,
        uri: str,
        s3: S3Section | None = None,
        form: ParquetForm | None = None,
        *,
        only: str | None = None,
        selection: Selection | None = None,
    ) -> None:
        """Open the files under `uri`; nothing is read yet.

        Args:
            form: the columns; default: those of CORPUS.
            only: the one file to read.
            selection: patterns of what to leave out.
        """
        self.store = open_store(uri, s3)
        self.uri, self.form, self._only = self.store.uri, form or ParquetForm(), only
        self._selection = selection or Selection((), (".*",))
        self._constants: Mapping[str, str | None] = {}
        self.left_out = LeftOut()
        self.unread_times = 0
        """rows of the file that was read last whose time of capture cannot be read"""

    def bound(self, constants: Mapping[str, str | None]) -> Corpus:
        """The same files with partition columns, whose values the log of a table gives."""
        bound = copy(self)
        bound._constants = constants
        return bound

    def objects(self) -> list[StoredObject]:
        """The Parquet files in key order, without hidden ones and those whose path starts with `_`.

        Raises:
            ConfigError: there are none, or they belong to a Delta or Iceberg table, which must not be read as files.
        """
        self.left_out = LeftOut()
        if self._only is not None:
            described = self.store.stat(self._only)
            objects = [described] if described else []
        else:
            objects = list_containers(self.store, (".parquet",), self._why_not, self.left_out)
        if not objects:
            raise nothing_left(".parquet", self.left_out, self.uri)
        return objects

    def _why_not(self, key: str) -> tuple[str, str] | None:
        if not key.lower().endswith(".parquet"):
            return self._selection.excluded(key)
        if any(part.startswith("_") for part in key.split("/")):
            return "names that start with _", key
        return self._selection.why_not(key)

    def paths(self) -> list[str]:
        """Paths of `objects`."""
        return [item.key for item in self.objects()]

    def inspect(self, path: str) -> CorpusFile:
        """Read a file's footer and check its columns.

        Raises:
            ConfigError: truncated or not Parquet, required columns missing, or an image column without encoded images.
        """
        with self._open(path) as file:
            return self._inspected(path, file)

    def check(self, path: str) -> None:
        """Check what `inspect` does, and that the rules can be applied to the file's columns; reads only the footer.

        Raises:
            ConfigError: as `inspect`, or a column that a rule names is missing, or is no text or number.
        """
        with self._open(path) as file:
            self._inspected(path, file)
            table = file.schema_arrow.empty_table()
            self._mapped(path, self._current(path, file, table, columns_needed(self.form.rules)))

    def _inspected(self, path: str, file: pq.ParquetFile) -> CorpusFile:
        where = f"{self.uri}/{path}"
        self._check(path, file, where)
        meta = file.metadata
        described(meta, where)
        leaves = [meta.schema.column(i).path for i in range(meta.num_columns)]
        image = self._stored(path, file, self.form.image)
        leaf = next((i for i, name in enumerate(leaves) if name == image), -1)
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        check_inflation([group.column(leaf) for group in groups], where)
        size = sum(group.column(leaf).total_uncompressed_size for group in groups)
        return CorpusFile(path, meta.num_rows, size, tuple(group.num_rows for group in groups))

    def _check(self, path: str, file: pq.ParquetFile, where: str) -> None:
        form, schema = self.form, file.schema_arrow
        own = [name for name, rule in form.rules.items() if name in form.optional and rule.column == name]
        check_names(schema.names, () if form.fields else own, where)
        if form.strict:
            check_columns(schema, form.rules, where)
        check_image(schema, self._stored(path, file, form.image) or form.image, where)

    def _stored(self, path: str, file: pq.ParquetFile, name: str) -> str | None:
        """The path of a column in a file; None if an Iceberg file lacks it."""
        if self.form.fields is None:
            return name
        return self.form.fields.paths_in(file.schema_arrow, f"{self.uri}/{path}").get(name)

    def _current(self, path: str, file: pq.ParquetFile, table: pa.Table, needed: Sequence[str]) -> pa.Table:
        """What was read of a file under the names that the table has now."""
        if (fields := self.form.fields) is None:
            return table
        paths = fields.paths_in(file.schema_arrow, f"{self.uri}/{path}")
        return current_columns(table, paths, [name for name in needed if name in fields.ids])

    def ids(self, path: str) -> pa.Table:
        """image_id, source_id, subject_ref, source_class and captured_at of every row, in row order; missing columns
        are null, and so are ids that depend on the content.
        """
        needed = columns_needed(self.form.rules)
        with self._open(path) as file:
            return self._mapped(path, self._read(path, file, needed))

    def _image_ids(self, path: str) -> pa.ChunkedArray:
        """The ids alone: workers do not know the values of partition columns, on which others may depend."""
        only = copy(self)
        only.form = replace(self.form, rules={"image_id": self.form.rules["image_id"]}, optional=frozenset(COLUMNS))
        return only.ids(path)["image_id"]

    def _read(self, path: str, file: pq.ParquetFile, needed: Sequence[str]) -> pa.Table:
        """Those of some columns that a file has, whole, by their current names."""
        present = set(file.schema_arrow.names)
        stored = [name for name in (self._stored(path, file, name) for name in needed) if name]
        names = {name if name in present else name.partition(".")[0] for name in stored} & present
        table = self._names_of(path, file, sorted(names))
        table = table if names else pa.table({"": pa.nulls(file.metadata.num_rows)})
        return self._current(path, file, table, needed) if needed else table

    def _mapped(self, path: str, table: pa.Table) -> pa.Table:
        """The columns COLUMNS of rows of a file, by the rules."""
        form, table = self.form, with_constants(table, self._constants)
        absent = {name for name in form.optional & set(form.rules) if _is_absent(form.rules[name], table)}
        rules = {name: rule for name, rule in form.rules.items() if name not in absent}
        made = apply_rules(rules, table, path)
        self.unread_times = unread_times(rules, table, made)
        return made

    def index(self, path: str, *, trusted: bool) -> pa.Table:
        """The rows of a file for table `images`: identifying columns, size and SHA-256 of each photo, in row order.

        Args:
            trusted: take digests from the column content_sha256, if there is one: facelake wrote the file.
        """
        ids = self.ids(path)
        known = self._known_digests(path) if trusted else None
        if known is not None and any(a and not b for a, b in zip(ids["image_id"].to_pylist(), known, strict=True)):
            known = None
        sizes: list[int | None] = [None] * ids.num_rows
        digests: list[str | None] = [None] * ids.num_rows
        if known is not None:
            digests = known
        else:
            for row, data in self._contents(path, 0, ids.num_rows):
                sizes[row] = len(data)
                digests[row] = None if self.form.blank_without_photo and not data else sha256(data).hexdigest()
        ids = ids.set_column(0, "image_id", self._final_ids(path, ids["image_id"].combine_chunks(), digests))
        made = ids.append_column("size_bytes", pa.array(sizes, pa.int64()))
        return made.append_column("content_sha256", pa.array(digests, pa.string()))

    def columns(self, path: str, names: Sequence[str]) -> pa.Table:
        """Those of the columns that a file has."""
        with self._open(path) as file:
            present = [name for name in names if name in file.schema_arrow.names]
            return self._names_of(path, file, present)

    def _known_digests(self, path: str) -> list[str | None] | None:
        with self._open(path) as file:
            if "content_sha256" not in file.schema_arrow.names:
                return None
            table = self._names_of(path, file, ["content_sha256"])
            digests: list[str | None] = table["content_sha256"].to_pylist()
            return digests

    def _final_ids(self, path: str, ids: pa.Array, digests: Sequence[str | None]) -> pa.Array:
        """Ids by content where the form says so, and none for rows without a photo."""
        if self.form.ids_by_content:
            names = self._names(path, len(digests))
            made = [content_id(name, digest) for name, digest in zip(names, digests, strict=True)]
            return normal_form(pa.array(made, pa.string()))
        if self.form.blank_without_photo:
            return pc.if_else(pa.array([d is not None for d in digests]), ids, pa.scalar(None, pa.string()))
        return ids

    def _names(self, path: str, rows: int) -> list[str | None]:
        if self.form.name is None:
            return [None] * rows
        with self._open(path) as file:
            table = self._read(path, file, [self.form.name])
        if column_at(table, self.form.name) is None:
            return [None] * rows
        rules = {"image_id": ColumnRule(column=self.form.name)}
        names: list[str | None] = apply_rules(rules, table, path)["image_id"].to_pylist()
        return names

    def images(
        self, path: str, start: int, end: int, wanted: Container[int] | None = None
    ) -> Iterator[tuple[int, str, bytes]]:
        """Yield (row, image_id, encoded bytes) of rows start..end-1, reading a few at a time; null images become
        b''.

        Args:
            wanted: rows that are needed; others may be left out.
        """
        ids = None if self.form.ids_by_content else self._image_ids(path)
        names = self._names(path, end) if self.form.ids_by_content and self.form.name else None
        for row, data in self._contents(path, start, end):
            if ids is not None:
                yield row, ids[row].as_py() or "", data
            else:
                yield row, content_id(names[row] if names else None, sha256(data).hexdigest()) or "", data

    def _contents(self, path: str, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        with self._open(path) as file:
            first, groups = 0, []
            skip = None
            for index in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(index).num_rows
                if first + rows > start and first < end:
                    skip = first if skip is None else skip
                    groups.append(index)
                first += rows
            row = skip or 0
            stored = self._stored(path, file, self.form.image) or self.form.image
            batches = file.iter_batches(_READ_ROWS, row_groups=groups, columns=[stored])
            while row < end and (batch := self._guard(path, lambda: next(batches, None))) is not None:
                images = column_at(pa.table(batch), stored)
                for image in images if images is not None else ():
                    if start <= row < end:
                        yield row, image.as_py() or b""
                    row += 1

    def metadata(self, path: str) -> dict[bytes, bytes]:
        """Key-value metadata of a file."""
        with self._open(path) as file:
            return dict(file.schema_arrow.metadata or {}) | dict(file.metadata.metadata or {})

    def row_groups(self, path: str) -> Iterator[pa.Table]:
        """Yield the row groups of a file as tables."""
        with self._open(path) as file:
            for index in range(file.metadata.num_row_groups):
                yield self._guard(path, partial(file.read_row_group, index))

    def image(self, path: str, row: int) -> bytes:
        """The encoded bytes of one photo."""
        return next(self.images(path, row, row + 1))[2]

    def _names_of(self, path: str, file: pq.ParquetFile, names: list[str]) -> pa.Table:
        """Columns of names of a file, whole."""

        def again(encoded: list[str]) -> pq.ParquetFile:
            return self._open(path, metadata=file.metadata, read_dictionary=encoded)

        def read() -> pa.Table:
            return pa.concat_tables(list(short_texts(file, again, names, f"{self.uri}/{path}")))

        if not file.metadata.num_rows or not names:
            top = [name if name in file.schema_arrow.names else name.partition(".")[0] for name in names]
            return file.schema_arrow.empty_table().select(top)
        return self._guard(path, read)

    def _open(self, path: str, **options: Any) -> pq.ParquetFile:
        def open_file() -> pq.ParquetFile:
            source = read_input(self.store, path)
            return pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False, **options)

        return self._guard(path, open_file)

    def _guard(self, path: str, read: Callable[[], T]) -> T:
        """The result of `read`, with errors of Arrow and the store translated."""
        where = f"{self.uri}/{path}"
        try:
            return read()
        except FileNotFoundError as err:
            raise Retryable("a corpus file was removed while it was read", where=where, next_step="run again") from err
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as err:
            raise _damaged(err, where) from err
        except OSError as err:
            # Arrow raises OSError for damaged files as well as for store faults; only the text tells them apart
            if any(word in str(err).lower() for word in ("parquet", "thrift", "eof")):
                raise _damaged(err, where) from err
            raise Retryable(f"cannot read: {str(err).splitlines()[0]}", where=where, next_step="run again") from err


def _damaged(err: Exception, where: str) -> ConfigError:
    what = f"not a readable Parquet file (truncated or damaged): {str(err).splitlines()[0]}"
    return ConfigError(what, where=where, next_step=REPLACE)


def _is_absent(rule: ColumnRule, table: pa.Table) -> bool:
    return rule.column is not None and column_at(table, rule.column) is None


def content_id(name: str | None, digest: str | None) -> str | None:
    """An id from the photo's own digest, which stays when the files are divided differently; with a name in front."""
    if digest is None:
        return None
    return f"{name}#{digest[:12]}" if name else f"sha256-{digest}"
