"""Fixtures: a SeaweedFS server, the model pack, a finished demo lake, the shared data sets."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from facelake.config import Config, RaySection, load_config
from facelake.embed import Pack
from facelake.engines.ray_isolation import isolate_local_ray
from facelake.stages.models.registry import load_pack
from facelake.testing.clusters import archive_classes, use_classes
from facelake.testing.servers import Server, rclone_s3, seaweedfs
from tests import cli_server
from tests.targets import pg_folder, target_place

__all__ = ["pg_folder", "target_place"]  # fixtures

# time is measured in benchmarks, never in a test: this machine stalls for a third of a second at any moment
settings.register_profile("facelake", deadline=None)
settings.load_profile("facelake")

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every worker and command would compile the library again
sys.dont_write_bytecode = False
isolate_local_ray(RaySection())  # tests import Ray at the top of their files, and stages refuse one that is open

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
FACELAKE = [sys.executable, "-m", "facelake"]


# Files that take longest, longest first, in the order of two processes; a test that ends last leaves a core idle.
# The first of the left makes the demo's lake and the archive of Spark's classes, which the first of the right do without.
_LONG = (
    ("integration/test_hosts", "unit/stages/erasure/test_erasure_property"),
    ("integration/test_ray_embed", "integration/test_nights"),
    ("faults/test_crash_points", "integration/test_image_stores"),
    ("e2e/test_london", "faults/test_kill"),
    ("e2e/test_erasure", "integration/test_spark_cluster"),
    ("e2e/test_demo", "integration/test_scan_on_spark"),
    ("e2e/test_s3", "integration/test_spark_standalone"),
    ("e2e/test_handbook", "e2e/test_consent"),
    ("e2e/test_match", "faults/test_clocks"),
    ("unit/embed/test_decode", "e2e/test_feed"),
    ("unit/embed/test_pipeline", "unit/stages/embedding/test_progress_property"),
    ("e2e/test_review", "parity/test_device_vision"),
    ("e2e/test_report", "faults/test_store"),
    ("e2e/test_partitions", "integration/test_site"),
)


@pytest.hookimpl(trylast=True)  # after those that are not chosen were taken out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and half of them at the middle, where xdist's second process begins."""
    place = {f"{name}.py": (side, rank) for rank, pair in enumerate(_LONG) for side, name in enumerate(pair)}
    sides: tuple[list[tuple[int, pytest.Item]], ...] = ([], [])
    short = []
    for item in items:
        side, rank = place.get(item.path.relative_to(ROOT / "tests").as_posix(), (None, 0))
        short.append(item) if side is None else sides[side].append((rank, item))
    first, second = ([item for _, item in sorted(side, key=lambda pair: pair[0])] for side in sides)
    half = max(0, len(items) // 2 - len(first))
    items[:] = [*first, *short[:half], *second, *short[half:]]


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """Signing keys and the like go into a home of the tests; only the model cache is the user's.

    Processes share it, as they share the demo lake that the first of them signs.
    """
    home = _for_all(tmp_path_factory, worker_id) / "home"
    home.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACELAKE_CACHE", os.environ.get("FACELAKE_CACHE") or os.path.expanduser("~/.cache/facelake"))
        patch.setenv("HOME", str(home))
        yield


@pytest.fixture(scope="session", autouse=True)
def spark_classes(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    """The archive of Spark's classes, which JVMs take them from as soon as the demo's run has written it."""
    archive = _for_all(tmp_path_factory, worker_id) / "spark.jsa"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_SUBMIT_OPTS", use_classes(archive))
        yield archive


def _for_all(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder that all processes of this run of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        server.make_bucket("lake")
        yield server


@pytest.fixture
def weed_env(weed: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for key, value in weed.environment().items():
        monkeypatch.setenv(key, value)
    return weed


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[Server]:
    with rclone_s3(tmp_path / "rclone") as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(scope="session")
def pack() -> Pack:
    return load_pack(Config())


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        warnings.warn(f"{SHARED} is absent: tests on its data sets do NOT run", stacklevel=1)
        pytest.skip(f"{SHARED} is absent")
    return SHARED


Run = Callable[..., subprocess.CompletedProcess[str]]


def run_cli(
    *arguments: str, env: dict[str, str] | None = None, timeout: float = 1200
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, to its end."""
    environment = os.environ | (env or {})
    if cli_server.can_fork():
        return cli_server.run(arguments, environment, timeout)
    command = [*FACELAKE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def run_json(*arguments: str, env: dict[str, str] | None = None, code: int = 0) -> dict[str, Any]:
    """Run a command with --json and read the last line of stdout."""
    done = run_cli(*arguments, "--json", env=env)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="session")
def demo_template(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str, spark_classes: Path
) -> tuple[Path, dict[str, Any]]:
    """One whole demo run by the command line; copied by tests that change it.

    Where tests run in several processes, the first that needs it makes it for all.
    """
    home = _for_all(tmp_path_factory, worker_id) / "demo"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = home / "said.json"
        if not said.exists():
            written = home / "spark.jsa"
            result = run_json("demo", "--lake", str(home / "lake"), env={"SPARK_SUBMIT_OPTS": archive_classes(written)})
            if written.exists():  # some builds of Java write none; classes are then loaded as ever
                written.replace(spark_classes)  # the JVM has ended: run_json waits for all that hold its stdout
            said.write_text(json.dumps(result))
    return home / "lake", json.loads(said.read_text())


@pytest.fixture
def demo_lake(demo_template: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_template[0], tmp_path / "lake"))


@pytest.fixture
def demo_config(demo_lake: Path) -> Config:
    return load_config(lake=str(demo_lake))
