"""report: gather a night's numbers from the tables and write the page into the lake.

Nothing is read whole but small tables: admissions, identities, memberships and ids in batches, embeddings by a sample.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.contracts import I64, Change, is_of_model
from facelake.lake.sampling import batches
from facelake.report import (
    Bar,
    Head,
    Night,
    NightFacts,
    ReportData,
    Sheet,
    Turn,
    concerns,
    render,
    share,
    size_bars,
)
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, last_run
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.stages.reporting.history import MEASURES, Run, last_night, nights, read_runs, shares_before, stage_costs
from facelake.stages.reporting.promises import Decisions, decisions, exports
from facelake.stages.reporting.sheets import Shown, sheets
from facelake.stages.reporting.similarity import similarity

PAGES = "reports"
LATEST = f"{PAGES}/latest.html"
_SHOWS_FACES = b"data:image/jpeg"
_TURNS = (Change.MERGED, Change.SPLIT)


@dataclass(slots=True)
class _Identities:
    """The active identities of the gallery."""

    sizes: I64
    largest: list[Shown]
    changes: Counter[str] = field(default_factory=Counter)
    turns: list[dict[str, Any]] = field(default_factory=list)
    """merges and splits, those of most faces first"""


@dataclass(frozen=True, slots=True)
class _Faces:
    """Faces and rejects of the lake, counted."""

    rows: int
    photos: int
    of_model: int
    rejected: Mapping[str, int]


def report(context: Context) -> StageResult:
    """Write reports/<run>.html and reports/latest.html. Skipped when nothing was done since the last one."""
    lake = context.lake
    run = StageRun(context, "report", 1, "page")
    gallery = current_gallery(lake)
    newest = {stage: (last_run(lake, stage) or {}) for stage in ("admit", "embed", "cluster", "publish")}
    state = digest_of(
        gallery.row["created_at"] if gallery else 0,
        [row.get("run_id") for row in newest.values()],
        context.config.digest("report"),
    )
    before = last_run(lake, "report")
    if before and before["input_digest"] == state and lake.store.tag(LATEST):
        return run.skip({"pages": 0})
    data = _gather(context, gallery)
    page = render(data).encode()
    context.check_lease()
    lake.store.write(f"{PAGES}/{context.run_id}.html", page)
    lake.store.write(LATEST, page)
    _tidy(context)
    levels = Counter(concern.level for concern in data.concerns)
    return run.finish({"pages": 1, "bytes": len(page), "to_act_on": levels["act"], "to_look_at": levels["look"]}, state)


def _tidy(context: Context) -> None:
    """Pages beyond those that are kept go; and where faces are not to be shown, earlier pages that show some."""
    settings, store = context.config.report, context.lake.store
    pages = sorted(item.key for item in store.list(PAGES) if item.key != LATEST)
    doomed = pages[: -settings.keep]
    if not settings.contact_sheets:
        doomed += [key for key in pages[-settings.keep :] if _SHOWS_FACES in store.read(key)]
    for key in doomed:
        store.delete(key)


def _gather(context: Context, gallery: Gallery | None) -> ReportData:
    config, lake = context.config, context.lake
    runs = read_runs(lake)
    tonight = last_night(runs)
    decided, faces, people = decisions(context), _faces(context), _identities(context, gallery)
    history = _history(context, gallery, runs, people)
    costs = stage_costs(config, runs, tonight)
    shown, turns, turns_note, sheets_note = _sheets(context, gallery, people)
    facts = _facts(context, gallery, decided, faces, runs, tonight)
    embed = next((cost for cost in costs if cost.stage == "embed" and cost.when == "this night"), None)
    spent = embed.cost if embed else None
    rejected = _bars(faces.rejected)
    return ReportData(
        title=f"facelake: gallery {gallery.version if gallery else 0}",
        purpose=config.purpose,
        run_id=context.run_id,
        lake=lake.uri,
        made_at=f"{context.now:%Y-%m-%d %H:%M} UTC",
        heads=_heads(decided, faces, people, history, runs["admit"]),
        concerns=concerns(NightFacts(**facts, nights=history, stages=costs, budget=config.plan.budget, spent=spent)),
        funnel=[
            Bar("photos read", decided.read),
            Bar("photos admitted", decided.admitted, f"{decided.refused.total():,} refused"),
            Bar("photos with a face", faces.photos, f"{sum(faces.rejected.values()):,} rejected"),
            Bar("faces", faces.rows),
            Bar("faces in identities", int(people.sizes.sum()), f"{len(people.sizes):,} identities"),
        ],
        refused=_bars(decided.refused),
        rejected=rejected,
        rejected_note="All photos that are in the lake now; what this night tried is in the table of stages.",
        similarity=similarity(context, gallery),
        sizes=size_bars(people.sizes),
        sizes_note=_sizes_note(people.sizes),
        changes=_bars(people.changes),
        turns=turns,
        turns_note=turns_note,
        stages=costs,
        stages_note=_stages_note(context, runs["embed"]),
        nights=history,
        measures=MEASURES,
        sheets=shown,
        sheets_note=sheets_note,
    )


def _facts(
    context: Context,
    gallery: Gallery | None,
    decided: Decisions,
    faces: _Faces,
    runs: Mapping[str, Sequence[Run]],
    tonight: str,
) -> dict[str, Any]:
    """What the rules look at, but nights, stages and money."""
    embed = runs["embed"][-1] if runs["embed"] and runs["embed"][-1].run_id == tonight else None
    earlier = runs["embed"] if embed else [*runs["embed"], *runs["embed"][-1:]]
    publish = runs["publish"][-1] if runs["publish"] else None
    owed, ending = exports(context)
    return {
        "read": decided.read,
        "refused": decided.refused,
        "refused_before": shares_before(runs["admit"], "refused", "read"),
        "tried": int(embed.number("admitted")) if embed else 0,
        "rejected": embed.reasons("rejected_") if embed else {},
        "rejected_before": shares_before(earlier, "rejected", "admitted", least=20),
        "full_at_drift": context.config.gallery.full_at_drift,
        "conflicts": int(publish.number("corrections_in_conflict")) if publish else 0,
        "overdue": decided.overdue_grants,
        "overdue_photos": decided.overdue_photos,
        "due_soon": decided.due_soon,
        "owed": owed,
        "leases_ending": ending,
        "ungrouped": max(0, faces.of_model - (gallery.row["faces"] if gallery else 0)),
        "lineage": gallery.row["withdrawn_lineage"] or () if gallery else (),
    }


def _faces(context: Context) -> _Faces:
    """Rows from the log, photos by 64-bit keys of their ids (8 bytes a face), rejects by reason."""
    table = context.lake["faces"]
    snapshot = table.snapshot()
    keys = [columns.keys(part["image_id"]) for part in batches(table, ["image_id"], snapshot)]
    photos = len(np.unique(np.concatenate(keys))) if keys else 0
    rejected: Counter[str] = Counter()
    for part in batches(context.lake["rejects"], ["reason"]):
        rejected.update(part["reason"].to_pylist())
    mine = sum(file.rows for file in snapshot.files if is_of_model(file.path, context.model_digest))
    return _Faces(snapshot.rows, photos, mine, rejected)


def _identities(context: Context, gallery: Gallery | None) -> _Identities:
    if gallery is None:
        return _Identities(np.zeros(0, np.int64), [])
    most = context.config.report.max_identities
    sizes: list[I64] = []
    best: list[tuple[int, str, float]] = []
    table = context.lake["identities"]
    pinned = table.snapshot(gallery.row["identities_version"])
    for part in batches(table, ["identity_id", "status", "size", "cohesion"], pinned):
        part = part.filter(pc.equal(part["status"], "active"))
        sizes.append(part["size"].to_numpy().astype(np.int64))
        part = part.sort_by([("size", "descending"), ("identity_id", "ascending")]).slice(0, most)
        rows = zip(*(part[name].to_pylist() for name in ("size", "identity_id", "cohesion")), strict=True)
        best = heapq.nsmallest(most, [*best, *rows], key=lambda row: (-row[0], row[1]))
    found = _Identities(np.concatenate(sizes) if sizes else np.zeros(0, np.int64), [])
    found.largest = [Shown(name, size, cohesion or 0.0) for size, name, cohesion in best]
    _changes(context, gallery, found)
    return found


def _changes(context: Context, gallery: Gallery, found: _Identities) -> None:
    """Counts of this version's events, and its largest merges and splits."""
    table, most = context.lake["changes"], context.config.report.max_events
    columns = ["gallery_version", "kind", "identity_id", "other_id", "size_before", "size_after"]
    turns: list[dict[str, Any]] = []
    for part in batches(table, columns, table.snapshot(gallery.row["changes_version"])):
        part = part.filter(pc.equal(part["gallery_version"], gallery.version))
        found.changes.update(part["kind"].to_pylist())
        kinds = pc.is_in(part["kind"], pa.array([str(kind) for kind in _TURNS]))
        turns = _largest([*turns, *part.filter(kinds).to_pylist()], most)
    found.turns = turns


