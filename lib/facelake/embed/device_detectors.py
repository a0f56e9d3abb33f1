"""SCRFD and YuNet on a device: the counterparts of scrfd.py and models.py, from photos on the device to detections.

Candidates are scored, sorted and suppressed on the device; one transfer returns the detections to the host.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from facelake.contracts import F32, F64, I64
from facelake.embed import device_ops, device_sampling
from facelake.embed.detectors import CANDIDATE, NOTHING, Detections
from facelake.embed.geometry import fitted_smoothly
from facelake.embed.graphs import batchable, is_batch_invariant
from facelake.embed.models import CONFIRMED, CROP_SCORE, CROP_SHARE, SECOND_PASS_FILL, STRIDES, yunet_order
from facelake.embed.models import NMS_IOU as YUNET_IOU
from facelake.embed.packs import Pack, ScrfdCard, YuNetCard
from facelake.embed.runtime import Runtime, open_torch
from facelake.embed.scrfd import CONFIRMED as SCRFD_CONFIRMED
from facelake.embed.scrfd import MEAN, NMS_IOU, SCALE, layout_of
from facelake.embed.torch_runtime import TorchGraph
from facelake.embed.upright import refined

_LOG = logging.getLogger(__name__)
_Candidates = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""scores (n, a), boxes (n, a, 4), landmarks (n, a, 10)"""


class DeviceDetector(Protocol):
    """A detector of photos on a device; the counterpart of detectors.Detector."""

    graph: TorchGraph
    sides: tuple[int, ...]
    """sides of the square inputs in which each photo is searched, pixels"""
    crop_side: int
    """side of the square crop in which each face is searched again, pixels; 0: none is"""
    confirmed: float
    smooth: bool
    batch: int

    def detect(self, photos: Sequence[torch.Tensor], *, once: bool) -> list[Detections]:
        """The faces and candidates of at most `batch` photos, in photo pixels, best first; `once` as in Vision."""
        ...

    def refine(self, canvas: device_sampling.Canvas, photo: I64, photos: int, faces: Detections) -> Detections:
        """Faces (f,) with refined landmarks and the scores of these.

        Args:
            photo: (f,) index of each face's photo in the canvas.
            photos: number of full-size photos of the canvas.
        """
        ...


def open_detector(pack: Pack, min_score: float, runtime: Runtime, batch: int) -> DeviceDetector:
    """The detector of the pack."""
    card = pack.card.detector
    if isinstance(card, ScrfdCard):
        return DeviceScrfd(pack, card, min_score, runtime, batch)
    return DeviceYuNet(pack, card, min_score, runtime, batch)


def batch_of(model: bytes, runtime: Runtime, shape: tuple[int, int, int], wanted: int, name: str) -> int:
    """The batch size for a graph: `wanted`, or 1 if its batches differ from single inputs. Tested in full precision."""
    if is_batch_invariant(open_torch(model, replace(runtime, half=False)).run, shape):
        return wanted
    _LOG.warning("the %s's graph could not be made batchable: it runs one by one", name)
    return 1


class DeviceScrfd:
    """SCRFD on a device; the counterpart of scrfd.Scrfd."""

    crop_side, smooth, confirmed = 0, False, SCRFD_CONFIRMED

    def __init__(self, pack: Pack, card: ScrfdCard, min_score: float, runtime: Runtime, batch: int) -> None:
        model = batchable(pack.detector, any_size=card.any_size, blocks=False)
        self.graph, self.sides, self._candidate = (
            open_torch(model, runtime),
            tuple(card.sides),
            min(min_score, CANDIDATE),
        )
        self._layout = layout_of(self.graph)
        self._dtype = torch.float16 if runtime.half else torch.float32
        side = min(self.sides)
        self.batch = batch_of(model, runtime, (3, side, side), batch, "detector")

    def detect(self, photos: Sequence[torch.Tensor], *, once: bool) -> list[Detections]:
        """Implements DeviceDetector."""
        canvas = device_sampling.Canvas.of(photos)
        searches = [self.candidates(canvas, side) for side in self.sides]
        scores, boxes, points = (torch.cat(column, 1) for column in zip(*searches, strict=True))
        return best((scores, boxes, points), self._candidate, NMS_IOU, border=1.0)

    def refine(self, canvas: device_sampling.Canvas, photo: I64, photos: int, faces: Detections) -> Detections:
        """The faces unchanged, as insightface uses them."""
        return faces

    def candidates(self, canvas: device_sampling.Canvas, side: int) -> _Candidates:
        """Scores, boxes and landmarks of every anchor of one square input, in photo pixels."""
        squares, scale = device_sampling.letterbox(canvas, side)
        heads = self.graph.on_device(device_sampling.blob(squares, MEAN, SCALE, self._dtype), self.batch)
        heads = [head if head.ndim == 3 else head[None] for head in heads]
        levels, scores, boxes, points = len(self._layout.strides), [], [], []
        for level, stride in enumerate(self._layout.strides):
            centre = _cells(heads[level], side // stride, self._layout.anchors) * stride
            reach, shift = heads[levels + level] * stride, heads[2 * levels + level] * stride
            scores.append(heads[level][..., 0])
            boxes.append(torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], 2))
            points.append(centre.repeat(1, 5) + shift)
        per_pixel = torch.from_numpy(scale.astype(np.float32)).to(squares.device)[:, None, None]
        return torch.cat(scores, 1), torch.cat(boxes, 1) / per_pixel, torch.cat(points, 1) / per_pixel


