"""Stage `report`: gather the figures of a run from the tables and write the page into the lake.

Only small tables are read at once. Admissions, identities, memberships and ids are read in batches, embeddings as a
sample.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.contracts import I64, Change, Refusal, is_of_model
from facelake.distinct import distinct
from facelake.errors import ConfigError, Refused
from facelake.events import Notice
from facelake.lake.lake import Lake
from facelake.lake.sampling import batches
from facelake.plural import counted
from facelake.report import (
    Bar,
    ChangedIdentity,
    MergeOrSplit,
    ReportData,
    RunFacts,
    RunFigures,
    Sheet,
    find_alerts,
    format_share,
    render,
    size_bars,
)
from facelake.stages.admission.withdrawals import LedgerState
from facelake.stages.core.context import Context, StageResult, StageRun, digest_of, last_run
from facelake.stages.erasure.restored import restored_photos
from facelake.stages.gallery.change_list import CHANGE_COLUMNS, LargestChanges
from facelake.stages.gallery.subjects import SubjectCounts, count_contradictions
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.stages.reporting.history import (
    MEASURES,
    RecordedStage,
    last_run_id,
    read_runs,
    refused_shares_before,
    run_history,
    shares_before,
    stage_costs,
)
from facelake.stages.reporting.key_figures import Comparison, key_figures
from facelake.stages.reporting.promises import AdmissionCounts, count_admissions, lease_duties, standing
from facelake.stages.reporting.removed import previous_admit, removed_since
from facelake.stages.reporting.sheets import ShownIdentity, sheets
from facelake.stages.reporting.similarity import similarity

PAGES = "reports"
LATEST = f"{PAGES}/latest.html"
_FACE_MARKER = b"data:image/jpeg"
_EVENTS = (Change.MERGED, Change.SPLIT)
_NAMED_CHANGES = 10  # of each kind


@dataclass(slots=True)
class _Identities:
    """The active identities of the gallery."""

    sizes: I64
    largest: list[ShownIdentity]
    changes: Counter[str] = field(default_factory=Counter)
    events: list[dict[str, Any]] = field(default_factory=list)
    """merges and splits, those of most faces first"""
    named: list[ChangedIdentity] = field(default_factory=list)
    """the largest changes of each kind"""


@dataclass(frozen=True, slots=True)
class _Faces:
    """Counts of the faces and rejects in the lake."""

    rows: int
    photos: int
    of_model: int
    rejected: Mapping[str, int]


def report(context: Context) -> StageResult:
    """Write reports/<run>.html and reports/latest.html.

    Skip when no stage had work since the last report, the ledger permits what it did, and nothing changed what
    recipients owe; never if the report was asked for by name.
    """
    lake = context.lake
    run = StageRun(context, "report", 1, "page")
    gallery = current_gallery(lake)
    newest = {stage: (last_run(lake, stage) or {}) for stage in ("admit", "embed", "cluster", "publish")}
    inputs = digest_of(
        gallery.row["created_at"] if gallery else 0,
        [row.get("run_id") for row in newest.values()],
        context.config.digest("report"),
        standing(context),
    )
    state = f"{inputs}.{LedgerState.of(lake).standing_at(context.now)}"
    before = last_run(lake, "report")
    is_current = before and before["input_digest"] == state and lake.store.tag(LATEST)
    if before and is_current and not context.report_anyway:
        counts = json.loads(before["counts"])
        counts = {"pages": 0} | {name: counts.get(name, 0) for name in ("to_act_on", "to_look_at")}
        return run.skip(counts, json.loads(before["details"] or "{}"))
    data = _gather(context, gallery)
    page = render(data).encode()
    context.check_lease()
    lake.store.write(f"{PAGES}/{context.run_id}.html", page)
    lake.store.write(LATEST, page)
    _delete_old_pages(context)
    for alert in data.alerts:
        if alert.level == "act":
            context.emit(Notice("report", f"action required: {alert.message} {alert.next_step}"))
    levels = Counter(alert.level for alert in data.alerts)
    counts = {"pages": 1, "bytes": len(page), "to_act_on": levels["act"], "to_look_at": levels["look"]}
    first = {"first_alert": data.alerts[0].message} if data.alerts else {}
    return run.finish(counts, state, first)


def latest_page(lake: Lake, now: datetime) -> bytes:
    """Return the newest report.

    Raises:
        ConfigError: there is none.
        Refused: an event was recorded since, or one takes effect by its date: it may show people who have withdrawn.
    """
    before = last_run(lake, "report")
    if before is None or not lake.store.tag(LATEST):
        next_step = "run `facelake report`, or `facelake nightly`, which ends with it"
        raise ConfigError("the lake has no report", where=f"{lake.uri}/{LATEST}", next_step=next_step)
    if before["input_digest"].partition(".")[2] != LedgerState.of(lake).standing_at(now):
        what = "since this report was written the ledger has changed: it may show people who have withdrawn"
        raise Refused(what, where=f"{lake.uri}/{LATEST}", next_step="run `facelake report`, which writes it again")
    return lake.store.read(LATEST)


def _delete_old_pages(context: Context) -> None:
    """Delete all but the newest `report.keep` pages, and pages with faces when contact sheets are switched off."""
    settings, store = context.config.report, context.lake.store
    pages = sorted(item.key for item in store.list(PAGES) if item.key != LATEST)
    obsolete = pages[: -settings.keep]
    if not settings.contact_sheets:
        obsolete += [key for key in pages[-settings.keep :] if _FACE_MARKER in store.read(key)]
    for key in obsolete:
        store.delete(key)


def _erased_since(runs: Mapping[str, Sequence[RecordedStage]]) -> bool:
    """Whether an erasure emptied rows of the lake's own corpus after the last admission."""
    admitted = max((run.started_at for run in runs["admit"]), default=None)
    return any(run.number("corpus_rows") and (admitted is None or run.started_at > admitted) for run in runs["erase"])


