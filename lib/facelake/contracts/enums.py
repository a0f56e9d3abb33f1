"""The closed sets of values that tables store as text. The values are part of the stored format."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """Why admission refused an image, before it was decoded."""

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
    OTHER_PARTITION = "other_partition"
    EMPTIED = "emptied"


class Reject(StrEnum):
    """Why an admitted image has no face in the table."""

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
    NOT_A_FACE = "not_a_face"
    BAD_EMBEDDING = "bad_embedding"
    WORKER_DIED = "worker_died"


class View(StrEnum):
    """How the faces of a photo were found."""

    WHOLE = "whole"
    TILED = "tiles"
    TURNED = "turned"
    BRIGHTENED = "brightened"


class EventKind(StrEnum):
    """Kinds of ledger events."""

    GRANT = "grant"
    WITHDRAW = "withdraw"
    EXPIRE = "expire"


class Covers(StrEnum):
    """Whose faces in a photo a grant covers."""

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
    """What the key of a ledger event identifies."""

    SOURCE = "source"
    SUBJECT = "subject"


class Verdict(StrEnum):
    """A reviewer's correction of faces and identities; publish/corrections.py defines the effect of each."""

    MERGE = "merge"
    SPLIT = "split"
    REJECT = "reject"
    CONFIRM = "confirm"
    DISTINCT = "distinct"
    NOT_A_FACE = "not_a_face"
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
