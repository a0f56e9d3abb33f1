"""The default detector and the encoder, as functions of arrays."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from facelake.contracts import F32, F64, I64, U8
from facelake.embed.calibration import Choice, open_resolved
from facelake.embed.detectors import CANDIDATE, Detections, Detector
from facelake.embed.geometry import letterbox, nms, warp
from facelake.embed.graphs import is_batch_invariant
from facelake.embed.packs import Pack, ScrfdCard, YuNetCard
from facelake.embed.resample import Levels, to_blob
from facelake.embed.runtime import Graph, Network, Runtime, open_network
from facelake.embed.scrfd import MEAN, SCALE, Scrfd
from facelake.embed.upright import refined

STRIDES = (8, 16, 32)
NMS_IOU = 0.3  # OpenCV's FaceDetectorYN default
CROP_SCORE = 0.3
# Measured on CPU: a 640x640 photo's activations fill the cache, so a bigger batch halves the rate (docs/benchmarks.md).
_DETECT_BATCH = 1
# YuNet misses faces that fill the frame: photos without a face are searched again at this share of the size.
SECOND_PASS_FILL = 0.5
CONFIRMED = 0.85  # faces of five sets had .86 and more in a crop of their own, false faces at most .82
_CROPS = 16  # crops at once: the activations of hundreds would take a gigabyte
CROP_SHARE = 1.8  # side of the crop for landmark refinement, relative to the longer side of the face's box
_KEPT_FACES = 4096  # size of the cache of embeddings, for exact duplicates; 8 MB at 512 dimensions
_ENCODER_BATCH = 8  # faces at once, if the caller does not say

_CPU = Runtime()
_LOG = logging.getLogger(__name__)


class YuNet:
    """YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", MIR 2023), as OpenCV decodes it."""

    smooth, confirmed = True, CONFIRMED

    def __init__(self, graph: Graph, card: YuNetCard, min_score: float) -> None:
        self.side, self.crop_side = card.input_px, card.refine_px
        self._min_score, self._candidate, self._graph = min_score, min(min_score, CANDIDATE), graph
        self._order = yunet_order(graph)

    def locate(self, photos: Sequence[Levels], *, once: bool = False) -> list[Detections]:
        """Faces and candidates of RGB photos, in photo pixels; a photo without a face is searched again at half
        size, unless `once`.
        """
        return [self._locate(photo, once=once) for photo in photos]

    def refine(self, photo: Levels, faces: Detections) -> Detections:
        """Return landmarks detected again in a crop of each face that is turned upright with it."""

        def sample(_: I64, matrices: F64) -> list[Detections]:
            parts = (matrices[start : start + _CROPS] for start in range(0, len(matrices), _CROPS))
            crops = (np.stack([warp(photo, matrix, self.crop_side) for matrix in part]) for part in parts)
            return [detections for part in crops for detections in self.relocate(part)]

        return refined(faces, CROP_SHARE, self.crop_side, sample)

    def _locate(self, photo: Levels, *, once: bool) -> Detections:
        first = self._search(photo, 1.0)
        if once or (first.scores >= self._min_score).any():
            return first
        second = self._search(photo, SECOND_PASS_FILL)
        return second if (second.scores >= self._min_score).any() else first

    def _search(self, photo: Levels, fill: float) -> Detections:
        square, scale = letterbox(photo, self.side, fill)
        return self.detect(square[None])[0].scaled(1 / scale)

    def detect(self, squares: U8) -> list[Detections]:
        """The faces of (n, side, side, 3) RGB squares."""
        detections: list[Detections] = []
        for start in range(0, len(squares), _DETECT_BATCH):
            heads = self._heads(squares[start : start + _DETECT_BATCH])
            detections += [self._decode(outputs, self.side, self._candidate) for outputs in heads]
        return detections

    def relocate(self, crops: U8) -> list[Detections]:
        """The faces of (n, crop_side, crop_side, 3) crops, each centred on a known face.

        Landmarks of a small face are off by a pixel or two, which degrades its embedding considerably; in a crop of its
        own it is large. The score threshold is lower here, because the crop is known to contain a face.
        """
        return [self._decode(outputs, self.crop_side, CROP_SCORE) for outputs in self._heads(crops)]

    def _heads(self, squares: U8) -> list[list[F32]]:
        """The network's outputs for each square."""
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
    """A cache of the embeddings of the last few thousand faces by a hash of their pixels, for exact duplicates."""

    def __init__(self) -> None:
        self._cached: OrderedDict[bytes, F32] = OrderedDict()

    def units(self, keys: Sequence[bytes], make: Callable[[list[int]], F32]) -> F32:
        """Embeddings (n, dim) for keys; `make` computes those at the given indices, which are not cached."""
        new = {key: i for i, key in enumerate(keys) if key not in self._cached}
        if new:
            self._cached |= zip(new, make(list(new.values())), strict=True)
        rows: F32 = np.stack([self._cached[key] for key in keys])
        for key in keys:
            self._cached.move_to_end(key)
        while len(self._cached) > _KEPT_FACES:
            self._cached.popitem(last=False)
        return rows


