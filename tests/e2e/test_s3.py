"""The same night on s3://, against a real server; in few processes, as tests/integration/test_hosts.py has engines on s3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facelake.config import load_config
from facelake.demo import build_demo
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.gallery.versions import current_gallery
from facelake.testing.servers import Server
from tests.conftest import run_json


def test_demo_night_on_s3_is_the_night_on_a_directory(
    weed: Server, demo_template: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "s3.yaml"
    config.write_text(
        f"lake: s3://lake/night\ns3: {{endpoint_url: '{weed.endpoint}', region: us-east-1}}\nray: {{one_process_below: 1000}}\n"
    )
    env = {key: value for key, value in weed.environment().items() if "KEY" in key}
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    with writing(load_config(str(config)), "demo") as context:
        context.lake.mark_as_demo()
        build_demo(context)
    result = run_json("nightly", "-c", str(config), env=env)
    local_lake, local = demo_template
    for stage in ("admit", "embed", "cluster"):
        theirs, ours = result["stages"][stage], local["stages"][stage]
        assert {k: v for k, v in theirs.items() if k != "seconds"} == {k: v for k, v in ours.items() if k != "seconds"}
    on_s3 = current_gallery(Lake.open("s3://lake/night", load_config(str(config)).s3))
    on_disk = current_gallery(Lake.open(str(local_lake)))
    assert on_s3 is not None
    assert on_disk is not None
    for table in ("memberships", "identities"):
        key = "face_id" if table == "memberships" else "identity_id"
        assert on_s3.read(table).sort_by(key).equals(on_disk.read(table).sort_by(key)), table
    assert run_json("verify", "-c", str(config), env=env)["ok"]
    assert all(s["skipped"] for s in run_json("nightly", "-c", str(config), env=env)["stages"].values())
    erased = run_json("erase", "-c", str(config), "--subject", "person-3", "--yes", env=env)
    assert erased["residual_hits"] == 0
    assert run_json("verify", "-c", str(config), env=env)["ok"]
