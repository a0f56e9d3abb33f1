"""SCRFD, InsightFace's detector, decoded exactly as in insightface 2.1.

Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022. As in
insightface: the letterbox truncates the shorter side and pastes to the top left; if the graph allows any size, a 128
and a 640 pixel square are searched and their candidates suppressed together; areas include both border pixels; boxes
are not clipped to the photo.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facelake.contracts import F32, U8
from facelake.embed.detectors import CANDIDATE, NOTHING, Detections
from facelake.embed.geometry import nms
from facelake.embed.graphs import is_batch_invariant
from facelake.embed.resample import Levels, fitted, resize_into, to_blob
from facelake.embed.runtime import Graph

_LOG = logging.getLogger(__name__)
NMS_IOU = 0.4
CONFIRMED = 0.6  # least score of a face of a further look, which sees many more squares
MEAN, SCALE = 127.5, 1 / 128
# Measured on CPU: a 640x640 photo's activations fill the cache, so a bigger batch gains nothing (docs/benchmarks.md).
_BATCH = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a graph's outputs, which follows from their number."""

    strides: tuple[int, ...]
    anchors: int
    landmarks: bool


_LAYOUTS = {
    6: Layout((8, 16, 32), 2, landmarks=False),
    9: Layout((8, 16, 32), 2, landmarks=True),
    10: Layout((8, 16, 32, 64, 128), 1, landmarks=False),
    15: Layout((8, 16, 32, 64, 128), 1, landmarks=True),
}


def layout_of(graph: Graph) -> Layout:
    """The layout of a detector's outputs.

    Raises:
        ValueError: the number of outputs is not that of an SCRFD with landmarks.
    """
    layout = _LAYOUTS.get(len(graph.outputs))
    if layout is None or not layout.landmarks:
        raise ValueError(f"{len(graph.outputs)} outputs: not an SCRFD detector with landmarks (9 or 15)")
    return layout


class Scrfd:
    """The SCRFD detector on the host."""

    smooth, confirmed = False, CONFIRMED

    def __init__(self, graph: Graph, sides: Sequence[int], min_score: float) -> None:
        """`sides`: sides of the square inputs to search, pixels.

        Raises:
            ValueError: the number of outputs is not that of an SCRFD with landmarks.
        """
        self._graph, self._layout, self._sides = graph, layout_of(graph), tuple(sides)
        self._candidate, self.side = min(min_score, CANDIDATE), max(self._sides)
        side = min(self._sides)
        self.batched = is_batch_invariant(graph.run, (3, side, side))
        if not self.batched:
            _LOG.warning("the detector's graph could not be made batchable: it runs photo by photo")

    def locate(self, photos: Sequence[Levels], *, once: bool = False) -> list[Detections]:
        """Faces and candidates of RGB photos, in photo pixels, best first; `once` changes nothing."""
        candidates: list[list[Detections]] = [[] for _ in photos]
        size = _BATCH if self.batched else 1
        for side in self._sides:
            for start in range(0, len(photos), size):
                self._search(photos[start : start + size], side, candidates[start : start + size])
        return [_suppressed(of_photo) for of_photo in candidates]

    def refine(self, photo: Levels, faces: Detections) -> Detections:
        """The faces unchanged, as insightface uses them."""
        return faces

    def _search(self, photos: Sequence[Levels], side: int, candidates: Sequence[list[Detections]]) -> None:
        """Append the candidates in one square input to the lists of the photos."""
        squares = np.zeros((len(photos), side, side, 3), np.uint8)
        scales = [_letterbox(photo.whole, square) for photo, square in zip(photos, squares, strict=True)]
        heads = [_with_batch(head) for head in self._graph.run(to_blob(squares, MEAN, SCALE))]
        for i, scale in enumerate(scales):
            candidates[i].append(self._candidates([head[i] for head in heads], side, scale))

    def _candidates(self, heads: list[F32], side: int, scale: float) -> Detections:
        """The anchors above the score threshold, in photo pixels, best first."""
        levels = len(self._layout.strides)
        boxes, landmarks, scores = [], [], []
        for level, stride in enumerate(self._layout.strides):
            score = heads[level][:, 0]
            hit = np.flatnonzero(score >= self._candidate)
            if not len(hit):
                continue
            cell, columns = hit // self._layout.anchors, side // stride
            centre = np.stack([cell % columns, cell // columns], 1).astype(np.float32) * stride
            reach = heads[levels + level][hit] * stride
            boxes.append(np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], 1))
            shift = (heads[2 * levels + level][hit] * stride).reshape(-1, 5, 2)
            landmarks.append(centre[:, None] + shift)
            scores.append(score[hit])
        if not scores:
            return NOTHING
        score = np.concatenate(scores)
        order = np.argsort(-score, kind="stable")
        box, point = np.concatenate(boxes)[order] / scale, np.concatenate(landmarks)[order] / scale
        return Detections(box.astype(np.float32), point.astype(np.float32), score[order])


def _letterbox(photo: U8, square: U8) -> float:
    """Scale a photo into the top left of a square; returns square pixels per photo pixel."""
    height, width = photo.shape[:2]
    new_height, new_width = fitted(height, width, len(square))
    resize_into(photo, square, new_width, new_height)
    return float(new_height / height)


def _with_batch(head: F32) -> F32:
    return head if head.ndim == 3 else head[None]


def _suppressed(candidates: list[Detections]) -> Detections:
    """The detections of a photo: non-maximum suppression over the candidates of all square inputs."""
    if not any(len(square) for square in candidates):
        return NOTHING
    boxes = np.concatenate([square.boxes for square in candidates])
    landmarks = np.concatenate([square.landmarks for square in candidates])
    scores = np.concatenate([square.scores for square in candidates])
    kept = nms(boxes, scores, NMS_IOU, border=1.0)
    return Detections(boxes[kept], landmarks[kept], scores[kept])
