"""Commands that process photos: the demo, import, the nightly run and its stages."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facelake import __version__
from facelake.cli.command import Invocation, command, typer_app
from facelake.contracts import Covers, SourceClass
from facelake.errors import ConfigError, FacelakeError
from facelake.plural import counted, first_of
from facelake.terminal import Terminal

if TYPE_CHECKING:  # imported when a command runs
    from facelake.config import Config
    from facelake.lake.lake import Lake
    from facelake.stages.core.context import StageResult

app = typer_app("Turn photos of consenting people into a gallery of identities, stored as Delta Lake tables.")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"facelake {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Carry the options that stand before a command."""


def run_stages(
    call: Invocation,
    stages: list[str],
    *,
    wait_s: float = 0.0,
    rebase: bool = False,
    accept_loss: bool = False,
    on_engines: bool = False,
    fail_on_alert: bool = False,
) -> None:
    """Run stages, print a summary, and write the JSON result; `on_engines`: on Ray and Spark whatever the size.

    Raises:
        Exit: a partition failed; or with `fail_on_alert`, a report says that action is required.
    """
    from facelake.nightly import run_night
    from facelake.partitions import is_partition

    below = 0 if on_engines else None
    terminal, settings = call.terminal, call.config(spark__in_process_below=below, ray__one_process_below=below)

    def run(config: Config) -> dict[str, Any]:
        results = run_night(config, terminal.listen, stages, wait_s=wait_s, rebase=rebase, accept_loss=accept_loss)
        return _summarised(terminal, config, results)

    if settings.gallery.partition_by is None or is_partition(settings):
        outcome = {"ok": True, **run(settings)}
        outcomes = [outcome]
    else:
        outcome = _run_partitions(terminal, settings, run)
        outcomes = list(outcome["partitions"].values())
    alerts = [alert for one in outcomes if (alert := _first_to_act_on(one))] if fail_on_alert else []
    for message, report in alerts:
        terminal.alert(message, report)
    terminal.result(outcome)
    if not outcome["ok"] or alerts:
        raise typer.Exit(1)


def _first_to_act_on(outcome: dict[str, Any]) -> tuple[str, str] | None:
    """Return the first alert of a run's report that demands action, and where the report is; None for no such alert."""
    report = outcome.get("stages", {}).get("report", {})
    if not report.get("to_act_on"):
        return None
    return report.get("first_alert", "action is required"), _page(outcome["lake"])


def _page(lake: str) -> str:
    return f"{lake.rstrip('/')}/reports/latest.html"


def _run_partitions(terminal: Terminal, settings: Config, run: Callable[[Config], dict[str, Any]]) -> dict[str, Any]:
    """Run the stages in every partition, and return the JSON result; one that fails does not stop the others.

    Raises:
        ConfigError: there is no partition.
    """
    from facelake.stages.core.partition_names import partitions_of

    outcomes: dict[str, dict[str, Any]] = {}
    for name, config in partitions_of(settings).items():
        terminal.say(f"partition {name}")
        try:
            outcomes[name] = {"ok": True, **run(config)}
        except FacelakeError as err:
            terminal.say(f"partition {name}: {err}")
            outcomes[name] = {"ok": False, "error": str(err)}
    if not outcomes:
        next_step = "import photos with --partition, or `facelake ledger grant --create-lake --partition`"
        raise ConfigError("the gallery has no partition yet", where=settings.lake, next_step=next_step)
    done = all(outcome["ok"] for outcome in outcomes.values())
    return {"ok": done, "lake": settings.lake, "partitions": outcomes}


