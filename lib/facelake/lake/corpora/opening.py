"""Opens a corpus of any kind behind one interface: what `admit` indexes, and what workers read."""

from __future__ import annotations

import socket
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from facelake.config import S3Section
from facelake.contracts import DataFileName, corpus_key
from facelake.errors import Retryable
from facelake.lake.corpora.detect import CorpusSpec, table_files
from facelake.lake.corpora.files import FilesLayout
from facelake.lake.corpora.manifest import ManifestLayout
from facelake.lake.corpora.parquet import Corpus, ParquetForm
from facelake.lake.corpora.photos import PhotoReader, Place
from facelake.lake.corpora.rules import apply_rules
from facelake.lake.corpora.selection import LeftOut
from facelake.lake.corpora.tables import TableFile
from facelake.lake.corpora.tars import TarLayout
from facelake.lake.data_files import DataFile
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import open_store
from facelake.lake.tables import Table

INDEX = "images"
_PLACE = ["corpus_row", "image_id", "uri", "byte_offset", "size_bytes"]


@dataclass(frozen=True, slots=True)
class CorpusPart:
    """A corpus file, whose rows are indexed, decided and embedded together."""

    name: str
    tag: str
    """changes with the file's content"""
    size_bytes: int
    constants: Mapping[str, str | None] = field(default_factory=dict)
    """partition columns of a Delta table, whose values are in its log and not in the file: tasks get them with the
    part, so that the log is read once and not by each task
    """


class ImageSource(Protocol):
    """Reads photos by their corpus file and row."""

    def images(
        self, path: str, start: int, end: int, wanted: Container[int] | None = None
    ) -> Iterator[tuple[int, str, bytes]]:
        """Yield (row, image_id, encoded bytes) of the rows start..end-1, or of those in `wanted`; a photo that is
        missing has no bytes.
        """
        ...


class OpenedCorpus:
    """A corpus of a known kind."""

    def __init__(self, spec: CorpusSpec) -> None:
        self.spec = spec
        self.store = open_store(spec.root, spec.s3)
        self.uri = self.store.uri + (f"/{spec.only}" if spec.only else "")
        self.left_out = LeftOut()
        self._table_files: list[TableFile] | None = None
        self._tables_left_out = LeftOut()

    def _files(self) -> list[TableFile]:
        if self._table_files is None:
            self._table_files = table_files(self.store, self.spec, self._tables_left_out)
        return self._table_files

    def _parquet(self) -> Corpus:
        spec = self.spec
        return Corpus(spec.root, spec.s3, spec.form or ParquetForm(), only=spec.only, selection=spec.selection())

    def _tars(self) -> TarLayout:
        spec = self.spec
        return TarLayout(self.store, spec.selection(), spec.rules, spec.only)

    def parts(self) -> list[CorpusPart]:
        """The corpus files in order, of kinds whose photos are rows of files.

        Raises:
            ConfigError: there are none.
        """
        if self.spec.kind in ("delta", "iceberg"):
            return [
                CorpusPart(file.path, str(file.size_bytes), file.size_bytes, file.constants) for file in self._files()
            ]
        layout = self._tars() if self.spec.kind == "webdataset" else self._parquet()
        objects = layout.objects()
        self.left_out = layout.left_out
        return [CorpusPart(item.key, item.tag, item.size_bytes) for item in objects]

    def check_present(self) -> None:
        """Raise ConfigError if there are no corpus files; photos that are objects were seen when the kind was found."""
        if not self.spec.listed:
            self.parts()

    def check(self, part: CorpusPart) -> None:
        """Check a corpus file by its footer, without reading a column. Tar files are not checked.

        Raises:
            ConfigError: it is damaged or lacks columns.
            Retryable: it was removed since it was listed, or the store failed.
        """
        if self.spec.kind != "webdataset":
            self._bound(part).check(part.name)

    def ids(self, part: CorpusPart) -> pa.Table:
        """The identifying columns of a corpus file's rows, as `Corpus.ids`, without reading photos; none of a tar file.

        Raises:
            ConfigError, Retryable: as `check`.
        """
        if self.spec.kind == "webdataset":
            return apply_rules({}, pa.table({}), part.name)
        return self._bound(part).ids(part.name)

    def _bound(self, part: CorpusPart) -> Corpus:
        return self._parquet().bound(part.constants)

    def index(self, part: CorpusPart, *, trusted: bool) -> pa.Table:
        """The rows of a corpus file for table `images`, without what the caller knows; its photos are read once.

        Args:
            trusted: facelake wrote the file, so that its digests are used.
        """
        if self.spec.kind == "webdataset":
            tars = self._tars()
            rows = tars.index(part.name)
            self.left_out.merge(tars.left_out)
            return rows
        corpus = self._bound(part)
        rows = corpus.index(part.name, trusted=trusted)
        self.left_out.unread_times += corpus.unread_times
        return rows

    def entries(self) -> Iterator[pa.Table]:
        """Yield the photos of kinds where each is an object: identifying columns, uri, size_bytes and tag."""
        spec = self.spec
        self.left_out = LeftOut()
        if spec.kind == "files":
            follow = spec.section.follow_links
            yield from FilesLayout(self.store, spec.selection(), spec.rules, follow).entries(self.left_out)
            return
        files = self._files()
        self.left_out.merge(self._tables_left_out)
        photos = PhotoReader(self.store, spec.s3)
        layout = ManifestLayout(
            photos,
            files,
            spec.uri_column or "",
            spec.rules,
            spec.row_selection(),
            spec.fields,
            is_table=spec.kind in ("delta", "iceberg"),
        )
        yield from layout.entries(self.left_out)

    def declared(self) -> Iterator[tuple[str, str, str]]:
        """Yield (location, key, value) of what Parquet files say about themselves."""
        if self.spec.listed or self.spec.kind == "webdataset":
            return
        corpus = self._parquet()
        for part in self.parts():
            for name, value in corpus.metadata(part.name).items():
                yield f"{corpus.uri}/{part.name}", name.decode("utf-8", "replace"), value.decode("utf-8", "replace")


