"""Manifests: files and tables whose rows name photos by URI."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from facelake.errors import ConfigError
from facelake.lake.corpora.field_ids import FieldIds
from facelake.lake.corpora.manifest_rows import read_rows
from facelake.lake.corpora.photos import UNREADABLE, PhotoReader
from facelake.lake.corpora.rules import (
    ROW_COLUMNS,
    Rules,
    apply_rules,
    check_names,
    column_at,
    unread_times,
    with_constants,
)
from facelake.lake.corpora.selection import LeftOut, Selection
from facelake.lake.corpora.tables import TableFile
from facelake.lake.corpora.uris import identity_of, path_below, places_of
from facelake.lake.object_store import ObjectStore, StoredObject

URI_COLUMNS = (
    *("uri", "image_uri", "s3_uri", "file_uri", "path", "image_path", "file_path", "filepath", "file", "file_name"),
    *("filename", "image_file", "location", "url", "image_url", "image", "img"),
)
_ROWS = 4096
_WHOSE = ("subject_ref", "source_id", "source_class")
_LIST_AFTER = 64  # photos of one folder that are asked for one by one before the folder is listed
_LISTED_PER_ROW = 1000  # objects listed per photo asked for before listing is given up
_FOLDERS_KEPT = 8
_THREADS = 16


@dataclass(frozen=True, slots=True)
class ManifestLayout:
    """The rows of one or more files; URIs are relative to the folder of the file, of a table to the table."""

    photos: PhotoReader
    files: Sequence[TableFile]
    uri_column: str
    rules: Rules
    selection: Selection = field(default_factory=Selection)
    fields: FieldIds | None = None
    """of an Iceberg table, whose files may have other names"""
    is_table: bool = False

    def entries(self, left_out: LeftOut) -> Iterator[pa.Table]:
        """Yield the photos that exist, with size and tag.

        Raises:
            ConfigError: a row names a web address, or a file is no table.
        """
        sizes, contradicted = _Sizes(self.photos), self._contradicted()
        for file, table in self._tables():
            for rows in self._batch(table, sizes, left_out, file.path):
                bad = np.isin(self._identities(rows["uri"].to_pylist()), contradicted)
                for uri in rows["uri"].filter(pa.array(bad)).to_pylist() if bad.any() else ():
                    left_out.add("named with different references", uri)
                yield rows.filter(pa.array(~bad)) if bad.any() else rows

    def _tables(self) -> Iterator[tuple[TableFile, pa.Table]]:
        for file in self.files:
            for table in read_rows(self.photos.root, file.path, self.fields):
                yield file, with_constants(table, file.constants)

    def _contradicted(self) -> np.ndarray:
        """Hashes of photos that are named more than once, with different persons or sources.

        One of the persons may have withdrawn: the order of the rows must not decide.
        """
        if all((rule := self.rules.get(name)) and rule.constant is not None for name in _WHOSE):
            return np.zeros(0, np.uint64)
        photos, marks = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for file, table in self._tables():
            uris = [places[0] for places in self._places(table, file.path)]
            made = apply_rules(self._rules_of(table, file.path), table, uris)
            photos.append(self._identities(uris))
            marks.append(_hash_rows(made, _WHOSE))
        pairs = pd.DataFrame({"photo": np.concatenate(photos), "mark": np.concatenate(marks)}).drop_duplicates()
        return np.asarray(pairs["photo"][pairs["photo"].duplicated()].unique())

    def _identities(self, uris: Sequence[str]) -> np.ndarray:
        """A hash of the photo that each URI names, however it is spelled."""
        return _hash([identity_of(uri, self.photos.root.uri) if uri else "" for uri in uris])

    def _rules_of(self, table: pa.Table, path: str) -> Rules:
        """The rules for a table; columns by the names of the corpus are read where a table has them."""
        own = [name for name in ROW_COLUMNS if (rule := self.rules.get(name)) is None or rule.column == name]
        check_names(table.column_names, own, path)
        absent = {name for name in own if name not in table.column_names}
        return {name: rule for name, rule in self.rules.items() if name not in absent}

    def _uris(self, table: pa.Table, path: str) -> list[str]:
        """The URIs of the rows as the manifest has them; empty where there is none."""
        column = column_at(table, self.uri_column)
        if column is None:
            what = f"the manifest has no column {self.uri_column!r}; it has {', '.join(table.column_names[:12])}"
            raise ConfigError(what, where=path, next_step="set corpus.columns.image to the column with the URIs")
        uris = ["" if value is None else str(value) for value in column.to_pylist()]
        refuse_web(uris, path)
        return uris

    def _places(self, table: pa.Table, path: str) -> list[list[str]]:
        """Where the photo of each row may be, the likeliest place first."""
        folder = "" if self.is_table else path.rpartition("/")[0]
        root = self.photos.root.uri
        return [places_of(uri, folder, root) if uri else [""] for uri in self._uris(table, path)]

    def _batch(self, table: pa.Table, sizes: _Sizes, left_out: LeftOut, path: str) -> Iterator[pa.Table]:
        places = self._places(table, path)
        wanted = np.array([self._is_wanted(place[0], left_out) for place in places], bool)
        if not wanted.all():
            table = table.filter(pa.array(wanted))
            places = [place for place, chosen in zip(places, wanted, strict=True) if chosen]
        uris, described = _existing(places, sizes)
        exists = np.array([item is not None for item in described], bool)
        for uri in (uri for uri, there in zip(uris, exists, strict=True) if not there):
            left_out.add("missing", uri or f"a row of {path} without URI")
        rules = self._rules_of(table, path)
        made = apply_rules(rules, table, uris)
        left_out.unread_times += unread_times(rules, table, made)
        made = made.append_column("uri", pa.array(uris, pa.string()))
        made = made.append_column("size_bytes", pa.array([d.size_bytes if d else None for d in described], pa.int64()))
        made = made.append_column("tag", pa.array([d.tag if d else None for d in described], pa.string()))
        if exists.any():
            yield made.filter(pa.array(exists))

    def _is_wanted(self, place: str, left_out: LeftOut) -> bool:
        unwanted = self.selection.why_not(path_below(place, self.photos.root.uri)) if place else None
        if unwanted:
            left_out.add(unwanted[0], place)
        return unwanted is None


def _existing(places: Sequence[Sequence[str]], sizes: _Sizes) -> tuple[list[str], list[StoredObject | None]]:
    """The first place of each photo at which there is one, or its likeliest place and None."""
    uris = [place[0] for place in places]
    described = sizes.of(uris)
    for number in range(1, max(map(len, places), default=0)):
        rows = [row for row, place in enumerate(places) if described[row] is None and len(place) > number]
        for row, found in zip(rows, sizes.of([places[row][number] for row in rows]), strict=True):
            if found:
                uris[row], described[row] = places[row][number], found
    return uris, described


def refuse_web(uris: Sequence[str | None], where: str) -> None:
    """Raise ConfigError if a URI is a web address."""
    web = next((uri for uri in uris if uri and uri.lower().startswith(("http://", "https://", "ftp://"))), None)
    if web:
        next_step = "download the photos where you may, and name the copies (img2dataset writes such a corpus)"
        raise ConfigError(f"photos are not fetched from the web: {web[:80]}", where=where, next_step=next_step)


class _Sizes:
    """Sizes and tags of named photos: by listing folders of which many are asked for, otherwise one by one."""

    def __init__(self, photos: PhotoReader) -> None:
        self._photos = photos
        self._asked: Counter[tuple[str, str]] = Counter()
        self._listings: OrderedDict[tuple[str, str], _Listing | None] = OrderedDict()
        self._pool = ThreadPoolExecutor(_THREADS, "facelake-sizes")

    def of(self, uris: Sequence[str]) -> list[StoredObject | None]:
        """Size and tag of each; None for those that are missing or unreadable."""
        return list(self._pool.map(self._one, zip(uris, map(self._listing, uris), strict=True)))

    def _listing(self, uri: str) -> _Listing | None:
        """The listing of a photo's folder on S3, once enough of its photos were asked for."""
        try:
            store, key = self._photos.locate(uri)
        except UNREADABLE:
            return None
        if not store.uri.startswith("s3://"):
            return None
        place = (store.uri, key.rpartition("/")[0])
        self._asked[place] += 1
        if place not in self._listings and self._asked[place] > _LIST_AFTER:
            self._listings[place] = _Listing.of(store, place[1], self._asked[place] * _LISTED_PER_ROW)
            if len(self._listings) > _FOLDERS_KEPT:
                self._listings.popitem(last=False)
        return self._listings.get(place)

    def _one(self, asked: tuple[str, _Listing | None]) -> StoredObject | None:
        uri, listing = asked
        try:
            store, key = self._photos.locate(uri)
            if not key:
                return None
            described = listing.find(key) if listing else store.stat(key)
            return described and replace(described, tag=described.tag if listing else _tag_of(described.tag))
        except UNREADABLE:
            return None


