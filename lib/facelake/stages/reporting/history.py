"""Figures of earlier runs for the report, and the time that each stage is expected to take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facelake.config import Config
from facelake.contracts import DRIFT
from facelake.lake.lake import Lake
from facelake.report import BY_REQUEST, RUNS_COMPARED, Measure, RunFigures, StageCost, median

STAGES = ("admit", "embed", "cluster", "publish", "report")
MEASURES = (
    Measure("faces", "faces", "count"),
    Measure("identities", "identities", "count"),
    Measure("single_share", "identities of a single face", "share"),
    Measure("largest_share", "faces in the largest identity", "share"),
    Measure("cohesion", "cohesion, median", "cosine"),
    Measure("nearest_similarity", "similarity to the nearest identity, median", "cosine"),
    Measure("changed", "merged and split", "count"),
    Measure("reviews", "questions for review", "count"),
    Measure("drift_sds", "drift, sds", "sds"),
    Measure("refused_share", "photos refused", "share"),
    Measure("rejected_share", "new photos rejected", "share"),
    Measure("seconds", "seconds of all stages", "seconds"),
)
_UNITS = {"admit": "read", "embed": "admitted", "cluster": "faces", "publish": "faces"}
"""per stage, the count that its time is proportional to"""


@dataclass(frozen=True, slots=True)
class RecordedStage:
    """One execution of a stage, from table `runs`."""

    run_id: str
    stage: str
    started_at: Any
    seconds: float
    counts: Mapping[str, int]
    details: Mapping[str, object]
    peak_bytes: int

    @property
    def mode(self) -> object:
        """How clustering ran; None for other stages."""
        return self.details.get("mode")

    def number(self, key: str) -> float:
        """Return a count; 0 when it was not recorded."""
        return float(self.counts.get(key, 0))

    def counted(self, key: str) -> dict[str, int]:
        """Return counts by name that are recorded as a detail; empty if there are none."""
        counts = self.details.get(key)
        return {str(name): int(count) for name, count in counts.items()} if isinstance(counts, dict) else {}

    def reasons(self, prefix: str) -> dict[str, int]:
        """Return the positive counts whose name starts with `prefix` (`refused_` or `rejected_`), by reason."""
        return {
            key.removeprefix(prefix): value for key, value in self.counts.items() if key.startswith(prefix) and value
        }


def read_runs(lake: Lake) -> dict[str, list[RecordedStage]]:
    """Return the executions of every stage of a nightly run, and of erasures, oldest first."""
    rows = lake["runs"].read(["run_id", "stage", "started_at", "seconds", "counts", "details", "peak_rss_bytes"])
    stages: dict[str, list[RecordedStage]] = {stage: [] for stage in (*STAGES, "erase")}
    for row in rows.sort_by("started_at").to_pylist():
        if row["stage"] in stages:
            counts, details = json.loads(row["counts"] or "{}"), json.loads(row["details"] or "{}")
            seconds, peak = float(row["seconds"]), row["peak_rss_bytes"] or 0
            stages[row["stage"]].append(
                RecordedStage(row["run_id"], row["stage"], row["started_at"], seconds, counts, details, peak)
            )
    return stages


def last_run_id(runs: Mapping[str, Sequence[RecordedStage]]) -> str:
    """Return the newest run in which a stage before the report had work; an empty string when there is none."""
    newest = [runs[stage][-1] for stage in STAGES[:-1] if runs[stage]]
    return max(newest, key=lambda run: run.started_at).run_id if newest else ""


def run_history(lake: Lake, runs: Mapping[str, Sequence[RecordedStage]]) -> list[RunFigures]:
    """Return the figures of the last RUNS_COMPARED + 1 runs that published, oldest first."""
    rows = lake["drift"].read(DRIFT.names).sort_by("gallery_version").to_pylist()
    versions = {int(run.number("gallery")): run.run_id for run in runs["publish"]}
    return [
        RunFigures(
            row["gallery_version"],
            f"{row['created_at']:%Y-%m-%d}",
            row["mode"],
            _drift_figures(row) | _stage_figures(runs, versions.get(row["gallery_version"], "")),
        )
        for row in rows[-RUNS_COMPARED - 1 :]
    ]


def _drift_figures(row: Mapping[str, Any]) -> dict[str, float | None]:
    kept = ("faces", "identities", "cohesion", "nearest_similarity", "reviews", "drift_sds", "merged", "split")
    figures = {key: row[key] for key in kept}
    figures["single_share"] = (row["single"] or 0) / row["identities"] if row["identities"] else None
    figures["largest_share"] = (row["largest"] or 0) / row["faces"] if row["faces"] else None
    figures["changed"] = (row["merged"] or 0) + (row["split"] or 0)
    return figures


def _stage_figures(runs: Mapping[str, Sequence[RecordedStage]], run_id: str) -> dict[str, float | None]:
    stages = {stage: run for stage in STAGES[:-1] for run in runs[stage] if run.run_id == run_id}
    figures: dict[str, float | None] = {"seconds": sum(run.seconds for run in stages.values()) if stages else None}
    if "admit" in stages:
        figures["refused_share"] = _share(stages["admit"], "refused", "read")
    if "embed" in stages:
        figures["rejected_share"] = _share(stages["embed"], "rejected", "admitted")
    return figures


def _share(run: RecordedStage, part: str, total: str) -> float | None:
    return run.number(part) / run.number(total) if run.number(total) else None


def shares_before(runs: Sequence[RecordedStage], part: str, total: str, least: int = 1) -> list[float]:
    """Return a share of counts for up to RUNS_COMPARED executions before the last one whose total is >= `least`."""
    shares = [_share(run, part, total) for run in runs[:-1] if run.number(total) >= least]
    return [share for share in shares if share is not None][-RUNS_COMPARED:]


def refused_shares_before(admits: Sequence[RecordedStage]) -> list[float]:
    """Return the shares of photos refused for other reasons than `BY_REQUEST`, of up to RUNS_COMPARED earlier runs."""
    shares = []
    for run in admits[:-1]:
        refused = sum(count for reason, count in run.reasons("refused_").items() if reason not in BY_REQUEST)
        shares += [refused / run.number("read")] if run.number("read") else []
    return shares[-RUNS_COMPARED:]


def stage_costs(config: Config, runs: Mapping[str, Sequence[RecordedStage]], run_id: str) -> list[StageCost]:
    """Return the cost of the last execution of every stage, with what the plan or earlier executions let expect."""
    return list(_costs(config, runs, run_id))


def _costs(config: Config, runs: Mapping[str, Sequence[RecordedStage]], run_id: str) -> Iterator[StageCost]:
    price = config.plan.price_per_node_hour
    for stage in STAGES:
        if not runs[stage]:
            continue
        run = runs[stage][-1]
        earlier = [other for other in runs[stage][:-1] if _with_work(other) == _with_work(run)][-RUNS_COMPARED:]
        expected, expected_by = _expected(run, earlier)
        hosts = config.plan.nodes if stage == "embed" else 1
        numbers = [f"{key.replace('_', ' ')} {value:,}" for key, value in run.counts.items() if value]
        yield StageCost(
            stage=stage,
            when=_when(run, run_id),
            seconds=run.seconds,
            expected_s=expected,
            expected_by=expected_by,
            memory_bytes=run.peak_bytes,
            usual_bytes=_as_int(median([previous.peak_bytes for previous in earlier])),
            cost=None if price is None else run.seconds / 3600 * hosts * price,
            counts=", ".join(numbers[:5]),
        )


def _with_work(run: RecordedStage) -> bool:
    """Whether it had something to process: an execution without work says nothing of what work costs."""
    unit = _UNITS.get(run.stage)
    return unit is None or bool(run.number(unit))


def _when(run: RecordedStage, run_id: str) -> str:
    if run.run_id == run_id:
        return "this run"
    day = f"{run.started_at:%Y-%m-%d}"
    return f"{day}, the previous page" if run.stage == "report" else f"{day}, no work since then"


def _expected(run: RecordedStage, earlier: Sequence[RecordedStage]) -> tuple[float | None, str]:
    """Return the expected seconds and their origin: the calibrated plan, else earlier executions of the same mode."""
    if planned := run.details.get("planned_s"):
        return float(str(planned)), "plan"
    comparable = [previous for previous in earlier if previous.mode == run.mode]
    unit = _UNITS.get(run.stage)
    if not comparable:
        return None, "no earlier run"
    origin = f"{len(comparable)} earlier runs" if len(comparable) > 1 else "1 earlier run"
    rates = [previous.seconds / previous.number(unit) for previous in comparable if unit and previous.number(unit)]
    if unit and rates and run.number(unit):
        by_count = (median(rates) or 0.0) * run.number(unit)
        # the start-up time does not shrink with the amount of work
        return max(by_count, min(previous.seconds for previous in comparable)), origin
    return median([previous.seconds for previous in comparable]), origin


def _as_int(value: float | None) -> int | None:
    return None if value is None else int(value)