def _gather(context: Context, gallery: Gallery | None) -> ReportData:
    config, lake = context.config, context.lake
    runs = read_runs(lake)
    run_id = last_run_id(runs)
    admissions = count_admissions(context, erased_since=_erased_since(runs))
    faces, people = _faces(context), _identities(context, gallery)
    history = _history(context, gallery, runs, people)
    costs = stage_costs(config, runs, run_id)
    shown, events, events_note, sheets_note = _sheets(context, gallery, people)
    before = previous_admit(runs, history)
    removed = removed_since(runs, history)
    subjects = count_contradictions(gallery) if gallery else SubjectCounts(0, 0, 0)
    facts = _facts(context, gallery, admissions, faces, runs, run_id=run_id)
    facts |= {"lost_faces": removed.lost_faces}
    facts |= {"joined_subjects": subjects.joined, "divided_subjects": subjects.divided}
    embed = next((cost for cost in costs if cost.stage == "embed" and cost.when == "this run"), None)
    spent = embed.cost if embed else None
    rejected = _bars(faces.rejected)
    return ReportData(
        title=f"facelake: gallery {gallery.version if gallery else 0}",
        purpose=config.purpose,
        run_id=context.run_id,
        lake=lake.uri,
        created_at=f"{context.now:%Y-%m-%d %H:%M} UTC",
        key_figures=key_figures(admissions, faces.rows, people.sizes, history, Comparison(before, removed)),
        since=removed.in_words(),
        alerts=find_alerts(RunFacts(**facts, history=history, stages=costs, budget=config.plan.budget, spent=spent)),
        funnel=[
            Bar("photos read", admissions.read),
            Bar("photos admitted", admissions.admitted, f"{admissions.refused.total():,} refused"),
            Bar("photos with a face", faces.photos, f"{sum(faces.rejected.values()):,} rejected"),
            Bar("faces", faces.rows),
            Bar("faces in identities", int(people.sizes.sum()), f"{len(people.sizes):,} identities"),
        ],
        refused=_bars(admissions.refused),
        rejected=rejected,
        rejected_note="Counts all photos in the lake; the table of stages has this run's. By name: facelake images",
        similarity=similarity(context, gallery),
        sizes=size_bars(people.sizes),
        sizes_note=_sizes_note(people.sizes, subjects),
        changes=_bars(people.changes),
        changed=people.named if len(history) > 1 else [],
        changed_note=_changed_note(people),
        events=events,
        events_note=events_note,
        stages=costs,
        stages_note=_stages_note(context, runs["embed"]),
        history=history,
        measures=MEASURES,
        sheets=shown,
        sheets_note=sheets_note,
    )


