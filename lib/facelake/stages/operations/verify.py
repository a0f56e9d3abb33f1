"""The command `verify`: checks the lake for consistency of counters, files, ids, vectors and the audit chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.contracts import TABLES
from facelake.erase import Needles
from facelake.errors import ConfigError, FacelakeError
from facelake.events import StageProgress
from facelake.lake.corpus import Corpus
from facelake.lake.store import read_input
from facelake.stages.core.audit import audit_faults
from facelake.stages.core.context import Context, StageRun
from facelake.stages.embedding.embed import plan_embed
from facelake.stages.erasure.stage import residual
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.vectors import embedding_matrix


@dataclass(frozen=True, slots=True)
class Finding:
    """One inconsistency and the check that reported it."""

    check: str
    problem: str


def verify(context: Context, only: str | None = None) -> tuple[list[Finding], dict[str, int]]:
    """Run every check, or the one named `only`; returns the findings (empty if consistent) and counts. Writes
    nothing.
    """
    checks = {name: check for name, check in _CHECKS.items() if only in (None, name)}
    run = StageRun(context, "verify", len(checks), "checks")
    findings: list[Finding] = []
    counts: dict[str, int] = {}
    for done, (name, check) in enumerate(checks.items(), start=1):
        try:
            findings += [Finding(name, problem) for problem in check(context, counts)]
        except FacelakeError as err:
            findings.append(Finding(name, str(err)))
        context.emit(StageProgress("verify", done))
    run.skip(counts | {"findings": len(findings)})
    return findings, counts


def verify_residual(context: Context, texts: list[str]) -> tuple[int, dict[str, int]]:
    """Search every byte of the lake for identifiers; returns the number of objects scanned and the hits by key."""
    return residual(context, Needles.of(texts))


def _files(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """Every data file that a log names exists with the size and row count of the log."""

    for name in TABLES:
        stored = {item.key: item.size_bytes for item in context.lake.store.list(name)}
        snapshot = context.lake[name].snapshot()
        counts[f"rows_{name}"] = snapshot.rows
        for file in snapshot.files:
            key = f"{name}/{file.path}"
            if key not in stored:
                yield f"{key} is named by the log but missing"
            elif stored[key] != file.size_bytes:
                yield f"{key} has {stored[key]} bytes, the log says {file.size_bytes}"
            else:
                with read_input(context.lake.store, key) as source:
                    rows = pq.ParquetFile(source).metadata.num_rows
                if rows != file.rows:
                    yield f"{key} has {rows} rows, the log says {file.rows}"


def _admissions(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """read = admitted + refused, and each corpus row has exactly one decision."""
    decided: Counter[str] = Counter()
    admitted = 0
    for _, rows in context.lake["admissions"].parts(["corpus_file", "corpus_row", "admitted", "reason"]):
        decided.update({rows["corpus_file"][0].as_py(): rows.num_rows} if rows.num_rows else {})
        admitted += pc.sum(rows["admitted"]).as_py() or 0
        wrong = pc.sum(pc.equal(rows["admitted"], pc.is_valid(rows["reason"]))).as_py() or 0
        if wrong:
            yield f"{wrong} rows of {rows['corpus_file'][0].as_py()} are admitted with a reason or refused without one"
        if pc.count_distinct(rows["corpus_row"]).as_py() != rows.num_rows:
            yield f"{rows['corpus_file'][0].as_py()} has a row with two decisions"
    counts["admitted"], counts["refused"] = admitted, decided.total() - admitted
    corpus = Corpus(context.config.corpus_uri, context.config.s3)
    try:
        present = {path: corpus.inspect(path).rows for path in corpus.paths()}
    except ConfigError as err:
        if decided:
            yield f"the corpus cannot be compared: {err.what}"
        return
    counts["waiting"] = sum(rows for path, rows in present.items() if path not in decided)
    for path, rows in decided.items():
        if present.get(path, rows) != rows:
            yield f"{path} has {present[path]} rows, {rows} were decided (a corpus file must not change)"


def _outcomes(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """admitted = embedded + rejected; no image has two outcomes, and no refused image has one."""
    seen: dict[str, set[tuple[str, int]]] = {}
    for name in ("faces", "rejects"):
        rows = context.lake[name].read(["corpus_file", "corpus_row"])
        pairs = list(zip(rows["corpus_file"].to_pylist(), rows["corpus_row"].to_pylist(), strict=True))
        seen[name] = set(pairs)
        if name == "rejects" and len(pairs) != len(seen[name]):
            yield f"{len(pairs) - len(seen[name])} images are rejected twice"
    both = seen["faces"] & seen["rejects"]
    if both:
        yield f"{len(both)} images have faces and a reject row, e.g. {min(both)}"
    admitted: set[tuple[str, int]] = set()
    for _, rows in context.lake["admissions"].parts(["corpus_file", "corpus_row", "admitted"]):
        rows = rows.filter(rows["admitted"])
        admitted.update(zip(rows["corpus_file"].to_pylist(), rows["corpus_row"].to_pylist(), strict=True))
    counts["embedded"], counts["rejected"] = len(seen["faces"]), len(seen["rejects"])
    outcomes = seen["faces"] | seen["rejects"]
    if outcomes - admitted:
        yield f"{len(outcomes - admitted)} images have an outcome but are not admitted, e.g. {min(outcomes - admitted)}"
    if admitted - outcomes:
        yield f"{len(admitted - outcomes)} admitted images have no outcome (run `facelake nightly`)"
    plan = plan_embed(context)
    if plan.images and not admitted - outcomes:
        yield f"{plan.images} images have outcomes of another model only (run `facelake nightly`)"


def _faces(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """Face ids are unique; embeddings are finite and of unit norm; boxes have an area."""
    ids: list[pa.ChunkedArray] = []
    bad_vectors = bad_boxes = 0
    for _, rows in context.lake["faces"].parts(["face_id", "embedding", "box"]):
        ids += rows["face_id"].chunks
        bad_vectors += int((~embedding_matrix(rows["embedding"])[1]).sum())
        boxes = np.array(rows["box"].to_pylist(), np.float32).reshape(-1, 4)
        bad_boxes += int((~((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))).sum())
    face_ids = pa.chunked_array(ids, pa.string())
    counts["faces"] = len(face_ids)
    repeated = len(face_ids) - pc.count_distinct(face_ids).as_py()
    if repeated:
        yield f"{repeated} face ids occur twice"
    if bad_vectors:
        yield f"{bad_vectors} embeddings are not finite unit vectors"
    if bad_boxes:
        yield f"{bad_boxes} boxes have no area"


def _chain(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """faces = grouped = members; sizes agree; every referenced identity exists."""
    faces = set(context.lake["faces"].read(["face_id"])["face_id"].to_pylist())
    grouped = context.lake["groups"].read(["face_id"])["face_id"].to_pylist()
    gallery = current_gallery(context.lake)
    if context.lake["groups"].version() >= 0:
        yield from _same("groups", grouped, "faces", faces)
    if gallery is not None:
        members = gallery.read("memberships", ["face_id", "identity_id"])
        yield from _same("memberships", members["face_id"].to_pylist(), "groups", set(grouped))
        yield from _gallery(gallery, members, counts)


def _same(left_name: str, left: list[str], right_name: str, right: set[str]) -> Iterator[str]:
    if len(left) != len(set(left)):
        yield f"{left_name} contains {len(left) - len(set(left))} faces twice"
    if set(left) - right:
        yield f"{left_name} names {len(set(left) - right)} faces that {right_name} lacks, e.g. {min(set(left) - right)}"
    if right - set(left):
        yield f"{right_name} has {len(right - set(left))} faces that {left_name} lacks (run `facelake nightly`)"


def _gallery(gallery: Gallery, members: pa.Table, counts: dict[str, int]) -> Iterator[str]:
    identities = {row["identity_id"]: row for row in gallery.read("identities").to_pylist()}
    active = {name: row for name, row in identities.items() if row["status"] == "active"}
    counts["identities"], counts["gallery"] = len(active), gallery.version
    sizes = Counter(members["identity_id"].to_pylist())
    if set(sizes) - set(active):
        yield f"{len(set(sizes) - set(active))} memberships name an identity that is not active"
    wrong = [name for name, row in active.items() if row["size"] != sizes[name]]
    if wrong:
        yield f"{len(wrong)} identities have a size that differs from their members, e.g. {min(wrong)}"
    norms = [np.linalg.norm(row["prototype"]) for row in active.values()]
    if any(not abs(norm - 1) < 1e-3 for norm in norms):
        yield "a template is not a finite unit vector"
    for name, row in identities.items():
        if row["merged_into"] and row["merged_into"] not in identities:
            yield f"{name} was merged into an identity that does not exist"
    events = gallery.read("changes", ["gallery_version", "identity_id"])
    repeated = events.num_rows - events.group_by(events.column_names).aggregate([]).num_rows
    if repeated:
        yield f"{repeated} change events are recorded twice"
    changed = set(events["identity_id"].to_pylist())
    if changed - set(identities):
        yield f"{len(changed - set(identities))} change events name an identity that does not exist"
    if (gallery.row["identities"], gallery.row["faces"]) != (len(active), members.num_rows):
        yield "the gallery's recorded counts differ from its tables"


def _audit(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """The hash chain of the audit records is intact."""
    yield from audit_faults(context.lake)


_CHECKS: dict[str, Callable[[Context, dict[str, int]], Iterator[str]]] = {
    "files": _files,
    "admissions": _admissions,
    "outcomes": _outcomes,
    "faces": _faces,
    "chain": _chain,
    "audit": _audit,
}
