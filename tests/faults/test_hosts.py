"""Hosts that lose network or power during a nightly run; the site of tests/integration/test_hosts.py.

Slow: each needs a night over eight hosts. `bash infra/test.sh -m slow tests/faults/test_hosts.py`
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from facelake.testing.hosts import network
from facelake.testing.site import CREDENTIALS, NAMES, Site, give_caches, start_site, state_of
from tests.faults.conftest import Note
from tests.integration.test_hosts import _BUILD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
Demo = tuple[Path, dict[str, Any]]
_IMPATIENT = {
    "spark.executor.memory": "700m",
    "spark.network.timeout": "20s",
    "spark.network.timeoutInterval": "10s",
    "spark.executor.heartbeatInterval": "4s",
}


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, demo_template: Demo, spark_classes: Path) -> Iterator[Site]:
    with network(tmp_path_factory.mktemp("hosts"), NAMES) as net:
        site = start_site(net, spark_classes)
        give_caches(site, Path(os.environ["FACELAKE_CACHE"]))
        yield site


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, demo_template: Demo) -> dict[str, Any]:
    config = tmp_path_factory.mktemp("single") / "c.yaml"
    config.write_text(f"lake: {demo_template[0]}\n")
    return state_of(lambda command: subprocess.run(command, capture_output=True, text=True, check=False), str(config))


def begin(site: Site) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a nightly run on the driver host."""
    config = site.write_config(embed__chunk_rows=8, embed__commit_every_chunks=1, spark__conf=_IMPATIENT)
    done = site.driver.run([sys.executable, "-c", _BUILD, config], CREDENTIALS)
    assert done.returncode == 0, done.stderr
    return config, site.driver.start([sys.executable, "-m", "facelake", "nightly", "-c", config], CREDENTIALS, "night")


def until(true: Callable[[], bool], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def files_of(site: Site, table: str) -> int:
    """Data files of a table in SeaweedFS, listed from the driver host."""
    script = "import sys; from facelake.lake.store import open_store; print(sum(i.key.endswith('.parquet') for i in open_store(sys.argv[1]).list()))"
    done = site.driver.run([sys.executable, "-c", script, f"s3://lake/night/{table}"], CREDENTIALS)
    return int(done.stdout or 0)


def test_a_worker_unplugged_during_embed(site: Site, single: dict[str, Any], note: Note) -> None:
    config, night = begin(site)
    until(lambda: files_of(site, "faces") >= 2)
    site.net.plug("ray1", "down")
    assert night.wait(900) == 0, site.driver.log("night")[-3000:]
    site.net.plug("ray1", "up")
    assert site.state(config) == single
    assert site.facelake("verify", "-c", config)["ok"]
    note("Ray worker unplugged during embed", "the same night ends; equal, verify clean", runs=1, lost=0, doubled=0)


def test_a_worker_unplugged_during_cluster(site: Site, single: dict[str, Any], note: Note) -> None:
    config, night = begin(site)
    site.driver.until("night", "cluster starts", timeout_s=600)
    until(lambda: "Asked to launch executor" in site.net["spark1"].log("spark"))
    shuffling = ": join"  # faces to the cells of their lists, neighbours back: two shuffles
    until(lambda: shuffling in site.driver.log("night") or night.poll() is not None)
    assert night.poll() is None
    site.net.plug("spark1", "down")
    assert night.wait(900) == 0, site.driver.log("night")[-3000:]
    site.net.plug("spark1", "up")
    assert site.state(config) == single
    assert site.facelake("verify", "-c", config)["ok"]
    note(
        "Spark worker unplugged during a shuffle", "the same night ends; equal, verify clean", runs=1, lost=0, doubled=0
    )


def test_the_head_lost_and_back(site: Site, single: dict[str, Any], note: Note) -> None:
    config, night = begin(site)
    until(lambda: files_of(site, "faces") >= 2)
    site.net["head"].power_off()
    assert night.wait(900) != 0
    said = [line for line in site.driver.log("night").splitlines() if line.startswith("error: ")]
    assert len(said) == 1, site.driver.log("night")[-3000:]
    assert "Ray's head does not respond" in said[0]
    for name in ("head", "ray1", "ray2", "driver"):
        site.net.restart(name)
        for log in site.net[name].folder.glob("*.log"):
            log.rename(log.with_suffix(".before"))
    site.start_ray()
    site.wait(spark=0)
    again = site.facelake("nightly", "-c", config, "--wait", "120", timeout_s=900)
    assert again["ok"]
    assert site.state(config) == single
    assert site.facelake("verify", "-c", config)["ok"]
    note(
        "Ray head lost during embed, and back",
        "one-line Retryable; the next night: equal, verify clean",
        runs=2,
        lost=0,
        doubled=0,
    )
