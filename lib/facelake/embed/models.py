"""The detector and the encoder as arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from facelake.contracts import F32, U8
from facelake.embed.geometry import nms
from facelake.embed.graphs import batchable
from facelake.embed.packs import Pack

_STRIDES = (8, 16, 32)
_NMS_IOU = 0.3  # OpenCV's FaceDetectorYN default
_CROP_SCORE = 0.3
# Measured on CPU: a 640x640 photo's activations fill the cache, so a bigger batch halves the rate (docs/benchmarks.md).
_DETECT_BATCH = 1


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces of one square: boxes (n, 4), landmarks (n, 5, 2) in square pixels, scores (n,), best first."""

    boxes: F32
    landmarks: F32
    scores: F32


def _session(model: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class YuNet:
    """YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", MIR 2023), as OpenCV decodes it."""

    def __init__(self, pack: Pack, min_score: float, threads: int = 1) -> None:
        self.side, self.crop_side = pack.card.detector.input_px, pack.card.detector.refine_px
        self._min_score = min_score
        self._session = _session(batchable(pack.detector, any_size=True), threads)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [f"{head}_{stride}" for stride in _STRIDES for head in ("cls", "obj", "bbox", "kps")]

    def detect(self, squares: U8) -> list[Detections]:
        """Find faces in (n, side, side, 3) RGB squares."""
        found: list[Detections] = []
        for start in range(0, len(squares), _DETECT_BATCH):
            heads = self._heads(squares[start : start + _DETECT_BATCH])
            found += [self._decode(one, self.side, self._min_score) for one in heads]
        return found

    def relocate(self, crops: U8) -> list[Detections]:
        """Find faces again in (n, crop_side, crop_side, 3) crops that each hold one in their middle.

        A face that is small in its photo has landmarks that are a pixel or two off, which costs the encoder dearly;
        in a crop of its own it is as large as any. Scores count less here: that there is a face is known.
        """
        return [self._decode(one, self.crop_side, _CROP_SCORE) for one in self._heads(crops)]

    def _heads(self, squares: U8) -> list[list[F32]]:
        """The network's outputs per square."""
        blob = squares[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        heads = self._session.run(self._outputs, {self._input: blob})
        return [[head[i] for head in heads] for i in range(len(blob))]

    def _decode(self, heads: list[F32], side: int, min_score: float) -> Detections:
        boxes, landmarks, scores = [], [], []
        for level, stride in enumerate(_STRIDES):
            cls, obj, bbox, kps = heads[4 * level : 4 * level + 4]
            score = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
            hit = np.flatnonzero(score >= min_score)
            columns = side // stride
            anchor = np.stack([hit % columns, hit // columns], 1).astype(np.float32)
            centre = (anchor + bbox[hit, :2]) * stride
            half = np.exp(bbox[hit, 2:4]) * (stride / 2)
            boxes.append(np.concatenate([centre - half, centre + half], 1))
            landmarks.append((kps[hit].reshape(-1, 5, 2) + anchor[:, None]) * stride)
            scores.append(score[hit])
        box, point, score = np.concatenate(boxes), np.concatenate(landmarks), np.concatenate(scores)
        kept = nms(box, score, _NMS_IOU)
        return Detections(box[kept], point[kept], score[kept])


class Encoder:
    """An encoder of aligned 112x112 faces (ArcFace input contract)."""

    def __init__(self, pack: Pack, threads: int = 1) -> None:
        self._card = pack.card.encoder
        self._session = _session(batchable(pack.encoder, self._card.input_name), threads)

    def encode(self, aligned: U8) -> F32:
        """Unit embeddings (n, dim) of (n, 112, 112, 3) RGB faces; rows that are not finite or zero become NaN."""
        blob = (aligned.transpose(0, 3, 1, 2).astype(np.float32) - self._card.mean) * self._card.scale
        raw = self._session.run(None, {self._card.input_name: blob})[0]
        norm = np.linalg.norm(raw, axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            unit: F32 = np.where(np.isfinite(norm) & (norm > 1e-6), raw / norm, np.nan).astype(np.float32)
        return unit
