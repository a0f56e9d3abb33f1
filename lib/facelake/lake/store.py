"""Opens the object store behind a URI, probes it for conditional writes, and reads single objects.

A store must honour conditional creation: otherwise two commits can both succeed as "first", and one is lost.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs as pafs

from facelake.config import S3Section, read_local
from facelake.errors import ConfigError, Refused, Retryable
from facelake.lake.directory import DirectoryStore
from facelake.lake.folder_listing import list_by_folders
from facelake.lake.object_store import ObjectStore, StoredObject
from facelake.lake.retrying_file import RetryingFile


def open_store(uri: str, s3: S3Section | None = None) -> ObjectStore:
    """The store behind a directory path, file:// or s3:// URI. Nothing is read or written yet."""
    if uri.startswith("s3://"):
        from facelake.lake.s3 import S3Store  # boto3 takes its time, and a directory needs none of it

        return S3Store(uri, s3 or S3Section())
    return DirectoryStore(uri.removeprefix("file://"))


def listed_by_folders(store: ObjectStore) -> Iterator[StoredObject]:
    """Yield every object under the root of a store, faster than `list` where a bucket has large folders."""
    if isinstance(store, DirectoryStore):
        return store.list()
    from facelake.lake.s3 import S3Store

    return list_by_folders(store.page) if isinstance(store, S3Store) else store.list()


def every_object(store: ObjectStore) -> Iterator[StoredObject]:
    """Yield every object under the root of a store, also what symbolic links to folders lead to."""
    return store.list(follow_links=True) if isinstance(store, DirectoryStore) else store.list()


def names_without_objects(store: ObjectStore) -> Iterator[str]:
    """Yield the names, in a folder, of what `every_object` does not: empty folders, links to nothing, pipes."""
    if isinstance(store, DirectoryStore):
        yield from store.names_without_objects()


def links_outside(store: ObjectStore) -> Iterator[str]:
    """Yield the keys of objects that are links to files elsewhere, which deleting the object leaves."""
    if isinstance(store, DirectoryStore):
        yield from store.links_outside()


@lru_cache(maxsize=4)
def cached_store(uri: str, s3: str) -> ObjectStore:
    """Return a store that a worker keeps for its next task: an S3 client takes a tenth of a second of CPU to make.

    Args:
        uri: as for `open_store`.
        s3: the config's s3 section as JSON.
    """
    return open_store(uri, S3Section.model_validate_json(s3))


def probe(store: ObjectStore) -> None:
    """Check that the store can be written and honours conditional creation and replacement.

    Raises:
        Refused: the store answers success to a conditional write whose condition is false.
        ConfigError, Retryable: it cannot be reached or written.
    """
    key = f"probe/{secrets.token_hex(8)}"
    try:
        first, second = store.create(key, b"1"), store.create(key, b"2")
        stale = first and store.replace(key, b"3", '"0123456789abcdef0123456789abcdef"')
    finally:
        with contextlib.suppress(Retryable, ConfigError):
            store.delete(key)
            store.delete(key + ".lock")
    if not first or second or stale:
        what = "the store ignores conditional writes (If-None-Match, If-Match): concurrent commits would be lost"
        raise Refused(what, where=store.uri, next_step="use a store that honours them (see docs/storage.md)")


def read_text(uri: str) -> str:
    """The text of a local file or of s3://bucket/key, the store being what AWS_ENDPOINT_URL says.

    Raises:
        OSError, FileNotFoundError: as for a local file.
        ConfigError, Retryable: the store denies access or does not answer.
    """
    if not uri.startswith("s3://"):
        return read_local(uri)
    folder, _, key = uri.rpartition("/")
    return open_store(folder).read(key).decode("utf-8")


def read_input(store: ObjectStore, key: str) -> pa.NativeFile:
    """Open an object for ranged reads."""
    filesystem, root = store.filesystem()
    try:
        source = filesystem.open_input_file(f"{root}/{key}")
        return source if isinstance(filesystem, pafs.LocalFileSystem) else pa.PythonFile(RetryingFile(source), mode="r")
    except FileNotFoundError:
        raise
    except OSError as err:
        next_step = "check the store and run again"
        raise Retryable(f"cannot open: {err}", where=f"{store.uri}/{key}", next_step=next_step) from err
