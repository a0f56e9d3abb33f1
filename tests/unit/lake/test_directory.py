"""A local directory as an object store: links, pipes and loops."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from facelake.errors import Retryable
from facelake.lake.directory import DirectoryStore
from facelake.lake.store import every_object


def test_links_to_folders_are_listed_on_request_and_each_folder_once(tmp_path: Path) -> None:
    lake, other = tmp_path / "lake", tmp_path / "other"
    (lake / "own").mkdir(parents=True)
    (lake / "own/a").write_bytes(b"a")
    other.mkdir()
    (other / "b").write_bytes(b"b")
    (lake / "link").symlink_to(other)
    (lake / "second").symlink_to(other)
    (other / "loop").symlink_to(lake)
    (lake / "own/dangling").symlink_to(tmp_path / "nowhere")
    store = DirectoryStore(str(lake))
    assert [item.key for item in store.list()] == ["own/a"]
    assert [item.key for item in every_object(store)] == ["link/b", "own/a"]


def test_a_full_disk_is_named_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = DirectoryStore(str(tmp_path))
    (tmp_path / "photo").write_bytes(b"a")
    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: store.write("a", b"1"), lambda: store.create("a", b"1"), lambda: store.upload("a", tmp_path / "photo")):  # fmt: skip
        with pytest.raises(Retryable, match=r"No space left.* Next: free space on this disk, .*`facelake vacuum`"):
            write()
    assert store.tag("a") is None


def test_a_pipe_is_not_an_object(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"a")
    assert [item.key for item in DirectoryStore(str(tmp_path)).list()] == ["file"]