class DeviceYuNet:
    """YuNet on a device; the counterpart of models.YuNet. In half precision its landmarks would move by pixels."""

    smooth, confirmed = True, CONFIRMED

    def __init__(self, pack: Pack, card: YuNetCard, min_score: float, runtime: Runtime, batch: int) -> None:
        model, full_precision = batchable(pack.detector, any_size=True, blocks=False), replace(runtime, half=False)
        self.graph, self._min_score = open_torch(model, full_precision), min_score
        self.sides: tuple[int, ...] = (card.input_px,)
        self.crop_side, self._order = card.refine_px, yunet_order(self.graph)
        self.batch = batch_of(model, full_precision, (3, card.refine_px, card.refine_px), batch, "detector")

    def detect(self, photos: Sequence[torch.Tensor], *, once: bool) -> list[Detections]:
        """Implements DeviceDetector. Photos without a face are searched again at half size, unless `once`."""
        detections = self._detect(photos, 1.0)
        empty = [i for i, each in enumerate(detections) if not once and not (each.scores >= self._min_score).any()]
        if empty:
            for i, each in zip(empty, self._detect([photos[i] for i in empty], SECOND_PASS_FILL), strict=True):
                if (each.scores >= self._min_score).any():
                    detections[i] = each
        return detections

    def refine(self, canvas: device_sampling.Canvas, photo: I64, photos: int, faces: Detections) -> Detections:
        """Implements DeviceDetector. Landmarks are detected again in a crop that is turned upright with the face."""

        def sample(rows: I64, matrices: F64) -> list[Detections]:
            entry, inverse = device_sampling.smoothly(canvas, photo[rows], photos, matrices)
            again: list[Detections] = []
            for start in range(0, len(entry), self.batch):
                part = slice(start, start + self.batch)
                crops = device_sampling.warp(canvas, entry[part], inverse[part], self.crop_side)
                again += best(self._candidates(crops), CROP_SCORE, YUNET_IOU, border=0.0)
            return again

        return refined(faces, CROP_SHARE, self.crop_side, sample)

    def _detect(self, photos: Sequence[torch.Tensor], fill: float) -> list[Detections]:
        side = self.sides[0]
        fits = [fitted_smoothly(int(photo.shape[0]), int(photo.shape[1]), side, fill) for photo in photos]
        canvas = device_sampling.Canvas.of(photos, max(fit.level for fit in fits))
        candidates = self._candidates(device_sampling.letterbox_smoothly(canvas, fits, side))
        faces = best(candidates, min(self._min_score, CANDIDATE), YUNET_IOU, border=0.0)
        return [each.scaled(1 / fit.scale) if len(each) else each for each, fit in zip(faces, fits, strict=True)]

    def _candidates(self, squares: torch.Tensor) -> _Candidates:
        """Scores, boxes and landmarks of every anchor of RGB squares (n, side, side, 3), in their pixels."""
        heads = self.graph.on_device(device_sampling.blob(squares.flip(-1), 0.0, 1.0), self.batch)
        heads, side = [heads[k] for k in self._order], squares.shape[1]
        scores, boxes, points = [], [], []
        for level, stride in enumerate(STRIDES):
            cls, obj, bbox, kps = heads[4 * level : 4 * level + 4]
            scores.append((cls[..., 0].clamp(0, 1) * obj[..., 0].clamp(0, 1)).sqrt())
            anchor = _cells(bbox, side // stride, 1)
            centre, half = (anchor + bbox[..., :2]) * stride, bbox[..., 2:4].exp() * (stride / 2)
            boxes.append(torch.cat([centre - half, centre + half], 2))
            points.append((kps + anchor.repeat(1, 5)) * stride)
        return torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(points, 1)


def best(candidates: _Candidates, min_score: float, max_iou: float, border: float) -> list[Detections]:
    """The detections of each photo after non-maximum suppression, best first."""
    scores, boxes, points = candidates
    scores = torch.where(scores >= min_score, scores, -torch.inf)
    most = int(torch.isfinite(scores).sum(1).max())
    if not most:
        return [NOTHING] * len(scores)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, :most], order[:, :most]
    boxes, points = (item.gather(1, order[..., None].expand(-1, -1, item.shape[2])) for item in (boxes, points))
    stays = device_ops.kept(boxes, scores, max_iou, border)
    rows = torch.cat([scores[..., None], boxes, points], 2)[stays].cpu().numpy()
    return [_detections(of_photo) for of_photo in np.split(rows, np.cumsum(stays.sum(1).cpu().numpy())[:-1])]


def _cells(head: torch.Tensor, columns: int, anchors: int) -> torch.Tensor:
    """Column and row (a, 2) of the grid cell of each anchor of a level."""
    cell = torch.arange(head.shape[1], device=head.device) // anchors
    return torch.stack([cell % columns, cell // columns], 1).float()


def _detections(row: F32) -> Detections:
    """Detections from rows (n, 15): score, box, landmarks."""
    return Detections(row[:, 1:5].copy(), row[:, 5:].reshape(-1, 5, 2).copy(), row[:, 0].copy())
