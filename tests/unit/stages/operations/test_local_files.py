"""What is written outside lakes is listed, and deleted but for keys and what is in use."""

from __future__ import annotations

import getpass
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facelake.engines.scratch import process_folder
from facelake.stages.operations.local_files import IN_USE_S
from tests.conftest import run_cli, run_json


@pytest.fixture
def host(tmp_path: Path) -> dict[str, str]:
    """An environment whose caches, keys and temporary files are below tmp_path."""
    for name in ("home", "tmp", "cache"):
        (tmp_path / name).mkdir()
    return {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "FACELAKE_CACHE": str(tmp_path / "cache"),
    }


def aged(path: Path) -> None:
    """Set the time of the last change to before a running process would have set it."""
    then = time.time() - 2 * IN_USE_S
    for entry in (path, *path.rglob("*")):
        os.utime(entry, (then, then))


def test_cleanup_deletes_what_is_not_in_use(tmp_path: Path, host: dict[str, str]) -> None:
    (tmp_path / "cache/0123456789ab-model.onnx").write_bytes(b"x" * 10)
    (tmp_path / "cache/of-others.txt").write_bytes(b"x")
    old, running = tmp_path / "tmp/facelake-00112233445566aa", tmp_path / "tmp/facelake-00112233445566bb"
    for folder in (old, running):
        folder.mkdir()
        (folder / "block").write_bytes(b"x" * 100)
    aged(old)
    (tmp_path / "tmp/facelake-of-somebody-else").mkdir()
    java = tmp_path / f"tmp/hsperfdata_{getpass.getuser()}/4194303"  # of a Java program that has ended
    java.parent.mkdir()
    java.touch()
    key = tmp_path / "home/.config/facelake/signing-key.pem"
    key.parent.mkdir(parents=True)
    key.write_text("key")
    listed = run_json("cleanup", env=host)
    assert not listed["deleted"]
    mine = [item for item in listed["kept"] if str(tmp_path) in item["path"]]
    assert sorted((Path(item["path"]).name, item["kind"], item["bytes"], item["in_use"]) for item in mine) == [
        ("0123456789ab-model.onnx", "cache", 10, False),
        (old.name, "temporary", 100, False),
        (running.name, "temporary", 100, True),
        ("signing-key.pem", "key", 3, False),
    ]
    run_json("cleanup", "--delete", env=host)
    assert not old.exists()
    assert running.exists()
    assert java.exists()
    assert key.exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["of-others.txt"]
    hash_key = key.parent / "hash-key"  # named by the configs of `facelake init`, not by the default one
    hash_key.write_text("key")
    asked = run_cli("cleanup", "--delete", "--keys", env=host)
    assert asked.returncode == 2
    assert str(key) in asked.stderr
    assert str(hash_key) in asked.stderr
    assert "keep a copy of the keys, then add --yes; nothing was deleted" in asked.stderr
    assert key.exists()
    run_json("cleanup", "--delete", "--keys", "--yes", env=host)
    assert not key.parent.exists()
    refused = run_cli("cleanup", "--keys", env=host)
    assert refused.returncode == 2


def test_cleanup_deletes_the_files_of_an_export_that_a_killed_client_left(tmp_path: Path, host: dict[str, str]) -> None:
    with process_folder("facelake-gallery-") as made:
        left = tmp_path / "tmp" / Path(made).name
    left.mkdir()
    (left / "index.faiss").write_bytes(b"x" * 100)
    aged(left)
    run_json("cleanup", "--delete", env=host)
    assert not left.exists()


def test_spark_leaves_no_performance_data(tmp_path: Path, host: dict[str, str]) -> None:
    code = """
from facelake.config import SparkSection
from facelake.engines.spark_session import start_spark
session = start_spark(SparkSection(master="local[1]"), "facelake")
print(session._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean().getInputArguments())
print(session._jvm.java.lang.ProcessHandle.current().pid())
import getpass, pathlib
folder = pathlib.Path(f"/tmp/hsperfdata_{getpass.getuser()}")
assert not (folder / str(session._jvm.java.lang.ProcessHandle.current().pid())).exists()
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | host, check=True, capture_output=True, timeout=120)


def test_the_latest_report_is_copied(tmp_path: Path, host: dict[str, str], demo_lake: Path) -> None:
    copy = tmp_path / "page.html"
    result = run_json("report", "--lake", str(demo_lake), "--download", str(copy), env=host)
    assert copy.read_bytes() == (demo_lake / "reports/latest.html").read_bytes()
    assert (result["bytes"], stat.S_IMODE(copy.stat().st_mode)) == (copy.stat().st_size, 0o600)
    again = run_cli("report", "--lake", str(demo_lake), "--download", str(copy), env=host)
    assert again.returncode == 2
    missing = run_cli("report", "--lake", str(tmp_path / "none"), "--download", str(tmp_path / "x"), env=host)
    assert missing.returncode == 2
