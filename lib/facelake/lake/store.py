"""One small interface over a directory and an S3 bucket: whole objects, conditional creation, listing.

Keys are relative to the store's root and use `/`. A store must honour conditional creation, because two
commits that both believe to be first lose one of the two; `probe` finds out and refuses a store that lies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa
import pyarrow.fs as pafs

from facelake.config import S3Section, read_local
from facelake.errors import ConfigError, Refused, Retryable
from facelake.lake.retrying_file import RetryingFile

_TEMPORARY = ".tmp"  # one folder for what is being written, so that leftovers can be found


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One listed object."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """What the lake needs of its storage. Errors: FileNotFoundError for a missing key, Retryable for faults."""

    uri: str

    def read(self, key: str) -> bytes: ...
    def tag(self, key: str) -> str | None:
        """A tag that changes with the object's content; None when there is no such object."""
        ...

    def write(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> bool:
        """Write only if the key does not exist; False when it did."""
        ...

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        """Write only if the object still has this tag; False when it has not."""
        ...

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Objects whose key starts with prefix (a folder), in key order."""
        ...

    def delete(self, key: str) -> None:
        """Delete; a missing key is no error."""
        ...

    def clear_leftovers(self) -> None:
        """Delete what writers that died left half written; needs exclusive use."""
        ...

    def drop_old_versions(self, prefix: str = "") -> int:
        """Delete what a versioned bucket keeps of replaced and deleted objects under prefix (a folder).

        Returns how many versions and delete markers; Refused without the rights, or if versions cannot be listed.
        """
        ...

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """An Arrow file system and the root path in it, for ranged reads of Parquet."""
        ...

    def storage_options(self) -> dict[str, str]: ...


def open_store(uri: str, s3: S3Section | None = None) -> ObjectStore:
    """The store behind a directory path, file:// or s3:// URI. Nothing is read or written yet."""
    if uri.startswith("s3://"):
        from facelake.lake.s3 import S3Store  # boto3 takes its time, and a directory needs none of it

        return S3Store(uri, s3 or S3Section())
    return DirectoryStore(uri.removeprefix("file://"))


class DirectoryStore:
    """A local directory; conditional writes by hard link and file lock."""

    def __init__(self, path: str) -> None:
        self.root = Path(os.path.abspath(os.path.expanduser(path)))
        self.uri = str(self.root)
        if "%" in self.uri:
            next_step = "Delta logs cannot name it; use another path"
            raise ConfigError("the path contains %", where=self.uri, next_step=next_step)

    def _path(self, key: str) -> Path:
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise ValueError(f"key leaves the store: {key!r}")
        return self.root / key

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def tag(self, key: str) -> str | None:
        try:
            return hashlib.sha256(self.read(key)).hexdigest()
        except FileNotFoundError:
            return None

    def _write_beside(self, target: Path, data: bytes) -> Path:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.root / _TEMPORARY).mkdir(exist_ok=True)
            prefix = f"{os.getpid()}-"
            with tempfile.NamedTemporaryFile(dir=self.root / _TEMPORARY, prefix=prefix, delete=False) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            next_step = "check the path, rights and space"
            raise Retryable(f"cannot write: {err}", where=str(target), next_step=next_step) from err
        return Path(file.name)

    def write(self, key: str, data: bytes) -> None:
        target = self._path(key)
        self._write_beside(target, data).replace(target)

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        beside = self._write_beside(target, data)
        try:
            os.link(beside, target)
        except FileExistsError:
            return False
        finally:
            beside.unlink()
        return True

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        lock = self._path(key + ".lock")
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if self.tag(key) != tag:
                return False
            self.write(key, data)
            return True

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        base = self._path(prefix) if prefix else self.root
        if not base.is_dir():
            return

        def unreadable(err: OSError) -> None:
            raise Retryable(f"cannot list: {err}", where=str(base), next_step="check the rights and run again") from err

        for folder, folders, names in os.walk(base, onerror=unreadable):
            folders[:] = sorted(name for name in folders if Path(folder, name) != self.root / _TEMPORARY)
            for name in sorted(names):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # deleted while we listed
                    yield StoredObject(path.relative_to(self.root).as_posix(), path.stat().st_size)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        for path in (self.root / _TEMPORARY).glob("*"):
            if not path.name.startswith(f"{os.getpid()}-"):  # the lease is renewed while we clear
                path.unlink(missing_ok=True)

    def drop_old_versions(self, prefix: str = "") -> int:
        return 0

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), str(self.root)

    def storage_options(self) -> dict[str, str]:
        return {}


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
