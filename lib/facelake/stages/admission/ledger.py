"""The table `ledger`: appends events and reads them for the admission rules."""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import MAXYEAR, UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from facelake.admit import Event, Ledger
from facelake.contracts import Covers, EventKind, Scope, SourceClass, reference
from facelake.errors import ConfigError
from facelake.lake.data_files import plain
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease
from facelake.stages.admission.accepted_clock import AcceptedClock, newest
from facelake.stages.admission.ledger_head import Pin, ledger_rows, write_copy, write_pin

_KEPT_YEARS = 3
"""Illinois BIPA, 740 ILCS 14/15(a): destroyed when the purpose is met, or 3 years after the last interaction."""
_LEDGER_WAIT_S = 120.0
_CLOCK_TOLERANCE = timedelta(days=1)
_DATES = ("valid_from", "valid_until", "last_contact", "destroy_by")


@dataclass(frozen=True, slots=True)
class Entry:
    """A legal-basis record about one source or subject, before it becomes an event of the ledger.

    Key and purposes are kept in the spelling of `reference`.
    """

    kind: EventKind
    scope: Scope
    key: str
    purposes: tuple[str, ...] = ()
    basis: str = ""
    exemption: str = ""
    evidence_sha256: str | None = None
    covers: Covers | None = None
    source_class: SourceClass | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    last_contact: datetime | None = None
    destroy_by: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", reference(self.key))
        object.__setattr__(self, "purposes", tuple(map(reference, self.purposes)))
        for name in _DATES:
            object.__setattr__(self, name, in_utc(getattr(self, name), name))

    def check(self) -> None:
        """Check that the record is complete and consistent.

        Raises:
            ConfigError: a grant without basis, purpose or key, or one that ends before it begins.
        """
        if not self.key:
            what = f"a {self.kind} needs a source or a subject"
            raise ConfigError(what, where="ledger", next_step="give --source or --subject")
        if self.kind is EventKind.GRANT and (not self.basis.strip() or not self.purposes):
            what = "a grant needs a basis and at least one purpose"
            raise ConfigError(what, where="ledger", next_step="give --basis and --purpose")
        if not all(any(c.isalnum() for c in name) for name in self.purposes):
            next_step = "name the purpose; a withdrawal without purposes is for all of them"
            raise ConfigError("a purpose is empty, or only a sign such as *", where="ledger", next_step=next_step)
        if self.last_contact and self.last_contact > datetime.now(UTC) + _CLOCK_TOLERANCE:
            what = f"the last contact, {self.last_contact:%F}, is in the future, and would put off the destruction"
            raise ConfigError(what, where="ledger", next_step="give the date of the last contact that took place")
        if self.valid_from and self.valid_until and self.valid_until <= self.valid_from:
            raise ConfigError("the grant ends before it begins", where="ledger", next_step="correct --from and --until")

    def row(self, seq: int, now: datetime) -> dict[str, Any]:
        """The table row of the event. `destroy_by` of a grant is the end of its purpose, at latest 3 years after
        contact.
        """
        ends = [moment for moment in (self.destroy_by, self.valid_until) if moment]
        if self.kind is EventKind.GRANT:
            ends.append(_years_after(self.last_contact or now, _KEPT_YEARS))
        return asdict(self) | {
            "seq": seq,
            "kind": str(self.kind),
            "scope": str(self.scope),
            "purposes": sorted(set(self.purposes)),
            "exemption": self.exemption or None,
            "covers": str(self.covers) if self.covers else None,
            "source_class": str(self.source_class) if self.source_class else None,
            "last_contact": self.last_contact or (now if self.kind is EventKind.GRANT else None),
            "destroy_by": min(ends) if ends else None,
            "recorded_at": now,
            "recorded_by": getpass.getuser(),
        }


def in_utc(moment: datetime | None, name: str) -> datetime | None:
    """Return a time in UTC; without a zone it is taken to be UTC.

    Raises:
        ConfigError: in UTC it is before the year 1 or after 9999, which nothing that reads the ledger could represent.
    """
    if moment is None:
        return None
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as err:
        what = f"{name} {moment.isoformat()} is out of range"
        raise ConfigError(what, where="ledger", next_step="give a date between the years 1 and 9999") from err


def evidence_digest(evidence: str) -> str | None:
    """SHA-256 of the reference of a written release, which is what the ledger keeps of it; None for none."""
    return hashlib.sha256(evidence.encode()).hexdigest() if evidence else None


