"""Commands that look at a lake and write nothing: verify, explain, plan."""

from __future__ import annotations

from typing import Annotated

import typer

from facelake.cli.command import Invocation, command
from facelake.cli.run import app
from facelake.plural import counted
from facelake.terminal import format_duration


@command(app)
def verify(
    call: Invocation,
    residual: Annotated[
        list[str] | None, typer.Option(help="identifier to search for in every byte of the lake")
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="check only the audit trail, for edited, deleted or reordered records")
    ] = False,
) -> None:
    """Check that the lake's tables, files and audit trail are consistent."""
    terminal = call.terminal
    lake = call.open_lake()
    result = lake.verify(residual=residual or (), audit_only=audit)
    findings, hits = result.findings, result.residual
    terminal.table("problems", ["check", "problem"], [[f.check, f.problem] for f in findings])
    terminal.table("residual hits", ["object", "hits"], [[key, count] for key, count in hits.items()])
    inside = result.residual_inside
    terminal.table("only inside of longer words", ["object", "hits"], [[key, count] for key, count in inside.items()])
    if residual and not hits:
        what = "no trace of" if not inside else "only inside of longer words, such as longer names or digests:"
        terminal.say(f"searched every object of the lake {lake.uri}: {what} {', '.join(map(repr, residual))}")
    if result.never_erased:
        named = ", ".join(map(repr, result.never_erased))
        what = f"nothing was ever erased from this lake under the name {named}"
        terminal.warn(f"{what}: check the spelling, and that this is the right lake")
    problems = [{"check": f.check, "problem": f.problem} for f in findings]
    terminal.say("the lake is consistent" if result.ok else counted(len(findings) + len(hits), "problem"))
    if unfinished := result.counts.get("unfinished_erasures"):
        terminal.warn(f"{unfinished} erasures are not certified yet: `facelake status` lists them; give them again")
    found = {"residual": hits, "residual_inside": inside, "never_erased": result.never_erased}
    terminal.result({"ok": result.ok, "problems": problems, **found, "counts": result.counts})
    if not result.ok:
        raise typer.Exit(1)


@command(app)
def explain(
    call: Invocation,
    first: Annotated[
        str, typer.Argument(help="a face, an identity, a photo with one face, or a subject in one identity")
    ],
    second: Annotated[
        str | None, typer.Argument(help="another of these; not given: the first is a subject in several identities")
    ] = None,
) -> None:
    """Explain why two faces or identities are together or apart, from the measures of the last clustering."""
    from facelake.nightly import reading
    from facelake.stages.clustering.explain import explain as make_explanation

    explanation = make_explanation(reading(call.config()), first, second)
    for line in explanation["said"]:
        call.terminal.say(line)
    call.terminal.result({"ok": True, **explanation})


@command(app)
def plan(
    call: Invocation,
    *,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="run the models for a few seconds to project time and cost")
    ] = False,
    at: Annotated[
        float | None, typer.Option(help="forecast a first run over this many photos (for example 1e9) instead")
    ] = None,
    faces_per_photo: Annotated[float, typer.Option(help="with --at: faces per photo")] = 1.0,
    mean_bytes: Annotated[float, typer.Option(help="with --at: mean bytes of an encoded photo")] = 100_000,
    dim: Annotated[
        int | None, typer.Option(min=2, help="with --at: dimensions of an embedding; default: the model's")
    ] = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="with --at: list the measured costs and where they were measured")
    ] = False,
) -> None:
    """Print what embed would have to do: images, bytes, chunks, memory; calibrated: time and cost. Writes nothing."""
    terminal, settings = call.terminal, call.config()
    if at is not None:
        from facelake.cli.forecast_view import show
        from facelake.stages.capacity.forecast import outlook, workload

        forecast = outlook(workload(settings, at, faces_per_image=faces_per_photo, dim=dim, mean_bytes=mean_bytes))
        show(terminal, forecast, with_sources=sources)
        terminal.result({"ok": True, **forecast})
        return
    from facelake.stages.core.hash_keys import hash_key_advice
    from facelake.stages.embedding.plan import next_run_in_words
    from facelake.stages.embedding.plan import plan as make_plan

    figures = make_plan(settings, calibrate=calibrate)
    if (advice := hash_key_advice(settings)).mend:
        terminal.warn(f"governance.hash_key: {advice.state}. Next: {advice.mend}")
    terminal.say(next_run_in_words(figures))
    shown = {key.replace("_", " "): value for key, value in figures.items() if key != "notes"}
    terminal.figures("plan", shown)
    for note in figures["notes"]:
        terminal.say(note)
    if calibrate:
        start = "up to a minute in which Ray starts" if figures["on_ray"] else "a few seconds to load the models"
        terminal.say(f"embed: about {format_duration(figures['seconds'])} for these photos, plus {start}")
    terminal.result({"ok": True, **figures})
