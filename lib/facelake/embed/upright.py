"""Landmarks found again in a crop of each face that is turned upright with the face.

A detector places landmarks well on faces that stand upright; on a tilted one it pulls them towards an upright face, and
the encoder then sees a stranger (turned by 30 degrees: cosine .49 to the same face upright). So a face that is tilted,
or of which the detector is not sure in an upright crop, is looked for in crops turned by eighths of a circle, of which
the right one scores best, and then in crops turned as its own landmarks say. An upright face of which the detector is
sure costs what it always did: one crop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from facelake.contracts import F32, F64, I64
from facelake.embed.detectors import Detections
from facelake.embed.geometry import similarity_transforms
from facelake.embed.quality import frontality

_TILTED = np.deg2rad(8.0)  # roll from which a face is looked at again in a crop that is turned with it
_SURE = 0.92  # score in the upright crop from which an upright face is taken to be upright
_TURNED = 0.85  # least score of a face in a turned crop: profiles and poor faces, which score less, stay as they were
_LEAD, _LOSS = 0.01, 0.02  # how much better a crop turned far must score, and how much worse one turned on may
_DIRECTIONS = 8
_FRONTAL = 0.25  # least frontality of a face whose roll is believed: the landmarks of profiles lie nearly on a line
_ASIDE = np.deg2rad(15.0)  # roll from scores alone that is believed: hair and glasses shift it by some degrees
_NO_FACE = 0.6  # score that a crop turned far from the face reaches by chance
_TURNS = 2  # how often a crop is turned on with the face
_SAME_FACE = 0.4  # share of the known box, or of its side, that a face found in the crop must cover, or lie within

Sample = Callable[[I64, F64], list[Detections]]
"""Detections in crops of some faces (m,), given matrices (m, 2, 3) from pixels of the crops to those of the photo"""


class _Best(NamedTuple):
    """What a crop says of the face in its middle."""

    landmarks: F32
    """(5, 2) in the photo"""
    score: float
    """0 where the crop shows no face that covers the known one"""


def refined(boxes: F32, known: F32, share: float, side: int, sample: Sample) -> F32:
    """Landmarks (n, 5, 2) found again in crops of each face; the known ones where none shows the face.

    Args:
        boxes, known: (n, 4) and (n, 5, 2) as the detector found them in the photo.
        share: side of a crop in longer sides of the face's box.
        side: pixels of a crop's side.
    """
    crop = share, side
    best = _look(boxes, known, np.zeros(len(boxes)), crop, sample, np.arange(len(boxes)))
    score = np.array([one.score for one in best])
    tilt = np.maximum(np.abs(rolls(known)), np.abs(rolls(np.stack([one.landmarks for one in best]))))
    doubted = np.flatnonzero((score < _SURE) | (tilt > _TILTED))
    steps = [k * 2 * np.pi / _DIRECTIONS for k in range(_DIRECTIONS)]
    seen = [[best[i] for i in doubted]]
    for step in steps[1:]:
        seen.append(_look(boxes, known, np.full(len(boxes), step), crop, sample, doubted))
        _replace(best, doubted, seen[-1], _LEAD)
    _replace(best, doubted, _look(boxes, known, rolls(known), crop, sample, doubted), _LEAD)
    middle = np.zeros(len(boxes))
    middle[doubted] = _middle(np.array([[look.score for look in looks] for looks in seen]), np.array(steps))
    aside = doubted[np.abs(middle[doubted]) > _ASIDE]
    for i, new in zip(aside, _look(boxes, known, middle, crop, sample, aside), strict=True):
        if new.score >= max(_TURNED, best[i].score - _LOSS):
            best[i] = new
    for _ in range(_TURNS):
        roll = rolls(np.stack([one.landmarks for one in best]))
        turned = doubted[np.abs(roll[doubted]) > _TILTED]
        _replace(best, turned, _look(boxes, known, roll, crop, sample, turned), -_LOSS)
    return np.stack([one.landmarks for one in best]).astype(np.float32)


def _replace(best: list[_Best], rows: I64, again: list[_Best], lead: float) -> None:
    """Take what a turned crop says of some faces where it is sure, and surer by a lead than the crops before."""
    for i, new in zip(rows, again, strict=True):
        if new.score >= max(_TURNED, best[i].score + lead) and frontality(new.landmarks) >= _FRONTAL:
            best[i] = new


def _middle(scores: F64, angles: F64) -> F64:
    """Return the angle (n,) about which the scores (angles, n) of turned crops lie evenly.

    The best score alone does not tell the roll of a face: it hardly falls within 30 degrees of it. But it falls
    equally on both sides.
    """
    weight = np.maximum(scores - _NO_FACE, 0)
    return np.asarray(np.arctan2(np.sin(angles) @ weight, np.cos(angles) @ weight), np.float64)


def rolls(landmarks: F32) -> F64:
    """By how much (n,) each face is turned in the image plane, in radians, clockwise as seen; landmarks (n, 5, 2)."""
    back = similarity_transforms(landmarks)
    return np.asarray(-np.arctan2(back[:, 1, 0], back[:, 0, 0]), np.float64)


def _look(boxes: F32, known: F32, angle: F64, crop: tuple[float, int], sample: Sample, rows: I64) -> list[_Best]:
    """What crops of some faces, turned by an angle (n,) each, say of them."""
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
    again = sample(rows, matrices)
    return [_covering(*one, side) for one in zip(again, turn, centre, corners, known[rows], strict=True)]


def _covering(again: Detections, turn: F64, centre: F64, box: F64, known: F32, side: int) -> _Best:
    """The face of a crop that covers the known one best, times its score; the known landmarks where none does."""
    if not len(again):
        return _Best(known, 0.0)
    middle = (again.boxes[:, :2] + again.boxes[:, 2:]) / 2
    at = (middle - side / 2) @ turn.T + centre
    half = (again.boxes[:, 2:] - again.boxes[:, :2]) / 2 * np.linalg.norm(turn[0])
    low, high = np.maximum(at - half, box[:2]), np.minimum(at + half, box[2:])
    covered = np.prod(np.maximum(high - low, 0), axis=1) / max(float(np.prod(box[2:] - box[:2])), 1e-9)
    if not (covered > _SAME_FACE).any():
        return _Best(known, 0.0)
    best = int(np.argmax(np.where(covered > _SAME_FACE, covered * again.scores, 0)))
    landmarks = (again.landmarks[best] - side / 2) @ turn.T + centre
    return _Best(landmarks.astype(np.float32), float(again.scores[best]))
