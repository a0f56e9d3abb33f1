"""The command that opens the review page."""

from __future__ import annotations

import getpass
import webbrowser
from typing import Annotated

import typer

from facelake.cli.command import Invocation, command
from facelake.cli.run import app
from facelake.errors import ConfigError
from facelake.extras import install_command

_EXPOSE_HELP = "let --host be an address that other machines reach: unencrypted, faces can be read on the network"


@command(app)
def review(
    call: Invocation,
    *,
    purpose: Annotated[str, typer.Option(help="purpose of the review; the ledger must permit it")],
    reviewer: Annotated[
        str | None, typer.Option(help="name recorded with corrections and audit records; default: your user name")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any free one")] = 0,
    expose: Annotated[bool, typer.Option("--expose", help=_EXPOSE_HELP)] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="do not open a browser")] = False,
) -> None:
    """Review suspected merges, splits and near-duplicates in a browser, and correct them. Stop with Ctrl-C."""
    from facelake.nightly import reading
    from facelake.stages.review.session import ReviewSession

    try:
        from facelake.web.server import bind, serve
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette"):
            raise
        what = f"the review page needs {err.name}, which is not installed"
        raise ConfigError(what, where="review", next_step=f"run {install_command('review')}") from err

    terminal = call.terminal
    context = reading(call.config(), terminal.listen)
    listener = bind(host, port, exposed=expose)
    session = ReviewSession.open(context, purpose, reviewer or getpass.getuser())

    def ready(link: str) -> None:
        terminal.say(f"review page for {session.reviewer}, purpose {purpose}:")
        if not call.as_json:
            typer.echo(link)  # with --quiet too: without the link the page cannot be opened
        terminal.say("the link works once; Ctrl-C ends the session")
        terminal.result({"ok": True, "url": link, "gallery": session.state().gallery.version})
        if not no_open and not call.as_json:
            webbrowser.open(link)

    serve(session, listener, host, ready, exposed=expose)
