"""The command that compares photos with an export: identification, verification, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facelake.cli.command import Invocation, command, template_key
from facelake.cli.run import app
from facelake.errors import ConfigError
from facelake.plural import counted

if TYPE_CHECKING:
    from facelake.embedder import Embedder
    from facelake.match.search import MatchOptions
    from facelake.matcher import Gallery

_UNCHECKED = (
    "the lake that this copy is from is not at hand: whether somebody in it withdrew or was erased since, or the lease"
    " was recalled, is not known. Give its config with -c to have it checked"
)
_DET = ("similarity", "fmr", "fmr_high", "impostors", "fnmr", "fnmr_high", "genuine")


@command(app, lake=False)
def match(
    call: Invocation,
    *,
    gallery: Annotated[str, typer.Option(help="folder or s3://bucket/prefix that `gallery export` wrote")],
    photos: Annotated[list[str] | None, typer.Argument(help="photos to compare")] = None,
    top: Annotated[int, typer.Option(min=1, help="candidates per face")] = 5,
    claim: Annotated[str | None, typer.Option(help="1:1 with this identity; the photo must show one face")] = None,
    fmr: Annotated[float, typer.Option(help="false match rate of one comparison at the operating point")] = 1e-4,
    threshold: Annotated[float | None, typer.Option(help="similarity from which to match; overrides --fmr")] = None,
    min_quality: Annotated[float, typer.Option(min=0, max=1, help="least quality of a probe")] = 0.35,
    evaluate: Annotated[
        str | None, typer.Option(help="CSV with image and identity_id, or image and person: measure error rates")
    ] = None,
    images: Annotated[str | None, typer.Option(help="folder of the labelled images; default: that of the CSV")] = None,
    plot: Annotated[str | None, typer.Option(help="HTML file for the DET curve of --evaluate")] = None,
    changes: Annotated[
        list[str] | None, typer.Option(help="changes to apply to the copy, in order, as `feed changes` wrote them")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="fingerprint of the key that signed the export")] = None,
    key_env: Annotated[str | None, typer.Option(help="environment variable with the export's template key")] = None,
) -> None:
    """Compare photos with an export: candidates with similarity and false match rate, or no match."""
    from facelake.embedder import Embedder, ProbeGate
    from facelake.match.search import MatchOptions
    from facelake.matcher import Gallery
    from facelake.stages.sharing.held_copy import HeldCopy, refuse_stale_copy

    if bool(photos) == bool(evaluate):
        raise ConfigError("give photos, or --evaluate", where="match", next_step="see `facelake match --help`")
    config = call.config()
    secret = template_key(key_env) if key_env else None
    opened = Gallery.open(gallery, key=secret, keys=key or (), s3=config.s3)
    for uri in changes or ():
        opened.apply(uri, s3=config.s3)
    if not refuse_stale_copy(config, HeldCopy(opened.lease_id, opened.lake, opened.version, opened.computed_at)):
        call.terminal.warn(_UNCHECKED)
    embedder = Embedder(config=config, gate=ProbeGate(min_quality))
    options = MatchOptions(top, fmr, threshold, claim)
    if evaluate:
        _evaluate(call, (opened, embedder, options), evaluate, images, plot)
    else:
        _match(call, opened, embedder, options, photos or [])


def _match(call: Invocation, gallery: Gallery, embedder: Embedder, options: MatchOptions, photos: list[str]) -> None:
    from facelake.match.search import MISSING, match_photos

    result = match_photos(gallery, embedder, photos, options)
    point = result["operating_point"]
    rows: list[list[Any]] = []
    for photo in result["photos"]:
        if photo["reject"]:
            why = f"{photo['reject']}: {photo['detail']}" if photo["reject"] == MISSING else photo["reject"]
            rows.append([photo["photo"], "refused", why, None, None])
        for face in photo["faces"]:
            refusal = [photo["photo"], face["decision"], face["refused"], None, None]
            if face["refused"] and refusal not in rows[-1:]:  # of several faces it may be the same
                rows.append(refusal)
            for candidate in face["candidates"]:
                matched = candidate["similarity"] >= point["similarity"]
                decision = "match" if matched else "no match"
                values = candidate["identity_id"], candidate["similarity"], candidate["fmr_high"]
                rows.append([photo["photo"], decision, *values])
    call.terminal.table("matches", ["photo", "decision", "identity", "similarity", "FMR at most"], rows)
    source = point["source"]
    if source == "extrapolated":
        source += ": so low a rate cannot be measured in this gallery, so that `FMR at most` states a higher bound"
    call.terminal.say(f"operating point: similarity {point['similarity']:.4f} ({source})")
    compared = any(face["candidates"] for photo in result["photos"] for face in photo["faces"])
    unread = result["unread"]
    call.terminal.result(
        {"ok": compared and not unread, "gallery_version": gallery.version, "lease_id": gallery.lease_id, **result}
    )
    if unread:
        call.terminal.warn(f"{unread} of {counted(len(photos), 'photo')} could not be read; see the rows above")
    if not compared:
        call.terminal.warn("no face could be compared with the gallery")
    if unread or not compared:
        raise typer.Exit(1)


def _evaluate(
    call: Invocation,
    compared: tuple[Gallery, Embedder, MatchOptions],
    labels: str,
    images: str | None,
    plot: str | None,
) -> None:
    from facelake.match.det_page import det_page
    from facelake.match.evaluation import evaluate
    from facelake.match.search import OperatingPoint

    gallery, embedder, options = compared
    report = evaluate(gallery, embedder, labels, images, OperatingPoint.of(gallery, options))
    if plot:
        Path(plot).write_text(det_page(report), "utf-8")
    step = max(1, len(report["points"]) // 20)
    shown = [[point[name] for name in _DET] for point in report["points"][::step]]
    call.terminal.table("DET", list(_DET), shown)
    facts = {name: report[name] for name in ("photos", "compared", "failed", "rank_1") if name in report}
    call.terminal.figures("evaluation", facts | {"plot": plot})
    if strange := report.get("strange_labels"):
        call.terminal.warn(
            f"photos of {', '.join(strange)} counted as strangers: the gallery has no such identity. "
            "An identity that was merged has another id now"
        )
    for text in report["missing"][:1]:
        call.terminal.warn(f"{counted(report['failed']['missing'], 'file')} missing, counted as failed; {text}")
    call.terminal.result({"ok": True, **report, "plot": plot})
