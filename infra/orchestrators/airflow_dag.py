"""The nightly run as an Airflow DAG: one task per stage.

Copy this file and stage_command.py into the DAG folder. Workers need facelake in an environment of its own, and the
variables FACELAKE (its executable) and FACELAKE_CONFIG (the YAML config) in their environment.

For Airflow 3.3 or newer.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException
from stage_command import STAGES, BadConfig, run_stage


@task(retries=2, retry_delay=timedelta(minutes=5))
def stage(name: str) -> dict[str, Any]:
    """Run a stage; its counts are the task's XCom."""
    try:
        return run_stage(name)
    except BadConfig as err:
        raise AirflowFailException(str(err)) from err  # no retry


@dag(
    schedule="15 1 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,  # a lake has one writer; a second run would only wait
    tags=["facelake"],
)
def facelake_nightly() -> None:
    """Admit, embed, cluster, publish, report, in this order."""
    before: Any = None
    for name in STAGES:
        current = stage.override(task_id=name)(name)
        if before is not None:
            before >> current
        before = current


facelake_nightly()
