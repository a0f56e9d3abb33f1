"""Detection and encoding on a device: scales, detects, suppresses, aligns and encodes whole batches.

Only the contents of a row return to the host: boxes, landmarks, scores, sharpness, embeddings. On a GPU the networks
run as captured graphs of fixed batch sizes (torch_runtime.py). The same code runs on the CPU, where tests compare it
with HostVision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from facelake.contracts import F32, F64, I64, U8
from facelake.embed import device_ops, device_sampling
from facelake.embed.calibration import Choice
from facelake.embed.detectors import Detections, joined
from facelake.embed.device_detectors import batch_of, open_detector
from facelake.embed.geometry import inverses, similarity_transforms
from facelake.embed.graphs import batchable
from facelake.embed.models import KnownFaces, normalised
from facelake.embed.packs import Pack
from facelake.embed.runtime import Runtime, open_torch
from facelake.embed.vision import FACE_PX, Pixels, Seen

_CROPS = 1024  # faces sampled at once: half a GB of float64 if sampling is not compiled
_CANVAS_PIXELS = 256_000_000  # pixels of one canvas: less than 1 GB


class DeviceVision:
    """Implements Vision. Photos are tensors on the device, as `place` returns them."""

    def __init__(self, pack: Pack, min_score: float, runtime: Runtime, batch_photos: int, batch_faces: int) -> None:
        encoder = pack.card.encoder
        self._device = torch.device(runtime.device)
        torch.backends.cudnn.benchmark = True  # input shapes are fixed, so that searching for the fastest kernels pays
        self.detector = open_detector(pack, min_score, runtime, batch_photos)
        model = batchable(pack.encoder, encoder.input_name, blocks=False)
        self.encoder = open_torch(model, runtime)
        self.choices = tuple(Choice(role, "torch", 0, f"on {runtime.device}") for role in ("detector", "encoder"))
        self.side, self.confirmed = max(self.detector.sides), self.detector.confirmed
        self._dtype = torch.float16 if runtime.half else torch.float32
        self._mean, self._scale = encoder.mean, encoder.scale
        self.batch_faces = batch_of(model, runtime, (3, FACE_PX, FACE_PX), batch_faces, "encoder")
        self._known, self._keys = KnownFaces(), device_ops.PixelKeys(3 * FACE_PX**2, self._device)

    def place(self, photos: Sequence[Any]) -> list[Pixels]:
        """Implements Vision."""
        return [photo if isinstance(photo, torch.Tensor) else self._placed(photo) for photo in photos]

    def _placed(self, photo: U8) -> torch.Tensor:
        writable = photo if photo.flags.writeable else photo.copy()  # torch does not share read-only memory
        return torch.from_numpy(writable).to(self._device, non_blocking=True)

    @torch.inference_mode()
    def locate(self, photos: Sequence[Pixels], *, once: bool = False) -> list[Detections]:
        """Implements Vision."""
        parts = device_ops.bounded(_areas(photos), self.detector.batch, _CANVAS_PIXELS)
        return [faces for part in parts for faces in self.detector.detect(photos[part], once=once)]

    def window(self, photo: Pixels, corner: tuple[int, int], size: tuple[int, int]) -> Pixels:
        """Implements Vision."""
        (left, top), (width, height) = corner, size
        return photo[top : top + height, left : left + width].contiguous()

    def turned(self, photo: Pixels, quarters: int) -> Pixels:
        """Implements Vision."""
        return torch.rot90(photo, quarters, (0, 1)).contiguous()

    def brightened(self, photo: Pixels) -> Pixels | None:
        """Implements Vision."""
        return device_ops.brightened(photo)

    @torch.inference_mode()
    def encode(self, photos: Sequence[Pixels], faces: Sequence[Detections]) -> list[Seen]:
        """Implements Vision."""
        parts = device_ops.bounded(_areas(photos), len(photos), _CANVAS_PIXELS)
        return [seen for part in parts for seen in self._encode(photos[part], faces[part])]

    def _encode(self, photos: Sequence[Pixels], faces: Sequence[Detections]) -> list[Seen]:
        counts = [len(detections) for detections in faces]
        photo, known = np.repeat(np.arange(len(faces)), counts), joined(faces)
        smooth = self.detector.smooth
        canvas = device_sampling.Canvas.of(
            photos, int(np.log2(max(min(image.shape[:2]) for image in photos))) if smooth else 0
        )
        again = self.detector.refine(canvas, photo, len(photos), known)
        back = inverses(similarity_transforms(again.landmarks))
        if smooth:
            photo, back = device_sampling.smoothly(canvas, photo, len(photos), back)
        parts = list(self._seen(canvas, photo, back))
        units, sharp = (np.concatenate(column) for column in zip(*parts, strict=True))
        ends = np.cumsum(counts)[:-1]
        split = (np.split(column, ends) for column in (again.landmarks, again.scores, units, sharp))
        return [Seen(*columns) for columns in zip(*split, strict=True)]

    def _seen(self, canvas: device_sampling.Canvas, photo: I64, back: F64) -> Iterator[tuple[F32, F64]]:
        """Yield unit embeddings (k, dim) and sharpness (k,) of successive parts of the faces."""
        for start in range(0, len(photo), _CROPS):
            part = slice(start, start + _CROPS)
            crops = device_sampling.warp(canvas, photo[part], back[part], FACE_PX)
            sharp, keys = device_ops.sharpness(crops).cpu().numpy(), self._keys.of(crops).cpu().numpy()
            yield self._known.units([key.tobytes() for key in keys], partial(self._units, crops)), sharp

    def _units(self, crops: torch.Tensor, wanted: list[int]) -> F32:
        size, raw = self.batch_faces, []
        for start in range(0, len(wanted), size):
            blob = device_sampling.blob(crops[wanted[start : start + size]], self._mean, self._scale, self._dtype)
            raw.append(self.encoder.on_device(blob, size)[0].reshape(len(blob), -1))
        return normalised(torch.cat(raw).cpu().numpy())


def _areas(photos: Sequence[Pixels]) -> list[int]:
    return [photo.shape[0] * photo.shape[1] for photo in photos]