def normalised(raw: F32) -> F32:
    """Unit rows of raw embeddings (n, dim); rows that are not finite, or of norm below 1e-6, become NaN.

    Not vectors.unit_rows, which keeps zero rows: a face without an embedding must be rejected."""
    norm = np.linalg.norm(raw, axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit: F32 = np.where(np.isfinite(norm) & (norm > 1e-6), raw / norm, np.nan).astype(np.float32)
    return unit


class Encoder:
    """An encoder of aligned 112x112 faces (ArcFace input contract), with a cache for exact duplicates."""

    def __init__(self, graph: Graph, mean: float, scale: float, reference: Graph | None = None) -> None:
        """`reference`: the same graph in full precision, on which batching is tested; default: the graph itself."""
        self._graph, self._mean, self._scale = graph, mean, scale
        self._known = KnownFaces()
        self.encoded = 0
        """number of faces that the network encoded"""
        self.batched = is_batch_invariant((reference or graph).run, (3, 112, 112))
        if not self.batched:
            _LOG.warning("the encoder's graph could not be made batchable: it runs face by face")

    def encode(self, aligned: U8) -> F32:
        """Unit embeddings (n, dim) of (n, 112, 112, 3) RGB faces; rows that are not finite or zero become NaN.

        Faces with the same pixels within the last few thousand are encoded once and get the same embedding.
        """
        keys = [hashlib.blake2b(face.tobytes(), digest_size=16).digest() for face in aligned]
        return self._known.units(keys, lambda new: self._unit(aligned[new]))

    def raw(self, aligned: U8) -> F32:
        """The network's outputs (n, dim) float32, not normalised."""
        blob = to_blob(aligned, self._mean, self._scale)
        if self.batched:
            return self._graph.run(blob)[0]
        return np.concatenate([self._graph.run(blob[i : i + 1])[0].reshape(1, -1) for i in range(len(blob))])

    def _unit(self, aligned: U8) -> F32:
        self.encoded += len(aligned)
        return normalised(self.raw(aligned))


def detector_network(pack: Pack) -> Network:
    """The pack's detector as facelake calls it: one photo at a time."""
    card = pack.card.detector
    if isinstance(card, ScrfdCard):
        least, most = ((3, side, side) for side in (min(card.sides), max(card.sides)))
        return Network("detector", pack.detector, most, least, any_size=card.any_size, mean=MEAN, scale=SCALE)
    most, least = ((3, side, side) for side in (card.input_px, card.refine_px))
    return Network("detector", pack.detector, most, least, any_size=True, mean=0.0, scale=1.0)


def encoder_network(pack: Pack, batch: int = _ENCODER_BATCH) -> Network:
    """The pack's encoder, called with at most `batch` faces at once."""
    card = pack.card.encoder
    name, mean, scale = card.input_name, card.mean, card.scale
    return Network("encoder", pack.encoder, (3, 112, 112), input_name=name, batch=batch, mean=mean, scale=scale)


def open_detector(pack: Pack, min_score: float, runtime: Runtime = _CPU) -> tuple[Detector, Choice]:
    """The detector of the pack on the host, and the runtime that was chosen for it.

    Raises:
        ConfigError: as calibration.resolve.
    """
    card = pack.card.detector
    if isinstance(card, ScrfdCard):
        graph, choice = open_resolved(detector_network(pack), runtime)
        return Scrfd(graph, card.sides, min_score), choice
    # in half precision YuNet's landmarks move by pixels (cosines fell to .97); the network is small anyway
    graph, choice = open_resolved(detector_network(pack), replace(runtime, half=False))
    return YuNet(graph, card, min_score), choice


def open_encoder(pack: Pack, runtime: Runtime = _CPU, batch: int = _ENCODER_BATCH) -> tuple[Encoder, Choice]:
    """The encoder of the pack on the host, and the runtime that was chosen for it.

    Raises:
        ConfigError: as calibration.resolve.
    """
    card, network = pack.card.encoder, encoder_network(pack, batch)
    if card.precision == "int8":
        runtime = replace(runtime, precision="int8")
    graph, choice = open_resolved(network, runtime)
    reference = open_network(network, replace(runtime, name="torch", half=False)) if runtime.half else None
    return Encoder(graph, card.mean, card.scale, reference), choice


def load_detector(pack: Pack, min_score: float, runtime: Runtime = _CPU) -> Detector:
    """The detector of the pack on the host; as open_detector."""
    return open_detector(pack, min_score, runtime)[0]


def load_encoder(pack: Pack, runtime: Runtime = _CPU) -> Encoder:
    """The encoder of the pack on the host; as open_encoder."""
    return open_encoder(pack, runtime)[0]


def yunet_order(graph: Graph) -> list[int]:
    """Indices of YuNet's outputs, level by level: class, objectness, box, landmarks."""
    return [graph.outputs.index(f"{head}_{stride}") for stride in STRIDES for head in ("cls", "obj", "bbox", "kps")]