def _largest(events: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    def weight(event: dict[str, Any]) -> int:
        return int(event["size_before" if event["kind"] == Change.MERGED else "size_after"] or 0)

    return heapq.nsmallest(most, events, key=lambda event: (-weight(event), event["identity_id"]))


def _history(
    context: Context, gallery: Gallery | None, runs: Mapping[str, Sequence[Run]], people: _Identities
) -> list[Night]:
    """Nights as recorded; the gallery of now is added where nothing was recorded of it, as after an erasure."""
    found = nights(context.lake, runs)
    if gallery is None or (found and found[-1].version >= gallery.version):
        return found
    sizes = people.sizes
    figures: dict[str, float | None] = {"faces": int(sizes.sum()), "identities": len(sizes)}
    if len(sizes):
        figures |= {"single_share": float((sizes == 1).mean()), "largest_share": float(sizes.max() / sizes.sum())}
    turned = {str(kind): people.changes[str(kind)] for kind in _TURNS}
    figures |= turned | {"changed": sum(turned.values())}
    cluster = runs["cluster"][-1].counts if runs["cluster"] else {}
    day = f"{gallery.row['created_at']:%Y-%m-%d}"
    return [*found, Night(gallery.version, day, str(cluster.get("mode", "full")), figures)]


def _heads(
    decided: Decisions, faces: _Faces, people: _Identities, history: Sequence[Night], admits: Sequence[Run]
) -> list[Head]:
    before = history[-2].figures if len(history) > 1 else {}
    now = history[-1].figures if history else {}
    last = admits[-2] if len(admits) > 1 else None
    single = int((people.sizes == 1).sum())
    reviews = now.get("reviews")
    return [
        Head("photos read", f"{decided.read:,}", _than(decided.read, last.number("read") if last else None)),
        Head("admitted", f"{decided.admitted:,}", _than(decided.admitted, last.number("admitted") if last else None)),
        Head("faces", f"{faces.rows:,}", _than(faces.rows, before.get("faces"))),
        Head("identities", f"{len(people.sizes):,}", _than(len(people.sizes), before.get("identities"))),
        Head("of a single face", share(single, len(people.sizes)), _was(before.get("single_share"))),
        Head("questions for review", "–" if reviews is None else f"{reviews:,.0f}",
             _than(reviews or 0, before.get("reviews"))),
    ]  # fmt: skip


def _than(now: float, before: float | None) -> str:
    if before is None:
        return ""
    more = now - before
    return "as last night" if not more else f"{abs(more):,.0f} {'more' if more > 0 else 'fewer'} than last night"


def _was(before: float | None) -> str:
    return "" if before is None else f"{share(before, 1)} last night"


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Bar(name.replace("_", " "), count, share(count, total)) for name, count in ordered]


