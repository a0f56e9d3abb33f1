"""Imports ledger events from a CSV or Parquet file: valid lines are recorded in one commit, others are reported.

Columns: `kind` (grant by default, or withdraw, expire), `source` or `subject` (or `scope` and `key`), `purposes`
(separated by `;`), `basis`, `exemption`, `evidence` (a reference; only its hash is kept) or `evidence_sha256`,
`covers`, `source_class`, `valid_from`, `valid_until`, `last_contact`, `destroy_by` (ISO dates; without a zone: UTC).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import Covers, EventKind, Scope, SourceClass
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.admission.ledger import Entry, evidence_digest, record

COLUMNS = (
    "kind", "source", "subject", "scope", "key", "purposes", "basis", "exemption", "evidence", "evidence_sha256",
    "covers", "source_class", "valid_from", "valid_until", "last_contact", "destroy_by",
)  # fmt: skip
_FIELD_CHARS = 100_000
K = TypeVar("K", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that was not recorded."""

    line: int
    """counted from 1; of a CSV file the header is line 1"""
    problem: str


def import_ledger(lake: Lake, path: str) -> tuple[int, int, list[RejectedLine]]:
    """Record the events of a file.

    Returns:
        The number of events recorded, the number that the ledger already had, and the rejected lines.


    Raises:
        ConfigError: the file cannot be read or has unknown columns; nothing was recorded.
    """
    entries: list[Entry] = []
    rejected: list[RejectedLine] = []
    for line, row in _lines(path):
        try:
            entry = _entry(row)
            entry.check()
            entries.append(entry)
        except (ValueError, ConfigError) as err:
            rejected.append(RejectedLine(line, err.what if isinstance(err, ConfigError) else str(err)))
    present = {_identity(row) for row in lake["ledger"].read().to_pylist()}
    fresh = {_identity(entry.row(0, datetime.now(UTC))): entry for entry in entries}
    new = [entry for name, entry in fresh.items() if name not in present]
    if new:
        record(lake, new)
    return len(new), len(entries) - len(new), rejected


def _identity(row: Mapping[str, Any]) -> tuple[object, ...]:
    """The fields whose equality makes two events the same, whenever they were recorded."""
    names = ("kind", "scope", "key", "basis", "exemption", "evidence_sha256", "covers", "source_class")
    moments = ("valid_from", "valid_until")
    return (*(row[name] for name in names), tuple(row["purposes"] or ()), *(row[name] for name in moments))


def _lines(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError("no such file", where=path, next_step="give a CSV or Parquet file")
    try:
        rows = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
        yield from rows
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as err:
        what = f"cannot be read: {str(err).splitlines()[0]}"
        raise ConfigError(what, where=path, next_step="give a CSV file in UTF-8, or Parquet") from err


def _csv(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    csv.field_size_limit(_FIELD_CHARS)
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text)
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, str(file))
        for values in reader:
            if not values:
                continue
            row = dict(zip(header, (value.strip() for value in values), strict=False))
            if len(values) != len(header):
                row = {"": f"{len(values)} fields, the header has {len(header)}"}
            yield reader.line_num, row


def _parquet(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with pq.ParquetFile(file) as parquet:
        _check_columns(parquet.schema_arrow.names, str(file))
        line = 0
        for batch in parquet.iter_batches():
            for row in batch.to_pylist():
                line += 1
                yield line, {name: _text(value) for name, value in row.items()}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ";".join(map(str, value))
    if isinstance(value, datetime | date):
        return value.isoformat()
    return "" if value is None else str(value).strip()


def _check_columns(names: list[str], where: str) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or not {"source", "subject", "key"} & set(names):
        what = f"unknown column {unknown[0]!r}" if unknown else "no column source, subject or key"
        raise ConfigError(what, where=where, next_step=f"use the columns {', '.join(COLUMNS)}")
    if len(set(names)) != len(names):
        raise ConfigError("a column occurs twice", where=where, next_step="keep one of them")


def _entry(row: Mapping[str, str]) -> Entry:
    """The entry of a line; raises ValueError with the problem of the line."""
    if "" in row:
        raise ValueError(row[""])
    scope, key = _scope_and_key(row)
    evidence, digest = row.get("evidence", ""), row.get("evidence_sha256", "").lower()
    if digest and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError("evidence_sha256 is not a SHA-256 digest")
    if digest and evidence and digest != evidence_digest(evidence):
        raise ValueError("evidence and evidence_sha256 do not agree")
    return Entry(
        _one_of(EventKind, row.get("kind") or "grant", "kind"),
        scope,
        key,
        tuple(part.strip() for part in re.split(r"[;|,]", row.get("purposes", "")) if part.strip()),
        row.get("basis", ""),
        row.get("exemption", ""),
        digest or evidence_digest(evidence),
        _one_of(Covers, row["covers"], "covers") if row.get("covers") else None,
        _one_of(SourceClass, row["source_class"], "source_class") if row.get("source_class") else None,
        *(_moment(row.get(name, ""), name) for name in ("valid_from", "valid_until", "last_contact", "destroy_by")),
    )


def _scope_and_key(row: Mapping[str, str]) -> tuple[Scope, str]:
    named = [(scope, row[scope]) for scope in Scope if row.get(scope)]
    if row.get("key"):
        named.append((_one_of(Scope, row.get("scope", ""), "scope"), row["key"]))
    if len(named) != 1:
        raise ValueError("names no source or subject" if not named else "names more than one source or subject")
    return named[0]


def _one_of(kind: type[K], text: str, name: str) -> K:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} {text!r} is not one of {', '.join(kind)}") from None


def _moment(text: str, name: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} {text!r} is not an ISO date") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
