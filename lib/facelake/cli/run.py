"""Commands that do the work: import, the night and its stages, erase, verify, plan."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from facelake.cli.options import (
    SETTINGS,
    ConfigOption,
    DebugOption,
    JsonOption,
    LakeOption,
    QuietOption,
    YesOption,
    open_terminal,
    read_config,
)
from facelake.config import Config
from facelake.contracts import Covers, SourceClass
from facelake.errors import ConfigError
from facelake.terminal import Terminal, boundary, duration

app = typer.Typer(help="From photos of people who agreed to a Delta Lake gallery of identities.", **SETTINGS)


def _night(terminal: Terminal, settings: Config, only: list[str], wait_s: float = 0.0, rebase: bool = False) -> None:
    from facelake.nightly import reading, run_night
    from facelake.stages.gallery.versions import current_gallery

    results = run_night(settings, terminal.listen, only, wait_s, rebase)
    gallery = current_gallery(reading(settings).lake)
    summary = (
        {"gallery": gallery.version, "identities": gallery.row["identities"], "faces": gallery.row["faces"]}
        if gallery
        else {}
    )
    terminal.night(results)
    if gallery:
        terminal.say(
            f"gallery {gallery.version}: {gallery.row['faces']:,} faces in {gallery.row['identities']:,} identities"
        )
        terminal.say(f"report: {settings.lake.rstrip('/')}/reports/latest.html")
    stages = {r.stage: {"skipped": r.skipped, "seconds": round(r.seconds, 3), **r.counts} for r in results}
    terminal.result({"ok": True, "lake": settings.lake, **summary, "stages": stages})


@app.command()
def demo(
    photos: Annotated[str | None, typer.Option(help="your own folder of photos instead of the built-in set")] = None,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Make a small corpus, run a whole night on it, and say where the report is."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.demo import build_demo
        from facelake.nightly import writing
        from facelake.stages.admission.import_images import Grant, import_folder

        settings = read_config(config, lake, spark__in_process_below=0)  # it shows that Spark runs on this machine
        with writing(settings, "demo", terminal.listen) as context:
            context.lake.mark_as_demo()
            if photos:
                import_folder(context, photos, grant=Grant())
            else:
                build_demo(context)
        _night(terminal, settings, [])


@app.command("import")
def import_(
    folder: Annotated[str, typer.Argument(help="folder of photos, taken with its subfolders")],
    person_from: Annotated[str | None, typer.Option(help="regex on the file name; group 1 is the subject")] = None,
    source: Annotated[str | None, typer.Option(help="source_id; default: the folder's name")] = None,
    basis: Annotated[str, typer.Option(help="the legal basis you state for them")] = "operator-attested consent",
    purpose: Annotated[list[str] | None, typer.Option(help="what they may be used for; default: the config's")] = None,
    evidence: Annotated[str, typer.Option(help="reference of the written release; only its hash is kept")] = "",
    exemption: Annotated[str, typer.Option(help="Art. 9 GDPR exemption or written release")] = "",
    covers: Annotated[Covers, typer.Option(help="of whom in the photos the basis speaks")] = Covers.EVERYONE,
    source_class: Annotated[
        SourceClass, typer.Option("--class", help="how the source came by the photos; the last three are refused")
    ] = SourceClass.CONTRIBUTED,
    no_grant: Annotated[bool, typer.Option("--no-grant", help="record no basis; the photos stay refused")] = False,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Copy a folder of photos into the lake's corpus and record their legal basis."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import writing
        from facelake.stages.admission.import_images import Grant, check_folder, import_folder

        settings = read_config(config, lake)
        check_folder(folder, person_from)
        grant = None if no_grant else Grant(basis, tuple(purpose or ()), evidence, exemption, covers, source_class)
        with writing(settings, "import", terminal.listen) as context:
            result = import_folder(context, folder, source=source, person_from=person_from, grant=grant)
        if result.counts["granted"]:
            shown = ", ".join(purpose or [settings.purpose])
            terminal.say(
                f"recorded a grant: basis {basis!r}, purpose {shown}. Withdraw it with `facelake ledger withdraw`."
            )
        if result.counts["changed"]:
            terminal.say(
                f"{result.counts['changed']} photos changed under their name and were left: erase the old ones first."
            )
        terminal.result({"ok": True, "lake": settings.lake, **result.counts})


@app.command()
def nightly(
    only: Annotated[list[str] | None, typer.Option(help="run only this stage (may be repeated)")] = None,
    wait: Annotated[float, typer.Option(help="seconds to wait for another writer of the lake")] = 0.0,
    rebase: Annotated[bool, typer.Option("--rebase", help="group all faces anew, whatever was done before")] = False,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Run the night: admit, embed, cluster, publish, report. Kill it when you like and run it again."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        _night(terminal, read_config(config, lake), only or [], wait, rebase)


def _stage_command(stage: str, text: str) -> None:
    @app.command(stage, help=text)
    def run(
        config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
        debug: DebugOption = False,
    ) -> None:  # fmt: skip
        terminal = open_terminal(json, quiet, debug)
        with boundary(terminal):
            _night(terminal, read_config(config, lake), [stage])


for _stage, _text in {
    "admit": "Decide for every image whether it may be processed.",
    "embed": "Embed the admitted images on Ray.",
    "cluster": "Group the faces on Spark.",
    "publish": "Give groups identity ids and publish a gallery version.",
    "report": "Write the HTML report.",
}.items():
    _stage_command(_stage, _text)


@app.command()
def erase(
    subject: Annotated[list[str] | None, typer.Option(help="subject_ref to erase (may be repeated)")] = None,
    image: Annotated[list[str] | None, typer.Option(help="image_id to erase (may be repeated)")] = None,
    source: Annotated[list[str] | None, typer.Option(help="source_id to erase (may be repeated)")] = None,
    identity: Annotated[list[str] | None, typer.Option(help="identity to erase, with every photo it is in")] = None,
    purpose: Annotated[str | None, typer.Option(help="erase only what was made for this purpose")] = None,
    from_file: Annotated[str | None, typer.Option(help="CSV with columns kind (subject, image...) and key")] = None,
    yes: YesOption = False,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Remove subjects, images or sources from every table, file and version, and prove it."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading, writing
        from facelake.stages.erasure import stage as erasure_stage
        from facelake.stages.erasure.request import Request, read_keys

        settings = read_config(config, lake)
        reading(settings)  # there must be a lake
        more = read_keys(from_file) if from_file else {}
        named = {"subject": subject or [], "image": image or [], "source": source or [], "identity": identity or []}
        keys = [[*values, *more.get(kind, [])] for kind, values in named.items()]
        request = Request.of(keys[0], keys[1], keys[2], keys[3], purpose)
        if not yes and not (sys.stdin.isatty() and typer.confirm("This cannot be undone. Erase?")):
            raise ConfigError("erasing cannot be undone and was not confirmed", where="erase", next_step="add --yes")
        with writing(settings, "erase", terminal.listen) as context:
            result = erasure_stage.erase(context, request)
        if owing := result.counts["not_acknowledged"]:
            terminal.say(f"still to be told and not acknowledged: {', '.join(owing)} (facelake feed leases)")
        certificate = f"{settings.lake.rstrip('/')}/{result.counts['certificate']}"
        terminal.say(f"erased; certificate: {certificate}. Run `facelake report` for a new report.")
        terminal.result({"ok": True, "lake": settings.lake, **result.counts})


@app.command()
def verify(
    residual: Annotated[list[str] | None, typer.Option(help="identifier to look for in every byte of the lake")] = None,
    audit: Annotated[bool, typer.Option("--audit", help="only the audit trail: edited, dropped, reordered?")] = False,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Check that the lake agrees with itself."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading
        from facelake.stages.operations.verify import verify as run_verify
        from facelake.stages.operations.verify import verify_residual

        context = reading(read_config(config, lake), terminal.listen)
        findings, counts = run_verify(context, "audit" if audit else None)
        hits: dict[str, int] = {}
        if residual:
            counts["objects_scanned"], hits = verify_residual(context, residual)
            counts["residual_hits"] = sum(hits.values())
        terminal.table("problems", ["check", "problem"], [[f.check, f.problem] for f in findings])
        terminal.table("residual hits", ["object", "hits"], [[key, count] for key, count in hits.items()])
        ok = not findings and not hits
        problems = [{"check": f.check, "problem": f.problem} for f in findings]
        terminal.say("the lake agrees with itself" if ok else f"{len(findings) + len(hits)} problems")
        terminal.result({"ok": ok, "problems": problems, "residual": hits, "counts": counts})
        if not ok:
            raise typer.Exit(1)


@app.command()
def explain(
    first: Annotated[str, typer.Argument(help="a face_id or identity_id")],
    second: Annotated[str, typer.Argument(help="another one")],
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Say why two faces or identities are together or apart, by the figures of the last clustering."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading
        from facelake.stages.clustering.explain import explain as make_explanation

        found = make_explanation(reading(read_config(config, lake)), first, second)
        for line in found["said"]:
            terminal.say(line)
        terminal.result({"ok": True, **found})


@app.command()
def plan(
    calibrate: Annotated[bool, typer.Option("--calibrate", help="run the models a few seconds: time and cost")] = False,
    at: Annotated[float | None, typer.Option(help="instead, a first night over so many photos, as 1e9")] = None,
    faces_per_photo: Annotated[float, typer.Option(help="with --at")] = 1.0,
    mean_bytes: Annotated[float, typer.Option(help="with --at: of an encoded photo")] = 100_000,
    dim: Annotated[int | None, typer.Option(min=2, help="with --at: of embeddings; default: the model's")] = None,
    sources: Annotated[bool, typer.Option("--sources", help="with --at: also where each cost was measured")] = False,
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Say what embed would have to do: images, bytes, chunks, memory, and calibrated time and cost. Writes nothing."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        settings = read_config(config, lake)
        if at is not None:
            from facelake.cli.forecast_view import show
            from facelake.stages.capacity.forecast import outlook, workload

            found = outlook(workload(settings, at, faces_per_image=faces_per_photo, dim=dim, mean_bytes=mean_bytes))
            show(terminal, found, sources)
            terminal.result({"ok": True, **found})
            return
        from facelake.stages.embedding.plan import plan as make_plan

        figures = make_plan(settings, calibrate=calibrate)
        terminal.figures("plan", {key.replace("_", " "): value for key, value in figures.items()})
        if calibrate:
            terminal.say(
                f"embed: about {duration(3600 * figures['hours'])}, and the seconds that engines take to start"
            )
        terminal.result({"ok": True, **figures})
