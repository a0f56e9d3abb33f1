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
from facelake.embed.detectors import Detections
from facelake.embed.geometry import inverses, similarity_transforms, warp
from facelake.embed.models import load_detector, load_encoder
from facelake.embed.packs import Pack
from facelake.embed.quality import sharpness
from facelake.embed.resample import Levels, warp_linear
from facelake.embed.runtime import Runtime

FACE_PX = 112
Pixels = Any
"""the Vision's representation of a photo, with `shape` (h, w, 3): Levels, or a tensor on its device"""


@dataclass(frozen=True, slots=True)
class Seen:
    """Faces of one photo: landmarks (n, 5, 2) refined where possible, unit embeddings (n, dim), sharpness (n,).

    An embedding that is not finite has NaN.
    """

    landmarks: F32
    units: F32
    sharpness: F64


class Vision(Protocol):
    """Finds and encodes faces in batches of photos of any size."""

    def place(self, photos: Sequence[Any]) -> list[Pixels]:
        """Convert decoded photos, arrays or tensors, to Pixels; called once per photo, before the other methods."""
        ...

    def locate(self, photos: Sequence[Pixels]) -> list[Detections]:
        """Faces of each photo, in its pixels, best first."""
        ...

    def encode(self, photos: Sequence[Pixels], faces: Sequence[Detections]) -> list[Seen]:
        """Encode the given faces of each photo, at least one per photo, in their order."""
        ...


class HostVision:
    """Geometry in numpy, networks on any runtime; photos are processed one by one, faces encoded in batches."""

    def __init__(self, pack: Pack, min_score: float, runtime: Runtime, batch_faces: int) -> None:
        self._detector = load_detector(pack, min_score, runtime)
        self._encoder = load_encoder(pack, runtime)
        self._batch_faces = batch_faces

    def place(self, photos: Sequence[Any]) -> list[Pixels]:
        """Implements Vision."""
        return [Levels(photo) for photo in photos]

    def locate(self, photos: Sequence[Pixels]) -> list[Detections]:
        """Implements Vision."""
        return self._detector.locate(photos)

    def encode(self, photos: Sequence[Pixels], faces: Sequence[Detections]) -> list[Seen]:
        """Implements Vision."""
        aligned = [self.align(pixels, found) for pixels, found in zip(photos, faces, strict=True)]
        crops = [crop for _, mine in aligned for crop in mine]
        size = self._batch_faces
        units = [
            unit
            for start in range(0, len(crops), size)
            for unit in self._encoder.encode(np.stack(crops[start : start + size]))
        ]
        ends = np.cumsum([0, *(len(mine) for _, mine in aligned)])
        return [
            Seen(landmarks, np.stack(units[start:end]), np.array([sharpness(crop) for crop in mine]))
            for (landmarks, mine), start, end in zip(aligned, ends[:-1], ends[1:], strict=True)
        ]

    def align(self, photo: Levels, faces: Detections) -> tuple[F32, list[U8]]:
        """The refined landmarks (n, 5, 2), and the aligned faces (112, 112, 3) as the encoder receives them."""
        landmarks = self._detector.refine(photo, faces.boxes, faces.landmarks)
        back = inverses(similarity_transforms(landmarks))
        if self._detector.smooth:
            return landmarks, [warp(photo, one, FACE_PX) for one in back]
        return landmarks, [warp_linear(photo.whole, one, FACE_PX) for one in back]
