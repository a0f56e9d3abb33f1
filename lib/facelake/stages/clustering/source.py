"""Where the faces to be clustered lie: files of rows that a task can read one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.config import S3Section
from facelake.lake.data_files import data_file
from facelake.lake.store import cached_store

_ROWS = 20_000


class Source(Protocol):
    """Numbered files with columns face_id, image_id, quality, embedding."""

    def __len__(self) -> int: ...

    def batches(self, item: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of one file in order, some thousand at a time."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Parquet files outside any lake."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, item: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See Source."""
        with pq.ParquetFile(self.paths[item]) as file:
            yield from file.iter_batches(_ROWS, columns=list(columns))


@dataclass(frozen=True, slots=True)
class TableFiles:
    """Data files of one table of a lake."""

    uri: str
    s3: S3Section
    table: str
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, item: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See Source."""
        store = cached_store(self.uri, self.s3.model_dump_json())
        with data_file(store, f"{self.table}/{self.paths[item]}") as source, pq.ParquetFile(source) as file:
            yield from file.iter_batches(_ROWS, columns=list(columns))
