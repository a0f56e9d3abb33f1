"""status: what is going on in a lake, read off the lake alone, from any host that can read it. Writes nothing."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from facelake.config import Config
from facelake.contracts import TABLES
from facelake.lake.lake import Lake
from facelake.lake.lease import KEY, is_dead
from facelake.stages.gallery.versions import current_gallery


def status(config: Config) -> dict[str, Any]:
    """Who writes, the stage at work with its rate and ETA, the last run of each stage, tables, gallery.

    Progress is as old as the last renewal of the writer's lease: up to 20 s.
    """
    lake = Lake.open(config.lake, config.s3)
    gallery = current_gallery(lake)
    found: dict[str, Any] = {"lake": lake.uri, "holder": None, "work": None}
    held = _lease(lake)
    if held:
        found["holder"] = _holder(held)
        if found["holder"]["state"] == "alive":
            found["work"] = _work(held.get("progress") or {}, float(held.get("renewed", 0)))
    found["gallery"] = {"version": 0, "identities": 0, "faces": 0}
    if gallery:
        sizes = {name: gallery.row[name] for name in ("identities", "faces")}
        found["gallery"] = {"version": gallery.version, **sizes, "created_at": gallery.row["created_at"].isoformat()}
    found["stages"] = _last_runs(lake)
    found["tables"] = {name: _table(lake, name) for name in TABLES}
    stamps = [table["committed_at"] for table in found["tables"].values() if table["committed_at"]]
    found["last_commit"] = max(stamps, default=None)
    return found


def _lease(lake: Lake) -> dict[str, Any]:
    try:
        return dict(json.loads(lake.store.read(KEY)))
    except (FileNotFoundError, ValueError):
        return {}


def _holder(held: dict[str, Any]) -> dict[str, Any]:
    """Alive; silent (has not renewed in time, nobody may take over yet); dead (the next writer takes over)."""
    silent_s = time.time() - float(held.get("renewed", 0))
    state = "dead" if is_dead(held) else "silent" if silent_s > float(held.get("ttl_s", 0)) else "alive"
    holder = {"host": str(held.get("host", "?")).split(":")[0], "pid": held.get("pid"), "for": held.get("for")}
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
        counts = {k: v for k, v in json.loads(row["counts"] or "{}").items() if isinstance(v, int | float)}
        row |= {"counts": counts, "started_at": row["started_at"].astimezone(UTC).isoformat()}
        latest[row.pop("stage")] = row
    return latest


def _table(lake: Lake, name: str) -> dict[str, Any]:
    version, committed = lake[name].last_commit()
    snapshot = lake[name].snapshot()
    size = sum(file.size_bytes for file in snapshot.files)
    figures = {"version": version, "rows": snapshot.rows, "files": len(snapshot.files), "bytes": size}
    return {**figures, "committed_at": committed.isoformat() if committed else None}