def _facts(
    context: Context,
    gallery: Gallery | None,
    admissions: AdmissionCounts,
    faces: _Faces,
    runs: Mapping[str, Sequence[RecordedStage]],
    *,
    run_id: str,
) -> dict[str, Any]:
    """Return the fields of RunFacts except history, stages, budget and spent."""
    embed = runs["embed"][-1] if runs["embed"] and runs["embed"][-1].run_id == run_id else None
    earlier = runs["embed"] if embed else [*runs["embed"], *runs["embed"][-1:]]
    publish = runs["publish"][-1] if runs["publish"] else None
    # as the last admission found them: after an erasure the table has its photos as refused, in the corpus or not
    found = [f"refused_{Refusal.ERASED}", "left_out_erased"]
    erased = sum(int(runs["admit"][-1].number(name)) for name in found) if runs["admit"] else 0
    if erased and _erased_since(runs):  # perhaps these very photos
        erased = len(restored_photos(context))
    owed, ending = lease_duties(context)
    return {
        "read": admissions.read,
        "refused": admissions.refused,
        "without_basis": dict(admissions.without_basis.most_common(3)),
        "granted_without_photo": admissions.granted_without_photo,
        "refused_before": refused_shares_before(runs["admit"]),
        "tried": int(embed.number("admitted")) if embed else 0,
        "rejected": embed.reasons("rejected_") if embed else {},
        "rejected_before": shares_before(earlier, "rejected", "admitted", least=20),
        "full_at_drift": context.config.gallery.full_at_drift,
        "conflicts": int(publish.number("corrections_in_conflict")) if publish else 0,
        "overdue": admissions.overdue_grants,
        "overdue_photos": admissions.overdue_photos,
        "erased_in_corpus": erased,
        "due_soon": admissions.due_soon,
        "owed": owed,
        "leases_ending": ending,
        "ungrouped": max(0, faces.of_model - (gallery.row["faces"] if gallery else 0)),
        "lineage": gallery.row["withdrawn_lineage"] or () if gallery else (),
    }


def _faces(context: Context) -> _Faces:
    """Count faces, photos with a face (by 64-bit keys of their ids, 8 bytes per face) and rejects by reason."""
    table = context.lake["faces"]
    snapshot = table.snapshot()
    keys = [columns.keys(part["image_id"]) for part in batches(table, ["image_id"], snapshot)]
    photos = len(distinct(np.concatenate(keys))) if keys else 0
    rejected: Counter[str] = Counter()
    for part in batches(context.lake["rejects"], ["reason"]):
        rejected.update(part["reason"].to_pylist())
    of_model = sum(file.rows for file in snapshot.files if is_of_model(file.path, context.model_digest))
    return _Faces(snapshot.rows, photos, of_model, rejected)


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
    people = _Identities(np.concatenate(sizes) if sizes else np.zeros(0, np.int64), [])
    people.largest = [ShownIdentity(name, size, cohesion or 0.0) for size, name, cohesion in best]
    _count_changes(context, gallery, people)
    return people


def _count_changes(context: Context, gallery: Gallery, people: _Identities) -> None:
    """Fill in the counts of this version's changes, the largest of each kind, and the largest merges and splits."""
    table, most = context.lake["changes"], context.config.report.max_events
    events: list[dict[str, Any]] = []
    named = LargestChanges(_NAMED_CHANGES)
    for part in batches(table, CHANGE_COLUMNS, table.snapshot(gallery.row["changes_version"])):
        part = part.filter(pc.equal(part["gallery_version"], gallery.version))
        people.changes.update(part["kind"].to_pylist())
        kinds = pc.is_in(part["kind"], pa.array([str(kind) for kind in _EVENTS]))
        events = _largest([*events, *part.filter(kinds).to_pylist()], most)
        named.add(part)
    people.events, people.named = events, named.rows()


