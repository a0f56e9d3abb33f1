"""Removes detections in regions of photos that a reviewer marked as not a face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from facelake.contracts import F32, Outcome, Reject
from facelake.embed.geometry import overlap

_SAME_REGION = 0.5
"""intersection over union from which two boxes are of one detection, as in the suppression of detectors"""

Regions = Mapping[str, F32]
"""boxes (n, 4) as x0, y0, x1, y1 in pixels, by the SHA-256 of the photo"""


def without_marked(outcome: Outcome, regions: Regions) -> Outcome:
    """An outcome without the faces that lie in marked regions of its photo."""
    marked = regions.get(outcome.content_sha256)
    if marked is None or not outcome.faces:
        return outcome
    faces = tuple(face for face in outcome.faces if overlap(face.box, marked).max() < _SAME_REGION)
    if faces:
        return replace(outcome, faces=faces)
    return replace(outcome, faces=(), reject=Reject.NOT_A_FACE, detail="marked by a reviewer")
