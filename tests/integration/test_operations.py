"""What operators do beside the night: look at it, measure it, clean up after it, start two of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from facelake.config import load_config
from facelake.errors import ConfigError, Refused
from facelake.events import StageProgress, StageStarted
from facelake.lake.directory import DirectoryStore
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease
from facelake.lake.store import open_store
from facelake.nightly import reading, writing
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.versions import current_gallery, list_galleries
from facelake.stages.operations.prometheus import METRICS, exposition
from facelake.stages.operations.status import status
from facelake.stages.operations.vacuum import vacuum
from facelake.stages.operations.verify import verify
from facelake.testing.servers import Server, free_ports
from tests.conftest import FACELAKE, ROOT, run_json

_HOLD = """
import sys
from facelake.config import load_config
from facelake.events import StageProgress, StageStarted
from facelake.nightly import writing
with writing(load_config(lake=sys.argv[1]), "nightly") as context:
    context.emit(StageStarted("embed", 200, "images"))
    context.emit(StageProgress("embed", 50, {"faces": 61}))
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(lake: str) -> subprocess.Popen[str]:
    """Another process with the right to write, until its input ends."""
    process = subprocess.Popen(
        [FACELAKE[0], "-c", _HOLD, lake], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_status_of_a_quiet_lake(demo_lake: Path) -> None:
    found = run_json("status", "--lake", str(demo_lake))
    assert (found["holder"], found["work"]) == (None, None)
    assert found["gallery"] | {"created_at": ""} == {"version": 1, "identities": 8, "faces": 255, "created_at": ""}
    assert found["stages"]["embed"]["counts"]["embedded"] == 196
    assert found["tables"]["faces"]["rows"] == 255
    assert found["last_commit"] == max(t["committed_at"] for t in found["tables"].values() if t["committed_at"])


def test_status_sees_the_stage_at_work(demo_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the lake: the lease tells, as it was renewed last."""
    with writing(demo_config, "nightly") as context:
        context.emit(StageStarted("embed", 200, "images"))
        context.emit(StageProgress("embed", 50, {"faces": 61}))
        assert context.lease is not None
        time.sleep(0.2)
        assert context.lake.store.replace("lease.json", context.lease._body(), context.lease._tag)
        context.lease._tag = context.lake.store.tag("lease.json") or ""
        found = status(demo_config)
        assert found["holder"]["state"] == "alive"
        assert found["holder"]["pid"] == os.getpid()
        work = found["work"]
        assert (work["stage"], work["done"], work["total"], work["counts"]) == ("embed", 50, 200, {"faces": 61})
        assert work["eta_s"] == pytest.approx(3 * work["seconds"], abs=0.3)
        names = {family.name: family for family in text_string_to_metric_families(exposition(found))}
        assert [s.value for s in names["facelake_work_done"].samples] == [50.0]
        assert names["facelake_writer_active"].samples[0].value == 1.0
    assert status(demo_config)["holder"] is None


def test_every_metric_is_exposed_and_parses(demo_lake: Path) -> None:
    port = free_ports(1)[0]
    server = subprocess.Popen([*FACELAKE, "status", "--serve", str(port), "--lake", str(demo_lake)])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
                    text = reply.read().decode()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        server.kill()
        server.wait()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    at_rest = {"facelake_lease_age_seconds", *(name for name in METRICS if name.startswith("facelake_work_"))}
    assert set(families) == set(METRICS) - at_rest
    rows = {s.labels["table"]: s.value for s in families["facelake_table_rows"].samples}
    assert rows["memberships"] == 255.0


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    board = json.loads((ROOT / "infra/grafana/facelake.json").read_text())
    asked = {name for p in board["panels"] for t in p["targets"] for name in re.findall(r"facelake_\w+", t["expr"])}
    assert asked <= set(METRICS)
    assert len(asked) >= 14
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def regroup(config: Any, modulo: int) -> None:
    """Publish another gallery, of other groups."""
    with writing(config, "publish") as context:
        table = context.lake["groups"]
        groups = table.read()
        column = groups.schema.get_field_index("group_id")
        labels = [[number % modulo for number in groups["group_id"].to_pylist()]]
        table.replace_all(groups.set_column(column, "group_id", labels))
        publish(context)


def test_vacuum_keeps_what_readers_have(demo_config: Any) -> None:
    for modulo in (5, 4, 3):
        regroup(demo_config, modulo)
    lake = Lake.open(demo_config.lake)
    assert [row["gallery_version"] for row in list_galleries(lake)] == [1, 2, 3, 4]
    readers = {version: current_gallery(lake, version) for version in (3, 4)}
    before = {version: gallery.read("memberships") for version, gallery in readers.items() if gallery}
    lake["memberships"].stage(before[4])  # what a writer that died left
    stored = {item.key for item in lake.store.list("memberships")}
    said = vacuum(reading(demo_config), 2, 0, dry_run=True)
    assert {item.key for item in lake.store.list("memberships")} == stored
    with writing(demo_config, "vacuum") as context:
        done = vacuum(context, 2, 0)
    assert done.counts["files_memberships"] == said.counts["files_memberships"] == 3
    left = {item.key for item in lake.store.list("memberships") if item.key.endswith(".parquet")}
    assert len([key for key in left if "_delta_log" not in key]) == 2
    for version, gallery in readers.items():
        assert gallery is not None
        assert gallery.read("memberships").equals(before[version])
    assert verify(reading(demo_config))[0] == []
    with writing(demo_config, "vacuum") as context:
        assert vacuum(context, 2, 0).skipped


def test_vacuum_by_age_and_its_limits(demo_config: Any) -> None:
    for modulo in (5, 4, 3):
        regroup(demo_config, modulo)
    with writing(demo_config, "vacuum") as context:
        assert vacuum(context, 2, 168).counts["files"] == 0
        with pytest.raises(ConfigError):
            vacuum(context, 1, 168)


def test_vacuum_waits_for_no_writer(demo_lake: Path) -> None:
    writer = hold(str(demo_lake))
    try:
        refused = run_json("vacuum", "--hours", "0", "--lake", str(demo_lake), code=1)
        assert refused["error"]["kind"] == "Refused"
    finally:
        writer.kill()
        writer.wait()


def test_two_nights_at_once(demo_lake: Path) -> None:
    """The second is refused; one that waits gets its turn; a dead first is taken over at once on its own host."""
    lake = str(demo_lake)
    first = hold(lake)
    refused = run_json("nightly", "--lake", lake, code=1)
    assert refused["error"]["kind"] == "Refused"
    assert str(first.pid) in refused["error"]["what"]
    second = subprocess.Popen([*FACELAKE, "nightly", "--wait", "120", "--lake", lake])
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(10)  # it waits
    first.communicate("")
    assert (first.returncode, second.wait(120)) == (0, 0)
    dead = hold(lake)
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert status(load_config(lake=lake))["holder"]["state"] == "dead"
    assert run_json("nightly", "--lake", lake)["ok"]


@pytest.mark.parametrize("skew_s", [-120.0, -20.0, 20.0, 85.0, 3600.0])
def test_a_holder_whose_clock_is_off_keeps_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    """A contender on another host takes nothing from a living holder, whatever its clock says.

    Clocks that are behind (negative) make a contender wait longer; one that is ahead watches the lease first.
    """
    store = DirectoryStore(str(tmp_path / "lake"))
    with Lease(store, "nightly", ttl_s=6.0):
        _as_another_host(monkeypatch, skew_s)
        with pytest.raises(Refused), Lease(store, "nightly", ttl_s=6.0):
            pass


def test_a_dead_holder_on_another_host_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(str(tmp_path / "lake"))
    holder = Lease(store, "nightly", ttl_s=2.0)
    assert store.create("lease.json", holder._body())
    _as_another_host(monkeypatch, 33.0)
    with Lease(store, "nightly", ttl_s=60.0) as lease:
        lease.check()


def test_a_holder_that_slept_knows_that_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen beyond its lease (a stopped virtual machine), taken over meanwhile: its next commit is refused."""
    store = DirectoryStore(str(tmp_path / "lake"))
    slept = Lease(store, "nightly", ttl_s=0.6)
    with slept:
        slept._stop.set()
        assert slept._thread is not None
        slept._thread.join()
        time.sleep(0.7)
        _as_another_host(monkeypatch, 40.0)
        with Lease(store, "nightly", ttl_s=60.0), pytest.raises(Refused):
            slept.check()


def _as_another_host(monkeypatch: pytest.MonkeyPatch, skew_s: float) -> None:
    now = time.time
    monkeypatch.setattr("facelake.lake.lease._host", lambda: "another:boot")
    monkeypatch.setattr("facelake.lake.lease.time.time", lambda: now() + skew_s)


def test_one_writer_on_s3(weed_env: Server) -> None:
    """Of eight that start at once on a real store, one writes."""
    store = open_store("s3://lake/lease-race", load_config().s3)
    script = (
        "import sys; from facelake.lake.lease import Lease; from facelake.lake.store import open_store\nimport time\n"
    )
    script += "with Lease(open_store('s3://lake/lease-race'), 'race'): time.sleep(8)"
    racers = [subprocess.Popen([FACELAKE[0], "-c", script], stderr=subprocess.DEVNULL) for _ in range(8)]
    codes = sorted(racer.wait(120) for racer in racers)
    assert codes == [0] + [1] * 7
    assert store.tag("lease.json") is None
