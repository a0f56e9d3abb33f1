"""The embedding pipeline: batches of encoded photos to one outcome per photo; bad photos never raise an exception."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pyarrow as pa

from facelake.contracts import FACES, REJECTS, U8, Bool, Covers, Face, Outcome, Reject, View
from facelake.embed.calibration import device_runtime
from facelake.embed.decode import DecodeLimits, Opened, Opener, Photo, Undecoded, decode
from facelake.embed.detectors import NOTHING, Detections
from facelake.embed.geometry import similarity_transforms
from facelake.embed.looks import SuppressedLooks
from facelake.embed.packs import Pack
from facelake.embed.quality import quality, yaw
from facelake.embed.runtime import Runtime, must_have, must_have_torch
from facelake.embed.search import Looked, Search
from facelake.embed.upright import rolls
from facelake.embed.vision import HostVision, Pixels, Seen, Vision
from facelake.errors import ConfigError

RESEMBLES = "it looks like a photo of an erased person"
"""`detail` of a reject row of such a photo; stored, so its wording stays"""
# The landmark score of a face, measured again in its aligned crop; below this its landmarks, and so its embedding, are
# not usable, and the face gets quality 0.
_TRUSTED = 0.5


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """The options of the pipeline, besides the models."""

    min_det_score: float = 0.8
    min_face_px: int = 24
    batch_photos: int = 16
    batch_faces: int = 8
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    runtime: Runtime = field(default_factory=Runtime)
    further_looks: bool = True
    """whether photos are searched again where one look is not enough (search.py)"""

    def shaping(self) -> dict[str, float]:
        """The options on which the rows depend; batch sizes and the runtime in full precision do not change them."""
        shaping = {
            "min_det_score": self.min_det_score,
            "min_face_px": self.min_face_px,
            "target_px": self.limits.target_px,
        }
        marks = {"one_look": not self.further_looks, "half": self.runtime.half, "nvjpeg": self.runtime.nvjpeg}
        marks |= {"bf16": self.runtime.precision == "bf16"}  # int8 is in the encoder's file, which the digest covers
        return shaping | {name: 1 for name, on in marks.items() if on}


@dataclass(slots=True)
class _PhotoState:
    """The state of one photo in the pipeline; `faces` are in decoded pixels."""

    row: int
    image_id: str
    data: bytes
    sha256: str
    photo: Photo | Undecoded
    faces: Detections = NOTHING
    view: View = View.WHOLE
    seen: Seen | None = None
    too_small: int = 0
    bystanders: int = 0


class Pipeline:
    """Decodes photos, detects and encodes faces; one per worker, with its models."""

    def __init__(
        self,
        pack: Pack,
        options: PipelineOptions,
        retracted: Mapping[str, str] | None = None,
        looks: SuppressedLooks | None = None,
    ) -> None:
        """Load the models.

        Args:
            pack: the models.
            options: of the pipeline.
            retracted: names of withdrawn data sets by the SHA-256 of photos that must not be decoded.
            looks: of erased photos, whose faces are not searched for.
        """
        self._options, self._looks = options, looks
        self._opener = open_opener(options, retracted)
        self._vision = open_vision(pack, options)
        self.choices = self._vision.choices
        """the runtime of each network on this host, and why it was chosen"""
        self._search = Search(self._vision, options.min_det_score, options.min_face_px)

    def run(
        self,
        photos: Iterable[tuple[int, str, bytes]],
        named_only: Container[int] = frozenset(),
        opened: Iterable[Opened] | None = None,
    ) -> Iterator[Outcome]:
        """Embed photos given as (corpus row, image_id, encoded bytes); outcomes in the same order.

        Args:
            named_only: rows of which only the named subject may be encoded. Which of several faces that is cannot be
                determined before encoding, so such a photo is rejected if it shows more than one face.
            opened: the photos as an Opener with these options opened them elsewhere; default: opened here.
        """
        stream = iter(photos)
        opened_before = None if opened is None else iter(opened)
        while batch := list(islice(stream, self._options.batch_photos)):
            if opened_before is None:
                of_batch = self._opener.open_all([data for _, _, data in batch])
            else:
                of_batch = list(islice(opened_before, len(batch)))
            yield from self._batch(batch, of_batch, named_only)

    def _batch(
        self, batch: list[tuple[int, str, bytes]], opened: Iterable[Opened], named_only: Container[int]
    ) -> list[Outcome]:
        items = self._located(batch, opened, named_only)
        with_faces = [item for item in items if len(item.faces)]
        if with_faces:
            seen = self._vision.encode([_pixels_of(item) for item in with_faces], [item.faces for item in with_faces])
            for item, encoded in zip(with_faces, seen, strict=True):
                item.seen = encoded
        outcomes = (self._outcome(item) for item in items)
        return [replace(o, covers=Covers.NAMED) if o.row in named_only else o for o in outcomes]

    def aligned(self, photo: tuple[int, str, bytes]) -> list[U8]:
        """The aligned faces of one photo as the encoder receives them, best detection first; none if the photo is
        rejected.

        Raises:
            ConfigError: the runtime is torch, which does not return aligned faces.
        """
        if not isinstance(self._vision, HostVision):
            next_step = "set embed.runtime to onnxruntime for this command"
            raise ConfigError(
                "aligned faces are not available from the torch runtime", where="embed.runtime", next_step=next_step
            )
        (item,) = self._located([photo], self._opener.open_all([photo[2]]), frozenset())
        return self._vision.align(_pixels_of(item), item.faces)[1] if len(item.faces) else []

    def _located(
        self, batch: list[tuple[int, str, bytes]], opened: Iterable[Opened], named_only: Container[int]
    ) -> list[_PhotoState]:
        """Detect faces. Small faces are counted and dropped; so are all faces of a photo that shows several people,
        if only the named subject may be encoded.
        """
        pairs = zip(batch, opened, strict=True)
        items = [_PhotoState(row, ident, data, bytes_.sha256, bytes_.photo) for (row, ident, data), bytes_ in pairs]
        if self._looks:
            self._leave_out_erased(items, self._looks)
        decoded = [(item, item.photo) for item in items if isinstance(item.photo, Photo)]
        placed = self._vision.place([photo.pixels for _, photo in decoded])
        decoded = [(item, replace(photo, pixels=pixels)) for (item, photo), pixels in zip(decoded, placed, strict=True)]
        for (item, photo), first in zip(decoded, self._vision.locate(placed), strict=True):
            looked = self._look(item, photo, first)
            faces, photo = looked.faces, looked.photo
            item.photo, item.view = photo, looked.view
            least = self._options.min_face_px * photo.pixels.shape[1] / photo.width
            small = (faces.boxes[:, 2:] - faces.boxes[:, :2]).min(axis=1, initial=np.inf) < least
            item.faces, item.too_small = faces.where(~small), int(small.sum())
            if item.row in named_only:
                _leave_out_bystanders(item)
            if len(item.faces):
                self._decode_finer(item)
        return items

    def _leave_out_erased(self, items: list[_PhotoState], looks: SuppressedLooks) -> None:
        """Reject photos that look like an erased one, before any face in them is searched for."""
        for item in items:
            photo = item.photo
            if isinstance(photo, Photo) and not isinstance(photo.pixels, np.ndarray):  # it was decoded on a GPU
                photo = decode(item.data, self._options.limits)
            if isinstance(photo, Photo) and looks.resembles(photo.pixels):
                item.photo = Undecoded(Reject.RETRACTED, RESEMBLES)

    def _look(self, item: _PhotoState, photo: Photo, first: Detections) -> Looked:
        """Return the faces of a photo, from further searches too where the first was not enough (search.py)."""
        if not self._options.further_looks:
            return Looked(photo, first.where(first.scores >= self._options.min_det_score), View.WHOLE)

        def finer(photo: Photo, least: float) -> Photo:
            return self._finer(item, photo, int(np.ceil(least * max(photo.width, photo.height))))

        looked = self._search.look_again(photo, first, finer)
        return replace(looked, view=View.BRIGHTENED) if photo.brightened else looked

    def _finer(self, item: _PhotoState, photo: Photo, wanted_px: int) -> Photo:
        """Decode a photo again to have more pixels on its longer side; the same photo if that gives no more."""
        if max(photo.pixels.shape[:2]) >= min(wanted_px, max(photo.width, photo.height)):
            return photo
        finer = decode(item.data, replace(self._options.limits, target_px=wanted_px))
        if not isinstance(finer, Photo) or finer.pixels.shape[1] <= photo.pixels.shape[1]:
            return photo
        return replace(finer, pixels=self._vision.place([finer.pixels])[0])

    def _decode_finer(self, item: _PhotoState) -> None:
        """Decode a photo again at a larger scale if its smallest face has too few pixels for the encoder."""
        photo = item.photo
        assert isinstance(photo, Photo)
        if photo.pixels.shape[1] >= photo.width or (item.view == View.BRIGHTENED) != photo.brightened:
            return
        enlarge = float(np.linalg.norm(similarity_transforms(item.faces.landmarks)[:, :, 0], axis=1).max())
        if not 1 < enlarge < np.inf:
            return
        wanted_px = int(min(max(photo.width, photo.height), max(photo.pixels.shape[:2]) * enlarge))
        finer = self._finer(item, photo, wanted_px)
        item.faces, item.photo = item.faces.scaled(finer.pixels.shape[1] / photo.pixels.shape[1]), finer

    def _confirmed(self, item: _PhotoState) -> Bool:
        """Return which faces (n,) are kept: of further searches only those whose aligned crop shows the landmarks."""
        assert item.seen
        confirmed: Bool = item.seen.scores >= self._vision.confirmed
        return confirmed if item.view != View.WHOLE else np.ones(len(confirmed), bool)

    def _outcome(self, item: _PhotoState) -> Outcome:
        if isinstance(item.photo, Undecoded):
            return Outcome(item.row, item.image_id, item.sha256, 0, 0, (), item.photo.reason, item.photo.detail)
        enlarge = item.photo.width / item.photo.pixels.shape[1]  # decoded pixels to full-photo pixels
        kept = self._confirmed(item) if item.seen else np.zeros(0, bool)
        faces = tuple(_faces(item, item.seen, kept, enlarge)) if item.seen else ()
        reject, detail = (None, "") if faces else self._rejection(item, kept)
        width, height = item.photo.width, item.photo.height
        outcome = Outcome(item.row, item.image_id, item.sha256, width, height, faces, reject, detail)
        return replace(outcome, damaged=item.photo.damaged)

    def _rejection(self, item: _PhotoState, kept: Bool) -> tuple[Reject, str]:
        """Return why a decoded photo has no face row; `kept` as of `_confirmed`."""
        if item.bystanders:
            return Reject.BYSTANDERS, f"{item.bystanders + 1} faces, and the grant covers the named subject only"
        if len(kept) and not kept.any():
            return Reject.NO_FACE, f"{len(kept)} candidate(s) without the landmarks of a face"
        if len(item.faces):
            return Reject.BAD_EMBEDDING, "the encoder gave no finite embedding"
        if item.too_small:
            return Reject.TOO_SMALL, f"{item.too_small} face(s) under {self._options.min_face_px} px"
        return Reject.NO_FACE, f"no face scored {self._options.min_det_score:g}"


def open_opener(options: PipelineOptions, retracted: Mapping[str, str] | None = None) -> Opener:
    """The photo decoder for these options; `retracted` as in Pipeline.

    Raises:
        ConfigError: nvJPEG is configured but not available.
    """
    if not options.runtime.nvjpeg:
        return Opener(options.limits, retracted)
    from facelake.embed.nvjpeg import DeviceOpener, NvJpeg  # torch takes seconds to import

    return DeviceOpener(options.limits, retracted, NvJpeg(options.runtime.device))


def open_vision(pack: Pack, options: PipelineOptions) -> Vision:
    """The detector and encoder for these options: on torch's device, or onnxruntime with geometry on the host.

    Raises:
        ConfigError: the runtime is not installed, or does not have the device.
    """
    least, runtime = options.min_det_score, options.runtime
    if runtime.name == "auto" and runtime.device != "cpu":
        runtime = device_runtime(runtime)
    if runtime.name == "torch":
        must_have(runtime)
        must_have_torch(runtime)
        from facelake.embed.device_vision import DeviceVision

        return DeviceVision(pack, least, runtime, options.batch_photos, options.batch_faces)
    return HostVision(pack, least, runtime, options.batch_faces)


def _pixels_of(item: _PhotoState) -> Pixels:
    """The pixels of a decoded photo."""
    assert isinstance(item.photo, Photo)
    return item.photo.pixels


def _leave_out_bystanders(item: _PhotoState) -> None:
    """Drop all faces if there are several people; faces too small to encode count as people."""
    people = len(item.faces) + item.too_small
    if people > 1:
        item.bystanders, item.faces = people - 1, NOTHING


def _faces(item: _PhotoState, seen: Seen, kept: Bool, enlarge: float) -> Iterator[Face]:
    """The kept faces in pixels of the full photo; those without a finite embedding are left out."""
    detected = item.faces
    boxes, landmarks = (detected.boxes * enlarge).astype(np.float32), (seen.landmarks * enlarge).astype(np.float32)
    for i, unit in enumerate(seen.units):
        if kept[i] and np.isfinite(unit).all():
            score, trust = float(detected.scores[i]), float(seen.scores[i])
            value = quality(float(seen.sharpness[i]), landmarks[i], boxes[i], score) if trust >= _TRUSTED else 0.0
            yield Face(boxes[i], landmarks[i], score, value, unit.astype(np.float16), trust, item.view)


def face_id(image_id: str, content_sha256: str, box: np.ndarray, digest: str) -> str:
    """The id of a face, 32 hex digits: equal for the same photo, rounded box and model on any machine."""
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
            "landmark_score": face.landmark_score,
            "roll": float(np.rad2deg(rolls(face.landmarks[None])[0])),
            "yaw": yaw(face.landmarks),
            "view": str(face.view),
            "damaged": o.damaged,
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
