"""Lists the photos under a folder or a bucket prefix, in bounded memory, with a record of what is left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from facelake.errors import ConfigError, Retryable
from facelake.lake.corpora.selection import LeftOut, Selection, is_photo_name
from facelake.lake.corpora.table_roots import refuse_tables
from facelake.lake.directory import DirectoryStore
from facelake.lake.object_store import ObjectStore, StoredObject
from facelake.lake.store import listed_by_folders

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
CONTAINERS = (".parquet", *TAR_SUFFIXES)
"""of files that may hold many photos"""
_OTHER = "of another kind"


def list_photos(
    store: ObjectStore,
    selection: Selection,
    left_out: LeftOut,
    *,
    follow_links: bool = False,
    linked: tuple[str, ...] = (),
    to_the_end: bool = False,
) -> Iterator[StoredObject]:
    """Yield the selected files under the store's root; keys are paths relative to it.

    A folder that is left out is counted once and not entered.

    Args:
        store: its root.
        selection: of the photos.
        left_out: gets what is left out.
        follow_links: whether links of a directory are followed.
        linked: suffixes of files to which links are followed in any case.
        to_the_end: whether the caller reads all of them, for which large folders are listed at the same time.

    Raises:
        ConfigError: no such folder.
        Retryable: the store fails.
    """
    if isinstance(store, DirectoryStore):
        yield from _Walk(store.root, selection, left_out, follow_links=follow_links, linked=linked).files()
        return
    listed = listed_by_folders(store) if to_the_end else store.list()
    yield from select((item for item in listed if not item.key.endswith("/")), selection.why_not_photo, left_out)


def select(
    items: Iterable[StoredObject], why_not: Callable[[str], tuple[str, str] | None], left_out: LeftOut
) -> Iterator[StoredObject]:
    """Yield the objects of a listing that are not left out.

    Args:
        items: the listing.
        why_not: reason to leave out a key, and the part of the key that it concerns: the key, or a folder above it.
        left_out: gets the others; a folder once.
    """
    folders: set[str] = set()  # left out; few, since each is named once
    for item in items:
        unwanted = why_not(item.key)
        if unwanted is None:
            yield item
        elif unwanted[1] == item.key or unwanted[1] not in folders:
            left_out.add(*unwanted)
            if unwanted[1] != item.key:
                folders.add(unwanted[1])


def list_containers(
    store: ObjectStore, suffixes: tuple[str, ...], why_not: Callable[[str], tuple[str, str] | None], left_out: LeftOut
) -> list[StoredObject]:
    """The files with photos in them, in key order; files of other kinds that may hold photos are left out.

    Args:
        store: its root.
        suffixes: of the files, in lower case.
        why_not: as for `select`.
        left_out: gets what is left out.

    Raises:
        ConfigError: Parquet files belong to a table.
    """

    def concerns(key: str) -> bool:
        return key.lower().endswith((*suffixes, *CONTAINERS)) or is_photo_name(key)

    def other(key: str) -> tuple[str, str] | None:
        if is_not_utf8(key):
            return "names that are not UTF-8", key
        accepted = key.lower().endswith((*suffixes, ".parquet"))
        return why_not(key) or (None if accepted else (_OTHER, key))

    items = refuse_tables(store.list(), store.uri) if ".parquet" in suffixes else store.list()
    found = list(select((item for item in items if concerns(item.key)), other, left_out))
    parts = [item for item in found if item.key.lower().endswith(suffixes)]
    names = {item.key.rpartition(".")[0] for item in parts}
    for item in found:
        if not item.key.lower().endswith(suffixes) and item.key.rpartition(".")[0] not in names:
            left_out.add(_OTHER, item.key)  # img2dataset writes Parquet with the texts beside each tar file
    return parts


def is_not_utf8(name: str) -> bool:
    """Whether a name holds bytes that no text has; tables cannot store it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def nothing_left(suffix: str, left_out: LeftOut, where: str) -> ConfigError:
    """The error for a corpus without files, or of which the patterns leave out all."""
    if left_out.counts.keys() & {"excluded", "not included", "hidden"}:
        what = f"corpus.include and corpus.exclude leave out every {suffix} file: {'; '.join(left_out.lines())}"
        next_step = "correct the patterns: they match names, folders and paths below corpus.uri"
        return ConfigError(what, where=where, next_step=next_step)
    what = f"the corpus is missing or contains no {suffix} file"
    next_step = "create one with `facelake import DIR`, or set `corpus` in the config"
    return ConfigError(what, where=where, next_step=next_step)


class _Walk:
    """A walk through a directory in name order that records links, loops and unreadable folders."""

    def __init__(
        self, root: Path, selection: Selection, left_out: LeftOut, *, follow_links: bool, linked: tuple[str, ...]
    ) -> None:
        self._root, self._selection, self._left_out = root, selection, left_out
        self._follow, self._followed = follow_links, linked
        self._linked: set[tuple[int, int]] = set()

    def files(self) -> Iterator[StoredObject]:
        if not self._root.is_dir():
            raise ConfigError("no such folder", where=str(self._root), next_step="give the folder with the photos")
        yield from self._folder(str(self._root), "", (os.path.realpath(self._root),))

    def _folder(self, path: str, relative: str, ancestors: tuple[str, ...]) -> Iterator[StoredObject]:
        try:
            with os.scandir(path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as err:
            if not relative:
                raise Retryable(f"cannot list: {err}", where=path, next_step="check the rights and run again") from err
            self._left_out.add("unreadable", relative)
            return
        for entry in entries:
            name = f"{relative}/{entry.name}" if relative else entry.name
            if reason := self._selection.why_excluded(name, folder=_is_folder(entry)):
                self._left_out.add(reason, name)
                continue
            try:
                name.encode()
                yield from self._entry(entry, name, ancestors)
            except UnicodeEncodeError:
                self._left_out.add("names that are not UTF-8", name)
            except OSError:
                self._left_out.add("unreadable", name)

    def _entry(self, entry: os.DirEntry[str], name: str, ancestors: tuple[str, ...]) -> Iterator[StoredObject]:
        linked = entry.is_symlink()
        if linked and (reason := self._why_not_link(entry, ancestors)):
            self._left_out.add(reason, name)
            return
        described = entry.stat()
        if stat.S_ISDIR(described.st_mode):
            real = os.path.realpath(entry.path) if linked else f"{ancestors[-1]}/{entry.name}"
            yield from self._folder(entry.path, name, (*ancestors, real))
        elif not stat.S_ISREG(described.st_mode):
            self._left_out.add("not files", name)
        elif reason := self._selection.why_not_file(name):
            self._left_out.add(reason, name)
        else:
            yield StoredObject(name, described.st_size, f"{described.st_mtime_ns:x}")

    def _why_not_link(self, entry: os.DirEntry[str], ancestors: tuple[str, ...]) -> str | None:
        """Why a link is left out: a dead one and a loop always, others unless links are followed."""
        try:
            target = os.stat(entry.path)
        except OSError:
            return "dead links"
        if stat.S_ISDIR(target.st_mode):
            real = os.path.realpath(entry.path)
            inside = any(real == ancestor or ancestor.startswith(real.rstrip("/") + "/") for ancestor in ancestors)
            place = (target.st_dev, target.st_ino)
            if inside or place in self._linked:
                return "loops"
            if self._follow:
                self._linked.add(place)
        elif entry.name.lower().endswith(self._followed):
            return None
        return None if self._follow else "links"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
