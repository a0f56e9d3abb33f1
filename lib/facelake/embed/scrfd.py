"""SCRFD, InsightFace's detector, decoded exactly as insightface 2.1 does it.

Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022. What insightface does and
this repeats: the letterbox truncates the shorter side and pastes to the top left; where the graph allows any size, a
128 and a 640 pixel square are looked at and their candidates suppressed together; areas count both border pixels;
boxes are not clipped to the photo.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facelake.contracts import F32, U8
from facelake.embed.detectors import NOTHING, Detections
from facelake.embed.geometry import nms
from facelake.embed.graphs import batches_alike
from facelake.embed.resample import Levels, fitted, resize_into, to_blob
from facelake.embed.runtime import Graph

_LOG = logging.getLogger(__name__)
NMS_IOU = 0.4
MEAN, SCALE = 127.5, 1 / 128
# Measured on CPU: a 640x640 photo's activations fill the cache, so a bigger batch gains nothing (docs/benchmarks.md).
_BATCH = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """How a graph's outputs are to be read, told by their number."""

    strides: tuple[int, ...]
    anchors: int
    landmarks: bool


_LAYOUTS = {
    6: Layout((8, 16, 32), 2, False),
    9: Layout((8, 16, 32), 2, True),
    10: Layout((8, 16, 32, 64, 128), 1, False),
    15: Layout((8, 16, 32, 64, 128), 1, True),
}


def layout_of(graph: Graph) -> Layout:
    """How a detector's outputs are to be read.

    Raises:
        ValueError: a graph with another number of outputs, or one without landmarks.
    """
    layout = _LAYOUTS.get(len(graph.outputs))
    if layout is None or not layout.landmarks:
        raise ValueError(f"{len(graph.outputs)} outputs: not an SCRFD detector with landmarks (9 or 15)")
    return layout


class Scrfd:
    """A detector with five landmarks."""

    smooth = False

    def __init__(self, graph: Graph, sides: Sequence[int], min_score: float) -> None:
        """`sides`: the squares to look at, pixels.

        Raises:
            ValueError: a graph with another number of outputs, or one without landmarks.
        """
        self._graph, self._layout, self._sides, self._min_score = graph, layout_of(graph), tuple(sides), min_score
        side = min(self._sides)
        self.batched = batches_alike(graph.run, (3, side, side))
        if not self.batched:
            _LOG.warning("the detector's graph could not be made batchable: it runs photo by photo")

    def locate(self, photos: Sequence[Levels]) -> list[Detections]:
        """Faces of RGB photos, in photo pixels, best first."""
        found: list[list[Detections]] = [[] for _ in photos]
        size = _BATCH if self.batched else 1
        for side in self._sides:
            for start in range(0, len(photos), size):
                self._look(photos[start : start + size], side, found[start : start + size])
        return [_suppressed(candidates) for candidates in found]

    def refine(self, photo: Levels, boxes: F32, landmarks: F32) -> F32:
        """The landmarks as they are: insightface takes them so."""
        return landmarks

    def _look(self, photos: Sequence[Levels], side: int, found: Sequence[list[Detections]]) -> None:
        squares = np.zeros((len(photos), side, side, 3), np.uint8)
        scales = [_letterbox(photo.whole, square) for photo, square in zip(photos, squares, strict=True)]
        heads = [_with_batch(head) for head in self._graph.run(to_blob(squares, MEAN, SCALE))]
        for i, scale in enumerate(scales):
            found[i].append(self._candidates([head[i] for head in heads], side, scale))

    def _candidates(self, heads: list[F32], side: int, scale: float) -> Detections:
        """Anchors that scored, in photo pixels, best first."""
        levels = len(self._layout.strides)
        boxes, landmarks, scores = [], [], []
        for level, stride in enumerate(self._layout.strides):
            score = heads[level][:, 0]
            hit = np.flatnonzero(score >= self._min_score)
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
    """Candidates of all squares as one, after one non-maximum suppression."""
    if not any(len(one) for one in candidates):
        return NOTHING
    boxes = np.concatenate([one.boxes for one in candidates])
    landmarks = np.concatenate([one.landmarks for one in candidates])
    scores = np.concatenate([one.scores for one in candidates])
    kept = nms(boxes, scores, NMS_IOU, border=1.0)
    return Detections(boxes[kept], landmarks[kept], scores[kept])
