"""Showing a gallery, and exporting it to a recipient."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.errors import Refused
from facelake.lake.lake import Lake
from facelake.publish.transform import key_name
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.evaluation.operating_points import operating_points
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.ranges import range_of_file
from facelake.stages.gallery.versions import Gallery, not_active, require_gallery
from facelake.stages.models.registry import find_card
from facelake.stages.sharing.leases import issue, under_key

_FORMAT = 2
_COLUMNS = ("identity_id", "size", "prototype", "exemplars", "cohesion", "model_digest")
_SHOWN = ["identity_id", "status", "size", "cohesion", "first_version", "last_version", "merged_into"]
_PARTIAL = ".partial-"  # folder of an export that is being written; one that was killed is removed by the next
_ROW_GROUP = 2_048
_HASHED_BYTES = 1 << 20


def show(lake: Lake, identity: str | None, version: int | None) -> tuple[list[str], list[dict[str, Any]]]:
    """Return column names and rows: the identities, the largest first; or the faces of one identity.

    Raises:
        ConfigError: nothing was published, or the identity is not active; a merged one is named with its winner.
    """
    gallery = require_gallery(lake, version)
    if identity is None:
        rows = gallery.read("identities", _SHOWN).sort_by([("size", "descending"), ("identity_id", "ascending")])
        return _SHOWN, rows.to_pylist()
    columns = ["face_id", "image_id", "score", "how"]
    own = [
        rows.filter(pc.equal(rows["identity_id"], identity)).select(columns)
        for rows in gallery.parts("memberships", [*columns, "identity_id"])
    ]
    faces = pa.concat_tables(own).sort_by("face_id") if own else pa.table({})
    if not faces.num_rows:
        raise not_active(gallery, identity)
    return columns, faces.to_pylist()


@dataclass(frozen=True, slots=True)
class _Export:
    """What is exported.

    Attributes:
        context: of the run.
        gallery: the gallery version.
        purpose: of the recipient.
        key: by which templates are rotated.
    """

    context: Context
    gallery: Gallery
    purpose: str
    key: bytes | None

    def parts(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield rows of active identities in force for the purpose, by ascending id, a data file at a time."""
        table = self.context.lake["identities"]
        files = self.gallery.snapshot("identities").files
        names = list(dict.fromkeys([*columns, "status", "purposes"]))
        ranges = {own[0] if (own := range_of_file(file.path)) else None for file in files}
        if len(ranges) > 1 or None in ranges:  # files of an older layout are not in the order of ids
            yield self._allowed(self.gallery.read("identities", names)).select(columns).sort_by("identity_id")
            return
        for file in files:  # their names ascend with the ids, and their rows too
            rows = self._allowed(table.file(file, names)).select(columns)
            if rows.num_rows:
                yield rows

    def _allowed(self, rows: pa.Table) -> pa.Table:
        allowed = [self.purpose in (purposes or ()) for purposes in rows["purposes"].to_pylist()]
        return rows.filter(pc.and_(pc.equal(rows["status"], "active"), pa.array(allowed, pa.bool_())))


def export_gallery(
    context: Context, out: str, purpose: str, recipient: str, *, days: int | None = None, key: bytes | None = None
) -> dict[str, Any]:
    """Write templates and exemplars of the active identities, a FAISS index and a manifest to a local folder.

    The export is a lease and is recorded in the audit trail. Identities are read and written a data file at a time.

    Args:
        context: of the run.
        out: the folder.
        purpose: what the recipient will use it for.
        recipient: who receives it.
        days: how long the recipient may use it; default and maximum: the config's.
        key: templates are rotated by it (publish/transform.py); the recipient rotates probes by the same key.

    Returns:
        The manifest.

    Raises:
        Refused: the gallery is not in force for the purpose, or the recipient has not acknowledged an earlier recall.
    """
    export = _Export(context, require_gallery(context.lake), purpose, key)
    parts = list(export.parts(["identity_id", "size"]))
    if not parts:
        what = f"no identity is in force for the purpose {purpose!r}"
        what += f"; the gallery was made for {export.gallery.row['purpose']!r}"
        next_step = "record grants for that purpose and publish a gallery for it"
        raise Refused(what, where=context.lake.uri, next_step=next_step)
    manifest = _manifest(export, pa.concat_tables(parts), recipient, days)  # refuses before anything is written
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder) as partial:
        digests = _write_files(export, Path(partial))
        manifest |= {"files": digests}
        manifest["signature"] = context.sign(manifest)
        append_audit(
            context.lake, "export", manifest, context.sign
        )  # before the data leaves, so that no export is unrecorded
        (Path(partial) / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for name in [*digests, "manifest.json"]:
            file = Path(partial) / name
            file.chmod(0o600)
            file.replace(folder / name)
    return manifest


def _manifest(export: _Export, rows: pa.Table, recipient: str, days: int | None) -> dict[str, Any]:
    """Measure thresholds, issue the lease, and return the manifest without the digests of its files."""
    context, gallery, key = export.context, export.gallery, export.key
    measured = operating_points(context, gallery, rows)
    most = context.config.governance.lease_days
    lease = issue(context.lake, gallery, recipient, export.purpose, min(days or most, most), rows.num_rows)
    return {
        "format": _FORMAT,
        "lease_id": lease.lease_id,
        "expires_at": lease.expires_at.isoformat(),
        "gallery_version": gallery.version,
        "identities": rows.num_rows,
        "purpose": export.purpose,
        "lake": context.lake.name,
        "thresholds": measured,
        "template_key": key_name(key) if key else None,
        "recipient": recipient,
        "model_digest": gallery.row["model_digest"],
        "withdrawn_lineage": gallery.row["withdrawn_lineage"] or [],
        "exported_at": datetime.now(UTC).isoformat(),
    }


def _write_files(export: _Export, folder: Path) -> dict[str, str]:
    """Write the table, a FAISS index of its templates in the same order, and the model's card; returns digests."""
    writer: pq.ParquetWriter | None = None
    index: faiss.IndexFlatIP | None = None
    for part in export.parts([*_COLUMNS]):
        rows = under_key(export.context.lake, part, export.key, export.purpose) if export.key else part
        vectors = matrix_of(rows["prototype"], len(rows["prototype"][0]))
        if writer is None or index is None:
            writer = pq.ParquetWriter(folder / "identities.parquet", rows.schema, compression="zstd")
            index = faiss.IndexFlatIP(vectors.shape[1])
        writer.write_table(rows, row_group_size=_ROW_GROUP)
        index.add(np.ascontiguousarray(vectors))
    assert writer is not None
    assert index is not None
    writer.close()
    faiss.write_index(index, str(folder / "index.faiss"))
    card = find_card(export.context.config.model.card).model_dump_json(indent=1)
    (folder / "model_card.json").write_text(card)
    return {name: _digest(folder / name) for name in ("identities.parquet", "index.faiss", "model_card.json")}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()
