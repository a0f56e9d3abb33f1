"""list_by_folders: the same objects as page by page, in key order, with fewer requests that wait for each other."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.errors import Retryable
from facelake.lake import folder_listing
from facelake.lake.folder_listing import Page, list_by_folders, page_by_page
from facelake.lake.object_store import StoredObject


class Bucket:
    """Answers as S3 does: keys in order of their bytes, `most` names a page, the folders of a folder named once."""

    def __init__(self, keys: list[str], most: int, *, wait_s: float = 0.0) -> None:
        self.keys, self.most, self._wait_s = sorted(set(keys)), most, wait_s
        self.requests = self.running = self.most_at_once = 0
        self._lock = threading.Lock()

    def page(self, folder: str, *, after: str = "", own: bool = False) -> Page:
        with self._lock:
            self.requests += 1
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        time.sleep(self._wait_s)
        with self._lock:
            self.running -= 1
        objects: list[StoredObject] = []
        folders: list[str] = []
        at = int(after) if after else bisect_left(self.keys, folder)
        while self._is_in(at, folder) and len(objects) + len(folders) < self.most:
            inner, slash, _ = self.keys[at][len(folder) :].partition("/")
            if own and slash:
                folders.append(f"{folder}{inner}/")
                at = bisect_left(self.keys, f"{folder}{inner}0")  # "0" follows "/"
            else:
                objects.append(StoredObject(self.keys[at], at))
                at += 1
        return Page(objects, folders, str(at) if self._is_in(at, folder) else "")

    def _is_in(self, at: int, folder: str) -> bool:
        return at < len(self.keys) and self.keys[at].startswith(folder)


_names = st.lists(st.sampled_from(["a", "b", "a.jpg", "a-", "a0", "", "é", "0", "z" * 3]), min_size=1, max_size=5)
_keys = st.lists(_names.map("/".join).filter(bool), max_size=60)


@given(keys=_keys, most=st.integers(1, 7), enough=st.integers(1, 6), ahead=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_every_object_comes_once_and_in_order(keys: list[str], most: int, enough: int, ahead: int) -> None:
    bucket = Bucket(keys, most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_listing, "_ENOUGH", enough)
        patch.setattr(folder_listing, "_AHEAD", ahead)
        found = list(list_by_folders(bucket.page))
    assert [item.key for item in found] == bucket.keys
    assert found == list(page_by_page(bucket.page, ""))


def test_large_folders_are_listed_at_the_same_time() -> None:
    """Three years of 12 months of 25 days of 30 photos each, 10 names a page."""
    keys = [f"{y}/{m:02}/{d:02}/{i}.jpg" for y in range(3) for m in range(12) for d in range(25) for i in range(30)]
    bucket = Bucket([*keys, "readme.txt", "2/12.jpg"], 10, wait_s=0.001)
    assert [item.key for item in list_by_folders(bucket.page)] == bucket.keys
    assert bucket.most_at_once == folder_listing._STREAMS
    assert bucket.requests < 1.5 * len(keys) / 10


@pytest.mark.parametrize(
    "keys",
    [
        [f"{person:05}/{i}.jpg" for person in range(3000) for i in range(2)],
        [f"{i:06}.jpg" for i in range(5000)],
        [f"all/{i:06}.jpg" for i in range(5000)],
    ],
    ids=["many small folders", "no folder", "one folder"],
)
def test_other_layouts_need_few_more_requests(keys: list[str]) -> None:
    bucket = Bucket(keys, 10)
    assert [item.key for item in list_by_folders(bucket.page)] == bucket.keys
    assert bucket.requests <= len(keys) / 10 + 25


def test_an_error_of_the_store_reaches_the_caller() -> None:
    bucket = Bucket([f"{folder}/{i:03}.jpg" for folder in "abcd" for i in range(50)], 10)

    def page(folder: str, *, after: str = "", own: bool = False) -> Page:
        if folder == "c/" and after:
            raise Retryable("the store does not answer", where="c/", next_step="run again")
        return bucket.page(folder, after=after, own=own)

    listing = list_by_folders(page)
    assert [next(listing).key for _ in range(100)] == bucket.keys[:100]
    with pytest.raises(Retryable, match="does not answer"):
        next(listing)


def test_a_caller_may_stop() -> None:
    bucket = Bucket([f"{folder:02}/{i:03}.jpg" for folder in range(40) for i in range(50)], 10)
    listing = list_by_folders(bucket.page)
    assert next(listing).key == "00/000.jpg"
    listing.close()  # type: ignore[attr-defined]
    requests = bucket.requests
    time.sleep(0.05)
    assert bucket.requests == requests < 120
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("facelake-listing")]
