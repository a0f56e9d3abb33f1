"""Commands on the ledger of legal-basis events."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from facelake.cli.command import Invocation, command, moment, typer_app
from facelake.contracts import Covers, SourceClass
from facelake.errors import ConfigError

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


def _record(call: Invocation, kind: str, sources: list[str] | None, subjects: list[str] | None, **facts: Any) -> None:
    from facelake.contracts import EventKind, Scope
    from facelake.lake.lake import Lake
    from facelake.stages.admission.ledger import Entry, record

    named = [(Scope.SOURCE, key) for key in sources or ()] + [(Scope.SUBJECT, key) for key in subjects or ()]
    if not named:
        next_step = "give --source or --subject"
        raise ConfigError(f"a {kind} needs a source or a subject", where="ledger", next_step=next_step)
    entries = [Entry(EventKind(kind), scope, key, **facts) for scope, key in named]
    for entry in entries:
        entry.check()
    settings = call.config()
    record(Lake.create(settings.lake, settings.s3), entries)
    call.terminal.say(f"recorded {len(entries)} event(s); they take effect with the next nightly run")
    call.terminal.result({"ok": True, "events": len(entries)})


@command(ledger_app, "grant")
def ledger_grant(
    call: Invocation,
    basis: Annotated[str, typer.Option(help="the legal basis, for example 'signed release 2026-03'")],
    purpose: Annotated[list[str], typer.Option(help="permitted purpose (may be repeated)")],
    source: Annotated[list[str] | None, typer.Option(help="source_id (may be repeated)")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="subject_ref (may be repeated)")] = None,
    evidence: Annotated[str, typer.Option(help="reference of the evidence; only its hash is stored")] = "",
    valid_from: Annotated[str | None, typer.Option("--from", help="date from which it is valid")] = None,
    valid_until: Annotated[str | None, typer.Option("--until", help="date at which it ends")] = None,
    destroy_by: Annotated[str | None, typer.Option(help="date by which the data must be destroyed")] = None,
    last_contact: Annotated[
        str | None, typer.Option(help="date of the last contact with the subject; default: today")
    ] = None,
    exemption: Annotated[str, typer.Option(help="Art. 9 GDPR exemption or written release, e.g. 'Art. 9(2)(a)'")] = "",
    covers: Annotated[
        Covers | None, typer.Option(help="whom it covers; default: everyone for a source, the named for a subject")
    ] = None,
    source_class: Annotated[
        SourceClass, typer.Option("--class", help="how the source obtained the photos; the last three are refused")
    ] = SourceClass.CONTRIBUTED,
) -> None:
    """Record a legal basis for sources or subjects."""
    from facelake.stages.admission.ledger import evidence_digest

    _record(
        call,
        "grant",
        source,
        subject,
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


@command(ledger_app, "withdraw")
def ledger_withdraw(
    call: Invocation,
    source: Annotated[list[str] | None, typer.Option(help="source_id (may be repeated)")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="subject_ref (may be repeated)")] = None,
    purpose: Annotated[list[str] | None, typer.Option(help="only for this purpose; default: all")] = None,
) -> None:
    """Withdraw the basis of sources or subjects; the next run removes everything derived from their photos."""
    _record(call, "withdraw", source, subject, purposes=tuple(purpose or ()))


@command(ledger_app, "import")
def ledger_import(
    call: Invocation,
    file: Annotated[str, typer.Argument(help="CSV or Parquet file of events; docs/consent.md lists its columns")],
) -> None:
    """Record the events of a file. Invalid lines are reported, and the exit code is then 1."""
    from facelake.lake.lake import Lake
    from facelake.stages.admission.ledger_import import import_ledger

    terminal, settings = call.terminal, call.config()
    recorded, present, rejected = import_ledger(Lake.create(settings.lake, settings.s3), file)
    terminal.table("rejected lines", ["line", "problem"], [[item.line, item.problem] for item in rejected])
    terminal.say(f"{recorded} events recorded, {present} already present, {len(rejected)} lines rejected")
    lines = [{"line": item.line, "problem": item.problem} for item in rejected]
    counts = {"events": recorded, "present": present, "rejected": len(rejected)}
    terminal.result({"ok": not rejected, **counts, "lines": lines})
    if rejected:
        raise typer.Exit(1)


@command(ledger_app, "list")
def ledger_list(call: Invocation) -> None:
    """List every event, in order."""
    from facelake.nightly import reading

    rows = reading(call.config()).lake["ledger"].read().sort_by("seq").to_pylist()
    call.terminal.table("ledger", [*_COLUMNS], [[row[column] for column in _COLUMNS] for row in rows])
    call.terminal.result({"ok": True, "events": rows})
