"""What `facelake doctor` says of this host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from facelake.config import load_config
from facelake.stages.operations.doctor import examine


def test_a_host_with_everything(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    command = [sys.executable, "-m", "facelake", "doctor", "--lake", str(lake), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (0 if result["ok"] else 1)
    assert result["runtimes"]["onnxruntime"] is None
    assert result["runtimes"]["openvino"] is None
    assert [choice["role"] for choice in result["choices"]] == ["detector", "encoder"]
    assert all(choice["reason"] for choice in result["choices"])
    assert result["images_per_s_per_worker"] > 0
    assert 0 < result["memory_bytes"]["available"] <= result["memory_bytes"]["total"]
    assert result["versions"]["ray"]
    assert result["versions"]["pyspark"]
    assert "can be created" in result["store"]
    assert not lake.exists(), "doctor creates no lake"


def test_what_is_missing_comes_with_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr("facelake.stages.operations.doctor._memory", lambda: {"total": 1 << 20, "available": 1 << 20})
    (tmp_path / "lake").mkdir()
    settings = load_config(lake=str(tmp_path / "lake"), overrides={"embed.precision": "int8"})
    result = examine(settings)
    assert not result["ok"]
    assert result["java"] is None
    assert result["store"] == "conditional writes work"
    commands = " ".join(item["command"] for item in result["missing"])
    for step in ("openjdk", "facelake models int8", "more memory"):
        assert step in commands
