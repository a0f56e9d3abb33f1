"""What earlier nights were like, for the report: figures by night, and what each stage is expected to take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facelake.config import Config
from facelake.contracts import DRIFT
from facelake.lake.lake import Lake
from facelake.report import NIGHTS_COMPARED, Measure, Night, StageCost, median

STAGES = ("admit", "embed", "cluster", "publish", "report")
MEASURES = (
    Measure("faces", "faces", "count"),
    Measure("identities", "identities", "count"),
    Measure("single_share", "identities of one face", "share"),
    Measure("largest_share", "faces in the largest", "share"),
    Measure("cohesion", "cohesion, median", "cosine"),
    Measure("nearest_similarity", "nearest other, median", "cosine"),
    Measure("changed", "merged and split", "count"),
    Measure("reviews", "questions for review", "count"),
    Measure("drift_sds", "drift, sds", "sds"),
    Measure("refused_share", "photos refused", "share"),
    Measure("rejected_share", "new photos without a face", "share"),
    Measure("seconds", "seconds, all stages", "seconds"),
)
_UNITS = {"admit": "read", "embed": "admitted", "cluster": "faces", "publish": "faces"}
"""the count by which a stage's time grows"""


@dataclass(frozen=True, slots=True)
class Run:
    """One recorded run of a stage."""

    run_id: str
    stage: str
    started_at: Any
    seconds: float
    counts: Mapping[str, Any]
    peak_bytes: int

    def number(self, key: str) -> float:
        """A count, 0 where there is none."""
        value = self.counts.get(key, 0)
        return float(value) if isinstance(value, int | float) else 0.0

    def reasons(self, prefix: str) -> dict[str, int]:
        """Counts by reason, as `refused_*` and `rejected_*` are told."""
        return {
            key.removeprefix(prefix): int(value)
            for key, value in self.counts.items()
            if key.startswith(prefix) and isinstance(value, int) and value
        }


def read_runs(lake: Lake) -> dict[str, list[Run]]:
    """Runs of the night's stages, oldest first."""
    rows = lake["runs"].read(["run_id", "stage", "started_at", "seconds", "counts", "peak_rss_bytes"])
    found: dict[str, list[Run]] = {stage: [] for stage in STAGES}
    for row in rows.sort_by("started_at").to_pylist():
        if row["stage"] in found:
            counts = json.loads(row["counts"] or "{}")
            rss = row["peak_rss_bytes"] or 0
            found[row["stage"]].append(
                Run(row["run_id"], row["stage"], row["started_at"], float(row["seconds"]), counts, rss)
            )
    return found


def last_night(runs: Mapping[str, Sequence[Run]]) -> str:
    """The run in which something was last done before a page was made; empty when nothing was."""
    newest = [runs[stage][-1] for stage in STAGES[:-1] if runs[stage]]
    return max(newest, key=lambda run: run.started_at).run_id if newest else ""


def nights(lake: Lake, runs: Mapping[str, Sequence[Run]]) -> list[Night]:
    """Figures of the last nights that published, oldest first, as `drift` and `runs` have them."""
    rows = lake["drift"].read(DRIFT.names).sort_by("gallery_version").to_pylist()
    versions = {int(run.number("gallery")): run.run_id for run in runs["publish"]}
    return [
        Night(
            row["gallery_version"],
            f"{row['created_at']:%Y-%m-%d}",
            row["mode"],
            _of_drift(row) | _of_runs(runs, versions.get(row["gallery_version"], "")),
        )
        for row in rows[-NIGHTS_COMPARED - 1 :]
    ]


def _of_drift(row: Mapping[str, Any]) -> dict[str, float | None]:
    kept = ("faces", "identities", "cohesion", "nearest_similarity", "reviews", "drift_sds", "merged", "split")
    figures = {key: row[key] for key in kept}
    figures["single_share"] = (row["single"] or 0) / row["identities"] if row["identities"] else None
    figures["largest_share"] = (row["largest"] or 0) / row["faces"] if row["faces"] else None
    figures["changed"] = (row["merged"] or 0) + (row["split"] or 0)
    return figures


def _of_runs(runs: Mapping[str, Sequence[Run]], run_id: str) -> dict[str, float | None]:
    mine = {stage: run for stage in STAGES[:-1] for run in runs[stage] if run.run_id == run_id}
    figures: dict[str, float | None] = {"seconds": sum(run.seconds for run in mine.values()) if mine else None}
    if "admit" in mine:
        figures["refused_share"] = _share(mine["admit"], "refused", "read")
    if "embed" in mine:
        figures["rejected_share"] = _share(mine["embed"], "rejected", "admitted")
    return figures


def _share(run: Run, part: str, whole: str) -> float | None:
    return run.number(part) / run.number(whole) if run.number(whole) else None


def shares_before(runs: Sequence[Run], part: str, whole: str, least: int = 1) -> list[float]:
    """A share in each of the runs before the last one, of those with `least` of the whole; ten at the most."""
    large = [_share(run, part, whole) for run in runs[:-1] if run.number(whole) >= least]
    return [share for share in large if share is not None][-NIGHTS_COMPARED:]


def stage_costs(config: Config, runs: Mapping[str, Sequence[Run]], tonight: str) -> list[StageCost]:
    """Each stage's last run, against the plan where one was made and against earlier runs elsewhere."""
    return list(_costs(config, runs, tonight))


def _costs(config: Config, runs: Mapping[str, Sequence[Run]], tonight: str) -> Iterator[StageCost]:
    price = config.plan.price_per_node_hour
    for stage in STAGES:
        if not runs[stage]:
            continue
        run, earlier = runs[stage][-1], runs[stage][:-1][-NIGHTS_COMPARED:]
        expected, by = _expected(run, earlier)
        hosts = config.plan.nodes if stage == "embed" else 1
        numbers = [
            f"{key.replace('_', ' ')} {value:,}"
            for key, value in run.counts.items()
            if isinstance(value, int) and value
        ]
        yield StageCost(
            stage=stage,
            when=_when(run, tonight),
            seconds=run.seconds,
            expected_s=expected,
            expected_by=by,
            memory_bytes=run.peak_bytes,
            usual_bytes=_whole(median([one.peak_bytes for one in earlier])),
            cost=None if price is None else run.seconds / 3600 * hosts * price,
            did=", ".join(numbers[:5]),
        )


def _when(run: Run, tonight: str) -> str:
    if run.run_id == tonight:
        return "this night"
    day = f"{run.started_at:%Y-%m-%d}"
    return f"{day}, the page before" if run.stage == "report" else f"{day}, nothing to do since"


def _expected(run: Run, earlier: Sequence[Run]) -> tuple[float | None, str]:
    """Seconds that the work should have taken, and by what: the calibrated plan, else what earlier runs took."""
    if planned := run.number("planned_s"):
        return planned, "plan"
    alike = [one for one in earlier if one.counts.get("mode") == run.counts.get("mode")]
    unit = _UNITS.get(run.stage)
    if not alike:
        return None, "nothing to compare with yet"
    said = f"as {len(alike)} before" if len(alike) > 1 else "as the one before"
    rates = [one.seconds / one.number(unit) for one in alike if unit and one.number(unit)]
    if unit and rates and run.number(unit):
        by_work = (median(rates) or 0.0) * run.number(unit)
        return max(
            by_work, min(one.seconds for one in alike)
        ), said  # what starting takes does not shrink with the work
    return median([one.seconds for one in alike]), said


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
