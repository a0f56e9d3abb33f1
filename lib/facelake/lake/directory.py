"""The object store of a local directory: conditional writes by hard link and file lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow.fs as pafs

from facelake.errors import ConfigError, Retryable
from facelake.lake.object_store import StoredObject

_TEMPORARY = ".tmp"  # one folder for unfinished writes, so that leftovers can be found and deleted

_COPIED_BYTES = 1 << 20

_IN_FLIGHT: set[str] = set()  # temporary files that threads of this process are writing
_IN_FLIGHT_LOCK = threading.Lock()


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
        with _no_file():
            return self._path(key).read_bytes()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with _no_file(), self._path(key).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, start)

    def stat(self, key: str) -> StoredObject | None:
        try:
            with _no_file():
                described = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _described(key, described) if stat.S_ISREG(described.st_mode) else None

    def tag(self, key: str) -> str | None:
        try:
            return hashlib.sha256(self.read(key)).hexdigest()
        except FileNotFoundError:
            return None

    def _write_beside(self, target: Path, data: bytes) -> Path:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.root / _TEMPORARY).mkdir(exist_ok=True)
            with _IN_FLIGHT_LOCK:
                file = tempfile.NamedTemporaryFile(  # noqa: SIM115  closed below, outside of the lock
                    dir=self.root / _TEMPORARY, prefix=f"{os.getpid()}-", delete=False
                )
                _IN_FLIGHT.add(file.name)
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            raise _unwritable(err, target) from err
        return Path(file.name)

    def write(self, key: str, data: bytes) -> None:
        target = self._path(key)
        beside = self._write_beside(target, data)
        try:
            beside.replace(target)
        finally:
            _IN_FLIGHT.discard(str(beside))

    def upload(self, key: str, file: Path) -> None:
        beside = self._write_beside(self._path(key), b"")
        try:
            with file.open("rb") as source, beside.open("wb") as sink:
                shutil.copyfileobj(source, sink, _COPIED_BYTES)
                sink.flush()
                os.fsync(sink.fileno())
            beside.replace(self._path(key))
        except OSError as err:
            raise _unwritable(err, self._path(key)) from err
        finally:
            _IN_FLIGHT.discard(str(beside))

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        beside = self._write_beside(target, data)
        try:
            os.link(beside, target)
        except FileExistsError:
            return False
        finally:
            beside.unlink()
            _IN_FLIGHT.discard(str(beside))
        return True

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        lock = self._path(key + ".lock")
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if self.tag(key) != tag:
                return False
            self.write(key, data)
            return True

    def list(self, prefix: str = "", *, follow_links: bool = False) -> Iterator[StoredObject]:
        """Objects whose key starts with prefix (a folder), in key order; with `follow_links` also those in folders
        that symbolic links lead to, each folder once.
        """
        base = self._path(prefix) if prefix else self.root
        if not base.is_dir():
            return
        entered: set[tuple[int, int]] = set()

        def unreadable(err: OSError) -> None:
            raise Retryable(f"cannot list: {err}", where=str(base), next_step="check the rights and run again") from err

        for folder, folders, names in os.walk(base, onerror=unreadable, followlinks=follow_links):
            if follow_links and not _is_first(folder, entered):
                folders.clear()  # a loop, or a second link to the same folder
                continue
            folders[:] = sorted(name for name in folders if Path(folder, name) != self.root / _TEMPORARY)
            for name in sorted(names):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError), _no_file():  # deleted while we listed
                    described = path.stat()
                    if stat.S_ISREG(described.st_mode):  # reading a pipe would never end
                        yield _described(path.relative_to(self.root).as_posix(), described)

    def names_without_objects(self) -> Iterator[str]:
        """Yield the paths of empty folders and of entries that `list` leaves out: links to nothing, pipes, sockets."""
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if Path(folder, name) != self.root / _TEMPORARY]
            inside = Path(folder).relative_to(self.root).as_posix()
            if not folders and not names and inside != ".":
                yield inside
            for path in (Path(folder, name) for name in names):
                if not path.is_file():
                    yield path.relative_to(self.root).as_posix()

    def links_outside(self) -> Iterator[str]:
        """Yield the keys of links to files that are not under this directory: deleting the object leaves them."""
        links: list[tuple[str, str]] = []
        inside: set[tuple[int, int]] = set()
        for item in self.list(follow_links=True):
            path = self.root / item.key
            if path.is_symlink():
                links.append((item.key, str(path)))
        for item in self.list(follow_links=True) if links else ():
            path = self.root / item.key
            with contextlib.suppress(FileNotFoundError):
                if not path.is_symlink():
                    status = path.stat()
                    inside.add((status.st_dev, status.st_ino))
        for key, name in links:
            with contextlib.suppress(FileNotFoundError), _no_file():
                status = os.stat(name)
                if (status.st_dev, status.st_ino) not in inside:
                    yield key

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def purge(self, key: str) -> None:
        self.delete(key)

    def clear_leftovers(self) -> None:
        for path in (self.root / _TEMPORARY).glob("*"):
            with _IN_FLIGHT_LOCK:  # the lease is renewed while we clear
                if str(path) in _IN_FLIGHT:
                    continue
                try:
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    path.unlink(missing_ok=True)
                except OSError as err:
                    next_step = "delete it and run again"
                    raise Retryable(f"cannot delete: {err}", where=str(path), next_step=next_step) from err

    def drop_old_versions(self, prefix: str = "") -> int:
        return 0

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), str(self.root)

    def storage_options(self) -> dict[str, str]:
        return {}


@contextlib.contextmanager
def _no_file() -> Iterator[None]:
    """Names by which there can be no file: too long ones, and links in a circle."""
    try:
        yield
    except OSError as err:
        if err.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise FileNotFoundError(err.errno, err.strerror, err.filename) from err


def _is_first(folder: str, entered: set[tuple[int, int]]) -> bool:
    """Whether a folder was not entered before; it is then."""
    status = os.stat(folder)
    place = status.st_dev, status.st_ino
    known = place in entered
    entered.add(place)
    return not known


def _described(key: str, status: os.stat_result) -> StoredObject:
    return StoredObject(key, status.st_size, f"{status.st_mtime_ns:x}")


def _unwritable(err: OSError, target: Path) -> Retryable:
    next_step = "check the path and its rights"
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        # every command that writes takes a lease first, `vacuum` too
        next_step = "free space on this disk, then run again; with a megabyte free, `facelake vacuum` can delete data "
        next_step += "files that no kept version needs"
    return Retryable(f"cannot write: {err.strerror or err}", where=str(target), next_step=next_step)
