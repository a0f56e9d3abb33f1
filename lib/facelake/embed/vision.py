"""The interface for detecting and encoding faces, and its implementation on the host.

The pipeline takes all decisions (which faces are too small, whom to encode, the outcome of a photo) and never accesses
pixels; a Vision processes pixels and takes no decisions. So pixels can stay on the device on which they were decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from facelake.contracts import F32, F64, U8
from facelake.embed.calibration import Choice
from facelake.embed.detectors import Detections
from facelake.embed.geometry import inverses, similarity_transforms, warp
from facelake.embed.models import open_detector, open_encoder
from facelake.embed.packs import Pack
from facelake.embed.quality import sharpness
from facelake.embed.relight import relighting
from facelake.embed.resample import Levels, warp_linear
from facelake.embed.runtime import Runtime

FACE_PX = 112
Pixels = Any
"""the Vision's representation of a photo, with `shape` (h, w, 3): Levels, or a tensor on its device"""


@dataclass(frozen=True, slots=True)
class Seen:
    """Faces of one photo: landmarks (n, 5, 2) refined where possible, the detector's scores of these (n,), unit
    embeddings (n, dim), sharpness (n,).

    An embedding that is not finite has NaN.
    """

    landmarks: F32
    scores: F32
    units: F32
    sharpness: F64


class Vision(Protocol):
    """Finds and encodes faces in batches of photos of any size."""

    side: int
    """side in pixels of the square in which a photo is searched"""
    confirmed: float
    """least score of landmarks, refined if possible, that confirms a face of a further look"""
    choices: tuple[Choice, ...]
    """runtimes of the networks, and why they were chosen"""

    def place(self, photos: Sequence[Any]) -> list[Pixels]:
        """Convert decoded photos, arrays or tensors, to Pixels; called once per photo, before the other methods."""
        ...

    def locate(self, photos: Sequence[Pixels], *, once: bool = False) -> list[Detections]:
        """Faces and weaker candidates of each photo, in its pixels, best first.

        Args:
            once: without the detector's own second look at photos that show no face.
        """
        ...

    def window(self, photo: Pixels, corner: tuple[int, int], size: tuple[int, int]) -> Pixels:
        """The part of a photo with the top left corner (x, y), and of that width and height or up to the edge."""
        ...

    def turned(self, photo: Pixels, quarters: int) -> Pixels:
        """The photo turned counterclockwise by quarters of a circle."""
        ...

    def brightened(self, photo: Pixels) -> Pixels | None:
        """The photo with its grey levels stretched (relight.py); None if that changes little."""
        ...

    def encode(self, photos: Sequence[Pixels], faces: Sequence[Detections]) -> list[Seen]:
        """Encode the given faces of each photo, at least one per photo, in their order."""
        ...


class HostVision:
    """Geometry in numpy, networks on any runtime; photos are processed one by one, faces encoded in batches."""

    def __init__(self, pack: Pack, min_score: float, runtime: Runtime, batch_faces: int) -> None:
        self._detector, detector = open_detector(pack, min_score, runtime)
        self._encoder, encoder = open_encoder(pack, runtime, batch_faces)
        self.choices: tuple[Choice, ...] = detector, encoder
        self._batch_faces = batch_faces
        self.side, self.confirmed = self._detector.side, self._detector.confirmed

    def place(self, photos: Sequence[Any]) -> list[Pixels]:
        """Implements Vision."""
        return [Levels(photo) for photo in photos]

    def locate(self, photos: Sequence[Pixels], *, once: bool = False) -> list[Detections]:
        """Implements Vision."""
        return self._detector.locate(photos, once=once)

    def window(self, photo: Pixels, corner: tuple[int, int], size: tuple[int, int]) -> Pixels:
        """Implements Vision."""
        (left, top), (width, height) = corner, size
        return Levels(photo.whole[top : top + height, left : left + width])

    def turned(self, photo: Pixels, quarters: int) -> Pixels:
        """Implements Vision."""
        return Levels(np.rot90(photo.whole, quarters))

    def brightened(self, photo: Pixels) -> Pixels | None:
        """Implements Vision."""
        table = relighting(photo.whole, always=True)
        return None if table is None else Levels(table[photo.whole])

    def encode(self, photos: Sequence[Pixels], faces: Sequence[Detections]) -> list[Seen]:
        """Implements Vision."""
        aligned = [self.align(pixels, detected) for pixels, detected in zip(photos, faces, strict=True)]
        crops = [crop for _, of_photo in aligned for crop in of_photo]
        size = self._batch_faces
        units = [
            unit
            for start in range(0, len(crops), size)
            for unit in self._encoder.encode(np.stack(crops[start : start + size]))
        ]
        ends = np.cumsum([0, *(len(of_photo) for _, of_photo in aligned)])
        return [
            Seen(again.landmarks, again.scores, np.stack(units[start:end]), np.array([sharpness(c) for c in of_photo]))
            for (again, of_photo), start, end in zip(aligned, ends[:-1], ends[1:], strict=True)
        ]

    def align(self, photo: Levels, faces: Detections) -> tuple[Detections, list[U8]]:
        """The faces with refined landmarks, and the aligned faces (112, 112, 3) as the encoder receives them."""
        again = self._detector.refine(photo, faces)
        back = inverses(similarity_transforms(again.landmarks))
        if self._detector.smooth:
            return again, [warp(photo, matrix, FACE_PX) for matrix in back]
        return again, [warp_linear(photo.whole, matrix, FACE_PX) for matrix in back]
