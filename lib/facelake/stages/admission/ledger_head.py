"""Pins the ledger: the number of its events and a digest over them, in `ledger-head.json`.

A table's version number does not show that older content was put back and one more event appended. The pin does: the
events of the table must have the pinned digest. Before an append or a rewriting it names the states before and after,
so that a crash in between leaves one of them. It has a MAC by the key of the lake's hashes: without the key nobody adds
an event. Not detected is the restoration of an older table with its pin; therefore every record of processing in the
audit trail holds the pin of its time, and `facelake verify` compares. An erasure replaces names in
events; a second digest is over the columns that it leaves as they are, so that earlier pins still say something.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.errors import Corrupt, Retryable
from facelake.lake.lake import Lake
from facelake.lake.tables import Snapshot

HEAD = "ledger-head.json"
_ATTEMPTS = 10
LASTING = ["seq", "kind", "scope", "purposes", "covers", "source_class", "valid_from", "valid_until", "recorded_at"]
"""columns that no erasure changes"""
_CHANGED = "the ledger was changed or rolled back: its events are not those that were recorded"
_ADDED = "the ledger has events that no command has recorded"
_OLDER = "the lake is older than the copy of its ledger: "
_NEXT_COPY = "`facelake ledger restore` puts back what the copy has; `facelake ledger accept` gives it up"
_NEXT = "restore the newest ledger from a backup, or accept this one with `facelake ledger accept`; nothing was changed"


@dataclass(frozen=True, slots=True)
class Pin:
    """The number of events, the digests that their rows may have, and that of the columns that no erasure changes."""

    events: int
    digests: tuple[str, ...]
    lasting: str

    @classmethod
    def of(cls, rows: pa.Table) -> Pin:
        """Return the pin of all rows."""
        return cls(rows.num_rows, (events_digest(rows),), events_digest(rows.select(LASTING)))

    @classmethod
    def from_json(cls, body: Any) -> Pin:
        """Return the pin that was written as JSON.

        Raises:
            ValueError, KeyError, TypeError, OverflowError: it is not one.
        """
        return cls(int(body["events"]), tuple(map(str, body["digests"])), str(body["lasting"]))

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {"events": self.events, "digests": list(self.digests), "lasting": self.lasting}

    def fault(self, rows: pa.Table) -> str | None:
        """Return what is wrong with the rows of a ledger, in order of seq; None if they begin with what is pinned."""
        return self.lasting_fault(rows) or (
            None if events_digest(rows.slice(0, self.events)) in self.digests else _CHANGED
        )

    def lasting_fault(self, rows: pa.Table) -> str | None:
        """Return what is wrong with the rows of a ledger that an erasure may have rewritten since; None for nothing."""
        if rows.num_rows < self.events:
            return f"the ledger was lost or reset: {self.events} events were recorded, it has {rows.num_rows}"
        same = events_digest(rows.slice(0, self.events).select(LASTING)) == self.lasting
        return None if same else _CHANGED


def events_digest(rows: pa.Table) -> str:
    """Return the SHA-256 (hex) over every value of the rows, in their order."""
    digest = hashlib.sha256()
    for name in rows.column_names:
        values = _text(rows[name])
        lengths = pc.fill_null(pc.binary_length(values), -1)
        digest.update(name.encode() + np.ascontiguousarray(lengths.to_numpy(), np.int64).tobytes())
        digest.update("".join(value or "" for value in values.to_pylist()).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_list(column.type):
        return pc.binary_join(column, "\x1f")
    return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).cast(pa.string())


def read_pins(lake: Lake) -> tuple[Pin, ...]:
    """Return the states that the table may be in: one, or those before and after a change; empty if the ledger was
    never written.

    Raises:
        Corrupt: the pin is damaged, or was not written with the lake's key (which is not checked without the key).
    """
    where = f"{lake.uri}/{HEAD}"
    try:
        body = json.loads(lake.store.read(HEAD))
        pins, mac = tuple(map(Pin.from_json, body["pins"])), str(body["mac"])
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError, OverflowError) as err:
        raise Corrupt("the ledger's pin is damaged", where=where, next_step=_NEXT) from err
    if lake.can_hash and not hmac.compare_digest(mac.encode(), _mac(lake, pins).encode()):
        what = "the ledger's pin was written without the key of this lake's hashes, or lake.json was replaced"
        raise Corrupt(
            what, where=where, next_step=f"restore lake.json from a backup if it is another one; if not, {_NEXT}"
        )
    return pins


def _mac(lake: Lake, pins: Sequence[Pin]) -> str:
    return lake.keyed_hash(json.dumps(["ledger", *(pin.as_json() for pin in pins)]))


def pin_for_audit(lake: Lake) -> dict[str, Any]:
    """Return the pins of the ledger and of the suppression lists, without those that were never written, and the name
    of the lake, as parts of an audit record.
    """
    rows, lists = ledger_rows(lake)[0], lake.suppression_pins()
    pin = Pin.of(rows) if read_pins(lake) else None
    pins = ({"ledger": pin.as_json()} if pin else {}) | ({"suppression": lists} if lists else {})
    return {"lake": lake.name} | pins


def write_pin(lake: Lake, *pins: Pin) -> None:
    """Write the pin; several: the states before and after a change that is about to be made. Needs the ledger's
    lease.
    """
    body = {"pins": [pin.as_json() for pin in pins], "mac": _mac(lake, pins)}
    lake.store.write(HEAD, json.dumps(body).encode())


def ledger_rows(lake: Lake) -> tuple[pa.Table, Snapshot]:
    """Return the events in order, and the snapshot that they were read from.

    Raises:
        Corrupt: they are not the pinned events, or the copy outside of the lake has others.
    """
    fault, next_step = None, _NEXT
    for _ in range(_ATTEMPTS):  # an event may be recorded, or the table be rewritten, between the two reads
        pins = read_pins(lake)
        snapshot = lake["ledger"].snapshot()
        rows = lake["ledger"].read(snapshot=snapshot).sort_by("seq")
        fault, next_step = _fault(pins, rows), _NEXT
        if fault is None:
            fault, next_step = copy_fault(lake, rows), _NEXT_COPY
        if fault is None:
            return rows, snapshot
        if read_pins(lake) == pins:
            break
    raise Corrupt(str(fault), where=f"{lake.uri}/ledger", next_step=next_step)


def copied_pin(lake: Lake) -> Pin | None:
    """Return the pin of the copy outside of the lake; None if there is no copy, or nothing in it yet.

    Raises:
        Corrupt: it is damaged.
    """
    if lake.copy is None or (body := lake.copy.pin()) is None:
        return None
    try:
        return Pin.from_json(body)
    except (ValueError, KeyError, TypeError, OverflowError) as err:
        raise lake.copy.damaged() from err


def copy_fault(lake: Lake, rows: pa.Table) -> str | None:
    """Return what the rows of the ledger lack of the copy outside of the lake; None for nothing.

    Compared are columns that no erasure changes: one that was killed leaves the copy as it was before.
    """
    pin = copied_pin(lake)
    fault = pin.lasting_fault(rows) if pin else None
    return f"{_OLDER}{fault}" if fault else None


def write_copy(lake: Lake, rows: pa.Table, pin: Pin, *, appended: bool = False) -> None:
    """Write the ledger's rows and their pin to the copy outside of the lake. Needs the ledger's lease.

    Args:
        lake: the lake.
        rows: all events in the order of seq.
        pin: of the rows.
        appended: whether the former ones are as before; else an erasure may have replaced names in them, and what a
            versioned bucket keeps of them goes.

    Raises:
        Retryable: the place of the copy does not answer. What the lake has is recorded.
    """
    if lake.copy is None:
        return
    try:
        lake.copy.write_ledger(rows, pin.as_json(), lake.salt)
        if not appended:
            lake.copy.drop_old_versions()
    except Retryable as err:
        what = f"the lake has recorded it, and {err.what}"
        raise Retryable(what, where=err.where, next_step=err.next_step) from err


def _fault(pins: Sequence[Pin], rows: pa.Table) -> str | None:
    """Return what is wrong with the rows of a ledger; None if they are one of the pinned states."""
    if not pins:
        return "the ledger's pin is missing" if rows.num_rows else None
    faults = [pin.fault(rows) or (None if pin.events == rows.num_rows else _ADDED) for pin in pins]
    return None if None in faults else faults[-1]
