"""Commands around the work: ledger, models, gallery."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

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
from facelake.config import Config
from facelake.contracts import Covers, SourceClass
from facelake.errors import ConfigError
from facelake.terminal import Terminal, boundary

ledger_app = typer.Typer(help="The legal-basis events.", **SETTINGS)
models_app = typer.Typer(help="Model cards and files.", **SETTINGS)
gallery_app = typer.Typer(help="Published gallery versions.", **SETTINGS)


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as err:
        raise ConfigError(
            f"not a date: {text!r}", where=option, next_step="write 2027-01-31 or 2027-01-31T12:00+00:00"
        ) from err
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _record(
    terminal: Terminal, settings: Config, kind: str, sources: list[str], subjects: list[str], **facts: Any
) -> None:
    from facelake.contracts import EventKind, Scope
    from facelake.lake.lake import Lake
    from facelake.stages.admission.ledger import Entry, record

    if not sources and not subjects:
        raise ConfigError(
            f"a {kind} needs a source or a subject", where="ledger", next_step="give --source or --subject"
        )
    named = [(Scope.SOURCE, key) for key in sources] + [(Scope.SUBJECT, key) for key in subjects]
    entries = [Entry(EventKind(kind), scope, key, **facts) for scope, key in named]
    for entry in entries:
        entry.check()
    record(Lake.create(settings.lake, settings.s3), entries)
    terminal.say(f"recorded {len(sources) + len(subjects)} event(s); the next night acts on them")
    terminal.result({"ok": True, "events": len(sources) + len(subjects)})


@ledger_app.command("grant")
def ledger_grant(
    basis: Annotated[str, typer.Option(help="the legal basis, e.g. 'signed release 2026-03'")],
    purpose: Annotated[list[str], typer.Option(help="what for (may be repeated)")],
    source: Annotated[list[str] | None, typer.Option()] = None,
    subject: Annotated[list[str] | None, typer.Option()] = None,
    evidence: Annotated[str, typer.Option(help="reference of the evidence; only its hash is kept")] = "",
    valid_from: Annotated[str | None, typer.Option("--from", help="date from which it holds")] = None,
    valid_until: Annotated[str | None, typer.Option("--until", help="date at which it ends")] = None,
    destroy_by: Annotated[str | None, typer.Option(help="date by which the data must be gone")] = None,
    last_contact: Annotated[str | None, typer.Option(help="date of the last contact; default: today")] = None,
    exemption: Annotated[str, typer.Option(help="Art. 9 GDPR exemption or written release, e.g. 'Art. 9(2)(a)'")] = "",
    covers: Annotated[
        Covers | None, typer.Option(help="of whom it speaks; default: everyone for a source, the named for a subject")
    ] = None,
    source_class: Annotated[
        SourceClass, typer.Option("--class", help="how the source came by the photos; the last three are refused")
    ] = SourceClass.CONTRIBUTED,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Record a legal basis for sources or subjects."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.stages.admission.ledger import evidence_digest

        _record(
            terminal, read_config(config, lake), "grant", source or [], subject or [], purposes=tuple(purpose),
            basis=basis, exemption=exemption, evidence_sha256=evidence_digest(evidence), covers=covers,
            source_class=source_class, valid_from=_moment(valid_from, "--from"),
            valid_until=_moment(valid_until, "--until"), last_contact=_moment(last_contact, "--last-contact"),
            destroy_by=_moment(destroy_by, "--destroy-by"),
        )  # fmt: skip


@ledger_app.command("withdraw")
def ledger_withdraw(
    source: Annotated[list[str] | None, typer.Option()] = None,
    subject: Annotated[list[str] | None, typer.Option()] = None,
    purpose: Annotated[list[str] | None, typer.Option(help="only for this purpose; default: all")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Withdraw the basis of sources or subjects; the next night removes what came of their photos."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        _record(
            terminal, read_config(config, lake), "withdraw", source or [], subject or [], purposes=tuple(purpose or ())
        )


@ledger_app.command("import")
def ledger_import(
    file: Annotated[str, typer.Argument(help="CSV or Parquet file of events; see docs/consent.md for its columns")],
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Record the events of a file; every line that is not sound is reported, and the exit code is 1 then."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.lake.lake import Lake
        from facelake.stages.admission.ledger_import import import_ledger

        settings = read_config(config, lake)
        recorded, present, rejected = import_ledger(Lake.create(settings.lake, settings.s3), file)
        terminal.table("rejected lines", ["line", "problem"], [[item.line, item.problem] for item in rejected])
        terminal.say(f"{recorded} events recorded, {present} were there already, {len(rejected)} lines rejected")
        lines = [{"line": item.line, "problem": item.problem} for item in rejected]
        counts = {"events": recorded, "present": present, "rejected": len(rejected)}
        terminal.result({"ok": not rejected, **counts, "lines": lines})
        if rejected:
            raise typer.Exit(1)


@ledger_app.command("list")
def ledger_list(
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Every event, in order."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading

        rows = reading(read_config(config, lake)).lake["ledger"].read().sort_by("seq").to_pylist()
        columns = [
            "seq",
            "kind",
            "scope",
            "key",
            "purposes",
            "basis",
            "covers",
            "source_class",
            "valid_from",
            "valid_until",
            "destroy_by",
            "recorded_at",
        ]
        terminal.table("ledger", columns, [[row[c] for c in columns] for row in rows])
        terminal.result({"ok": True, "events": rows})


@models_app.command("list")
def models_list(json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False) -> None:
    """The model cards that ship with facelake."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.stages.models.registry import cards

        found = cards()
        terminal.table("models", ["name", "title", "licence"], [[c.name, c.title, c.licence] for c in found])
        terminal.result({"ok": True, "models": [c.model_dump() for c in found]})


