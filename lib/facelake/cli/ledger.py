"""Commands on the ledger of legal-basis events."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facelake.cli.command import Invocation, command, moment, typer_app
from facelake.contracts import Covers, SourceClass
from facelake.errors import ConfigError
from facelake.plural import counted, first_of

if TYPE_CHECKING:  # imported when a command runs: pyarrow takes long
    from facelake.config import Config
    from facelake.lake.lake import Lake

_EvenIfUnknown = Annotated[
    bool,
    typer.Option(
        "--even-if-unknown",
        help="record it although it looks mistyped: an unknown reference or purpose, or a class that bars a source",
    ),
]
_CreateLake = Annotated[
    bool, typer.Option("--create-lake", help="make the lake if there is none, for a corpus of your own")
]


@dataclass(frozen=True, slots=True)
class _Target:
    """Whom new events are about.

    Attributes:
        sources: source ids.
        subjects: subject references.
        even_if_unknown: whether to record them although nothing in the lake matches.
        create_lake: whether to make the lake if there is none.
    """

    sources: list[str]
    subjects: list[str]
    even_if_unknown: bool = False
    create_lake: bool = False


ledger_app = typer_app("Record and list the legal basis of sources and subjects.")
_COLUMNS = (
    "seq",
    "kind",
    "scope",
    "key",
    "purposes",
    "basis",
    "covers",
    "source_class",
    "valid_from",
    "valid_until",
    "destroy_by",
    "recorded_at",
)


def _lake(call: Invocation, settings: Config, *, create: bool) -> Lake:
    """Open the lake; only --create-lake makes one, so that a mistyped --lake records nothing."""
    from facelake.stages.core.hash_keys import note_of_new_lake
    from facelake.stages.core.partition_names import create_lake, open_lake

    if not create:
        return open_lake(settings)
    note = note_of_new_lake(settings)
    lake = create_lake(settings)
    if note:
        call.terminal.warn(note)
    return lake


def _record(call: Invocation, kind: str, target: _Target, **facts: Any) -> None:
    from facelake.contracts import EventKind, Scope
    from facelake.stages.admission.event_effects import effects
    from facelake.stages.admission.known_references import (
        FLAG,
        Known,
        doubts,
        refuse_barred,
        refuse_erased,
        refuse_unknown,
    )
    from facelake.stages.admission.ledger import Entry, record
    from facelake.stages.gallery.same_identity import others_of_withdrawn

    named = [(Scope.SOURCE, key) for key in target.sources] + [(Scope.SUBJECT, key) for key in target.subjects]
    if not named:
        next_step = "give --source or --subject"
        raise ConfigError(f"a {kind} needs a source or a subject", where="ledger", next_step=next_step)
    entries = [Entry(EventKind(kind), scope, key, **facts) for scope, key in named]
    for entry in entries:
        entry.check()
    settings = call.config()
    lake = _lake(call, settings, create=target.create_lake)
    refuse_erased(lake, entries)
    known = None if target.even_if_unknown else Known.of(settings, lake, subjects=target.subjects)
    if known is not None:
        refused, questioned = doubts(known, entries)
        refuse_unknown(refused, f"record the {kind}")
        refuse_barred(known, entries)
        for item in questioned:
            text = f"the lake has {item}: the {kind} has no effect until photos of it come, or a run for it"
            if sys.stdin.isatty() and not typer.confirm(f"{text}. Record it?"):
                raise ConfigError("not recorded", where=str(item), next_step=f"correct it, or add {FLAG}")
            call.terminal.warn(text)
    for text in effects(lake, known, entries, datetime.now(UTC)):
        call.terminal.warn(text)
    before = lake["ledger"].snapshot().rows
    record(lake, entries)
    recorded = "1 event; it takes" if len(entries) == 1 else f"{len(entries)} events; they take"
    call.terminal.say(f"recorded {recorded} effect with the next nightly run ({lake.uri})")
    if others := others_of_withdrawn(lake, before):
        call.terminal.warn(others)
    call.terminal.result({"ok": True, "events": len(entries)})


@command(ledger_app, "grant")
def ledger_grant(
    call: Invocation,
    *,
    basis: Annotated[str, typer.Option(help="the legal basis, for example 'signed release 2026-03'")],
    purpose: Annotated[list[str], typer.Option(help="permitted purpose (may be repeated)")],
    source: Annotated[list[str] | None, typer.Option(help="source_id (may be repeated)")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="subject_ref (may be repeated)")] = None,
    evidence: Annotated[str, typer.Option(help="reference of the evidence; only its hash is stored")] = "",
    valid_from: Annotated[str | None, typer.Option("--from", help="date from which it is valid")] = None,
    valid_until: Annotated[str | None, typer.Option("--until", help="day at whose beginning it ends")] = None,
    destroy_by: Annotated[str | None, typer.Option(help="date by which the data must be destroyed")] = None,
    last_contact: Annotated[
        str | None, typer.Option(help="date of the last contact with the subject; default: today")
    ] = None,
    exemption: Annotated[str, typer.Option(help="Art. 9 GDPR exemption or written release, e.g. 'Art. 9(2)(a)'")] = "",
    covers: Annotated[
        Covers | None, typer.Option(help="whom it covers; default: everyone for a source, the named for a subject")
    ] = None,
    source_class: Annotated[
        SourceClass | None,
        typer.Option("--class", help="how the source obtained the photos; the last three are refused, for good"),
    ] = None,
    even_if_unknown: _EvenIfUnknown = False,
    create_lake: _CreateLake = False,
) -> None:
    """Record a legal basis for sources or subjects."""
    from facelake.stages.admission.ledger import evidence_digest

    _record(
        call,
        "grant",
        _Target(source or [], subject or [], even_if_unknown, create_lake),
        purposes=tuple(purpose),
        basis=basis,
        exemption=exemption,
        evidence_sha256=evidence_digest(evidence),
        covers=covers,
        source_class=source_class,
        valid_from=moment(valid_from, "--from"),
        valid_until=moment(valid_until, "--until"),
        last_contact=moment(last_contact, "--last-contact"),
        destroy_by=moment(destroy_by, "--destroy-by"),
    )


def _ending_command(kind: str, help_text: str) -> None:
    @command(ledger_app, kind, help_text=help_text)
    def run(
        call: Invocation,
        source: Annotated[list[str] | None, typer.Option(help="source_id (may be repeated)")] = None,
        subject: Annotated[list[str] | None, typer.Option(help="subject_ref (may be repeated)")] = None,
        purpose: Annotated[list[str] | None, typer.Option(help="only for this purpose; default: all")] = None,
        even_if_unknown: _EvenIfUnknown = False,
    ) -> None:
        target = _Target(source or [], subject or [], even_if_unknown)
        _record(call, kind, target, purposes=tuple(purpose or ()))


_WITHDRAW = "Withdraw the basis of sources or subjects; the next run removes everything derived from their photos."
_EXPIRE = "End the grants of sources or subjects now; photos that another grant allows stay, unlike after a withdrawal."
_ending_command("withdraw", _WITHDRAW)
_ending_command("expire", _EXPIRE)


@command(ledger_app, "import")
def ledger_import(
    call: Invocation,
    file: Annotated[str, typer.Argument(help="CSV or Parquet file of events; docs/consent.md lists its columns")],
    even_if_unknown: _EvenIfUnknown = False,
    lift_withdrawals: Annotated[
        bool,
        typer.Option("--lift-withdrawals", help="also record new grants of people and sources that have withdrawn"),
    ] = False,
    create_lake: _CreateLake = False,
) -> None:
    """Record the events of a file. Invalid lines are reported, and the exit code is then 1."""
    from facelake.stages.admission.known_references import Known
    from facelake.stages.admission.ledger_import import import_ledger
    from facelake.stages.gallery.same_identity import others_of_withdrawn

    terminal, settings = call.terminal, call.config()
    lake = _lake(call, settings, create=create_lake)
    known = None if even_if_unknown else Known.of(settings, lake)
    before = lake["ledger"].snapshot().rows
    done = import_ledger(lake, file, known, lift_withdrawals=lift_withdrawals)
    for title, items in (("rejected lines", done.rejected), ("recorded, please check", done.questioned)):
        terminal.table(title, ["line", "problem"], [[item.line, item.problem] for item in items])
    terminal.say(
        f"{done.recorded} events recorded, {done.present} already present, {len(done.rejected)} lines rejected "
        f"({lake.uri})"
    )
    if missing := done.without_photos:
        effect = "their grants have" if len(missing) > 1 else "its grant has"
        named = f"subject{'s' * (len(missing) > 1)} {first_of(missing)}"
        terminal.warn(f"no photo has the {named}: {effect} no effect until one comes")
    if others := others_of_withdrawn(lake, before):
        terminal.warn(others)
    rejected, questioned = (
        [{"line": item.line, "problem": item.problem} for item in items] for items in (done.rejected, done.questioned)
    )
    counts = {"events": done.recorded, "present": done.present, "rejected": len(rejected)}
    terminal.result(
        {"ok": not rejected, **counts, "lines": rejected, "questioned": questioned, "without_photos": missing}
    )
    if rejected:
        raise typer.Exit(1)


@command(ledger_app, "list")
def ledger_list(call: Invocation) -> None:
    """List every event, in order."""
    from facelake.nightly import reading

    rows = reading(call.config()).lake["ledger"].read().sort_by("seq").to_pylist()
    call.terminal.table("ledger", [*_COLUMNS], [[row[column] for column in _COLUMNS] for row in rows])
    call.terminal.result({"ok": True, "events": rows})


@command(ledger_app, "accept")
def ledger_accept(
    call: Invocation,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
    *,
    clock: Annotated[
        bool, typer.Option("--clock", help="instead: what is dated after the present clock is not taken for the time")
    ] = False,
) -> None:
    """Accept the ledger as it is, after it was restored from a backup: events that are missing are lost for good."""
    from facelake.nightly import writing
    from facelake.stages.admission.accepted_clock import accept_clock
    from facelake.stages.admission.ledger import accept_ledger
    from facelake.stages.admission.ledger_head import pin_for_audit
    from facelake.stages.core.audit import append_audit

    now = datetime.now(UTC)
    question = "Withdrawals that are missing no longer hold. Accept?"
    if clock:
        question = f"The clock says {now:%F %R} UTC. Grants that had ended by a later time may hold again. Accept?"
    _must_confirm(question, yes, "ledger accept")
    if clock:
        with writing(call.config(), "ledger", call.terminal.listen, must_exist=True) as context:
            accepted = accept_clock(context, now).as_json()
        call.terminal.say("the clock is accepted; not taken for the time any more: " + json.dumps(accepted))
        call.terminal.result({"ok": True, **accepted})
        return
    with writing(call.config(), "ledger", call.terminal.listen, must_exist=True, may_be_older=True) as context:
        events = accept_ledger(context.lake)
        append_audit(context.lake, "ledger-accepted", pin_for_audit(context.lake), context.sign)
    call.terminal.say(f"accepted a ledger of {events} events")
    call.terminal.result({"ok": True, "events": events})


def _must_confirm(question: str, yes: bool, where: str) -> None:
    """Ask unless --yes is given; ConfigError if not confirmed, or if nobody can be asked."""
    if not yes and not (sys.stdin.isatty() and typer.confirm(question)):
        raise ConfigError("not confirmed", where=where, next_step="add --yes")


@command(ledger_app, "restore")
def ledger_restore(
    call: Invocation,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
) -> None:
    """Put back the events and erasures that a lake from a backup lacks, from the copy of its ledger outside of it."""
    from facelake.nightly import writing
    from facelake.stages.sharing.restored_lake import restore_ledger

    question = "Events of the copy (governance.ledger_copy) are added to this lake. Was it restored from a backup?"
    _must_confirm(question, yes, "ledger restore")
    with writing(call.config(), "ledger", call.terminal.listen, must_exist=True, may_be_older=True) as context:
        done = restore_ledger(context)
    call.terminal.say(
        f"put back: {counted(done.events, 'event')} of the ledger, {done.withdrawals} of them withdrawals, and "
        f"{counted(done.suppressed, 'entry', 'entries')} of the lists of erased people and photos"
    )
    if done.audit_fault:
        call.terminal.warn(f"{done.audit_fault}; what is lost of it cannot be put back")
    if done.recalled:
        call.terminal.warn(
            f"{counted(len(done.recalled), 'lease')} recalled: their recipients hold identities that this lake does "
            "not know. Have the copies deleted (`feed return`), or push to empty a database, and export again"
        )
    if done.older:
        call.terminal.warn(
            "exports and pushes since the backup are not known to this lake: compare with your own notes who received "
            "a copy, have it deleted, and export again; the next `feed push` empties a database that was filled since"
        )
    call.terminal.say(
        "next: `facelake nightly` removes what derives from photos of people who withdrew or were erased; "
        "`facelake erase --restored` then deletes the photos of those erased that the backup brought back"
    )
    call.terminal.result({"ok": True, **asdict(done)})
