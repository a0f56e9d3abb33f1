"""The ledger of legal-basis events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from facelake.api.access import Access, private_files
from facelake.api.values import LedgerImport, LedgerRecord, from_row
from facelake.contracts import EventKind, Scope
from facelake.events import Notice
from facelake.lake.lake import Lake
from facelake.stages.admission.event_effects import effects
from facelake.stages.admission.known_references import Known, doubts, refuse_barred, refuse_erased, refuse_unknown
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.admission.ledger_import import import_ledger
from facelake.stages.core.partition_names import create_lake, open_lake
from facelake.stages.gallery.same_identity import others_of_withdrawn


@dataclass(frozen=True, slots=True)
class LedgerEvents:
    """Records and lists the legal basis of sources and subjects; events take effect with the next run.

    Attributes:
        access: opens the lake.
    """

    access: Access

    def list(self) -> tuple[LedgerRecord, ...]:
        """Return every event, in order."""
        rows = self.access.read().lake["ledger"].read().sort_by("seq").to_pylist()
        return tuple(from_row(LedgerRecord, row) for row in rows)

    def record(self, entries: Iterable[Entry], *, even_if_unknown: bool = False, create_lake: bool = False) -> int:
        """Record events in one commit. This may run during a nightly run, which sees them.

        Args:
            entries: the events.
            even_if_unknown: record them although nothing in the lake matches, or although a grant's class bars a
                source of the lake for good. Otherwise a withdrawal of something
                unknown is refused, and a grant for an unknown source or purpose is reported as an event.
            create_lake: create the lake if there is none, for a corpus of your own.

        Returns:
            The number of events recorded.

        Raises:
            ConfigError: an incomplete event, a reference that the lake does not have, a grant whose class would bar a
                source of the lake, or a grant of somebody who was erased; nothing was recorded.
        """
        events = list(entries)
        for entry in events:
            entry.check()
        with private_files():
            lake = self._lake(create=create_lake)
            refuse_erased(lake, events)
            subjects = [entry.key for entry in events if entry.scope is Scope.SUBJECT]
            known = None if even_if_unknown else Known.of(self.access.config, lake, subjects=subjects)
            if known is not None:
                refused, questioned = doubts(known, events)
                refuse_unknown(refused, "record the events")
                refuse_barred(known, events)
                for item in questioned:
                    text = f"the lake has {item}: the event has no effect until photos of it come, or a run for it"
                    self.access.on_event(Notice("ledger", text))
            for text in effects(lake, known, events, datetime.now(UTC)):
                self.access.on_event(Notice("ledger", text))
            before = lake["ledger"].snapshot().rows
            record(lake, events)
            if others := others_of_withdrawn(lake, before):
                self.access.on_event(Notice("ledger", others))
        return len(events)

    def withdraw(
        self,
        *,
        subjects: Sequence[str] = (),
        sources: Sequence[str] = (),
        purposes: Sequence[str] = (),
        even_if_unknown: bool = False,
    ) -> int:
        """Withdraw the basis of subjects or sources; the next run removes everything derived from their photos.

        Args:
            subjects: subject references.
            sources: source ids.
            purposes: only for these purposes; empty: for every purpose.
            even_if_unknown: record it although the lake has no such subject, source or purpose.

        Returns:
            The number of events recorded.

        Raises:
            ConfigError: nothing is named, or a reference that the lake does not have; nothing was recorded.
        """
        named = [(Scope.SUBJECT, key) for key in subjects] + [(Scope.SOURCE, key) for key in sources]
        entries = [Entry(EventKind.WITHDRAW, scope, key, purposes=tuple(purposes)) for scope, key in named]
        return self.record(entries, even_if_unknown=even_if_unknown)

    def import_file(
        self, path: str, *, even_if_unknown: bool = False, lift_withdrawals: bool = False, create_lake: bool = False
    ) -> LedgerImport:
        """Record the events of a CSV or Parquet file; docs/consent.md lists its columns.

        Args:
            path: of the file.
            even_if_unknown: record lines although nothing in the lake matches their references.
            lift_withdrawals: record new grants of people and sources that have withdrawn; their lines are rejected
                otherwise.
            create_lake: create the lake if there is none, for a corpus of your own.

        Raises:
            ConfigError: the file cannot be read or has unknown columns; nothing was recorded.
        """
        with private_files():
            lake = self._lake(create=create_lake)
            known = None if even_if_unknown else Known.of(self.access.config, lake)
            done = import_ledger(lake, path, known, lift_withdrawals=lift_withdrawals)
        lines = tuple(done.rejected), tuple(done.questioned)
        return LedgerImport(done.recorded, done.present, *lines, tuple(done.without_photos))

    def _lake(self, *, create: bool) -> Lake:
        config = self.access.config
        return create_lake(config) if create else open_lake(config)
