"""What the present ledger forbids although the last run still processed it: withdrawals and ended grants since then.

The next run removes those photos' faces. Until then nothing of the persons may leave the lake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit.rules import Decision, Ledger, decide
from facelake.contracts import Bool, Covers, EventKind, Refusal, Scope, label, reference, references
from facelake.errors import LedgerMoved
from facelake.lake.lake import Lake
from facelake.publish.leases import Ending
from facelake.stages.admission.ledger import ledger_lease, ledger_of, present_time
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.same_photos import CONTENT, withdrawn_contents
from facelake.stages.core.known_ids import KnownIds

_COLUMNS = ["image_id", "source_id", "subject_ref", "admitted", "reason", "covers", CONTENT]
_NO_PHOTO = [str(reason) for reason in (Refusal.DUPLICATE_ID, Refusal.NO_ID, Refusal.EMPTIED)]  # rows, not photos
_DATES = ("valid_from", "valid_until", "destroy_by")
_UNKNOWN = "\ufffd"  # stands for subjects without events
_ENDING = (EventKind.WITHDRAW, EventKind.EXPIRE)


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The ledger and the suppression list as read at one time.

    Attributes:
        lake: to which they belong.
        rows: of the ledger table, by seq.
        version: Delta version of the ledger.
        suppressed: keyed hashes of what was erased.
    """

    lake: Lake
    rows: pa.Table
    version: int
    suppressed: frozenset[str]

    @classmethod
    def of(cls, lake: Lake) -> LedgerState:
        """Read both.

        Raises:
            Corrupt: the ledger is not the one that was recorded.
        """
        rows, snapshot = ledger_rows(lake)
        return cls(lake, rows, snapshot.version, lake.suppressed())

    @property
    def newest_seq(self) -> int:
        """Sequence number of the newest event; 0 for none."""
        return int(pc.max(self.rows["seq"]).as_py() or 0)

    def standing_at(self, now: datetime) -> str:
        """Return a text that changes when an event is recorded, or takes effect, begins or ends by its date."""
        moment = present_time(self.lake, self.rows, now)
        passed = [(pc.sum(pc.less_equal(self.rows[name], moment)).as_py() or 0) for name in _DATES]
        return "-".join(map(str, (self.version, *passed)))

    def check_unchanged(self) -> None:
        """Check that nothing was recorded since; call before data leaves.

        Raises:
            LedgerMoved: an event was recorded.
        """
        with ledger_lease(self.lake):
            if self.lake["ledger"].version() != self.version or self.lake.suppressed() != self.suppressed:
                what = "the ledger changed while this ran"
                raise LedgerMoved(what, where=f"{self.lake.uri}/ledger", next_step="run again; nothing has left")

    def barred_images(self, purpose: str, now: datetime, among: pa.Array | None = None) -> pa.Array:
        """Return the ids of photos that may not be used for the purpose: by the present ledger, or by the decisions.

        Photos that the last `admit` refused are among them: a run that ended after it, or was killed, has not removed
        their faces yet. Photos that it did not find are among them if their ids are given: see `admitted_photos`.

        Args:
            purpose: of the use.
            now: at which legal bases are checked; a clock that is behind the ledger is not believed.
            among: ids of the photos that matter; None: all that have a decision.
        """
        ledger, barred, now = ledger_of(self.rows), [], present_time(self.lake, self.rows, now)
        named = (rows for _, rows in self.lake["admissions"].parts(["subject_ref", CONTENT]))
        withdrawn = withdrawn_contents(named, ledger, purpose, now)
        subjects = self.rows.filter(pc.equal(self.rows["scope"], str(Scope.SUBJECT)))["key"]
        known = pa.array(sorted({reference(key) for key in subjects.to_pylist()}), pa.string())
        verdicts: dict[tuple[str | None, ...], bool] = {}
        missing = pa.array([], pa.string()) if among is None else pc.unique(among)
        for _, rows in self.lake["admissions"].parts(_COLUMNS):
            if among is not None:
                rows = rows.filter(pc.is_in(rows["image_id"], among))
                missing = missing.filter(pc.invert(pc.is_in(missing, rows["image_id"].combine_chunks())))
            refused = rows.filter(pc.invert(pc.or_(rows["admitted"], pc.is_in(rows["reason"], pa.array(_NO_PHOTO)))))
            barred.append(refused["image_id"].drop_null().combine_chunks())
            admitted = rows.filter(rows["admitted"])
            same = admitted.filter(pc.is_in(admitted[CONTENT], withdrawn))["image_id"]
            barred.append(same.combine_chunks())
            decided = admitted if self.suppressed else _without_unknown(admitted, known)
            hit = self._hit(decided, ledger, (purpose, now), verdicts)
            if hit.any():
                barred.append(admitted["image_id"].combine_chunks().filter(pa.array(hit)))
        return pc.unique(pa.concat_arrays([*barred, missing]))

    def _hit(
        self,
        rows: pa.Table,
        ledger: Ledger,
        at: tuple[str, datetime],
        verdicts: dict[tuple[str | None, ...], bool],
    ) -> Bool:
        """Return per row whether its photo is barred; all photos of a source, subject and cover share the verdict."""
        purpose, now = at
        out = np.zeros(rows.num_rows, bool)
        columns = [rows[name].to_pylist() for name in ("source_id", "subject_ref", "covers")]
        for i, key in enumerate(zip(*columns, strict=True)):
            if key not in verdicts:
                source, subject, covers = key
                decision = decide(ledger, source, subject, purpose, now)
                erased = self._erased((("source", source), ("subject", subject)), purpose)
                verdicts[key] = erased or not still_allows(decision, covers)
            out[i] = verdicts[key]
        if self.suppressed:
            for i in np.flatnonzero(~out).tolist():
                out[i] = self._erased((("image", rows["image_id"][i].as_py()),), purpose)
        return out

    def _erased(self, names: Sequence[tuple[str, str | None]], purpose: str) -> bool:
        return was_erased(self.lake, self.suppressed, names, purpose)


