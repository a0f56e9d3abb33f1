"""What the pipeline asks of a detector, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from facelake.contracts import F32, U8


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces of one photo or square: boxes (n, 4), landmarks (n, 5, 2) in its pixels, scores (n,), best first."""

    boxes: F32
    landmarks: F32
    scores: F32


class Detector(Protocol):
    """Finds faces in photos, and says how they are to be sampled."""

    smooth: bool
    """whether a large face is smoothed before it is sampled at 112 pixels"""

    def locate(self, photos: Sequence[U8]) -> list[Detections]:
        """Faces of (h, w, 3) RGB photos of any size, in photo pixels."""
        ...

    def refine(self, pixels: U8, boxes: F32, landmarks: F32) -> F32:
        """Better landmarks (n, 5, 2) of faces that were located; the same ones where nothing better is known."""
        ...
