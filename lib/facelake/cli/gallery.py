"""Commands on published gallery versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from facelake.cli.command import Invocation, command, template_key, typer_app
from facelake.plural import counted

if TYPE_CHECKING:  # imported when a command runs
    from facelake.stages.gallery.subjects import Contradiction

gallery_app = typer_app("List, show, export and evaluate published gallery versions.")
_RATES = ("fmr_low", "fmr_high", "impostors", "fnmr", "fnmr_low", "fnmr_high")
_SHOWN_PARTS = 4
_POINT_COLUMNS = ("fmr", "similarity", "extrapolated", *_RATES)


@command(gallery_app, "list")
def gallery_list(call: Invocation) -> None:
    """List every published version; erasures and withdrawals make earlier ones unreadable."""
    from facelake.nightly import reading
    from facelake.stages.gallery.versions import is_readable, list_galleries

    lake = reading(call.config()).lake
    rows = [row | {"readable": is_readable(lake, row)} for row in list_galleries(lake)]
    columns = ["gallery_version", "readable", "identities", "faces", "purpose", "model_digest", "created_at"]
    call.terminal.table("galleries", columns, [[row[column] for column in columns] for row in rows])
    call.terminal.result({"ok": True, "galleries": rows})


@command(gallery_app, "show")
def gallery_show(
    call: Invocation,
    identity: Annotated[
        str | None, typer.Argument(help="an identity, photo or subject; default: all, the largest first")
    ] = None,
    version: Annotated[int | None, typer.Option(help="gallery version; default: the newest")] = None,
) -> None:
    """Show the identities of a gallery, or the faces of one identity, photo or subject with their identities."""
    from facelake.nightly import reading
    from facelake.stages.sharing.export import not_in_force, show

    lake = reading(call.config()).lake
    columns, rows = show(lake, identity, version, by_photo=True)
    title = identity or _counted(rows)
    call.terminal.table(title, columns, [[row[column] for column in columns] for row in rows])
    if identity and (text := not_in_force(lake, rows)):
        call.terminal.warn(text)
    call.terminal.result({"ok": True, "faces" if identity else "identities": rows})


def _counted(rows: list[dict[str, Any]]) -> str:
    active = [row for row in rows if row["status"] == "active"]
    single = sum(row["size"] == 1 for row in active)
    held = f"{counted(len(active), 'active identity', 'active identities')} with"
    return f"{held} {counted(sum(row['size'] for row in active), 'face')}; identities of one face: {single:,}"


@command(gallery_app, "changes")
def gallery_changes(
    call: Invocation,
    since: Annotated[
        int | None, typer.Option(min=0, help="list what changed after this version; default: the one before the newest")
    ] = None,
) -> None:
    """List the identities that the newest version changed: created, merged, split, retired, erased, of another size.

    Each has its number of faces before and after. Identities with the same faces as before are not listed.
    """
    from facelake.nightly import reading
    from facelake.stages.gallery.change_list import CHANGE_COLUMNS, changes_since

    first, newest, changes = changes_since(reading(call.config()).lake, since)
    rows = changes.to_pylist()
    before = f"gallery {first}" if first else "nothing, as the first gallery"
    title = f"gallery {newest} compared with {before}: {counted(len(rows), 'change')}"
    if rows:
        call.terminal.table(title, CHANGE_COLUMNS, [[row[name] for name in CHANGE_COLUMNS] for row in rows])
    else:
        call.terminal.say(title)
    call.terminal.result({"ok": True, "since": first, "gallery_version": newest, "changes": rows})


@command(gallery_app, "subjects")
def gallery_subjects(
    call: Invocation,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="rows of each of the two lists")] = 20,
) -> None:
    """List identities with photos of several subject references, and subjects with photos in several identities.

    The evidence is photos with exactly one face that name a subject: in a photo of several people nothing says which
    face is the subject's. Photos that may no longer be used are left out.
    """
    from facelake.nightly import reading
    from facelake.stages.gallery.subjects import find_contradictions

    context = reading(call.config())
    found = find_contradictions(context.lake, most, context.now)
    heads = ["photos", "apart"]
    if found.joined:
        title = "identities with photos of several subjects: several people in one identity, or wrong references"
        rows = [[item.name, item.photos, item.apart, item.count, _parts(item)] for item in found.joined]
        call.terminal.table(title, ["identity_id", *heads, "subjects", "photos of each"], rows)
    if found.divided:
        title = "subjects with photos in several identities: one person in several identities, or wrong references"
        rows = [[item.name, item.photos, item.apart, item.count, _parts(item)] for item in found.divided]
        call.terminal.table(title, ["subject_ref", *heads, "identities", "photos in each"], rows)
    note = ". Correct them with `facelake review` or `facelake correct`; `apart` counts photos outside the largest part"
    evidence = f"by the {found.counts.photos:,} photos that name a subject and have exactly one face"
    told = f"gallery {found.gallery_version}, {evidence}: {found.counts.in_words()}"
    call.terminal.say(told + (note if found.joined or found.divided else ""))
    call.terminal.result(
        {
            "ok": True,
            "gallery_version": found.gallery_version,
            "photos": found.counts.photos,
            "joined_total": found.counts.joined,
            "divided_total": found.counts.divided,
            "joined": [item.as_json("identity_id", "subject_ref") for item in found.joined],
            "divided": [item.as_json("subject_ref", "identity_id") for item in found.divided],
        }
    )


def _parts(item: Contradiction) -> str:
    shown = ", ".join(f"{part.name} {part.photos:,}" for part in item.parts[:_SHOWN_PARTS])
    return shown + (f", {item.count - _SHOWN_PARTS:,} more" if item.count > _SHOWN_PARTS else "")


@command(gallery_app, "export")
def gallery_export(
    call: Invocation,
    out: Annotated[str, typer.Option(help="folder to write to")],
    purpose: Annotated[str, typer.Option(help="what the recipient will use it for")],
    recipient: Annotated[str, typer.Option(help="who receives it")],
    key_env: Annotated[
        str | None, typer.Option(help="environment variable with the key (hex) that rotates the templates")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="days until the lease expires; default: the config's")] = None,
) -> None:
    """Export templates to a recipient under a lease, for a purpose that the ledger permits. Audited."""
    from facelake.nightly import writing
    from facelake.stages.sharing.export import export_gallery

    key = template_key(key_env) if key_env else None
    with writing(call.config(), "export", call.terminal.listen, must_exist=True) as context:
        manifest = export_gallery(context, out, purpose, recipient, days=days, key=key)
    call.terminal.say(
        f"{manifest['identities']} identities of gallery {manifest['gallery_version']} written to {out}: "
        f"{manifest['lease_id']}, until {manifest['expires_at'][:10]}"
    )
    call.terminal.result({"ok": True, **manifest})


@command(gallery_app, "accuracy")
def gallery_accuracy(
    call: Invocation,
    labels: Annotated[
        str | None, typer.Option(help="CSV with the columns image (photo id or file name) and person")
    ] = None,
) -> None:
    """Report false match and non-match rates with counts, and failure to enrol, after ISO/IEC 19795-1."""
    from facelake.nightly import reading
    from facelake.stages.evaluation.accuracy import accuracy
    from facelake.stages.evaluation.labels import People

    report = accuracy(reading(call.config()), labels)
    if labels:
        call.terminal.say(People(**report["labels"]["in_gallery"]).in_words())
    enrolment = report["enrolment"]
    failed = f"failure to enrol: {enrolment['failed']:,} of {enrolment['images']:,} admitted images have no face"
    reasons = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in enrolment["reasons"].items())
    call.terminal.say(failed + (f": {reasons}" if reasons else ""))
    parts = {"same photo": report["same_photo"], "gallery": report["gallery"]}
    parts |= {"labels": report["labels"]["points"]} if labels else {}
    points = [(name, point) for name, points in parts.items() for point in points]
    shown = [item for item in points if item[1]["similarity"] is not None or item[1]["extrapolated"] is not None]
    rows = [[name, *(point[key] for key in _POINT_COLUMNS)] for name, point in shown]
    call.terminal.table("accuracy", ["evidence", *_POINT_COLUMNS], rows)
    for note in report["notes"]:
        call.terminal.say(note)
    if any(point["similarity"] is None for _, point in shown):
        call.terminal.say(
            "`extrapolated` is an estimate where too few comparisons of different people (impostors) were made to count"
            " errors at that rate; it is rather too high than too low"
        )
    call.terminal.result({"ok": True, **report})
