"""Removes detections in regions of photos that a reviewer marked as not a face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from facelake.contracts import F32, Outcome, Reject

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


def overlap(box: F32, boxes: F32) -> F32:
    """Intersection over union of a box (4,) with boxes (n, 4): float32 (n,)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / np.maximum(areas - shared, 1e-9), np.float32)
