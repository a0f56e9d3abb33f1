"""The nightly run as Dagster assets: one per stage, each with the stage's counts as metadata.

    FACELAKE=/opt/facelake/bin/facelake FACELAKE_CONFIG=night.yaml dagster dev -f dagster_assets.py

facelake is in an environment of its own; stage_command.py must be beside this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dagster

sys.path.insert(0, str(Path(__file__).parent))
from stage_command import BadConfig, StageFailed, run_stage

_RETRIES = dagster.RetryPolicy(max_retries=2, delay=300)
_ASSETS = {
    "admit": ("admissions", "whether each photo may be processed for the purpose today"),
    "embed": ("faces", "detected and embedded faces of the admitted photos"),
    "cluster": ("groups", "groups of faces"),
    "publish": ("gallery", "identities with stable ids"),
    "report": ("report", "figures and alerts as one HTML page"),
}


def _asset(stage: str, before: str | None) -> dagster.AssetsDefinition:
    name, description = _ASSETS[stage]

    @dagster.asset(
        name=name,
        description=description,
        deps=[before] if before else [],
        group_name="facelake",
        retry_policy=_RETRIES,
        compute_kind="facelake",
    )
    def materialize() -> dagster.MaterializeResult:
        try:
            result = run_stage(stage)
        except BadConfig as err:
            raise dagster.Failure(str(err), allow_retries=False) from err
        except StageFailed as err:
            raise dagster.Failure(str(err)) from err
        return dagster.MaterializeResult(metadata={key: value for key, value in result.items() if value is not None})

    return materialize


_names = [name for name, _ in _ASSETS.values()]
assets = [_asset(stage, before) for stage, before in zip(_ASSETS, [None, *_names], strict=False)]
nightly = dagster.define_asset_job("facelake_nightly", selection=assets)
defs = dagster.Definitions(
    assets=assets,
    jobs=[nightly],
    schedules=[dagster.ScheduleDefinition(job=nightly, cron_schedule="15 1 * * *", execution_timezone="UTC")],
)
