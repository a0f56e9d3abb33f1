"""The command that writes the report, and fetches or opens the latest one."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from facelake.cli.command import Invocation, command
from facelake.cli.run import app, run_stages
from facelake.config import Config
from facelake.errors import ConfigError


@command(app)
def report(
    call: Invocation,
    open_page: Annotated[bool, typer.Option("--open", help="open the latest report in a browser instead")] = False,
    download: Annotated[
        str | None, typer.Option(help="copy the latest report to this file instead; erasures do not reach the copy")
    ] = None,
) -> None:
    """Write the HTML report; or open or copy the latest one, also from S3."""
    if not open_page and download is None:
        run_stages(call, ["report"])
        return
    from facelake.stages.core.outside import must_be_outside

    settings, terminal = call.config(), call.terminal
    if download:
        must_be_outside(download, settings, "--download")
    page = call.open_lake().latest_report()
    path = _copied(page, download) if download else _local(settings, page)
    opened = open_page and webbrowser.open(path.as_uri())
    if open_page and not opened:
        terminal.warn("no browser could be started")
    terminal.say(f"report: {path}")
    terminal.result({"ok": True, "lake": settings.lake, "path": str(path), "bytes": len(page), "opened": opened})


def _copied(page: bytes, target: str) -> Path:
    """Write a new file that only this account can read."""
    path = Path(target).expanduser().absolute()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(page)
    except OSError as err:
        what = f"the report cannot be written: {err.strerror}"
        raise ConfigError(what, where=str(path), next_step="name a new file in a folder that exists") from err
    return path


def _local(settings: Config, page: bytes) -> Path:
    """The report as a local file: that of a directory lake, or a copy in the lake's scratch folder on this host, which
    an erasure deletes.
    """
    from facelake.engines.scratch import private_folder, scratch_dir
    from facelake.stages.reporting.report import LATEST

    if not settings.lake.startswith("s3://"):
        return Path(settings.lake.removeprefix("file://")).expanduser().absolute() / LATEST
    folder = private_folder(scratch_dir(settings.lake))
    path = folder / Path(LATEST).name
    path.unlink(missing_ok=True)
    return _copied(page, str(path))
