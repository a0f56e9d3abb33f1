"""Lists the photos under a folder or a bucket prefix, in bounded memory, with a record of what is left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from facelake.errors import ConfigError, Retryable
from facelake.lake.corpora.selection import LeftOut, Selection
from facelake.lake.directory import DirectoryStore
from facelake.lake.object_store import ObjectStore, StoredObject
from facelake.lake.store import listed_by_folders


def list_photos(
    store: ObjectStore, selection: Selection, left_out: LeftOut, *, follow_links: bool = False, to_the_end: bool = False
) -> Iterator[StoredObject]:
    """Yield the selected files under the store's root; keys are paths relative to it.

    A folder that is left out is counted once and not entered. For a caller that reads all of them, `to_the_end`, large
    folders of a bucket are listed at the same time.

    Raises:
        ConfigError: no such folder.
        Retryable: the store fails.
    """
    if isinstance(store, DirectoryStore):
        yield from _Walk(store.root, selection, left_out, follow_links=follow_links).files()
        return
    folders: set[str] = set()  # left out; few, since each is named once
    for item in listed_by_folders(store) if to_the_end else store.list():
        if item.key.endswith("/"):
            continue  # a marker that a browser of buckets made for a folder
        unwanted = selection.why_not_path(item.key)
        if unwanted is None:
            yield item
        elif unwanted[1] == item.key or unwanted[1] not in folders:
            left_out.add(*unwanted)
            if unwanted[1] != item.key:
                folders.add(unwanted[1])


class _Walk:
    """A walk through a directory in name order that records links, loops and unreadable folders."""

    def __init__(self, root: Path, selection: Selection, left_out: LeftOut, *, follow_links: bool) -> None:
        self._root, self._selection, self._left_out, self._follow = root, selection, left_out, follow_links
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
            if reason := self._selection.why_not_part(entry.name):
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
        elif reason := self._selection.why_not(name):
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
        return None if self._follow else "links"
