"""The command that Airflow and Dagster run for each stage: its result, and which failures are worth a retry."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from facelake.nightly import STAGES
from tests.conftest import ROOT

MODULE: dict[str, Any] = runpy.run_path(str(ROOT / "infra/orchestrators/stage_command.py"))


@pytest.fixture
def executable(tmp_path: Path) -> str:
    file = tmp_path / "facelake"
    file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m facelake "$@"\n')
    file.chmod(0o700)
    return str(file)


def test_stages_are_those_of_a_run_in_order() -> None:
    assert MODULE["STAGES"] == tuple(STAGES)


def test_a_stage_gives_its_counts_and_can_be_run_again(
    demo_lake: Path, tmp_path: Path, executable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "night.yaml"
    config.write_text(f"lake: {demo_lake}\ngovernance: {{dpia: D-1}}\n")
    monkeypatch.setenv("FACELAKE_CONFIG", str(config))
    first, second = (MODULE["run_stage"]("publish", command=executable) for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert (first["skipped"], first["faces"], first["identities"], first["gallery"]) == (True, 255, 8, 1)


def test_a_wrong_config_is_not_worth_a_retry_and_other_failures_are(
    tmp_path: Path, executable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACELAKE_CONFIG", raising=False)
    with pytest.raises(MODULE["BadConfig"], match="set FACELAKE_CONFIG"):
        MODULE["run_stage"]("admit", command=executable)
    config = tmp_path / "a.yaml"
    config.write_text("lakes: x\n")
    with pytest.raises(MODULE["BadConfig"], match=r"admit: unknown key 'lakes'.*Next: did you mean 'lake'"):
        MODULE["run_stage"]("admit", command=executable, config=str(config))
    with pytest.raises(MODULE["StageFailed"], match="cannot be started"):
        MODULE["run_stage"]("admit", command=str(tmp_path / "absent"), config=str(config))
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o700)
    with pytest.raises(MODULE["StageFailed"], match="exit code -9"):
        MODULE["run_stage"]("admit", command=str(killed), config=str(config))
