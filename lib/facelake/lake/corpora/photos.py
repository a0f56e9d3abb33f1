"""Reads photos that are objects, or byte ranges of tar files: ahead, in parallel, in order, in bounded memory.

Neighbouring ranges of one object are read in one request.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.fs as pafs

from facelake.config import S3Section
from facelake.errors import Unreachable
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import open_store

_THREADS = 16
_AHEAD_BYTES, _AHEAD_READS = 64 << 20, 64
_MOST_BYTES = 512 << 20  # of one photo; a larger one counts as unreadable
_JOIN_GAP, _JOIN_BYTES = 64 << 10, 8 << 20
UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, Unreachable, ValueError)
"""Errors of one photo. Others end the run: those of the store, and those of this host, as missing credentials."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a photo are."""

    uri: str
    """relative to the corpus root, absolute, or s3://"""
    size: int
    offset: int | None = None
    """None: the whole object"""


@dataclass(frozen=True, slots=True)
class _Read:
    """One request: neighbouring ranges of an object, or one whole object."""

    places: tuple[Place, ...]
    start: int
    length: int


class PhotoReader:
    """Reads photos by their places; the corpus root's store and those of other buckets are opened once."""

    def __init__(self, root: ObjectStore, s3: S3Section) -> None:
        self.root, self._s3 = root, s3
        self._stores: dict[str, ObjectStore] = {}
        self._filesystems: dict[str, tuple[pafs.FileSystem, str]] = {}

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, "facelake-photos")

    def locate(self, uri: str) -> tuple[ObjectStore, str]:
        """The store and key behind a URI.

        Raises:
            Unreachable: the scheme is not read, or a key of S3 has `..`, which stores refuse.
        """
        if "://" not in uri and not os.path.isabs(uri):
            return self.root, _s3_key(uri) if self.root.uri.startswith("s3://") else uri
        if uri.startswith("s3://"):
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            return self._opened(f"s3://{bucket}"), _s3_key(key)
        path = uri.removeprefix("file://")
        if "://" in path:
            next_step = "copy the photos to a directory or bucket, and name them there"
            raise Unreachable("photos are read from files and s3:// only", where=uri, next_step=next_step)
        return self._opened("/"), os.path.normpath(path).lstrip("/")

    def _opened(self, uri: str) -> ObjectStore:
        if uri not in self._stores:
            self._stores[uri] = open_store(uri, self._s3)
        return self._stores[uri]

    def read_all(self, places: Iterable[Place]) -> Iterator[bytes | None]:
        """Yield the bytes of each place, in order; None for a photo that is missing or unreadable.

        Raises:
            Retryable: the store failed after its retries.
            ConfigError: this host has no valid credentials.
        """
        pending: deque[tuple[_Read, Future[list[bytes | None]]]] = deque()
        ahead = 0
        for read in _joined(places):
            while pending and (ahead + read.length > _AHEAD_BYTES or len(pending) >= _AHEAD_READS):
                done, future = pending.popleft()
                ahead -= done.length
                yield from future.result()
            pending.append((read, self._pool.submit(self._perform, read)))
            ahead += read.length
        while pending:
            yield from pending.popleft()[1].result()

    def _perform(self, read: _Read) -> list[bytes | None]:
        try:
            store, key = self.locate(read.places[0].uri)
            if not key or read.length > _MOST_BYTES:
                return [None] * len(read.places)
            if read.places[0].offset is None:
                return [self._whole(store, key, read.length)]
            data = store.read_range(key, read.start, read.length)
        except UNREADABLE:
            return [None] * len(read.places)
        return [data[(place.offset or 0) - read.start :][: place.size] for place in read.places]

    def _whole(self, store: ObjectStore, key: str, size: int) -> bytes:
        """One object. Arrow's client takes a third of the CPU time of boto3, which reads what Arrow could not."""
        if not store.uri.startswith("s3://"):
            return store.read(key)
        if store.uri not in self._filesystems:
            self._filesystems[store.uri] = store.filesystem()
        filesystem, root = self._filesystems[store.uri]
        try:
            with filesystem.open_input_stream(f"{root}/{key}") as stream:
                data = bytes(stream.read())
            if len(data) == size:
                return data
        except (OSError, pa.ArrowInvalid):
            pass
        return store.read(key)


def _joined(places: Iterable[Place]) -> Iterator[_Read]:
    """Yield requests for neighbouring ranges, in order."""
    group: list[Place] = []
    for place in places:
        if group and not _near(group, place):
            yield _read_of(group)
            group = []
        group.append(place)
    if group:
        yield _read_of(group)


def _near(group: list[Place], place: Place) -> bool:
    last = group[-1]
    if place.offset is None or last.offset is None or place.uri != last.uri:
        return False
    gap = place.offset - last.offset - last.size
    return 0 <= gap <= _JOIN_GAP and place.offset + place.size - (group[0].offset or 0) <= _JOIN_BYTES


def _read_of(group: list[Place]) -> _Read:
    start = group[0].offset or 0
    return _Read(tuple(group), start, (group[-1].offset or 0) + group[-1].size - start)


def _s3_key(key: str) -> str:
    if ".." in key.split("/"):
        raise Unreachable("a key of S3 with ..", where=key, next_step="name the photo by its key in the bucket")
    return key
