"""Tells a person's data from what only looks like it, where the scan found something.

A reference may equal the name of a recipient, of an operator or of a source, or a number in a log. Such places are a
closed list: fields of facelake's own objects whose values by construction say nothing about a depicted person. An
object is scanned again without them; what is found then is the person's data.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.contracts import TABLES
from facelake.erase import Needles, scan

_OTHER_COLUMNS = {
    "ledger": ("purposes", "recorded_by", "kind", "scope", "covers", "source_class"),
    "images": ("source_id", "source_class", "corpus_file", "tag"),
    "admissions": ("source_id", "corpus_file", "purpose", "reason", "covers"),
    "faces": ("corpus_file", "model_digest"),
    "rejects": ("corpus_file", "model_digest", "reason"),
    "chunks": ("corpus_file", "model_digest", "admitted_digest"),
    "identities": ("purposes", "model_digest", "withdrawn_lineage", "status"),
    "memberships": ("withdrawn_lineage", "how"),
    "corrections": ("reviewer", "kind"),
    "galleries": ("purpose", "model_digest", "clustering", "withdrawn_lineage"),
    "leases": ("lease_id", "event", "recipient", "purpose", "target", "recorded_by"),
    "runs": ("run_id", "stage", "input_digest", "config_digest", "model_digest", "purpose", "counts", "details"),
    "corpus": ("source_id", "source_class"),
}
CORPUS_FILE = "name of a file of the operator's own corpus, which the lake has as long as the file has it"
"""kind of place; the file may be the person's, so that the operator is told"""
_FILE_COLUMN = "corpus_file"
_LOG_COLUMNS = ("add.stats", "add.stats_parsed", "metaData.schemaString")  # of a checkpoint of a log
_OTHER_FIELDS = frozenset(
    {
        "recipient",
        "recipients",
        "target",
        "recipients_pending",
        "reviewer",
        "recorded_by",
        "purpose",
        "purposes",
        "controller",
    }
    | {"target", "contact", "dpia", "host", "for", "stage", "stages", "unit", "run", "lake", "nonce", "started"}
)
_COLUMNS = frozenset(name for schema in TABLES.values() for name in schema.names)
_JSON = re.compile(r"(?:audit|register)/[^/]+\.json|(?:audit-head|lake|lease|ledger-lease|ledger-head)\.json")
_LOG = re.compile(r"(\w+)/_delta_log/\d+(?:\.\w+)*\.(json|parquet)")
_NUMBER = re.compile(r"(?<=^audit/)\d{8}(?=\.json$)|(?<=/_delta_log/)\d{20}(?=\.)")


@dataclass(slots=True)
class Hits:
    """What a scan found.

    Attributes:
        biometric: embeddings and pieces of photos, which are the person's data wherever they are.
        remains: hits by key that are the person's data, or may be.
        coincidences: hits by kind of place that are not.
        where: keys of the objects with coincidences, for the operator.
        copies: ids of photos that are the erased picture in another file, or whose metadata name the person.
    """

    biometric: Needles
    remains: dict[str, int] = field(default_factory=dict)
    coincidences: Counter[str] = field(default_factory=Counter)
    where: dict[str, str] = field(default_factory=dict)
    copies: set[str] = field(default_factory=set)

    def add(self, key: str, data: bytes, needles: Needles, sources: Collection[str]) -> None:
        """Sort the hits in one object by its content, which may be another than the tasks of the scan have read."""
        count = scan(key, data, needles)
        if not count:
            return
        name, rest, place = without_other_fields(key, data, needles, sources)
        left = max(scan(name, rest, needles), scan("", data, self.biometric)) if place else count
        if left:
            self.remains[key] = left
        else:
            place = CORPUS_FILE if _names_corpus_file(key, data, needles, sources) else place
            self.coincidences[place] += count
            self.where[key] = place

    def sort_out_copies(self, key: str, data: bytes, needles: Needles, *, kept: bool) -> None:
        """Name the photos of a corpus file that are the erased picture, or whose metadata name the person; if copies
        are kept, they are no remains.
        """
        copies, rest = copies_in(data, needles)
        self.copies |= copies
        if copies and kept:
            left = scan(key, rest, needles)
            self.remains = {k: v for k, v in self.remains.items() if k != key} | ({key: left} if left else {})

    def described(self) -> str:
        """Return the places of the remains, for an error message."""
        shown = ", ".join(f"{key} ({count})" for key, count in sorted(self.remains.items())[:5])
        more = f" and {len(self.remains) - 5} more objects" if len(self.remains) > 5 else ""
        photos = ", ".join(sorted(self.copies)[:5])
        copies = f"; photos that are the same picture or whose metadata name the person: {photos}" if photos else ""
        return f"{sum(self.remains.values())} remains in {shown}{more}{copies}"


def copies_in(data: bytes, needles: Needles) -> tuple[set[str], bytes]:
    """Return the ids of photos in a corpus file that are the erased picture in another file, such as one with another
    header, or whose metadata name the person; and the file without their bytes.
    """
    rows = pq.read_table(io.BytesIO(data))
    found = [bool(image) and scan("", image, needles) > 0 for image in rows["image"].to_pylist()]
    at = pa.array(found, pa.bool_())
    ids = {image for image in rows["image_id"].filter(at).to_pylist() if image}
    empty = pc.if_else(at, pa.scalar(None, rows["image"].type), rows["image"])
    sink = pa.BufferOutputStream()
    pq.write_table(rows.set_column(rows.column_names.index("image"), "image", empty), sink, write_statistics=False)
    return ids, sink.getvalue().to_pybytes()


