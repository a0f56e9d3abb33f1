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
    *,
    versions: Mapping[str, int] | None = None,
    purpose: str | None = None,
    recipients_pending: Sequence[str] = (),
) -> dict[str, Any]:
    """The certificate's body: JSON, to be signed.

    Args:
        hashes: keyed hashes of the subjects, images and sources asked for.
        removed: what was removed, counted by kind.
        versions: Delta version of each table after the erasure.
        purpose: the one purpose the erasure was for; None: all.
        recipients_pending: who was handed the data and has not yet acknowledged its end.

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
        "versions": dict(versions or {}),
        "purpose": purpose,
        "recipients_pending": sorted(recipients_pending),
        "residual_scan": {"objects": objects_scanned, "hits": 0},
    }