def admitted_photos(lake: Lake) -> KnownIds:
    """Return the photos that the last `admit` admitted.

    A gallery's face whose photo is not among them may not be used: `admit` found the photo gone or under another name
    and nothing has removed the face yet, and whose it is cannot be decided any more.
    """
    return KnownIds(
        rows["image_id"].filter(rows["admitted"]) for _, rows in lake["admissions"].parts(["image_id", "admitted"])
    )


def still_allows(decision: Decision, covers: str | None) -> bool:
    """Whether a present decision allows the use of a face.

    Args:
        decision: for the photo's source and subject, now.
        covers: what the grant covered when the face was encoded.
    """
    narrower = decision.covers is Covers.NAMED and covers != Covers.NAMED
    return decision.admitted and not narrower


def was_erased(lake: Lake, suppressed: frozenset[str], names: Sequence[tuple[str, str | None]], purpose: str) -> bool:
    """Whether one of the names was erased, for every purpose or for this one.

    Args:
        lake: whose key the suppression list is hashed with.
        suppressed: the list.
        names: pairs of a kind (image, source, subject) and a name.
        purpose: of the use.
    """
    if not suppressed:
        return False
    labels = [label(kind, name, limit) for kind, name in names if name for limit in (None, purpose)]
    return any(lake.keyed_hash(text) in suppressed for text in labels)


def _without_unknown(rows: pa.Table, known: pa.Array) -> pa.Table:
    """Return the rows with one name for all subjects that no event of the ledger names: they share its decisions."""
    subjects = rows["subject_ref"]
    other = pc.and_(pc.greater(pc.utf8_length(subjects), 0), pc.invert(pc.is_in(references(subjects), known)))
    column = pc.if_else(pc.fill_null(other, False), _UNKNOWN, subjects)
    return rows.set_column(rows.schema.get_field_index("subject_ref"), "subject_ref", column)


