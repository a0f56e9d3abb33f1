"""SCRFD and ArcFace on a device from the pixels on: scale, detect, suppress, align and encode whole batches there.

What comes back to the host is what a row needs: boxes, landmarks, scores, sharpness, embeddings. Where the device is a
GPU, the networks run as captured graphs of fixed batches (torch_runtime.py). The same code runs on the CPU, where tests
hold it against the host's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from facelake.contracts import F32, F64, I64, U8
from facelake.embed import device_ops as ops
from facelake.embed.detectors import NOTHING, Detections
from facelake.embed.geometry import inverses, similarity_transforms
from facelake.embed.graphs import batchable, batches_alike
from facelake.embed.models import KnownFaces, normalised
from facelake.embed.packs import Pack, ScrfdCard
from facelake.embed.runtime import Runtime, open_torch
from facelake.embed.scrfd import MEAN, NMS_IOU, SCALE, layout_of
from facelake.embed.torch_runtime import TorchGraph
from facelake.embed.vision import FACE_PX, Pixels, Seen

_LOG = logging.getLogger(__name__)
_CROPS = 1024  # faces sampled at once: half a GB of doubles where they are not compiled
_CANVAS_PIXELS = 256_000_000  # in one canvas: under a GB


class DeviceVision:
    """See Vision. Photos are tensors on the device, as `place` makes them."""

    def __init__(self, pack: Pack, min_score: float, runtime: Runtime, batch_photos: int, batch_faces: int) -> None:
        detector, encoder = pack.card.detector, pack.card.encoder
        assert isinstance(detector, ScrfdCard)
        self._device = torch.device(runtime.device)
        torch.backends.cudnn.benchmark = True  # shapes are fixed: the quickest kernels are worth looking for
        found, seen = batchable(pack.detector, any_size=detector.any_size, blocks=False), pack.encoder
        seen = batchable(seen, encoder.input_name, blocks=False)
        self.detector, self.encoder = open_torch(found, runtime), open_torch(seen, runtime)
        self._dtype = torch.float16 if runtime.half else torch.float32
        self._layout, self.sides = layout_of(self.detector), tuple(detector.sides)
        self._min_score, self._mean, self._scale = min_score, encoder.mean, encoder.scale
        side = min(self.sides)
        whole = replace(runtime, half=False)
        self.batch_photos = self._batch(open_torch(found, whole), (3, side, side), batch_photos, "detector")
        self.batch_faces = self._batch(open_torch(seen, whole), (3, FACE_PX, FACE_PX), batch_faces, "encoder")
        self._known, self._keys = KnownFaces(), ops.PixelKeys(3 * FACE_PX**2, self._device)

    @staticmethod
    def _batch(graph: TorchGraph, shape: tuple[int, int, int], wanted: int, name: str) -> int:
        if batches_alike(graph.run, shape):
            return wanted
        _LOG.warning("the %s's graph could not be made batchable: it runs one by one", name)
        return 1

    def place(self, photos: Sequence[Pixels]) -> list[Pixels]:
        """See Vision."""
        return [photo if isinstance(photo, torch.Tensor) else self._placed(photo) for photo in photos]

    def _placed(self, photo: U8) -> torch.Tensor:
        whole = photo if photo.flags.writeable else photo.copy()  # torch shares no memory that it may not write
        return torch.from_numpy(whole).to(self._device, non_blocking=True)

    @torch.inference_mode()
    def locate(self, photos: Sequence[Pixels]) -> list[Detections]:
        """See Vision."""
        found: list[Detections] = []
        for part in ops.bounded(_areas(photos), self.batch_photos, _CANVAS_PIXELS):
            found += self._look(ops.Canvas.of(photos[part]))
        return found

    @torch.inference_mode()
    def encode(self, photos: Sequence[Pixels], faces: Sequence[Detections]) -> list[Seen]:
        """See Vision."""
        parts = ops.bounded(_areas(photos), len(photos), _CANVAS_PIXELS)
        return [seen for part in parts for seen in self._encode(photos[part], faces[part])]

    def _encode(self, photos: Sequence[Pixels], faces: Sequence[Detections]) -> list[Seen]:
        counts = [len(one) for one in faces]
        landmarks = np.concatenate([one.landmarks for one in faces])
        back = inverses(similarity_transforms(landmarks))
        canvas, photo = ops.Canvas.of(photos), np.repeat(np.arange(len(faces)), counts)
        parts = list(self._seen(canvas, photo, back))
        units, sharp = (np.concatenate(column) for column in zip(*parts, strict=True))
        ends = np.cumsum(counts)[:-1]
        split = (np.split(column, ends) for column in (landmarks, units, sharp))
        return [Seen(*one) for one in zip(*split, strict=True)]

    # ---- detector

    def _look(self, canvas: ops.Canvas) -> list[Detections]:
        """Candidates of all squares together, sorted and suppressed on the device; one transfer brings what is left."""
        looks = [self._candidates(canvas, side) for side in self.sides]
        scores, boxes, points = (torch.cat(column, 1) for column in zip(*looks, strict=True))
        scores = torch.where(scores >= self._min_score, scores, -torch.inf)
        most = int(torch.isfinite(scores).sum(1).max())
        if not most:
            return [NOTHING] * len(canvas.sizes)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, :most], order[:, :most]
        boxes, points = (item.gather(1, order[..., None].expand(-1, -1, item.shape[2])) for item in (boxes, points))
        stays = ops.kept(boxes, scores, NMS_IOU, border=1.0)
        row = torch.cat([scores[..., None], stays[..., None].float(), boxes, points], 2).cpu().numpy()
        return [_detections(one[one[:, 1] > 0]) for one in row]

    def _candidates(self, canvas: ops.Canvas, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Every anchor of one square: scores (n, a), boxes (n, a, 4) and landmarks (n, a, 10) in photo pixels."""
        squares, scale = ops.letterbox(canvas, side)
        heads = self.detector.on_device(ops.blob(squares, MEAN, SCALE, self._dtype), self.batch_photos)
        heads = [head if head.ndim == 3 else head[None] for head in heads]
        levels, scores, boxes, points = len(self._layout.strides), [], [], []
        for level, stride in enumerate(self._layout.strides):
            cell = torch.arange(heads[level].shape[1], device=self._device) // self._layout.anchors
            columns = side // stride
            centre = torch.stack([cell % columns, cell // columns], 1).float() * stride
            reach, shift = heads[levels + level] * stride, heads[2 * levels + level] * stride
            scores.append(heads[level][..., 0])
            boxes.append(torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], 2))
            points.append(centre.repeat(1, 5) + shift)
        per_pixel = torch.from_numpy(scale.astype(np.float32)).to(self._device)[:, None, None]
        return torch.cat(scores, 1), torch.cat(boxes, 1) / per_pixel, torch.cat(points, 1) / per_pixel

    # ---- encoder

    def _seen(self, canvas: ops.Canvas, photo: I64, back: F64) -> Iterator[tuple[F32, F64]]:
        """Unit embeddings and sharpness of some faces after the other."""
        for start in range(0, len(photo), _CROPS):
            mine = slice(start, start + _CROPS)
            crops = ops.warp(canvas, photo[mine], back[mine], FACE_PX)
            sharp, keys = ops.sharpness(crops).cpu().numpy(), self._keys.of(crops).cpu().numpy()
            yield self._known.units([key.tobytes() for key in keys], partial(self._units, crops)), sharp

    def _units(self, crops: torch.Tensor, wanted: list[int]) -> F32:
        size, raw = self.batch_faces, []
        for start in range(0, len(wanted), size):
            blob = ops.blob(crops[wanted[start : start + size]], self._mean, self._scale, self._dtype)
            raw.append(self.encoder.on_device(blob, size)[0].reshape(len(blob), -1))
        return normalised(torch.cat(raw).cpu().numpy())


def _areas(photos: Sequence[Pixels]) -> list[int]:
    return [photo.shape[0] * photo.shape[1] for photo in photos]


def _detections(row: F32) -> Detections:
    return Detections(row[:, 2:6].copy(), row[:, 6:].reshape(-1, 5, 2).copy(), row[:, 0].copy())