def open_images(spec: CorpusSpec, lake_uri: str, s3: S3Section) -> ImageSource:
    """A reader of photos by corpus file and row."""
    if spec.form is not None:
        return Corpus(spec.root, spec.s3, spec.form, only=spec.only, selection=spec.selection())
    return IndexedPhotos(open_store(lake_uri, s3), PhotoReader(open_store(spec.root, spec.s3), spec.s3))


def _unreadable_here(part: str, uri: str, count: int) -> Retryable:
    """Admission has read these photos: this host lacks access, or all of them were removed since."""
    what = f"none of {count} photos of part {part}, which were indexed, can be read on host {socket.gethostname()}"
    next_step = "mount the photos on every worker and give workers access to them, then run again"
    return Retryable(what, where=uri, next_step=next_step)


class IndexedPhotos:
    """Photos whose places the lake's table `images` gives: objects, and ranges of tar files."""

    def __init__(self, lake_store: ObjectStore, photos: PhotoReader) -> None:
        self._table, self._photos = Table(lake_store, INDEX), photos
        self._places: tuple[str, pa.Table] | None = None
        self._files: dict[str, list[DataFile]] | None = None

    def images(
        self, path: str, start: int, end: int, wanted: Container[int] | None = None
    ) -> Iterator[tuple[int, str, bytes]]:
        """Implements ImageSource."""
        rows = self._rows(path).slice(start, end - start).to_pylist()
        rows = [row for row in rows if wanted is None or row["corpus_row"] in wanted]
        places = [Place(row["uri"] or "", row["size_bytes"] or 0, row["byte_offset"]) for row in rows]
        unread = 0
        for row, data in zip(rows, self._photos.read_all(places), strict=True):
            unread += data is None
            yield row["corpus_row"], row["image_id"] or "", data or b""
        if rows and unread == len(rows):
            raise _unreadable_here(path, places[0].uri, unread)

    def _rows(self, path: str) -> pa.Table:
        if self._places is None or self._places[0] != path:
            tables = [self._table.file(file, _PLACE) for file in self._data_files(path)]
            if not tables:
                what = f"the index has no part {path!r}"
                raise Retryable(what, where=f"{self._table.store.uri}/{INDEX}", next_step="run `facelake nightly`")
            self._places = (path, pa.concat_tables(tables))
        return self._places[1]

    def _data_files(self, path: str) -> list[DataFile]:
        if self._files is None or corpus_key(path) not in self._files:
            self._files = {}
            for file in self._table.snapshot().files:
                self._files.setdefault(DataFileName.parse(file.path).corpus, []).append(file)
        return self._files.get(corpus_key(path), [])
