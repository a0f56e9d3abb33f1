"""The command `vacuum`: deletes files that no readable version needs, and files that crashed writers staged.

Always kept: the newest version of each table and the versions that the last galleries pin, so that readers of the
current and the previous gallery are never disturbed, however long they read. Also kept: files that were in use less
than `keep_hours` ago. The lease excludes writers; the log itself is not changed.
"""

from __future__ import annotations

from facelake.contracts import TABLES
from facelake.errors import ConfigError
from facelake.events import StageProgress
from facelake.stages.core.context import Context, StageResult, StageRun
from facelake.stages.gallery.versions import PINNED, is_readable, list_galleries

_LEAST_GALLERIES = 2


def vacuum(context: Context, keep_galleries: int = 7, keep_hours: int = 168, *, dry_run: bool = False) -> StageResult:
    """Delete unneeded files of all tables; the counts are of files and bytes deleted, or to be deleted in a dry run.

    Raises:
        ConfigError: `keep_galleries` is below two, or `keep_hours` is negative.
    """
    if keep_galleries < _LEAST_GALLERIES or keep_hours < 0:
        what = "the current and the previous gallery must be kept, and hours must not be negative"
        raise ConfigError(what, where="vacuum", next_step=f"keep at least {_LEAST_GALLERIES} galleries")
    run = StageRun(context, "vacuum", len(TABLES), "tables")
    galleries = [row for row in list_galleries(context.lake)[-keep_galleries:] if is_readable(context.lake, row)]
    counts: dict[str, int] = {"galleries_kept": len(galleries), "files": 0, "bytes": 0}
    for done, name in enumerate(TABLES):
        pinned = [int(row[f"{name}_version"]) for row in galleries] if name in PINNED else []
        context.check_lease()
        sizes = context.lake[name].vacuum(keep_hours, [version for version in pinned if version >= 0], dry_run=dry_run)
        counts["files"], counts["bytes"] = counts["files"] + len(sizes), counts["bytes"] + sum(sizes)
        if sizes:
            counts[f"files_{name}"] = len(sizes)
        context.emit(StageProgress("vacuum", done + 1, {"files": counts["files"]}))
    return run.skip(counts) if dry_run or not counts["files"] else run.finish(counts, "")