def _summarised(terminal: Terminal, settings: Config, results: Sequence[StageResult]) -> dict[str, Any]:
    """Print the summary of a run and return its JSON result."""
    from facelake.nightly import reading
    from facelake.stages.gallery.versions import current_gallery

    gallery = current_gallery(reading(settings).lake)
    terminal.run_summary(results)
    summary = {}
    if gallery:
        faces, identities = gallery.row["faces"], gallery.row["identities"]
        summary = {"gallery": gallery.version, "identities": identities, "faces": faces}
        held = f"{counted(faces, 'face')} in {counted(identities, 'identity', 'identities')}"
        terminal.say(f"gallery {gallery.version}: {held}")
        terminal.say(f"report: {_page(settings.lake)}")
    counts = {r.stage: {"skipped": r.skipped, "seconds": round(r.seconds, 3), **r.as_json()} for r in results}
    return {"lake": settings.lake, **summary, "stages": counts}


@command(app)
def demo(
    call: Invocation,
    photos: Annotated[str | None, typer.Option(help="your own folder of photos instead of the built-in set")] = None,
    basis: Annotated[str | None, typer.Option(help="with --photos: the legal basis that you state for them")] = None,
) -> None:
    """Run every stage on a small built-in set of photos, or on your own, and print where the report is."""
    from facelake.demo import build_demo
    from facelake.lake.lake import is_demo
    from facelake.nightly import writing
    from facelake.stages.admission.import_grants import Grant
    from facelake.stages.admission.import_images import import_folder
    from facelake.stages.core.hash_keys import without_hash_key

    settings = without_hash_key(call.config())
    stated = ""
    if photos:
        stated = basis or _asked_basis(settings, Path(photos).expanduser().resolve().name, None) or ""
    with writing(settings, "demo", call.terminal.listen) as context:
        context.lake.mark_as_demo()
        if not is_demo(context.lake.store):
            next_step = "give the demo another --lake; your own photos come into this one by `facelake import`"
            raise ConfigError("this lake was not made by `facelake demo`", where=settings.lake, next_step=next_step)
        if photos:
            import_folder(context, photos, grant=Grant(stated) if stated else None)
        else:
            build_demo(context)
    faces, few = f"{call.config().spark.in_process_below:,}", call.config().ray.one_process_below
    call.terminal.say(
        "the demo uses Ray and Spark, to show that both work on this machine; other runs use Ray from"
        f" {few} new photos and Spark from {faces} faces on. Warnings that Java prints are harmless"
    )
    run_stages(call, [], on_engines=True)


