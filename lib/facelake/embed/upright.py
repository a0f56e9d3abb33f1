"""Detects landmarks again in a crop of each face that is rotated with the face.

A detector places landmarks well on upright faces. On a tilted face it pulls them towards an upright one, and the
embedding is then that of a stranger (rotated by 30 degrees: cosine .49 to the same face upright). So a face that is
tilted, or that scores low in an upright crop, is searched for in crops rotated in steps of 45 degrees, then in crops
rotated by the roll that scores and landmarks indicate. An upright face with a high score costs one crop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from facelake.contracts import F32, F64, I64
from facelake.embed.detectors import Detections
from facelake.embed.geometry import similarity_transforms
from facelake.embed.quality import frontality

_TILTED = np.deg2rad(8.0)  # roll from which a face is searched again in a crop that is rotated with it
_SURE = 0.92  # score in the upright crop from which no rotated crops are tried
_TURNED = 0.85  # least score in a rotated crop; profiles and poor faces score less and keep their landmarks
_LEAD, _LOSS = (
    0.01,
    0.02,
)  # a coarse rotation must score better by the first; a refinement may score worse by the second
_DIRECTIONS = 8
_FRONTAL = 0.25  # least frontality at which landmarks give the roll: those of profiles lie nearly on a line
_ASIDE = np.deg2rad(15.0)  # roll from scores alone that is believed: hair and glasses shift it by some degrees
_NO_FACE = 0.6  # score that a crop rotated far from the face reaches by chance
_TURNS = 2  # refinements of the rotation
_SHOWN = 1 / 3  # share of a rotation that the landmarks in a crop show: of 15 degrees 4, of 30 degrees 9
_RESIDUAL = np.deg2rad(2.5)  # rotation that landmarks show within a crop from which the crop is turned further
_SAME_FACE = 0.4  # share of the known box that a face detected in the crop must cover

Sample = Callable[[I64, F64], list[Detections]]
"""Returns detections in crops of faces (m,), given matrices (m, 2, 3) from crop pixels to photo pixels."""


class _Best(NamedTuple):
    """The face in the middle of a crop."""

    landmarks: F32
    """(5, 2) in the photo"""
    score: float
    """0 where no face in the crop covers the known one"""
    angle: float
    """rotation of the crop, radians"""


def refined(faces: Detections, share: float, side: int, sample: Sample) -> Detections:
    """Return faces with landmarks detected again in crops of each, and the scores there.

    A face that no crop shows keeps its landmarks, and its score is 0: they cannot be trusted.

    Args:
        faces: as detected in the photo.
        share: side of a crop relative to the longer side of the face's box.
        side: side of a crop in pixels.
        sample: detects faces in crops.
    """
    boxes, known = faces.boxes, faces.landmarks
    crop = share, side
    best = _detect_rotated(boxes, known, np.zeros(len(boxes)), crop, sample, np.arange(len(boxes)))
    score = np.array([face.score for face in best])
    tilt = np.maximum(np.abs(rolls(known)), np.abs(rolls(np.stack([face.landmarks for face in best]))))
    uncertain = np.flatnonzero((score < _SURE) | (tilt > _TILTED))
    steps = [k * 2 * np.pi / _DIRECTIONS for k in range(_DIRECTIONS)]
    seen = [[best[i] for i in uncertain]]
    for step in steps[1:]:
        seen.append(_detect_rotated(boxes, known, np.full(len(boxes), step), crop, sample, uncertain))
        _replace(best, uncertain, seen[-1], _LEAD)
    _replace(best, uncertain, _detect_rotated(boxes, known, rolls(known), crop, sample, uncertain), _LEAD)
    middle = np.zeros(len(boxes))
    middle[uncertain] = _middle(np.array([[look.score for look in looks] for looks in seen]), np.array(steps))
    aside = uncertain[np.abs(middle[uncertain]) > _ASIDE]
    for i, new in zip(aside, _detect_rotated(boxes, known, middle, crop, sample, aside), strict=True):
        if new.score >= max(_TURNED, best[i].score - _LOSS):
            best[i] = new
    for _ in range(_TURNS):
        angle = np.array([face.angle for face in best])
        shown = rolls(np.stack([face.landmarks for face in best])) - angle
        shown = (shown + np.pi) % (2 * np.pi) - np.pi
        turned = np.flatnonzero((np.abs(shown) > _RESIDUAL) & (np.array([face.score for face in best]) > 0))
        _replace(best, turned, _detect_rotated(boxes, known, angle + shown / _SHOWN, crop, sample, turned), -_LOSS)
    landmarks = np.stack([face.landmarks for face in best]).astype(np.float32)
    return Detections(boxes, landmarks, np.array([face.score for face in best], np.float32))


def _replace(best: list[_Best], rows: I64, candidates: list[_Best], lead: float) -> None:
    """Take the face of a rotated crop where it scores high enough, and higher by a lead than the crops before."""
    for i, new in zip(rows, candidates, strict=True):
        if new.score >= max(_TURNED, best[i].score + lead) and frontality(new.landmarks) >= _FRONTAL:
            best[i] = new


def _middle(scores: F64, angles: F64) -> F64:
    """Return the angle (n,) about which the scores (angles, n) of rotated crops are symmetric: their circular mean.

    The best score alone does not tell the roll of a face: it hardly falls within 30 degrees of it. But it falls
    equally on both sides.
    """
    weight = np.maximum(scores - _NO_FACE, 0)
    return np.asarray(np.arctan2(np.sin(angles) @ weight, np.cos(angles) @ weight), np.float64)


def rolls(landmarks: F32) -> F64:
    """Return the roll (n,) of faces in radians, clockwise in the image, from their landmarks (n, 5, 2)."""
    back = similarity_transforms(landmarks)
    return np.asarray(-np.arctan2(back[:, 1, 0], back[:, 0, 0]), np.float64)


def _detect_rotated(
    boxes: F32, known: F32, angle: F64, crop: tuple[float, int], sample: Sample, rows: I64
) -> list[_Best]:
    """Detect some faces (rows) again in crops rotated by each face's angle (n,)."""
    if not len(rows):
        return []
    share, side = crop
    corners = boxes[rows].astype(np.float64)
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    length = np.maximum((corners[:, 2:] - corners[:, :2]).max(1), 1e-6)
    pixel = share * length / side  # photo pixels per crop pixel
    cos, sin = np.cos(angle[rows]) * pixel, np.sin(angle[rows]) * pixel
    turn = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    matrices = np.zeros((len(rows), 2, 3))
    matrices[:, :, :2] = turn
    matrices[:, :, 2] = centre - 0.5 - turn @ np.full(2, (side - 1) / 2)
    crops = [_Crop(side, *place) for place in zip(turn, centre, corners, strict=True)]
    again = zip(sample(rows, matrices), crops, known[rows], angle[rows], strict=True)
    return [_covering(*face) for face in again]


