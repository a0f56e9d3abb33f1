"""The record that an erasure was carried out. It contains keyed hashes of the targets, no identifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from facelake.contracts import SEARCHABLE
from facelake.erase.spellings import NOT_SEARCHED, SEARCHED

SHORT_REFERENCES = (
    f"subject reference(s) of fewer than {SEARCHABLE} bytes, which occur by chance: "
    "photos, faces and embeddings of these people were searched for"
)

SHORT_IDS = "photo id(s) of fewer than 3 bytes, which occur by chance"

WITHOUT_PIECES = (
    "photo(s) of which no part was searched for: they lie outside of the lake, were not there any more, or consist of "
    "areas of one colour; a copy of such a file is found by its name only"
)

ERASED_BEFORE = (
    "reference(s) that an earlier erasure named: photos, faces and embeddings that it removed are not known any more; "
    "its own certificate covers them, if it was not cancelled"
)


def certificate(
    erasure_id: str,
    when: datetime,
    hashes: Sequence[str],
    removed: Mapping[str, int],
    *,
    gallery_version: int,
    objects_scanned: int,
    residual_hits: int,
    versions: Mapping[str, int] | None = None,
    purpose: str | None = None,
    recipients_pending: Sequence[str] = (),
    coincidences: Mapping[str, int] | None = None,
    copies_kept: int = 0,
    others_kept: int = 0,
    short_references: int = 0,
    short_ids: int = 0,
    without_pieces: int = 0,
    erased_before: int = 0,
    controller: str | None = None,
    lake: str = "",
) -> dict[str, Any]:
    """The body of the certificate, a JSON object that is then signed.

    Args:
        when: the time at which the erasure was completed.
        hashes: keyed hashes of the erased subjects, images and sources.
        removed: removed rows and objects, counted by kind.
        gallery_version: the version published after the erasure.
        objects_scanned: objects read by the residual scan.
        residual_hits: occurrences that the scan reported; must be 0.
        versions: Delta version of each table after the erasure.
        purpose: the purpose to which the erasure was limited; None: all.
        recipients_pending: recipients of exports that have not acknowledged the erasure yet.
        coincidences: places with the same characters that are not the person's data, such as a recipient of that name.
        copies_kept: photos of equal content under other ids, which the request left in the lake.
        others_kept: photos with a face of an identity of the subjects, which do not name them and stay.
        short_references: subject references that are too short to be searched for.
        short_ids: ids of photos that are too short to be searched for.
        without_pieces: photos of which no part was searched for.
        erased_before: references that an earlier erasure named, whose removed data this one does not know.
        controller: who is responsible, as configured.
        lake: the name of the lake.

    Raises:
        ValueError: there are residual hits.
    """
    if residual_hits:
        raise ValueError(f"{residual_hits} residual hits: not certified")
    counted = (
        (short_references, SHORT_REFERENCES),
        (short_ids, SHORT_IDS),
        (without_pieces, WITHOUT_PIECES),
        (erased_before, ERASED_BEFORE),
    )
    not_searched = [f"{count} {what}" for count, what in counted if count]
    return {
        "erasure": erasure_id,
        "completed_at": when.isoformat(),
        "targets_keyed_sha256": sorted(hashes),
        "removed": dict(removed),
        "gallery_version": gallery_version,
        "versions": dict(versions or {}),
        "purpose": purpose,
        "recipients_pending": sorted(recipients_pending),
        "residual_scan": {
            "objects": objects_scanned,
            "hits": 0,
            "coincidences": dict(coincidences or {}),
            "searched": list(SEARCHED),
            "not_searched": [*not_searched, *NOT_SEARCHED],
        },
        "copies_kept": copies_kept,
        "others_kept": others_kept,
        "controller": controller,
        "lake": lake,
    }
