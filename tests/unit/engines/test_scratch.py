"""Temporary files: private while they are used, gone afterwards, and never silently kept."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from facelake.config import SparkSection
from facelake.engines import scratch
from facelake.engines.spark_session import start_spark
from facelake.errors import Retryable
from facelake.lake.directory import DirectoryStore
from tests.conftest import FACELAKE


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_SHORT", tmp_path)


def test_a_scratch_folder_behind_a_link_is_not_taken_for_empty(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/vectors").write_bytes(b"x")
    folder = scratch.scratch_dir("lake")
    folder.symlink_to(tmp_path / "disk")
    with pytest.raises(Retryable, match="symbolic link"):
        scratch.clear_scratch("lake")
    assert (tmp_path / "disk/vectors").exists()
    (tmp_path / "disk/vectors").unlink()
    scratch.clear_scratch("lake")
    assert not folder.is_symlink()


def test_a_scratch_folder_of_another_account_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is known, and /tmp is everybody's."""
    folder = scratch.scratch_dir("lake")
    folder.mkdir(mode=0o777)
    assert stat.S_IMODE(scratch.private_folder(folder).stat().st_mode) == 0o700
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(Retryable, match="another account"):
        start_spark(SparkSection(), scratch=str(folder))


def test_sessions_of_ended_processes_are_deleted_and_others_stay(tmp_path: Path) -> None:
    own = scratch.new_ray_session()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    ended = tmp_path / f"fl-ray-{process.pid}-abc"
    ended.mkdir()
    (ended / "spilled").write_bytes(b"x")
    scratch.clear_scratch("lake")
    assert own.exists()
    assert not ended.exists()


def test_leftovers_of_this_process_are_cleared_too(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path / "lake"))
    store.write("a", b"1")
    (tmp_path / f"lake/.tmp/{os.getpid()}-left").write_bytes(b"person-2")
    beside = store._write_beside(tmp_path / "lake/b", b"2")
    store.clear_leftovers()
    assert [path.name for path in (tmp_path / "lake/.tmp").iterdir()] == [beside.name]


def test_nothing_that_a_command_writes_is_open_to_others(tmp_path: Path) -> None:
    grant = ["ledger", "grant", "--source", "s", "--basis", "b", "--purpose", "p", "--even-if-unknown", "--create-lake"]
    command = [*FACELAKE, *grant, "--lake", str(tmp_path / "lake")]
    subprocess.run(command, check=True, umask=0o022, capture_output=True)
    modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "lake").rglob("*")}
    assert modes
    assert not {path: mode for path, mode in modes.items() if mode & 0o077}


KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from facelake.config import S3Section
from facelake.stages.sharing.delivery import delivery
tempfile.tempdir = sys.argv[1]
with delivery(sys.argv[2], S3Section(), "lake") as files:
    (files.folder / "templates.f32").write_bytes(b"vectors")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("to", ["export", "s3://bucket/export"])
def test_templates_that_a_killed_export_left_are_deleted(to: str, tmp_path: Path) -> None:
    out = to if "://" in to else str(tmp_path / to)
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), out], check=False).returncode == -9
    (left,) = tmp_path.rglob("templates.f32")
    other = left.parent.parent / ".partial-of-another-lake"
    other.mkdir()
    scratch.clear_scratch("lake")
    assert list(tmp_path.rglob("templates.f32")) == []
    assert other.exists() == ("://" not in to)
    with scratch.temporary_folder("lake", tmp_path) as folder:
        assert folder.parent == tmp_path
    assert not folder.exists()
    assert list(scratch.scratch_dir("lake").iterdir()) == []


def test_a_note_does_not_lead_out_of_this_account(tmp_path: Path) -> None:
    folder = scratch.private_folder(scratch.scratch_dir("lake"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (folder / "elsewhere-1").write_text(str(tmp_path / "link"))
    (folder / "elsewhere-2").write_text(str(tmp_path / "none"))
    scratch.clear_scratch("lake")
    assert (tmp_path / "mine").exists()


def test_copies_of_killed_matchers_are_deleted(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / f"facelake-gallery-{process.pid}-abc").mkdir()
    with scratch.process_folder("facelake-gallery-") as own, scratch.process_folder("facelake-gallery-") as second:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted((Path(own).name, Path(second).name))
