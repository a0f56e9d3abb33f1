"""Commands for what left the lake: leases, acknowledgements, recalls, changes to replay."""

from __future__ import annotations

from typing import Annotated

import typer

from facelake.cli.options import (
    SETTINGS,
    ConfigOption,
    DebugOption,
    JsonOption,
    LakeOption,
    QuietOption,
    open_terminal,
    read_config,
    template_key,
)
from facelake.terminal import boundary

feed_app = typer.Typer(help="What was handed to matchers, and what they have to replay.", **SETTINGS)
LeaseArgument = Annotated[str, typer.Argument(help="lease id; see `facelake feed leases`")]
_SHOWN = (
    "lease_id",
    "recipient",
    "purpose",
    "issued_at",
    "expires_at",
    "gallery_version",
    "identities",
    "acknowledged",
)


@feed_app.command("leases")
def feed_leases(
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Every lease, and what its recipient still owes."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading
        from facelake.stages.sharing.leases import leases, what_is_owed

        context = reading(read_config(config, lake))
        owed = what_is_owed(context.lake, context.now)
        rows = [
            {name: getattr(lease, name) for name in _SHOWN}
            | {"recalled": lease.recalled, "returned": lease.returned, "owes": owed.get(lease.lease_id)}
            for lease in leases(context.lake)
        ]
        terminal.table("leases", [*_SHOWN, "owes"], [[row[name] for name in (*_SHOWN, "owes")] for row in rows])
        terminal.result({"ok": True, "leases": rows})


@feed_app.command("ack")
def feed_ack(
    lease: LeaseArgument,
    version: Annotated[int | None, typer.Option(help="gallery version applied; default: the newest")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Record that the recipient has applied every change, erasures among them, up to a gallery version."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import writing
        from facelake.stages.sharing.leases import acknowledge

        with writing(read_config(config, lake), "feed", terminal.listen) as context:
            found = acknowledge(context.lake, lease, version)
        terminal.say(f"{found.lease_id}: acknowledged up to gallery {found.acknowledged}")
        terminal.result({"ok": True, "lease_id": found.lease_id, "acknowledged": found.acknowledged})


@feed_app.command("return")
def feed_return(
    lease: LeaseArgument,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Record that the recipient has deleted what he held."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import writing
        from facelake.stages.sharing.leases import hand_back

        with writing(read_config(config, lake), "feed", terminal.listen) as context:
            found = hand_back(context.lake, lease)
        terminal.say(f"{found.lease_id}: returned")
        terminal.result({"ok": True, "lease_id": found.lease_id})


@feed_app.command("recall")
def feed_recall(
    lease: Annotated[str | None, typer.Argument(help="lease id")] = None,
    recipient: Annotated[str | None, typer.Option(help="recall all that is out to this recipient")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Call leases back; until they are returned the recipient gets nothing more."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import writing
        from facelake.stages.sharing.leases import recall

        with writing(read_config(config, lake), "feed", terminal.listen) as context:
            found = recall(context.lake, lease, recipient)
        terminal.say(f"recalled {', '.join(item.lease_id for item in found)}")
        terminal.result({"ok": True, "recalled": [item.lease_id for item in found]})


@feed_app.command("changes")
def feed_changes(
    since: Annotated[int, typer.Option(help="gallery version that the copy is at")],
    out: Annotated[str | None, typer.Option(help="Parquet file to write; default: only say how many")] = None,
    key_env: Annotated[str | None, typer.Option(help="environment variable with the key of the export")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """What to replay on a copy of an older gallery: put active rows, drop the others."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        import pyarrow.parquet as pq

        from facelake.nightly import reading
        from facelake.stages.sharing.leases import changes_since

        settings = read_config(config, lake)
        key = template_key(key_env) if key_env else None
        rows = changes_since(reading(settings).lake, since, key, settings.purpose)
        if out:
            pq.write_table(rows, out, compression="zstd")
        terminal.say(f"{rows.num_rows} identities changed since gallery {since}{f': {out}' if out else ''}")
        terminal.result({"ok": True, "changed": rows.num_rows, "out": out})
