"""The tables' Arrow schemas and the frozen values that cross rooms.

Units: pixels are those of the photo after EXIF orientation; boxes are x0, y0, x1, y1; landmarks are five
points (x, y) in the order left eye, right eye, nose, left mouth corner, right mouth corner, "left" being
the left of the image. Embeddings are L2-normalised and stored as little-endian float16 bytes, because
Delta Lake has neither a half-precision nor a fixed-size-list type.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

LAKE_FORMAT = 1
"""Raised when a lake written by this version cannot be read by an older one."""

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
C128 = npt.NDArray[np.complex128]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]


class Refusal(StrEnum):
    """Why admission refused an image before a pixel was decoded."""

    NO_BASIS = "no_basis"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    OTHER_PURPOSE = "other_purpose"
    WITHDRAWN = "withdrawn"
    SOURCE_CLASS = "source_class"
    RETRACTED = "retracted_lineage"
    ERASED = "erased"
    NO_ID = "no_id"
    DUPLICATE_ID = "duplicate_id"


class Reject(StrEnum):
    """Why an admitted image gave no face."""

    EMPTY = "empty"
    UNREADABLE = "unreadable"
    FORMAT = "unsupported_format"
    BYTES = "too_many_bytes"
    PIXELS = "too_many_pixels"
    TIMEOUT = "decode_timeout"
    NO_FACE = "no_face"
    TOO_SMALL = "face_too_small"
    BYSTANDERS = "bystanders"
    RETRACTED = "retracted_content"
    BAD_EMBEDDING = "bad_embedding"
    WORKER_DIED = "worker_died"


class EventKind(StrEnum):
    """Kinds of ledger events."""

    GRANT = "grant"
    WITHDRAW = "withdraw"
    EXPIRE = "expire"


class Covers(StrEnum):
    """Of whom in a photo a grant speaks."""

    EVERYONE = "everyone_depicted"
    NAMED = "named_subject_only"


class SourceClass(StrEnum):
    """How a source came by its photos. The last three are never processed, whatever else is granted."""

    CONTRIBUTED = "contributed"
    COMMISSIONED = "commissioned"
    ARCHIVE = "archive"
    RESEARCH = "research"
    WEB_SCRAPE = "web-scrape"
    CCTV = "cctv"
    UNKNOWN = "unknown"


REFUSED_CLASSES = frozenset({SourceClass.WEB_SCRAPE, SourceClass.CCTV, SourceClass.UNKNOWN})


class Scope(StrEnum):
    """What a ledger event speaks about."""

    SOURCE = "source"
    SUBJECT = "subject"


class Verdict(StrEnum):
    """What a person said of faces and identities; see publish/corrections.py."""

    MERGE = "merge"
    SPLIT = "split"
    REJECT = "reject"
    CONFIRM = "confirm"
    DISTINCT = "distinct"
    UNDO = "undo"


class Change(StrEnum):
    """What happened to one identity between two gallery versions."""

    CREATED = "created"
    GREW = "grew"
    SHRANK = "shrank"
    CHANGED = "changed"
    MERGED = "merged"
    SPLIT = "split"
    RETIRED = "retired"
    RESURRECTED = "resurrected"
    ERASED = "erased"


def _schema(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(n, t, metadata={"doc": d}) for n, t, d in fields])


_S, _I, _F, _T = pa.string(), pa.int64(), pa.float32(), pa.timestamp("us", tz="UTC")

CORPUS = _schema(
    ("image_id", _S, "unique in the corpus; `import` uses source/relative-path"),
    ("image", pa.binary(), "the encoded photo, as it was received"),
    ("source_id", _S, "who or what supplied the photo; the ledger speaks about it"),
    ("subject_ref", _S, "optional: the custodian's reference for the person depicted"),
    ("captured_at", _T, "optional"),
    ("source_class", _S, "optional: see SourceClass; web-scrape, cctv, unknown and anything else are refused"),
)
CORPUS_REQUIRED = ("image_id", "image", "source_id")

LEDGER = _schema(
    ("seq", _I, "order of events; a later event of the same scope and key overrides an earlier one"),
    ("kind", _S, "grant, withdraw or expire"),
    ("scope", _S, "source or subject"),
    ("key", _S, "the source_id or subject_ref; after an erasure a keyed hash"),
    ("purposes", pa.list_(_S), "empty on a withdraw: every purpose"),
    ("basis", _S, "legal basis as the operator recorded it"),
    ("exemption", _S, "the Art. 9 GDPR exemption or the written release on which faces may be processed"),
    ("covers", _S, "everyone_depicted or named_subject_only; null: everyone for a source, the named for a subject"),
    ("source_class", _S, "see SourceClass; null: not stated by this event"),
    ("evidence_sha256", _S, "digest of the written release or other evidence"),
    ("valid_from", _T, "inclusive"),
    ("valid_until", _T, "exclusive; null: until withdrawn"),
    ("last_contact", _T, "last contact with the person; null: when it was recorded"),
    ("destroy_by", _T, "data must be gone by then: at the end of the purpose or 3 years after the last contact"),
    ("recorded_at", _T, "when the event was appended"),
    ("recorded_by", _S, "operating-system user that appended it"),
)

ADMISSIONS = _schema(
    ("image_id", _S, "null when the corpus row has none"),
    ("source_id", _S, ""),
    ("subject_ref", _S, ""),
    ("corpus_file", _S, "path under the corpus root"),
    ("corpus_row", _I, "row in that file, from 0"),
    ("admitted", pa.bool_(), ""),
    ("reason", _S, "refusal reason; null when admitted"),
    ("covers", _S, "of an admitted image: see Covers; with named_subject_only no bystander may be encoded"),
    ("purpose", _S, "the purpose decided for"),
    ("ledger_version", _I, "Delta version of the ledger at the decision"),
)

FACES = _schema(
    ("face_id", _S, "blake2b-128 of image id, content hash, rounded box and model digest"),
    ("image_id", _S, ""),
    ("content_sha256", _S, "of the encoded photo"),
    ("box", pa.list_(_F), "x0, y0, x1, y1 in pixels"),
    ("landmarks", pa.list_(_F), "five x, y pairs in pixels"),
    ("image_width", pa.int32(), "pixels after orientation"),
    ("image_height", pa.int32(), "pixels after orientation"),
    ("det_score", _F, "0..1"),
    ("quality", _F, "0..1: size, sharpness, detector score and pose together"),
    ("embedding", pa.binary(), "little-endian float16, unit norm"),
    ("covers", _S, "what the grant covered when the face was encoded"),
    ("model_digest", _S, "digest of the model card and files that made the row"),
    ("corpus_file", _S, ""),
    ("corpus_row", _I, ""),
)

REJECTS = _schema(
    ("image_id", _S, ""),
    ("reason", _S, "see Reject"),
    ("detail", _S, "one line for a person"),
    ("covers", _S, "what the grant covered then"),
    ("content_sha256", _S, ""),
    ("model_digest", _S, ""),
    ("corpus_file", _S, ""),
    ("corpus_row", _I, ""),
)

CHUNKS = _schema(
    ("corpus_file", _S, ""),
    ("row_start", _I, ""),
    ("row_end", _I, "exclusive"),
    ("model_digest", _S, ""),
    ("admitted_digest", _S, "which rows of the chunk were admitted; another set opens the chunk again"),
    ("admitted", _I, "images"),
    (
        "embedded",
        _I,
        "images that gave a face when the chunk was closed; 0 where all had their outcome before",
    ),
    ("rejected", _I, "images that gave none then"),
    ("faces", _I, "faces found then"),
)

GROUPS = _schema(
    ("face_id", _S, ""),
    ("group_id", _I, "no meaning beyond one clustering"),
    ("score", _F, "cosine to the group's centroid"),
)

IDENTITIES = _schema(
    ("identity_id", _S, "opaque, never reused"),
    ("status", _S, "active, merged or retired"),
    ("merged_into", _S, "the winner, when merged"),
    ("size", _I, "faces"),
    ("first_version", _I, "gallery version that created it"),
    ("last_version", _I, "gallery version that last changed it"),
    ("prototype", pa.list_(_F), "unit quality-weighted mean embedding; null unless active"),
    ("cohesion", _F, "quality-weighted mean cosine of the faces to the prototype"),
    ("weight", _F, "sum of the faces' weights, so that prototype * cohesion * weight is the sum of weighted faces"),
    ("exemplars", pa.list_(pa.binary()), "embeddings (float16) of a few faces that cover its modes, the best first"),
    ("exemplar_faces", pa.list_(_S), "their face ids"),
    ("core_hashes", pa.list_(_S), "of a retired one: keyed hashes of its core faces, with which it would come back"),
    ("purposes", pa.list_(_S), "what it may be used for"),
    ("model_digest", _S, ""),
    ("withdrawn_lineage", pa.list_(_S), "withdrawn data sets that the model is said to descend from"),
)

MEMBERSHIPS = _schema(
    ("face_id", _S, ""),
    ("identity_id", _S, ""),
    ("image_id", _S, ""),
    ("score", _F, "cosine to the identity's prototype when the face came to it"),
    ("how", _S, "grouped (with all faces), joined (by an increment) or corrected (by a person)"),
    ("core", pa.bool_(), "one of the few faces nearest to the prototype: where they go, the id goes"),
    ("former_id", _S, "the identity that it was in before that one was merged"),
    ("withdrawn_lineage", pa.list_(_S), "withdrawn data sets that the model is said to descend from"),
)

CHANGES = _schema(
    ("gallery_version", _I, ""),
    ("kind", _S, "see Change"),
    ("identity_id", _S, ""),
    ("other_id", _S, "merged: the winner; split: the parent; resurrected: whom it was part of, if anyone"),
    ("size_before", _I, ""),
    ("size_after", _I, ""),
)

CORRECTIONS = _schema(
    ("seq", _I, "order of corrections; where two contradict each other the later one counts"),
    ("kind", _S, "see Verdict"),
    ("identity_a", _S, "the identity spoken of"),
    ("identity_b", _S, "merge, distinct: the other one"),
    ("faces_a", pa.list_(_S), "the faces of identity_a then; of a split, reject or confirm without those in faces_b"),
    ("faces_b", pa.list_(_S), "the faces of identity_b then; of a split, reject or confirm the faces spoken of"),
    ("undoes", pa.list_(_I), "corrections that no longer count: of an undo, or superseded by this one"),
    ("reason", _S, "in the reviewer's words"),
    ("reviewer", _S, ""),
    ("gallery_version", _I, "the gallery that the reviewer saw"),
    ("recorded_at", _T, ""),
)

IDENTITY_STATS = _schema(
    ("identity_id", _S, ""),
    ("gallery_version", _I, "in which the row was made; rows of identities that nothing happened near are kept"),
    ("size", _I, "faces"),
    ("growth", _I, "faces more (or fewer) than in the version before"),
    ("cohesion", _F, "see identities"),
    ("nearest_id", _S, "the other identity whose prototype is nearest"),
    ("nearest_similarity", _F, "cosine of the two prototypes"),
    ("separation", _F, "inside similarity less that to the nearest one, both as mean cosines of pairs of faces"),
    ("shared_photos", _I, "photos in which it has more than one face: collages, mirrors, or two people in one"),
)

REVIEWS = _schema(
    ("kind", _S, "same_person: two identities that may be one; two_people: one that may be two"),
    ("identity_id", _S, ""),
    ("other_id", _S, "same_person: the other one"),
    ("score", _F, "how much an answer is worth: doubt times faces concerned; the highest first"),
    ("doubt", _F, "0..1"),
    ("faces", _I, "faces concerned"),
    ("reason", _S, "for a person"),
    ("gallery_version", _I, ""),
)

DRIFT = _schema(
    ("gallery_version", _I, ""),
    ("created_at", _T, ""),
    ("mode", _S, "full or increment"),
    ("faces", _I, ""),
    ("identities", _I, ""),
    ("single", _I, "identities of one face"),
    ("largest", _I, "faces of the largest one"),
    ("cohesion", _F, "median, of identities of two faces or more"),
    ("nearest_similarity", _F, "median cosine to the nearest other prototype"),
    ("reviews", _I, "rows of the queue"),
    ("created", _I, ""),
    ("merged", _I, ""),
    ("split", _I, ""),
    ("retired", _I, ""),
    ("drift_sds", _F, "of different people's mean similarity since all faces were grouped; null in a full night"),
)

GALLERIES = _schema(
    ("gallery_version", _I, "the last row of the highest version is the gallery that readers see"),
    ("identities_version", _I, "Delta version to read"),
    ("memberships_version", _I, "Delta version to read"),
    ("changes_version", _I, "Delta version to read"),
    ("clustering", _S, "digest of the clustering it was made from"),
    ("model_digest", _S, ""),
    ("purpose", _S, ""),
    ("identities", _I, "active ones"),
    ("faces", _I, ""),
    ("withdrawn_lineage", pa.list_(_S), "withdrawn data sets that the model is said to descend from"),
    ("created_at", _T, ""),
)

LEASES = _schema(
    ("seq", _I, "order of events"),
    ("lease_id", _S, "one export to one recipient"),
    ("event", _S, "issued, acknowledged, recalled or returned"),
    ("recipient", _S, ""),
    ("purpose", _S, "what the recipient may use it for"),
    ("issued_at", _T, ""),
    ("expires_at", _T, "from then on it may not be used"),
    ("gallery_version", _I, "issued: the version exported; acknowledged: the version up to which changes are applied"),
    ("identities", _I, "rows exported"),
    ("recorded_at", _T, ""),
    ("recorded_by", _S, "operating-system user"),
)

RUNS = _schema(
    ("run_id", _S, "one nightly run; its stages share it"),
    ("stage", _S, ""),
    ("started_at", _T, ""),
    ("seconds", pa.float64(), ""),
    ("input_digest", _S, "digest of everything the stage read; equal input is not worked twice"),
    ("config_digest", _S, ""),
    ("model_digest", _S, ""),
    ("purpose", _S, ""),
    ("counts", _S, "JSON object; counters that add up"),
    ("peak_rss_bytes", _I, "of the driver process"),
)

TABLES: dict[str, pa.Schema] = {
    "ledger": LEDGER,
    "admissions": ADMISSIONS,
    "faces": FACES,
    "rejects": REJECTS,
    "chunks": CHUNKS,
    "groups": GROUPS,
    "identities": IDENTITIES,
    "memberships": MEMBERSHIPS,
    "changes": CHANGES,
    "corrections": CORRECTIONS,
    "identity_stats": IDENTITY_STATS,
    "reviews": REVIEWS,
    "drift": DRIFT,
    "galleries": GALLERIES,
    "leases": LEASES,
    "runs": RUNS,
}


@dataclass(frozen=True, slots=True)
class Receipt:
    """A data file that a worker staged and nobody has committed yet."""

    table: str
    path: str
    """relative to the table's root"""
    size_bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of corpus rows whose outcomes are committed as one."""

    corpus_file: str
    row_start: int
    row_end: int
    rows: tuple[int, ...]
    """rows to compute, ascending: admitted and without a committed outcome"""
    admitted: int
    """admitted rows of the chunk, computed now or before"""
    digest: str
    """digest of all admitted rows and their image ids"""
    named_only: frozenset[int] = frozenset()
    """rows whose grant covers the named subject only"""


@dataclass(frozen=True, slots=True)
class ChunkReceipt:
    """What embedding one chunk staged; counters are over the rows computed now."""

    chunk: Chunk
    faces: Receipt | None = None
    rejects: Receipt | None = None
    embedded: int = 0
    rejected: int = 0
    face_rows: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image: faces, or a reason why there are none; never both."""

    row: int
    image_id: str
    content_sha256: str
    width: int
    height: int
    faces: tuple[Face, ...]
    reject: Reject | None
    detail: str = ""
    covers: str = Covers.EVERYONE


