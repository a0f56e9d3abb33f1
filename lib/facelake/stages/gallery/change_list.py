"""The changes of a gallery by identity: what each version did to which identity, in the order of their importance."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CHANGES, Change
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.report import ChangedIdentity
from facelake.stages.gallery.versions import list_galleries, require_gallery

CHANGE_COLUMNS = CHANGES.names
KIND_ORDER = (
    Change.ERASED, Change.RETIRED, Change.MERGED, Change.SPLIT, Change.SHRANK, Change.CREATED, Change.RESURRECTED,
    Change.CHANGED, Change.GREW,
)  # fmt: skip
"""the kinds, those first after which an id means less or something else than before"""


class LargestChanges:
    """Collects the largest changes of each kind from parts of table `changes`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[str, pa.Table] = {}

    def add(self, part: pa.Table) -> None:
        """Add rows of one version, with CHANGE_COLUMNS."""
        for kind in KIND_ORDER:
            own = part.filter(pc.equal(part["kind"], kind))
            if own.num_rows:
                known = self._rows.get(kind)
                rows = _by_size(own if known is None else pa.concat_tables([known, own]))
                self._rows[kind] = rows.slice(0, self._most)

    def rows(self) -> list[ChangedIdentity]:
        """Return them by KIND_ORDER, the largest of a kind first."""
        found = [row for kind in KIND_ORDER if kind in self._rows for row in self._rows[kind].to_pylist()]
        return [ChangedIdentity(*(row[name] for name in CHANGE_COLUMNS[1:])) for row in found]


def changes_since(lake: Lake, since: int | None = None) -> tuple[int, int, pa.Table]:
    """Return what happened to identities in the versions after `since`, without those that did not change.

    Args:
        lake: the lake.
        since: a gallery version; None: the one before the newest.

    Returns:
        The version compared with (0: nothing), the newest one, and rows with CHANGE_COLUMNS by version, then by
        KIND_ORDER, the largest of a kind first.

    Raises:
        ConfigError: nothing was published, or there is no such version.
    """
    gallery = require_gallery(lake)
    versions = [0, *(row["gallery_version"] for row in list_galleries(lake))]
    first = versions[-2] if since is None else since
    if first not in versions:
        what = f"there is no gallery version {first}"
        raise ConfigError(what, where="--since", next_step="see `facelake gallery list`; 0 lists the changes of all")
    parts = [
        rows.filter(pc.greater(rows["gallery_version"], first)) for rows in gallery.parts("changes", CHANGE_COLUMNS)
    ]
    if not parts:
        return first, gallery.version, pa.table({name: [] for name in CHANGE_COLUMNS})
    rows = pa.concat_tables(parts)
    order = pc.index_in(rows["kind"], pa.array([str(kind) for kind in KIND_ORDER]))
    keyed = rows.append_column("order", order).append_column("size", _size(rows))
    keys = [
        ("gallery_version", "ascending"),
        ("order", "ascending"),
        ("size", "descending"),
        ("identity_id", "ascending"),
    ]
    return first, gallery.version, keyed.sort_by(keys).select(CHANGE_COLUMNS)


def _size(rows: pa.Table) -> pa.ChunkedArray:
    return pc.max_element_wise(rows["size_before"], rows["size_after"])


def _by_size(rows: pa.Table) -> pa.Table:
    sized = rows.append_column("size", _size(rows)) if "size" not in rows.column_names else rows
    return sized.sort_by([("size", "descending"), ("identity_id", "ascending")]).select(rows.column_names)
