"""The default detector and the encoder as arrays in, arrays out."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from facelake.contracts import F32, F64, I64, U8
from facelake.embed.detectors import NOTHING, Detections, Detector
from facelake.embed.geometry import letterbox, nms, warp
from facelake.embed.graphs import batchable, batches_alike
from facelake.embed.packs import Pack, ScrfdCard, YuNetCard
from facelake.embed.resample import Levels, to_blob
from facelake.embed.runtime import Graph, Runtime, open_graph
from facelake.embed.scrfd import Scrfd
from facelake.embed.upright import refined

STRIDES = (8, 16, 32)
NMS_IOU = 0.3  # OpenCV's FaceDetectorYN default
CROP_SCORE = 0.3
# Measured on CPU: a 640x640 photo's activations fill the cache, so a bigger batch halves the rate (docs/benchmarks.md).
_DETECT_BATCH = 1
# A face that fills its frame is too large for YuNet at full size: photos without a face get a second look.
SECOND_LOOK = 0.5
CROP_SHARE = 1.8  # side of the crop in which landmarks are found again, in longer sides of the face's box
_KEPT_FACES = 4096  # embeddings of the last faces, for exact duplicates among them; 8 MB at 512 dimensions

_CPU = Runtime()
_LOG = logging.getLogger(__name__)


class YuNet:
    """YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", MIR 2023), as OpenCV decodes it."""

    smooth = True

    def __init__(self, graph: Graph, card: YuNetCard, min_score: float) -> None:
        self.side, self.crop_side = card.input_px, card.refine_px
        self._min_score, self._graph = min_score, graph
        self._order = yunet_order(graph)

    def locate(self, photos: Sequence[Levels]) -> list[Detections]:
        """Faces of RGB photos, in photo pixels; a photo without any is looked at again at half size."""
        return [self._seen(photo, 1.0) or self._seen(photo, SECOND_LOOK) or NOTHING for photo in photos]

    def refine(self, photo: Levels, boxes: F32, landmarks: F32) -> F32:
        """Landmarks (n, 5, 2) found again in a crop of each face that is turned upright with it."""

        def sample(_: I64, matrices: F64) -> list[Detections]:
            return self.relocate(np.stack([warp(photo, one, self.crop_side) for one in matrices]))

        return refined(boxes, landmarks, CROP_SHARE, self.crop_side, sample)

    def _seen(self, photo: Levels, fill: float) -> Detections | None:
        square, scale = letterbox(photo, self.side, fill)
        faces = self.detect(square[None])[0]
        if not len(faces.scores):
            return None
        return Detections(faces.boxes / scale, faces.landmarks / scale, faces.scores)

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
        return [self._decode(one, self.crop_side, CROP_SCORE) for one in self._heads(crops)]

    def _heads(self, squares: U8) -> list[list[F32]]:
        """The network's outputs per square."""
        heads = self._graph.run(to_blob(squares, 0.0, 1.0, swap=True))
        return [[heads[k][i] for k in self._order] for i in range(len(squares))]

    def _decode(self, heads: list[F32], side: int, min_score: float) -> Detections:
        boxes, landmarks, scores = [], [], []
        for level, stride in enumerate(STRIDES):
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
        kept = nms(box, score, NMS_IOU)
        return Detections(box[kept], point[kept], score[kept])


class KnownFaces:
    """Embeddings of the last few thousand faces by a key of their pixels: exact duplicates are encoded once."""

    def __init__(self) -> None:
        self._held: OrderedDict[bytes, F32] = OrderedDict()

    def units(self, keys: Sequence[bytes], make: Callable[[list[int]], F32]) -> F32:
        """Rows (n, dim) for keys; `make` gives those at the places asked for, of faces that are new."""
        new = {key: i for i, key in enumerate(keys) if key not in self._held}
        if new:
            self._held |= zip(new, make(list(new.values())), strict=True)
        rows: F32 = np.stack([self._held[key] for key in keys])
        for key in keys:
            self._held.move_to_end(key)
        while len(self._held) > _KEPT_FACES:
            self._held.popitem(last=False)
        return rows


def normalised(raw: F32) -> F32:
    """Unit rows of raw embeddings (n, dim); those that are not finite or zero become NaN."""
    norm = np.linalg.norm(raw, axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit: F32 = np.where(np.isfinite(norm) & (norm > 1e-6), raw / norm, np.nan).astype(np.float32)
    return unit


class Encoder:
    """An encoder of aligned 112x112 faces (ArcFace input contract); a face seen before is not encoded again."""

    def __init__(self, graph: Graph, mean: float, scale: float, like: Graph | None = None) -> None:
        """`like`: the same graph in full precision, by which batches are checked; default: the graph itself."""
        self._graph, self._mean, self._scale = graph, mean, scale
        self._known = KnownFaces()
        self.encoded = 0
        """faces that went through the network"""
        self.batched = batches_alike((like or graph).run, (3, 112, 112))
        if not self.batched:
            _LOG.warning("the encoder's graph could not be made batchable: it runs face by face")

    def encode(self, aligned: U8) -> F32:
        """Unit embeddings (n, dim) of (n, 112, 112, 3) RGB faces; rows that are not finite or zero become NaN.

        Faces with the same pixels get the same embedding from one run, be they in one batch or among the last few
        thousand.
        """
        keys = [hashlib.blake2b(face.tobytes(), digest_size=16).digest() for face in aligned]
        return self._known.units(keys, lambda new: self._unit(aligned[new]))

    def raw(self, aligned: U8) -> F32:
        """Embeddings as the network gives them, not normalised."""
        blob = to_blob(aligned, self._mean, self._scale)
        if self.batched:
            return self._graph.run(blob)[0]
        return np.concatenate([self._graph.run(blob[i : i + 1])[0].reshape(1, -1) for i in range(len(blob))])

    def _unit(self, aligned: U8) -> F32:
        self.encoded += len(aligned)
        return normalised(self.raw(aligned))


def load_detector(pack: Pack, min_score: float, runtime: Runtime = _CPU) -> Detector:
    """The pack's detector."""
    card = pack.card.detector
    blocks = runtime.name == "onnxruntime"
    if isinstance(card, ScrfdCard):
        graph = open_graph(batchable(pack.detector, any_size=card.any_size, blocks=blocks), runtime)
        return Scrfd(graph, card.sides, min_score)
    # YuNet's landmarks move by pixels in half precision (cosines fell to .97), and it is small
    whole = replace(runtime, half=False)
    return YuNet(open_graph(batchable(pack.detector, any_size=True, blocks=blocks), whole), card, min_score)


def load_encoder(pack: Pack, runtime: Runtime = _CPU) -> Encoder:
    """The pack's encoder."""
    card = pack.card.encoder
    model = batchable(pack.encoder, card.input_name, blocks=runtime.name == "onnxruntime")
    like = open_graph(model, replace(runtime, half=False)) if runtime.half else None
    return Encoder(open_graph(model, runtime), card.mean, card.scale, like)


def yunet_order(graph: Graph) -> list[int]:
    """Where YuNet's outputs are, level by level: class, objectness, box, landmarks."""
    return [graph.outputs.index(f"{head}_{stride}") for stride in STRIDES for head in ("cls", "obj", "bbox", "kps")]
