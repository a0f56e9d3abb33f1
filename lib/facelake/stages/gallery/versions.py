"""Gallery versions: one row of `galleries` pins the Delta versions of the tables that belong together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Change, Receipt
from facelake.errors import ConfigError, VersionGone
from facelake.lake.lake import Lake
from facelake.lake.tables import Snapshot
from facelake.plural import counted

FIND_IDENTITY = "see `facelake gallery show`; with a subject reference or a photo id it lists their identities"
"""next step where an identity is not known"""
PINNED = ("identities", "memberships", "changes")


@dataclass(frozen=True, slots=True)
class Gallery:
    """One gallery version."""

    version: int
    row: dict[str, Any]
    lake: Lake

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """Return a gallery table as of this version, in memory."""
        return self.lake[table].read(columns, self.snapshot(table))

    def parts(self, table: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield a gallery table as of this version file by file, for bounded memory."""
        for _, rows in self.lake[table].parts(columns, self.snapshot(table)):
            yield rows

    def snapshot(self, table: str) -> Snapshot:
        """Return the data files of a gallery table as of this version.

        Raises:
            VersionGone: an erasure or a withdrawal purged it.
        """
        if table not in PINNED:
            raise ValueError(table)
        try:
            return self.lake[table].snapshot(self.row[f"{table}_version"])
        except VersionGone as err:
            what = f"gallery {self.version} can no longer be read: its history was purged"
            next_step = "use the newest version, or one that `facelake gallery list` shows as readable; erasures and "
            next_step += "withdrawals remove earlier ones. If it is the newest, a run was killed: `facelake nightly`"
            raise VersionGone(what, where=self.lake.uri, next_step=next_step) from err


def list_galleries(lake: Lake) -> list[dict[str, Any]]:
    """Return every published version, oldest first; of a version that an erasure rewrote, the rewritten one."""
    rows = lake["galleries"].read().sort_by([("gallery_version", "ascending"), ("created_at", "ascending")]).to_pylist()
    return list({row["gallery_version"]: row for row in rows}.values())


def is_readable(lake: Lake, row: dict[str, Any]) -> bool:
    """Return whether every table of a version can still be read; erasures and withdrawals purge earlier ones."""
    try:
        for name in PINNED:
            lake[name].snapshot(row[f"{name}_version"])
    except VersionGone:
        return False
    return True


def current_gallery(lake: Lake, version: int | None = None) -> Gallery | None:
    """Return the newest gallery, or a named version; None when nothing was published.

    Raises:
        ConfigError: no such version.
    """
    rows = list_galleries(lake)
    if version is not None:
        rows = [row for row in rows if row["gallery_version"] == version]
        if not rows:
            raise ConfigError(
                f"there is no gallery version {version}",
                where=lake.uri,
                next_step="see `facelake gallery list`",
            )
    return Gallery(rows[-1]["gallery_version"], rows[-1], lake) if rows else None


def require_gallery(lake: Lake, version: int | None = None) -> Gallery:
    """Return the newest gallery, or a named version.

    Raises:
        ConfigError: nothing was published, or no such version.
    """
    gallery = current_gallery(lake, version)
    if gallery is None:
        raise ConfigError("no gallery was published yet", where=lake.uri, next_step="run `facelake nightly`")
    return gallery


def not_active(gallery: Gallery, identity: str | None) -> ConfigError:
    """Return the error for an identity without faces; it says in which version it ended, and of a merged one it names
    the identity that replaces it.
    """
    what, where = f"no active identity {identity!r}", gallery.lake.uri
    for rows in gallery.parts("identities", ["identity_id", "status", "merged_into", "last_version"]):
        for row in rows.filter(pc.equal(rows["identity_id"], identity or "")).to_pylist():
            if merged_into := row["merged_into"]:
                return ConfigError(f"{what}: merged into {merged_into}", where=where, next_step=f"use {merged_into}")
            if row["status"] == "retired":
                version = row["last_version"]
                what += f": it was retired in gallery {version}, {_end_of(gallery, identity or '', version)}"
                next_step = f"`facelake gallery changes --since {version - 1}` lists what changed then"
                return ConfigError(what, where=where, next_step=next_step)
    return ConfigError(what, where=where, next_step=FIND_IDENTITY)


def _end_of(gallery: Gallery, identity: str, version: int) -> str:
    """Return how an identity lost its last faces."""
    for rows in gallery.parts("changes", ["gallery_version", "kind", "identity_id", "size_before"]):
        own = rows.filter(
            pc.and_(pc.equal(rows["identity_id"], identity), pc.equal(rows["gallery_version"], version))
        ).to_pylist()
        if own:
            faces = counted(own[0]["size_before"] or 0, "face")
            erased = own[0]["kind"] == Change.ERASED
            return f"when its {faces} were erased" if erased else f"when its {faces} were no longer in the lake"
    return "when it had no face left"


def settle(lake: Lake) -> None:
    """Restore the gallery tables to what readers see, after a crash in the middle of a publish or a purge.

    A table that was written but never pinned returns to its pinned files. A pinned version whose history is gone can
    only come from an interrupted purge, which starts from settled tables: there the newest content is the pinned one.
    """
    gallery = current_gallery(lake)
    purged = False
    for name in PINNED:
        table, now = lake[name], lake[name].snapshot()
        try:
            pinned = table.snapshot(gallery.row[f"{name}_version"]).files if gallery else ()
        except VersionGone:
            purged = True
            continue
        restored = [Receipt(name, f.path, f.size_bytes, f.rows) for f in pinned if f not in now.files]
        extra = [file for file in now.files if file not in pinned]
        if restored or extra:
            table.commit(restored, extra)
    if gallery and purged:
        pin(lake, gallery.version, gallery.row)


def pin(lake: Lake, version: int, row: dict[str, Any]) -> None:
    """Publish: make the tables' newest Delta versions the gallery that readers see, in one commit."""
    pinned = {f"{name}_version": lake[name].version() for name in PINNED}
    lake["galleries"].append([row | pinned | {"gallery_version": version, "created_at": datetime.now(UTC)}])
