"""Photos in, outcomes out: one batch of a chunk at a time, one outcome per photo, never an exception for a bad one."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pyarrow as pa

from facelake.contracts import FACES, REJECTS, U8, Covers, Face, Outcome, Reject
from facelake.embed.decode import DecodeLimits, Opened, Opener, Photo, Undecoded, decode
from facelake.embed.geometry import similarity_transform, warp
from facelake.embed.models import load_detector, load_encoder
from facelake.embed.packs import Pack
from facelake.embed.quality import quality
from facelake.embed.resample import warp_linear
from facelake.embed.runtime import Runtime

_SIDE = 112


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """What shapes a face, besides the models."""

    min_det_score: float = 0.8
    min_face_px: int = 24
    batch_photos: int = 16
    batch_faces: int = 8
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    runtime: Runtime = field(default_factory=Runtime)

    def shaping(self) -> dict[str, float]:
        """The options on which the rows depend; batch sizes and the runtime in full precision do not change them."""
        shaping = {
            "min_det_score": self.min_det_score,
            "min_face_px": self.min_face_px,
            "target_px": self.limits.target_px,
        }
        return shaping | ({"half": 1} if self.runtime.half else {})


@dataclass(slots=True)
class _Located:
    """A detected face; box (4,) and landmarks (5, 2) in decoded pixels."""

    box: np.ndarray
    landmarks: np.ndarray
    score: float


@dataclass(slots=True)
class _Found:
    """A photo on its way through the pipeline."""

    row: int
    image_id: str
    data: bytes
    sha256: str
    photo: Photo | Undecoded
    located: list[_Located] = field(default_factory=list)
    aligned: list[U8] = field(default_factory=list)
    too_small: int = 0
    bystanders: int = 0


class Pipeline:
    """Holds the models; one per worker."""

    def __init__(self, pack: Pack, options: PipelineOptions, retracted: Mapping[str, str] | None = None) -> None:
        """`retracted`: names of withdrawn data sets by the SHA-256 of photos that must not be decoded."""
        self._options = options
        self._opener = Opener(options.limits, retracted)
        self._detector = load_detector(pack, options.min_det_score, options.runtime)
        self._encoder = load_encoder(pack, options.runtime)

    def run(
        self,
        photos: Iterable[tuple[int, str, bytes]],
        named_only: Container[int] = frozenset(),
        opened: Iterable[Opened] | None = None,
    ) -> Iterator[Outcome]:
        """Embed photos given as (corpus row, image_id, encoded bytes); outcomes in the same order.

        Args:
            named_only: rows of which only the named subject may be encoded. Who of several that is nobody can tell
                before encoding, so such a photo is rejected when it shows more than one face.
            opened: the photos as an Opener with these options opened them elsewhere; default: opened here.
        """
        stream = iter(photos)
        known = None if opened is None else iter(opened)
        while batch := list(islice(stream, self._options.batch_photos)):
            here = (self._opener.open(data) for _, _, data in batch)
            yield from self._batch(batch, here if known is None else islice(known, len(batch)), named_only)

    def _batch(
        self, batch: list[tuple[int, str, bytes]], opened: Iterable[Opened], named_only: Container[int]
    ) -> list[Outcome]:
        found = self._aligned(batch, opened, named_only)
        aligned = [face for item in found for face in item.aligned]
        embeddings = iter(self._encode(aligned))
        outcomes = (self._outcome(item, [next(embeddings) for _ in item.aligned]) for item in found)
        return [replace(one, covers=Covers.NAMED) if one.row in named_only else one for one in outcomes]

    def aligned(self, photo: tuple[int, str, bytes]) -> list[U8]:
        """The faces of one photo as the encoder gets them, best detection first; none of a photo that is rejected."""
        (found,) = self._aligned([photo], [self._opener.open(photo[2])], frozenset())
        return found.aligned

    def _aligned(
        self, batch: list[tuple[int, str, bytes]], opened: Iterable[Opened], named_only: Container[int]
    ) -> list[_Found]:
        pairs = zip(batch, opened, strict=True)
        found = [_Found(row, ident, data, one.sha256, one.photo) for (row, ident, data), one in pairs]
        self._locate(found)
        for item in found:
            if item.row in named_only:
                _leave_out_bystanders(item)
            if item.located:
                self._align(item)
        return found

    def _locate(self, items: list[_Found]) -> None:
        """Detect; faces that are too small are counted and left out."""
        seen = [(item, item.photo) for item in items if isinstance(item.photo, Photo)]
        for (item, photo), faces in zip(seen, self._detector.locate([photo.pixels for _, photo in seen]), strict=True):
            least = self._options.min_face_px * photo.pixels.shape[1] / photo.width
            for box, points, score in zip(faces.boxes, faces.landmarks, faces.scores, strict=True):
                if min(box[2] - box[0], box[3] - box[1]) < least:
                    item.too_small += 1
                else:
                    item.located.append(_Located(box, points, float(score)))

    def _align(self, item: _Found) -> None:
        """The landmarks as well as the detector can tell them, then the aligned faces."""
        self._decode_finer(item)
        assert isinstance(item.photo, Photo)
        pixels = item.photo.pixels
        boxes = np.stack([face.box for face in item.located])
        landmarks = self._detector.refine(pixels, boxes, np.stack([face.landmarks for face in item.located]))
        for face, points in zip(item.located, landmarks, strict=True):
            face.landmarks = points
            matrix = similarity_transform(points)
            crop = warp(pixels, matrix) if self._detector.smooth else warp_linear(pixels, matrix, _SIDE)
            item.aligned.append(crop)

    def _decode_finer(self, item: _Found) -> None:
        """Decode a photo again where it has pixels that its smallest face lacks for the encoder."""
        photo = item.photo
        assert isinstance(photo, Photo)
        if photo.pixels.shape[1] >= photo.width:
            return
        enlarge = max(float(np.linalg.norm(similarity_transform(face.landmarks)[:, 0])) for face in item.located)
        if not 1 < enlarge < np.inf:
            return
        wanted_px = int(min(max(photo.width, photo.height), max(photo.pixels.shape[:2]) * enlarge))
        finer = decode(item.data, replace(self._options.limits, target_px=wanted_px))
        if isinstance(finer, Photo) and finer.pixels.shape[1] > photo.pixels.shape[1]:
            ratio = finer.pixels.shape[1] / photo.pixels.shape[1]
            for face in item.located:
                face.box, face.landmarks = face.box * ratio, face.landmarks * ratio
            item.photo = finer

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
        enlarge = item.photo.width / item.photo.pixels.shape[1]  # decoded pixels to full-photo pixels
        faces = tuple(
            _face(face, aligned, unit, enlarge)
            for face, aligned, unit in zip(item.located, item.aligned, embeddings, strict=True)
            if np.isfinite(unit).all()
        )
        reject, detail = None, ""
        if not faces:
            if item.bystanders:
                detail = f"{item.bystanders + 1} faces, and the grant covers the named subject only"
                reject = Reject.BYSTANDERS
            elif item.located:
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


def _leave_out_bystanders(item: _Found) -> None:
    """Nobody of several is encoded; faces that are too small to be encoded are people too."""
    if len(item.located) + item.too_small > 1:
        item.bystanders = len(item.located) + item.too_small - 1
        item.located = []


def _face(face: _Located, aligned: U8, unit: np.ndarray, enlarge: float) -> Face:
    box, points = (face.box * enlarge).astype(np.float32), (face.landmarks * enlarge).astype(np.float32)
    return Face(box, points, face.score, quality(aligned, points, box, face.score), unit.astype(np.float16))


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
            "covers": o.covers,
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
            "covers": o.covers,
            "content_sha256": o.content_sha256,
            "model_digest": digest,
            "corpus_file": corpus_file,
            "corpus_row": o.row,
        }
        for o in outcomes
        if o.reject is not None
    ]
    return pa.Table.from_pylist(rows, schema=REJECTS)
