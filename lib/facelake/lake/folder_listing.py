"""Lists many objects of a bucket: large folders at the same time, everything else page after page.

A page names at most 1,000 objects, and the next one cannot be requested before it has come. From a store that takes
100 ms for a page, ten million objects come in 17 minutes if one page follows the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from facelake.lake.object_store import StoredObject
from facelake.lake.read_ahead import read_ahead

_STREAMS = 8  # folders that are listed at the same time
_AHEAD = 32  # pages that each of them keeps until its turn comes; 80 MB in all
_ENOUGH = 64  # folders that are not divided further
_LEVELS = 3  # of folders that are divided, so that years, months and days become days
_ENTRIES = 10  # pages of folders in one folder, beyond which they are taken to be small
_SAMPLE = 8  # folders of which one page tells whether they are large


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the store.

    Attributes:
        objects: in key order.
        folders: names that end with "/", in key order; empty unless they were asked for.
        following: what to ask for the next page with; "" after the last one.
    """

    objects: list[StoredObject]
    folders: list[str]
    following: str


class Pages(Protocol):
    """Requests a page of a folder; errors are those of the store."""

    def __call__(self, folder: str, *, after: str = "", own: bool = False) -> Page:
        """Return the page that follows `after`, of everything in the folder, whose name is "" or ends with "/".

        With `own`, objects in its folders are left out, and the folders are named.
        """
        ...


def page_by_page(page: Pages, folder: str) -> Iterator[StoredObject]:
    """Return the objects of a folder and of all folders in it, in the store's order."""
    return chain.from_iterable(_pages(page, folder))


def list_by_folders(page: Pages, root: str = "") -> Iterator[StoredObject]:
    """Yield the objects of `page_by_page`: in key order if there is no folder, or most folders are of several pages.

    Closing the generator waits for the pages that are being requested.
    """
    pieces = _divided(page, root)
    folders = [piece for piece in pieces if isinstance(piece, str)]
    if not folders or _are_large(page, folders):
        yield from _at_once(page, pieces)
    else:
        yield from chain.from_iterable(read_ahead(_pages(page, root)))


def _pages(page: Pages, folder: str, after: str = "") -> Iterator[list[StoredObject]]:
    while True:
        found = page(folder, after=after)
        yield found.objects
        if not (after := found.following):
            return


def _divided(page: Pages, root: str) -> list[StoredObject | str]:
    """Objects and folders that are all that is in the root, in key order; its folders are divided level by level."""
    pieces: list[StoredObject | str] = [root]
    with ThreadPoolExecutor(_STREAMS, "facelake-listing") as pool:
        for _ in range(_LEVELS):
            folders = [piece for piece in pieces if isinstance(piece, str)]
            if len(folders) >= _ENOUGH:
                break
            entries = dict(zip(folders, pool.map(lambda folder: _entries(page, folder), folders), strict=True))
            if not any(entries.values()):
                break
            pieces = [part for piece in pieces for part in (entries.get(piece) or [piece])]  # type: ignore[arg-type]
    return pieces


def _entries(page: Pages, folder: str) -> list[StoredObject | str] | None:
    """What a folder has itself, in key order; None if it has many files and no folder, or very many folders."""
    found: list[StoredObject | str] = []
    after = ""
    for _ in range(_ENTRIES):
        part = page(folder, after=after, own=True)
        found += [*part.objects, *part.folders]
        if not (after := part.following):
            return sorted(found, key=lambda entry: entry if isinstance(entry, str) else entry.key)
        if not any(isinstance(entry, str) for entry in found):
            return None
    return None


def _are_large(page: Pages, folders: list[str]) -> bool:
    """Whether at least half of some folders are of several pages, so that to list each costs few more requests."""
    if len(folders) < 2:
        return False
    some = folders[:: -(-len(folders) // _SAMPLE)]
    with ThreadPoolExecutor(len(some), "facelake-listing") as pool:
        return sum(bool(first.following) for first in pool.map(page, some)) * 2 >= len(some)


def _at_once(page: Pages, pieces: list[StoredObject | str]) -> Iterator[StoredObject]:
    """Yield the objects of the pieces in their order, while the next folders are being listed."""

    def first_pages(folder: str) -> tuple[list[StoredObject], str]:
        objects, after = list[StoredObject](), ""
        for _ in range(_AHEAD):
            found = page(folder, after=after)
            objects += found.objects
            if not (after := found.following):
                break
        return objects, after

    pool = ThreadPoolExecutor(_STREAMS, "facelake-listing")
    waiting = deque(piece for piece in pieces if isinstance(piece, str))
    begun: deque[Future[tuple[list[StoredObject], str]]] = deque()
    try:
        for piece in pieces:
            if isinstance(piece, StoredObject):
                yield piece
                continue
            while waiting and len(begun) < _STREAMS:
                begun.append(pool.submit(first_pages, waiting.popleft()))
            objects, after = begun.popleft().result()
            yield from objects
            if after:
                yield from chain.from_iterable(read_ahead(_pages(page, piece, after)))
    finally:
        pool.shutdown(cancel_futures=True)
