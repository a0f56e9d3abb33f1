"""The command that erases people, and gives an erasure up."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from facelake.cli.command import Invocation, command
from facelake.cli.run import app
from facelake.errors import ConfigError

if TYPE_CHECKING:  # imported when the command runs: pyarrow takes long
    from facelake.stages.core.context import Context
    from facelake.stages.erasure.request import Request


@command(app)
def erase(
    call: Invocation,
    pending: Annotated[str | None, typer.Argument(help="with --cancel: id of an unfinished erasure")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="subject_ref to erase (may be repeated)")] = None,
    image: Annotated[list[str] | None, typer.Option(help="image_id to erase (may be repeated)")] = None,
    source: Annotated[list[str] | None, typer.Option(help="source_id to erase (may be repeated)")] = None,
    identity: Annotated[
        list[str] | None, typer.Option(help="identity to erase, with every photo that shows it (may be repeated)")
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="erase only what was made for this purpose")] = None,
    from_file: Annotated[str | None, typer.Option(help="CSV with columns kind (subject, image...) and key")] = None,
    with_copies: Annotated[
        bool, typer.Option("--with-copies", help="erase the same photos under other ids too")
    ] = False,
    keep_copies: Annotated[bool, typer.Option("--keep-copies", help="keep the same photos under other ids")] = False,
    even_if_unknown: Annotated[
        bool, typer.Option("--even-if-unknown", help="suppress references that the lake does not have")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="give an unfinished erasure up, without certificate")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
) -> None:
    """Remove subjects, images or sources from every table, file and version, and certify it."""
    from facelake.nightly import reading, writing
    from facelake.stages.erasure import stage
    from facelake.stages.erasure.request import Request, read_keys

    terminal, settings = call.terminal, call.config()
    context = reading(settings, terminal.listen)
    if cancel:
        _cancel(call, pending)
        return
    if (with_copies and keep_copies) or pending:
        what = "an id needs --cancel" if pending else "copies cannot be both erased and kept"
        raise ConfigError(what, where="erase", next_step="see `facelake erase --help`")
    more = read_keys(from_file) if from_file else {}
    named = {"subject": subject or [], "image": image or [], "source": source or [], "identity": identity or []}
    keys = [[*values, *more.get(kind, [])] for kind, values in named.items()]
    copies = "erase" if with_copies else "keep" if keep_copies else ""
    request = Request.of(keys[0], keys[1], keys[2], keys[3], purpose, copies=copies)
    if not even_if_unknown:
        _refuse_unknown(context, request)
    if not yes and not (sys.stdin.isatty() and typer.confirm("This cannot be undone. Erase?")):
        raise ConfigError("an erasure cannot be undone and was not confirmed", where="erase", next_step="add --yes")
    with writing(settings, "erase", terminal.listen, must_exist=True) as context:
        result = stage.erase(context, request)
    if recipients := result.not_acknowledged:
        terminal.say(
            f"recipients that have not acknowledged it yet: {', '.join(recipients)} (see `facelake feed leases`)"
        )
    if kept := result.copies_kept:
        shown = ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        terminal.warn(f"the same photo stays under other ids: {shown}; erase them with --image, or use --with-copies")
    if left := result.left_to_delete:
        terminal.say(
            f"{len(left)} photos are still in your own store and are never processed again; delete them there:"
        )
        for place in left:
            terminal.say(f"  {place}")
    certificate = f"{settings.lake.rstrip('/')}/{result.certificate}"
    terminal.say(f"erased; certificate: {certificate}. Run `facelake report` for a new report.")
    terminal.result({"ok": True, "lake": settings.lake, **result.as_json()})


def _refuse_unknown(context: Context, request: Request) -> None:
    """Refuse a request that names something which the lake neither has nor erased before; nothing is noted then."""
    from facelake.stages.admission.known_references import Known, not_suppressed, refuse_unknown

    known = Known.of(context.config, context.lake, request.images)
    unknown = [
        *known.unknown("subject", request.subjects),
        *known.unknown("image", request.images),
        *known.unknown("source", request.sources),
        *known.unknown("purpose", [request.purpose] if request.purpose else []),
    ]
    refuse_unknown(not_suppressed(context.lake, unknown), "erase")


def _cancel(call: Invocation, ident: str | None) -> None:
    from facelake.nightly import writing
    from facelake.stages.admission.ledger_head import pin_for_audit
    from facelake.stages.core.audit import append_audit
    from facelake.stages.erasure.notes import cancel

    with writing(call.config(), "erase", call.terminal.listen, must_exist=True) as context:
        (name,) = cancel(context.lake, ident)
        append_audit(context.lake, "erasure-cancelled", {"erasure": name} | pin_for_audit(context.lake), context.sign)
    call.terminal.say(f"erasure {name} was given up: there is no certificate. What was removed stays removed, and its")
    call.terminal.say("references and photos stay on the suppression list.")
    call.terminal.result({"ok": True, "cancelled": name})
