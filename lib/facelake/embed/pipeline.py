"""Photos in, outcomes out: one batch of a chunk at a time, one outcome per photo, never an exception for a bad one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa

from facelake.contracts import FACES, REJECTS, U8, Face, Outcome, Reject
from facelake.embed.decode import DecodeLimits, Photo, Undecoded, decode
from facelake.embed.geometry import letterbox, similarity_transform, warp
from facelake.embed.models import Detections, Encoder, YuNet
from facelake.embed.packs import Pack
from facelake.embed.quality import quality

# A face that fills its frame is too large for the detector at full size: photos without a face get a second look.
_SECOND_LOOK = 0.5


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """What shapes a face, besides the models."""

    min_det_score: float = 0.7
    min_face_px: int = 24
    batch_photos: int = 16
    batch_faces: int = 8
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    def shaping(self) -> dict[str, float]:
        """The options on which the rows depend; batch sizes do not change them."""
        return {
            "min_det_score": self.min_det_score,
            "min_face_px": self.min_face_px,
            "target_px": self.limits.target_px,
        }


@dataclass(slots=True)
class _Found:
    """A photo on its way through the pipeline."""

    row: int
    image_id: str
    sha256: str
    photo: Photo | Undecoded
    aligned: list[U8] = field(default_factory=list)
    parts: list[tuple[np.ndarray, np.ndarray, float]] = field(default_factory=list)
    too_small: int = 0


class Pipeline:
    """Holds the models; one per worker."""

    def __init__(self, pack: Pack, options: PipelineOptions, threads: int = 1) -> None:
        self._options = options
        self._detector = YuNet(pack, options.min_det_score, threads)
        self._encoder = Encoder(pack, threads)

    def run(self, photos: Iterable[tuple[int, str, bytes]]) -> Iterator[Outcome]:
        """Embed photos given as (corpus row, image_id, encoded bytes); outcomes in the same order."""
        stream = iter(photos)
        while batch := list(islice(stream, self._options.batch_photos)):
            yield from self._batch(batch)

    def _batch(self, batch: list[tuple[int, str, bytes]]) -> list[Outcome]:
        found = [
            _Found(row, ident, hashlib.sha256(data).hexdigest(), decode(data, self._options.limits))
            for row, ident, data in batch
        ]
        self._locate([item for item in found if isinstance(item.photo, Photo)], 1.0)
        again = [item for item in found if isinstance(item.photo, Photo) and not item.parts and not item.too_small]
        self._locate(again, _SECOND_LOOK)
        aligned = [face for item in found for face in item.aligned]
        embeddings = iter(self._encode(aligned))
        return [self._outcome(item, [next(embeddings) for _ in item.aligned]) for item in found]

    def _locate(self, items: list[_Found], fill: float) -> None:
        if not items:
            return
        squares = [
            letterbox(item.photo.pixels, self._detector.side, fill) for item in items if isinstance(item.photo, Photo)
        ]
        detections = self._detector.detect(np.stack([square for square, _ in squares]))
        for item, (_, scale), faces in zip(items, squares, detections, strict=True):
            self._align(item, scale, faces)

    def _align(self, item: _Found, scale: float, faces: Detections) -> None:
        photo = item.photo
        assert isinstance(photo, Photo)
        enlarge = photo.width / photo.pixels.shape[1]  # decoded pixels to full-photo pixels
        for box, points, score in zip(faces.boxes, faces.landmarks, faces.scores, strict=True):
            full_box, full_points = box / scale * enlarge, points / scale * enlarge
            if min(full_box[2] - full_box[0], full_box[3] - full_box[1]) < self._options.min_face_px:
                item.too_small += 1
                continue
            item.aligned.append(warp(photo.pixels, similarity_transform(points / scale)))
            item.parts.append((full_box, full_points, float(score)))

    def _encode(self, aligned: list[U8]) -> list[np.ndarray]:
        size = self._options.batch_faces
        return [
            unit
            for start in range(0, len(aligned), size)
            for unit in self._encoder.encode(np.stack(aligned[start : start + size]))
        ]

    def _outcome(self, item: _Found, embeddings: list[np.ndarray]) -> Outcome:
        if isinstance(item.photo, Undecoded):
            return Outcome(item.row, item.image_id, item.sha256, 0, 0, (), item.photo.reason, item.photo.detail)
        faces = tuple(
            Face(
                box.astype(np.float32),
                points.astype(np.float32),
                score,
                quality(aligned, points, box, score),
                unit.astype(np.float16),
            )
            for (box, points, score), aligned, unit in zip(item.parts, item.aligned, embeddings, strict=True)
            if np.isfinite(unit).all()
        )
        reject, detail = None, ""
        if not faces:
            if item.parts:
                reject, detail = Reject.BAD_EMBEDDING, "the encoder gave no finite embedding"
            elif item.too_small:
                reject, detail = (
                    Reject.TOO_SMALL,
                    f"{item.too_small} face(s) under {self._options.min_face_px} px",
                )
            else:
                reject, detail = Reject.NO_FACE, f"no face scored {self._options.min_det_score:g}"
        width, height = item.photo.width, item.photo.height
        return Outcome(item.row, item.image_id, item.sha256, width, height, faces, reject, detail)


def face_id(image_id: str, content_sha256: str, box: np.ndarray, digest: str) -> str:
    """Stable id of a face: the same photo, place and model give the same id on any machine."""
    where = ",".join(str(int(v)) for v in np.rint(box))
    key = "\0".join([image_id, content_sha256, where, digest])
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def faces_table(outcomes: Iterable[Outcome], digest: str, corpus_file: str) -> pa.Table:
    """Face rows (contracts.FACES) of the outcomes, in order."""
    rows = [
        {
            "face_id": face_id(o.image_id, o.content_sha256, face.box, digest),
            "image_id": o.image_id,
            "content_sha256": o.content_sha256,
            "box": face.box.tolist(),
            "landmarks": face.landmarks.ravel().tolist(),
            "image_width": o.width,
            "image_height": o.height,
            "det_score": face.det_score,
            "quality": face.quality,
            "embedding": face.embedding.astype("<f2").tobytes(),
            "model_digest": digest,
            "corpus_file": corpus_file,
            "corpus_row": o.row,
        }
        for o in outcomes
        for face in o.faces
    ]
    return pa.Table.from_pylist(rows, schema=FACES)


def rejects_table(outcomes: Iterable[Outcome], digest: str, corpus_file: str) -> pa.Table:
    """Reject rows (contracts.REJECTS) of the outcomes, in order."""
    rows = [
        {
            "image_id": o.image_id,
            "reason": str(o.reject),
            "detail": o.detail,
            "content_sha256": o.content_sha256,
            "model_digest": digest,
            "corpus_file": corpus_file,
            "corpus_row": o.row,
        }
        for o in outcomes
        if o.reject is not None
    ]
    return pa.Table.from_pylist(rows, schema=REJECTS)
