"""A faulty proxy in front of a real store: nothing is lost or duplicated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from facelake.config import S3Section, load_config
from facelake.contracts import TABLES
from facelake.errors import CommitConflict, Retryable
from facelake.lake.data_files import plain
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease
from facelake.lake.store import open_store, probe
from facelake.testing.fault_proxy import FAULTS, fault_proxy
from facelake.testing.servers import Server
from facelake.testing.site import state_of
from tests.conftest import run_json
from tests.faults.conftest import Note

_OBJECTS, _COMMITS = 40, 12


_SLOW = ("busy", "slow", "cut")


@pytest.mark.parametrize("fault", [pytest.param(f, marks=pytest.mark.slow if f in _SLOW else ()) for f in FAULTS])
def test_objects_and_commits(weed_env: Server, note: Note, fault: str) -> None:
    """Puts, conditional puts, ranged reads, a lease and Delta commits, with a fault in every fifth request."""
    with fault_proxy(weed_env.endpoint, [fault], 0.2, seed=7) as (endpoint, day):
        s3 = S3Section(endpoint_url=endpoint)
        store = open_store(f"s3://lake/bad-{fault}", s3)
        probe(store)
        for number in range(_OBJECTS):
            assert store.create(f"objects/{number}", b"%d" % number), "a create whose reply was lost is still ours"
            assert not store.create(f"objects/{number}", b"other")
        assert [store.read(f"objects/{number}") for number in range(_OBJECTS)] == [b"%d" % n for n in range(_OBJECTS)]
        with Lease(store, "test") as lease:
            lease.check()
        lake = Lake.create(f"s3://lake/bad-{fault}", s3)
        for number in range(_COMMITS):
            _until_done(lake, number)
        seen = lake["chunks"].read(["row_start"])["row_start"].to_pylist()
    assert sorted(seen) == list(range(_COMMITS))
    assert day.injected[fault] > 5
    lost, doubled = _COMMITS - len(set(seen)), len(seen) - len(set(seen))
    words = {"error": "500", "busy": "503 SlowDown", "slow": "answers a second late", "cut": "cut before the request"}
    words |= {"half": "cut in the middle of a reply", "lost": "carried out, reply lost"}
    what = "commits, conditional puts, reads and the lease exact"
    note(f"store: {words[fault]}, 20 % of requests", what, injected=day.injected[fault], lost=lost, doubled=doubled)


def _until_done(lake: Lake, number: int) -> None:
    """Commit one row as a stage does that is run again after a transient fault: the log shows whether it landed."""
    row = dict.fromkeys(TABLES["chunks"].names) | {"corpus_file": "x", "row_start": number, "row_end": number + 1}
    data = pa.Table.from_pylist([row], schema=plain(TABLES["chunks"]))
    receipt = lake["chunks"].stage(data)
    for _ in range(8):
        try:
            lake["chunks"].commit([receipt])
            return
        except (Retryable, CommitConflict):
            continue
    raise AssertionError("eight tries were not enough")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_whole_night(
    weed_env: Server, demo_template: tuple[Path, dict[str, Any]], tmp_path: Path, note: Note
) -> None:
    """A nightly run and its repetitions through a store that fails every fifth request with every kind of fault."""
    undisturbed = tmp_path / "u.yaml"
    undisturbed.write_text(f"lake: {demo_template[0]}\n")
    config = tmp_path / "c.yaml"
    runs = 0
    with fault_proxy(weed_env.endpoint, FAULTS, 0.2, seed=11) as (endpoint, day):
        config.write_text(f"lake: s3://lake/bad-night\ns3: {{endpoint_url: '{endpoint}'}}\nembed: {{chunk_rows: 32}}\n")
        while True:
            runs += 1
            command = [sys.executable, "-m", "facelake", "demo", "-c", str(config), "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            error = json.loads(done.stdout.splitlines()[-1])["error"]
            assert error["kind"] in ("Retryable", "CommitConflict", "CommitUnknown"), done.stderr
            assert runs < 6, done.stderr
    config.write_text(f"lake: s3://lake/bad-night\ns3: {{endpoint_url: '{weed_env.endpoint}'}}\n")
    assert load_config(str(config)).lake == "s3://lake/bad-night"

    def run(command: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert state_of(run, str(config)) == state_of(run, str(undisturbed))
    assert run_json("verify", "-c", str(config))["ok"]
    assert all(day.injected[kind] for kind in FAULTS)
    what = "equal to the undisturbed lake, verify clean"
    note("store: all of these, a whole night", what, injected=day.injected.total(), runs=runs, lost=0, doubled=0)
