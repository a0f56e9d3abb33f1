"""Commands on what recipients hold: leases, acknowledgements, recalls, changes to apply."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from facelake.cli.command import Invocation, command, template_key, typer_app

feed_app = typer_app("Manage what matchers received: leases, recalls, and the changes they must apply.")
_Lease = Annotated[str, typer.Argument(help="lease id; see `facelake feed leases`")]
_COLUMNS = (
    "lease_id",
    "recipient",
    "purpose",
    "issued_at",
    "expires_at",
    "identities",
    "gallery_version",
    "acknowledged",
)
_HEADS = {"gallery_version": "gallery at issue", "acknowledged": "gallery acknowledged"}


@command(feed_app, "leases")
def feed_leases(call: Invocation) -> None:
    """List every lease, the gallery version that its recipient has acknowledged, and what the recipient still owes.

    A push acknowledges by itself: that version is what the target holds.
    """
    from facelake.nightly import reading
    from facelake.stages.sharing.restored_lake import restored_at

    now = datetime.now(UTC)
    rows = [
        {name: getattr(state.lease, name) for name in _COLUMNS}
        | {"state": state.lease.ended(now) or "in force"}
        | {"recalled": state.lease.recalled, "returned": state.lease.returned, "owes": state.owes}
        for state in call.open_lake().feed.leases()
    ]
    columns = [*_COLUMNS, "state", "owes"]
    for row in (shown := [dict(row) for row in rows]):  # the table has the reason in `owes`
        row["state"] = row["state"] if row["state"] == "in force" else row["state"].removeprefix("was ").split()[0]
    heads = [_HEADS.get(name, name) for name in columns]
    restored = restored_at(reading(call.config()).lake)
    if restored:
        call.terminal.say(
            f"this lake was restored from a backup ({restored:%F %R} UTC): leases between the backup and then are not "
            "known. Compare with your own notes who received a copy, have it deleted, and export again"
        )
    elif not rows:
        call.terminal.say("no leases: nothing was exported from this lake")
    call.terminal.table("leases", heads, [[row[name] for name in columns] for row in shown])
    call.terminal.result({"ok": True, "leases": rows})


@command(feed_app, "ack")
def feed_ack(
    call: Invocation,
    lease: _Lease,
    version: Annotated[
        int | None, typer.Option(help="gallery version applied; default: all that was handed out")
    ] = None,
) -> None:
    """Record that the recipient has applied the changes that it was given, erasures included."""
    feed = call.open_lake().feed
    updated = feed.acknowledge(lease, version)
    call.terminal.say(f"{updated.lease_id}: acknowledged up to gallery {updated.acknowledged}")
    owes = next(state.owes for state in feed.leases() if state.lease.lease_id == lease)
    if owes:
        next_step = "`facelake feed return` once the copy is deleted"
        if not updated.ended(datetime.now(UTC)):
            next_step = f"run `facelake feed changes` again, or {next_step}"
        call.terminal.say(f"{updated.lease_id}: still open: {owes}. Next: {next_step}")
    result = {"lease_id": updated.lease_id, "acknowledged": updated.acknowledged, "owes": owes}
    call.terminal.result({"ok": True, **result})


@command(feed_app, "return")
def feed_return(call: Invocation, lease: _Lease) -> None:
    """Record that the recipient has deleted their copy."""
    updated = call.open_lake().feed.mark_returned(lease)
    call.terminal.say(f"{updated.lease_id}: returned")
    call.terminal.result({"ok": True, "lease_id": updated.lease_id})


@command(feed_app, "recall")
def feed_recall(
    call: Invocation,
    lease: Annotated[str | None, typer.Argument(help="lease id")] = None,
    recipient: Annotated[str | None, typer.Option(help="recall every lease of this recipient")] = None,
) -> None:
    """Recall leases; until they are returned, the recipient gets no further export."""
    recalled = call.open_lake().feed.recall(lease_id=lease, recipient=recipient)
    call.terminal.say(f"recalled {', '.join(item.lease_id for item in recalled)}")
    call.terminal.result({"ok": True, "recalled": [item.lease_id for item in recalled]})


@command(feed_app, "renew")
def feed_renew(
    call: Invocation,
    lease: _Lease,
    out: Annotated[
        str | None, typer.Option(help="of files: the export, or a folder or s3://bucket/prefix to send from")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="days until the new end; default: the config's")] = None,
) -> None:
    """Let a lease end later, if it is in force and its recipient owes nothing; nothing is exported again. Audited."""
    renewed = call.open_lake().feed.renew(lease, days=days, out=out)
    then = f"manifest written to {renewed['out']}" if renewed.get("out") else "run `feed push` to bring it to the rows"
    call.terminal.say(f"{lease}: renewed until {renewed['expires_at'][:10]}; {then}")
    call.terminal.result({"ok": True, **renewed})


@command(feed_app, "changes")
def feed_changes(
    call: Invocation,
    lease: _Lease,
    out: Annotated[str, typer.Option(help="folder or s3://bucket/prefix to write to")],
    since: Annotated[
        int | None, typer.Option(min=0, help="gallery version of the copy; default: what was acknowledged")
    ] = None,
    key_env: Annotated[str | None, typer.Option(help="environment variable with the key of the export")] = None,
) -> None:
    """Write the changes that bring the copy of a lease up to date: upsert active rows, delete the others. Audited."""
    key = template_key(key_env) if key_env else None
    manifest = call.open_lake().feed.changes(lease, out, since=since, key=key)
    to = f"gallery {manifest['since']} to {manifest['gallery_version']}"
    call.terminal.say(f"{manifest['changed']} identities changed from {to}: {out}")
    call.terminal.result({"ok": True, "out": out, **manifest})


@command(feed_app, "push")
def feed_push(
    call: Invocation,
    to: Annotated[str, typer.Option(help="postgresql, qdrant, milvus, lancedb or lancedb+s3 URL, with ?table=NAME")],
    recipient: Annotated[str | None, typer.Option(help="who operates the target; needed for the first push")] = None,
    purpose: Annotated[str | None, typer.Option(help="what it is used for; needed for the first push")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="days until the lease expires; default: the config's")] = None,
    key_env: Annotated[
        str | None, typer.Option(help="environment variable with the key (hex) that rotates the templates")
    ] = None,
    exemplars: Annotated[
        bool | None, typer.Option("--exemplars/--no-exemplars", help="also push exemplars; default: as the target is")
    ] = None,
    new_lease: Annotated[
        bool, typer.Option("--new-lease", help="fill a target again whose lease was recalled or has ended")
    ] = False,
) -> None:
    """Bring a matcher's database to the newest gallery; empty it if its lease was recalled or has ended. Audited."""
    key = template_key(key_env) if key_env else None
    result = call.open_lake().feed.push(
        to, recipient=recipient, purpose=purpose, days=days, key=key, exemplars=exemplars, new_lease=new_lease
    )
    counts = ", ".join(f"{name} {result[name]}" for name in ("inserted", "replaced", "deleted", "after"))
    version = f"gallery {result['gallery_version']}, " if result["gallery_version"] else ""
    call.terminal.say(f"{result['state']}: {version}{counts} ({result['lease_id']})")
    if result["state"] == "emptied":
        call.terminal.say("later pushes do not fill this target again without --new-lease")
    if result["kept"]:
        call.terminal.say(f"the engine keeps what was deleted in: {result['kept']}")
    call.terminal.result({"ok": True, **result})