def _sizes_note(sizes: I64) -> str:
    if not len(sizes):
        return ""
    return f"Classes double. The median identity has {np.median(sizes):,.0f}, the largest {sizes.max():,} faces."


def _stages_note(context: Context, embeds: Sequence[Run]) -> str:
    plan = context.config.plan
    price = plan.price_per_node_hour
    said = [
        "Expected: by the calibrated plan where a budget had one made, else by what earlier runs took for as much.",
        "Memory is that of the driver; workers' is not recorded.",
    ]
    if embeds and (planned := embeds[-1].number("planned_worker_bytes")):
        said.append(f"The plan counts on {planned / 2**20:,.0f} MiB for each embed worker.")
    if price is None:
        said.append("For cost set `plan.price_per_node_hour`.")
    else:
        said.append(f"Cost: {price:g} per node-hour, {plan.nodes} node(s) in embed and one elsewhere.")
    return " ".join(said)


def _sheets(context: Context, gallery: Gallery | None, people: _Identities) -> tuple[list[Sheet], list[Turn], str, str]:
    count, settings = len(people.sizes), context.config.report
    happened = sum(people.changes[str(kind)] for kind in _TURNS)
    if gallery is None or not settings.contact_sheets:
        off = "Faces are not shown: `report.contact_sheets` is off." if not settings.contact_sheets else ""
        return [], [], f"{happened:,} merges and splits. {off}" if happened else "", off
    shown, turns, missing = sheets(context, gallery, people.largest, people.turns)
    turns_note = (
        f"{len(turns):,} of {happened:,} merges and splits are shown, those of most faces first." if happened else ""
    )
    said = f"{len(shown):,} of {count:,} identities, the largest first, up to {settings.faces_per_identity} faces each."
    if missing:
        said += f" {missing:,} faces are left out: the photo is gone, or the page would be too large."
    return shown, turns, turns_note, said