def _largest(events: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    def weight(event: dict[str, Any]) -> int:
        return int(event["size_before" if event["kind"] == Change.MERGED else "size_after"] or 0)

    return heapq.nsmallest(most, events, key=lambda event: (-weight(event), event["identity_id"]))


def _history(
    context: Context, gallery: Gallery | None, runs: Mapping[str, Sequence[RecordedStage]], people: _Identities
) -> list[RunFigures]:
    """Return the recorded runs; the current gallery is added if it has no record, as after an erasure."""
    history = run_history(context.lake, runs)
    if gallery is None or (history and history[-1].version >= gallery.version):
        return history
    sizes = people.sizes
    figures: dict[str, float | None] = {"faces": int(sizes.sum()), "identities": len(sizes)}
    if len(sizes):
        figures |= {"single_share": float((sizes == 1).mean()), "largest_share": float(sizes.max() / sizes.sum())}
    events = {str(kind): people.changes[str(kind)] for kind in _EVENTS}
    figures |= events | {"changed": sum(events.values())}
    mode = (runs["cluster"][-1].mode if runs["cluster"] else None) or "full"
    day = f"{gallery.row['created_at']:%Y-%m-%d}"
    return [*history, RunFigures(gallery.version, day, str(mode), figures)]


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Bar(name.replace("_", " "), count, format_share(count, total)) for name, count in ordered]


def _changed_note(people: _Identities) -> str:
    every = sum(people.changes.values())
    shown = f"Shown are {len(people.named):,} of {every:,} changes, the largest of each kind. "
    return (shown if len(people.named) < every else "") + "`facelake gallery changes` lists all."


def _sizes_note(sizes: I64, subjects: SubjectCounts) -> str:
    if not len(sizes):
        return ""
    note = f"The median identity has {np.median(sizes):,.0f}, the largest {sizes.max():,} faces. Class widths double."
    if not subjects.photos:
        return note
    evidence = f"By the {counted(subjects.photos, 'photo')} that name a subject and have exactly one face"
    return f"{note} {evidence}: {subjects.in_words()}."


def _stages_note(context: Context, embeds: Sequence[RecordedStage]) -> str:
    plan = context.config.plan
    price = plan.price_per_node_hour
    sentences = [
        "Expected: from the calibrated plan if there is one, else from earlier runs, scaled to the amount of work.",
        "Memory is the peak of the driver; that of the workers is not recorded.",
    ]
    if embeds and (planned := embeds[-1].number("planned_worker_bytes")):
        sentences.append(f"The plan allows {planned / 2**20:,.0f} MiB for each embed worker.")
    if price is None:
        sentences.append("Set `plan.price_per_node_hour` to see the cost.")
    else:
        sentences.append(f"Cost: {price:g} per node-hour, {plan.nodes} node(s) for embed and one for the other stages.")
    return " ".join(sentences)


def _sheets(
    context: Context, gallery: Gallery | None, people: _Identities
) -> tuple[list[Sheet], list[MergeOrSplit], str, str]:
    """Return the sheets of identities, the merges and splits, and a note on each of the two."""
    identities, settings = len(people.sizes), context.config.report
    changed = sum(people.changes[str(kind)] for kind in _EVENTS)
    if gallery is None or not settings.contact_sheets:
        off = "" if settings.contact_sheets else "Faces are not shown: `report.contact_sheets` is off."
        return [], [], f"{changed:,} merges and splits. {off}" if changed else "", off
    shown, events, missing = sheets(context, gallery, people.largest, people.events)
    events_note = f"Shown are {len(events):,} of {changed:,} merges and splits, the largest first." if changed else ""
    shown_of_all = f"{len(shown):,} of {identities:,} identities"
    sheets_note = f"{shown_of_all}, the largest first, up to {settings.faces_per_identity} faces each."
    if missing:
        sheets_note += f" {missing:,} faces are left out: the photo is missing, or the page would be too large."
    return shown, events, events_note, sheets_note
