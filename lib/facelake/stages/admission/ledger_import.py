"""Imports ledger events from a CSV or Parquet file: valid lines are recorded in one commit, others are reported.

Columns: `kind` (grant by default, or withdraw, expire), `source` or `subject` (or `scope` and `key`), `purposes`
(separated by `;`), `basis`, `exemption`, `evidence` (a reference; only its hash is kept) or `evidence_sha256`,
`covers`, `source_class`, `valid_from`, `valid_until`, `last_contact`, `destroy_by` (ISO dates; without a zone: UTC).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import Covers, EventKind, Scope, SourceClass
from facelake.csv_columns import other_separator
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.admission.event_effects import what_ends
from facelake.stages.admission.known_references import (
    FLAG,
    Known,
    barred,
    doubts,
    erased_before,
    without_photos,
)
from facelake.stages.admission.ledger import Entry, evidence_digest, ledger_of, record
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.lifted_withdrawals import lifted, lifted_by_lines, lifted_in_file, lifted_in_words

COLUMNS = (
    "kind", "source", "subject", "scope", "key", "purposes", "basis", "exemption", "evidence", "evidence_sha256",
    "covers", "source_class", "valid_from", "valid_until", "last_contact", "destroy_by",
)  # fmt: skip
_FIELD_CHARS = 100_000
K = TypeVar("K", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that was not recorded, or that was recorded and calls for a remark."""

    line: int
    """counted from 1; of a CSV file the header is line 1"""
    problem: str


class ImportedLedger(NamedTuple):
    """What was done with the lines of a file.

    Attributes:
        recorded: the number of events recorded.
        present: the number that the ledger already had.
        rejected: lines that were not recorded.
        questioned: recorded lines that may be mistyped (their source or purpose is unknown, or their subject resembles
            a known one), that end a grant, or that lift a withdrawal, with what that does.
        without_photos: subjects of recorded grants that no photo names, if photos name subjects.
    """

    recorded: int
    present: int
    rejected: list[RejectedLine]
    questioned: list[RejectedLine]
    without_photos: list[str]


def import_ledger(
    lake: Lake, path: str, known: Known | None = None, *, lift_withdrawals: bool = False
) -> ImportedLedger:
    """Record the events of a file that the ledger does not have yet.

    An event is there already if it is what the ledger last recorded of its source or subject; so a withdrawal that a
    later grant lifted is recorded again. A grant that a later event ended is not: a file that is imported every day
    would otherwise lift every withdrawal. Its line is rejected, since the file and the ledger disagree. So is a grant
    that is new, as when a list has a new end date, of a source or subject that has withdrawn.

    Args:
        lake: the lake.
        path: of the file.
        known: what the lake has; lines with references that match nothing are then rejected. None: they are recorded.
        lift_withdrawals: record new grants of sources and subjects that have withdrawn.

    Returns:
        The number of events recorded, the number that the ledger already had, and the rejected and questioned lines.

    Raises:
        ConfigError: the file cannot be read or has unknown columns; nothing was recorded.
    """
    lines: dict[int, Entry] = {}
    rejected: list[RejectedLine] = []
    questioned: list[RejectedLine] = []
    for line, row in _lines(path):
        try:
            entry = _entry(row)
            entry.check()
            refused, doubtful = doubts(known, [entry]) if known is not None else ([], [])
            refused += [item for item in doubtful if item.same]  # nobody is asked about a line
            if refused:
                raise ValueError(f"{refused[0]}; correct it or give {FLAG}")
            for text in barred(known, [entry]) if known is not None else ():
                raise ValueError(f"{text}; correct it or give {FLAG}")
            questioned += [RejectedLine(line, str(item)) for item in doubtful]
            lines[line] = entry
        except (ValueError, ConfigError) as err:
            rejected.append(RejectedLine(line, err.what if isinstance(err, ConfigError) else str(err)))
    erased = erased_before(lake, list(lines.values()))
    rejected += [RejectedLine(line, erased[entry]) for line, entry in lines.items() if entry in erased]
    lines = {line: entry for line, entry in lines.items() if entry not in erased}
    rows, now = ledger_rows(lake)[0], datetime.now(UTC)
    lifting = {} if lift_withdrawals else lifted_by_lines(rows, lines, now)
    new, present = _Histories.of(rows.to_pylist()).sort_out(lines, rejected, lifting)
    entries = list(new.values())
    lifts = lifted(rows, entries, now) if lift_withdrawals else {}
    ending = dict(what_ends(ledger_of(rows), entries, now)) if new else {}
    for line, entry in new.items():
        if entry in lifts:
            questioned.append(RejectedLine(line, lifted_in_words(entry, lifts[entry])))
        if entry in ending:
            questioned.append(RejectedLine(line, ending[entry]))
    questioned += [RejectedLine(line, text) for line, text in lifted_in_file(new, now)]
    missing = [entry.key for entry, _ in without_photos(known, entries)] if known is not None else []
    if new:
        record(lake, entries)
    rejected.sort(key=lambda item: item.line)
    return ImportedLedger(len(new), present, rejected, questioned, sorted(set(missing)))


