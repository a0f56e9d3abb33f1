"""A lake's status as Prometheus metrics (text exposition format 0.0.4).

The metrics are read from the lake, not from the job: a nightly job may have ended when it is scraped, its pods have no
stable address, and each Ray and Spark process would need a port. Any host that can read the lake can export them: as a
text file for node_exporter's collector, or with `facelake status --serve PORT` as a small deployment.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

# help text by metric name; all are gauges
METRICS = {
    "facelake_writer_active": "1 while a running process holds the lake's lease",
    "facelake_writer_dead": "1 if the lease's holder ended without releasing it",
    "facelake_lease_age_seconds": "seconds since the holder renewed its lease",
    "facelake_work_done": "units processed by the current stage",
    "facelake_work_total": "units that the current stage will process in total; 0: not known",
    "facelake_work_eta_seconds": "estimated seconds until the current stage ends, at its rate so far",
    "facelake_run_timestamp_seconds": "start of a stage's last recorded run, Unix time",
    "facelake_run_duration_seconds": "seconds of a stage's last recorded run",
    "facelake_run_peak_rss_bytes": "peak memory of the driver in a stage's last recorded run",
    "facelake_run_count": "a counter of a stage's last recorded run",
    "facelake_table_rows": "rows of a table",
    "facelake_table_files": "data files of a table",
    "facelake_table_bytes": "bytes of a table's data files",
    "facelake_table_version": "Delta version of a table",
    "facelake_gallery_version": "version of the gallery that readers see; 0: none",
    "facelake_gallery_identities": "identities in that gallery",
    "facelake_gallery_faces": "faces in that gallery",
    "facelake_last_commit_timestamp_seconds": "newest commit to any table, Unix time",
}
_Sample = tuple[str, dict[str, str], float]


def exposition(status: dict[str, Any]) -> str:
    """Return the text that Prometheus scrapes, from the result of `status`."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(status))
    return generate_latest(registry).decode()


class _StatusCollector(Collector):
    """Presents a status as gauges."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every metric that has samples, in the order of METRICS."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, labels, value in _samples(self._status):
            if name not in families:
                families[name] = GaugeMetricFamily(name, METRICS[name], labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        for name in METRICS:
            if name in families:
                yield families[name]


def _samples(status: dict[str, Any]) -> Iterator[_Sample]:
    holder, work = status["holder"] or {}, status["work"]
    yield "facelake_writer_active", {}, float(holder.get("state") == "alive")
    yield "facelake_writer_dead", {}, float(holder.get("state") == "dead")
    if holder:
        yield "facelake_lease_age_seconds", {}, float(holder["renewed_s_ago"])
    if work:
        label = {"stage": work["stage"], "unit": work["unit"]}
        yield "facelake_work_done", label, float(work["done"])
        yield "facelake_work_total", label, float(work["total"])
        if work["eta_s"] is not None:
            yield "facelake_work_eta_seconds", label, float(work["eta_s"])
    for stage, run in status["stages"].items():
        yield "facelake_run_timestamp_seconds", {"stage": stage}, _unix(run["started_at"])
        yield "facelake_run_duration_seconds", {"stage": stage}, float(run["seconds"])
        yield "facelake_run_peak_rss_bytes", {"stage": stage}, float(run["peak_rss_bytes"] or 0)
        for count, value in run["counts"].items():
            yield "facelake_run_count", {"stage": stage, "count": count}, float(value)
    for table, figures in status["tables"].items():
        for key in ("rows", "files", "bytes", "version"):
            yield f"facelake_table_{key}", {"table": table}, float(figures[key])
    for key in ("version", "identities", "faces"):
        yield f"facelake_gallery_{key}", {}, float(status["gallery"][key])
    if status["last_commit"]:
        yield "facelake_last_commit_timestamp_seconds", {}, _unix(status["last_commit"])


def _unix(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
