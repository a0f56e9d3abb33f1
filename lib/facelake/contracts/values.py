"""Frozen values that cross packages: chunks of work, their receipts, faces and outcomes of photos."""

from __future__ import annotations

from dataclasses import dataclass, field

from facelake.contracts.arrays import F16, F32
from facelake.contracts.enums import Covers, Reject, View


@dataclass(frozen=True, slots=True)
class Receipt:
    """A data file that a worker has staged and that is not committed yet."""

    table: str
    path: str
    """relative to the table's root"""
    size_bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive corpus rows whose outcomes are committed together."""

    corpus_file: str
    row_start: int
    row_end: int
    rows: tuple[int, ...]
    """rows to embed, ascending: admitted and without a committed outcome"""
    admitted: int
    """number of admitted rows of the chunk, with or without an outcome"""
    digest: str
    """digest of all admitted rows and their image ids"""
    named_only: frozenset[int] = frozenset()
    """rows whose grant covers the named subject only"""
    contents: tuple[str, ...] = ()
    """SHA-256 of the photos of `rows`, in their order, as the index has them"""
    closes: bool = True
    """False: other rows of the chunk wait for the outcome of a photo with the same content"""


@dataclass(frozen=True, slots=True)
class ChunkReceipt:
    """What embedding one chunk staged; the counters cover the rows embedded by this task only."""

    chunk: Chunk
    faces: Receipt | None = None
    rejects: Receipt | None = None
    embedded: int = 0
    rejected: int = 0
    face_rows: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    complete: bool = True
    """False: a photo was not the one of the index, so that the chunk must be looked at again"""
    runtimes: tuple[str, ...] = ()
    """runtime of each network on the worker's host, and why, as `detector: onnxruntime, ...`"""


@dataclass(frozen=True, slots=True)
class Face:
    """One encoded face of one photo."""

    box: F32
    """(4,) x0, y0, x1, y1 pixels"""
    landmarks: F32
    """(5, 2) pixels"""
    det_score: float
    quality: float
    embedding: F16
    """(dim,) unit norm"""
    landmark_score: float = 1.0
    """the detector's score of the face in a crop that is turned upright with it"""
    view: str = View.WHOLE


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one image: faces, or the reason why there are none; never both."""

    row: int
    image_id: str
    content_sha256: str
    width: int
    height: int
    faces: tuple[Face, ...]
    reject: Reject | None
    detail: str = ""
    covers: str = Covers.EVERYONE
    damaged: bool = False
    """whether the file is damaged; most of the photo is intact"""
