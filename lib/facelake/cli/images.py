"""The command that lists photos by what became of them."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, fields
from typing import Annotated

import typer

from facelake.cli.command import Invocation, command
from facelake.cli.run import app
from facelake.plural import counted


@command(app)
def images(
    call: Invocation,
    rejected: Annotated[bool, typer.Option("--rejected", help="photos without a usable face, or unreadable")] = False,
    refused: Annotated[bool, typer.Option("--refused", help="photos without a legal basis for the purpose")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="admitted photos that were not embedded yet")] = False,
    vanished: Annotated[
        bool, typer.Option("--vanished", help="photos that left the corpus when the decisions last changed")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="only those with this reason, such as no_face")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV for a spreadsheet")] = False,
) -> None:
    """List photos that have no faces in the lake, by name, with the reason. Default: all but the vanished."""
    from facelake.nightly import reading
    from facelake.stages.operations.images import WITHOUT_FACES, Fate, ListedImage, list_images

    chosen = {Fate.REJECTED: rejected, Fate.REFUSED: refused, Fate.MISSING: missing, Fate.VANISHED: vanished}
    fates = {fate for fate, wanted in chosen.items() if wanted} or set(WITHOUT_FACES)
    rows = list_images(reading(call.config()).lake, fates, reason)
    names = [field.name for field in fields(ListedImage)]
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows([_inert(str(value)) for value in asdict(row).values()] for row in rows)
        return
    listed = [asdict(row) for row in rows]
    call.terminal.table("photos without faces", names, [list(row.values()) for row in listed])
    call.terminal.say(counted(len(listed), "photo"))
    call.terminal.result({"ok": True, "images": listed})


def _inert(text: str) -> str:
    """Return a cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