@command(app, "import")
def import_(
    call: Invocation,
    *,
    folder: Annotated[
        str, typer.Argument(help="folder of photos with its subfolders, s3:// prefix, or uncompressed .tar file")
    ],
    person_from: Annotated[
        str | None,
        typer.Option(help="regex on the file name (with a `/`: on its path); group 1 is the subject reference"),
    ] = None,
    person_prefix: Annotated[
        str, typer.Option(help="text to put before each reference, where two sources number people alike")
    ] = "",
    source: Annotated[str | None, typer.Option(help="source_id; default: the folder's name")] = None,
    basis: Annotated[
        str | None, typer.Option(help="the legal basis that you state, e.g. 'signed release'; needed for a new source")
    ] = None,
    purpose: Annotated[list[str] | None, typer.Option(help="permitted purpose; default: the config's")] = None,
    evidence: Annotated[str, typer.Option(help="reference of the written release; only its hash is stored")] = "",
    exemption: Annotated[str, typer.Option(help="Art. 9 GDPR exemption or written release")] = "",
    covers: Annotated[
        Covers, typer.Option(help="whether the basis covers everyone in the photos or only the named subject")
    ] = Covers.EVERYONE,
    source_class: Annotated[
        SourceClass | None,
        typer.Option("--class", help="how the source obtained the photos; the last three are refused, for good"),
    ] = None,
    no_grant: Annotated[
        bool, typer.Option("--no-grant", help="record no legal basis; the photos stay refused")
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="import what symbolic links lead to; loops are left out")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="take new content of known photos, and the person that --person-from gives now"),
    ] = False,
) -> None:
    """Copy a folder of photos into the lake's corpus and record their legal basis."""
    from facelake.lake.lake import has_lake
    from facelake.lake.store import open_store
    from facelake.nightly import writing
    from facelake.stages.admission.import_grants import Grant, refuse_before_lake
    from facelake.stages.admission.import_images import check_source, import_folder
    from facelake.stages.admission.import_sources import naming_of
    from facelake.stages.core.hash_keys import note_of_other_lakes
    from facelake.stages.governance.processing_register import require_assessment_to_import

    terminal, settings = call.terminal, call.config()
    require_assessment_to_import(settings)
    naming_of(person_from, person_prefix)
    origin = check_source(folder, settings)
    source_id = source or settings.partition or origin.name
    if not (basis or "").strip() and not no_grant:  # an unset variable of a script gives an empty one
        basis = _asked_basis(settings, source_id, purpose)
    stated = (basis or "", tuple(purpose or ()), evidence, exemption, covers, source_class)
    grant = None if no_grant or not basis else Grant(*stated)
    refuse_before_lake(settings, grant)
    made = not has_lake(open_store(settings.lake, settings.s3))
    with writing(settings, "import", terminal.listen) as context:
        if made:
            terminal.say(f"a new lake is made: {context.lake.uri}")
            if others := note_of_other_lakes(settings):
                terminal.warn(others)
        result = import_folder(
            context,
            folder,
            source=source,
            person_from=person_from,
            person_prefix=person_prefix,
            grant=grant,
            follow_links=follow_links,
            replace_changed=replace,
        )
    if result.counts["granted"]:
        purposes = ", ".join(purpose or [settings.purpose])
        terminal.say(
            f"recorded a grant: basis {basis!r}, purpose {purposes}."
            f" `facelake ledger expire --source {shlex.quote(source_id)}{call.options()}` ends it."
        )
    elif grant is None:
        of_people = person_from is not None and bool(result.counts["subjects"])
        _say_without_grant(call, context.lake, source_id, purpose or [settings.purpose], of_people=of_people)
    if named := result.counts["subjects"]:
        terminal.say(f"subject references in the imported photos: {named:,}")
    if person_from is None and result.counts["imported"]:
        said = f"{counted(result.counts['imported'], 'photo')} without a subject reference"
        terminal.say(f"{said}: a person in them is erased by photo or identity (see --person-from)")
    if changed := result.counts["changed"]:
        terminal.say(f"not imported: {counted(changed, 'changed photo')}; import again with --replace to take them.")
    terminal.result({"ok": True, "lake": settings.lake, **result.as_json()})


def _say_without_grant(call: Invocation, lake: Lake, source: str, purposes: list[str], *, of_people: bool) -> None:
    """Say which photos of a source are processed without a grant of its own.

    Args:
        call: of the command.
        lake: the lake.
        source: the source.
        purposes: that the photos are to be processed for.
        of_people: whether the photos have subject references, so that people may have grants of their own.
    """
    from facelake.admit import decide
    from facelake.contracts import Refusal, Scope
    from facelake.stages.admission.ledger import read_ledger

    ledger, now = read_ledger(lake), datetime.now(UTC)
    missing = [name for name in purposes if not decide(ledger, source, None, name, now).admitted]
    if not missing:
        return
    to = f"--purpose {shlex.quote(missing[0])} --basis 'signed release'{call.options()}"
    everyone = f"facelake ledger grant --source {shlex.quote(source)} {to}"
    if ledger.standing(Scope.SOURCE, source, missing[0], now).reason is Refusal.WITHDRAWN:
        held = "its photos stay refused, also those of people with a grant of their own"
        call.terminal.say(f"the source is withdrawn: {held}. Only if everyone has agreed again: {everyone}")
        return
    people = len(ledger.granted_subjects(missing[0], now))
    if people or of_people:
        own = f"only photos of people with a grant of their own ({people:,} in the ledger) are processed"
        person = f"{'a further' if people else 'each'} person who agreed: facelake ledger grant --subject NAME {to}"
        many = f"for many, facelake ledger import releases.csv{call.options()}"
        call.terminal.say(f"the source has no grant: {own}. Next, for {person}; {many}")
        call.terminal.say(f"only if everyone in all its photos agreed: {everyone}")
    else:
        call.terminal.say(f"no legal basis was recorded: without one the photos are refused. Next: {everyone}")


