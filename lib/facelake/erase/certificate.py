"""The record that an erasure was carried out. It names nobody: only keyed hashes of what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


def certificate(
    erasure_id: str,
    when: datetime,
    hashes: Sequence[str],
    removed: Mapping[str, int],
    gallery_version: int,
    objects_scanned: int,
    residual_hits: int,
) -> dict[str, Any]:
    """The certificate's body.

    Raises:
        ValueError: something was left behind; then there is no certificate.
    """
    if residual_hits:
        raise ValueError(f"{residual_hits} residual hits: not certified")
    return {
        "erasure": erasure_id,
        "completed_at": when.isoformat(),
        "targets_keyed_sha256": sorted(hashes),
        "removed": dict(removed),
        "gallery_version": gallery_version,
        "residual_scan": {"objects": objects_scanned, "hits": 0},
    }