def without_other_fields(key: str, data: bytes, needles: Needles, sources: Collection[str]) -> tuple[str, bytes, str]:
    """Return name and content of an object without the fields that say nothing about depicted people.

    Args:
        key: of the object.
        data: its content.
        needles: what was searched for; photo ids among them keep their beginning.
        sources: names of sources, which photo ids may begin with.

    Returns:
        The name and the content to scan again, and the kind of the fields; an empty kind if there are none.
    """
    name = _NUMBER.sub("", key)
    table = key.partition("/")[0]
    try:
        if log := _LOG.fullmatch(key):
            body = _log_json(data) if log[2] == "json" else _parquet(data, _LOG_COLUMNS, ())
            return name, body, "numbers in a table's log"
        if _JSON.fullmatch(key):
            return name, json.dumps(_without(_pairs(data))).encode(), "recipient, operator or number in a record"
        if key.endswith(".parquet") and (table in TABLES or table == "corpus"):
            columns = _OTHER_COLUMNS.get(table, ())
            own = [text.decode(errors="replace") for text in needles.texts] if sources else []
            return (
                name,
                _parquet(data, columns, sources, own),
                "name of a recipient, operator, source or purpose in a table",
            )
    except (ValueError, pa.ArrowException, OSError):
        pass  # damaged: everything in it counts
    return (name, data, "number of a record") if name != key else (name, data, "")


def _names_corpus_file(key: str, data: bytes, needles: Needles, sources: Collection[str]) -> bool:
    """Whether an object of which the other fields were left out names a file of the corpus."""
    columns = _OTHER_COLUMNS.get(key.partition("/")[0], ())
    if _FILE_COLUMN not in columns or not key.endswith(".parquet") or _LOG.fullmatch(key):
        return False
    kept = [name for name in columns if name != _FILE_COLUMN]
    own = [text.decode(errors="replace") for text in needles.texts] if sources else []
    return scan("", _parquet(data, kept, sources, own), needles) > 0


class _Fields(tuple[tuple[str, Any], ...]):
    """The fields of a JSON object, also those that have one name."""


def _pairs(data: bytes | str) -> Any:
    """Parse JSON with every field of its objects; a dict would keep only the last of a name."""
    try:
        return json.loads(data, object_pairs_hook=_Fields)
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def _without(value: Any) -> Any:
    """Return JSON without numbers and the fields of others; objects become lists of name and value."""
    if isinstance(value, _Fields):
        return [[key, _without(part)] for key, part in value if key not in _OTHER_FIELDS]
    if isinstance(value, list):
        return [_without(part) for part in value]
    if isinstance(value, int | float):
        return None
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.dumps(_without(_pairs(value)))
        except ValueError:
            return value
    return value


def _log_json(data: bytes) -> bytes:
    """Return the entries of a table's log without numbers, the schema, and the names of facelake's own columns."""
    entries = [_without_columns(_without(_pairs(line))) for line in data.splitlines() if line.strip()]
    return b"\n".join(json.dumps(entry).encode() for entry in entries)


def _without_columns(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError):
            return json.dumps(_without_columns(json.loads(value)))
    if not isinstance(value, list):
        return value
    if len(value) == 2 and value[0] == "schemaString":
        return []
    if len(value) == 2 and isinstance(value[0], str) and value[0] in _COLUMNS:
        return ["", _without_columns(value[1])]
    return [_without_columns(part) for part in value]


def _parquet(data: bytes, columns: Collection[str], sources: Collection[str], own: Collection[str] = ()) -> bytes:
    """Return a Parquet file without some columns, without the names of sources at the beginning of photo ids, and
    without ledger events of sources.
    """
    rows = pq.read_table(io.BytesIO(data))
    if any("." in column for column in columns):
        rows = rows.flatten()
    if {"scope", "key"} <= set(rows.column_names):
        source = pc.and_(
            pc.equal(rows["scope"], "source"), pc.is_in(rows["key"], pa.array(sorted(sources), pa.string()))
        )
        at = rows.column_names.index("key")
        rows = rows.set_column(at, "key", pc.if_else(source, pa.scalar("", rows["key"].type), rows["key"]))
    if "image_id" in rows.column_names and sources:
        begins = "^(?:" + "|".join(map(re.escape, sorted(sources, key=len, reverse=True))) + ")/"
        at = rows.column_names.index("image_id")
        others = pc.replace_substring_regex(rows["image_id"], begins, "/")
        is_own = pc.is_in(rows["image_id"], pa.array(sorted(own), rows["image_id"].type))
        rows = rows.set_column(at, "image_id", pc.if_else(is_own, rows["image_id"], others))
    kept = rows.select([name for name in rows.column_names if name not in columns])
    kept = kept.rename_columns([f"c{at}" if name in _COLUMNS else name for at, name in enumerate(kept.column_names)])
    sink = pa.BufferOutputStream()
    pq.write_table(kept, sink, write_statistics=False)
    body: bytes = sink.getvalue().to_pybytes()
    return body
