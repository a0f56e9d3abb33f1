"""Commands for operators: status and metrics, vacuum."""

from __future__ import annotations

from typing import Annotated, Any

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
from facelake.config import Config
from facelake.terminal import Terminal, boundary


@app.command()
def status(
    prometheus: Annotated[bool, typer.Option("--prometheus", help="print Prometheus metrics instead")] = False,
    serve: Annotated[int | None, typer.Option(help="serve the metrics on this port until it is stopped")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Say who writes the lake, the stage at work, its ETA, the last runs and commits. Reads the lake only."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.stages.operations.prometheus import exposition
        from facelake.stages.operations.status import status as look

        settings = read_config(config, lake)
        if serve is not None:
            _serve(terminal, settings, serve)
            return
        found = look(settings)
        if prometheus:
            typer.echo(exposition(found), nl=False)
            return
        _show(terminal, found)
        terminal.result({"ok": True, **found})


def _show(terminal: Terminal, found: dict[str, Any]) -> None:
    holder, work, gallery = found["holder"], found["work"], found["gallery"]
    if holder:
        who = f"{holder['for']}, process {holder['pid']} on {holder['host']}"
        terminal.say(f"writer: {who}: {holder['state']}, renewed {holder['renewed_s_ago']:.0f} s ago")
    else:
        terminal.say("writer: none")
    if work:
        eta = f", about {work['eta_s']:.0f} s left" if work["eta_s"] is not None else ""
        terminal.say(f"at work: {work['stage']} {work['done']}/{work['total'] or '?'} {work['unit']}{eta}")
    terminal.say(f"gallery {gallery['version']}: {gallery['faces']} faces in {gallery['identities']} identities")
    rows = [
        [stage, run["started_at"][:19], f"{run['seconds']:.1f}", run["run_id"]]
        for stage, run in found["stages"].items()
    ]
    terminal.table("last runs", ["stage", "started (UTC)", "seconds", "run"], rows)
    tables = [
        [name, t["version"], t["rows"], t["files"], (t["committed_at"] or "")[:19]]
        for name, t in found["tables"].items()
    ]
    terminal.table("tables", ["table", "version", "rows", "files", "last commit (UTC)"], tables)


def _serve(terminal: Terminal, settings: Config, port: int) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from facelake.errors import FacelakeError
    from facelake.stages.operations.prometheus import exposition
    from facelake.stages.operations.status import status as look

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                code, body = (200, exposition(look(settings))) if self.path == "/metrics" else (404, "see /metrics\n")
            except FacelakeError as err:
                code, body = 503, f"{err}\n"
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Scrapes are not worth a line."""

    with HTTPServer(("", port), Handler) as server:
        terminal.say(f"metrics of {settings.lake} on port {server.server_port}, path /metrics")
        server.serve_forever()


@app.command()
def vacuum(
    keep: Annotated[int, typer.Option(min=2, help="newest gallery versions to keep readable")] = 7,
    hours: Annotated[int, typer.Option(min=0, help="keep whatever was in use less than so many hours ago")] = 168,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only count")] = False,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Delete data files that no kept version needs. Readers of the last galleries are safe; writers are excluded."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading, writing
        from facelake.stages.operations.vacuum import vacuum as run_vacuum

        settings = read_config(config, lake)
        context = reading(settings, terminal.listen)  # there must be a lake
        if dry_run:
            result = run_vacuum(context, keep, hours, dry_run=True)
        else:
            with writing(settings, "vacuum", terminal.listen) as context:
                result = run_vacuum(context, keep, hours)
        terminal.say(
            f"{result.counts['files']} files, {result.counts['bytes']} bytes {'would be ' if dry_run else ''}deleted"
        )
        terminal.result({"ok": True, "dry_run": dry_run, **result.counts})