def file_key(corpus_file: str) -> str:
    """Name of a corpus file inside names of data files: a hash, since names stay in logs."""
    return hashlib.sha256(corpus_file.encode()).hexdigest()[:12]


def embedding_matrix(column: pa.ChunkedArray, dim: int | None = None) -> tuple[F32, Bool]:
    """Decode an `embedding` column.

    Args:
        dim: values per embedding; default: that of the most rows.

    Returns:
        (n, dim) float32, and which rows are sound: right length, finite, of unit norm within 2 %. Others are zero.
    """
    lengths = np.array([-1 if v is None else len(v) // 2 for v in column.to_pylist()] or [0], np.int64)[: len(column)]
    if dim is None:
        known = lengths[lengths > 0]
        dim = int(np.bincount(known).argmax()) if known.size else 0
    matrix = np.zeros((len(column), dim), np.float32)
    right = lengths == dim
    if right.all() and len(column):
        flat = column.combine_chunks()
        flat = flat.chunk(0) if isinstance(flat, pa.ChunkedArray) else flat
        offsets = np.frombuffer(flat.buffers()[1], np.int32)[flat.offset : flat.offset + len(flat) + 1]
        raw = np.frombuffer(flat.buffers()[2], "<f2")[offsets[0] // 2 : offsets[-1] // 2] if dim else np.zeros(0)
        matrix[:] = raw.reshape(len(column), dim)
    else:
        for i in np.flatnonzero(right):
            matrix[i] = np.frombuffer(column[int(i)].as_py(), "<f2")
    with np.errstate(invalid="ignore"):
        norm = np.linalg.norm(matrix, axis=1)
        sound = right & np.isfinite(norm) & (np.abs(norm - 1) < 0.02)
    matrix[~sound] = 0
    return matrix, sound
