"""The corpus: Parquet files of encoded photos, read in bounded memory, never written (but see `import`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.config import S3Section
from facelake.contracts import CORPUS_REQUIRED
from facelake.errors import ConfigError, Retryable
from facelake.lake.store import open_store, read_input

_READ_ROWS = 2  # photos decoded from Parquet at once: a dictionary makes any number of large ones from one
_MOST_INFLATED, _LEAST_INFLATED = 8, 512 << 20
_IDS = ("image_id", "source_id", "subject_ref", "source_class")
_STRING = ("string", "large_string", "string_view")
_BINARY = ("binary", "large_binary", "binary_view")


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One Parquet file of the corpus, as its footer tells."""

    path: str
    """relative to the corpus root"""
    rows: int
    image_bytes: int
    """uncompressed size of the image column"""
    row_groups: tuple[int, ...]
    """rows of each row group"""


class Corpus:
    """The corpus under one root."""

    def __init__(self, uri: str, s3: S3Section | None = None) -> None:
        self.store = open_store(uri, s3)
        self.uri = self.store.uri

    def paths(self) -> list[str]:
        """Parquet files in order, hidden ones left out.

        Raises:
            ConfigError: there is none.
        """
        found = [
            item.key
            for item in self.store.list()
            if item.key.endswith(".parquet") and not any(part.startswith(("_", ".")) for part in item.key.split("/"))
        ]
        if not found:
            next_step = "make one with `facelake import DIR`, or set `corpus` in the config"
            raise ConfigError("the corpus is missing or holds no .parquet file", where=self.uri, next_step=next_step)
        return found

    def inspect(self, path: str) -> CorpusFile:
        """Read a file's footer and check its columns.

        Raises:
            ConfigError: truncated or not Parquet, without the needed columns, or with photos that cannot be photos.
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
        """image_id, source_id, subject_ref, source_class of every row, in row order; a missing column is null."""
        with self._open(path) as file:
            names = [n for n in _IDS if n in file.schema_arrow.names]
            table = self._guard(path, lambda: file.read(columns=names))
        for name in _IDS:
            if name not in names:
                table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        wanted = pa.schema([(n, pa.string()) for n in _IDS])
        return table.select(wanted.names).cast(wanted)

    def images(self, path: str, start: int, end: int) -> Iterator[tuple[int, str, bytes]]:
        """(row, image_id, encoded bytes) of rows start..end, a few at a time; null bytes become b''."""
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
        """The file row group by row group."""
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

    def _guard(self, path: str, read: Callable[[], Any]) -> Any:
        where = f"{self.uri}/{path}"
        try:
            return read()
        except FileNotFoundError as err:
            raise Retryable("a corpus file vanished while it was read", where=where, next_step="run again") from err
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as err:
            what = f"not a readable Parquet file (truncated or damaged): {str(err).splitlines()[0]}"
            raise ConfigError(what, where=where, next_step="replace the file or move it out of the corpus") from err
        except OSError as err:
            if "parquet" in str(err).lower() or "thrift" in str(err).lower() or "eof" in str(err).lower():
                what = f"not a readable Parquet file (truncated or damaged): {str(err).splitlines()[0]}"
                raise ConfigError(what, where=where, next_step="replace the file or move it out of the corpus") from err
            raise Retryable(f"cannot read: {str(err).splitlines()[0]}", where=where, next_step="run again") from err


def _check_inflation(chunks: list[Any], where: str) -> None:
    """Encoded photos are compressed already; Arrow holds a page that inflates several times over."""
    for chunk in chunks:
        packed, size = chunk.total_compressed_size, chunk.total_uncompressed_size
        if size > _LEAST_INFLATED and size > _MOST_INFLATED * packed:
            what = f"{packed} bytes of the image column become {size}: these are no encoded photos"
            raise ConfigError(what, where=where, next_step="replace the file or move it out of the corpus")


def _check_columns(schema: pa.Schema, where: str) -> None:
    missing = [name for name in CORPUS_REQUIRED if name not in schema.names]
    if missing:
        what = f"the corpus lacks the column(s) {', '.join(missing)}; it has {', '.join(schema.names[:12])}"
        raise ConfigError(
            what, where=where, next_step="a corpus file needs image_id, image, source_id (docs/tables.md)"
        )
    for name in (*_IDS, "image"):
        if name not in schema.names:
            continue
        wanted = _BINARY if name == "image" else _STRING
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if str(kind) not in wanted and not (pa.types.is_null(kind) and name not in CORPUS_REQUIRED):
            what = f"corpus column {name} is {kind}, it must be {wanted[0]}"
            raise ConfigError(what, where=where, next_step="rewrite the file with the right type")
