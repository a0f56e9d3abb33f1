"""Compares a lake with the copy of its ledger outside of it, and puts back the events that a restored lake has lost."""

from __future__ import annotations

import pyarrow as pa

from facelake.contracts import EventKind
from facelake.errors import ConfigError, Corrupt
from facelake.events import Listener, Notice
from facelake.lake.data_files import plain
from facelake.lake.lake import Lake
from facelake.stages.admission.ledger import ledger_lease, replace_rows
from facelake.stages.admission.ledger_head import LASTING, Pin, copied_pin, ledger_rows, write_copy
from facelake.stages.core.audit import copied_head_fault, copy_head
from facelake.stages.core.context import Context

_NEXT = "`facelake ledger restore` puts back what the copy has of the ledger, and begins to record anew"


def compare_with_copy(lake: Lake, emit: Listener) -> None:
    """Check that the lake has everything that the copy outside of it has, and bring the copy up to date. A copy that is
    made of a lake with events is reported: with a disk that is not mounted, it would be another one.

    Raises:
        Corrupt: the lake is older than the copy.
        Retryable: the copy does not answer.
    """
    if lake.copy is None or not lake.can_hash:
        return
    rows, _ = ledger_rows(lake)
    lake.suppressed()
    lake.suppressed_looks()
    if fault := copied_head_fault(lake):
        raise Corrupt(f"the lake is older than the copy of its ledger: {fault}", where=lake.uri, next_step=_NEXT)
    pin, copied = Pin.of(rows), copied_pin(lake)
    if rows.num_rows and copied is None:
        text = (
            f"a copy of the ledger is made in {lake.copy.uri}, where none was. An older lake is recognised from now on"
        )
        emit(Notice("lake", text))
    if rows.num_rows and pin != copied:
        with ledger_lease(lake):  # an event may have been recorded meanwhile
            rows, _ = ledger_rows(lake)
            write_copy(lake, rows, Pin.of(rows))
    lake.copy_lists()
    copy_head(lake)


def put_back(context: Context) -> tuple[int, int]:
    """Put back the events of the ledger that only the copy has; returns their number, and how many are withdrawals.

    Events of both are put in the order in which they were recorded; of one that an erasure has changed, the copy's form
    is kept.

    Raises:
        ConfigError: there is no copy.
        Corrupt: the copy is damaged.
    """
    lake = context.lake
    if lake.copy is None:
        next_step = "name the folder of the copies in the config"
        raise ConfigError("the config names no copy of the ledger", where="governance.ledger_copy", next_step=next_step)
    if copied_pin(lake) is None:
        next_step = "check the setting; the copy is made by the next command that records or runs"
        raise ConfigError("there is no copy of this lake's ledger", where=lake.copy.uri, next_step=next_step)
    with ledger_lease(lake):
        before = lake["ledger"].read().sort_by("seq")
        copied = lake.copy.ledger(lake.salt).cast(plain(lake["ledger"].schema))
        after = _together(copied, before)
        context.check_lease()
        replace_rows(lake, before, after)
    return after.num_rows - before.num_rows, _withdrawals(after) - _withdrawals(before)


def _together(copied: pa.Table, here: pa.Table) -> pa.Table:
    """The events of two ledgers, each once, in the order in which they were recorded, numbered from 1."""
    rows = {_identity(row): row for row in (*here.to_pylist(), *copied.to_pylist())}
    ordered = sorted(rows.values(), key=lambda row: (row["recorded_at"], row["seq"]))
    numbered = [row | {"seq": number} for number, row in enumerate(ordered, start=1)]
    return pa.Table.from_pylist(numbered, schema=copied.schema)


def _identity(row: dict[str, object]) -> str:
    """What no erasure changes of an event, so that its two forms are recognised."""
    return repr([row[name] for name in LASTING])


def _withdrawals(rows: pa.Table) -> int:
    return sum(kind == EventKind.WITHDRAW for kind in rows["kind"].to_pylist())
