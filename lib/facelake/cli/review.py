"""The command that opens the review page."""

from __future__ import annotations

import getpass
import webbrowser
from typing import Annotated

import typer

from facelake.cli.options import (
    ConfigOption,
    DebugOption,
    JsonOption,
    LakeOption,
    QuietOption,
    open_terminal,
    read_config,
)
from facelake.cli.run import app
from facelake.errors import ConfigError
from facelake.terminal import boundary

_INSTALL = "pip install 'facelake[review]'; in a checkout: .venv/bin/pip install -c constraints.txt -e '.[review]'"


@app.command()
def review(
    purpose: Annotated[str, typer.Option(help="what you look at faces for; the gallery must be in force for it")],
    reviewer: Annotated[str | None, typer.Option(help="who looks, for corrections and audit; default: you")] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 0,
    expose: Annotated[bool, typer.Option(
        "--expose", help="let --host be an address that others reach: no encryption, faces can be read on the way",
    )] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="do not open a browser")] = False,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Look at suspicious merges, splits and near-duplicates in a browser, and correct them. Ends with Ctrl-C."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading
        from facelake.stages.review.session import ReviewSession

        try:
            from facelake.web.server import bind, serve
        except ModuleNotFoundError as err:
            if (err.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette"):
                raise
            what = f"the review page needs {err.name}, which is not installed"
            raise ConfigError(what, where="review", next_step=_INSTALL) from err

        context = reading(read_config(config, lake), terminal.listen)
        listener = bind(host, port, expose)
        session = ReviewSession.open(context, purpose, reviewer or getpass.getuser())

        def ready(link: str) -> None:
            terminal.say(f"review page for {session.reviewer}, purpose {purpose}:")
            if not json:
                typer.echo(link)  # (also with --quiet: it is what one came for)
            terminal.say("the link works once; Ctrl-C ends the session")
            terminal.result({"ok": True, "url": link, "gallery": session.moment().gallery.version})
            if not no_open and not json:
                webbrowser.open(link)

        serve(session, listener, host, expose, ready)
