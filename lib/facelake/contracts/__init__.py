"""The tables' Arrow schemas and the frozen values that cross packages.

Units: pixels are those of the photo after EXIF orientation; boxes are x0, y0, x1, y1; landmarks are five
points (x, y) in the order left eye, right eye, nose, left mouth corner, right mouth corner, "left" being
the left of the image. Embeddings are L2-normalised and stored as little-endian float16 bytes, because
Delta Lake has neither a half-precision nor a fixed-size-list type.
"""

from __future__ import annotations

from facelake.contracts.arrays import C128, F16, F32, F64, I32, I64, U8, U16, Bool
from facelake.contracts.enums import (
    REFUSED_CLASSES,
    Change,
    Covers,
    EventKind,
    Refusal,
    Reject,
    Scope,
    SourceClass,
    Verdict,
    View,
)
from facelake.contracts.file_names import DataFileName, corpus_key, is_of_model
from facelake.contracts.plain_data import parse_json, parse_yaml
from facelake.contracts.references import SEARCHABLE, label, reference, references
from facelake.contracts.schemas import (
    ADMISSIONS,
    CHANGES,
    CHUNKS,
    CORPUS,
    CORPUS_REQUIRED,
    CORRECTIONS,
    DRIFT,
    FACES,
    GALLERIES,
    GROUPS,
    IDENTITIES,
    IDENTITY_STATS,
    IMAGES,
    LAKE_FORMAT,
    LEASES,
    LEDGER,
    MEMBERSHIPS,
    REJECTS,
    REVIEWS,
    RUNS,
    TABLES,
    WITHDRAWN_PHOTOS,
)
from facelake.contracts.values import Chunk, ChunkReceipt, Face, Outcome, Receipt

__all__ = [
    "ADMISSIONS",
    "C128",
    "CHANGES",
    "CHUNKS",
    "CORPUS",
    "CORPUS_REQUIRED",
    "CORRECTIONS",
    "DRIFT",
    "F16",
    "F32",
    "F64",
    "FACES",
    "GALLERIES",
    "GROUPS",
    "I32",
    "I64",
    "IDENTITIES",
    "IDENTITY_STATS",
    "IMAGES",
    "LAKE_FORMAT",
    "LEASES",
    "LEDGER",
    "MEMBERSHIPS",
    "REFUSED_CLASSES",
    "REJECTS",
    "REVIEWS",
    "RUNS",
    "SEARCHABLE",
    "TABLES",
    "U8",
    "U16",
    "WITHDRAWN_PHOTOS",
    "Bool",
    "Change",
    "Chunk",
    "ChunkReceipt",
    "Covers",
    "DataFileName",
    "EventKind",
    "Face",
    "Outcome",
    "Receipt",
    "Refusal",
    "Reject",
    "Scope",
    "SourceClass",
    "Verdict",
    "View",
    "corpus_key",
    "is_of_model",
    "label",
    "parse_json",
    "parse_yaml",
    "reference",
    "references",
]
