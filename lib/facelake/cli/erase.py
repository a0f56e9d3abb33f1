"""The command that erases people, and gives an erasure up."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from facelake.cli.command import Invocation, command
from facelake.cli.run import app
from facelake.errors import ConfigError
from facelake.plural import counted, first_of


@command(app)
def erase(
    call: Invocation,
    *,
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
        bool, typer.Option("--with-copies", help="also erase photos with the same bytes under other ids")
    ] = False,
    keep_copies: Annotated[bool, typer.Option("--keep-copies", help="keep the same bytes under other ids")] = False,
    even_if_unknown: Annotated[
        bool, typer.Option("--even-if-unknown", help="suppress references that the lake does not have")
    ] = False,
    restored: Annotated[
        bool,
        typer.Option("--restored", help="erase photos of the corpus that were erased before, as a backup has them"),
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="give an unfinished erasure up, without certificate")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
) -> None:
    """Remove subjects, images or sources from every table, file and version, and certify it."""
    from facelake.stages.erasure.request import Request, read_keys

    terminal, lake = call.terminal, call.open_lake()
    if cancel:
        _cancel(call, pending)
        return
    lake.check_exists()
    if (with_copies and keep_copies) or pending:
        what = "an id needs --cancel" if pending else "copies cannot be both erased and kept"
        raise ConfigError(what, where="erase", next_step="see `facelake erase --help`")
    more = read_keys(from_file) if from_file else {}
    named = {"subject": subject or [], "image": image or [], "source": source or [], "identity": identity or []}
    keys = [[*values, *more.get(kind, [])] for kind, values in named.items()]
    if restored:
        keys[1] = named["image"] = _restored(call, any(keys) or bool(purpose))
        if not keys[1]:
            terminal.say("nothing to erase: the corpus has no photo that was erased before")
            terminal.result({"ok": True, "lake": lake.uri, "images": 0})
            return
    copies = "erase" if with_copies else "keep" if keep_copies else ""
    request = Request.of(keys[0], keys[1], keys[2], keys[3], purpose, copies=copies)
    if not (even_if_unknown or restored):
        lake.check_erasure(request)
    if not yes:
        what = f"erase {_in_words(named, more)} from {lake.uri}"
        asked = f"{what}: the photos of that name, and all that was made from them?"
        if not (sys.stdin.isatty() and typer.confirm(f"This cannot be undone: {asked}")):
            next_step = "give the command again and confirm it, or add --yes"
            raise ConfigError("an erasure cannot be undone and was not confirmed", where="erase", next_step=next_step)
    result = lake.erase(request, even_if_unknown=True)  # checked above, before the question
    if recipients := result.not_acknowledged:
        terminal.say(
            f"recipients that have not acknowledged it yet: {', '.join(recipients)} (see `facelake feed leases`)"
        )
    if kept := result.copies_kept:
        terminal.warn(f"copies of the erased photos stay in the lake under other ids: {first_of(kept)}")
        terminal.warn("`facelake erase --image ID` erases them too")
    if left := result.left_to_delete:
        still = f"{counted(len(left), 'photo')} still in your own store, never to be processed again"
        terminal.say(f"{still}; delete there:")
        for place in left:
            terminal.say(f"  {place}")
    certificate = f"{lake.uri.rstrip('/')}/{result.certificate}"
    terminal.say(f"erased; certificate: {certificate}. Run `facelake report` for a new report.")
    terminal.result({"ok": True, "lake": lake.uri, **result.as_json()})


def _in_words(*named: dict[str, list[str]]) -> str:
    """Return what is named, the first few of each kind by name."""
    kinds = {kind: [value for group in named for value in group.get(kind, [])] for kind in named[0]}
    return "; ".join(
        f"{kind} {first_of([repr(value) for value in values])}" for kind, values in kinds.items() if values
    )


def _restored(call: Invocation, others: bool) -> list[str]:
    """Return the photos that --restored names; ConfigError if the command names `others`, too."""
    from facelake.nightly import reading
    from facelake.stages.erasure.restored import restored_photos

    if others:
        what = "--restored finds the photos itself, and erases them for all purposes"
        raise ConfigError(what, where="erase", next_step="give the two as commands of their own")
    return restored_photos(reading(call.config()))


def _cancel(call: Invocation, ident: str | None) -> None:
    name = call.open_lake().cancel_erasure(ident)
    call.terminal.say(f"erasure {name} was given up: there is no certificate. What was removed stays removed, and its")
    call.terminal.say("references and photos stay on the suppression list.")
    call.terminal.result({"ok": True, "cancelled": name})