def last_withdrawal(rows: pa.Table, purpose: str, now: datetime) -> Ending | None:
    """Return the newest withdrawal or end of a grant for the purpose that took effect; None if there is none.

    A grant that has ended by its date counts as long as its source or subject has no other, and one that covers only
    the named subject where an earlier one covered everyone.

    Args:
        rows: of the ledger table.
        purpose: events for other purposes are left out.
        now: a time of `lease_time` or `present_time`; events that begin later are left out.
    """
    ending = rows.filter(pc.is_in(rows["kind"], pa.array([str(kind) for kind in _ENDING])))
    endings = [
        _ending(row)
        for row in ending.select(["seq", "recorded_at", "valid_from", "purposes"]).to_pylist()
        if not row["purposes"] or purpose in row["purposes"]
    ]
    # what is in force by being recorded is past, whatever the clock was by which it was recorded
    past = [item for item in endings if item.dated is None or item.dated <= now]
    past += [*_ended_by_date(rows, purpose, now), *_narrowed(rows, purpose, now)]
    if not past:
        return None
    dated = max((item.dated for item in past if item.dated), default=None)
    return Ending(max(item.at for item in past), max(item.seq for item in past), dated)


def _ending(row: dict[str, Any]) -> Ending:
    """Return when an event takes effect: from its date on, or by being recorded."""
    begins = row["valid_from"] and row["valid_from"].astimezone(UTC)
    return Ending(max(row["recorded_at"], begins or row["recorded_at"]), row["seq"], begins)


def _ended_by_date(rows: pa.Table, purpose: str, now: datetime) -> list[Ending]:
    """Return the ends of grants that have passed, of sources and subjects without a grant in force.

    No event tells of them, so that their sequence number is 0; unless the grant was recorded after its end, in place
    of an earlier one, so that the event itself ended that.
    """
    ends = rows["destroy_by"]  # of a grant: not after the end that it states
    over = pc.and_(pc.equal(rows["kind"], str(EventKind.GRANT)), pc.fill_null(pc.less_equal(ends, now), False))
    if not pc.any(over).as_py():
        return []
    keys = pc.unique(rows["key"].filter(over))
    ledger = ledger_of(rows.filter(pc.is_in(rows["key"], keys)))
    first = _first_grants(rows)
    ended = rows.filter(over).select(["scope", "key", "purposes", "seq", "recorded_at", "destroy_by"]).to_pylist()
    found = []
    for row in ended:
        if purpose in (row["purposes"] or ()) and not _stands(ledger, row, purpose, now):
            late = row["recorded_at"] >= row["destroy_by"] and row["seq"] > first[row["scope"], row["key"]]
            at, seq = (row["recorded_at"], row["seq"]) if late else (row["destroy_by"], 0)
            found.append(Ending(at.astimezone(UTC), seq, row["destroy_by"].astimezone(UTC)))
    return found


def _stands(ledger: Ledger, row: dict[str, Any], purpose: str, now: datetime) -> bool:
    return ledger.standing(Scope(row["scope"]), row["key"], purpose, now).admitted


def _first_grants(rows: pa.Table) -> dict[tuple[str, str], int]:
    """Return the sequence number of the first grant of each (scope, key)."""
    grants = rows.filter(pc.equal(rows["kind"], str(EventKind.GRANT)))
    first = grants.group_by(["scope", "key"]).aggregate([("seq", "min")])
    return dict(
        zip(
            zip(*(first[name].to_pylist() for name in ("scope", "key")), strict=True),
            first["seq_min"].to_pylist(),
            strict=True,
        )
    )


def _narrowed(rows: pa.Table, purpose: str, now: datetime) -> list[Ending]:
    """Return grants for the named subject only that came after one for everyone: faces of others lost their basis."""
    grants = rows.filter(pc.equal(rows["kind"], str(EventKind.GRANT)))
    named = pc.fill_null(pc.equal(grants["covers"], str(Covers.NAMED)), False)
    if not pc.any(named).as_py():
        return []
    wide = _first_grants(grants.filter(pc.invert(named)))
    columns = ["scope", "key", "purposes", "seq", "recorded_at", "valid_from"]
    found = []
    for row in grants.filter(named).select(columns).to_pylist():
        narrowed = _ending(row)
        earlier = wide.get((row["scope"], row["key"]), row["seq"])
        begun = narrowed.dated is None or narrowed.dated <= now
        if earlier < row["seq"] and purpose in (row["purposes"] or ()) and begun:
            found.append(narrowed)
    return found
