"""The corpus: Parquet files of encoded photos, read in bounded memory. Only `import` and erasure write corpus files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.config import S3Section
from facelake.contracts import CORPUS_REQUIRED
from facelake.errors import ConfigError, Retryable
from facelake.lake.store import open_store, read_input

_READ_ROWS = 2  # rows read at once: dictionary encoding can expand one large photo to any number of rows
_MOST_INFLATED, _LEAST_INFLATED = 8, 512 << 20  # ratio and size above which the image column is refused
_IDS = ("image_id", "source_id", "subject_ref", "source_class")
_STRING = ("string", "large_string", "string_view")
_BINARY = ("binary", "large_binary", "binary_view")
_REPLACE = "replace the file or move it out of the corpus"
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


class Corpus:
    """The corpus files under one root directory or bucket prefix."""

    def __init__(self, uri: str, s3: S3Section | None = None) -> None:
        self.store = open_store(uri, s3)
        self.uri = self.store.uri

    def paths(self) -> list[str]:
        """Paths of the Parquet files in key order, without hidden ones.

        Raises:
            ConfigError: there are none.
        """
        paths = [
            item.key
            for item in self.store.list()
            if item.key.endswith(".parquet") and not any(part.startswith(("_", ".")) for part in item.key.split("/"))
        ]
        if not paths:
            next_step = "create one with `facelake import DIR`, or set `corpus` in the config"
            raise ConfigError("the corpus is missing or contains no .parquet file", where=self.uri, next_step=next_step)
        return paths

    def inspect(self, path: str) -> CorpusFile:
        """Read a file's footer and check its columns.

        Raises:
            ConfigError: truncated or not Parquet, required columns missing, or an image column without encoded images.
        """
        with self._open(path) as file:
            _check_columns(file.schema_arrow, f"{self.uri}/{path}")
            meta = file.metadata
            leaf = next(i for i in range(meta.num_columns) if meta.schema.column(i).path.split(".")[0] == "image")
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            _check_inflation([group.column(leaf) for group in groups], f"{self.uri}/{path}")
            size = sum(group.column(leaf).total_uncompressed_size for group in groups)
            return CorpusFile(path, meta.num_rows, size, tuple(group.num_rows for group in groups))

    def ids(self, path: str) -> pa.Table:
        """image_id, source_id, subject_ref and source_class (strings) of every row, in row order; missing columns are
        null.
        """
        with self._open(path) as file:
            names = [n for n in _IDS if n in file.schema_arrow.names]
            table = self._guard(path, lambda: file.read(columns=names))
        for name in _IDS:
            if name not in names:
                table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        wanted = pa.schema([(n, pa.string()) for n in _IDS])
        return table.select(wanted.names).cast(wanted)

    def images(self, path: str, start: int, end: int) -> Iterator[tuple[int, str, bytes]]:
        """Yield (row, image_id, encoded bytes) of rows start..end-1, reading a few at a time; null images become
        b''.
        """
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
            batches = file.iter_batches(_READ_ROWS, row_groups=groups, columns=["image_id", "image"])
            while row < end and (batch := self._guard(path, lambda: next(batches, None))) is not None:
                for ident, image in zip(batch.column("image_id"), batch.column("image"), strict=True):
                    if start <= row < end:
                        yield row, ident.as_py() or "", image.as_py() or b""
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

    def _open(self, path: str) -> pq.ParquetFile:
        def open_file() -> pq.ParquetFile:
            source = read_input(self.store, path)
            return pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)

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
    return ConfigError(what, where=where, next_step=_REPLACE)


def _check_inflation(chunks: list[pq.ColumnChunkMetaData], where: str) -> None:
    """Refuse an image column that expands far beyond its stored size: encoded images do not compress, and Arrow keeps
    a whole decompressed page in memory.
    """
    for chunk in chunks:
        packed, size = chunk.total_compressed_size, chunk.total_uncompressed_size
        if size > _LEAST_INFLATED and size > _MOST_INFLATED * packed:
            what = f"the image column does not contain encoded images: {packed} bytes decompress to {size}"
            raise ConfigError(what, where=where, next_step=_REPLACE)


def _check_columns(schema: pa.Schema, where: str) -> None:
    missing = [name for name in CORPUS_REQUIRED if name not in schema.names]
    if missing:
        what = f"the corpus lacks the column(s) {', '.join(missing)}; it has {', '.join(schema.names[:12])}"
        raise ConfigError(
            what, where=where, next_step="write image_id, image and source_id as described in docs/tables.md"
        )
    for name in (*_IDS, "image"):
        if name not in schema.names:
            continue
        wanted = _BINARY if name == "image" else _STRING
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if str(kind) not in wanted and not (pa.types.is_null(kind) and name not in CORPUS_REQUIRED):
            what = f"corpus column {name} is {kind}; it must be {wanted[0]}"
            raise ConfigError(what, where=where, next_step="rewrite the file with the right type")