class _Crop(NamedTuple):
    """A rotated square crop around a face: from its pixels to those of the photo by `turn`, around `centre`."""

    side: int
    turn: F64
    """(2, 2)"""
    centre: F64
    """(2,)"""
    box: F64
    """(4,) x0, y0, x1, y1 of the face"""


def _covering(again: Detections, crop: _Crop, known: F32, angle: float) -> _Best:
    """Return the face of a crop that covers the known one best, weighted by score; the known landmarks if none does."""
    if not len(again):
        return _Best(known, 0.0, 0.0)
    side, turn, centre, box = crop
    middle = (again.boxes[:, :2] + again.boxes[:, 2:]) / 2
    at = (middle - side / 2) @ turn.T + centre
    half = (again.boxes[:, 2:] - again.boxes[:, :2]) / 2 * np.linalg.norm(turn[0])
    low, high = np.maximum(at - half, box[:2]), np.minimum(at + half, box[2:])
    covered = np.prod(np.maximum(high - low, 0), axis=1) / max(float(np.prod(box[2:] - box[:2])), 1e-9)
    if not (covered > _SAME_FACE).any():
        return _Best(known, 0.0, 0.0)
    best = int(np.argmax(np.where(covered > _SAME_FACE, covered * again.scores, 0)))
    landmarks = (again.landmarks[best] - side / 2) @ turn.T + centre
    return _Best(landmarks.astype(np.float32), float(again.scores[best]), angle)