def record(lake: Lake, entries: Sequence[Entry]) -> int:
    """Append events in one commit; returns the new version of the ledger. May run during a nightly run, which sees
    them.

    Raises:
        ConfigError: an invalid entry; nothing was recorded.
        Refused: another process kept the ledger's lease for two minutes.
    """
    if not entries:
        raise ConfigError("nothing to record", where="ledger", next_step="give --source or --subject")
    for entry in entries:
        entry.check()
    now = datetime.now(UTC)
    with ledger_lease(lake):
        rows, _ = ledger_rows(lake)
        seq, schema = _next_seq(rows), plain(lake["ledger"].schema)
        added = [entry.row(seq + i, now) for i, entry in enumerate(entries)]
        together = pa.concat_tables([rows, pa.Table.from_pylist(added, schema=schema)])
        after = Pin.of(together)
        write_pin(lake, Pin.of(rows), after)  # also for the first event, so that a missing pin is always a fault
        version = lake["ledger"].append(added)
        write_pin(lake, after)
        write_copy(lake, together, after, appended=True)
        return version


def rewrite_rows(lake: Lake, rows: list[dict[str, Any]]) -> None:
    """Replace the ledger's rows, as an erasure does to remove names. Needs the ledger's lease."""
    table = lake["ledger"]
    after = pa.Table.from_pylist(rows, schema=plain(table.schema)).sort_by("seq")
    replace_rows(lake, ledger_rows(lake)[0], after)


def replace_rows(lake: Lake, before: pa.Table, after: pa.Table) -> None:
    """Replace all events, in the order of seq, by others. Needs the ledger's lease."""
    pin = Pin.of(after)
    write_pin(lake, Pin.of(before), pin)
    lake["ledger"].replace_all(after)
    write_pin(lake, pin)
    write_copy(lake, after, pin)


def accept_ledger(lake: Lake) -> int:
    """Pin the ledger as it is, after it was restored from a backup; returns the number of its events."""
    with ledger_lease(lake):
        rows = lake["ledger"].read().sort_by("seq")
        pin = Pin.of(rows)
        write_pin(lake, pin)
        write_copy(lake, rows, pin)
        return pin.events


def ledger_lease(lake: Lake) -> Lease:
    """The lease for appending to or rewriting the ledger; held briefly, in addition to the lake's own lease."""
    return Lease(lake.store, "ledger", wait_s=_LEDGER_WAIT_S, key="ledger-lease.json")


def _years_after(moment: datetime, years: int) -> datetime:
    year = min(moment.year + years, MAXYEAR)
    try:
        return moment.replace(year=year)
    except ValueError:  # 29 February
        return moment.replace(year=year, day=28)


def _next_seq(rows: pa.Table) -> int:
    """The sequence number of the next event."""
    return 1 + (rows["seq"][-1].as_py() if rows.num_rows else 0)


def newest_moment(lake: Lake, rows: pa.Table) -> datetime | None:
    """Return when the newest event of the ledger was recorded or the newest stage began; None if there is neither.

    Times that an operator has declared wrong do not count (accepted_clock.py).
    """
    accepted = AcceptedClock.of(lake)
    runs = lake["runs"].read(["run_id", "started_at"])
    moments = newest(rows, "recorded_at", "seq", accepted.events), newest(runs, "started_at", "run_id", accepted.runs)
    return max((moment.astimezone(UTC) for moment in moments if moment), default=None)


def present_time(lake: Lake, rows: pa.Table, now: datetime) -> datetime:
    """Return the moment at which legal bases are checked: now, but never before an event of the ledger or a run.

    A clock that was set back would otherwise allow what has expired, and what a run has removed for that reason.
    """
    return max(now, newest_moment(lake, rows) or now)


def read_ledger(lake: Lake) -> Ledger:
    """All events of the ledger.

    Raises:
        Corrupt: the ledger is not the one that was recorded.
    """
    return ledger_of(ledger_rows(lake)[0])


def ledger_of(rows: pa.Table) -> Ledger:
    """The ledger of the rows of the table."""
    return Ledger(
        Event(
            row["seq"],
            EventKind(row["kind"]),
            Scope(row["scope"]),
            row["key"],
            frozenset(row["purposes"] or ()),
            row["valid_from"],
            row["valid_until"],
            row["destroy_by"],
            Covers(row["covers"]) if row["covers"] else None,
            row["source_class"],
        )
        for row in rows.to_pylist()
    )
