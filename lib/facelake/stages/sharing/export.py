"""Looking into a gallery, and handing it out."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.errors import ConfigError, Refused
from facelake.lake.lake import Lake
from facelake.publish.transform import key_name
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.evaluation.operating_points import operating_points
from facelake.stages.gallery.range_tasks import matrix_of
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.stages.models.registry import find_card
from facelake.stages.sharing.leases import issue, under_key

_FORMAT = 2
_COLUMNS = ("identity_id", "size", "prototype", "exemplars", "cohesion", "model_digest")


def _gallery(lake: Lake, version: int | None = None) -> Gallery:
    gallery = current_gallery(lake, version)
    if gallery is None:
        raise ConfigError("no gallery was published yet", where=lake.uri, next_step="run `facelake nightly`")
    return gallery


def show(lake: Lake, identity: str | None, version: int | None) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows: the identities, the largest first; or the faces of one identity."""
    gallery = _gallery(lake, version)
    if identity is None:
        columns = [
            "identity_id",
            "status",
            "size",
            "cohesion",
            "first_version",
            "last_version",
            "merged_into",
        ]
        rows = gallery.read("identities", columns).sort_by([("size", "descending"), ("identity_id", "ascending")])
        return columns, rows.to_pylist()
    members = gallery.read("memberships")
    found = members.filter(pc.equal(members["identity_id"], identity)).sort_by("face_id")
    if not found.num_rows:
        raise ConfigError(f"no active identity {identity!r}", where=lake.uri, next_step="see `facelake gallery show`")
    return ["face_id", "image_id", "score", "how"], found.to_pylist()


def export_gallery(
    context: Context, out: str, purpose: str, recipient: str, days: int | None = None, key: bytes | None = None
) -> dict[str, Any]:
    """Write the active identities' prototypes and exemplars, a FAISS index and a manifest to a local folder.

    It is a lease, and kept in the audit trail.

    Args:
        days: how long the recipient may use it; default: the config's, which is also the most.
        key: prototypes are rotated by it (publish/transform.py); the recipient rotates his probes by the same key.

    Raises:
        Refused: the gallery is not in force for the purpose, or the recipient still owes an answer.
    """
    gallery = _gallery(context.lake)
    rows = gallery.read("identities")
    allowed = [purpose in (p or ()) for p in rows["purposes"].to_pylist()]
    rows = rows.filter(pc.and_(pc.equal(rows["status"], "active"), pa.array(allowed, pa.bool_())))
    if not rows.num_rows:
        what = (
            f"no identity is in force for the purpose {purpose!r}; the gallery was made for {gallery.row['purpose']!r}"
        )
        raise Refused(
            what,
            where=context.lake.uri,
            next_step="record grants for that purpose and publish a gallery for it",
        )
    measured = operating_points(context, gallery, rows)
    if key:
        rows = under_key(context.lake, rows, key, purpose)
    files = _files(context, rows.sort_by("identity_id"))
    most = context.config.governance.lease_days
    lease = issue(context.lake, gallery, recipient, purpose, min(days or most, most), rows.num_rows)
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "lease_id": lease.lease_id,
        "expires_at": lease.expires_at.isoformat(),
        "gallery_version": gallery.version,
        "identities": rows.num_rows,
        "purpose": purpose,
        "lake": context.lake.name,
        "thresholds": measured,
        "template_key": key_name(key) if key else None,
        "recipient": recipient,
        "model_digest": gallery.row["model_digest"],
        "withdrawn_lineage": gallery.row["withdrawn_lineage"] or [],
        "exported_at": datetime.now(UTC).isoformat(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    append_audit(context.lake, "export", manifest)  # before the data leaves: an export without a record cannot be
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return manifest


def _files(context: Context, rows: pa.Table) -> dict[str, bytes]:
    """What is handed over: the table, a FAISS index of its prototypes in the same order, the model's card."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.select([*_COLUMNS]), sink, compression="zstd")
    vectors = matrix_of(rows["prototype"], len(rows["prototype"][0]))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return {
        "identities.parquet": sink.getvalue().to_pybytes(),
        "index.faiss": faiss.serialize_index(index).tobytes(),
        "model_card.json": find_card(context.config.model.card).model_dump_json(indent=1).encode(),
    }
