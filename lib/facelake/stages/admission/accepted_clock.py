"""Times that a clock wrote which was ahead, and that an operator has declared wrong.

Nothing is decided before the newest event or run, since a clock may have been set back. An event of the year 2099, from
a host with a wrong clock, would therefore end every legal basis for good. The operator can say that the clock is right
now: what is dated after it no longer counts as the time. Its content stays in force.

What was declared is in an audit record, which is signed; the file only says in which, so that not the whole trail has
to be read. By a file alone anybody who can write into the lake could make grants hold again that have ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import parse_json
from facelake.lake.lake import Lake
from facelake.stages.core.audit import append_audit, signed_body
from facelake.stages.core.context import Context

_KEY = "clock-accepted.json"
KIND = "clock-accepted"
"""kind of the audit record"""


@dataclass(frozen=True, slots=True)
class AcceptedClock:
    """Rows whose times do not count.

    Attributes:
        events: sequence numbers in the ledger.
        runs: of table `runs`, the run_id.
        leases: sequence numbers in table `leases`.
    """

    events: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    leases: tuple[int, ...] = ()

    @classmethod
    def of(cls, lake: Lake) -> AcceptedClock:
        """Read what was accepted; without a signed audit record, or of a damaged file, nothing: every time counts.

        By whom the record is signed is a matter of `facelake verify`.
        """
        try:
            body = signed_body(lake, str(parse_json(lake.store.read(_KEY))["record"]), KIND)
            return cls(tuple(body["events"]), tuple(body["runs"]), tuple(body["leases"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls()

    def as_json(self) -> dict[str, list[int] | list[str]]:
        """The fields by name."""
        return {"events": list(self.events), "runs": list(self.runs), "leases": list(self.leases)}


def accept_clock(context: Context, now: datetime) -> AcceptedClock:
    """Declare the clock right, and wrong what is dated after it; returns all that was ever declared wrong. Audited."""
    lake = context.lake
    before = AcceptedClock.of(lake)
    events = later(lake["ledger"].read(["seq", "recorded_at"]), "recorded_at", now)["seq"].to_pylist()
    runs = later(lake["runs"].read(["run_id", "started_at"]), "started_at", now)["run_id"].to_pylist()
    leases = later(lake["leases"].read(["seq", "recorded_at"]), "recorded_at", now)["seq"].to_pylist()
    accepted = AcceptedClock(
        tuple(sorted({*before.events, *events})),
        tuple(sorted({*before.runs, *runs})),
        tuple(sorted({*before.leases, *leases})),
    )
    record = append_audit(lake, KIND, {"clock": now.isoformat()} | accepted.as_json(), context.sign)
    lake.store.write(_KEY, json.dumps({"record": record}).encode())
    return accepted


def later(rows: pa.Table, column: str, now: datetime) -> pa.Table:
    """Return the rows whose time is after now."""
    return rows.filter(pc.greater(rows[column], pa.scalar(now, rows.schema.field(column).type)))


def newest(rows: pa.Table, column: str, key: str, left_out: tuple[int, ...] | tuple[str, ...]) -> datetime | None:
    """Return the newest time of rows, without those of the given keys; None if there is none."""
    if left_out:
        rows = rows.filter(pc.invert(pc.is_in(rows[key], pa.array(left_out, rows.schema.field(key).type))))
    moment: datetime | None = pc.max(rows[column]).as_py()
    return moment
