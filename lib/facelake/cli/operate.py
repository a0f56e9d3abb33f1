"""Commands for operators: status, metrics, vacuum, cleanup."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facelake.cli.command import Invocation, command
from facelake.cli.run import app
from facelake.config import Config
from facelake.errors import ConfigError
from facelake.plural import counted
from facelake.terminal import Terminal

if TYPE_CHECKING:
    from facelake.stages.operations.local_files import LocalFiles

_CLIENT_TIMEOUT_S = 10
_LISTED = 8  # files of one kind that `cleanup` prints one by one


@command(app)
def status(
    call: Invocation,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="print Prometheus metrics instead")] = False,
    serve: Annotated[int | None, typer.Option(help="serve the metrics on this port until stopped")] = None,
    host: Annotated[str, typer.Option(help="with --serve: address to listen on; 0.0.0.0 for all")] = "127.0.0.1",
) -> None:
    """Print who writes the lake, the current stage with its ETA, the last runs and commits. Only reads the lake."""
    from facelake.stages.operations.prometheus import exposition
    from facelake.stages.operations.status import status as read_status

    settings = call.config()
    if serve is not None:
        _serve_metrics(call.terminal, settings, host, serve)
        return
    state = read_status(settings)
    if prometheus:
        typer.echo(exposition(state), nl=False)
        return
    _show(call.terminal, state)
    call.terminal.result({"ok": True, **state})


def _show(terminal: Terminal, state: dict[str, Any]) -> None:
    holder, work, gallery = state["holder"], state["work"], state["gallery"]
    if holder:
        writer = f"{holder['for']}, process {holder['pid']} on {holder['host']}"
        terminal.say(f"writer: {writer}: {holder['state']}, renewed {holder['renewed_s_ago']:.0f} s ago")
    else:
        terminal.say("writer: none")
    if work:
        eta = f", about {work['eta_s']:.0f} s left" if work["eta_s"] is not None else ""
        total = f"/{work['total']}" if work["total"] else ""
        terminal.say(f"running: {work['stage']} {work['done']}{total} {work['unit']}{eta}")
    held = f"{counted(gallery['faces'], 'face')} in {counted(gallery['identities'], 'identity', 'identities')}"
    figures = f"gallery {gallery['version']}: {held}"
    terminal.say(figures if gallery["version"] > 0 else "no gallery was published yet")
    if waiting := state["unfinished_erasures"]:
        terminal.say(
            f"unfinished erasures: {', '.join(waiting)} (give the same command again, or `facelake erase --cancel`)"
        )
    runs = [
        [stage, run["started_at"][:19], f"{run['seconds']:.1f}", run["run_id"]]
        for stage, run in state["stages"].items()
    ]
    terminal.table("last runs", ["stage", "started (UTC)", "seconds", "run"], runs)
    tables = [
        [name, table["version"], table["rows"], table["files"], (table["committed_at"] or "")[:19]]
        for name, table in state["tables"].items()
    ]
    # a table that was never written has version -1
    tables = [[cell if cell != -1 else "" for cell in row] for row in tables]
    terminal.table("tables", ["table", "version", "rows", "files", "last commit (UTC)"], tables)


def _serve_metrics(terminal: Terminal, settings: Config, host: str, port: int) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from facelake.errors import FacelakeError
    from facelake.stages.operations.prometheus import exposition
    from facelake.stages.operations.status import status as read_status

    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_TIMEOUT_S  # a client that sends nothing does not keep its thread

        def do_GET(self) -> None:
            try:
                exists = self.path == "/metrics"
                code, body = (200, exposition(read_status(settings))) if exists else (404, "see /metrics\n")
            except FacelakeError as err:
                code, body = 503, f"{err}\n"
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Write no line per scrape."""

    with ThreadingHTTPServer((host, port), Handler) as server:
        terminal.say(f"metrics of {settings.lake} on {host} port {server.server_port}, path /metrics")
        server.serve_forever()


@command(app)
def vacuum(
    call: Invocation,
    keep: Annotated[int, typer.Option(min=2, help="newest gallery versions that stay readable")] = 7,
    hours: Annotated[int, typer.Option(min=0, help="keep files that were in use within this many hours")] = 168,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only count")] = False,
) -> None:
    """Delete data files that no kept gallery version needs. Readers of kept versions are not affected."""
    from facelake.nightly import reading, writing
    from facelake.stages.operations.vacuum import vacuum as run_vacuum

    terminal, settings = call.terminal, call.config()
    context = reading(settings, terminal.listen)  # fails where there is no lake, which `writing` would create
    if dry_run:
        result = run_vacuum(context, keep, hours, dry_run=True)
    else:
        with writing(settings, "vacuum", terminal.listen, must_exist=True) as context:
            result = run_vacuum(context, keep, hours)
    would = "would be " if dry_run else ""
    terminal.say(f"{result.counts['files']} files, {result.counts['bytes']} bytes {would}deleted")
    terminal.result({"ok": True, "dry_run": dry_run, **result.as_json()})


@command(app)
def cleanup(
    call: Invocation,
    delete: Annotated[bool, typer.Option("--delete", help="delete what no process is using, except keys")] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="with --delete: the keys too; without them lakes made with them are lost")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="with --keys: do not ask for confirmation")] = False,
) -> None:
    """List what facelake wrote on this host outside lakes: models, temporary files, keys; or delete it."""
    from facelake.stages.operations.local_files import LocalKind, delete_local_files, local_files

    if keys and not delete:
        raise ConfigError("--keys says what to delete", where="--keys", next_step="add --delete")
    terminal = call.terminal
    listed = local_files(call.config())
    if keys and not yes:
        _confirm_loss([item.path for item in listed if item.kind == LocalKind.KEY])
    deleted = delete_local_files(listed, keys=keys) if delete else []
    terminal.table("files outside lakes", ["path", "kind", "bytes", ""], _rows(listed, deleted))
    kept = [item.as_json() for item in listed if item not in deleted]
    terminal.result({"ok": True, "deleted": [item.as_json() for item in deleted], "kept": kept})


def _confirm_loss(keys: list[str]) -> None:
    """Ask whether keys may be deleted; ConfigError if not, or if nobody can be asked."""
    text = f"{' and '.join(keys) or 'no key'} would be deleted: a lake made with a lost key of hashes cannot be written"
    text += " again, and nobody can check what a lost signing key signed"
    if not (sys.stdin.isatty() and typer.confirm(f"{text}. Delete?")):
        next_step = "keep a copy of the keys, then add --yes; nothing was deleted"
        raise ConfigError(text, where="--keys", next_step=next_step)


def _rows(listed: list[LocalFiles], deleted: list[LocalFiles]) -> list[list[object]]:
    """Return a row per file; of many of one kind and outcome the first ones, and a row for the rest."""
    groups: dict[tuple[str, str], list[LocalFiles]] = {}
    for item in listed:
        groups.setdefault((item.kind, _outcome(item, deleted)), []).append(item)
    rows: list[list[object]] = []
    for (kind, outcome), items in groups.items():
        rows += [[item.path, kind, item.bytes, outcome] for item in items[:_LISTED]]
        if rest := items[_LISTED:]:
            rows.append([f"{len(rest)} more (--json lists all)", kind, sum(item.bytes for item in rest), outcome])
    return rows


def _outcome(item: LocalFiles, deleted: list[LocalFiles]) -> str:
    return "deleted" if item in deleted else "in use" if item.in_use else ""