@models_app.command("fetch")
def models_fetch(
    name: Annotated[str | None, typer.Argument(help="card; default: the config's")] = None,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Fetch a model's files, check their digests, keep them in the cache."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.lake.store import open_store
        from facelake.stages.models.registry import cache_folder, load_pack, share_pack

        settings = read_config(config, None, model__card=name)
        pack = load_pack(settings)
        if share_pack(pack, open_store(settings.lake, settings.s3)):
            terminal.say(f"and left in {settings.lake} for hosts without a package index")
        terminal.say(f"{pack.card.name}: files verified in {cache_folder(settings)}")
        terminal.result({"ok": True, "model": pack.card.name, "folder": str(cache_folder(settings))})


@models_app.command("show")
def models_show(
    name: Annotated[str | None, typer.Argument(help="card; default: the config's")] = None,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """A model's card."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.stages.models.registry import config_model_digest, find_card

        settings = read_config(config, None, model__card=name)
        card = find_card(settings.model.card)
        body = card.model_dump() | {"digest": config_model_digest(settings, card)}
        terminal.table(card.name, ["key", "value"], [[key, value] for key, value in body.items()])
        terminal.result({"ok": True, "model": body})


@models_app.command("card")
def models_card(
    pack: Annotated[str, typer.Argument(help="directory or s3:// of a pack, or insightface:NAME, which fetches it")],
    out: Annotated[str, typer.Option(help="YAML file to write")],
    training_data: Annotated[str | None, typer.Option(help="what the encoder was trained on")] = None,
    encoder: Annotated[str | None, typer.Option(help="file name of the encoder, where it is not the only one")] = None,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Make the card of an InsightFace pack; of its files only detector and encoder are read."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.stages.admission.withdrawn_datasets import load_lineages
        from facelake.stages.models.model_cards import card_of_pack, write_card

        settings = read_config(config, None)
        card, _ = card_of_pack(pack, settings, training_data, encoder)
        found = load_lineages(settings).of_card([], card.training_data)
        card = card.model_copy(update={"withdrawn_lineage": list(found)})
        write_card(card, out)
        lineage = ", ".join(found) or "none by the words of its training data"
        terminal.say(f"{out}: {card.title}; withdrawn lineage: {lineage}. Read it before you use it.")
        terminal.result({"ok": True, "card": out, **card.model_dump(mode="json")})


@models_app.command("int8")
def models_int8(
    images: Annotated[str, typer.Option(help="folder of photos of many people, whose faces give the ranges")],
    out: Annotated[str, typer.Option(help="folder for the pack and its card")],
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Make a pack whose encoder computes in 8-bit integers, out of the config's; it is another model."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.stages.models.quantize import write_int8_pack

        made = write_int8_pack(read_config(config, None), images, out)
        terminal.say(f"{made['card']}: ranges of {made['faces']} faces; set model.card to it")
        terminal.result({"ok": True, **made})


@gallery_app.command("list")
def gallery_list(
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Every published version."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading
        from facelake.stages.gallery.versions import list_galleries

        rows = list_galleries(reading(read_config(config, lake)).lake)
        columns = ["gallery_version", "identities", "faces", "purpose", "model_digest", "created_at"]
        terminal.table("galleries", columns, [[row[c] for c in columns] for row in rows])
        terminal.result({"ok": True, "galleries": rows})


@gallery_app.command("show")
def gallery_show(
    identity: Annotated[str | None, typer.Argument(help="an identity id; default: all, the largest first")] = None,
    version: Annotated[int | None, typer.Option(help="gallery version; default: the newest")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """The identities of a gallery, or the faces of one identity."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading
        from facelake.stages.sharing.export import show

        columns, rows = show(reading(read_config(config, lake)).lake, identity, version)
        terminal.table(identity or "identities", columns, [[row[c] for c in columns] for row in rows])
        terminal.result({"ok": True, "faces" if identity else "identities": rows})


@gallery_app.command("export")
def gallery_export(
    out: Annotated[str, typer.Option(help="folder to write to")],
    purpose: Annotated[str, typer.Option(help="what the recipient will use it for")],
    recipient: Annotated[str, typer.Option(help="who receives it")],
    key_env: Annotated[
        str | None, typer.Option(help="environment variable with the key (hex) by which templates are rotated")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="how long it may be used; default: the config's")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Hand prototypes to a recipient, for a purpose that the identities are in force for; kept in the audit trail."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import writing
        from facelake.stages.sharing.export import export_gallery

        key = template_key(key_env) if key_env else None
        with writing(read_config(config, lake), "export", terminal.listen) as context:
            manifest = export_gallery(context, out, purpose, recipient, days, key)
        said = f"{manifest['identities']} identities of gallery {manifest['gallery_version']} written to {out}"
        terminal.say(f"{said}: {manifest['lease_id']}, until {manifest['expires_at'][:10]}")
        terminal.result({"ok": True, **manifest})


@gallery_app.command("accuracy")
def gallery_accuracy(
    labels: Annotated[str | None, typer.Option(help="CSV with columns image, person: who is really in them")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """False match and non-match rates with their counts, and failure to enrol, as ISO/IEC 19795-1 has them told."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading
        from facelake.stages.evaluation.accuracy import accuracy

        report = accuracy(reading(read_config(config, lake)), labels)
        enrolment = report["enrolment"]
        said = f"{enrolment['failed']} of {enrolment['images']} admitted images gave no face"
        terminal.say(f"failure to enrol: {said}: {enrolment['reasons']}")
        shown = ["evidence", "fmr", "similarity", "fmr_low", "fmr_high", "impostors", "fnmr", "fnmr_low", "fnmr_high"]
        parts = {"same photo": report["same_photo"], "gallery": report["gallery"]}
        parts |= {"labels": report["labels"]["points"]} if labels else {}
        rows = [[name, *(point[key] for key in shown[1:])] for name, points in parts.items() for point in points]
        terminal.table("accuracy", shown, rows)
        terminal.result({"ok": True, **report})