@dataclass(frozen=True, slots=True)
class _Listing:
    """The objects of a folder by the hash of their key: 24 bytes each."""

    hashes: np.ndarray
    sizes: np.ndarray
    tags: np.ndarray

    @classmethod
    def of(cls, store: ObjectStore, folder: str, most: int) -> _Listing | None:
        """List a folder; None if it holds more than `most` objects."""
        parts, items = [], store.list(folder)
        while batch := list(islice(items, _ROWS)):
            parts.append(_hashed(batch))
            if _ROWS * (len(parts) - 1) + len(batch) > most:
                return None
        parts.append(_hashed([]))
        hashes, sizes, tags = (np.concatenate([part[i] for part in parts]) for i in range(3))
        order = np.argsort(hashes)
        return cls(hashes[order], sizes[order], tags[order])

    def find(self, key: str) -> StoredObject | None:
        wanted = _hash([key])[0]
        at = int(np.searchsorted(self.hashes, wanted))
        if at >= len(self.hashes) or self.hashes[at] != wanted:
            return None
        return StoredObject(key, int(self.sizes[at]), f"{int(self.tags[at]):016x}")  # as _tag_of


def _hashed(items: list[StoredObject]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([item.size_bytes for item in items], np.int64)
    return _hash([item.key for item in items]), sizes, _hash([item.tag for item in items])


def _tag_of(tag: str) -> str:
    """A tag in the form that a listing keeps."""
    return f"{int(_hash([tag])[0]):016x}"


def _hash_rows(rows: pa.Table, names: Sequence[str]) -> np.ndarray:
    """A 64-bit hash of some text columns per row."""
    texts = [pc.fill_null(rows[name], "\x00") for name in names]
    joined = pc.binary_join_element_wise(*texts, "\x1f").to_pandas()
    return pd.util.hash_array(joined.to_numpy(dtype=object), categorize=False)


def _hash(texts: list[str]) -> np.ndarray:
    return pd.util.hash_array(np.array(texts, object), categorize=False)
