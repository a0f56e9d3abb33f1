"""The interface of a face detector, and its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facelake.contracts import F32, Bool
from facelake.embed.resample import Levels


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces of one photo or square: boxes (n, 4), landmarks (n, 5, 2) in its pixels, scores (n,), best first."""

    boxes: F32
    landmarks: F32
    scores: F32

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, wanted: Bool) -> Detections:
        """The faces for which `wanted` (n,) is true."""
        return Detections(self.boxes[wanted], self.landmarks[wanted], self.scores[wanted])

    def scaled(self, ratio: float) -> Detections:
        """The same faces in a photo with `ratio` times as many pixels per side."""
        return Detections(self.boxes * ratio, self.landmarks * ratio, self.scores)


CANDIDATE = 0.1
"""least score of a detection that may be a face; further looks decide"""
NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))


def joined(faces: Sequence[Detections]) -> Detections:
    """The faces of several photos, concatenated."""
    boxes, landmarks, scores = (
        [getattr(of_photo, name) for of_photo in faces] for name in ("boxes", "landmarks", "scores")
    )
    return Detections(np.concatenate(boxes), np.concatenate(landmarks), np.concatenate(scores))


class Detector(Protocol):
    """Finds faces in photos."""

    side: int
    """side in pixels of the square in which a photo is searched"""
    confirmed: float
    """least score of landmarks, refined if possible, that confirms a face of a further look"""
    smooth: bool
    """whether a large face is smoothed before it is sampled at 112 pixels"""

    def locate(self, photos: Sequence[Levels], *, once: bool = False) -> list[Detections]:
        """Faces and weaker candidates of RGB photos of any size, in photo pixels, best first.

        Args:
            once: without a second look at photos that show no face.
        """
        ...

    def refine(self, photo: Levels, faces: Detections) -> Detections:
        """Located faces with refined landmarks, and scores of these; unchanged if the detector cannot refine them."""
        ...
