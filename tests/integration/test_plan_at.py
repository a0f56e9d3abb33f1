"""plan --at against a night that was really run, and by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facelake.config import Config
from facelake.lake.lake import Lake
from facelake.stages.capacity.cost_model import Workload, appends, estimate
from tests.conftest import run_cli, run_json

Demo = tuple[Path, dict[str, Any]]


def test_files_and_log_entries_of_the_demo_night(demo_template: Demo) -> None:
    """Counts of a first night, table by table, exactly as the arithmetic has them."""
    lake, defaults = Lake.open(str(demo_template[0])), Config().embed
    admissions = lake["admissions"].snapshot()
    work = Workload(
        admissions.rows,
        photos_per_file=max(file.rows for file in admissions.files),
        chunk_rows=defaults.chunk_rows,
        commit_every_chunks=defaults.commit_every_chunks,
    )
    commits = -(-work.chunks // work.commit_every_chunks)
    assert len(admissions.files) == work.corpus_files
    assert lake["chunks"].snapshot().rows == work.chunks
    chunks = lake["chunks"].read(["faces"])["faces"].to_pylist()
    seen = sum(
        faces > 0 for faces in chunks
    )  # the arithmetic takes it that every chunk has a face; one of these has none
    assert seen >= work.chunks - 1
    wanted = {
        "admissions": appends(1, work.corpus_files),
        "chunks": appends(commits, 1),
        "faces": appends(commits, seen / commits),
        "groups": appends(1, seen),
        "identities": appends(1, 1),
        "memberships": appends(1, 1),
        "changes": appends(1, 1),
        "galleries": appends(1, 1),
    }
    for name, said in wanted.items():
        snapshot = lake[name].snapshot()
        assert (len(snapshot.files), snapshot.version + 1) == (said.data_files, said.log_entries), name


def test_the_command_says_what_the_arithmetic_says(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("embed: {chunk_rows: 512, commit_every_chunks: 32}\nplan: {nodes: 8, price_per_node_hour: 0.6}\n")
    found = run_json("plan", "--at", "1e7", "--dim", "512", "-c", str(config))
    work = Workload(10**7, dim=512, chunk_rows=512, commit_every_chunks=32, nodes=8, price_per_node_hour=0.6)
    night = estimate(work).nightly_run()
    assert found["night"]["log_entries"] == night.log_entries
    assert found["night"]["data_files"] == night.data_files
    assert found["night"]["requests"]["PUT"] == round(night.put)
    assert not any(wall["broken"] for wall in found["walls"])
    shown = run_cli("plan", "--at", "1e9", "--sources", "-c", str(config))
    assert shown.returncode == 0, shown.stderr
    assert "EXCEEDED" in shown.stdout
    assert "log_entry_get" in shown.stdout
    refused = run_json("plan", "--at", "-3", code=2)
    assert refused["error"]["where"] == "--at"
