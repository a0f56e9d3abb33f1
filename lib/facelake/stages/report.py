"""report: gather a night's numbers from the tables and write the page into the lake."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from facelake.contracts import F32, I64, embedding_matrix
from facelake.embed.decode import DecodeLimits, Photo, decode
from facelake.errors import FacelakeError
from facelake.lake.corpus import Corpus
from facelake.report import ReportData, Sheet, render
from facelake.stages.context import Context, StageResult, StageRun, digest_of, last_run
from facelake.stages.gallery import Gallery, current_gallery

_SAMPLED_PAIRS = 100_000
_LOW, _HIGH, _BINS = -0.4, 1.0, 70
_CROP_PX = 96
_SIZE_CLASSES = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, 1 << 60))
LATEST = "reports/latest.html"


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
    page = render(_gather(context, gallery, newest)).encode()
    context.check_lease()
    lake.store.write(f"reports/{context.run_id}.html", page)
    lake.store.write(LATEST, page)
    return run.finish({"pages": 1, "bytes": len(page)}, state)


def _gather(context: Context, gallery: Gallery | None, newest: Mapping[str, Mapping[str, Any]]) -> ReportData:
    lake = context.lake
    decisions: Counter[str] = Counter()
    for _, rows in lake["admissions"].parts(["reason"]):
        decisions.update(v or "" for v in rows["reason"].to_pylist())
    admitted, read = decisions.pop("", 0), 0
    read = admitted + decisions.total()
    rejected = Counter(lake["rejects"].read(["reason"])["reason"].to_pylist())
    faces = lake["faces"].read(["face_id", "image_id", "embedding", "box", "corpus_file", "corpus_row", "quality"])
    embedded = pc.count_distinct(faces["image_id"]).as_py()
    members = gallery.read("memberships", ["face_id", "identity_id"]) if gallery else None
    identities = gallery.read("identities") if gallery else None
    active = identities.filter(pc.equal(identities["status"], "active")) if identities else None
    sizes: list[int] = active["size"].to_pylist() if active else []
    calibration = json.loads(newest["cluster"].get("counts", "{}")).get("calibration", {})
    joined = _joined(faces, members) if members else None
    within, different, note = _similarities(joined)
    sheets = _sheets(context, joined, active) if joined and active and context.config.report.contact_sheets else []
    shown = (
        f"{len(sheets)} of {len(sizes)} identities, the largest first; faces are personal data: `report.contact_sheets`"
    )
    version = gallery.version if gallery else 0
    return ReportData(
        title=f"facelake: gallery {version}",
        subtitle=f"purpose {context.config.purpose} · run {context.run_id} · lake {lake.uri}",
        heads=[
            ("photos read", f"{read:,}"),
            ("admitted", f"{admitted:,}"),
            ("faces", f"{faces.num_rows:,}"),
            ("identities", f"{len(sizes):,}"),
        ],
        funnel=[
            ("read", read, "photos"),
            ("admitted", admitted, f"photos; {decisions.total():,} refused"),
            ("embedded", embedded, f"photos with {faces.num_rows:,} faces; {rejected.total():,} rejected"),
            ("grouped", sum(sizes), f"faces in {len(sizes):,} identities"),
        ],
        refused=decisions,
        rejected=rejected,
        different=different,
        within=within,
        low=_LOW,
        high=_HIGH,
        cuts=[("cut", calibration["edge"])] if calibration else [],
        similarity_note=note,
        sizes=_size_classes(sizes),
        changes=_changes(gallery),
        stages=_stages(newest),
        warnings=_warnings(context, read, decisions, rejected),
        sheets=sheets,
        sheets_note=shown,
    )


def _joined(faces: pa.Table, members: pa.Table) -> pa.Table:
    """Faces with their identity, by face id (Arrow's join does not carry list columns)."""
    position = pc.index_in(members["face_id"], faces["face_id"])
    members = members.filter(pc.is_valid(position))
    rows = faces.take(position.drop_null())
    return rows.append_column("identity_id", members["identity_id"]).sort_by("face_id")


def _size_classes(sizes: Sequence[int]) -> list[tuple[str, int]]:
    bars = []
    for low, high in _SIZE_CLASSES:
        label = str(low) if low == high else f"{low}–{high}" if high < 1 << 60 else f"{low}+"
        bars.append((label, sum(low <= size <= high for size in sizes)))
    while len(bars) > 1 and not bars[-1][1]:
        bars.pop()
    return bars


def _changes(gallery: Gallery | None) -> dict[str, int]:
    if gallery is None:
        return {}
    rows = gallery.read("changes", ["gallery_version", "kind"])
    return dict(Counter(rows.filter(pc.equal(rows["gallery_version"], gallery.version))["kind"].to_pylist()))


def _stages(newest: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    lines = []
    for stage, row in newest.items():
        if row:
            counts = {k: v for k, v in json.loads(row["counts"]).items() if isinstance(v, int) and v}
            lines.append((stage, float(row["seconds"]), ", ".join(f"{k} {v}" for k, v in list(counts.items())[:4])))
    return lines


def _warnings(context: Context, read: int, refused: Counter[str], rejected: Counter[str]) -> list[str]:
    said = []
    if read and refused.total() > read / 2:
        said.append("More than half of the photos were refused: see `facelake ledger list`.")
    if refused.get("no_basis"):
        said.append(f"{refused['no_basis']} photos have no recorded legal basis and were not opened.")
    if rejected.get("worker_died"):
        said.append(
            f"{rejected['worker_died']} photos killed the worker that decoded them; look at them apart from the rest."
        )
    lineage = context.pack.card.withdrawn_lineage if context.pack else []
    if lineage:
        said.append(f"The model is said to descend from withdrawn data sets: {', '.join(lineage)} (see its card).")
    return said


def _similarities(joined: pa.Table | None) -> tuple[list[int], list[int], str]:
    """Histograms within identities and between different ones, from sampled pairs."""
    empty = [0] * _BINS
    if joined is None or joined.num_rows < 2:
        return empty, empty, "Too few faces to compare."
    vectors, _ = embedding_matrix(joined["embedding"])
    labels = np.unique(joined["identity_id"].to_pylist(), return_inverse=True)[1]
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, len(labels), (2, _SAMPLED_PAIRS))
    apart = labels[a] != labels[b]
    near_a, near_b = _within_pairs(labels, generator)
    within, different = _bins(vectors, near_a, near_b), _bins(vectors, a[apart], b[apart])
    pairs = f"{len(near_a):,} pairs within identities and {int(apart.sum()):,} of different ones"
    note = f"{pairs}, sampled; each scaled to its peak."
    return within, different, note


def _within_pairs(labels: I64, generator: np.random.Generator) -> tuple[I64, I64]:
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    sizes = np.bincount(labels)
    large = np.flatnonzero(sizes > 1)
    if not len(large):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    chosen = generator.choice(large, min(_SAMPLED_PAIRS, 50 * len(labels)), p=sizes[large] / sizes[large].sum())
    first = generator.integers(0, sizes[chosen])
    second = (first + 1 + generator.integers(0, sizes[chosen] - 1)) % sizes[chosen]
    return order[starts[chosen] + first], order[starts[chosen] + second]


def _bins(vectors: F32, a: I64, b: I64) -> list[int]:
    similarity = np.einsum("ij,ij->i", vectors[a], vectors[b])
    return [int(v) for v in np.histogram(np.clip(similarity, _LOW, _HIGH), _BINS, (_LOW, _HIGH))[0]]


def _sheets(context: Context, joined: pa.Table, active: pa.Table) -> list[Sheet]:
    settings = context.config.report
    corpus = Corpus(context.config.corpus_uri, context.config.s3)
    largest = active.sort_by([("size", "descending"), ("identity_id", "ascending")]).slice(0, settings.max_identities)
    sheets = []
    for row in largest.select(["identity_id", "size", "cohesion"]).to_pylist():
        faces = joined.filter(pc.equal(joined["identity_id"], row["identity_id"]))
        faces = faces.sort_by([("quality", "descending"), ("face_id", "ascending")]).slice(
            0, settings.faces_per_identity
        )
        crops = (_crop(corpus, face) for face in faces.to_pylist())
        sheets.append(Sheet(row["identity_id"], row["size"], row["cohesion"] or 0.0, tuple(c for c in crops if c)))
    return sheets


def _crop(corpus: Corpus, face: Mapping[str, Any]) -> bytes | None:
    """A JPEG of one face out of the corpus; None when the photo cannot be had any more."""
    try:
        photo = decode(corpus.image(face["corpus_file"], face["corpus_row"]), DecodeLimits())
    except (FacelakeError, StopIteration):
        return None
    if not isinstance(photo, Photo):
        return None
    shrink = photo.pixels.shape[1] / photo.width
    x0, y0, x1, y1 = (value * shrink for value in face["box"])
    half = 0.65 * max(x1 - x0, y1 - y0)
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    box = tuple(round(v) for v in (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half))
    image = Image.fromarray(photo.pixels).crop(box).resize((_CROP_PX, _CROP_PX), Image.Resampling.BILINEAR)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=80)
    return sink.getvalue()