@dataclass(frozen=True, slots=True)
class _Content:
    """What an event states, whenever it was recorded; dates that a line leaves open are None."""

    kind: str
    stated: tuple[object, ...]
    last_contact: datetime | None
    destroy_by: datetime | None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> _Content:
        """Of a row of the ledger."""
        names = ("basis", "exemption", "evidence_sha256", "covers", "source_class", "valid_from", "valid_until")
        stated = (*(row[name] for name in names), tuple(row["purposes"] or ()))
        return cls(row["kind"], stated, row["last_contact"], row["destroy_by"])

    @classmethod
    def of_entry(cls, entry: Entry) -> _Content:
        """Of a line; the dates that are computed from the time of recording are left open."""
        row = entry.row(0, datetime.now(UTC))
        dated = entry.last_contact or entry.destroy_by
        return cls.of_row(
            row | {"last_contact": entry.last_contact, "destroy_by": row["destroy_by"] if dated else None}
        )

    def equals(self, other: _Content) -> bool:
        """Return whether both state the same, as far as both state it."""
        dates = (self.last_contact, other.last_contact), (self.destroy_by, other.destroy_by)
        same = all(a is None or b is None or a == b for a, b in dates)
        return same and (self.kind, self.stated) == (other.kind, other.stated)


@dataclass(slots=True)
class _History:
    """The events of one source or subject.

    Attributes:
        events: the recorded ones, in order.
        recorded: how many of them the ledger has; the others are of the file.
    """

    events: list[_Content] = field(default_factory=list)
    recorded: int = 0

    def superseded(self, event: _Content, *, recorded: bool = False) -> bool | None:
        """Return whether a later event changed what the last equal event said; None if there is no equal one.

        A grant is changed by every other event, a withdrawal or expiry by grants only. With `recorded`, only by events
        that the ledger has.
        """
        equal = [at for at, recorded in enumerate(self.events) if event.equals(recorded)]
        if not equal:
            return None
        changing = set(EventKind) if event.kind == EventKind.GRANT else {EventKind.GRANT}
        until = self.recorded if recorded else len(self.events)
        return any(later.kind in changing for later in self.events[equal[-1] + 1 : until])

    def repeated(self, lines: Sequence[_Content]) -> int:
        """Return how many lines, from the first, repeat the end of the history: the longest such beginning."""
        for count in range(min(len(lines), len(self.events)), 0, -1):
            if all(map(_Content.equals, lines[:count], self.events[-count:])):
                return count
        return 0


@dataclass(slots=True)
class _Histories:
    """The events by source or subject."""

    by_key: dict[tuple[str, str], _History] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> _Histories:
        """From the ledger's rows in order."""
        histories = cls()
        for row in rows:
            history = histories._of_key(row["scope"], row["key"])
            history.events.append(_Content.of_row(row))
            history.recorded += 1
        return histories

    def _of_key(self, scope: str, key: str) -> _History:
        return self.by_key.setdefault((scope, key), _History())

    def sort_out(
        self, lines: Mapping[int, Entry], rejected: list[RejectedLine], lifting: Mapping[int, str]
    ) -> tuple[dict[int, Entry], int]:
        """Return the entries to record, by line, and how many the ledger has; appends to the rejected lines.

        Args:
            lines: the entries by line.
            rejected: is appended to.
            lifting: the problem of each line that would lift a withdrawal.
        """
        contents = {line: _Content.of_entry(entry) for line, entry in lines.items()}
        repeated = self._repeated(lines, contents)
        new: dict[int, Entry] = {}
        present = 0
        for line, entry in lines.items():
            history, content = self._of_key(entry.scope, entry.key), contents[line]
            superseded = history.superseded(content)
            if line in repeated or superseded is False:
                present += 1
            elif entry.kind is EventKind.GRANT and history.superseded(content, recorded=True):
                problem = "the ledger has this grant and a later event that ended or replaced it; a repeated line does "
                problem += "not bring it back: record a new one (`facelake ledger grant`) or remove the line"
                rejected.append(RejectedLine(line, problem))
            elif line in lifting:
                rejected.append(RejectedLine(line, lifting[line]))
            else:
                history.events.append(content)
                new[line] = entry
        return new, present

    def _repeated(self, lines: Mapping[int, Entry], contents: Mapping[int, _Content]) -> set[int]:
        """Return the lines that repeat what the ledger last recorded of their key."""
        by_key: dict[tuple[str, str], list[int]] = {}
        for line, entry in lines.items():
            by_key.setdefault((entry.scope, entry.key), []).append(line)
        repeated: set[int] = set()
        for (scope, key), numbers in by_key.items():
            count = self._of_key(scope, key).repeated([contents[line] for line in numbers])
            repeated.update(numbers[:count])
        return repeated


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
        reader = csv.reader(text, strict=True)  # a quote that is not closed would hide the lines after it
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
    if problem := other_separator(names):
        raise ConfigError(problem, where=where, next_step="save the file with commas between the columns")
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