def _asked_basis(settings: Config, source: str, purposes: list[str] | None) -> str | None:
    """Return the basis that the operator states; None if the source has one for the purposes already, or its earlier
    photos came in without one, for people with grants of their own.

    Raises:
        ConfigError: nobody can be asked.
    """
    from facelake.admit import decide
    from facelake.contracts import Refusal
    from facelake.stages.admission.import_grants import uses_own_grants
    from facelake.stages.admission.ledger import read_ledger
    from facelake.stages.core.partition_names import open_lake

    missing, granted = {Refusal.NO_BASIS, Refusal.OTHER_PURPOSE}, False
    with contextlib.suppress(ConfigError):  # there is no lake yet
        lake, now = open_lake(settings), datetime.now(UTC)
        ledger = read_ledger(lake)
        wanted = purposes or [settings.purpose]
        reasons = {decide(ledger, source, None, purpose, now).reason for purpose in wanted}
        if not reasons & missing or uses_own_grants(settings, lake, ledger, source, wanted, now):
            return None
        granted = Refusal.OTHER_PURPOSE in reasons
    if sys.stdin.isatty():
        return str(typer.prompt(f"On what legal basis may the photos of {source!r} be processed, for everyone in them"))
    what = f"no legal basis is stated for the photos of {source!r}"
    if granted:
        names = ", ".join(map(repr, purposes or [settings.purpose]))
        what = f"the grants of {source!r} are for other purposes; no legal basis is stated for {names}"
    next_step = "add --basis 'signed release' or what it is, or --no-grant to import them without"
    if others := _other_sources(settings, source):
        next_step = f"if they are of a source that the lake has ({others}), name it by --source; otherwise {next_step}"
    raise ConfigError(what, where="--basis", next_step=next_step)


def _other_sources(settings: Config, source: str) -> str:
    """Return the names of the lake's sources, the first few, if the given one is not among them."""
    from facelake.stages.admission.known_references import Known
    from facelake.stages.core.partition_names import open_lake

    try:
        known = sorted(Known.of(settings, open_lake(settings)).sources)
    except ConfigError:  # there is no lake yet
        return ""
    return "" if source in known else first_of(known)


@command(app)
def nightly(
    call: Invocation,
    only: Annotated[list[str] | None, typer.Option(help="run only this stage (may be repeated)")] = None,
    wait: Annotated[float, typer.Option(help="seconds to wait for another writer of the lake")] = 0.0,
    rebase: Annotated[
        bool, typer.Option("--rebase", help="cluster all faces again instead of only what changed")
    ] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="go on although most photos lost their basis since the last run")
    ] = False,
    fail_on_alert: Annotated[
        bool, typer.Option("--fail-on-alert", help="exit code 1 if the report says that action is required")
    ] = False,
) -> None:
    """Run all stages: admit, embed, cluster, publish, report. A run that was killed continues when started again."""
    run_stages(call, only or [], wait_s=wait, rebase=rebase, accept_loss=accept_loss, fail_on_alert=fail_on_alert)


def _stage_command(stage: str, help_text: str) -> None:
    @command(app, stage, help_text=help_text)
    def run(call: Invocation) -> None:
        run_stages(call, [stage])


for _stage, _help in {
    "admit": "Decide for every photo whether it may be processed.",
    "embed": "Detect and embed the faces of admitted photos, on Ray.",
    "cluster": "Group the faces, on Spark.",
    "publish": "Assign identity ids to groups and publish a gallery version.",
}.items():
    _stage_command(_stage, _help)
