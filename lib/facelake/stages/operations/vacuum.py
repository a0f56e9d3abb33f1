"""vacuum: delete files that no version anybody may read still needs, and what dead writers staged.

Kept always: the newest version of each table, and what the last galleries pin, so that readers of the current gallery
and of the one before are never disturbed, however long they read. Kept besides: whatever was in use less than
`keep_hours` ago. Writers are excluded by the lease; the log itself is left as it is.
"""

from __future__ import annotations

from facelake.contracts import TABLES
from facelake.errors import ConfigError
from facelake.events import StageProgress
from facelake.stages.core.context import Context, StageResult, StageRun
from facelake.stages.gallery.versions import PINNED, list_galleries

_LEAST_GALLERIES = 2


def vacuum(context: Context, keep_galleries: int = 7, keep_hours: int = 168, dry_run: bool = False) -> StageResult:
    """Count files and bytes deleted, or, in a dry run, that would be.

    Raises:
        ConfigError: fewer than two galleries are to be kept.
    """
    if keep_galleries < _LEAST_GALLERIES or keep_hours < 0:
        what = "the current gallery and the one before must be kept, and hours are not negative"
        raise ConfigError(what, where="vacuum", next_step=f"keep at least {_LEAST_GALLERIES} galleries")
    run = StageRun(context, "vacuum", len(TABLES), "tables")
    galleries = list_galleries(context.lake)[-keep_galleries:]
    counts: dict[str, int] = {"galleries_kept": len(galleries), "files": 0, "bytes": 0}
    for done, name in enumerate(TABLES):
        pinned = [int(row[f"{name}_version"]) for row in galleries] if name in PINNED else []
        context.check_lease()
        gone = context.lake[name].vacuum(keep_hours, [version for version in pinned if version >= 0], dry_run)
        counts["files"], counts["bytes"] = counts["files"] + len(gone), counts["bytes"] + sum(gone)
        if gone:
            counts[f"files_{name}"] = len(gone)
        context.emit(StageProgress("vacuum", done + 1, {"files": counts["files"]}))
    return run.skip(counts) if dry_run or not counts["files"] else run.finish(counts, "")
