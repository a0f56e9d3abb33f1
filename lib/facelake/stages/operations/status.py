"""The state of a lake, read from the lake alone by any host that can read it. Writes nothing."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from facelake.config import Config
from facelake.contracts import TABLES
from facelake.lake.lake import Lake
from facelake.lake.lease import KEY, is_dead
from facelake.stages.core.partition_names import open_lake
from facelake.stages.erasure.notes import pending
from facelake.stages.gallery.versions import current_gallery


def status(config: Config) -> dict[str, Any]:
    """The writer, the current stage with its ETA, the last run of each stage, the tables and the gallery.

    Progress dates from the last renewal of the writer's lease, up to 20 s ago.
    """
    lake = open_lake(config)
    gallery = current_gallery(lake)
    state: dict[str, Any] = {"lake": lake.uri, "holder": None, "work": None}
    lease = _lease(lake)
    if lease:
        state["holder"] = _holder(lease)
        if state["holder"]["state"] == "alive":
            state["work"] = _work(lease.get("progress") or {}, float(lease.get("renewed", 0)))
    state["gallery"] = {"version": 0, "identities": 0, "faces": 0}
    if gallery:
        sizes = {name: gallery.row[name] for name in ("identities", "faces")}
        state["gallery"] = {"version": gallery.version, **sizes, "created_at": gallery.row["created_at"].isoformat()}
    state["stages"] = _last_runs(lake)
    state["tables"] = {name: _table(lake, name) for name in TABLES}
    stamps = [table["committed_at"] for table in state["tables"].values() if table["committed_at"]]
    state["last_commit"] = max(stamps, default=None)
    state["unfinished_erasures"] = [ident for _, ident in pending(lake)]
    return state


def _lease(lake: Lake) -> dict[str, Any]:
    try:
        return dict(json.loads(lake.store.read(KEY)))
    except (FileNotFoundError, ValueError):
        return {}


def _holder(lease: dict[str, Any]) -> dict[str, Any]:
    """The holder with its state: alive, silent (not renewed in time, not yet free for takeover) or dead (the next
    writer
    takes over)."""
    silent_s = time.time() - float(lease.get("renewed", 0))
    state = "dead" if is_dead(lease) else "silent" if silent_s > float(lease.get("ttl_s", 0)) else "alive"
    holder = {"host": str(lease.get("host", "?")).split(":")[0], "pid": lease.get("pid"), "for": lease.get("for")}
    return {**holder, "state": state, "renewed_s_ago": round(max(silent_s, 0.0), 1)}


def _work(progress: dict[str, Any], renewed_s: float) -> dict[str, Any] | None:
    if not progress.get("stage"):
        return None
    done, total = int(progress["done"]), int(progress["total"])
    seconds = max(renewed_s - datetime.fromisoformat(progress["began"]).timestamp(), 0.0)
    eta_s = round((total - done) * seconds / done, 1) if done and total else None
    work = {key: progress[key] for key in ("run", "stage", "unit", "done", "total", "counts")}
    return {**work, "seconds": round(seconds, 1), "eta_s": eta_s}


def _last_runs(lake: Lake) -> dict[str, dict[str, Any]]:
    runs = lake["runs"].read(["stage", "run_id", "started_at", "seconds", "counts", "peak_rss_bytes"])
    latest: dict[str, dict[str, Any]] = {}
    for row in runs.sort_by("started_at").to_pylist():
        counts = json.loads(row["counts"] or "{}")
        row |= {"counts": counts, "started_at": row["started_at"].astimezone(UTC).isoformat()}
        latest[row.pop("stage")] = row
    return latest


def _table(lake: Lake, name: str) -> dict[str, Any]:
    version, committed = lake[name].last_commit()
    snapshot = lake[name].snapshot()
    size = sum(file.size_bytes for file in snapshot.files)
    figures = {"version": version, "rows": snapshot.rows, "files": len(snapshot.files), "bytes": size}
    return {**figures, "committed_at": committed.isoformat() if committed else None}
